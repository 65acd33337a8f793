# SPDX-License-Identifier: Apache-2.0
"""A user without rights sees of this host what root sees: what is offered, what not, and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.vm.inside import disks
from tests.vm.inside import kernel
from tests.vm.inside import lab

DISCOVER = """
import importlib, json, os, sys
from cyborg_lite.drivers import base, device_config, device_files, sysfs

user = int(sys.argv[1])
os.setgroups([])
os.setgid(user)
os.setuid(user)
told = {}
for module, kind, entries in json.loads(sys.argv[2]):
    devices = device_config.DeviceConfig(device_files.parse(
        f"version: 1\\ndriver: lab\\ndevices: {json.dumps(entries)}", "lab.yaml")[1])
    driver = getattr(importlib.import_module(f"cyborg_lite.drivers.{module}"), kind)(
        base.Environment(sysfs=sysfs.Sysfs(), devices=devices, checking=True))
    found = [(each.address, [(deployable.name, len(deployable.handles))
                             for deployable in each.deployables]) for each in driver.discover()]
    told[kind] = [found, driver.withheld, [each.what for each in driver.problems]]
print(json.dumps(told, sort_keys=True))
"""

DRIVERS = [
    ("pci", "PciDriver", [{"match": {"vendor_id": vendor}} for vendor in ("1234", "1af4")]),
    ("mdev", "MdevDriver", []),
    ("nvidia_gpu", "NvidiaGpuDriver", []),
    ("intel_nic", "IntelNicDriver", [{"match": {"address": lab.NIC}}]),
    ("nvme_ssd", "NvmeSsdDriver", [{"match": {"class": "0108*"}}]),
]


@pytest.fixture
def busy_machine():
    """A mounted disk, an open function, virtual functions and a card for vGPUs in use."""
    with (disks.mounted(disks.disk(lab.NVME, 1)), kernel.bound(lab.OTHER_CARD, "vfio-pci"),
          kernel.open_in_vfio(lab.OTHER_CARD), kernel.vfs(lab.NIC, 2, probe=False),
          kernel.mdev(lab.CARD, "nvidia-472"),
          kernel.disguised(lab.CARD, "10de", "20f1", "030200")):
        yield


def discovered_by(user):
    # what libraries have on a file system of root's is readable by all
    done = subprocess.run([sys.executable, "-c", DISCOVER, str(user), json.dumps(DRIVERS)],
                          check=True, capture_output=True, text=True, env={**os.environ,
                                                                           "HOME": "/"})
    return json.loads(done.stdout)


def test_an_ordinary_user_discovers_what_root_does(busy_machine):
    ours, roots = discovered_by(65534), discovered_by(0)
    assert ours == roots
    assert set(ours) == {kind for _, kind, _ in DRIVERS}
    offered, withheld, _ = ours["NvmeSsdDriver"]
    assert [address for address, _ in offered] == [lab.PLUGGED]
    assert "is mounted at" in withheld[lab.NVME]
