# SPDX-License-Identifier: Apache-2.0
"""What a MIG-capable card is at one moment: mode, profiles, partitions, vGPU types, as values.

Nothing is asked or changed here: what NVML said comes from `nvml_mig.py`, by way of a `Host`.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from cyborg_lite import layout_plans
from cyborg_lite import layouts
from cyborg_lite import messages
from cyborg_lite import vgpu_layouts

SCHEME, SCHEME_VGPU = "mig", "mig-vgpu"


class Unknown(Exception):
    """NVML doesn't tell what the card is; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Partition:
    """A GPU instance, and the slices of each compute instance in it."""

    instance: layout_plans.Instance
    computes: tuple[int, ...]

    @property
    def place(self) -> layout_plans.Place:
        """Its profile and where it lies: what it is, whatever its id."""
        return self.instance.profile_id, self.instance.placement

    @property
    def is_empty(self) -> bool:
        """Whether nothing can run in it; those of one in use are its guest's own."""
        return not self.computes and not self.instance.in_use


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """A card with MIG. is_on: MIG mode now; will_be_on: after the next reset.

    types: those that live in partitions; None where the host has no vGPU software. is_blind:
    who asked has no right to see places and partitions.
    """

    address: str
    is_on: bool
    will_be_on: bool
    profiles: tuple[layouts.Profile, ...]
    partitions: tuple[Partition, ...]
    types: tuple[vgpu_layouts.VgpuType, ...] | None = None
    is_blind: bool = False

    @property
    def counts(self) -> dict[int, int]:
        """So many partitions of each profile there are."""
        return dict(collections.Counter(each.instance.profile_id for each in self.partitions))

    @property
    def is_whole(self) -> bool:
        """Whether every partition can be used: has a compute instance."""
        return not any(each.is_empty for each in self.partitions)

    @property
    def lacks(self) -> str | None:
        """Which partitions nothing can run in, in words."""
        empty = [f"{self.name_of(each.instance.profile_id)} at unit {each.instance.placement.start}"
                 for each in self.partitions if each.is_empty]
        return (f"these partitions have no compute instance, so that nothing runs in them: "
                f"{', '.join(empty)}; the agent makes them when it starts" if empty else None)

    @property
    def waits(self) -> str | None:
        """What its MIG mode waits for, in words; None when it is as it was set."""
        if self.is_on == self.will_be_on:
            return None
        wanted = "on" if self.will_be_on else "off"
        return (f"MIG mode of {self.address} is to be {wanted} and waits for a reset: stop what "
                f"uses the GPU and reset it (nvidia-smi --gpu-reset -i {self.address}), or restart "
                "the host")

    def name_of(self, profile_id: int) -> str:
        """Name of a profile."""
        return next((each.name for each in self.profiles if each.id == profile_id),
                    f"profile {profile_id}")

    def describe(self) -> str:
        """`3g.20gb + 2x1g.5gb`."""
        return self.describe_counts(self.counts)

    def describe_counts(self, counts: Mapping[int, int]) -> str:
        """The same of other partitions than those it has."""
        known = [each.id for each in layouts.ordered(self.profiles)]
        ordered = sorted(counts, key=lambda number: known.index(number) if number in known else -1)
        return layouts.describe((self.name_of(each), counts[each]) for each in ordered)

    def types_of(self, profile_id: int) -> list[vgpu_layouts.VgpuType]:
        """The vGPU types that live in such a partition."""
        return [each for each in self.types or () if each.partition_profile_id == profile_id]


def of(address: str, told: Mapping[str, Any]) -> Card | None:
    """Return the card that `nvml_mig.look` told of; None if it has no MIG. Raises Unknown."""
    if told.get("error") is not None:
        raise Unknown(told["error"])
    if told["mode"] is None:
        return None
    types = told["types"]
    most_of = {number: most for number, _, _, _, most, _ in told["profiles"]}
    return Card(
        address, bool(told["mode"][0]), bool(told["mode"][1]),
        tuple(layouts.Profile(number, name, slices, memory_mib, most,
                              tuple(layouts.Placement(*place) for place in places))
              for number, name, slices, memory_mib, most, places in told["profiles"]),
        tuple(Partition(layout_plans.Instance(number, profile_id, layouts.Placement(start, size),
                                              used), tuple(computes))
              for number, profile_id, start, size, computes, used in told["partitions"]),
        None if types is None else tuple(
            vgpu_layouts.VgpuType(number, name, memory_mib,
                                  most or each * most_of.get(profile_id, 0), profile_id, each)
            for number, name, memory_mib, most, profile_id, each in types
            if profile_id is not None),
        bool(told["blind"]))


def partitioning(card: Card, offered_as: Iterable[str | None],
                 types_of: Mapping[int, list[str]]) -> messages.ReportedPartitioning:
    """Return the report of a card.

    offered_as: the vGPU type of each partition, in their order. types_of: those that live in each
    profile's partitions, the one to take first. Where vGPUs live, attach handles tell of use: a
    server that starts or ends must not make another report.
    """
    types = card.types or ()
    return messages.ReportedPartitioning(
        scheme=SCHEME_VGPU if types else SCHEME,
        profiles=[messages.PartitionProfile(
            name=each.name, id=each.id, slices=each.slices, memory_mib=each.memory_mib,
            max_instances=each.max_instances, placements=[_place(one) for one in each.placements],
            vgpu_types=types_of.get(each.id, []))
            for each in layouts.ordered(card.profiles)],
        vgpu_types=[messages.PartitionVgpuType(
            name=each.short_name, id=each.id, memory_mib=each.memory_mib,
            max_instances=each.max_instances, partition_profile_id=each.partition_profile_id,
            max_per_partition=each.max_per_partition) for each in types],
        partitions=[messages.Partition(
            profile=card.name_of(each.instance.profile_id), profile_id=each.instance.profile_id,
            id=each.instance.id, place=_place(each.instance.placement),
            in_use=each.instance.in_use and not types, vgpu_type=name)
            for each, name in zip(card.partitions, offered_as, strict=True)],
        fault=card.waits or card.lacks or (
            "places and partitions of the card are told to privileged callers only"
            if card.is_blind else None) or (
            None if any(each.placements for each in card.profiles) else
            "NVML names no places for partitions"
            + ("" if card.is_on else "; switch MIG mode on (nvidia-smi -mig 1)")))


def _place(placement: layouts.Placement) -> messages.PartitionPlace:
    return messages.PartitionPlace(start=placement.start, size=placement.size)
