# SPDX-License-Identifier: Apache-2.0
"""The reader of sysfs: each file once a pass, nothing outside the root, no surprise breaks it."""

from __future__ import annotations

import collections
import os
import pathlib
import sys
from collections.abc import Iterator

import pytest

from cyborg_lite.drivers import base
from cyborg_lite.drivers import pci
from cyborg_lite.drivers import sysfs
from tests.drivers import machines

MOST_OPERATIONS = 2000


class Opened:
    """Counts, by Python's audit events, what is opened below a folder. Hooks can't be taken out."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.paths: collections.Counter[str] = collections.Counter()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.root is None or event != "open" or not isinstance(arguments[0], str):
            return
        if arguments[0].startswith(self.root):
            self.paths[arguments[0]] += 1


AUDIT = Opened()


@pytest.fixture
def opened() -> Iterator[Opened]:
    AUDIT.paths.clear()
    yield AUDIT
    AUDIT.root = None


def test_discovery_of_8_gpus_with_256_functions_opens_each_file_once(
        tmp_path: pathlib.Path, opened: Opened) -> None:
    reader = machines.tree(tmp_path, machines.a_virtualized_host())
    driver = pci.PciDriver(base.Environment(
        reader, {"pci": {"device_spec": ['{"vendor_id": "10de"}']}}, set()))
    opened.root = reader.root

    reader.begin_pass()
    driver.discover()

    assert len(reader.pci_functions()) == 8 + 8 + 8 * 32
    assert opened.paths
    assert max(opened.paths.values()) == 1
    assert sum(opened.paths.values()) <= reader.operations < MOST_OPERATIONS


def test_a_second_driver_in_the_same_pass_reads_nothing_more(tmp_path: pathlib.Path) -> None:
    reader = machines.tree(tmp_path, machines.a_virtualized_host())
    drivers = [pci.PciDriver(base.Environment(
        reader, {"pci": {"device_spec": ['{"vendor_id": "10de"}']}}, set())) for _ in range(2)]
    drivers[0].discover()
    before = reader.operations

    drivers[1].discover()

    assert reader.operations == before


def test_what_is_asked_twice_is_read_once(tmp_path: pathlib.Path) -> None:
    (tmp_path / "words").write_text("many\n")
    (tmp_path / "link").symlink_to("words")
    reader = sysfs.Sysfs(str(tmp_path))

    for _ in range(3):
        assert (reader.text("link"), reader.link("link"), reader.names("")) == (
            "many", "words", ("link", "words"))

    # the folder, the link, the file
    assert reader.operations == 3


def test_a_new_pass_sees_what_changed(tmp_path: pathlib.Path) -> None:
    reader = machines.tree(tmp_path, machines.a_function("0000:41:00.0", total_vfs=4))
    place = pathlib.Path(reader.root, reader.pci_functions()[0].path, "sriov_numvfs")
    place.chmod(0o644)
    place.write_text("4\n")

    before = reader.pci_functions()[0].num_vfs
    reader.begin_pass()

    assert (before, reader.pci_functions()[0].num_vfs) == (0, 4)


def test_nothing_outside_the_root_is_opened(tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/vendor").write_text("0x10de\n")
    root = tmp_path / "sys"
    (root / "bus/pci/devices").mkdir(parents=True)
    (root / "bus/pci/devices/0000:01:00.0").symlink_to("../../../../secret")
    (root / "bus/pci/devices/0000:02:00.0").symlink_to(tmp_path / "secret")
    (root / "file").symlink_to("../secret/vendor")
    (root / "own").write_text("mine\n")
    (root / "absolute").symlink_to("/own")
    reader = sysfs.Sysfs(str(root))

    found = [reader.text("file"), reader.text("absolute"), reader.text("../secret/vendor"),
             reader.link("file"),
             reader.names("bus/pci/devices/0000:02:00.0"), reader.resolve("bus/../../secret"),
             reader.pci_functions()]

    assert found == [None, None, None, None, (), None, ()]
    assert reader.resolve("bus/../bus/pci") == "bus/pci"


def test_links_are_followed_by_their_text(tmp_path: pathlib.Path) -> None:
    reader = machines.tree(tmp_path, machines.a_function("0000:41:00.0", driver="nvidia", group=9))

    device = "bus/pci/devices/0000:41:00.0"

    assert reader.link(f"{device}/driver") == "bus/pci/drivers/nvidia"
    assert reader.text(f"{device}/vendor") == "0x10de"
    assert reader.number("kernel/iommu_groups/9/devices/0000:41:00.0/numa_node") == 0


def test_what_is_no_text_file_reads_as_nothing(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "words").write_text("many\n")
    reader = sysfs.Sysfs(str(tmp_path))

    assert [reader.text(name) for name in ("pipe", "loop", "absent", "binary/below", "")] == \
        [None] * 5
    assert reader.number("words") is None
    assert reader.number("binary") is None
    assert reader.text("binary") == "\ufffd\ufffd"


def test_a_root_that_is_not_there_has_no_functions(tmp_path: pathlib.Path) -> None:
    assert sysfs.Sysfs(str(tmp_path / "nowhere")).pci_functions() == ()


@pytest.mark.parametrize("text", ["\u0663", "1_000", "0x", "--1", "9" * 40, "0x" + "f" * 40, ""])
def test_text_that_is_no_plain_number_is_none(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "number").write_text(text)

    assert sysfs.Sysfs(str(tmp_path)).number("number") is None


@pytest.mark.skipif(not os.path.isdir("/sys/bus/pci/devices"), reason="this machine has no PCI")
def test_the_real_sysfs_is_read_without_a_hitch() -> None:
    reader = sysfs.Sysfs("/sys")
    expected = {name for name in os.listdir("/sys/bus/pci/devices")
                if sysfs.ADDRESS.fullmatch(name)}
    driver = pci.PciDriver(base.Environment(
        reader, {"pci": {"device_spec": ['{"address": "*:*:*.*"}']}}, set()))

    devices = driver.discover()

    assert {function.address for function in reader.pci_functions()} == expected
    judged = {device.address for device in devices} | driver.withheld.keys()
    bridges = {function.address for function in reader.pci_functions() if function.is_bridge}
    assert judged == expected - bridges


def test_addresses_sort_as_numbers() -> None:
    addresses = ["10000:01:00.0", "0000:0a:00.0", "0000:9b:00.0"]

    assert sorted(addresses, key=sysfs.address_key) == ["0000:0a:00.0", "0000:9b:00.0",
                                                        "10000:01:00.0"]
    with pytest.raises(ValueError, match="no PCI address"):
        sysfs.address_key("41:00.0")
