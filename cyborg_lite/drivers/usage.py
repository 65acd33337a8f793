# SPDX-License-Identifier: Apache-2.0
"""What the host itself, or a guest, does with a function now: display, network, disks, vfio.

Reads sysfs and proc only, as an ordinary user can; nothing is opened that tells a device about it.
Each question is answered by None, or by the reason why the function is in use or may be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from cyborg_lite.drivers import sysfs

UNTOLD = "can't be told"
"""Part of every answer that is no knowledge; what can't be judged is not offered."""

MAX_PROC_TEXT = 4 * 1024 * 1024

_IFF_UP = 1
_BLOCK = "class/block"
_PATH_OF_NAMESPACE = re.compile(r"nvme(\d+)c\d+n(\d+)")
_UNREADABLE = f"whether its disks are mounted {UNTOLD}: no mount table can be read"


class HostUse:
    """Uses of one host; remembers what it read for as long as its sysfs reader does.

    proc_root: where procfs is mounted, or a recorded tree: `1/mountinfo` or `self/mountinfo`, else
        `mounts`; `swaps`; `cmdline`.
    """

    def __init__(self, reader: sysfs.Sysfs, proc_root: str = "/proc") -> None:
        self.reader = reader
        self._proc_root = proc_root
        self._pass: int | None = None
        self._mounted: _Mounts | None = None
        self._disks: dict[str, str] | None = None

    def fresh(self) -> HostUse:
        """Return another that remembers nothing, for work beside the discovery."""
        return HostUse(self.reader.fresh(), self._proc_root)

    def of(self, function: sysfs.PciFunction) -> str | None:
        """Return why the host uses the function: as its display, network or disk."""
        return (self.of_display(function) or self.of_interfaces(function)
                or self.of_disks(function))

    # --- display --------------------------------------------------------------------------

    def of_display(self, function: sysfs.PciFunction) -> str | None:
        """Return why the console is on it: boot_vga, or a framebuffer; stubs have none."""
        if sysfs.is_vfio(function.driver) or function.driver in ("pci-stub", "xen-pciback"):
            return None
        # the firmware's framebuffer shows the console without any driver
        if "boot_vga" in function.entries and self.reader.number(
                f"{function.path}/boot_vga") != 0:
            return "it is the display of the host (boot_vga)"
        for name in ("graphics", *self._below(function, "drm")):
            if any(each.startswith("fb") for each in
                   self.reader.names(f"{function.path}/{name}")):
                return "it has a framebuffer of the host"
        return None

    def _below(self, function: sysfs.PciFunction, directory: str) -> Iterator[str]:
        if directory in function.entries:
            for name in self.reader.names(f"{function.path}/{directory}"):
                if name.startswith("card"):
                    yield f"{directory}/{name}/graphics"

    # --- network --------------------------------------------------------------------------

    def of_interfaces(self, function: sysfs.PciFunction) -> str | None:
        """Return why one of its network interfaces is used: up, or part of a bridge or bond."""
        for place in self._interfaces(function):
            interface = place.rpartition("/")[2]
            flags = self.reader.number(f"{place}/flags")
            if flags is None:
                return f"whether its interface {interface} is in use {UNTOLD}"
            if flags & _IFF_UP:
                return f"its interface {interface} is up"
            if any(name == "master" or name.startswith("upper_")
                   for name in self.reader.names(place)):
                return f"its interface {interface} is part of a bridge or bond"
        return None

    def _interfaces(self, function: sysfs.PciFunction) -> Iterator[str]:
        below = [name for name in sorted(function.entries) if re.fullmatch(r"virtio[0-9]+", name)]
        directories = [*(["net"] if "net" in function.entries else []),
                       *(f"{name}/net" for name in below)]
        for directory in directories:
            for interface in self.reader.names(f"{function.path}/{directory}"):
                yield f"{function.path}/{directory}/{interface}"

    # --- disks ----------------------------------------------------------------------------

    def of_disks(self, function: sysfs.PciFunction) -> str | None:
        """Return why one of the disks behind the function is used, or why that can't be told."""
        if function.class_code.startswith("01") and not self.reader.names(_BLOCK):
            return f"whether its disks are in use {UNTOLD}: there is no {_BLOCK}"
        return next(filter(None, map(self.of_disk, self.disks_of(function))), None)

    def disks_of(self, function: sysfs.PciFunction) -> tuple[str, ...]:
        """Return the names of the whole disks behind the function, such as `nvme0n1`.

        An NVMe namespace with several paths is named as the host uses it, not by a path.
        """
        self._refresh()
        disks = self._all_disks()
        names = {name for name, path in disks.items() if path.startswith(f"{function.path}/")
                 and not _PATH_OF_NAMESPACE.fullmatch(name)}
        # one that class/block doesn't list is known by the controller's directory alone
        if "nvme" in function.entries:
            for controller in self.reader.names(f"{function.path}/nvme"):
                for name in self.reader.names(f"{function.path}/nvme/{controller}"):
                    if match := _PATH_OF_NAMESPACE.fullmatch(name):
                        names.add(f"nvme{match[1]}n{match[2]}")
                    elif re.fullmatch(r"nvme\d+n\d+", name):
                        names.add(name)
        return tuple(sorted(names))

    def of_disk(self, name: str) -> str | None:
        """Return why a whole disk is used: mounted, swap, held, root; or why that can't be told."""
        self._refresh()
        place = self.reader.resolve(f"{_BLOCK}/{name}")
        if place is None:
            return f"whether its disk {name} is in use {UNTOLD}: {_BLOCK} doesn't list it"
        mounts = self._mounts()
        if mounts is None:
            return _UNREADABLE
        for part in (name, *self.partitions_of(name)):
            where = place if part == name else f"{place}/{part}"
            reason = self._of_block(part, where, mounts)
            if reason:
                return reason
        return None

    def partitions_of(self, name: str) -> tuple[str, ...]:
        """Return the names of the disk's partitions, used or not."""
        place = f"{_BLOCK}/{name}"
        return tuple(each for each in self.reader.names(place)
                     if each.startswith(name) and "partition" in self.reader.names(
                         f"{place}/{each}"))

    def _of_block(self, name: str, place: str, mounts: _Mounts) -> str | None:
        number = self.reader.text(f"{place}/dev")
        if number is None:
            return f"whether its disk {name} is in use {UNTOLD}: it has no device number"
        point = mounts.by_number.get(number) or mounts.by_name.get(name)
        if point:
            return f"its disk {name} is mounted at {point}"
        if name in mounts.swaps:
            return f"its disk {name} is swap space"
        holders = self.reader.names(f"{place}/holders")
        if holders:
            return f"its disk {name} is held by {', '.join(holders)}"
        if name == mounts.root:
            return f"its disk {name} has the root file system"
        for kind in self._file_systems():
            if name in self.reader.names(f"fs/{kind}"):
                return f"its disk {name} has a {kind} file system in use"
        return None

    def _file_systems(self) -> tuple[str, ...]:
        return tuple(kind for kind in ("ext4", "xfs", "f2fs") if kind in self.reader.names("fs"))

    def _all_disks(self) -> dict[str, str]:
        if self._disks is None:
            resolved = ((name, self.reader.link(f"{_BLOCK}/{name}"))
                        for name in self.reader.names(_BLOCK))
            found = {name: path for name, path in resolved if path}
            # a partition's directory is below its disk's
            self._disks = {name: path for name, path in found.items()
                           if path.rpartition("/")[0].rpartition("/")[2] not in found}
        return self._disks

    def _mounts(self) -> _Mounts | None:
        if self._mounted is None:
            self._mounted = _mounts(self._proc_root)
        return self._mounted

    def _refresh(self) -> None:
        if self._pass != self.reader.passes:
            self._pass, self._mounted, self._disks = self.reader.passes, None, None

    # --- guests ---------------------------------------------------------------------------

    def of_guest(self, function: sysfs.PciFunction) -> str | None:
        """Return why a guest, or whoever opened it through vfio, uses the function.

        A vfio driver enables a function when it is opened and disables it when it is closed.
        That is no reason to report it no more: it may be a guest of ours.
        """
        if not sysfs.is_vfio(function.driver):
            return None
        count = self.reader.number(f"{function.path}/enable")
        if count is None:
            return f"whether a guest has {function.address} {UNTOLD}"
        return f"{function.address} is open through vfio: a guest has it" if count else None


