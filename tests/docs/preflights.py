# SPDX-License-Identifier: Apache-2.0
"""Writes the pre-flight outputs that the drivers' pages show: `python3 -m tests.docs.preflights`.

Judges nothing; `test_docs_drivers.py` compares.
"""

from __future__ import annotations

import json
import logging
import pathlib
import subprocess
import sys
import tempfile

from oslo_config import cfg

from cyborg_lite import config
from cyborg_lite.agent import check
from cyborg_lite.agent import settings
from cyborg_lite.drivers import nvml_mig
from cyborg_lite.drivers import recorded
from tests.drivers import machines
from tests.drivers import vgpu_machines
from tests.nvml import stand_in

TOP = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = TOP / "doc" / "source" / "drivers" / "examples"
MACHINES = TOP / "tests" / "drivers"
DEMO = TOP / "etc" / "cyborg-lite" / "demo"

SHOWN: dict[str, tuple[str | pathlib.Path, str | None, str | None]] = {
    "fake": ("fake/any-host.sysfs", None, None),
    "intel_nic": ("intel_nic/xl710-2-pfs-8-vfs.sysfs", None, "intel_nic.yaml"),
    "mdev": ("mdev/kernel-samples.sysfs", None, None),
    "nvidia_gpu": ("nvidia_gpu/t4.sysfs", None, None),
    "nvidia_gpu-mixed": ("nvidia_gpu/mixed-4-gpus.sysfs", None, None),
    "nvme_ssd": ("nvme_ssd/storage-host.sysfs", "nvme_ssd/storage-host.json", "nvme_ssd.yaml"),
    "pci": (DEMO / "gpu-server.sysfs", None, "pci.yaml"),
}
"""By name of the example: its machine, where its procfs stands, its device file."""

HERE = """\
[DEFAULT]
host = node7
[agent]
sysfs_root = {0}/sys
proc_root = {0}/proc
dev_root = {0}/dev
state_path = {0}/state
device_config_dir = {0}/devices.d
"""


PLAYED = ("nvidia_mig",)
"""Examples that need NVML: a process of their own, which finds the stand-in by its usual name."""


def output(name: str) -> str:
    """Return what `cyborg-lite-agent --check` prints with the example's configuration."""
    if name in PLAYED:
        return _played(name)
    machine, proc, device_file = SHOWN[name]
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        recorded.unpack(MACHINES / machine, place / "sys")
        texts = json.loads((MACHINES / proc).read_text())["proc"] if proc else {}
        return _printed(name, place, {f"proc/{path}": text for path, text in texts.items()},
                        device_file)


def _printed(name: str, place: pathlib.Path, files: dict[str, str],
             device_file: str | None) -> str:
    files["here.conf"] = HERE.format(place)
    if device_file:
        files[f"devices.d/{device_file}"] = (EXAMPLES / device_file).read_text()
    for path, text in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    conf = config.load([f"--config-file={EXAMPLES / name}.conf",
                        f"--config-file={place}/here.conf"], cfg.ConfigOpts())
    return check.as_table(check.run(settings.read(conf))) + "\n"


def _played(name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        host = stand_in.Host(stand_in.build(place), place / "nvml", [
            stand_in.Card("A100-40GB", vgpu=True), stand_in.Card("H200-141GB")])
        return subprocess.run(
            [sys.executable, "-m", "tests.docs.preflights", name, folder], check=True, text=True,
            cwd=TOP, capture_output=True, env=host.environment()).stdout


def _play(name: str, place: pathlib.Path) -> str:
    """In that process: a card with vGPU software, split, and one that is not."""
    card, other = "0000:41:00.0", "0000:42:00.0"
    manifest = recorded.write({entry.path: entry for entry in [
        *vgpu_machines.vendor(card, 1, model="A100-40GB", product="20b0", count=5,
                              in_partitions=True),
        *machines.a_function(other, product="2335", driver="nvidia", group=9)]}.values())
    (place / "machine.sysfs").write_text(manifest)
    recorded.unpack(place / "machine.sysfs", place / "sys")
    nvml_mig.set_mode(card, True)
    for profile_id, start, size in ((9, 4, 4), (14, 0, 2), (19, 2, 1), (19, 3, 1)):
        nvml_mig.create(card, profile_id, start, size)
    return _printed(name, place, {}, "nvidia_mig.yaml")


def stored(name: str) -> pathlib.Path:
    """Return where the output of an example is."""
    return EXAMPLES / f"{name}.check.txt"


if __name__ == "__main__":
    logging.getLogger().addHandler(logging.NullHandler())
    if sys.argv[1:]:
        sys.stdout.write(_play(sys.argv[1], pathlib.Path(sys.argv[2])))
    else:
        for each in (*SHOWN, *PLAYED):
            stored(each).write_text(output(each))
