# SPDX-License-Identifier: Apache-2.0
"""pci_driver on a real /sys: what it offers, and what it withholds for which reason."""

from __future__ import annotations

import json

import pytest

from cyborg_lite.drivers import base
from cyborg_lite.drivers import pci
from cyborg_lite.drivers import pci_work
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import virtual_functions
from tests.vm.inside import agent
from tests.vm.inside import disks
from tests.vm.inside import kernel
from tests.vm.inside import lab

EDU = {"vendor_id": "1234", "product_id": "11e8"}
NIC = {"vendor_id": "8086", "product_id": "10c9"}
NIC_VF = {"vendor_id": "8086", "product_id": "10ca"}


def discovered(*specs):
    """Return the offered devices by address, and what is withheld with the reason."""
    options = {"pci": {"device_spec": [json.dumps(each) for each in specs]}}
    driver = pci.PciDriver(base.Environment(sysfs=sysfs.Sysfs(), options=options))
    devices = {device.address: device for device in driver.discover()}
    return devices, driver.withheld


def test_a_function_is_offered_once_vfio_pci_has_it():
    offered, withheld = discovered(EDU)
    assert offered == {}
    assert "the host's nvidia driver has it" in withheld[lab.CARD]
    with kernel.bound(lab.CARD, "vfio-pci"):
        offered, withheld = discovered(EDU)
    assert list(offered) == [lab.CARD]
    assert lab.CARD not in withheld


def test_a_function_in_a_guest_stays_reported():
    with kernel.bound(lab.CARD, "vfio-pci"), kernel.open_in_vfio(lab.CARD):
        offered, _ = discovered(EDU)
    assert list(offered) == [lab.CARD]


def test_half_an_iommu_group_is_not_offered():
    first, second = lab.PAIR
    with kernel.bound(first, "vfio-pci"):
        offered, withheld = discovered(EDU)
    assert offered == {}
    assert f"with {second}, which the host's nvidia driver uses" in withheld[first]


def test_an_iommu_group_is_offered_once():
    first, second = lab.PAIR
    with kernel.bound(first, "vfio-pci"), kernel.bound(second, "vfio-pci"):
        offered, withheld = discovered(EDU)
    assert list(offered) == [first]
    assert "goes to one guest as a whole" in withheld[second]


def test_a_card_with_virtual_functions_is_offered_as_these():
    with kernel.vfs(lab.NIC, 3, probe=False) as found:
        offered, withheld = discovered(NIC, NIC_VF)
        assert sorted(offered) == sorted(found)
    assert "its virtual functions are enabled (3 of them)" in withheld[lab.NIC]
    assert {device.numa_node for device in offered.values()} == {lab.FAR_NODE}


def test_an_idle_card_without_virtual_functions_is_offered_whole():
    offered, _ = discovered(NIC, NIC_VF)
    assert list(offered) == [lab.NIC]


def test_an_interface_that_is_up_is_not_offered():
    with kernel.vfs(lab.NIC, 2) as (first, second):
        name, = kernel.interfaces(first)
        with kernel.interface_up(name):
            offered, withheld = discovered(NIC_VF)
        assert list(offered) == [second]
        assert withheld[first] == f"its interface {name} is up"


def test_disks_of_the_host_are_not_offered():
    offered, withheld = discovered({"vendor_id": "1af4"}, {"vendor_id": "1b36"})
    assert offered == {}
    assert {lab.ROOT_DISK, lab.NVME, lab.PLUGGED} <= set(withheld)


def test_a_vendor_means_no_bridges_and_one_named_gets_an_answer():
    offered, withheld = discovered({"vendor_id": "8086"})
    assert lab.LPC_BRIDGE not in {*offered, *withheld}
    _, withheld = discovered({"address": lab.LPC_BRIDGE})
    assert withheld[lab.LPC_BRIDGE] == "it is a bridge"


