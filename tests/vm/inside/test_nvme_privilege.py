# SPDX-License-Identifier: Apache-2.0
"""Disks through the privileged helper: its rights are enough, and it erases no disk of the host."""

from __future__ import annotations

import errno
import json
import pathlib
import subprocess
import sys

from tests.vm.inside import disks
from tests.vm.inside import host as outside
from tests.vm.inside import kernel
from tests.vm.inside import lab

PATTERN = b"a tenant's data "
LENGTH = 64 << 10
FORMAT_ERASING = (0x80, 1, [1 << 9], b"", 0, 60000)

START = """
import json, os, pathlib, sys
from oslo_config import cfg
from oslo_privsep import priv_context
from cyborg_lite import messages
from cyborg_lite.drivers import base, device_config, device_files, nvme_ssd, privileged, sysfs
from tests.vm.inside import test_nvme_privilege as asked

cfg.CONF([])
privileged.CONTEXT.start(priv_context.Method.FORK)
state, address, serial = sys.argv[1:]
os.chown(state, 65534, 65534)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
host = privileged.Host()
"""
"""Starts the helper and gives its own rights away."""

GIVE_AND_CLEAN = START + """
text = f"version: 1\\ndriver: lab\\ndevices:\\n- match: {{address: '{address}'}}\\n"
driver = nvme_ssd.NvmeSsdDriver(base.Environment(
    sysfs.Sysfs(), state_path=state,
    devices=device_config.DeviceConfig(device_files.parse(text, "lab.yaml")[1])))
device, = driver.discover()
handle = device.deployables[0].handles[0]
task = messages.HandleTask(handle_uuid="h", deployable_name=address, device_address=address,
                           driver="nvme_ssd_driver", type="PCI", info=handle.info,
                           instance_uuid="i")
driver.prepare(task)
driver.clean(task)
print(json.dumps(os.getuid()))
"""

ASK = START + """
told = []
for its in (serial, "SOMEBODYS", ""):
    try:
        told.append(list(host.nvme_admin(address, its, *asked.FORMAT_ERASING))[0])
    except OSError as error:
        told.append(error.errno or type(error).__name__)
print(json.dumps(told))
"""


def run(program: str, state: pathlib.Path) -> object:
    """Run a program in the place of the agent; the tests' folder is open to it."""
    state.mkdir()
    for folder in (state, *state.parents[:3]):
        folder.chmod(0o755)
    serial = kernel.text(kernel.place(lab.PLUGGED) / "nvme"
                         / disks.controller(lab.PLUGGED) / "serial")
    done = subprocess.run([sys.executable, "-c", program, str(state), lab.PLUGGED, serial],
                          check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def has_pattern() -> bool:
    return PATTERN in outside.backing(lab.PLUGGED_BACKING, 0, LENGTH)


def test_an_agent_without_rights_has_a_disk_erased(tmp_path):
    disks.fill(disks.disk(lab.PLUGGED, 1), PATTERN, LENGTH)
    assert has_pattern()
    assert run(GIVE_AND_CLEAN, tmp_path / "state") == 65534
    assert not has_pattern()


def test_the_helper_erases_no_disk_of_another_serial_number(tmp_path):
    disks.fill(disks.disk(lab.PLUGGED, 1), PATTERN, LENGTH)
    done, *others = run(ASK, tmp_path / "state")
    assert done == 0
    assert others == ["NotTheDisk", "NotTheDisk"]


def test_the_helper_erases_no_disk_that_is_mounted(tmp_path):
    with disks.mounted(disks.disk(lab.PLUGGED, 1)) as target:
        (target / "file").write_bytes(PATTERN)
        assert run(ASK, tmp_path / "state") == [errno.EBUSY] * 3
        assert (target / "file").read_bytes() == PATTERN
