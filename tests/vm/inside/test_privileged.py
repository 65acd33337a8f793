# SPDX-License-Identifier: Apache-2.0
"""The privileged functions on a real kernel, and that the rights they ask for are enough."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import uuid

import pytest

from cyborg_lite.drivers import privileged
from tests.vm.inside import kernel
from tests.vm.inside import lab

AS_NOBODY = """
import json, os, sys
from oslo_config import cfg
from oslo_privsep import priv_context
from cyborg_lite.drivers import privileged

cfg.CONF([])
privileged.CONTEXT.start(priv_context.Method.FORK)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
told = []
for name, arguments in json.loads(sys.argv[1]):
    host = privileged.Host(arguments.pop("root", "/sys"))
    try:
        getattr(host, name)(**arguments)
        told.append("done")
    except Exception as error:
        told.append(f"{type(error).__name__} {getattr(error, 'errno', None)}")
try:
    open("/sys/bus/pci/drivers_probe", "w")
    told.append("could write")
except PermissionError:
    told.append("can't write by itself")
print(json.dumps(told))
"""
"""A program that starts the helper, gives its rights away and asks for what it was told to."""


@pytest.fixture(scope="module")
def host():
    """The functions in this process, which is root."""
    privileged.run_here()
    return privileged.Host()


def refusal(call, *arguments):
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is what is asked for
        call(*arguments)
    return caught.value.errno


@pytest.fixture(scope="module")
def nobody(tmp_path_factory):
    """What a process without rights was told, by the name of what it asked for."""
    name = str(uuid.uuid4())
    no_sysfs = tmp_path_factory.mktemp("root")
    place = no_sysfs / "bus/pci/devices" / lab.CARD
    place.mkdir(parents=True)
    (place / "reset").write_text("")
    mdev = {"parent": "mtty", "type_id": "mtty-2", "uuid": name}
    calls = [
        ("make a mdev", "create_mdev", mdev),
        ("make it again", "create_mdev", mdev),
        ("remove it", "remove_mdev", {"uuid": name}),
        ("make VFs", "set_num_vfs", {"address": lab.NIC, "count": 1}),
        ("remove them", "set_num_vfs", {"address": lab.NIC, "count": 0}),
        ("override", "set_driver_override", {"address": lab.CARD, "driver": "vfio-pci"}),
        ("unbind", "unbind", {"address": lab.CARD}),
        ("probe", "probe", {"address": lab.CARD}),
        ("override no more", "set_driver_override", {"address": lab.CARD, "driver": None}),
        ("unbind again", "unbind", {"address": lab.CARD}),
        ("bind", "bind", {"address": lab.CARD, "driver": "nvidia"}),
        ("write elsewhere", "reset", {"root": str(no_sysfs), "address": lab.CARD}),
        ("leave sysfs", "reset", {"address": "../../../../etc"}),
    ]
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, json.dumps([call for _, *call in calls])], check=True,
        capture_output=True, text=True)
    assert (place / "reset").read_text() == ""
    return dict(zip([*(call[0] for call in calls), "by itself"], json.loads(done.stdout),
                    strict=True))


def test_virtual_functions_are_made_and_removed(host):
    host.set_vf_autoprobe(lab.NIC, False)
    host.set_num_vfs(lab.NIC, 2)
    try:
        found = kernel.vfs_of(lab.NIC)
        assert [kernel.driver_of(each) for each in found] == [None, None]
        assert refusal(host.set_num_vfs, lab.NIC, 3) == errno.EBUSY
    finally:
        host.set_num_vfs(lab.NIC, 0)
        host.set_vf_autoprobe(lab.NIC, True)
    assert kernel.vfs_of(lab.NIC) == []
    assert refusal(host.set_num_vfs, lab.NIC, lab.NIC_VFS + 1) == errno.ERANGE


def test_a_function_goes_to_vfio_pci_and_back(host):
    host.set_driver_override(lab.CARD, "vfio-pci")
    host.unbind(lab.CARD)
    host.probe(lab.CARD)
    assert kernel.driver_of(lab.CARD) == "vfio-pci"
    host.set_driver_override(lab.CARD, None)
    host.unbind(lab.CARD)
    with pytest.raises(FileNotFoundError):
        host.unbind(lab.CARD)
    host.bind(lab.CARD, "nvidia")
    assert kernel.driver_of(lab.CARD) == "nvidia"
    assert kernel.text(kernel.place(lab.CARD) / "driver_override") == "(null)"


def test_a_virtual_function_is_reset(host):
    with kernel.vfs(lab.NIC, 1, probe=False) as (one,):
        host.reset(one)


def test_mediated_devices_are_made_once_and_removed_once(host):
    name = str(uuid.uuid4())
    host.create_mdev("mtty", "mtty-1", name)
    assert kernel.mdev_kind(name) == ("mtty", "mtty-1")
    with pytest.raises(FileExistsError):
        host.create_mdev(lab.CARD, "nvidia-471", name)
    host.remove_mdev(name)
    assert name not in kernel.mdevs()
    with pytest.raises(FileNotFoundError):
        host.remove_mdev(name)


def test_a_mediated_device_too_many_is_refused_by_the_kernel(host):
    with kernel.mdev(lab.CARD, "nvidia-473"):
        assert refusal(host.create_mdev, lab.CARD, "nvidia-473",
                       str(uuid.uuid4())) == errno.ENOSPC


def test_a_vgpu_type_is_set_and_taken_away(host):
    with kernel.vendor_vfio(lab.NIC, 2) as (one, other):
        current = kernel.place(one) / "nvidia/current_vgpu_type"
        host.set_vgpu_type(one, 473)
        assert kernel.text(current) == "473"
        assert refusal(host.set_vgpu_type, other, 471) == errno.EIO
        host.set_vgpu_type(one, 0)
        assert kernel.text(current) == "0"


def test_a_process_without_rights_works_through_the_helper(nobody):
    done = {name for name, told in nobody.items() if told == "done"}
    assert done == set(nobody) - {"make it again", "write elsewhere", "leave sysfs", "by itself"}
    assert nobody["make it again"].startswith("FileExistsError")
    assert nobody["by itself"] == "can't write by itself"


def test_the_helper_writes_to_nothing_but_sysfs(nobody):
    assert nobody["write elsewhere"].startswith("Refused")
    assert nobody["leave sysfs"].startswith("Refused")
