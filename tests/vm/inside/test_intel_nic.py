# SPDX-License-Identifier: Apache-2.0
"""intel_nic_driver on an emulated port with virtual functions."""

from __future__ import annotations

import pytest

from cyborg_lite.drivers import intel_nic
from cyborg_lite.drivers import virtual_functions
from tests.vm.inside import agent
from tests.vm.inside import kernel
from tests.vm.inside import lab


@pytest.fixture
def hosted(tmp_path):
    """Make an agent with the driver, and a device file with these keys for the port."""
    def make(options=None, **keys):
        lines = "".join(f"    {key}: {value}\n" for key, value in keys.items())
        return agent.Agent(intel_nic.IntelNicDriver, tmp_path / "state", options=options,
                           entries=f"  - match: {{address: '{lab.NIC}'}}\n{lines}")

    return make


@pytest.fixture
def no_vfs_after():
    yield
    kernel.write(kernel.place(lab.NIC) / "sriov_numvfs", "0")


def networks(host):
    return [handle.info["physical_network"] for handle in host.handles(lab.NIC)]


def test_an_idle_port_is_offered_whole(hosted):
    host = hosted(physical_network="physnet1")
    device = host.discover()[lab.NIC]
    assert [each.name for each in device.deployables] == [lab.NIC]
    assert networks(host) == ["physnet1"]


def test_virtual_functions_are_made_as_wished_and_offered(hosted, no_vfs_after):
    host = hosted(offer="vf", num_vfs=4, physical_network="physnet1")
    assert host.arrange() is True
    found = kernel.vfs_of(lab.NIC)
    assert len(found) == 4
    device = host.discover()[lab.NIC]
    assert [each.name for each in device.deployables] == sorted(found)
    assert networks(host) == ["physnet1"] * 4
    assert host.arrange() is False


def test_virtual_functions_that_are_there_stay(hosted, no_vfs_after):
    kernel.write(kernel.place(lab.NIC) / "sriov_numvfs", "3")
    host = hosted(offer="vf", num_vfs=7)
    with pytest.raises(virtual_functions.Impossible, match="may belong to guests"):
        host.arrange()
    assert len(kernel.vfs_of(lab.NIC)) == 3


def test_more_than_the_port_can_have_is_refused(hosted):
    host = hosted(offer="vf", num_vfs=lab.NIC_VFS + 1)
    with pytest.raises(virtual_functions.Impossible, match=f"at most {lab.NIC_VFS}"):
        host.arrange()
    assert kernel.vfs_of(lab.NIC) == []


def test_a_virtual_function_that_the_host_uses_is_not_offered(hosted):
    host = hosted()
    with kernel.vfs(lab.NIC, 2) as (first, second):
        name, = kernel.interfaces(first)
        with kernel.interface_up(name):
            device = host.discover()[lab.NIC]
        assert [each.name for each in device.deployables] == [second]
        assert host.withheld[first] == f"its interface {name} is up"


def test_a_virtual_function_is_put_on_vfio_pci_when_it_is_needed(hosted):
    host = hosted(offer="vf", driver_override="vfio-pci")
    with kernel.vfs(lab.NIC, 2) as found:
        host.discover()
        first, _ = host.tasks(lab.NIC)
        host.driver.prepare(first)
        assert [kernel.driver_of(each) for each in found] == ["vfio-pci", "igbvf"]


def test_a_port_that_a_guest_has_keeps_its_network(hosted):
    name, = kernel.interfaces(lab.NIC)
    types = {"lab": {"physical_device_mappings": [f"physnet2:{name}"]}}
    host = hosted(options={"nic_devices": {"types": types}})
    host.discover()
    assert networks(host) == ["physnet2"]
    with kernel.bound(lab.NIC, "vfio-pci"):
        host.discover()
        assert networks(host) == ["physnet2"]
