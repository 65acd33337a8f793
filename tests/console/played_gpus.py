# SPDX-License-Identifier: Apache-2.0
"""Hosts with cards that can be split, played at the bus: an agent that splits when it is let.

What is published of the cards is in tests/nvml; the real agent and driver are tested elsewhere.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
import threading
from collections.abc import Sequence
from typing import Any

from cyborg_lite import buses
from cyborg_lite import layout_plans
from cyborg_lite import layouts
from cyborg_lite import messages
from cyborg_lite import rpc
from tests.nvml import stand_in

DRIVER = "nvidia_gpu_driver"
PATIENCE_S = 60


@dataclasses.dataclass
class Card:
    """One card. model: of mig_cards.yaml and vgpu_hosts.yaml; split: what it is split into.

    scheme: mig, vgpu or mig-vgpu.
    """

    model: str
    address: str
    split: Sequence[str] = ()
    numa_node: int = 0
    scheme: str = "mig"

    def __post_init__(self) -> None:
        self.types = [] if self.scheme == "mig" else stand_in.vgpu_hosts()[self.model]["types"]
        self.sliced: collections.Counter[str] = collections.Counter()
        self.chosen: dict[str, str] = {}
        self.profiles = [layouts.Profile(
            id=one["id"], name=one["name"], slices=one["slices"], memory_mib=one["memory_mib"],
            max_instances=one["max"],
            placements=tuple(layouts.Placement(start, one["size"]) for start in one["starts"]))
            for one in stand_in.mig_cards().get(self.model, {}).get("profiles", ())]
        self.places: list[layout_plans.Instance] = []
        self.make([messages.PartitionCount(profile=name, count=number)
                   for name, number in collections.Counter(self.split).items()])

    def make(self, wish: Sequence[messages.PartitionCount]) -> None:
        """Split the card so, keeping what can stay."""
        wanted = collections.Counter({one.profile: one.count for one in wish})
        self.chosen = {one.profile: one.vgpu_type for one in wish if one.vgpu_type}
        if self.scheme == "vgpu":
            self.sliced = wanted
            return
        ids = {one.name: one.id for one in self.profiles}
        plan = layout_plans.plan(self.profiles, self.places, {
            ids[name]: number for name, number in wanted.items()})
        assert not plan.reason, plan.reason
        numbers = itertools.count(max((one.id for one in self.places), default=0) + 1)
        self.places = [*plan.kept, *(
            layout_plans.Instance(next(numbers), step.profile_id, step.placement)
            for step in plan.steps if step.action == layout_plans.CREATE)]

    def reported(self) -> messages.ReportedDevice:
        """The card as its driver would report it."""
        names = {one.id: one.name for one in self.profiles}
        counts = self.sliced or collections.Counter(
            names[one.profile_id] for one in self.places)
        parts = [self._deployable(name, number) for name, number in sorted(counts.items())]
        return messages.ReportedDevice(
            address=self.address, pci_address=self.address, numa_node=self.numa_node, type="GPU",
            vendor="10de", model=f"NVIDIA {self.model}", driver=DRIVER, deployables=parts,
            partitioning=messages.ReportedPartitioning(
                scheme=self.scheme, profiles=[self._profile(one) for one in self.profiles],
                vgpu_types=[self._type(one) for one in self.types],
                partitions=[*(messages.Partition(profile=name, profile_id=0, vgpu_type=name)
                              for name in self.sliced.elements()), *(messages.Partition(
                    profile=names[one.profile_id], profile_id=one.profile_id, id=one.id,
                    place=messages.PartitionPlace(
                        start=one.placement.start, size=one.placement.size),
                    vgpu_type=self.chosen.get(names[one.profile_id]))
                    for one in self.places)]))

    def _type(self, one: dict[str, Any]) -> messages.PartitionVgpuType:
        return messages.PartitionVgpuType(
            name=one["name"], id=one["id"], memory_mib=one["memory_mib"],
            max_instances=one["max"], max_per_partition=one["per_gi"],
            partition_profile_id=None if one["gi_profile"] < 0 else one["gi_profile"])

    def _profile(self, one: layouts.Profile) -> messages.PartitionProfile:
        return messages.PartitionProfile(
            name=one.name, id=one.id, slices=one.slices, memory_mib=one.memory_mib,
            max_instances=one.max_instances, placements=[
                messages.PartitionPlace(start=place.start, size=place.size)
                for place in one.placements])

    def _deployable(self, name: str, number: int) -> messages.ReportedDeployable:
        word = re.sub("[^A-Z0-9]", "_", name.upper())
        return messages.ReportedDeployable(
            name=f"{self.address} {name}", resource_class="VGPU", traits=[f"CUSTOM_MIG_{word}"],
            handles=[messages.ReportedHandle(type="MDEV", info={
                "domain": "0000", "bus": self.address[5:7], "device": f"{slot:02x}",
                "function": "4", "asked_type": name}) for slot in range(number)],
            driver_name="played")


class Host:
    """One host and its agent.

    may_split: the agent waits for it before it does anything. fault: what it answers instead.
    """

    def __init__(self, name: str, cards: Sequence[Card],
                 others: Sequence[messages.ReportedDevice] = ()) -> None:
        self.name = name
        self.cards = list(cards)
        self.others = list(others)
        self.may_split = threading.Event()
        self.may_split.set()
        self.fault: str | None = None
        self._conductor: rpc.ConductorClient | None = None
        self._digests = itertools.count()

    def start(self, bus: buses.LocalBus, conductor: rpc.ConductorClient) -> None:
        """Serve, and report what there is."""
        self._conductor = conductor
        bus.serve(rpc.AGENT_TOPIC, self.name, self)
        self.report()

    def report(self) -> None:
        """Tell the conductor of all cards."""
        assert self._conductor is not None
        self._conductor.report(messages.HostReport(
            host=self.name, resource_provider_name=self.name, drivers=["fake_driver", DRIVER],
            digest=f"{self.name} {next(self._digests)}", version="0.1.0",
            devices=[*(card.reported() for card in self.cards), *self.others]))

    @buses.exposed
    def apply_layouts(self, wishes: list[messages.LayoutWish]) -> list[messages.LayoutResult]:
        assert self.may_split.wait(PATIENCE_S)
        if self.fault is None:
            for wish in wishes:
                (card,) = [one for one in self.cards if one.address == wish.device_address]
                card.make(wish.partitions)
            self.report()
        return [messages.LayoutResult(device_address=wish.device_address,
                                      generation=wish.generation, fault=self.fault)
                for wish in wishes]
