# SPDX-License-Identifier: Apache-2.0
"""What the host itself, or a guest, does with a function, told from the real /sys and /proc."""

from __future__ import annotations

import subprocess

import pytest

from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import usage
from tests.vm.inside import disks
from tests.vm.inside import kernel
from tests.vm.inside import lab


@pytest.fixture
def reason():
    """Return why the host uses a function, read anew at each call."""
    def ask(address):
        reader = sysfs.Sysfs()
        return usage.HostUse(reader).of(reader.pci_function(address))

    return ask


def test_the_disk_of_the_root_file_system_is_in_use(reason):
    assert reason(lab.ROOT_DISK) == "its disk vda is mounted at /"


def test_an_idle_disk_is_in_no_use(reason):
    assert reason(lab.NVME) is None
    assert reason(lab.PLUGGED) is None


def test_a_mounted_namespace_puts_its_controller_in_use(reason):
    disk = disks.disk(lab.NVME, 2)
    with disks.mounted(disk) as target:
        assert reason(lab.NVME) == f"its disk {disk.name} is mounted at {target}"
        assert reason(lab.PLUGGED) is None
    assert reason(lab.NVME) is None


def test_a_mounted_partition_puts_its_disk_in_use(reason):
    disk = disks.disk(lab.PLUGGED, 1)
    with disks.partition(disk) as part, disks.mounted(part) as target:
        assert reason(lab.PLUGGED) == f"its disk {part.name} is mounted at {target}"


def test_swap_space_is_in_use(reason):
    disk = disks.disk(lab.NVME, 1)
    subprocess.run(["busybox", "mkswap", str(disk)], check=True)
    subprocess.run(["busybox", "swapon", str(disk)], check=True)
    try:
        assert reason(lab.NVME) == f"its disk {disk.name} is swap space"
    finally:
        subprocess.run(["busybox", "swapoff", str(disk)], check=True)
        disks.fill(disk, bytes(4096), 1 << 20)


def test_an_interface_that_is_up_is_in_use(reason):
    name, = kernel.interfaces(lab.NIC)
    assert reason(lab.NIC) is None
    with kernel.interface_up(name):
        assert reason(lab.NIC) == f"its interface {name} is up"


def test_an_open_function_is_in_a_guest():
    with kernel.vfs(lab.NIC, 2, probe=False) as (one, other):
        for address in (one, other):
            kernel.bind(address, "vfio-pci")
        with kernel.open_in_vfio(one):
            reader = sysfs.Sysfs()
            host = usage.HostUse(reader)
            assert "a guest has it" in host.of_guest(reader.pci_function(one))
            assert host.of_guest(reader.pci_function(other)) is None
