# SPDX-License-Identifier: Apache-2.0
"""Every recorded machine: manifest in, report out. What drivers can do beside is tested elsewhere.

A pair is `<driver>/<machine>.json`, which has driver, options, devices and withheld, and the
manifest `<machine>.sysfs` beside it, or the one that `manifest` names from the top of the tree.
"""

from __future__ import annotations

import json
import pathlib

import pytest

from cyborg_lite import codec
from cyborg_lite.drivers import base
from cyborg_lite.drivers import fake
from cyborg_lite.drivers import pci
from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import sysfs

HERE = pathlib.Path(__file__).parent
TOP = HERE.parent.parent
DRIVERS: dict[str, type[base.Driver]] = {"fake_driver": fake.FakeDriver,
                                         "pci_driver": pci.PciDriver}
PAIRS = sorted(HERE.glob("*/*.json"))


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair.parent.name}-{pair.stem}" for pair in PAIRS])
def test_a_recorded_machine_is_reported_as_expected(pair: pathlib.Path,
                                                    tmp_path: pathlib.Path) -> None:
    expected = json.loads(pair.read_text())
    manifest = TOP / expected["manifest"] if "manifest" in expected else pair.with_suffix(".sysfs")
    environment = base.Environment(sysfs.Sysfs(recorded.unpack(manifest, tmp_path)),
                                   expected["options"], set())
    driver = DRIVERS[expected["driver"]](environment)

    devices = driver.discover()

    assert codec.encode(devices) == expected["devices"]
    assert driver.withheld == expected["withheld"]


def test_every_manifest_belongs_to_a_pair() -> None:
    manifests = {path.with_suffix(".json") for path in HERE.glob("*/*.sysfs")}

    assert manifests
    assert manifests <= set(PAIRS)
