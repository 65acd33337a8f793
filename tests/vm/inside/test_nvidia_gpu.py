# SPDX-License-Identifier: Apache-2.0
"""nvidia_gpu_driver on a card with vGPUs, in each of the three ways, told apart by sysfs alone.

The card is our own kernel module's; what a reader of /sys sees of its ids is a disguise.
"""

from __future__ import annotations

import contextlib

import pytest

from cyborg_lite.drivers import mdev_work
from cyborg_lite.drivers import nvidia_gpu
from tests.vm.inside import agent
from tests.vm.inside import kernel
from tests.vm.inside import lab

IDS = ("10de", "20f1", "030200")
VFS = 6


def wish(vgpu_type):
    return {"gpu_devices": {"enabled_vgpu_types": [vgpu_type]}}


@pytest.fixture
def hosted(tmp_path):
    with kernel.no_mdevs_after():
        yield lambda **wishes: agent.Agent(nvidia_gpu.NvidiaGpuDriver, tmp_path / "state",
                                           **wishes)


@pytest.fixture
def card():
    """A card that is the parent of mediated devices itself."""
    with kernel.disguised(lab.CARD, *IDS):
        yield lab.CARD


@contextlib.contextmanager
def virtualized(**how):
    with kernel.vendor_vfio(lab.NIC, VFS, **how) as found, contextlib.ExitStack() as stack:
        for address in (lab.NIC, *found):
            stack.enter_context(kernel.disguised(address, *IDS))
        yield found


@pytest.fixture
def card_of_parents():
    """A card whose virtual functions are the parents; yields their addresses."""
    with virtualized(mdevs=True) as found:
        yield found


@pytest.fixture
def card_of_vfs():
    """A card whose virtual functions have a type each; yields their addresses."""
    with virtualized() as found:
        yield found


def addresses(host, address):
    return ["{domain}:{bus}:{device}.{function}".format_map(handle.info)
            for handle in host.handles(address)]


def current(address):
    return kernel.text(kernel.place(address) / "nvidia/current_vgpu_type")


def test_a_card_of_mediated_devices_is_offered_as_what_fits(hosted, card):
    host = hosted(options=wish("L1-2C"))
    assert set(host.discover()) == {card}
    assert [handle.info["asked_type"] for handle in host.handles(card)] == ["nvidia-472"] * 2


def test_mediated_devices_of_a_card_run_out_and_go(hosted, card):
    host = hosted(options=wish("nvidia-472"))
    host.discover()
    tasks = host.tasks(card)
    for task in tasks:
        host.driver.prepare(task)
    assert {kernel.mdev_kind(task.handle_uuid) for task in tasks} == {(card, "nvidia-472")}
    with pytest.raises(mdev_work.WorkFailed, match="no room"):
        host.driver.prepare(host.task(card, host.handles(card)[0]))
    for task in tasks:
        host.driver.clean(task)
    assert kernel.available(card, "nvidia-471") == lab.FRAMES


def test_without_configuration_a_type_is_chosen(hosted, card):
    host = hosted()
    host.discover()
    assert {handle.info["asked_type"] for handle in host.handles(card)} == {"nvidia-471"}


def test_virtual_functions_that_are_parents_are_offered_as_often_as_the_card_holds(
        hosted, card_of_parents):
    host = hosted(options=wish("L1-2C"))
    assert set(host.discover()) == {lab.NIC}
    assert len(host.handles(lab.NIC)) == 2
    assert set(addresses(host, lab.NIC)) < set(card_of_parents)
    for task in host.tasks(lab.NIC):
        host.driver.prepare(task)
    assert [kernel.available(each, "nvidia-472") for each in card_of_parents] == [0] * VFS
    with kernel_refuses():
        kernel.create_mdev(card_of_parents[-1], "nvidia-472",
                           "8d0a5f3a-7d9d-4c4d-93a5-8b3b1f0f0a01")
    host.discover()
    assert len(host.handles(lab.NIC)) == 2


@contextlib.contextmanager
def kernel_refuses():
    with pytest.raises(OSError, match="No space left"):
        yield


def test_virtual_functions_with_a_type_are_set_and_cleared(hosted, card_of_vfs):
    host = hosted(options=wish("L1-4C"))
    assert set(host.discover()) == {lab.NIC}
    task, = host.tasks(lab.NIC)
    where, = addresses(host, lab.NIC)
    assert where in card_of_vfs
    for _ in range(2):
        host.driver.prepare(task)
        assert current(where) == "473"
    for _ in range(2):
        host.driver.clean(task)
        assert current(where) == "0"


def test_a_full_card_takes_no_other_vgpu(hosted, card_of_vfs):
    host = hosted(options=wish("L1-4C"))
    host.discover()
    task, = host.tasks(lab.NIC)
    others = [each for each in card_of_vfs if each not in addresses(host, lab.NIC)]
    kernel.write(kernel.place(others[0]) / "nvidia/current_vgpu_type", "473")
    with pytest.raises(mdev_work.WorkFailed, match="no room for a vGPU of type L1-4C"):
        host.driver.prepare(task)
    kernel.write(kernel.place(others[0]) / "nvidia/current_vgpu_type", "0")
    host.driver.prepare(task)
    assert "473" in {current(each) for each in card_of_vfs}
    host.driver.remove_unneeded([task.handle_uuid])
    assert {current(each) for each in card_of_vfs} == {"0"}


def test_a_card_on_vfio_pci_is_offered_whole(hosted):
    with kernel.bound(lab.CARD, "vfio-pci"), kernel.disguised(lab.CARD, *IDS):
        host = hosted()
        found = host.discover()
    assert [each.resource_class for each in found[lab.CARD].deployables] == ["PGPU"]


def test_a_card_with_virtual_functions_and_no_vgpus_is_not_offered(hosted):
    with kernel.bound(lab.NIC, "nvidia"), kernel.vfs(lab.NIC, 2, probe=False) as found:
        with contextlib.ExitStack() as stack:
            for address in (lab.NIC, *found):
                stack.enter_context(kernel.disguised(address, *IDS))
            host = hosted()
            assert host.discover() == {}
    assert set(host.withheld) == {lab.NIC, *found}
