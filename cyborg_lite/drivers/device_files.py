# SPDX-License-Identifier: Apache-2.0
"""Reads the device files of a directory: each value checked, each complaint with its place.

No driver and no device is known here; what the entries mean is in `device_config.py`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import NoReturn

import yaml

from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import placement_names
from cyborg_lite.drivers import sysfs

VERSION = "1"
MAX_BYTES = 1024 * 1024
MAX_VFS = 65535
MAX_NODE = 65535

_GLOB = re.compile(r"[*?\[]")
_TOP = ("version", "driver", "devices")


@dataclasses.dataclass(frozen=True, slots=True)
class BadFile:
    """A file that can't be used, and why, its place included.

    driver: whose file it is; None when not even that can be read.
    """

    path: str
    driver: str | None
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceFiles:
    """What all files of a directory say: the entries by driver, as the files name it."""

    entries: Mapping[str, tuple[device_config.Entry, ...]] = dataclasses.field(
        default_factory=dict)
    bad: tuple[BadFile, ...] = ()

    def of(self, names: Iterable[str]) -> device_config.DeviceConfig:
        """Return what concerns the driver that goes by these names."""
        own = tuple(names)
        return device_config.DeviceConfig(
            tuple(entry for name in own for entry in self.entries.get(name, ())),
            tuple(entries for name, entries in sorted(self.entries.items()) if name not in own))

    def complaint_about(self, names: Iterable[str]) -> str | None:
        """Return what is wrong with the files of the driver that goes by these names."""
        own = frozenset(names)
        return "; ".join(bad.text for bad in self.bad if bad.driver in own) or None


class _Wrong(Exception):
    """A complaint with its place."""


def read(directory: str, drivers: Collection[str] | None = None) -> DeviceFiles:
    """Read every `*.yaml` of the directory, in name order; one that isn't there has none.

    drivers: those that are installed, where a file for another is to be refused: nobody would
        ever read a file whose driver is misspelt.
    """
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".yaml"))
    except (FileNotFoundError, NotADirectoryError):
        return DeviceFiles()
    except OSError as error:
        return DeviceFiles(bad=(BadFile(directory, None, f"{directory}: {error.strerror}"),))
    entries: dict[str, tuple[device_config.Entry, ...]] = {}
    bad: list[BadFile] = []
    for name in names:
        path = os.path.join(directory, name)
        text = ""
        try:
            text = _text(path)
            driver, found = parse(text, path, drivers)
        except _Wrong as wrong:
            bad.append(BadFile(path, _named_driver(text), str(wrong)))
        else:
            entries[driver] = entries.get(driver, ()) + found
    return DeviceFiles(entries, tuple(bad))


def _text(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _Wrong(f"{path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise _Wrong(f"{path}: it is longer than {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[:error.start].decode("utf-8").split("\n")
        raise _Wrong(f"{path}: line {len(before)}, column {len(before[-1]) + 1}: this is no "
                     "UTF-8 text") from error


def _named_driver(text: str) -> str | None:
    """Return the driver that a file names which can't be used: it is the one to disable."""
    match = re.search(r"""^["']?driver["']?\s*:\s*["']?([^\s"'#]+)""", text, re.MULTILINE)
    return match[1] if match else None


def keeping(old: DeviceFiles, new: DeviceFiles, drivers: Iterable[str]) -> DeviceFiles:
    """Return the new files, with what the old ones said to these drivers."""
    kept = frozenset(drivers)
    entries = {name: found for name, found in new.entries.items() if name not in kept}
    entries |= {name: found for name, found in old.entries.items() if name in kept}
    return DeviceFiles(entries, tuple(bad for bad in new.bad if bad.driver not in kept))


def changes(old: DeviceFiles, new: DeviceFiles) -> list[str]:
    """Say in words what is different, one line an entry."""
    lines = []
    for driver in sorted(old.entries.keys() | new.entries.keys()):
        before, after = old.entries.get(driver, ()), new.entries.get(driver, ())
        lines += [f"device file of {driver}: gone: {entry} ({_place(entry)})"
                  for entry in before if entry not in after]
        lines += [f"device file of {driver}: new: {entry} ({_place(entry)})"
                  for entry in after if entry not in before]
        if before != after and set(map(str, before)) == set(map(str, after)):
            lines.append(f"device file of {driver}: the order of its entries")
    return lines


