# SPDX-License-Identifier: Apache-2.0
"""Writes the pre-flight outputs that the drivers' pages show: `python3 -m tests.docs.preflights`.

Judges nothing; `test_docs_drivers.py` compares.
"""

from __future__ import annotations

import json
import logging
import pathlib
import tempfile

from oslo_config import cfg

from cyborg_lite import config
from cyborg_lite.agent import check
from cyborg_lite.agent import settings
from cyborg_lite.drivers import recorded

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


def output(name: str) -> str:
    """Return what `cyborg-lite-agent --check` prints with the example's configuration."""
    machine, proc, device_file = SHOWN[name]
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        recorded.unpack(MACHINES / machine, place / "sys")
        texts = json.loads((MACHINES / proc).read_text())["proc"] if proc else {}
        files = {f"proc/{path}": text for path, text in texts.items()}
        files["here.conf"] = HERE.format(place)
        if device_file:
            files[f"devices.d/{device_file}"] = (EXAMPLES / device_file).read_text()
        for path, text in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text)
        conf = config.load([f"--config-file={EXAMPLES / name}.conf",
                            f"--config-file={place}/here.conf"], cfg.ConfigOpts())
        return check.as_table(check.run(settings.read(conf))) + "\n"


def stored(name: str) -> pathlib.Path:
    """Return where the output of an example is."""
    return EXAMPLES / f"{name}.check.txt"


if __name__ == "__main__":
    logging.getLogger().addHandler(logging.NullHandler())
    for each in SHOWN:
        stored(each).write_text(output(each))
