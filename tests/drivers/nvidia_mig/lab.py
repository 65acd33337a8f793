# SPDX-License-Identifier: Apache-2.0
"""A host with MIG-capable cards: its sysfs, the stand-in for NVML, and a kernel that heeds both.

What is expected of the driver is in the tests.
"""

from __future__ import annotations

import collections
import pathlib
import uuid
from typing import Any

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import mdev_cards
from cyborg_lite.drivers import nvidia_mig
from cyborg_lite.drivers import nvml_mig
from cyborg_lite.drivers import sysfs
from tests.drivers import machines
from tests.drivers import vgpu_machines
from tests.nvml import stand_in

A30, A100, A100_80 = "A30-24GB", "A100-40GB", "A100-80GB"
H100, H200, RTX = "H100-80GB", "H200-141GB", "RTX-PRO-6000-Blackwell-96GB"
CARD = "0000:41:00.0"

CHANGES = ("nvmlDeviceSetMigMode", "nvmlDeviceCreateGpuInstanceWithPlacement",
           "nvmlGpuInstanceDestroy", "nvmlGpuInstanceCreateComputeInstance",
           "nvmlComputeInstanceDestroy")


def address_of(index: int) -> str:
    return f"0000:{0x41 + index:02x}:00.0"


class Kernel(vgpu_machines.Gpus):
    """NVIDIA's driver: which vGPUs can be made depends on the partitions that NVML shows."""

    def create_partition(self, address: str, profile_id: int, start: int, size: int) -> None:
        super().create_partition(address, profile_id, start, size)
        self._recount()

    def destroy_partition(self, address: str, number: int, profile_id: int, start: int) -> None:
        super().destroy_partition(address, number, profile_id, start)
        self._recount()

    def _recount_types(self, card: str, types: dict[int, str]) -> None:
        there = [number for address, number in self.types_set().items()
                 if self._card(self.root_path / sysfs.PCI_DEVICES / address) == card]
        left = self._left(card, [str(number) for number in there])
        for file in self.root_path.glob(f"{sysfs.PCI_DEVICES}/*/nvidia/creatable_vgpu_types"):
            if self._card(file.parent.parent) == card:
                file.write_text("".join(f"{number} : {name}\n" for number, name in types.items()
                                        if left.get(str(number))))

    def _recount_mdevs(self, places: list[pathlib.Path]) -> None:
        live = {device.name: (device / "mdev_type").readlink().name
                for place in places for device in place.iterdir()
                if mdev_cards.UUID.fullmatch(device.name)}
        left = self._left(self._card(places[0]),
                          [name.removeprefix("nvidia-") for name in live.values()])
        for place in places:
            own = any((place / each).exists() for each in live)
            for folder in (place / mdev_cards.TYPES).iterdir():
                number = 0 if own else min(left.get(folder.name.removeprefix("nvidia-"), 0), 1)
                (folder / "available_instances").write_text(f"{number}\n")

    @staticmethod
    def _left(card: str, there: list[str]) -> dict[str, int]:
        """How many more of each type fit into the partitions of its profile."""
        told = nvml_mig.look([card])[card]
        profiles = collections.Counter(each[1] for each in told["partitions"])
        kinds = {str(kind[0]): (kind[4], kind[5]) for kind in told["types"] or ()
                 if kind[4] is not None}
        used = collections.Counter(kinds[number][0] for number in there)
        return {number: profiles[profile_id] * each - used[profile_id]
                for number, (profile_id, each) in kinds.items()}


