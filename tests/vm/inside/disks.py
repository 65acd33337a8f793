# SPDX-License-Identifier: Apache-2.0
"""What a test does to disks: fills, mounts, partitions them, attaches namespaces, makes functions.

Like `kernel.py` it uses nothing of cyborg_lite and changes back what it changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import struct
import subprocess
from collections.abc import Iterator

from tests.vm.inside import kernel

_BLKRRPART = 0x125f
"""Read the partition table again."""


def controller(address: str) -> str:
    """Return the name of the controller that the host's driver made, as in nvme0."""
    return next(path.name for path in (kernel.place(address) / "nvme").iterdir())


def _controller(address: str) -> pathlib.Path:
    return kernel.place(address) / "nvme" / controller(address)


def disk(address: str, nsid: int) -> pathlib.Path:
    """Return the block device of a namespace: names change from boot to boot, nsids don't."""
    for path in _controller(address).glob("nvme*n*"):
        if kernel.text(path / "nsid") == str(nsid):
            head, _, rest = path.name.partition("c")
            return pathlib.Path("/dev") / (f"{head}n{rest.partition('n')[2]}" if rest else head)
    raise LookupError(f"{address} has no namespace {nsid}")


@contextlib.contextmanager
def attached(address: str, nsid: int, to: str | None = None) -> Iterator[None]:
    """Have a detached namespace attached for a while: to the disk, or to a function of it."""
    owner = to or address
    number = kernel.text(_controller(owner) / "cntlid")
    which = (f"--namespace-id={nsid}", f"--controllers={number}")
    nvme("attach-ns", f"/dev/{controller(address)}", *which)
    try:
        nvme("ns-rescan", f"/dev/{controller(owner)}")
        kernel.until(lambda: has_namespace(owner, nsid))
        yield
    finally:
        nvme("detach-ns", f"/dev/{controller(address)}", *which)
        nvme("ns-rescan", f"/dev/{controller(owner)}")
        kernel.until(lambda: not has_namespace(owner, nsid))


@contextlib.contextmanager
def nvme_vf(address: str, *, shares: bool = False) -> Iterator[str]:
    """Have one virtual function of a disk for a while, online and with the host's driver.

    shares: it keeps namespace 1, which its parent has too; else it has none.
    """
    device = f"/dev/{controller(address)}"
    with kernel.vfs(address, 1, probe=False) as (one,):
        listed = json.loads(nvme("list-secondary", device, "--output-format=json"))
        number = next(each["secondary-controller-identifier"]
                      for each in listed["secondary-controllers"]
                      if each["virtual-function-number"] == 1)
        which = ("virt-mgmt", device, f"--cntlid={number}")
        nvme(*which, "--act=7")
        for resource in (0, 1):
            nvme(*which, "--act=8", f"--rt={resource}", "--nr=2")
        nvme(*which, "--act=9")
        kernel.bind(one, "nvme")
        try:
            if not shares:
                # each start of a controller attaches what is shared
                nvme("detach-ns", device, "--namespace-id=1", f"--controllers={number}")
                nvme("ns-rescan", f"/dev/{controller(one)}")
                kernel.until(lambda: not has_namespace(one, 1))
            yield one
        finally:
            kernel.write(kernel.place(one) / "driver/unbind", one)
            nvme(*which, "--act=7")


def has_namespace(address: str, nsid: int) -> bool:
    """Say whether the kernel has a block device for a namespace."""
    try:
        return disk(address, nsid).exists()
    except LookupError:
        return False


def fill(device: pathlib.Path, pattern: bytes, length: int) -> None:
    """Write a pattern over the start of a disk, past the cache."""
    with device.open("r+b", buffering=0) as stream:
        stream.write(pattern * (length // len(pattern)))
        os.fsync(stream.fileno())


def nvme(*arguments: str) -> str:
    """Run nvme-cli; returns what it said."""
    return subprocess.run(["nvme", *arguments], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def mounted(device: pathlib.Path) -> Iterator[pathlib.Path]:
    """Make a file system on a disk and mount it for a while."""
    target = pathlib.Path("/mnt") / device.name
    target.mkdir()
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(device)], check=True)
    subprocess.run(["mount", str(device), str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)
        target.rmdir()
        with device.open("r+b", buffering=0) as stream:
            stream.write(bytes(1 << 20))


@contextlib.contextmanager
def partition(device: pathlib.Path) -> Iterator[pathlib.Path]:
    """Have one partition on a disk for a while: 8 MiB, from the first MiB on."""
    entry = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 2048, 16384)
    with device.open("r+b", buffering=0) as stream:
        def table(content: bytes) -> None:
            stream.seek(0)
            stream.write(content.ljust(510, b"\0") + (b"\x55\xaa" if content else bytes(2)))
            os.fsync(stream.fileno())
            fcntl.ioctl(stream, _BLKRRPART)

        table(bytes(446) + entry)
        try:
            yield device.with_name(f"{device.name}p1")
        finally:
            table(b"")
