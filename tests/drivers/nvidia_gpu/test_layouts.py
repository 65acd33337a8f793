# SPDX-License-Identifier: Apache-2.0
"""Cards that vGPUs share in time: how many of which type, as administrators wish."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import nvidia_gpu
from cyborg_lite.drivers import nvidia_vgpu_layouts
from cyborg_lite.drivers import sysfs
from tests.drivers import machines
from tests.drivers import vgpu_machines
from tests.drivers.nvidia_mig import lab
from tests.nvml import stand_in

CARD = "0000:41:00.0"
WAYS: dict[str, Callable[[], vgpu_machines.Entries]] = {
    "mdev on the card": lambda: vgpu_machines.on_card(CARD, 10),
    "mdev on functions": lambda: vgpu_machines.on_functions(CARD, 10),
    "vendor VFIO": lambda: vgpu_machines.vendor(CARD, 10)}
MODELS = {"mdev on the card": "T4", "mdev on functions": "A100-40GB",
          "vendor VFIO": "RTX-PRO-6000-Blackwell-96GB"}
TYPES = {"mdev on the card": ("T4-4Q", 4, "T4-2B"), "mdev on functions": ("A100-10C", 4, "A100-4C"),
         "vendor VFIO": ("DC-24Q", 4, "DC-96Q")}


class Machine:
    def __init__(self, folder: pathlib.Path, way: str) -> None:
        self.folder, self.way = folder, way
        self.kernel = vgpu_machines.Gpus(machines.tree(folder, WAYS[way]()).root)
        self.type, self.most, self.other = TYPES[way]
        self.restart()

    def restart(self) -> None:
        self.driver = nvidia_gpu.NvidiaGpuDriver(base.Environment(
            sysfs.Sysfs(self.kernel.root), {"gpu_devices": {}, "mdev": {}}, host=self.kernel,
            state_path=str(self.folder / "state")))

    def device(self) -> messages.ReportedDevice:
        self.driver.environment.sysfs.begin_pass()
        [device] = self.driver.discover()
        return device

    def offers(self) -> dict[str, int]:
        """How many handles, by the trait that names the type."""
        return {each.traits[0].split("_", 3)[3]: len(each.handles)
                for each in self.device().deployables}

    def shows(self) -> list[str | None]:
        partitioning = self.device().partitioning
        assert partitioning is not None
        return [each.vgpu_type for each in partitioning.partitions]

    def apply(self, *parts: str) -> None:
        self.driver.apply_layout(lab.wish(*parts))

    def prepare(self) -> messages.HandleTask:
        task = lab.task_for(self.device().deployables[0].handles[0])
        self.driver.prepare(task)
        return task


@pytest.fixture(params=list(WAYS))
def machine(request: pytest.FixtureRequest, tmp_path: pathlib.Path,
            nvml_library: pathlib.Path) -> Iterator[Machine]:
    """A machine with one card, in each of the three ways in turn."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(stand_in.Host(nvml_library, tmp_path / "nvml", [
            stand_in.Card(MODELS[request.param], vgpu=True)]).here())
        yield Machine(tmp_path, request.param)


def trait(name: str) -> str:
    return name.upper().replace("-", "_")


def test_without_a_wish_the_default_is_shown_as_the_layout(machine: Machine) -> None:
    partitioning = machine.device().partitioning

    assert partitioning.scheme == "vgpu"
    assert partitioning.profiles == []
    assert {each.name: each.max_instances for each in partitioning.vgpu_types}[
        machine.type] == machine.most
    assert all(each.partition_profile_id is None for each in partitioning.vgpu_types)
    [(_, number)] = machine.offers().items()
    assert len(machine.shows()) == number


def test_a_card_offers_as_many_of_a_type_as_wished_also_after_a_start(machine: Machine) -> None:
    machine.apply(f"{machine.type}*2")
    wished = machine.shows(), machine.offers()
    machine.restart()

    assert wished == ([machine.type] * 2, {trait(machine.type): 2})
    assert (machine.shows(), machine.offers()) == wished


def test_another_model_in_the_place_of_a_card_is_offered_as_if_nothing_was_wished(
        machine: Machine) -> None:
    before = len(machine.shows())
    machine.apply(f"{machine.type}*2")
    event = pathlib.Path(machine.kernel.root, "bus/pci/devices", CARD, "uevent")

    event.write_text(re.sub("PCI_ID=.*", "PCI_ID=10DE:2335", event.read_text()))
    other = machine.shows()
    with pytest.raises(nvidia_vgpu_layouts.Fault, match=r"is another card \(2335\)"):
        machine.driver.apply_layout(dataclasses.replace(
            lab.wish(f"{machine.type}*2"), model="20b0"))
    machine.driver.apply_layout(dataclasses.replace(lab.wish(f"{machine.type}*1"), model="2335"))

    assert len(other) == before
    assert machine.shows() == [machine.type]


def test_a_wish_for_no_vgpus_offers_nothing_and_can_be_taken_back(machine: Machine) -> None:
    machine.apply()
    nothing = machine.shows(), machine.offers()
    machine.apply(f"{machine.type}*{machine.most}")

    assert nothing == ([], {})
    assert machine.offers() == {trait(machine.type): machine.most}


def test_another_type_is_refused_while_vgpus_exist(machine: Machine) -> None:
    machine.apply(f"{machine.type}*2")
    task = machine.prepare()

    with pytest.raises(nvidia_vgpu_layouts.Fault, match="there are vGPUs on GPU"):
        machine.apply(machine.other)
    machine.apply(f"{machine.type}*{machine.most}")
    machine.driver.clean(task)
    machine.apply(machine.other)

    assert machine.shows() == [machine.other]


def test_a_vgpu_that_comes_or_goes_makes_no_other_report(machine: Machine) -> None:
    machine.apply(f"{machine.type}*2")
    before = machine.device()

    task = machine.prepare()
    with_it = machine.device()
    machine.driver.clean(task)

    assert with_it == before
    assert machine.device() == before


def test_vgpus_of_somebody_else_keep_the_type(machine: Machine) -> None:
    task = machine.prepare()
    pathlib.Path(machine.folder, "state", "nvidia_gpu_driver.json").unlink()

    with pytest.raises(nvidia_vgpu_layouts.Fault, match="there are vGPUs on GPU"):
        machine.apply(machine.other)

    assert task.info


@pytest.mark.parametrize("parts", [["X-4Q"], ["{type}*99"], ["{type}", "{other}"]])
def test_what_the_card_can_not_have_is_refused(machine: Machine, parts: list[str]) -> None:
    before = machine.offers()

    with pytest.raises(nvidia_vgpu_layouts.Fault, match=r"GPU 0000:41:00\.0: "):
        machine.apply(*(each.format(type=machine.type, other=machine.other) for each in parts))

    assert machine.offers() == before
