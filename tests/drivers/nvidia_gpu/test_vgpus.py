# SPDX-License-Identifier: Apache-2.0
"""vGPUs in the three ways a host may have them: what is offered while they come and go.

The cards are composed; the kernel that makes and counts is played (`vgpu_machines.Gpus`).
"""

from __future__ import annotations

import errno
import logging
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import handle_records
from cyborg_lite.drivers import mdev_work
from cyborg_lite.drivers import nvidia_gpu
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import vendor_vfio
from cyborg_lite.drivers import vendor_vfio_work
from tests.drivers import machines
from tests.drivers import vgpu_machines

CARD = "0000:41:00.0"
WAYS: dict[str, Callable[[], vgpu_machines.Entries]] = {
    "mdev on the card": lambda: vgpu_machines.on_card(CARD, 10, total_vfs=16),
    "mdev on functions": lambda: vgpu_machines.on_functions(CARD, 10, count=12),
    "vendor VFIO": lambda: vgpu_machines.vendor(CARD, 10, count=12)}


class Machine:
    """One machine, its played kernel, and a driver that may be made anew."""

    def __init__(self, folder: pathlib.Path, *entries: vgpu_machines.Entries,
                 checking: bool = False, **options: Any) -> None:
        self.folder = folder
        self.checking = checking
        self.options = {"gpu_devices": options, "mdev": {"created_by": "agent"}}
        self.devices = device_config.DeviceConfig()
        self.root = machines.tree(folder, *entries).root
        self.kernel = vgpu_machines.Gpus(self.root)
        self.claimed: set[str] = set()
        self.driver = self.new_driver()

    def new_driver(self) -> nvidia_gpu.NvidiaGpuDriver:
        self.driver = nvidia_gpu.NvidiaGpuDriver(base.Environment(
            sysfs.Sysfs(self.root), self.options, devices=self.devices, claimed=self.claimed,
            state_path=str(self.folder / "state"), checking=self.checking, host=self.kernel))
        return self.driver

    def discover(self) -> list[messages.ReportedDevice]:
        self.driver.environment.sysfs.begin_pass()
        return self.driver.discover()

    def handles(self) -> list[messages.ReportedHandle]:
        return [handle for device in self.discover() for deployable in device.deployables
                for handle in deployable.handles]

    def tasks(self) -> list[messages.HandleTask]:
        """A task for each handle, with the uuid that it would always have."""
        return [task_for(handle) for handle in self.handles()]

    @property
    def made(self) -> int:
        return len(self.kernel.mdevs()) + len(self.kernel.types_set())

    @property
    def records(self) -> dict[str, handle_records.Record]:
        return handle_records.HandleRecords(
            str(self.folder / "state"), "nvidia_gpu_driver").all()

    def make_foreign(self) -> None:
        """Somebody else makes one more of the type that is in use or offered."""
        [device] = self.discover()
        task = task_for(device.deployables[0].handles[-1])
        other = Machine.__new__(Machine)
        other.__dict__ |= self.__dict__ | {"folder": self.folder / "others"}
        other.new_driver().prepare(
            messages.HandleTask(**{name: getattr(task, name) for name in (
                "deployable_name", "device_address", "driver", "type", "info")},
                handle_uuid=str(uuid.uuid4())))


def task_for(handle: messages.ReportedHandle) -> messages.HandleTask:
    return messages.HandleTask(
        handle_uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, str(sorted(handle.info.items())))),
        deployable_name=CARD, device_address=CARD, driver="nvidia_gpu_driver", type=handle.type,
        info=handle.info)