def test_a_card_on_vfio_pci_that_is_pulled_is_not_reported():
    with kernel.bound(lab.CARD, "vfio-pci"):
        kernel.write(kernel.place(lab.CARD) / "remove", "1")
        try:
            offered, withheld = discovered({"address": lab.CARD})
        finally:
            kernel.write(kernel.PCI / "rescan", "1")
    assert offered == {}
    assert withheld[lab.CARD] == "there is no such function"


# --- what device files ask for -----------------------------------------------------------------


@pytest.fixture
def hosted(tmp_path):
    return lambda entries: agent.Agent(pci.PciDriver, tmp_path / "state", entries=entries)


@pytest.fixture
def no_vfs_after():
    yield
    kernel.write(kernel.place(lab.NIC) / "sriov_numvfs", "0")


def test_virtual_functions_are_made_once_and_offered(hosted, no_vfs_after):
    host = hosted(f"  - match: {{address: '{lab.NIC}'}}\n    offer: vf\n    num_vfs: 3\n")
    assert host.arrange() is True
    assert len(kernel.vfs_of(lab.NIC)) == 3
    assert host.arrange() is False
    assert sorted(host.discover()) == sorted(kernel.vfs_of(lab.NIC))


def test_virtual_functions_that_are_there_are_never_shrunk(hosted, no_vfs_after):
    kernel.write(kernel.place(lab.NIC) / "sriov_numvfs", "4")
    host = hosted(f"  - match: {{address: '{lab.NIC}'}}\n    offer: vf\n    num_vfs: 2\n")
    with pytest.raises(virtual_functions.Impossible, match="may belong to guests"):
        host.arrange()
    assert len(kernel.vfs_of(lab.NIC)) == 4


def test_a_function_is_put_on_vfio_pci_when_it_is_needed(hosted):
    host = hosted(f"  - match: {{address: '{lab.CARD}'}}\n    driver_override: vfio-pci\n")
    host.discover()
    assert kernel.driver_of(lab.CARD) == "nvidia", "discovery must change nothing"
    task, = host.tasks(lab.CARD)
    try:
        for _ in range(2):
            host.driver.prepare(task)
            assert kernel.driver_of(lab.CARD) == "vfio-pci"
    finally:
        kernel.bind(lab.CARD, "")


def test_what_shares_an_iommu_group_moves_together(hosted):
    host = hosted("".join(f"  - match: {{address: '{address}'}}\n    driver_override: vfio-pci\n"
                          for address in lab.PAIR))
    host.discover()
    task, = host.tasks(lab.PAIR[0])
    try:
        host.driver.prepare(task)
        assert [kernel.driver_of(each) for each in lab.PAIR] == ["vfio-pci"] * 2
        with kernel.open_in_vfio(lab.PAIR[0]):
            pass
    finally:
        for each in lab.PAIR:
            kernel.bind(each, "")


def test_a_disk_is_not_taken_from_a_file_system(hosted):
    host = hosted(f"  - match: {{address: '{lab.PLUGGED}'}}\n    driver_override: vfio-pci\n")
    host.discover()
    task, = host.tasks(lab.PLUGGED)
    with disks.mounted(disks.disk(lab.PLUGGED, 1)):
        with pytest.raises(pci_work.Refused, match="is mounted at"):
            host.driver.prepare(task)
        host.discover()
        assert "is mounted at" in host.withheld[lab.PLUGGED]
    assert kernel.driver_of(lab.PLUGGED) == "nvme"


def test_a_virtual_function_is_reset_between_guests_and_not_in_one(hosted):
    host = hosted(f"  - match: {{address: '{lab.NIC}'}}\n    offer: vf\n    clean: reset\n")
    with kernel.vfs(lab.NIC, 1, probe=False) as (one,):
        kernel.bind(one, "vfio-pci")
        host.discover()
        task, = host.tasks(one)
        host.driver.clean(task)
        with kernel.open_in_vfio(one), pytest.raises(pci_work.Refused, match="a guest has it"):
            host.driver.clean(task)
