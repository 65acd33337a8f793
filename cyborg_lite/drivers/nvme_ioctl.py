# SPDX-License-Identifier: Apache-2.0
"""The kernel's door to an NVMe controller, checked: what `privileged.py` runs as root for disks.

No decision here. A command that may destroy needs the disk's serial number, and every block device
of the controller claimed for the time that it takes: the kernel grants that only while nothing on
the host has mounted or holds one of them or a partition, and lets nobody do so meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import re
import stat
import struct
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

ADMIN_COMMAND = 0xc0484e41
"""NVME_IOCTL_ADMIN_CMD of include/uapi/linux/nvme_ioctl.h, with its structure:"""

_STRUCTURE = struct.Struct("=BBHIIIQQIIIIIIIIII")

_READS = frozenset({0x02, 0x06})
"""Get Log Page, Identify."""

_DESTROYS = frozenset({0x0d, 0x15, 0x80, 0x84})
"""Namespace Management and Attachment, Format NVM, Sanitize."""

MAX_BYTES = 4096
MAX_TIMEOUT_MS = 24 * 3600 * 1000
PAGE = 4096

_CONTROLLER = re.compile(r"nvme\d+")
_NAMESPACE = re.compile(r"nvme\d+(?:c\d+)?n\d+")
_PATH = re.compile(r"(nvme\d+)c\d+(n\d+)")
NODES = "/dev"


class NotTheDisk(OSError):
    """Another disk than the one that is meant is at this address."""


def controller_name(place: str) -> str:
    """Return the controller's name, such as `nvme0`, of the function at this sysfs directory."""
    try:
        names = [name for name in os.listdir(f"{place}/nvme") if _CONTROLLER.fullmatch(name)]
    except FileNotFoundError:
        names = []
    if len(names) != 1:
        raise FileNotFoundError(f"{os.path.basename(place)} has no NVMe controller: the nvme "
                                "driver doesn't have it")
    return names[0]


def admin(place: str, serial: str, opcode: int, nsid: int, words: Sequence[int], data: bytes,
          length: int, timeout_ms: int, *, nodes: str = NODES) -> tuple[int, int, bytes]:
    """Send one command; returns NVMe status, result, and data of the device."""
    if (opcode not in _READS | _DESTROYS or len(words) > 6 or not 0 <= length <= MAX_BYTES
            or len(data) > MAX_BYTES or (data and length)
            or not 0 < timeout_ms <= MAX_TIMEOUT_MS):
        raise ValueError(f"opcode {opcode:#x} with {len(words)} words, {len(data)} bytes out and "
                         f"{length} bytes in for {timeout_ms} ms is nothing to send")
    buffer = ctypes.create_string_buffer(data, max(length, len(data), 1))
    size = max(length, len(data))
    command = bytearray(_STRUCTURE.pack(
        opcode, 0, 0, nsid, 0, 0, 0, ctypes.addressof(buffer) if size else 0, 0, size,
        *words, *[0] * (6 - len(words)), timeout_ms, 0))
    with contextlib.ExitStack() as stack:
        name = controller_name(place)
        descriptor = stack.enter_context(_device(nodes, name, f"{place}/nvme/{name}",
                                                 stat.S_ISCHR, os.O_RDWR))
        if opcode in _DESTROYS:
            for _, block, directory in _blocks(place):
                stack.enter_context(_device(nodes, block, directory, stat.S_ISBLK,
                                            os.O_RDONLY | os.O_EXCL))
            _check(place, name, serial)
        status = fcntl.ioctl(descriptor, ADMIN_COMMAND, command, True)
    return status, _STRUCTURE.unpack(command)[-1], buffer.raw[:length]


def write(place: str, serial: str, nsid: int, offset: int, data: bytes) -> None:
    """Write whole pages to a block device that the host doesn't use."""
    with _page(place, serial, nsid, offset, len(data), os.O_WRONLY) as (descriptor, page):
        page[:] = data
        _whole(os.pwritev(descriptor, [page], offset), len(data))
        os.fsync(descriptor)


def read(place: str, serial: str, nsid: int, offset: int, length: int) -> bytes:
    """Read whole pages of a block device that the host doesn't use."""
    with _page(place, serial, nsid, offset, length, os.O_RDONLY) as (descriptor, page):
        _whole(os.preadv(descriptor, [page], offset), length)
        return bytes(page)


@contextlib.contextmanager
def _page(place: str, serial: str, nsid: int, offset: int, length: int,
          flags: int) -> Iterator[tuple[int, mmap.mmap]]:
    if offset < 0 or offset % PAGE or length != PAGE:
        raise ValueError(f"{length} bytes at {offset} are no page of {PAGE} bytes")
    found = {number: rest for number, *rest in _blocks(place)}
    if nsid not in found:
        raise FileNotFoundError(f"{os.path.basename(place)} has no block device for namespace "
                                f"{nsid}")
    block, directory = found[nsid]
    # only memory of its own is aligned as direct input and output want it
    with (_device(NODES, block, directory, stat.S_ISBLK,
                  flags | os.O_EXCL | os.O_DIRECT) as descriptor,
          contextlib.closing(mmap.mmap(-1, PAGE)) as page):
        _check(place, controller_name(place), serial)
        yield descriptor, page


def _whole(done: int, length: int) -> None:
    if done != length:
        raise OSError(f"{done} of {length} bytes were read or written")


def _check(place: str, name: str, serial: str) -> None:
    found = _text(f"{place}/nvme/{name}/serial")
    if not serial or found != serial:
        raise NotTheDisk(f"{os.path.basename(place)} has the disk with serial number {found!r}, "
                         f"not {serial!r}")


def _blocks(place: str) -> Iterator[tuple[int, str, str]]:
    """Yield number, name and sysfs directory of each block device of the controller."""
    controller = f"{place}/nvme/{controller_name(place)}"
    for name in sorted(os.listdir(controller)):
        if not _NAMESPACE.fullmatch(name):
            continue
        path = _PATH.fullmatch(name)
        block = f"{path[1]}{path[2]}" if path else name
        yield (int(_text(f"{controller}/{name}/nsid")), block,
               f"{place.rpartition('/bus/pci/devices/')[0]}/class/block/{block}")


@contextlib.contextmanager
def _device(nodes: str, name: str, directory: str, kind: Callable[[int], bool],
            flags: int) -> Iterator[int]:
    """Open the device node that sysfs means."""
    descriptor = os.open(f"{nodes}/{name}", flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        if not kind(found.st_mode) or number != _text(f"{directory}/dev"):
            raise NotTheDisk(f"{nodes}/{name} is not what {directory} says")
        yield descriptor
    finally:
        os.close(descriptor)


def _text(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as stream:
        return stream.read().strip("\0 \t\r\n")
