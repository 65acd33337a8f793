# SPDX-License-Identifier: Apache-2.0
"""Cards that can hold mediated devices: their parents, types and what is left of them.

Reads only; which card is offered, and as what, is the drivers' business.

A card is one parent that holds many devices, or a physical function whose virtual functions are
parents of at most one device each. There each virtual function says 1 while the card has room, so
that their sum is more than the card holds.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping

from cyborg_lite import messages
from cyborg_lite.drivers import handle_records
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import vgpu_types

BUS = "class/mdev_bus"
LIVE = "bus/mdev/devices"
TYPES = "mdev_supported_types"
UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")

FOREIGN = "it has a mediated device that is not of this service"


@dataclasses.dataclass(frozen=True, slots=True)
class Parent:
    """One directory of class/mdev_bus.

    live: uuids of the mediated devices on it. card: whose capacity it shares, maybe its own.
    """

    name: str
    path: str
    live: frozenset[str]
    card: str
    function: sysfs.PciFunction | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """What shares one capacity. function: the physical function, None for a virtual parent."""

    address: str
    parents: tuple[Parent, ...]
    function: sysfs.PciFunction | None = None

    @property
    def is_split(self) -> bool:
        """Whether its virtual functions are the parents, of one device each."""
        return any(parent.card != parent.name for parent in self.parents)


def cards(reader: sysfs.Sysfs) -> list[Card]:
    """Return every card with a parent, PCI addresses first."""
    functions = {each.address: each for each in reader.pci_functions()}
    grouped: dict[str, list[Parent]] = {}
    for function in functions.values():
        if TYPES in function.entries:
            grouped.setdefault(function.physfn or function.address, []).append(of(function))
    found = [Card(address, tuple(parents), functions.get(address))
             for address, parents in grouped.items()]
    for name in reader.names(BUS):
        if name not in functions:
            path = reader.resolve(f"{BUS}/{name}")
            if path is not None:
                entries = frozenset(reader.names(path))
                found.append(Card(name, (Parent(name, path, _uuids(entries), name),)))
    return found


def of(function: sysfs.PciFunction) -> Parent:
    """Return the parent that a PCI function is."""
    return Parent(function.address, function.path, _uuids(function.entries),
                  function.physfn or function.address, function)


def find(reader: sysfs.Sysfs, name: str) -> Parent | None:
    """Return one parent by name, without reading any other function."""
    if not name or "/" in name:
        return None
    for place in (f"{sysfs.PCI_DEVICES}/{name}", f"{BUS}/{name}"):
        path = reader.resolve(place)
        if path is not None and TYPES in reader.names(path):
            physfn = reader.link(f"{path}/physfn")
            return Parent(name, path, _uuids(frozenset(reader.names(path))),
                          physfn.rpartition("/")[2] if physfn else name)
    return None


def _uuids(entries: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name in entries if UUID.fullmatch(name))


class Types:
    """Types as the parents of one pass show them; what an id means is read once a pass."""

    def __init__(self, reader: sysfs.Sysfs) -> None:
        self._reader = reader
        self._names: dict[str, str] = {}
        self._descriptions: dict[str, dict[str, int]] = {}

    def ids(self, parent: Parent) -> tuple[str, ...]:
        """Return the ids of the parent's types."""
        return self._reader.names(f"{parent.path}/{TYPES}")

    def name(self, parent: Parent, type_id: str) -> str:
        """Return the type's full name; its id where it has none."""
        if type_id not in self._names:
            text = self._reader.lone_text(f"{parent.path}/{TYPES}/{type_id}/name") or type_id
            self._names[type_id] = " ".join(text.split())
        return self._names[type_id]

    def numbers(self, parent: Parent, type_id: str) -> dict[str, int]:
        """Return what the type's description says in numbers."""
        if type_id not in self._descriptions:
            self._descriptions[type_id] = vgpu_types.parse_description(
                self._reader.lone_text(f"{parent.path}/{TYPES}/{type_id}/description"))
        return self._descriptions[type_id]

    def available(self, parent: Parent, type_id: str) -> int:
        """Return how many more the parent says that it can make."""
        text = self._reader.lone_text(f"{parent.path}/{TYPES}/{type_id}/available_instances")
        return int(text) if text and text.isascii() and text.isdigit() else 0

    def of_device(self, parent: Parent, uuid: str) -> str | None:
        """Return the type id of a mediated device."""
        target = self._reader.link(f"{parent.path}/{uuid}/mdev_type")
        return target.rpartition("/")[2] if target else None

    def find(self, parent: Parent, word: str) -> str | None:
        """Return the id of the type that a word means: its id, full name or short name."""
        ids = self.ids(parent)
        if word in ids:
            return word
        return next((each for each in ids
                     if vgpu_types.is_meant(word, each, self.name(parent, each))), None)

    def sensible(self, parent: Parent) -> str | None:
        """Return the type to take when nobody says which."""
        choice = vgpu_types.sensible(
            vgpu_types.Choice(each, self.name(parent, each), self._at_most(parent, each))
            for each in self.ids(parent))
        return choice.key if choice else None

    def _at_most(self, parent: Parent, type_id: str) -> int:
        return (self.numbers(parent, type_id).get("max_instance")
                or self.available(parent, type_id))

    def size_mib(self, parent: Parent, type_id: str) -> int:
        """Return the memory of one, as its name or its description says; 0 when neither does."""
        parts = vgpu_types.parse_name(self.name(parent, type_id))
        return (parts.memory_mib if parts
                else self.numbers(parent, type_id).get("framebuffer", 0))


