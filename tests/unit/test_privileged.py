# SPDX-License-Identifier: Apache-2.0
"""The privileged functions: what they write, and what they refuse whoever asks."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from cyborg_lite.drivers import privileged
from tests.drivers import machines

ADDRESS = "0000:41:00.0"
UUID = "5a1b6b2f-6f0d-4f43-9d0c-2f6d8a7e0001"

FILES = ("driver_override", "sriov_numvfs", "sriov_drivers_autoprobe", "reset",
         "nvidia/current_vgpu_type")
ELSEWHERE = ("bus/pci/drivers/vfio-pci/bind", "bus/pci/drivers/vfio-pci/unbind",
             "bus/pci/drivers_probe", "bus/mdev/devices/" + UUID + "/remove",
             f"class/mdev_bus/{ADDRESS}/mdev_supported_types/nvidia-1/create")


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    privileged.run_here()
    reader = machines.tree(tmp_path, machines.a_function(
        ADDRESS, files=dict.fromkeys(FILES, "-"), total_vfs=None))
    top = pathlib.Path(reader.root)
    for path in ELSEWHERE:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text("a long text that goes")
    for path in FILES:
        (top / "bus/pci/devices" / ADDRESS / path).chmod(0o644)
    return top


def in_function(name: str) -> str:
    return f"bus/pci/devices/{ADDRESS}/{name}"


@pytest.mark.parametrize(("act", "path", "text"), [
    (lambda host: host.set_num_vfs(ADDRESS, 8), in_function("sriov_numvfs"), "8"),
    (lambda host: host.set_vf_autoprobe(ADDRESS, False), in_function("sriov_drivers_autoprobe"),
     "0"),
    (lambda host: host.set_driver_override(ADDRESS, "vfio-pci"), in_function("driver_override"),
     "vfio-pci"),
    (lambda host: host.set_driver_override(ADDRESS, None), in_function("driver_override"), "\n"),
    (lambda host: host.unbind(ADDRESS), "bus/pci/drivers/vfio-pci/unbind", ADDRESS),
    (lambda host: host.bind(ADDRESS, "vfio-pci"), "bus/pci/drivers/vfio-pci/bind", ADDRESS),
    (lambda host: host.probe(ADDRESS), "bus/pci/drivers_probe", ADDRESS),
    (lambda host: host.reset(ADDRESS), in_function("reset"), "1"),
    (lambda host: host.create_mdev(ADDRESS, "nvidia-1", UUID), ELSEWHERE[4], UUID),
    (lambda host: host.remove_mdev(UUID), ELSEWHERE[3], "1"),
    (lambda host: host.set_vgpu_type(ADDRESS, 1414), in_function("nvidia/current_vgpu_type"),
     "1414"),
])
def test_each_function_writes_its_word_to_its_file(
        act: Callable[[privileged.Host], None], path: str, text: str, root: pathlib.Path) -> None:
    act(privileged.Host(str(root)))

    assert (root / path).read_text() == text


@pytest.mark.parametrize("act", [
    lambda host: host.set_num_vfs(ADDRESS, -1),
    lambda host: host.set_num_vfs(ADDRESS, 65536),
    lambda host: host.set_num_vfs("../../../../etc", 1),
    lambda host: host.set_num_vfs(f"{ADDRESS}\n", 1),
    lambda host: host.set_driver_override(ADDRESS, "a/b"),
    lambda host: host.set_driver_override(ADDRESS, "a\nb"),
    lambda host: host.bind(ADDRESS, "../../etc"),
    lambda host: host.probe("41:00.0"),
    lambda host: host.create_mdev("..", "nvidia-1", UUID),
    lambda host: host.create_mdev(ADDRESS, "../x", UUID),
    lambda host: host.create_mdev(ADDRESS, "nvidia-1", UUID.upper()),
    lambda host: host.remove_mdev("../" + UUID),
    lambda host: host.set_vgpu_type(ADDRESS, -1),
    lambda host: host.set_vgpu_type(ADDRESS, 2 ** 32),
    lambda host: privileged.write_function(host.root, ADDRESS, "config", "1"),
    lambda host: privileged.write_function(host.root, ADDRESS, "reset", "2"),
    lambda host: privileged.write_function(host.root, 7, "reset", "1"),
])
def test_what_is_no_plain_part_is_refused_and_nothing_is_written(
        act: Callable[[privileged.Host], None], root: pathlib.Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    with pytest.raises(privileged.Refused):
        act(privileged.Host(str(root)))

    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_link_that_leads_out_of_the_tree_is_not_followed(root: pathlib.Path) -> None:
    outside = root.parent / "outside"
    outside.write_text("mine")
    file = root / "bus/pci/devices" / ADDRESS / "reset"
    file.unlink()
    file.symlink_to(outside)

    with pytest.raises(privileged.Refused, match="leads out"):
        privileged.Host(str(root)).reset(ADDRESS)

    assert outside.read_text() == "mine"


def test_a_file_that_is_not_there_is_not_made(root: pathlib.Path) -> None:
    (root / "bus/pci/devices" / ADDRESS / "reset").unlink()

    with pytest.raises(FileNotFoundError):
        privileged.Host(str(root)).reset(ADDRESS)

    assert not (root / "bus/pci/devices" / ADDRESS / "reset").exists()


HELPER = """
import sys
from oslo_config import cfg
from oslo_privsep import priv_context
from cyborg_lite.drivers import privileged
cfg.CONF([], project="test")
privileged.CONTEXT.start(priv_context.Method.FORK)
try:
    privileged.Host(sys.argv[1]).reset("0000:41:00.0")
except Exception as error:
    print(type(error).__module__, type(error).__name__, error)
privileged.CONTEXT.stop()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start the helper")
def test_the_helper_writes_to_sysfs_alone(root: pathlib.Path) -> None:
    file = root / "bus/pci/devices" / ADDRESS / "reset"
    file.write_text("before")

    output = subprocess.run(
        [sys.executable, "-c", HELPER, str(root)], check=True, text=True, capture_output=True,
        timeout=60, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).stdout

    assert output.startswith("cyborg_lite.drivers.privileged Refused")
    assert "is no file of sysfs" in output
    assert file.read_text() == "before"
