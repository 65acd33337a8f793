# SPDX-License-Identifier: Apache-2.0
"""mdev_driver on parents of any vendor: types, capacity, host work, who makes the devices.

The kernel's part is played; on a real kernel the samples are tested in tests/vm.
"""

from __future__ import annotations

import pathlib
import uuid
from typing import Any

import pytest

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import mdev
from cyborg_lite.drivers import mdev_work
from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import sysfs
from tests.drivers import vgpu_machines

Entry = recorded.Entry


def a_parent(name: str, place: str, **types: int) -> list[Entry]:
    """A virtual parent with these types and how many of each fit."""
    found = [Entry(f"class/mdev_bus/{name}", "link", f"../../{place}")]
    for type_id, number in types.items():
        folder = f"{place}/mdev_supported_types/{type_id.replace('_', '-')}"
        found += [Entry(f"{folder}/name", "file", f"{type_id}\n"),
                  Entry(f"{folder}/available_instances", "file", f"{number}\n"),
                  Entry(f"{folder}/description", "file", f"max_instance={number}\n"),
                  Entry(f"{folder}/device_api", "file", "vfio-pci\n"),
                  Entry(f"{folder}/create", "unreadable"),
                  Entry(f"{folder}/devices", "directory")]
    return found


class Host:
    def __init__(self, folder: pathlib.Path, *entries: list[Entry],
                 claimed: set[str] | None = None, entry: device_config.Entry | None = None,
                 **options: Any) -> None:
        manifest = folder / "machine.sysfs"
        manifest.write_text(recorded.write(one for group in entries for one in group))
        root = recorded.unpack(manifest, folder / "sys")
        self.kernel = vgpu_machines.Gpus(root)
        self.driver = mdev.MdevDriver(base.Environment(
            sysfs.Sysfs(root), {"mdev": options}, claimed or set(),
            devices=device_config.DeviceConfig((entry,) if entry else ()),
            state_path=str(folder / "state"), host=self.kernel))

    def discover(self) -> list[messages.ReportedDevice]:
        self.driver.environment.sysfs.begin_pass()
        return self.driver.discover()

    def tasks(self) -> list[messages.HandleTask]:
        return [messages.HandleTask(
            handle_uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, handle.info["vgpu_mark"])),
            deployable_name=device.address, device_address=device.address, driver="mdev_driver",
            type=handle.type, info=handle.info)
            for device in self.discover() for handle in device.deployables[0].handles]


MTTY = a_parent("mtty", "devices/virtual/mtty/mtty", mtty_1=24, mtty_2=12)
MATRIX = a_parent("matrix", "devices/vfio_ap/matrix", vfio_ap_passthrough=65536)


def test_a_virtual_parent_is_a_device_of_its_own(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, MTTY, enabled_types=["mtty-1"])

    [device] = host.discover()

    assert (device.address, device.type, device.pci_address) == ("mtty", "PCI", None)
    [deployable] = device.deployables
    assert deployable.resource_class == "CUSTOM_MDEV"
    assert deployable.traits == ["CUSTOM_MDEV_MTTY_1"]
    assert len(deployable.handles) == 24
    assert deployable.handles[0].info == {
        "parent": "mtty", "asked_type": "mtty-1", "vgpu_mark": "mtty-1_0"}


def test_devices_are_made_and_removed_by_the_handles_uuid(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, MTTY, enabled_types=["mtty-2"])
    before = host.discover()
    tasks = host.tasks()

    for task in (tasks[11], tasks[3]):
        host.driver.prepare(task)
        host.driver.prepare(task)
    made = host.kernel.mdevs()
    during = host.discover()
    for task in (tasks[3], tasks[11]):
        host.driver.clean(task)
        host.driver.clean(task)

    assert made == sorted([tasks[3].handle_uuid, tasks[11].handle_uuid])
    assert before == during == host.discover()
    assert host.kernel.mdevs() == []


def test_the_handle_of_a_suspended_server_is_reported_also_when_others_take_its_room(
        tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, MTTY, enabled_types=["mtty-2"])
    last = host.tasks()[11]
    host.driver.prepare(last)

    for _ in range(2):
        host.driver.take_down(last)
    away = host.kernel.mdevs()
    host.kernel.create_mdev("mtty", "mtty-2", str(uuid.uuid4()))
    reported = [task.info for task in host.tasks()]
    host.driver.prepare(last)

    assert away == []
    assert last.info in reported
    assert len(reported) == 11
    assert last.handle_uuid in host.kernel.mdevs()
    host.driver.clean(last)
    assert last.handle_uuid not in host.driver.made()


def test_handles_are_in_the_order_of_their_numbers(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, MTTY, enabled_types=["mtty-2"])

    marks = [task.info["vgpu_mark"] for task in host.tasks()]

    assert marks == [f"mtty-2_{number}" for number in range(12)]


def test_an_uuid_that_exists_elsewhere_is_refused(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, MTTY, a_parent("mdpy", "devices/virtual/mdpy/mdpy", mdpy_hd=4),
                enabled_types=["mtty-1"])
    task = host.tasks()[0]
    host.kernel.create_mdev("mdpy", "mdpy-hd", task.handle_uuid)

    with pytest.raises(mdev_work.WorkFailed, match="exists already"):
        host.driver.prepare(task)

    assert host.driver.made() == set()


