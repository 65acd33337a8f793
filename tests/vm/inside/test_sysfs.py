# SPDX-License-Identifier: Apache-2.0
"""The reader of sysfs on a real /sys. What it makes of recorded trees is tested elsewhere."""

from __future__ import annotations

import pytest

from cyborg_lite.drivers import sysfs
from tests.vm.inside import kernel
from tests.vm.inside import lab


@pytest.fixture
def reader():
    return sysfs.Sysfs()


def test_every_function_is_read_as_its_files_have_it(reader):
    found = {each.address: each for each in reader.pci_functions()}
    assert set(found) == {path.name for path in (kernel.PCI / "devices").iterdir()}
    for address, function in found.items():
        place = kernel.place(address)
        assert f"0x{function.vendor}" == kernel.text(place / "vendor")
        assert f"0x{function.product}" == kernel.text(place / "device")
        assert f"0x{function.class_code}" == kernel.text(place / "class")
        assert f"0x{function.subsystem_vendor}" == kernel.text(place / "subsystem_vendor")
        assert function.driver == kernel.driver_of(address)
        assert str(function.iommu_group) == kernel.iommu_group(address)


def test_a_virtual_function_names_its_parent_and_has_its_numa_node(reader):
    with kernel.vfs(lab.NIC, 2) as found:
        parent = reader.pci_function(lab.NIC)
        assert (parent.total_vfs, parent.num_vfs) == (lab.NIC_VFS, 2)
        assert parent.numa_node == lab.FAR_NODE
        for address in found:
            function = reader.pci_function(address)
            assert (function.physfn, function.numa_node) == (lab.NIC, lab.FAR_NODE)
            assert function.is_virtual


def test_a_pass_opens_each_path_once(reader):
    reader.pci_functions()
    once = reader.operations
    reader.pci_functions()
    assert reader.operations == once
    assert once < 12 * len(reader.pci_functions())


def test_a_device_that_goes_is_noticed_in_the_next_pass_only(reader):
    assert reader.pci_function(lab.OTHER_CARD) is not None
    kernel.write(kernel.place(lab.OTHER_CARD) / "remove", "1")
    try:
        assert reader.pci_function(lab.OTHER_CARD) is not None
        reader.begin_pass()
        assert reader.pci_function(lab.OTHER_CARD) is None
    finally:
        kernel.write(kernel.PCI / "rescan", "1")


def test_a_file_that_only_root_may_write_reads_as_absent(reader):
    assert reader.text(f"{sysfs.PCI_DEVICES}/{lab.CARD}/remove") is None
