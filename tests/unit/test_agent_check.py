# SPDX-License-Identifier: Apache-2.0
"""The pre-flight: each function once, reasons, problems, its shape as JSON, its exit status."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any
from typing import ClassVar

import pytest

from cyborg_lite import messages
from cyborg_lite.agent import check
from cyborg_lite.agent import settings
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import fake
from cyborg_lite.drivers import nvidia_gpu
from cyborg_lite.drivers import nvidia_mig
from cyborg_lite.drivers import pci
from cyborg_lite.drivers import recorded
from tests.drivers.machines import a_function
from tests.drivers.machines import tree
from tests.fixtures.scripted import Catalogue

ROW_KEYS = {"address", "vendor_id", "product_id", "class", "kernel_driver", "driver",
            "device_type", "offered", "reason", "resource_class", "traits", "handles",
            "numa_node", "iommu_group"}


def checked(tmp_path: pathlib.Path, *functions: list[recorded.Entry],
            drivers: tuple[str, ...] = ("pci_driver",), spec: str = '{"address": "*:*:*.*"}',
            files: device_files.DeviceFiles | None = None,
            **installed: type[base.Driver]) -> check.Result:
    wanted = settings.Settings(
        host="node7", resource_provider_name="node7", enabled_drivers=drivers,
        sysfs_root=tree(tmp_path, *functions).root, proc_root=str(tmp_path / "proc"),
        options={"pci": {"device_spec": [spec]}, "fake": {}},
        files=files or device_files.DeviceFiles())
    return check.run(wanted, Catalogue(
        **{"fake_driver": fake.FakeDriver, "pci_driver": pci.PciDriver, **installed}))


def rows_of(result: check.Result) -> dict[str, dict[str, Any]]:
    data = json.loads(check.as_json(result))
    assert set(data) == {"host", "problems", "devices"}
    assert all(set(row) == ROW_KEYS for row in data["devices"])
    addresses = [row["address"] for row in data["devices"]]
    assert len(set(addresses)) == len(addresses)
    return dict(zip(addresses, data["devices"], strict=True))


def test_each_function_is_shown_once_offered_or_with_its_reason(tmp_path: pathlib.Path) -> None:
    result = checked(
        tmp_path, a_function("0000:41:00.0", group=7, node=1),
        a_function("0000:42:00.0", group=8, vendor="8086", product="1572", code="020000",
                   driver="i40e", files={"net/e0/flags": "0x1003"}))

    rows = rows_of(result)

    assert rows["0000:41:00.0"] == {
        "address": "0000:41:00.0", "vendor_id": "10de", "product_id": "20f1", "class": "030200",
        "kernel_driver": "vfio-pci", "driver": "pci_driver", "device_type": "GPU",
        "offered": True, "reason": None, "resource_class": "CUSTOM_PCI",
        "traits": ["CUSTOM_PCI_NVIDIA", "CUSTOM_PCI_PRODUCT_ID_20F1"],
        "handles": [{"type": "PCI", "address": "0000:41:00.0", "mdev_type": None}],
        "numa_node": 1, "iommu_group": 7}
    assert (rows["0000:42:00.0"]["offered"], rows["0000:42:00.0"]["reason"]) == (
        False, "its interface e0 is up")
    assert rows["0000:42:00.0"]["device_type"] == "NIC"
    # a device in use is nothing to mend
    assert (result.problems, result.status) == ([], check.CLEAR)


def test_a_host_without_an_iommu_has_one_problem(tmp_path: pathlib.Path) -> None:
    result = checked(tmp_path, a_function("0000:41:00.0", group=None),
                     a_function("0000:42:00.0", group=None))

    assert [each.what for each in result.problems] == [
        "the host has no IOMMU groups: nothing can be given to a guest"]
    assert result.status == check.PROBLEMS


def test_a_host_that_is_asked_for_nothing_needs_no_iommu(tmp_path: pathlib.Path) -> None:
    result = checked(tmp_path, a_function("0000:41:00.0", group=None), drivers=("fake_driver",))

    (row,) = rows_of(result).values()
    assert (row["address"], row["vendor_id"], row["class"]) == ("FakeDevice", "abcd", None)
    assert row["handles"][0] == {"type": "TEST_PCI", "address": None, "mdev_type": None}
    assert result.status == check.CLEAR


def test_a_bad_device_file_is_a_problem_of_its_driver_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\ndriver: pci_driver\ndevices: 7\n")

    result = checked(tmp_path, drivers=("pci_driver", "fake_driver"),
                     files=device_files.read(str(tmp_path)))

    (problem,) = result.problems
    assert "a.yaml: line 3, column 10: devices must be a list; pci_driver is disabled" in (
        problem.what)
    assert list(rows_of(result)) == ["FakeDevice"]


def test_a_complaint_with_a_semicolon_is_one_problem(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "version: 1\ndriver: pci_driver\ndevices: [{match: {numa: 1}}]\n")

    (problem,) = checked(tmp_path, files=device_files.read(str(tmp_path))).problems

    assert "match has no key 'numa'; allowed are address" in problem.what


def test_an_entry_that_means_nothing_to_its_driver_is_a_problem(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "version: 1\ndriver: pci_driver\ndevices: [{match: {address: a}, vgpu_type: x}]\n")

    (problem,) = checked(tmp_path, files=device_files.read(str(tmp_path))).problems

    assert "line 3, column 44: vgpu_type means nothing to pci_driver" in problem.what


def test_what_a_driver_says_is_to_be_mended_is_shown(tmp_path: pathlib.Path) -> None:
    class Wanting(fake.FakeDriver):
        def discover(self) -> list[messages.ReportedDevice]:
            self.problems = [base.Problem("NVML is missing", "install it")]
            return []

    class Broken(fake.FakeDriver):
        def discover(self) -> list[messages.ReportedDevice]:
            raise OSError("no such card")

    result = checked(tmp_path, drivers=("wanting", "broken"), wanting=Wanting, broken=Broken)

    assert json.loads(check.as_json(result))["problems"] == [
        {"what": "NVML is missing", "hint": "install it"},
        {"what": "broken failed: OSError: no such card",
         "hint": "its devices are not offered until it works"}]


def test_what_is_never_offered_is_shown_to_whoever_asks(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\ndriver: pci_driver\ndevices:\n"
                                     "- {match: {vendor_id: 10de}, offer: none}\n")

    rows = rows_of(checked(tmp_path, a_function("0000:41:00.0"),
                           files=device_files.read(str(tmp_path))))

    assert "offer: none" in rows["0000:41:00.0"]["reason"]


@pytest.mark.parametrize("kind", [nvidia_gpu.NvidiaGpuDriver, nvidia_mig.NvidiaMigDriver])
def test_what_is_never_offered_is_no_problem(
        kind: type[base.Driver], tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\ndriver: gpus\ndevices:\n"
                                     "- {match: {vendor_id: 10de}, offer: none}\n")

    result = checked(tmp_path, a_function("0000:41:00.0", driver="nvidia"), drivers=("gpus",),
                     files=device_files.read(str(tmp_path)), gpus=kind)

    assert "offer: none" in rows_of(result)["0000:41:00.0"]["reason"]
    assert result.problems == []


class Carving(base.Driver):
    """One card whose virtual functions and mediated devices are offered."""

    parts: ClassVar[list[messages.ReportedHandle]] = [
        messages.ReportedHandle(type="PCI", info={
            "domain": "0000", "bus": "41", "device": "00", "function": "4"}),
        messages.ReportedHandle(type="MDEV", info={
            "domain": "0000", "bus": "41", "device": "00", "function": "5",
            "asked_type": "nvidia-556"})]

    def discover(self) -> list[messages.ReportedDevice]:
        deployable = messages.ReportedDeployable(
            name="d", resource_class="VGPU", handles=self.parts, traits=["CUSTOM_B", "CUSTOM_A"])
        return [messages.ReportedDevice(
            address="0000:41:00.0", type="GPU", vendor="10de", model="20f1", driver="",
            deployables=[deployable], pci_address="0000:41:00.0")]


def test_parts_of_a_card_are_shown_under_their_own_addresses(tmp_path: pathlib.Path) -> None:
    functions = [a_function("0000:41:00.0", driver="nvidia", total_vfs=2, num_vfs=2),
                 *(a_function(f"0000:41:00.{number}", driver="nvidia", group=number,
                              physfn="0000:41:00.0") for number in (4, 5))]

    rows = rows_of(checked(tmp_path, *functions, drivers=("carving",), carving=Carving))

    assert [(address, row["offered"]) for address, row in rows.items()] == [
        ("0000:41:00.0", False), ("0000:41:00.4", True), ("0000:41:00.5", True)]
    assert rows["0000:41:00.0"]["reason"] == "its virtual functions are offered"
    assert rows["0000:41:00.5"]["handles"] == [
        {"type": "MDEV", "address": "0000:41:00.5", "mdev_type": "nvidia-556"}]
    assert rows["0000:41:00.5"]["traits"] == ["CUSTOM_A", "CUSTOM_B"]


def test_an_unknown_driver_is_a_configuration_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(base.ConfigurationError, match="there is no driver 'gpu'"):
        checked(tmp_path, drivers=("gpu",))


def test_the_table_has_every_address_and_every_problem(tmp_path: pathlib.Path) -> None:
    text = check.as_table(checked(tmp_path, a_function("0000:41:00.0"),
                                  a_function("0000:42:00.0", group=None)))

    lines = text.splitlines()
    assert lines[0] == "host node7: 1 of 2 looked at are offered"
    assert lines[1].split()[:2] == ["ADDRESS", "ID"]
    assert "1 CUSTOM_PCI (PCI)" in lines[2]
    assert "no: it has no IOMMU group" in lines[3]


# --- the program ------------------------------------------------------------------------------


def run_program(tmp_path: pathlib.Path, text: str, *arguments: str, check: str = "--check",
                ) -> subprocess.CompletedProcess[str]:
    root = tree(tmp_path, a_function("0000:41:00.0")).root
    (tmp_path / "agent.conf").write_text(
        f"[DEFAULT]\nhost = node7\ntransport_url = rabbit://nobody@127.0.0.1:1/\n[agent]\n"
        f"sysfs_root = {root}\nproc_root = {tmp_path}\ndevice_config_dir = {tmp_path}\n{text}\n")
    return subprocess.run(
        [sys.executable, "-c", "from cyborg_lite.cmd import services; services.agent()",
         "--config-file", str(tmp_path / "agent.conf"), check, *arguments],
        text=True, capture_output=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


PCI = 'enabled_drivers = pci_driver\n[pci]\ndevice_spec = {"vendor_id": "10de"}'


def test_the_program_prints_json_and_nothing_else(tmp_path: pathlib.Path) -> None:
    done = run_program(tmp_path, PCI, "--format", "json")

    assert (done.returncode, done.stderr) == (0, "")
    assert [row["address"] for row in json.loads(done.stdout)["devices"]] == ["0000:41:00.0"]


def test_an_abbreviated_option_starts_no_agent(tmp_path: pathlib.Path) -> None:
    done = run_program(tmp_path, PCI, "--format", "json", check="--ch")

    assert (done.returncode, done.stderr) == (0, "")


def test_the_program_ends_with_1_for_a_problem(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text("driver: pci_driver\n")

    done = run_program(tmp_path, PCI)

    assert (done.returncode, done.stderr) == (1, "")
    assert "a.yaml: line 1, column 1: version is missing" in " ".join(done.stdout.split())


def test_a_device_file_of_a_misspelt_driver_is_a_problem(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\ndriver: pci_drivr\ndevices: []\n")

    done = run_program(tmp_path, PCI)

    assert done.returncode == 1
    assert "a.yaml: line 2, column 9: there is no driver 'pci_drivr'" in (
        " ".join(done.stdout.split()))


def test_a_tree_that_is_not_there_is_a_problem(tmp_path: pathlib.Path) -> None:
    done = run_program(tmp_path, f"sysfs_root = {tmp_path}/absent\n{PCI}")

    assert done.returncode == 1
    assert "[agent] sysfs_root = " in done.stdout


@pytest.mark.parametrize(("text", "arguments", "reason"), [
    ("enabled_drivers = gpu", (), "there is no driver 'gpu'"),
    ("report_interval = soon", (), "report_interval = soon"),
    ("enabled_drivers = pci_driver\n[pci]\ndevice_spec = {", (), "device_spec"),
    (PCI, ("--format", "xml"), "xml")])
def test_the_program_ends_with_2_for_a_bad_configuration(
        text: str, arguments: tuple[str, ...], reason: str, tmp_path: pathlib.Path) -> None:
    done = run_program(tmp_path, text, *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
