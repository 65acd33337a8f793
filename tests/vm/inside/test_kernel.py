# SPDX-License-Identifier: Apache-2.0
"""What the drivers rely on is what this kernel does. No code of cyborg_lite runs here."""

from __future__ import annotations

import errno
import uuid

import pytest

from tests.vm.inside import disks
from tests.vm.inside import host
from tests.vm.inside import kernel
from tests.vm.inside import lab

PATTERN = b"a tenant's data "
LENGTH = 64 << 10


def refusal(path, value):
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is what is asked for
        kernel.write(path, value)
    return caught.value.errno


def test_each_device_of_the_lab_is_there_with_an_iommu_group():
    wanted = {lab.CARD, lab.OTHER_CARD, *lab.PAIR, lab.NVME, lab.PLUGGED, lab.NIC, lab.ROOT_DISK}
    for address in wanted:
        assert kernel.iommu_group(address)
    assert kernel.iommu_group(lab.PAIR[0]) == kernel.iommu_group(lab.PAIR[1])
    assert kernel.iommu_group(lab.CARD) != kernel.iommu_group(lab.OTHER_CARD)


def test_a_count_of_virtual_functions_is_changed_by_way_of_zero():
    count = kernel.place(lab.NIC) / "sriov_numvfs"
    assert refusal(count, str(lab.NIC_VFS + 1)) == errno.ERANGE
    with kernel.vfs(lab.NIC, 2) as found:
        assert [kernel.driver_of(each) for each in found] == ["igbvf", "igbvf"]
        assert refusal(count, "3") == errno.EBUSY
        kernel.write(count, "2")
    assert kernel.vfs_of(lab.NIC) == []


def test_a_virtual_function_on_vfio_pci_can_be_opened():
    with kernel.vfs(lab.NIC, 1, probe=False) as (one,):
        assert kernel.driver_of(one) is None
        kernel.bind(one, "vfio-pci")
        enabled = kernel.place(one) / "enable"
        assert kernel.text(enabled) == "0"
        with kernel.open_in_vfio(one):
            assert kernel.text(enabled) == "1"
        assert kernel.text(enabled) == "0"


def test_an_override_to_vfio_pci_is_taken_back():
    with kernel.bound(lab.CARD, "vfio-pci"):
        assert kernel.driver_of(lab.CARD) == "vfio-pci"
        assert lab.CARD not in [path.name for path in kernel.PARENTS.iterdir()]
    assert kernel.driver_of(lab.CARD) == "nvidia"


def test_mediated_devices_run_out_and_none_is_made_twice():
    create = kernel.PARENTS / "mtty/mdev_supported_types/mtty-2/create"
    with kernel.no_mdevs_after():
        made = [str(uuid.uuid4()) for _ in range(lab.MTTY_PORTS // lab.MTTY_TYPES["mtty-2"])]
        for name in made:
            kernel.create_mdev("mtty", "mtty-2", name)
        assert kernel.available("mtty", "mtty-1") == 0
        assert refusal(create, str(uuid.uuid4())) == errno.ENOSPC
        assert refusal(create, made[0]) == errno.EEXIST
        assert refusal(create, "no uuid") == errno.EINVAL
    assert kernel.available("mtty", "mtty-1") == lab.MTTY_PORTS


def test_a_card_holds_one_type_of_mediated_device_at_a_time():
    with kernel.mdev(lab.CARD, "nvidia-472"):
        assert kernel.available(lab.CARD, "nvidia-472") == 1
        assert kernel.available(lab.CARD, "nvidia-471") == 0
        assert kernel.available(lab.OTHER_CARD, "nvidia-471") == lab.FRAMES


def test_virtual_functions_with_mdevs_share_what_their_card_holds():
    with kernel.vendor_vfio(lab.NIC, 5, mdevs=True) as found:
        assert [kernel.available(each, "nvidia-472") for each in found] == [1] * 5
        with kernel.mdev(found[0], "nvidia-472"), kernel.mdev(found[1], "nvidia-472"):
            assert [kernel.available(each, "nvidia-472") for each in found] == [0] * 5


def test_virtual_functions_with_a_type_of_their_own_share_what_their_card_holds():
    with kernel.vendor_vfio(lab.NIC, 3) as found:
        files = [kernel.place(each) / "nvidia" for each in found]
        assert "471   : NVIDIA Lab  L1-1C" in kernel.text(files[0] / "creatable_vgpu_types")
        kernel.write(files[0] / "current_vgpu_type", "473")
        assert kernel.text(files[0] / "current_vgpu_type") == "473"
        assert kernel.text(files[1] / "creatable_vgpu_types") == ""
        assert refusal(files[1] / "current_vgpu_type", "471") == errno.EIO
        kernel.write(files[0] / "current_vgpu_type", "0")
        assert kernel.text(files[1] / "creatable_vgpu_types").count(" : ") == 1 + len(
            lab.VGPU_TYPES)


@pytest.mark.parametrize("erase", ["1", "2"])
def test_a_format_erases_its_namespace_and_no_other(erase):
    devices = {nsid: disks.disk(lab.NVME, nsid) for nsid in (1, 2)}
    for path in devices.values():
        disks.fill(path, PATTERN, LENGTH)
    assert PATTERN in host.backing(lab.NVME_BACKING[1], 0, LENGTH)
    disks.nvme("format", str(devices[1]), f"--ses={erase}", "--force")
    assert PATTERN not in host.backing(lab.NVME_BACKING[1], 0, LENGTH)
    assert host.backing(lab.NVME_BACKING[2], 0, LENGTH) == PATTERN * (LENGTH // len(PATTERN))


def test_a_reader_sees_the_ids_of_a_disguise():
    with kernel.disguised(lab.CARD, "10de", "20f1", "030200"):
        assert kernel.text(kernel.place(lab.CARD) / "vendor") == "0x10de"
        assert "PCI_ID=10DE:20F1" in kernel.text(kernel.place(lab.CARD) / "uevent")
    assert kernel.text(kernel.place(lab.CARD) / "vendor") == "0x1234"


def test_a_pulled_device_goes_and_comes_back(events):
    host.pull("plugged")
    events.wait("remove", lab.PLUGGED)
    assert not kernel.place(lab.PLUGGED).exists()
    host.plug("plugged")
    events.wait("bind", lab.PLUGGED)
    kernel.until(lambda: disks.disk(lab.PLUGGED, 1).exists())
