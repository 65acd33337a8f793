# SPDX-License-Identifier: Apache-2.0
"""nvme_ssd_driver on emulated disks: what a tenant wrote is gone, read from the host's files."""

from __future__ import annotations

import contextlib

import pytest

from cyborg_lite.drivers import nvme_ssd
from cyborg_lite.drivers import nvme_work
from tests.vm.inside import agent
from tests.vm.inside import disks
from tests.vm.inside import host as outside
from tests.vm.inside import kernel
from tests.vm.inside import lab

PATTERN = b"a tenant's data "
LENGTH = 64 << 10
ATTACHED = (1, 2)


@pytest.fixture
def hosted(tmp_path):
    """Make an agent with the driver, and a device file with these keys for a disk."""
    def make(address, **keys):
        lines = "".join(f"    {key}: {value}\n" for key, value in keys.items())
        host = agent.Agent(nvme_ssd.NvmeSsdDriver, tmp_path / "state",
                           entries=f"  - match: {{address: '{address}'}}\n{lines}")
        host.discover()
        return host

    return make


def has_pattern(drive):
    return PATTERN in outside.backing(drive, 0, LENGTH)


def write_as_tenant(address, nsid):
    disks.fill(disks.disk(address, nsid), PATTERN, LENGTH)


@contextlib.contextmanager
def usual_driver_after(address):
    try:
        yield
    finally:
        kernel.bind(address, "")


def test_disks_are_offered_where_a_device_file_names_them(hosted):
    assert set(hosted(lab.NVME).devices) == {lab.NVME}


def test_a_mounted_disk_is_not_offered(hosted):
    with disks.mounted(disks.disk(lab.NVME, 1)):
        host = hosted(lab.NVME)
    assert host.devices == {}
    assert "is mounted at" in host.withheld[lab.NVME]


def test_every_namespace_of_a_disk_is_erased_and_no_other_disk(hosted):
    host = hosted(lab.NVME)
    task, = host.tasks(lab.NVME)
    host.driver.prepare(task)
    for nsid in ATTACHED:
        write_as_tenant(lab.NVME, nsid)
    write_as_tenant(lab.PLUGGED, 1)
    with disks.attached(lab.NVME, lab.NVME_DETACHED):
        write_as_tenant(lab.NVME, lab.NVME_DETACHED)
    assert all(map(has_pattern, lab.NVME_BACKING.values()))
    host.driver.clean(task)
    assert not any(map(has_pattern, lab.NVME_BACKING.values()))
    assert has_pattern(lab.PLUGGED_BACKING)
    assert not disks.has_namespace(lab.NVME, lab.NVME_DETACHED)
    assert set(host.discover()) == {lab.NVME}


def test_a_clean_disk_is_not_erased_again(hosted):
    host = hosted(lab.PLUGGED)
    task, = host.tasks(lab.PLUGGED)
    host.driver.prepare(task)
    host.driver.clean(task)
    write_as_tenant(lab.PLUGGED, 1)
    host.driver.clean(task)
    assert has_pattern(lab.PLUGGED_BACKING)


def test_a_disk_that_the_host_has_mounted_is_not_erased(hosted):
    host = hosted(lab.PLUGGED)
    task, = host.tasks(lab.PLUGGED)
    host.driver.prepare(task)
    with disks.mounted(disks.disk(lab.PLUGGED, 1)) as target:
        (target / "file").write_bytes(PATTERN)
        with pytest.raises(nvme_work.InUse, match="is mounted at"):
            host.driver.clean(task)
        assert (target / "file").read_bytes() == PATTERN
        assert outside.backing(lab.PLUGGED_BACKING, 1024, 1024).strip(b"\0"), "it has no superblock"
    host.driver.clean(task)


def test_a_disk_on_vfio_pci_is_erased_after_its_guest_and_put_back(hosted):
    host = hosted(lab.PLUGGED, driver_override="vfio-pci")
    write_as_tenant(lab.PLUGGED, 1)
    with usual_driver_after(lab.PLUGGED):
        task, = host.tasks(lab.PLUGGED)
        host.driver.prepare(task)
        assert kernel.driver_of(lab.PLUGGED) == "vfio-pci"
        with kernel.open_in_vfio(lab.PLUGGED):
            with pytest.raises(nvme_work.Refused, match="a guest has it"):
                host.driver.clean(task)
            assert has_pattern(lab.PLUGGED_BACKING)
        host.driver.clean(task)
        assert not has_pattern(lab.PLUGGED_BACKING)
        assert kernel.driver_of(lab.PLUGGED) == "vfio-pci"


def test_another_disk_in_the_place_of_the_given_one_is_neither_offered_nor_erased(hosted, events):
    host = hosted(lab.PLUGGED)
    task, = host.tasks(lab.PLUGGED)
    host.driver.prepare(task)
    with exchanged("plugged", "impostor", events):
        write_as_tenant(lab.PLUGGED, 1)
        assert host.discover() == {}
        assert "it is not the disk with serial number LAB0002" in host.withheld[lab.PLUGGED]
        with pytest.raises(nvme_work.Refused, match="LAB0003"):
            host.driver.clean(task)
        assert has_pattern(lab.IMPOSTOR_BACKING)
    host.driver.clean(task)


@contextlib.contextmanager
def exchanged(first, second, events):
    """Have another device in the place of one for a while."""
    def exchange(old, new):
        outside.pull(old)
        events.wait("remove", lab.PLUGGED)
        outside.plug(new)
        events.wait("bind", lab.PLUGGED)
        kernel.until(lambda: disks.has_namespace(lab.PLUGGED, 1))

    exchange(first, second)
    try:
        yield
    finally:
        exchange(second, first)


def test_an_erase_that_the_disk_can_not_do_leaves_it_unclean(hosted):
    host = hosted(lab.PLUGGED, clean="sanitize")
    task, = host.tasks(lab.PLUGGED)
    host.driver.prepare(task)
    write_as_tenant(lab.PLUGGED, 1)
    with pytest.raises(nvme_work.Refused, match="can't do sanitize"):
        host.driver.clean(task)
    assert has_pattern(lab.PLUGGED_BACKING)


# --- virtual functions of a disk ---------------------------------------------------------------


def test_a_virtual_function_is_erased_and_not_its_parent(hosted):
    with disks.nvme_vf(lab.NVME) as one, disks.attached(lab.NVME, lab.NVME_DETACHED, to=one):
        host = hosted(lab.NVME, offer="vf")
        assert set(host.devices) == {one}
        task, = host.tasks(one)
        host.driver.prepare(task)
        write_as_tenant(one, lab.NVME_DETACHED)
        write_as_tenant(lab.NVME, 1)
        assert has_pattern(lab.NVME_BACKING[lab.NVME_DETACHED])
        host.driver.clean(task)
        assert not has_pattern(lab.NVME_BACKING[lab.NVME_DETACHED])
        assert has_pattern(lab.NVME_BACKING[1])


def test_a_namespace_that_two_controllers_have_is_not_erased(hosted):
    with disks.nvme_vf(lab.NVME, shares=True) as one:
        host = hosted(lab.NVME, offer="vf")
        task, = host.tasks(one)
        host.driver.prepare(task)
        write_as_tenant(lab.NVME, 1)
        with pytest.raises(nvme_work.Refused, match="attached to controller"):
            host.driver.clean(task)
        assert has_pattern(lab.NVME_BACKING[1])
