# SPDX-License-Identifier: Apache-2.0
"""A recording of this machine reads as the machine itself. The manifest is left in /out."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from cyborg_lite.drivers import base
from cyborg_lite.drivers import pci
from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import sysfs
from tests.vm.inside import kernel
from tests.vm.inside import lab

EVERYTHING = [json.dumps({"vendor_id": vendor}) for vendor in ("1234", "1af4", "1b36", "8086")]


@pytest.fixture
def busy_machine():
    """Virtual functions, one of them on vfio-pci, and a mediated device."""
    with kernel.vfs(lab.NIC, 2, probe=False) as (first, _), kernel.bound(first, "vfio-pci"):
        with kernel.mdev(lab.OTHER_CARD, "nvidia-471"), kernel.bound(lab.CARD, "vfio-pci"):
            yield


def discovered(reader):
    driver = pci.PciDriver(base.Environment(
        sysfs=reader, options={"pci": {"device_spec": EVERYTHING}}))
    return driver.discover(), driver.withheld


def without_entries(reader):
    """A recording leaves out what no driver reads, so directories differ in that."""
    return [dataclasses.replace(each, entries=frozenset()) for each in reader.pci_functions()]


def test_a_recorded_machine_is_discovered_as_the_real_one(busy_machine, tmp_path):
    program = pathlib.Path("/project/tests/drivers/record.py")
    manifest = subprocess.run([sys.executable, str(program)], check=True, capture_output=True,
                              text=True).stdout
    kept = pathlib.Path("/out/vm.sysfs")
    kept.write_text(manifest, encoding="ascii")
    tree = sysfs.Sysfs(recorded.unpack(kept, tmp_path / "sys"))
    real = sysfs.Sysfs()
    assert without_entries(tree) == without_entries(real)
    assert discovered(tree) == discovered(real)
    assert "LAB0001" not in manifest, "a serial number was recorded"