class Lab:
    """One host. way: how its virtual functions carry vGPUs, vendor or mdev; None without."""

    def __init__(self, library: pathlib.Path, folder: pathlib.Path,
                 *cards: str | stand_in.Card, way: str | None = None, **options: Any) -> None:
        self.folder = folder
        self.cards = [stand_in.Card(each, vgpu=way is not None) if isinstance(each, str) else each
                      for each in cards]
        self.nvml = stand_in.Host(library, folder / "nvml", self.cards)
        self.options = {"gpu_devices": options, "mdev": {"created_by": "agent"}}
        self.devices = device_config.DeviceConfig()
        self.claimed: set[str] = set()
        self.checking = False
        self.root = machines.tree(folder, *(
            _sysfs(address_of(index), index, card, way)
            for index, card in enumerate(self.cards))).root
        self.way = way

    def boot(self) -> Lab:
        """Only when NVML is there: the kernel asks it what it can make."""
        if self.way:
            for index in range(len(self.cards)):
                self.nvml.happen("vfs", card=index, value=16)
        self.kernel = Kernel(self.root)
        self.kernel._recount()
        self.restart()
        return self

    def restart(self) -> nvidia_mig.NvidiaMigDriver:
        """The agent starts anew."""
        self.driver = nvidia_mig.NvidiaMigDriver(base.Environment(
            sysfs.Sysfs(self.root), self.options, devices=self.devices, claimed=self.claimed,
            state_path=str(self.folder / "state"), checking=self.checking, host=self.kernel))
        return self.driver

    def reboot(self) -> None:
        self.nvml.happen("reboot")
        if self.way:
            for index in range(len(self.cards)):
                self.nvml.happen("vfs", card=index, value=16)
        self.kernel.reboot()
        self.restart()

    def discover(self) -> list[messages.ReportedDevice]:
        self.driver.environment.sysfs.begin_pass()
        return self.driver.discover()

    def device(self, index: int = 0) -> messages.ReportedDevice:
        return next(each for each in self.discover() if each.address == address_of(index))

    def partitions(self, index: int = 0) -> list[tuple[str, int]]:
        """Profile and first unit of each partition, as reported."""
        partitioning = self.device(index).partitioning
        assert partitioning is not None
        return [(each.profile, each.place.start if each.place else -1)
                for each in partitioning.partitions]

    def apply(self, *parts: str, index: int = 0) -> None:
        self.driver.apply_layout(wish(*parts, index=index))

    def changes(self) -> list[str]:
        """The calls so far that change a card."""
        return [each for each in self.nvml.calls() if each in CHANGES]

    def handles(self) -> dict[str, list[messages.ReportedHandle]]:
        return {each.name.rpartition("_")[2]: each.handles for device in self.discover()
                for each in device.deployables}

    def tasks(self) -> dict[str, list[messages.HandleTask]]:
        """A task for each handle, by type, with the uuid that it would always have."""
        return {name: [task_for(handle) for handle in handles]
                for name, handles in self.handles().items()}


def wish(*parts: str, index: int = 0, generation: int = 1) -> messages.LayoutWish:
    """`3g.20gb`, `1g.5gb*2` or `1g.5gb*2:A100-1-5C`."""
    counts = []
    for part in parts:
        rest, _, kind = part.partition(":")
        profile, _, number = rest.partition("*")
        counts.append(messages.PartitionCount(profile=profile, count=int(number or 1),
                                              vgpu_type=kind or None))
    return messages.LayoutWish(device_address=address_of(index), driver=nvidia_mig.NAME,
                               generation=generation, partitions=counts)


def task_for(handle: messages.ReportedHandle) -> messages.HandleTask:
    address = handle_slots.address_of(handle.info)
    return messages.HandleTask(
        handle_uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{address}{sorted(handle.info.items())}")),
        deployable_name="any", device_address=CARD, driver=nvidia_mig.NAME, type=handle.type,
        info=handle.info)


def _sysfs(address: str, index: int, card: stand_in.Card,
           way: str | None) -> vgpu_machines.Entries:
    product = card.facts.get("pci_device_ids", ["1eb8"])[0]
    group = 1 + 100 * index
    if way == "vendor":
        return vgpu_machines.vendor(address, group, model=card.model, product=product, count=8,
                                    in_partitions=True)
    if way == "mdev":
        return vgpu_machines.on_functions(address, group, model=card.model, product=product,
                                          count=8, in_partitions=True)
    return machines.a_function(address, product=product, driver="nvidia", group=group,
                               total_vfs=16)
