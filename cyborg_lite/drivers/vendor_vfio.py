# SPDX-License-Identifier: Apache-2.0
"""vGPUs on virtual functions of NVIDIA's VFIO framework: a type is written, no device is made.

What is offered; the host work is in `vendor_vfio_work.py`. The function stays with the nvidia
driver, and a guest gets it as it is: who attaches it must not take it from that driver (libvirt:
managed='no').
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping

from cyborg_lite import messages
from cyborg_lite.drivers import handle_records
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import mdev_cards
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import vgpu_types

CREATABLE = "nvidia/creatable_vgpu_types"
CURRENT = "nvidia/current_vgpu_type"


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """A physical function and its virtual functions, in address order."""

    function: sysfs.PciFunction
    virtual: tuple[sysfs.PciFunction, ...]

    @property
    def address(self) -> str:
        return self.function.address


class Catalogue:
    """What was seen of types and cards since the agent began: a full card doesn't tell any more.

    names: full names by id. memory_mib: of a card, by its address.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.memory_mib: dict[str, int] = {}

    def learn(self, address: str, names: Mapping[int, str], memory_mib: int = 0) -> None:
        """Note the types that a card names; its largest time-sliced one is the whole card.

        memory_mib: what was learned of it at another time.
        """
        self.names.update({number: name for number, name in names.items() if name})
        parts = map(vgpu_types.parse_name, names.values())
        largest = max((each.memory_mib for each in parts if each and each.slices is None),
                      default=0)
        self.memory_mib[address] = max(self.memory_mib.get(address, 0), largest, memory_mib)

    def size_mib(self, number: int) -> int:
        """Return the memory of one of the type; 0 when its name isn't known."""
        parts = vgpu_types.parse_name(self.names.get(number, ""))
        return parts.memory_mib if parts else 0

    def find(self, word: str, numbers: Iterable[int] | None = None) -> int | None:
        """Return the id of the type that a word means."""
        return next((number for number in sorted(self.names if numbers is None else numbers)
                     if vgpu_types.is_meant(word, f"nvidia-{number}",
                                            self.names.get(number, ""))), None)


def is_carved(function: sysfs.PciFunction) -> bool:
    """Say whether the virtual function is one that takes a vGPU type."""
    return function.is_virtual and "nvidia" in function.entries


def offer(card: Card, wishes: mdev_cards.Wishes, reader: sysfs.Sysfs, catalogue: Catalogue,
          records: Mapping[str, handle_records.Record]) -> handle_slots.Offer:
    """Return what the card can offer of the one type that it is used for. Raises NotOffered."""
    return _Judgement(card, wishes, reader, catalogue, records).offer()


