# SPDX-License-Identifier: Apache-2.0
"""Every recorded machine: manifest in, report out. What drivers can do beside is tested elsewhere.

A pair is `<driver>/<machine>.json`, which has driver, options, devices and withheld, and the
manifest `<machine>.sysfs` beside it, or the one that `manifest` names from the top of the tree.
`proc` has texts of procfs by path, `files` device files by name.
"""

from __future__ import annotations

import json
import pathlib

import pytest

from cyborg_lite import codec
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import fake
from cyborg_lite.drivers import intel_nic
from cyborg_lite.drivers import mdev
from cyborg_lite.drivers import nvidia_gpu
from cyborg_lite.drivers import nvme_ssd
from cyborg_lite.drivers import pci
from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import sysfs

HERE = pathlib.Path(__file__).parent
TOP = HERE.parent.parent
DRIVERS: dict[str, type[base.Driver]] = {"fake_driver": fake.FakeDriver,
                                         "intel_nic_driver": intel_nic.IntelNicDriver,
                                         "mdev_driver": mdev.MdevDriver,
                                         "nvidia_gpu_driver": nvidia_gpu.NvidiaGpuDriver,
                                         "nvme_ssd_driver": nvme_ssd.NvmeSsdDriver,
                                         "pci_driver": pci.PciDriver}
PAIRS = sorted(HERE.glob("*/*.json"))


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair.parent.name}-{pair.stem}" for pair in PAIRS])
def test_a_recorded_machine_is_reported_as_expected(pair: pathlib.Path,
                                                    tmp_path: pathlib.Path) -> None:
    expected = json.loads(pair.read_text())
    manifest = TOP / expected["manifest"] if "manifest" in expected else pair.with_suffix(".sysfs")
    for folder in ("proc", "files"):
        for path, text in {"": None, **expected.get(folder, {})}.items():
            place = tmp_path / folder / path
            place.mkdir(parents=True) if text is None else _write(place, text)
    files = device_files.read(str(tmp_path / "files"))
    environment = base.Environment(
        sysfs.Sysfs(recorded.unpack(manifest, tmp_path / "sys")), expected["options"],
        devices=files.of([expected["driver"]]), proc_root=str(tmp_path / "proc"),
        dev_root=str(tmp_path / "dev"), state_path=str(tmp_path / "state"))
    driver = DRIVERS[expected["driver"]](environment)

    devices = driver.discover()

    assert codec.encode(devices) == [{"partitioning": None, **device}
                                     for device in expected["devices"]]
    assert driver.withheld == expected["withheld"]


def _write(place: pathlib.Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def test_every_manifest_belongs_to_a_pair() -> None:
    manifests = {path.with_suffix(".json") for path in HERE.glob("*/*.sysfs")}

    assert manifests
    assert manifests <= set(PAIRS)