def test_thousands_of_instances_are_cut_to_a_list_that_can_be_kept(
        tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, MATRIX, max_handles=100)

    [device] = host.discover()

    assert len(device.deployables[0].handles) == 100


def test_types_that_are_not_enabled_are_not_offered(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, MTTY, MATRIX, enabled_types=["vfio-ap-passthrough"])

    assert [device.address for device in host.discover()] == ["matrix"]
    assert "enabled_types" in host.driver.withheld["mtty"]


def test_options_of_a_type_hold_for_its_parents(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, MTTY, MATRIX, enabled_types=["mtty-2", "mtty-1"], resource_class="VGPU",
                types={"mtty-1": {"device_addresses": ["mtty"], "resource_class": "serial",
                                  "traits": ["lab"]}})

    [device] = host.discover()

    [deployable] = device.deployables
    assert deployable.resource_class == "CUSTOM_SERIAL"
    assert deployable.traits == ["CUSTOM_LAB", "CUSTOM_MDEV_MTTY_1"]


@pytest.mark.parametrize("options", [
    {"resource_class": "!"}, {"traits": ["__"]},
    {"enabled_types": ["a", "b"], "types": {"a": {"device_addresses": ["mtty"]},
                                            "b": {"device_addresses": ["mtty"]}}}])
def test_options_that_can_not_be_used_are_refused(
        tmp_path: pathlib.Path, options: dict[str, Any]) -> None:
    with pytest.raises(base.ConfigurationError):
        Host(tmp_path, MTTY, **options)


def test_a_device_file_chooses_the_type_or_keeps_the_parent_away(tmp_path: pathlib.Path) -> None:
    match = device_config.Match(address="mt*")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    chosen = Host(tmp_path / "a", MTTY, entry=device_config.Entry(
        match=match, vgpu_type="mtty-2", resource_class="CUSTOM_TTY"))
    away = Host(tmp_path / "b", MTTY, entry=device_config.Entry(match=match, offer="none"))

    assert chosen.tasks()[0].info["asked_type"] == "mtty-2"
    assert chosen.discover()[0].deployables[0].resource_class == "CUSTOM_TTY"
    assert away.discover() == []
    assert away.driver.withheld["mtty"] == device_config.NEVER


def test_a_card_of_another_driver_is_left_to_it(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, vgpu_machines.on_functions("0000:41:00.0", 1),
                claimed={"0000:41:00.0"})

    assert host.discover() == []


def test_the_functions_of_one_card_are_not_added_up(tmp_path: pathlib.Path) -> None:
    """16 virtual functions that each say 1, of a card that holds 4."""
    host = Host(tmp_path, vgpu_machines.on_functions("0000:41:00.0", 1))

    tasks = host.tasks()
    for task in tasks:
        host.driver.prepare(task.__class__(**{
            name: getattr(task, name) for name in task.__slots__ if name != "handle_uuid"},
            handle_uuid=str(uuid.uuid4())))

    assert len(tasks) == 4


def test_what_nobody_needs_is_removed_after_a_reboot_or_not(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, MTTY, enabled_types=["mtty-1"])
    stranger = str(uuid.uuid4())
    host.kernel.create_mdev("mtty", "mtty-1", stranger)
    tasks = host.tasks()[:3]
    for task in tasks:
        host.driver.prepare(task)

    host.driver.remove_unneeded(set(host.driver.made()) - {tasks[0].handle_uuid})
    host.driver.remove_unneeded({stranger})

    assert host.kernel.mdevs() == sorted([stranger, tasks[0].handle_uuid])


def test_with_nova_making_them_nothing_is_made_or_removed(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, MTTY, enabled_types=["mtty-1"], created_by="nova")
    task = host.tasks()[0]

    with vgpu_machines.nothing_written(host.kernel):
        host.driver.prepare(task)
    host.kernel.create_mdev("mtty", "mtty-1", task.handle_uuid)
    with vgpu_machines.nothing_written(host.kernel):
        host.driver.take_down(task)
        host.driver.clean(task)
        host.driver.remove_unneeded(host.driver.made())

    assert len(host.tasks()) == 24


def test_a_parent_without_a_type_it_lost_says_what_it_has(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, MTTY, enabled_types=["mtty-1"])
    task = host.tasks()[0]
    gone = messages.HandleTask(**{name: getattr(task, name) for name in task.__slots__
                                  if name != "info"}, info=task.info | {"asked_type": "mtty-9"})
    nowhere = messages.HandleTask(**{name: getattr(task, name) for name in task.__slots__
                                     if name != "info"}, info=task.info | {"parent": "../mtty"})

    with pytest.raises(mdev_work.WorkFailed, match=r"it has mtty-1, mtty-2"):
        host.driver.prepare(gone)
    with pytest.raises(mdev_work.WorkFailed, match="no parent"):
        host.driver.prepare(nowhere)