class _Judgement:
    def __init__(self, card: Card, wishes: mdev_cards.Wishes, reader: sysfs.Sysfs,
                 catalogue: Catalogue,
                 records: Mapping[str, handle_records.Record]) -> None:
        self.card = card
        self.wishes = wishes
        self.reader = reader
        self.catalogue = catalogue
        self.ours = {record.parent: record for record in records.values()
                     if record.card == card.address}
        self.withheld: dict[str, str] = {}
        self.current: dict[str, int] = {}
        self.free: list[sysfs.PciFunction] = []
        for record in self.ours.values():
            if record.type_id.isdigit():
                catalogue.learn(card.address, {int(record.type_id): record.name},
                                record.total_mib)
        for function in card.virtual:
            self._look_at(function)
        self.creatable: dict[int, str] = {}
        if self.free:
            # they all name what the card can still make
            self.creatable = vgpu_types.parse_creatable(
                reader.lone_text(f"{self.free[0].path}/{CREATABLE}"))
            catalogue.learn(card.address, self.creatable)

    def _look_at(self, function: sysfs.PciFunction) -> None:
        text = (self.reader.lone_text(f"{function.path}/{CURRENT}")
                if is_carved(function) else None)
        number = int(text) if text and text.isascii() and text.isdigit() else None
        if number:
            self.current[function.address] = number
        if function.address in self.ours:
            return
        reason = None
        if not is_carved(function):
            reason = (f"it is on {function.driver or 'no driver'} and not on nvidia, so it takes "
                      "no vGPU type")
        elif number is None:
            reason = "its vGPU type can't be read"
        elif number:
            reason = "it has a vGPU type that this service did not set"
        elif function.iommu_group is None:
            reason = "it has no IOMMU group, so no guest can have it"
        reason = reason or self.wishes.refuse(function)
        if reason:
            self.withheld[function.address] = reason
        else:
            self.free.append(function)

    def offer(self) -> handle_slots.Offer:
        number, name = self._type()
        held = [record.info for record in self.ours.values()]
        candidates = (info_of(function.address, name) for function in self.free)
        made = len(self.ours.keys() & self.current.keys())
        infos = handle_slots.chosen(
            held, candidates, min(made + self._left(number), self.wishes.max_handles))
        offered = {handle_slots.address_of(info) for info in infos}
        for function in self.card.virtual:
            if function.address not in offered:
                self.withheld.setdefault(
                    function.address, "the other virtual functions hold all that fits on the card")
        return handle_slots.Offer(
            str(number), name, [messages.ReportedHandle(type="PCI", info=dict(info))
                                for info in infos], self.withheld,
            full=None if infos else f"no vGPU of type {name} can be made on it now")

    def _type(self) -> tuple[int, str]:
        """One type for a card: what is in use decides, then the operator, then others' use."""
        return (self._type_in_use() or self._type_wished() or self._type_of_others()
                or self._sensible_type())

    def _type_in_use(self) -> tuple[int, str] | None:
        for record in self.ours.values():
            found = self.catalogue.find(record.name)
            if found is None and record.type_id.isdigit():
                found = int(record.type_id)
            if found is not None:
                return found, record.name
        return None

    def _type_wished(self) -> tuple[int, str] | None:
        """Raises NotOffered when the operator's type is none of this card's."""
        word = self.wishes.word
        if word is None:
            return None
        found = self.catalogue.find(word, {*self.creatable, *self.current.values()})
        if found is None:
            known = ", ".join(f"{number} ({name})" for number, name in
                              sorted(self.creatable.items()))
            raise handle_slots.NotOffered(
                f"it can't make vGPUs of type {word} now; it can make {known or 'none'}")
        return found, self.catalogue.names.get(found, str(found))

    def _type_of_others(self) -> tuple[int, str] | None:
        names = self.catalogue.names
        return next(((number, names[number]) for number in self.current.values()
                     if number in names), None)

    def _sensible_type(self) -> tuple[int, str]:
        """Raises NotOffered when nothing can be made."""
        if self.current and not self.creatable:
            raise handle_slots.NotOffered("its vGPUs are not of this service, and it is full")
        choice = vgpu_types.sensible(
            vgpu_types.Choice(str(number), name, self._at_most(number))
            for number, name in self.creatable.items())
        if choice is None:
            raise handle_slots.NotOffered(
                "it can make no vGPU now that isn't bound to MIG partitions" if self.creatable
                else f"its virtual functions name no type that can be made ({CREATABLE})")
        return int(choice.key), choice.name

    def _at_most(self, number: int) -> int:
        size = self.catalogue.size_mib(number)
        return min(vgpu_types.room(self._memory_mib(), [], size) or 1, len(self.card.virtual))

    def _memory_mib(self) -> int:
        return self.catalogue.memory_mib.get(self.card.address, 0)

    def _left(self, number: int) -> int:
        if number not in self.creatable:
            return 0
        return min(len(self.free), max(1, self._arithmetic(number)))

    def _arithmetic(self, number: int) -> int:
        """How many more fit, as far as names and memory tell; the driver says only whether."""
        there = collections.Counter(self.current.values())
        parts = vgpu_types.parse_name(self.catalogue.names.get(number, ""))
        if parts is None:
            return 0
        if parts.slices is not None:
            return (self.wishes.partitions(parts) or 0) - there[number]
        sizes = [self.catalogue.size_mib(each) for each in there.elements()]
        if not all(sizes):
            return 0
        return vgpu_types.room(self._memory_mib(), sizes, parts.memory_mib)


def info_of(address: str, name: str) -> dict[str, str]:
    """Return the handle's info: ids of types change with the driver, so it has the name."""
    return handle_slots.address_info(address) | {
        "managed": "no", "vgpu_type": vgpu_types.short_name(name)}