@dataclasses.dataclass(frozen=True, slots=True)
class Wishes:
    """What a driver knows about a card that this module can't see.

    word: the type that the operator wants. max_handles: more are never reported.
    refuse: why a virtual function is not to be touched, or None.
    partitions: how many MIG-backed devices of a type the card could hold in all; None where
        nobody can tell.
    """

    word: str | None = None
    max_handles: int = 4096
    refuse: Callable[[sysfs.PciFunction], str | None] = lambda function: None
    partitions: Callable[[vgpu_types.TypeName], int | None] = lambda name: None


def offer(card: Card, wishes: Wishes, types: Types,
          records: Mapping[str, handle_records.Record]) -> handle_slots.Offer:
    """Return what the card can offer of the one type that it is used for.

    records: the driver's own. Raises NotOffered.
    """
    return _Judgement(card, wishes, types, records).offer()


class _Judgement:
    def __init__(self, card: Card, wishes: Wishes, types: Types,
                 records: Mapping[str, handle_records.Record]) -> None:
        self.card = card
        self.wishes = wishes
        self.types = types
        self.ours = {uuid: record for uuid, record in records.items()
                     if record.card == card.address}
        self.first = card.parents[0]
        self.live = {uuid: parent for parent in card.parents for uuid in parent.live}
        self.withheld: dict[str, str] = {}

    def offer(self) -> handle_slots.Offer:
        type_id = self._type()
        name = self.types.name(self.first, type_id)
        left, candidates = (self._split(type_id) if self.card.is_split
                            else self._whole(type_id))
        held = [record.info for record in self.ours.values()]
        total = min(len(self.live.keys() & self.ours.keys()) + left, self.wishes.max_handles)
        infos = handle_slots.chosen(held, candidates, total)
        self._withhold_others(infos)
        return handle_slots.Offer(
            type_id, name, [messages.ReportedHandle(type="MDEV", info=dict(info))
                            for info in infos], self.withheld,
            full=None if infos else f"no mediated device of type {type_id} ({name}) can be made "
                                    "on it now")

    def _type(self) -> str:
        """One type for a card: what is in use decides, then the operator, then others' use."""
        for record in self.ours.values():
            found = (self.types.find(self.first, record.name)
                     or self.types.find(self.first, record.type_id))
            if found is not None:
                return found
        if self.wishes.word is not None:
            found = self.types.find(self.first, self.wishes.word)
            if found is None:
                known = ", ".join(f"{each} ({self.types.name(self.first, each)})"
                                  for each in self.types.ids(self.first))
                raise handle_slots.NotOffered(
                    f"it has no type {self.wishes.word}; it has {known or 'none'}")
            return found
        for uuid in sorted(self.live):
            found = self.types.of_device(self.live[uuid], uuid)
            if found is not None:
                return found
        found = self.types.sensible(self.first)
        if found is None:
            raise handle_slots.NotOffered(
                "it has no type of mediated device that can be made now and is not for MIG "
                "partitions")
        return found

    # --- one parent, many devices -------------------------------------------------------------

    def _whole(self, type_id: str) -> tuple[int, Iterator[handle_slots.Info]]:
        return self.types.available(self.first, type_id), self._numbered(type_id)

    def _numbered(self, type_id: str) -> Iterator[handle_slots.Info]:
        where = (handle_slots.address_info(self.card.address) if self.first.function
                 else {"parent": self.card.address})
        for number in range(self.wishes.max_handles):
            yield where | {"asked_type": type_id, "vgpu_mark": f"{type_id}_{number}"}

    # --- many parents, one device each --------------------------------------------------------

    def _split(self, type_id: str) -> tuple[int, Iterator[handle_slots.Info]]:
        held = {record.parent for record in self.ours.values()}
        free: list[Parent] = []
        for parent in self.card.parents:
            if parent.live - self.ours.keys():
                self.withheld[parent.name] = FOREIGN
            elif parent.function is not None and parent.name not in held:
                reason = self._unusable(parent.function)
                if reason:
                    self.withheld[parent.name] = reason
                else:
                    free.append(parent)
        infos = (handle_slots.address_info(parent.name)
                 | {"asked_type": type_id, "vgpu_mark": f"{type_id}_0"} for parent in free)
        return min(len(free), self._left_on_card(type_id, free)), infos

    def _unusable(self, function: sysfs.PciFunction) -> str | None:
        if function.iommu_group is None:
            return "it has no IOMMU group, so no guest can have it"
        return self.wishes.refuse(function)

    def _left_on_card(self, type_id: str, free: list[Parent]) -> int:
        """One virtual function without a device speaks for all: each says 1 or 0 for the card."""
        if not free or not self.types.available(free[0], type_id):
            return 0
        return max(1, self._arithmetic(type_id))

    def _arithmetic(self, type_id: str) -> int:
        parts = vgpu_types.parse_name(self.types.name(self.first, type_id))
        there = [self.types.of_device(parent, uuid) or "" for uuid, parent in self.live.items()]
        if parts is not None and parts.slices is not None:
            return (self.wishes.partitions(parts) or 0) - there.count(type_id)
        at_most = self.types.numbers(self.first, type_id).get("max_instance")
        if at_most and all(each == type_id for each in there):
            return at_most - len(there)
        sizes = {each: self.types.size_mib(self.first, each)
                 for each in self.types.ids(self.first)}
        return vgpu_types.room(max(sizes.values(), default=0),
                               [sizes.get(each, 0) for each in there], sizes.get(type_id, 0))

    def _withhold_others(self, infos: list[handle_slots.Info]) -> None:
        if self.card.is_split:
            offered = {handle_slots.address_of(info) for info in infos}
            for parent in self.card.parents:
                if parent.name not in offered:
                    self.withheld.setdefault(
                        parent.name, "the other virtual functions hold all that fits on the card")