def _place(entry: device_config.Entry) -> str:
    return f"{entry.file}, line {entry.line}"


# --- one file ---------------------------------------------------------------------------------


def parse(text: str, path: str, drivers: Collection[str] | None = None,
          ) -> tuple[str, tuple[device_config.Entry, ...]]:
    """Return the driver that the file is for, and its entries. Raises with file, line, column."""
    return _File(path, drivers).read(text)


class _File:
    """One file on its way from text to entries; it knows its name for complaints."""

    def __init__(self, path: str, drivers: Collection[str] | None) -> None:
        self._path = path
        self._drivers = drivers

    def read(self, text: str) -> tuple[str, tuple[device_config.Entry, ...]]:
        top = self._mapping(self._compose(text), "a device file", _TOP)
        for key in _TOP:
            if key not in top:
                raise _Wrong(f"{self._path}: line 1, column 1: {key} is missing; a device file "
                             f"has {', '.join(_TOP)}")
        version = self._word(top["version"], "version")
        if version != VERSION:
            self._refuse(top["version"], f"version must be {VERSION}, found {version!r}")
        driver = self._word(top["driver"], "driver")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", driver):
            self._refuse(top["driver"], "driver must be the entry point name of a driver, found "
                                        f"{driver!r}")
        if self._drivers is not None and driver not in self._drivers:
            self._refuse(top["driver"], f"there is no driver {driver!r}; installed are "
                                        f"{', '.join(sorted(self._drivers)) or 'none'}")
        items = self._list(top["devices"], "devices")
        return driver, tuple(self._entry(item) for item in items)

    def _compose(self, text: str) -> yaml.Node:
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
            raise _Wrong(f"{self._path}: {where}it is no YAML: {error.problem or error}") from error
        except (yaml.YAMLError, RecursionError) as error:
            first = str(error).splitlines()[0]
            raise _Wrong(f"{self._path}: line 1, column 1: it is no YAML: {first}") from error
        if node is None:
            raise _Wrong(f"{self._path}: line 1, column 1: it is empty; a device file has "
                         f"{', '.join(_TOP)}")
        return node

    def _entry(self, node: yaml.Node) -> device_config.Entry:
        given = self._mapping(node, "an entry of devices", ("match", *sorted(device_config.KEYS)))
        if "match" not in given:
            self._refuse(node, "an entry must have match: which functions it means")
        values: dict[str, Any] = {
            key: _VALUES[key](self, value, key) for key, value in given.items() if key != "match"}
        if (values.get("num_vfs") and values.get("offer") in ("whole", "none")):
            self._refuse(given["num_vfs"], "num_vfs can't go with offer: "
                                           f"{values['offer']}; use offer: vf or leave it out")
        return device_config.Entry(
            match=self._match(given["match"]), file=os.path.basename(self._path),
            line=node.start_mark.line + 1,
            places={key: self._where(value) for key, value in given.items()}, **values)

    def _match(self, node: yaml.Node) -> device_config.Match:
        given = self._mapping(node, "match", tuple(_MATCHES))
        if not given:
            self._refuse(node, f"match must have at least one of {', '.join(_MATCHES)}; "
                               'address: "*" means every function')
        return device_config.Match(**{
            "class_code" if key == "class" else key: _MATCHES[key](self, value, key)
            for key, value in given.items()})

    # --- kinds of values ----------------------------------------------------------------------

    def number(self, node: yaml.Node, key: str, most: int) -> int:
        text = self._word(node, key)
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > most:
            self._refuse(node, f"{key} must be a number from 0 to {most}, found {text!r}")
        return int(text)

    def choice(self, node: yaml.Node, key: str, allowed: tuple[str, ...]) -> str:
        text = self._word(node, key)
        if text not in allowed:
            self._refuse(node, f"{key} must be one of {', '.join(allowed)}; found {text!r}")
        return text

    def text(self, node: yaml.Node, key: str) -> str:
        text = self._word(node, key)
        if len(text) > 255 or not text.isprintable():
            self._refuse(node, f"{key} must be up to 255 printable characters")
        return text

    def driver_name(self, node: yaml.Node, key: str) -> str:
        text = self._word(node, key)
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) or not sysfs.is_vfio(text):
            self._refuse(node, f"{key} must be vfio-pci or a vendor's variant of it, found "
                               f"{text!r}")
        return text

    def resource_class(self, node: yaml.Node, key: str) -> str:
        try:
            return placement_names.resource_class(self._word(node, key))
        except ValueError as error:
            self._refuse(node, f"{key} {error}")

    def traits(self, node: yaml.Node, key: str) -> tuple[str, ...]:
        found: set[str] = set()
        for item in self._list(node, key):
            try:
                found.update(placement_names.traits([self._word(item, key)]))
            except ValueError as error:
                self._refuse(item, f"{key} {error}")
        return tuple(sorted(found))

    def address(self, node: yaml.Node, key: str) -> str:
        text = self._word(node, key).lower()
        if ":" in text and not _GLOB.search(text) and not sysfs.ADDRESS.fullmatch(text):
            self._refuse(node, f"{key} must be a full address such as 0000:41:00.0, or a glob "
                               f"such as 0000:41:*; found {text!r}")
        return text

    def hex(self, node: yaml.Node, key: str, digits: int) -> str:
        text = self._word(node, key).lower().removeprefix("0x")
        plain = not _GLOB.search(text)
        if not re.fullmatch(r"[0-9a-f*?\[\]!-]+", text) or (plain and len(text) != digits):
            self._refuse(node, f"{key} must be {digits} hex digits, or a glob such as "
                               f"{'03*' if digits == 6 else '1*'}; found {text!r}")
        return text

    # --- nodes --------------------------------------------------------------------------------

    def _word(self, node: yaml.Node, key: str) -> str:
        """Return the text of a value as it was written: 0302 and 10e5 are no numbers here."""
        if not isinstance(node, yaml.ScalarNode):
            self._refuse(node, f"{key} must be one value, found a "
                               f"{'list' if isinstance(node, yaml.SequenceNode) else 'mapping'}")
        text = str(node.value).strip()
        if not text or (node.tag.endswith(":null") and node.style is None):
            self._refuse(node, f"{key} has no value")
        return text

    def _list(self, node: yaml.Node, key: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            self._refuse(node, f"{key} must be a list")
        return list(node.value)

    def _mapping(self, node: yaml.Node, what: str, allowed: tuple[str, ...]) -> dict[
            str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            self._refuse(node, f"{what} must be a mapping of {', '.join(allowed)}")
        found: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key not in allowed:
                self._refuse(key_node, f"{what} has no key {key!r}; allowed are "
                                       f"{', '.join(allowed)}")
            if key in found:
                self._refuse(key_node, f"{key} stands here twice")
            found[key] = value
        return found

    def _refuse(self, node: yaml.Node, text: str) -> NoReturn:
        raise _Wrong(f"{self._where(node)}: {text}")

    def _where(self, node: yaml.Node) -> str:
        mark = node.start_mark
        return f"{self._path}: line {mark.line + 1}, column {mark.column + 1}"


_MATCHES: Mapping[str, Callable[[_File, yaml.Node, str], Any]] = {
    "address": _File.address,
    "vendor_id": lambda file, node, key: file.hex(node, key, 4),
    "product_id": lambda file, node, key: file.hex(node, key, 4),
    "class": lambda file, node, key: file.hex(node, key, 6),
    "numa_node": lambda file, node, key: file.number(node, key, MAX_NODE),
}

_VALUES: Mapping[str, Callable[[_File, yaml.Node, str], Any]] = {
    "offer": lambda file, node, key: file.choice(node, key, device_config.OFFERS),
    "clean": lambda file, node, key: file.choice(node, key, device_config.CLEANS),
    "num_vfs": lambda file, node, key: file.number(node, key, MAX_VFS),
    "vgpu_type": _File.text,
    "physical_network": _File.text,
    "driver_override": _File.driver_name,
    "resource_class": _File.resource_class,
    "traits": _File.traits,
}
