# SPDX-License-Identifier: Apache-2.0
"""Hosts with cards that can be split, played at the bus: an agent that splits when it is let.

What is published of the cards is in tests/nvml; the real agent and driver are tested elsewhere.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import threading
from collections.abc import Sequence

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
    """One card. model: of mig_cards.yaml; split: names of the partitions that it has."""

    model: str
    address: str
    split: Sequence[str] = ()
    numa_node: int = 0

    def __post_init__(self) -> None:
        self.profiles = [layouts.Profile(
            id=one["id"], name=one["name"], slices=one["slices"], memory_mib=one["memory_mib"],
            max_instances=one["max"],
            placements=tuple(layouts.Placement(start, one["size"]) for start in one["starts"]))
            for one in stand_in.mig_cards()[self.model]["profiles"]]
        self.there: list[layouts.Count] = []
        self.places: list[layout_plans.Instance] = []
        self.make(collections.Counter(self.split))

    def make(self, wanted: collections.Counter[str]) -> None:
        """Split the card so, keeping what can stay."""
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
        counts = collections.Counter(names[one.profile_id] for one in self.places)
        parts = [self._deployable(name, number) for name, number in sorted(counts.items())]
        return messages.ReportedDevice(
            address=self.address, pci_address=self.address, numa_node=self.numa_node, type="GPU",
            vendor="10de", model=f"NVIDIA {self.model}", driver=DRIVER, deployables=parts,
            partitioning=messages.ReportedPartitioning(
                scheme="mig", profiles=[self._profile(one) for one in self.profiles],
                partitions=[messages.Partition(
                    profile=names[one.profile_id], profile_id=one.profile_id, id=one.id,
                    place=messages.PartitionPlace(
                        start=one.placement.start, size=one.placement.size))
                    for one in self.places]))

    def _profile(self, one: layouts.Profile) -> messages.PartitionProfile:
        return messages.PartitionProfile(
            name=one.name, id=one.id, slices=one.slices, memory_mib=one.memory_mib,
            max_instances=one.max_instances, placements=[
                messages.PartitionPlace(start=place.start, size=place.size)
                for place in one.placements])

    def _deployable(self, name: str, number: int) -> messages.ReportedDeployable:
        word = name.upper().replace(".", "_").replace("+", "_")
        return messages.ReportedDeployable(
            name=f"{self.address} {name}", resource_class="VGPU", traits=[f"CUSTOM_MIG_{word}"],
            handles=[messages.ReportedHandle(type="MDEV", info={"slot": str(slot), "of": name})
                     for slot in range(number)], driver_name="played")


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
                card.make(collections.Counter({
                    one.profile: one.count for one in wish.partitions}))
            self.report()
        return [messages.LayoutResult(device_address=wish.device_address,
                                      generation=wish.generation, fault=self.fault)
                for wish in wishes]