@pytest.fixture(params=list(WAYS))
def machine(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Machine:
    """A card in each of the three ways in turn."""
    return Machine(tmp_path, WAYS[request.param]())


# --- what is offered ----------------------------------------------------------------------------


def test_the_way_is_told_by_sysfs_alone(tmp_path: pathlib.Path) -> None:
    """One product id for all; a T4 with a SR-IOV capability is what its files show."""
    types = {}
    for way, entries in WAYS.items():
        machine = Machine(tmp_path / way.replace(" ", "-"), entries())
        types[way] = {(handle.type, sorted(handle.info)[0]) for handle in machine.handles()}

    assert types == {"mdev on the card": {("MDEV", "asked_type")},
                     "mdev on functions": {("MDEV", "asked_type")},
                     "vendor VFIO": {("PCI", "bus")}}


def test_the_report_is_the_same_as_vgpus_come_and_go(machine: Machine) -> None:
    before = machine.discover()
    withheld = dict(machine.driver.withheld)
    tasks = machine.tasks()

    # any order, so that not the lowest are in use
    for task in tasks[::-2]:
        machine.driver.prepare(task)
        assert machine.discover() == before
        assert machine.driver.withheld == withheld
    for task in tasks[::-2]:
        machine.driver.clean(task)
        assert machine.discover() == before

    assert machine.made == 0


def test_as_many_can_be_made_as_are_offered_and_no_more(machine: Machine) -> None:
    tasks = machine.tasks()

    for task in tasks:
        machine.driver.prepare(task)

    assert len(tasks) == 4
    assert machine.made == 4
    assert machine.tasks() == tasks


def test_another_agent_process_reports_the_same(machine: Machine) -> None:
    before = machine.discover()
    for task in machine.tasks():
        machine.driver.prepare(task)

    machine.new_driver()

    assert machine.discover() == before


def test_what_others_made_counts_as_used(machine: Machine) -> None:
    machine.make_foreign()

    handles = machine.handles()

    assert len(handles) == 3
    for handle in handles:
        machine.driver.prepare(task_for(handle))
    assert machine.made == 4


def test_a_handle_in_use_stays_when_others_take_the_rest(machine: Machine) -> None:
    tasks = machine.tasks()
    machine.driver.prepare(tasks[-1])
    for _ in range(3):
        [device] = machine.discover()
        free = [handle for handle in device.deployables[0].handles
                if task_for(handle) != tasks[-1]]
        other = task_for(free[-1])
        foreign = Machine.__new__(Machine)
        foreign.__dict__ |= machine.__dict__ | {"folder": machine.folder / "others"}
        foreign.new_driver().prepare(messages.HandleTask(
            handle_uuid=str(uuid.uuid4()), deployable_name=CARD, device_address=CARD,
            driver="nvidia_gpu_driver", type=other.type, info=other.info))
        assert tasks[-1] in machine.tasks()

    assert machine.tasks() == [tasks[-1]]


def test_a_card_that_others_filled_is_withheld_with_the_reason(machine: Machine) -> None:
    for _ in range(4):
        machine.make_foreign()

    assert machine.discover() == []
    assert "can be made on it now" in machine.driver.withheld[CARD]


def test_the_preflight_takes_every_vgpu_for_somebody_elses(tmp_path: pathlib.Path) -> None:
    machine = Machine(tmp_path, WAYS["mdev on functions"]())
    machine.driver.prepare(machine.tasks()[0])

    checking = nvidia_gpu.NvidiaGpuDriver(base.Environment(
        sysfs.Sysfs(machine.root), state_path=str(tmp_path / "state"), checking=True,
        host=machine.kernel))

    [device] = checking.discover()
    assert len(device.deployables[0].handles) == 3
    assert "not of this service" in checking.withheld["0000:41:00.4"]


# --- which type ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "word", "short", "number"), [
    ("mdev on the card", "nvidia-227", "T4_2B", 8),
    ("mdev on the card", "GRID T4-16Q", "T4_16Q", 1),
    ("mdev on functions", "A100-4C", "A100_4C", 10), ("mdev on functions", "470", "A100_40C", 1),
    ("vendor VFIO", "DC-96Q", "DC_96Q", 1), ("vendor VFIO", "nvidia-1520", "DC_3Q", 12)])
def test_a_type_is_wanted_by_id_full_or_short_name(
        tmp_path: pathlib.Path, way: str, word: str, short: str, number: int) -> None:
    machine = Machine(tmp_path, WAYS[way](), enabled_vgpu_types=[word])

    [device] = machine.discover()

    [deployable] = device.deployables
    assert deployable.resource_class == "VGPU"
    assert deployable.traits[0].endswith(f"_{short}")
    # 32 of DC-3Q fit into the memory, but there are 12 functions
    assert len(deployable.handles) == number


