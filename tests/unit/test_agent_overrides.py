# SPDX-License-Identifier: Apache-2.0
"""Functions that an ARQ holds are on their kernel driver again once an agent has started."""

from __future__ import annotations

import pathlib

import pytest

from cyborg_lite import buses
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.agent import hardware
from cyborg_lite.agent import restoring
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import intel_nic
from cyborg_lite.drivers import nvme_records
from cyborg_lite.drivers import nvme_ssd
from cyborg_lite.drivers import pci
from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import sysfs
from tests.drivers import machines
from tests.drivers import played_kernel
from tests.fixtures.scripted import Catalogue

NIC = "0000:41:00.0"
VF = "0000:41:00.1"
WHOLE = "{match: {vendor_id: 8086}, driver_override: vfio-pci}"
VFS = "{match: {vendor_id: 8086}, offer: vf, num_vfs: 2, driver_override: vfio-pci}"
DRIVERS: dict[str, type[base.Driver]] = {
    "pci_driver": pci.PciDriver, "intel_nic_driver": intel_nic.IntelNicDriver,
    "nvme_ssd_driver": nvme_ssd.NvmeSsdDriver}


CATALOGUE = Catalogue(**DRIVERS)


class Conductor:
    """Knows one handle that is held, and counts how often it is asked."""

    def __init__(self, driver: str, address: str) -> None:
        self.asked = 0
        self.task = messages.HandleTask(
            handle_uuid="u", deployable_name=address, device_address=address, driver=driver,
            type="PCI", info=handle_slots.address_info(address), instance_uuid="i")

    @buses.exposed
    def host_intent(self, host: str) -> messages.HostIntent:
        self.asked += 1
        return messages.HostIntent(prepare=[self.task])


class Host:
    """A machine on which an agent starts with one driver and one entry in its device file."""

    def __init__(self, folder: pathlib.Path, driver: str, entry: str, held: str,
                 *functions: list[recorded.Entry]) -> None:
        self.root = machines.tree(folder, *functions).root
        self.kernel = played_kernel.PlayedKernel(self.root)
        self.conductor = Conductor(driver, held)
        bus = buses.LocalBus()
        bus.serve(rpc.CONDUCTOR_TOPIC, "c1", self.conductor)
        name, entries = device_files.parse(
            f"version: 1\ndriver: {driver}\ndevices: [{entry}]\n", "file.yaml")
        machine = hardware.Hardware(
            [driver], {}, hardware.Place(sysfs_root=self.root, proc_root=str(folder / "proc"),
                                         state_path=str(folder / "state")), CATALOGUE,
            files=device_files.DeviceFiles({name: entries}), host=self.kernel)
        restoring.Restoration("node7", rpc.ConductorClient(bus, 30.0)).restore(machine)

    def driver_of(self, address: str) -> str | None:
        function = sysfs.Sysfs(self.root).pci_function(address)
        return function.driver if function else None


def a_nic(driver: str = "i40e") -> list[recorded.Entry]:
    return machines.a_function(NIC, vendor="8086", product="1572", code="020000", driver=driver,
                               total_vfs=4)


@pytest.mark.parametrize(("driver", "entry", "held"), [
    ("pci_driver", WHOLE, NIC), ("pci_driver", VFS, VF),
    ("intel_nic_driver", WHOLE, NIC), ("intel_nic_driver", VFS, VF)])
def test_after_a_reboot_a_held_function_is_taken_from_the_hosts_driver_again(
        tmp_path: pathlib.Path, driver: str, entry: str, held: str) -> None:
    host = Host(tmp_path, driver, entry, held, a_nic())

    assert host.driver_of(held) == "vfio-pci"


def test_after_a_reboot_a_servers_disk_is_taken_from_the_hosts_driver_again(
        tmp_path: pathlib.Path) -> None:
    disk = machines.a_function(NIC, vendor="1bd4", code="010802", driver="nvme")
    nvme_records.Records(str(tmp_path / "state")).put(
        NIC, stage=nvme_records.GIVEN, instance="i")
    mounts = tmp_path / "proc/1/mountinfo"
    mounts.parent.mkdir(parents=True)
    mounts.write_text("9 1 8:1 / / rw - ext4 /dev/sda1 rw\n")

    host = Host(tmp_path, "nvme_ssd_driver",
                "{match: {vendor_id: 1bd4}, driver_override: vfio-pci}", NIC, disk,
                machines.a_disk(f"pci0000:41/{NIC}/nvme/nvme0"))

    assert host.driver_of(NIC) == "vfio-pci"


@pytest.mark.parametrize("driver", ["pci_driver", "intel_nic_driver"])
def test_the_function_of_a_server_that_runs_is_not_touched(
        tmp_path: pathlib.Path, driver: str) -> None:
    host = Host(tmp_path, driver, WHOLE, NIC, a_nic("vfio-pci"))

    assert host.conductor.asked == 1
    assert host.kernel.written == []


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_who_puts_nothing_on_another_driver_asks_nobody_what_is_held(
        tmp_path: pathlib.Path, driver: str) -> None:
    host = Host(tmp_path, driver, "{match: {vendor_id: 8086}}", NIC, a_nic())

    assert host.conductor.asked == 0
    assert host.kernel.written == []