class _Mounts:
    """What is mounted where, by the number and by the name of the block device."""

    def __init__(self) -> None:
        self.by_number: dict[str, str] = {}
        self.by_name: dict[str, str] = {}
        self.swaps: set[str] = set()
        self.root: str | None = None


def _mounts(root: str) -> _Mounts | None:
    """Read the mount tables; None when none can be read."""
    found = _Mounts()
    seen = False
    # our own may hide what the host has mounted, when the agent runs in a container
    for process in ("1", "self"):
        text = _proc_text(root, f"{process}/mountinfo")
        for line in (text or "").splitlines():
            seen = True
            left, _, right = line.partition(" - ")
            fields, source = left.split(" "), right.split(" ")[1:2]
            if len(fields) > 4:
                _note(found, fields[4], fields[2], source[0] if source else "")
    if not seen:
        text = _proc_text(root, "mounts")
        for line in (text or "").splitlines():
            seen = True
            device, _, rest = line.partition(" ")
            _note(found, rest.split(" ")[0], None, device)
    for line in (_proc_text(root, "swaps") or "").splitlines()[1:]:
        found.swaps.add(_device_name(line.split(" ")[0].split("\t")[0]) or "")
    match = re.search(r"(?:^|\s)root=/dev/(\S+)", _proc_text(root, "cmdline") or "")
    found.root = match[1] if match else None
    return found if seen else None


def _note(found: _Mounts, point: str, number: str | None, source: str) -> None:
    if number:
        found.by_number.setdefault(number, point)
    name = _device_name(source)
    # a file system of several devices has a number that is no device's
    if name:
        found.by_name.setdefault(name, point)


def _device_name(path: str) -> str | None:
    return path.removeprefix("/dev/") if path.startswith("/dev/") else None


def _proc_text(root: str, name: str) -> str | None:
    try:
        with open(os.path.join(root, name), "rb") as stream:
            return stream.read(MAX_PROC_TEXT).decode("utf-8", "replace")
    except OSError:
        return None
