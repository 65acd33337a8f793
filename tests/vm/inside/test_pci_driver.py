# SPDX-License-Identifier: Apache-2.0
"""pci_driver on a real /sys: what it offers, and what it withholds for which reason."""

from __future__ import annotations

import json

from cyborg_lite.drivers import base
from cyborg_lite.drivers import pci
from cyborg_lite.drivers import sysfs
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
