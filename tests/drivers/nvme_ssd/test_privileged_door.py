# SPDX-License-Identifier: Apache-2.0
"""The privileged half without a disk: what it refuses before any device is opened for a command."""

from __future__ import annotations

import pathlib

import pytest

from cyborg_lite.drivers import nvme_ioctl
from cyborg_lite.drivers import privileged
from tests.drivers.nvme_ssd import lab


@pytest.mark.parametrize(("opcode", "words", "data", "length", "timeout_ms"), [
    (0x11, [], b"", 0, 1000), (0xc1, [], b"", 0, 1000), (0x0c, [], b"", 0, 1000),
    (0x06, [0] * 7, b"", 4096, 1000), (0x06, [], b"", 8192, 1000), (0x15, [], b"x" * 8192, 0, 1),
    (0x06, [], b"x", 1, 1000), (0x80, [], b"", 0, 0), (0x80, [], b"", 0, 10 ** 9)])
def test_what_is_no_command_of_ours_is_not_sent(opcode: int, words: list[int], data: bytes,
                                                length: int, timeout_ms: int) -> None:
    with pytest.raises(ValueError, match="nothing to send"):
        nvme_ioctl.admin("/sys/bus/pci/devices/0000:41:00.0", "S", opcode, 1, words, data, length,
                         timeout_ms)


def test_a_function_that_nvme_does_not_have_is_refused(tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path, driver="vfio-pci")

    with pytest.raises(FileNotFoundError, match="the nvme driver doesn't have it"):
        nvme_ioctl.admin(str(host.kernel.place), "S", 0x06, 0, [1], b"", 4096, 1000)


def test_a_device_node_that_is_not_the_one_sysfs_means_is_refused(
        tmp_path: pathlib.Path) -> None:
    host = lab.Lab(tmp_path)
    lab.write(host.kernel.place / f"nvme/{lab.NAME}/dev", "240:3")
    nodes = tmp_path / "dev"
    nodes.mkdir()
    (nodes / lab.NAME).touch()

    with pytest.raises(nvme_ioctl.NotTheDisk, match="is not what"):
        nvme_ioctl.admin(str(host.kernel.place), "S", 0x06, 0, [1], b"", 4096, 1000,
                         nodes=str(nodes))


@pytest.mark.parametrize(("offset", "length"), [(1, 4096), (0, 512), (-4096, 4096), (0, 8192)])
def test_only_whole_pages_are_read_and_written(offset: int, length: int,
                                               tmp_path: pathlib.Path) -> None:
    place = str(lab.Lab(tmp_path).kernel.place)

    with pytest.raises(ValueError, match="no page"):
        nvme_ioctl.read(place, "S", 1, offset, length)
    with pytest.raises(ValueError, match="no page"):
        nvme_ioctl.write(place, "S", 1, offset, bytes(length))


@pytest.mark.parametrize("address", ["../../../etc", "0000:41:00.9", "0000:41:00.0/.."])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(privileged.Refused):
        privileged._sysfs_place("/sys", address)
