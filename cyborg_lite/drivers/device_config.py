# SPDX-License-Identifier: Apache-2.0
"""What the operator's device files say to one driver: which functions, offered how.

Data and matching only: the files are read, and every value is checked, in `device_files.py`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

from cyborg_lite.drivers import sysfs

OFFERS = ("whole", "vf", "vgpu", "mig", "none")
KEYS = frozenset({"offer", "num_vfs", "vgpu_type", "resource_class", "traits", "physical_network",
                  "clean", "driver_override"})
CLEANS = ("none", "reset", "format", "format-crypto", "sanitize")

NEVER = "its device file says that it is never offered (offer: none)"
"""The reason of a driver that withholds such a function."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a function must look like. All that is given must match; texts are lower-case globs.

    address: a PCI address, or the name of a parent of mediated devices that is none.
    class_code: six hex digits, as in `sysfs.PciFunction`.
    """

    address: str | None = None
    vendor_id: str | None = None
    product_id: str | None = None
    class_code: str | None = None
    numa_node: int | None = None

    def means(self, function: sysfs.PciFunction) -> bool:
        """Say whether the function is meant."""
        return (self._numa(function.numa_node) and _like(self.address, function.address)
                and _like(self.vendor_id, function.vendor)
                and _like(self.product_id, function.product)
                and _like(self.class_code, function.class_code))

    def means_name(self, name: str) -> bool:
        """Say whether what is no PCI function, such as `mtty`, is meant: by address alone."""
        others = (self.vendor_id, self.product_id, self.class_code, self.numa_node)
        return others == (None,) * 4 and _like(self.address, name.lower())

    def _numa(self, node: int | None) -> bool:
        return self.numa_node is None or self.numa_node == node

    def __str__(self) -> str:
        given = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return " ".join(f"{name}={value}" for name, value in given if value is not None)


def _like(pattern: str | None, text: str) -> bool:
    return pattern is None or fnmatch.fnmatchcase(text, pattern)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a device file; what is None was not given, and the driver's default holds.

    offer: one of OFFERS. clean: one of CLEANS.
    num_vfs: wanted number of virtual functions.
    vgpu_type: id, full name or short name of a type of mediated device or vGPU.
    resource_class, traits: as Placement takes them.
    driver_override: the kernel driver that a function must be on while a guest has it.
    file, line: where it stands; places has `FILE, line L, column C` for each key that is given.
    """

    match: Match
    offer: str | None = None
    num_vfs: int | None = None
    vgpu_type: str | None = None
    resource_class: str | None = None
    traits: tuple[str, ...] = ()
    physical_network: str | None = None
    clean: str | None = None
    driver_override: str | None = None
    file: str = dataclasses.field(default="", compare=False)
    line: int = dataclasses.field(default=0, compare=False)
    places: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        given: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
            if field.compare and field.name != "match"}
        words = [f"{name}={','.join(value) if isinstance(value, tuple) else value}"
                 for name, value in given.items() if value not in (None, ())]
        return " ".join([f"({self.match})", *words])


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceConfig:
    """All entries for one driver, in the order in which they count.

    others: the entries for each other driver. A function that one of them says is never offered
        is offered by no driver, unless an entry of its own lets this one.
    """

    entries: tuple[Entry, ...] = ()
    others: tuple[tuple[Entry, ...], ...] = ()

    @property
    def moves_functions(self) -> bool:
        """Whether an entry has functions put on another kernel driver."""
        return any(entry.driver_override for entry in self.entries)

    def entry_for(self, function: sysfs.PciFunction) -> Entry | None:
        """Return the first entry that means the function; None when no entry does.

        Whoever gets one with `offer == "none"` neither touches the function nor reports it.
        """
        own = _first(self.entries, function)
        if own is not None:
            return own
        foreign = (_first(entries, function) for entries in self.others)
        return next((entry for entry in foreign if entry and entry.offer == "none"), None)

    def entry_behind(self, function: sysfs.PciFunction,
                     parent: sysfs.PciFunction | None) -> Entry | None:
        """Return the entry for a function; for a virtual one without, its parent's (offer: vf)."""
        entry = self.entry_for(function)
        if entry is None and function.is_virtual and parent is not None:
            entry = self.entry_for(parent)
            return entry if entry is not None and entry.offer == "vf" else None
        return entry

    def entry_for_name(self, name: str) -> Entry | None:
        """Return the first entry that means what is no PCI function, by its name."""
        return next((entry for entry in self.entries if entry.match.means_name(name)), None)

    def is_never_offered(self, function: sysfs.PciFunction) -> bool:
        """Say whether a device file keeps this driver away from the function."""
        entry = self.entry_for(function)
        return entry is not None and entry.offer == "none"


def _first(entries: tuple[Entry, ...], function: sysfs.PciFunction) -> Entry | None:
    return next((entry for entry in entries if entry.match.means(function)), None)