def test_with_nothing_configured_a_type_is_taken_and_logged_once(
        machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    for _ in range(3):
        machine.discover()

    lines = [line for line in caplog.messages if "no vGPU type is configured" in line]
    assert len(lines) == 1
    assert "enabled_vgpu_types" in lines[0]


def test_with_nothing_configured_others_type_decides(tmp_path: pathlib.Path) -> None:
    machine = Machine(tmp_path, WAYS["mdev on the card"]())
    machine.kernel.create_mdev(CARD, "nvidia-222", str(uuid.uuid4()))

    handles = machine.handles()

    assert {handle.info["asked_type"] for handle in handles} == {"nvidia-222"}
    assert len(handles) == 15


def test_a_type_in_use_stays_when_another_is_configured(
        machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    before = machine.discover()
    task = machine.tasks()[2]
    machine.driver.prepare(task)
    other = {"T4-4Q": "T4-16Q", "A100-10C": "A100-4C"}
    short = before[0].deployables[0].traits[0].split("_", 3)[3].replace("_", "-")
    machine.options["gpu_devices"] = {"enabled_vgpu_types": [other.get(short, "DC-3Q")]}

    machine.new_driver()
    during = machine.discover()
    machine.driver.clean(task)
    after = machine.discover()

    assert during == before
    assert "are in use; it is offered as" in caplog.text
    assert after[0].deployables[0].traits != before[0].deployables[0].traits


def test_a_type_that_the_card_does_not_have_is_a_problem(machine: Machine) -> None:
    machine.options["gpu_devices"] = {
        "enabled_vgpu_types": ["L40-8Q"], "types": {"L40-8Q": {"device_addresses": [CARD]}}}

    machine.new_driver()

    assert machine.discover() == []
    assert "L40-8Q" in machine.driver.withheld[CARD]
    [problem] = machine.driver.problems
    assert "not used for vGPUs as configured" in problem.what


def test_the_addresses_of_a_type_may_be_those_of_virtual_functions(
        tmp_path: pathlib.Path) -> None:
    wanted = ["0000:41:00.6", "0000:41:01.1"]
    machine = Machine(
        tmp_path, WAYS["mdev on functions"](), enabled_vgpu_types=["A100-4C"],
        types={"A100-4C": {"device_addresses": wanted}})

    handles = machine.handles()

    assert [handle.info["function"] for handle in handles] == ["6", "1"]
    assert "device_addresses" in machine.driver.withheld["0000:41:00.4"]


@pytest.mark.parametrize(("options", "words"), [
    ({"enabled_vgpu_types": ["T4-1Q", "T4-2Q"]}, "one type at most"),
    ({"enabled_vgpu_types": ["T4-1Q"], "types": {"T4-1Q": {"device_addresses": ["41:00.0"]}}},
     "no PCI address"),
    ({"enabled_vgpu_types": ["a", "b"], "types": {
        "a": {"device_addresses": [CARD]}, "b": {"device_addresses": [CARD]}}},
     "one vGPU type at a time")])
def test_options_that_contradict_are_refused(
        tmp_path: pathlib.Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(base.ConfigurationError, match=words):
        Machine(tmp_path, WAYS["mdev on the card"](), **options)


def test_a_card_not_named_for_a_type_is_whole(tmp_path: pathlib.Path) -> None:
    machine = Machine(
        tmp_path, vgpu_machines.on_card("0000:3b:00.0", 1),
        machines.a_function(CARD, product="1eb8", group=2), enabled_vgpu_types=["T4-2B"],
        types={"T4-2B": {"device_addresses": ["0000:3b:00.0"]}})

    found = {device.address: device.deployables[0].resource_class
             for device in machine.discover()}

    assert found == {"0000:3b:00.0": "VGPU", CARD: "PGPU"}


def test_a_device_file_goes_before_the_options(tmp_path: pathlib.Path) -> None:
    machine = Machine(tmp_path, WAYS["mdev on the card"](), enabled_vgpu_types=["T4-2B"])
    machine.devices = device_config.DeviceConfig((device_config.Entry(
        match=device_config.Match(address=CARD), offer="vgpu", vgpu_type="T4-8Q",
        resource_class="CUSTOM_BIG", traits=("CUSTOM_RACK_7",)),))

    machine.new_driver()
    [device] = machine.discover()

    [deployable] = device.deployables
    assert deployable.resource_class == "CUSTOM_BIG"
    assert deployable.traits == ["CUSTOM_NVIDIA_1EB8_T4_8Q", "CUSTOM_RACK_7"]
    assert len(deployable.handles) == 2


def test_vendor_functions_can_be_kept_back_for_a_nova_that_manages(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    offered = Machine(tmp_path / "a", WAYS["vendor VFIO"]())
    kept = Machine(tmp_path / "b", WAYS["vendor VFIO"](), offer_vendor_vfio=False)

    assert {handle.info["managed"] for handle in offered.handles()} == {"no"}
    assert "managed='no'" in caplog.text
    assert kept.discover() == []
    assert "offer_vendor_vfio" in kept.driver.withheld[CARD]


# --- host work ----------------------------------------------------------------------------------


def test_repeating_the_work_changes_nothing(machine: Machine) -> None:
    task = machine.tasks()[1]

    machine.driver.prepare(task)
    with vgpu_machines.nothing_written(machine.kernel):
        machine.driver.prepare(task)
    machine.driver.clean(task)
    with vgpu_machines.nothing_written(machine.kernel):
        machine.driver.clean(task)

    assert machine.made == 0
    assert machine.records == {}


def test_after_a_reboot_the_same_handles_are_made_again(machine: Machine) -> None:
    before = machine.discover()
    tasks = machine.tasks()[1:3]
    for task in tasks:
        machine.driver.prepare(task)
    made = (machine.kernel.mdevs(), machine.kernel.types_set())

    machine.kernel.reboot()
    driver = machine.new_driver()
    assert machine.discover() == before
    for task in tasks:
        driver.prepare(task)

    assert (machine.kernel.mdevs(), machine.kernel.types_set()) == made
    assert machine.discover() == before


def test_after_a_new_driver_version_the_name_finds_the_type(tmp_path: pathlib.Path) -> None:
    machine = Machine(tmp_path, WAYS["mdev on functions"]())
    task = machine.tasks()[0]
    machine.driver.prepare(task)
    machine.kernel.reboot()
    machine.kernel.rename_types("nvidia-469", "nvidia-700")
    machine.kernel.rename_types("nvidia-470", "nvidia-469")

    machine.new_driver().prepare(task)

    assert machine.kernel.written[-1][:3] == ("create", "0000:41:00.4", "nvidia-700")
    assert task in machine.tasks()


def test_what_nobody_needs_is_removed_and_what_others_made_stays(machine: Machine) -> None:
    machine.make_foreign()
    tasks = machine.tasks()
    for task in tasks:
        machine.driver.prepare(task)

    machine.driver.remove_unneeded(set(machine.driver.made()) - {tasks[0].handle_uuid})

    assert machine.made == 2
    assert set(machine.driver.made()) == {tasks[0].handle_uuid}


def test_a_refused_creation_leaves_no_record(machine: Machine) -> None:
    task = machine.tasks()[0]
    error = OSError(errno.EIO, "Input/output error")
    machine.kernel.refusals = {"create_mdev": [error], "set_vgpu_type": [error]}

    with pytest.raises(mdev_work.WorkFailed, match="Input/output error"):
        machine.driver.prepare(task)

    assert machine.records == {}
    machine.driver.prepare(task)
    assert machine.made == 1


def test_a_creation_without_room_says_so(machine: Machine) -> None:
    tasks = machine.tasks()
    for _ in range(4):
        machine.make_foreign()

    with pytest.raises(mdev_work.WorkFailed, match=r"room|something else uses it"):
        machine.driver.prepare(tasks[0])


def test_nothing_is_made_that_could_not_be_noted(machine: Machine) -> None:
    task = machine.tasks()[0]
    (machine.folder / "state").write_text("no directory")
    machine.new_driver()

    with pytest.raises(OSError, match="can't be"):
        machine.driver.prepare(task)

    assert machine.made == 0


def test_a_crash_between_note_and_making_is_harmless(machine: Machine) -> None:
    before = machine.discover()
    task = machine.tasks()[0]
    machine.driver.prepare(task)
    machine.kernel.reboot()     # as if it had never been made: the note alone is there

    machine.new_driver()
    assert machine.discover() == before
    machine.driver.remove_unneeded({task.handle_uuid})

    assert machine.records == {}


class Waits:
    def __init__(self, machine: Machine, opens_after: int = 99) -> None:
        self.seconds: list[float] = []
        self.machine = machine
        self.opens_after = opens_after

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) >= self.opens_after:
            self.machine.kernel.open_groups.clear()


def works(machine: Machine, waits: Waits) -> list[Any]:
    environment = machine.driver.environment
    records = handle_records.HandleRecords(environment.state_path, "nvidia_gpu_driver")
    return [mdev_work.MdevWork(environment, records, wait=waits),
            vendor_vfio_work.VfWork(environment, records, vendor_vfio.Catalogue(), wait=waits)]


@pytest.mark.parametrize("opens_after", [2, 99])
def test_what_a_guest_has_open_is_waited_for_and_not_torn_away(
        machine: Machine, opens_after: int) -> None:
    task = machine.tasks()[0]
    machine.driver.prepare(task)
    machine.kernel.open_groups = {str(number) for number in range(2000)}
    waits = Waits(machine, opens_after)
    mdevs, functions = works(machine, waits)
    work = mdevs if task.type == "MDEV" else functions

    if opens_after == 99:
        with vgpu_machines.nothing_written(machine.kernel), pytest.raises(
                mdev_work.WorkFailed, match="a guest has it open"):
            work.clean(task)
    else:
        work.clean(task)

    assert machine.made == (1 if opens_after == 99 else 0)
    assert sum(waits.seconds) <= 10


def test_a_guest_that_is_just_going_down_is_waited_for(machine: Machine) -> None:
    task = machine.tasks()[0]
    machine.driver.prepare(task)
    machine.kernel.refusals = {
        "remove_mdev": [OSError(errno.EAGAIN, "Try again"), OSError(errno.EBUSY, "Busy")],
        "set_vgpu_type": [OSError(errno.EPERM, "Operation not permitted")] * 2}
    waits = Waits(machine)
    mdevs, functions = works(machine, waits)

    (mdevs if task.type == "MDEV" else functions).clean(task)

    assert machine.made == 0
    assert len(waits.seconds) == 2


def test_a_late_clean_does_not_take_somebody_elses_type(tmp_path: pathlib.Path) -> None:
    machine = Machine(tmp_path, WAYS["vendor VFIO"]())
    task = machine.tasks()[0]
    machine.driver.prepare(task)
    machine.kernel.set_vgpu_type("0000:41:00.2", 0)
    machine.kernel.set_vgpu_type("0000:41:00.2", 1520)

    with pytest.raises(mdev_work.WorkFailed, match="did not set for the"):
        machine.driver.clean(task)

    assert machine.kernel.types_set() == {"0000:41:00.2": 1520}


def test_with_nova_making_them_the_agent_only_looks(tmp_path: pathlib.Path) -> None:
    machine = Machine(tmp_path, WAYS["mdev on functions"]())
    machine.options["mdev"] = {"created_by": "nova"}
    machine.new_driver()
    before = machine.discover()
    task = machine.tasks()[0]

    with vgpu_machines.nothing_written(machine.kernel):
        machine.driver.prepare(task)
    machine.kernel.create_mdev("0000:41:00.4", task.info["asked_type"], task.handle_uuid)
    assert machine.discover() == before
    with vgpu_machines.nothing_written(machine.kernel):
        machine.driver.clean(task)

    # Nova's device is still there: it is no stranger's, and the next tenant may have it
    assert machine.discover() == before
    machine.kernel.remove_mdev(task.handle_uuid)
    machine.driver.clean(task)
    assert machine.records == {}


def test_with_nova_making_them_a_full_card_is_refused(tmp_path: pathlib.Path) -> None:
    machine = Machine(tmp_path, WAYS["mdev on the card"]())
    tasks = machine.tasks()
    for _ in range(4):
        machine.make_foreign()
    machine.options["mdev"] = {"created_by": "nova"}

    with pytest.raises(mdev_work.WorkFailed, match="no room"):
        machine.new_driver().prepare(tasks[0])
