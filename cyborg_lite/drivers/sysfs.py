# SPDX-License-Identifier: Apache-2.0
"""The one reader of sysfs, under a given root: each file at most once per discovery pass.

No writing, no vendor ids, no judgement here.

Every path is relative to the root, as in `bus/pci/devices`. Links are read and followed here, by
their text, not by the kernel: so a recorded tree and the real /sys read alike, and nothing
outside the root is ever opened.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Iterable

PCI_DEVICES = "bus/pci/devices"
MAX_TEXT = 65536
MAX_LINKS = 40

ADDRESS = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")
"""Domains have four hex digits, or more (Intel VMD)."""

_LINK, _DIRECTORY, _FILE, _OTHER = "link", "directory", "file", "other"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PciFunction:
    """One PCI function as the kernel shows it. Ids are lower-case hex digits without 0x.

    class_code: six digits: class, subclass, programming interface.
    iommu_group: None without an IOMMU; passthrough is impossible then.
    numa_node: None when the kernel doesn't know it. A virtual function has its parent's.
    physfn: address of the physical function, on virtual ones only.
    path: directory of the function, links resolved.
    entries: what is in that directory.
    """

    address: str
    vendor: str
    product: str
    class_code: str
    path: str
    entries: frozenset[str]
    subsystem_vendor: str = "0000"
    subsystem_product: str = "0000"
    driver: str | None = None
    iommu_group: int | None = None
    numa_node: int | None = None
    physfn: str | None = None
    total_vfs: int = 0
    num_vfs: int = 0

    @property
    def is_virtual(self) -> bool:
        return self.physfn is not None

    @property
    def is_bridge(self) -> bool:
        return self.class_code.startswith("06")


class Sysfs:
    """Reads what is below `root`; remembers it until `begin_pass`. Not for two threads at once.

    operations: files, links and directories opened in this pass. passes: how often it forgot.
    """

    def __init__(self, root: str = "/sys") -> None:
        self.root = os.path.realpath(root)
        self.operations = 0
        self.passes = 0
        self._forget()

    def _forget(self) -> None:
        self._listings: dict[str, dict[str, str]] = {}
        self._links: dict[str, str | None] = {}
        self._texts: dict[str, str | None] = {}
        self._functions: tuple[PciFunction, ...] | None = None

    def begin_pass(self) -> None:
        """Forget everything read so far: what is asked from now on is read again."""
        self.operations = 0
        self.passes += 1
        self._forget()

    def fresh(self) -> Sysfs:
        """Return another reader of the same root, that remembers nothing."""
        return Sysfs(self.root)

    # --- files, links, directories ------------------------------------------------------------

    def names(self, path: str) -> tuple[str, ...]:
        """Return the sorted names in a directory; empty when it can't be read."""
        directory = self.resolve(path)
        return () if directory is None else tuple(sorted(self._list(directory)))

    def text(self, path: str) -> str | None:
        """Return the stripped content of a file; None when it is absent or unreadable."""
        resolved = self.resolve(path)
        if resolved is None or self._kind(resolved) != _FILE:
            return None
        if resolved not in self._texts:
            self._texts[resolved] = self._read(resolved)
        return self._texts[resolved]

    def lone_text(self, path: str) -> str | None:
        """Return what `text` does; for a plain file whose directory nobody has to list.

        One operation instead of two, which counts for one file in each of hundreds of functions.
        """
        parent, _, name = path.rpartition("/")
        directory = self.resolve(parent)
        if directory is None or directory in self._listings:
            return self.text(path)
        here = _joined(directory, name)
        if here not in self._texts:
            self._texts[here] = self._read(here)
        return self._texts[here]

    def number(self, path: str) -> int | None:
        """Return the whole number in a file, decimal or with 0x; None when there is none."""
        return _number(self.text(path))

    def link(self, path: str) -> str | None:
        """Return where a link points, as a path below the root; None when it is no such link."""
        parent, _, name = path.rpartition("/")
        directory = self.resolve(parent)
        if directory is None:
            return None
        here = _joined(directory, name)
        if directory in self._listings and self._kind(here) != _LINK:
            return None
        target = self._readlink(here)
        return None if target is None else _lexical(directory, target)

    def resolve(self, path: str) -> str | None:
        """Return `path` with every link replaced; None when it leads nowhere or leaves the root."""
        current, pending, links = "", _parts(path), 0
        while pending:
            part = pending.pop(0)
            if part == "..":
                if not current:
                    return None
                current = current.rpartition("/")[0]
                continue
            here = _joined(current, part)
            kind = self._kind(here)
            if kind is None:
                return None
            if kind != _LINK:
                current = here
                continue
            target = self._readlink(here)
            links += 1
            if target is None or target.startswith("/") or links > MAX_LINKS:
                return None
            pending = _parts(target) + pending
        return current

    def _kind(self, path: str) -> str | None:
        """Tell what a path is, all but its last part being resolved; None when it is absent."""
        parent, _, name = path.rpartition("/")
        return self._list(parent).get(name)

    def _list(self, directory: str) -> dict[str, str]:
        if directory not in self._listings:
            self._listings[directory] = self._scan(directory)
        return self._listings[directory]

    def _scan(self, directory: str) -> dict[str, str]:
        self.operations += 1
        try:
            descriptor = os.open(os.path.join(self.root, directory),
                                 os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except (OSError, ValueError):
            return {}
        try:
            with os.scandir(descriptor) as entries:
                return {entry.name: _entry_kind(entry) for entry in entries}
        except OSError:
            return {}
        finally:
            os.close(descriptor)

    def _readlink(self, path: str) -> str | None:
        if path not in self._links:
            self.operations += 1
            try:
                self._links[path] = os.readlink(os.path.join(self.root, path))
            except OSError:
                self._links[path] = None
        return self._links[path]

    def _read(self, path: str) -> str | None:
        self.operations += 1
        try:
            descriptor = os.open(os.path.join(self.root, path),
                                 os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return os.read(descriptor, MAX_TEXT).decode("utf-8", "replace").strip("\0 \t\r\n")
        except OSError:
            return None
        finally:
            os.close(descriptor)

    # --- PCI ----------------------------------------------------------------------------------

    def pci_functions(self) -> tuple[PciFunction, ...]:
        """Return every PCI function, in address order; one that vanishes meanwhile is left out."""
        if self._functions is None:
            found: dict[str, PciFunction] = {}
            addresses = (name for name in self.names(PCI_DEVICES) if ADDRESS.fullmatch(name))
            for address in sorted(addresses, key=address_key):
                function = self._function(address)
                if function is not None:
                    found[address] = function
            self._functions = tuple(_with_parents_node(found))
        return self._functions

    def pci_function(self, address: str) -> PciFunction | None:
        """Return the function of this address; None when there is none."""
        return next((each for each in self.pci_functions() if each.address == address), None)

    def _function(self, address: str) -> PciFunction | None:
        path = self.resolve(f"{PCI_DEVICES}/{address}")
        if path is None:
            return None
        entries = self._list(path)
        # one file instead of six: a host may have hundreds of functions
        event = _pairs(self.text(f"{path}/uevent"))
        vendor, product = self._ids(path, event.get("PCI_ID"), "vendor", "device")
        if vendor is None or product is None:
            return None
        sub_vendor, sub_product = self._ids(
            path, event.get("PCI_SUBSYS_ID"), "subsystem_vendor", "subsystem_device")
        physfn = _last(self.link(f"{path}/physfn"))
        node = None if physfn else self.number(f"{path}/numa_node")
        return PciFunction(
            address=address, vendor=vendor, product=product, path=path,
            class_code=self._class_code(path, event.get("PCI_CLASS")),
            entries=frozenset(entries),
            subsystem_vendor=sub_vendor or "0000", subsystem_product=sub_product or "0000",
            driver=event.get("DRIVER") or _last(self.link(f"{path}/driver")),
            iommu_group=_number(_last(self.link(f"{path}/iommu_group"))),
            numa_node=node if node is not None and node >= 0 else None,
            physfn=physfn,
            total_vfs=max(0, self.number(f"{path}/sriov_totalvfs") or 0),
            num_vfs=max(0, self.number(f"{path}/sriov_numvfs") or 0))

    def _ids(self, path: str, pair: str | None, first: str,
             second: str) -> tuple[str | None, str | None]:
        left, colon, right = (pair or "").lower().partition(":")
        if colon and _is_hex(left, 4) and _is_hex(right, 4):
            return left, right
        return (_hex(self.number(f"{path}/{first}"), 4), _hex(self.number(f"{path}/{second}"), 4))

    def _class_code(self, path: str, value: str | None) -> str:
        if value and re.fullmatch(r"[0-9A-Fa-f]{1,6}", value):
            return value.lower().rjust(6, "0")
        return _hex(self.number(f"{path}/class"), 6) or "000000"


def is_vfio(driver: str | None) -> bool:
    """Say whether this driver hands its functions to guests, vfio-pci or a vendor's variant."""
    return driver is not None and driver.endswith(("vfio-pci", "vfio_pci"))


def address_key(address: str) -> tuple[int, ...]:
    """Return what sorts addresses as numbers; ValueError for text that is no address."""
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"{address!r} is no PCI address")
    return tuple(int(part, 16) for part in match.groups())


def _with_parents_node(found: dict[str, PciFunction]) -> Iterable[PciFunction]:
    for function in found.values():
        parent = found.get(function.physfn) if function.physfn else None
        yield (dataclasses.replace(function, numa_node=parent.numa_node) if parent else function)


def _entry_kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return _LINK
    if entry.is_dir(follow_symlinks=False):
        return _DIRECTORY
    return _FILE if entry.is_file(follow_symlinks=False) else _OTHER


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _joined(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _lexical(directory: str, target: str) -> str | None:
    if target.startswith("/"):
        return None
    path = os.path.normpath(os.path.join(directory, target))
    return None if path == ".." or path.startswith("../") else path


def _last(path: str | None) -> str | None:
    return path.rpartition("/")[2] if path else None


def _pairs(text: str | None) -> dict[str, str]:
    pairs = (line.partition("=") for line in (text or "").splitlines())
    return {key: value for key, _, value in pairs}


def _number(text: str | None) -> int | None:
    if text is None or not re.fullmatch(r"-?(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})", text):
        return None
    return int(text, 16 if "x" in text.lower() else 10)


def _is_hex(text: str, digits: int) -> bool:
    return re.fullmatch(rf"[0-9a-f]{{{digits}}}", text) is not None


def _hex(number: int | None, digits: int) -> str | None:
    if number is None or not 0 <= number < 16 ** digits:
        return None
    return format(number, f"0{digits}x")
