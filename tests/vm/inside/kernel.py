# SPDX-License-Identifier: Apache-2.0
"""What a test does to the kernel itself: binds, makes virtual functions and mdevs, listens.

Nothing of cyborg_lite is used here, so that what a driver did is judged by other eyes. Each
function that changes something is a context manager that changes it back.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import select
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Callable
from collections.abc import Iterator

PCI = pathlib.Path("/sys/bus/pci")
MDEVS = pathlib.Path("/sys/bus/mdev/devices")
PARENTS = pathlib.Path("/sys/class/mdev_bus")

_VFIO_SET_IOMMU, _VFIO_GROUP_SET_CONTAINER, _VFIO_GROUP_GET_DEVICE_FD = (
    0x3b00 | 100 + number for number in (2, 4, 6))
_VFIO_TYPE1V2_IOMMU = 3

_BLKRRPART = 0x125f
"""Read the partition table again."""

_UEVENT_PROTOCOL = 15
"""NETLINK_KOBJECT_UEVENT, which Python's socket module has no name for."""

_KERNEL_EVENTS = 1


def place(address: str) -> pathlib.Path:
    """Return the directory of a PCI function."""
    return PCI / "devices" / address


def text(path: pathlib.Path) -> str:
    return path.read_text().strip()


def write(path: pathlib.Path, value: str) -> None:
    """Write to a file of sysfs in one go; OSError is the kernel's answer."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


# --- drivers -----------------------------------------------------------------------------------


def driver_of(address: str) -> str | None:
    try:
        return os.path.basename(os.readlink(place(address) / "driver"))
    except FileNotFoundError:
        return None


def iommu_group(name: str) -> str:
    """Return the IOMMU group of a PCI function or of a mediated device."""
    place = MDEVS / name if (MDEVS / name).exists() else PCI / "devices" / name
    return os.path.basename(os.readlink(place / "iommu_group"))


def bind(address: str, driver: str) -> None:
    """Give a function to a driver by driver_override; an empty name gives it to its usual one."""
    write(place(address) / "driver_override", f"{driver}\n")
    if driver_of(address) is not None:
        write(place(address) / "driver/unbind", address)
    write(PCI / "drivers_probe", address)
    assert not driver or driver_of(address) == driver


@contextlib.contextmanager
def bound(address: str, driver: str) -> Iterator[str]:
    """Let a driver have a function for a while, then its usual driver again."""
    bind(address, driver)
    try:
        yield address
    finally:
        bind(address, "")


@contextlib.contextmanager
def open_in_vfio(name: str) -> Iterator[None]:
    """Open a PCI function or mediated device as a hypervisor does: container, group, device."""
    with contextlib.ExitStack() as stack:
        def opened(path: str) -> int:
            descriptor = os.open(path, os.O_RDWR)
            stack.callback(os.close, descriptor)
            return descriptor

        container, group = opened("/dev/vfio/vfio"), opened(f"/dev/vfio/{iommu_group(name)}")
        fcntl.ioctl(group, _VFIO_GROUP_SET_CONTAINER, struct.pack("i", container))
        fcntl.ioctl(container, _VFIO_SET_IOMMU, _VFIO_TYPE1V2_IOMMU)
        # with a buffer that may change, the answer is the new descriptor
        device = fcntl.ioctl(group, _VFIO_GROUP_GET_DEVICE_FD, bytearray(name.encode() + b"\0"))
        stack.callback(os.close, device)
        yield


@contextlib.contextmanager
def disguised(address: str, vendor: str, product: str, code: str) -> Iterator[None]:
    """Let a reader of /sys see other ids of a function (hex, no 0x) for a while.

    The driver must not change meanwhile: the file that names it is replaced too.
    """
    names = {"vendor": f"0x{vendor}\n", "device": f"0x{product}\n", "class": f"0x{code}\n"}
    event = (place(address) / "uevent").read_text().splitlines()
    changed = {"PCI_ID": f"{vendor}:{product}".upper(), "PCI_CLASS": f"{int(code, 16):X}"}
    names["uevent"] = "".join(
        f"{key}={changed.get(key, value)}\n" for key, _, value in (
            line.partition("=") for line in event))
    with contextlib.ExitStack() as stack:
        for name, content in names.items():
            file = pathlib.Path("/run") / f"{address}-{name}"
            file.write_text(content)
            target = str((place(address) / name).resolve())
            subprocess.run(["mount", "--bind", str(file), target], check=True)
            stack.callback(subprocess.run, ["umount", target], check=True)
        yield


# --- virtual functions -------------------------------------------------------------------------


def vfs_of(address: str) -> list[str]:
    """Return the addresses of the virtual functions, by index."""
    links = place(address).glob("virtfn*")
    return [os.path.basename(os.readlink(link))
            for link in sorted(links, key=lambda link: int(link.name.removeprefix("virtfn")))]


@contextlib.contextmanager
def vfs(address: str, count: int, *, probe: bool = True) -> Iterator[list[str]]:
    """Have virtual functions for a while. probe: whether host drivers get them."""
    write(place(address) / "sriov_drivers_autoprobe", "1" if probe else "0")
    write(place(address) / "sriov_numvfs", str(count))
    try:
        yield vfs_of(address)
    finally:
        write(place(address) / "sriov_numvfs", "0")
        write(place(address) / "sriov_drivers_autoprobe", "1")


@contextlib.contextmanager
def vendor_vfio(address: str, count: int, *, mdevs: bool = False) -> Iterator[list[str]]:
    """Have a card whose driver `nvidia` shows vGPUs on its virtual functions.

    mdevs: the functions are parents of mediated devices, else they have a type of their own.
    """
    choice = pathlib.Path("/sys/module/labgpu/parameters/mdev_on_vfs")
    write(choice, "Y" if mdevs else "N")
    with bound(address, "nvidia"), vfs(address, count, probe=False) as found:
        for each in found:
            bind(each, "nvidia")
        yield found


def interfaces(address: str) -> list[str]:
    """Return the names of the network interfaces of a function."""
    return sorted(os.listdir(place(address) / "net")) if (place(address) / "net").exists() else []


@contextlib.contextmanager
def interface_up(name: str) -> Iterator[None]:
    subprocess.run(["busybox", "ip", "link", "set", name, "up"], check=True)
    try:
        yield
    finally:
        subprocess.run(["busybox", "ip", "link", "set", name, "down"], check=True)


# --- mediated devices --------------------------------------------------------------------------


def mdevs() -> set[str]:
    return set(os.listdir(MDEVS))


def available(parent: str, kind: str) -> int:
    return int(text(PARENTS / parent / "mdev_supported_types" / kind / "available_instances"))


def mdev_kind(name: str) -> tuple[str, str]:
    """Return parent and type of a mediated device."""
    path = (MDEVS / name).resolve()
    return path.parent.name, (path / "mdev_type").resolve().name


def create_mdev(parent: str, kind: str, name: str) -> None:
    write(PARENTS / parent / "mdev_supported_types" / kind / "create", name)


def remove_mdev(name: str) -> None:
    write(MDEVS / name / "remove", "1")


@contextlib.contextmanager
def mdev(parent: str, kind: str) -> Iterator[str]:
    """Have a mediated device for a while; yields its uuid."""
    name = str(uuid.uuid4())
    create_mdev(parent, kind, name)
    try:
        yield name
    finally:
        remove_mdev(name)


@contextlib.contextmanager
def no_mdevs_after() -> Iterator[None]:
    """Remove every mediated device that was made meanwhile, by whomever."""
    before = mdevs()
    try:
        yield
    finally:
        for name in mdevs() - before:
            remove_mdev(name)


# --- NVMe --------------------------------------------------------------------------------------


def controller(address: str) -> str:
    """Return the name of the controller that the host's driver made, as in nvme0."""
    return next(path.name for path in (place(address) / "nvme").iterdir())


def _controller(address: str) -> pathlib.Path:
    return place(address) / "nvme" / controller(address)


def disk(address: str, nsid: int) -> pathlib.Path:
    """Return the block device of a namespace: names change from boot to boot, nsids don't."""
    for path in _controller(address).glob("nvme*n*"):
        if text(path / "nsid") == str(nsid):
            head, _, rest = path.name.partition("c")
            return pathlib.Path("/dev") / (f"{head}n{rest.partition('n')[2]}" if rest else head)
    raise LookupError(f"{address} has no namespace {nsid}")


@contextlib.contextmanager
def attached(address: str, nsid: int, to: str | None = None) -> Iterator[None]:
    """Have a detached namespace attached for a while: to the disk, or to a function of it."""
    owner = to or address
    which = (f"--namespace-id={nsid}", f"--controllers={text(_controller(owner) / 'cntlid')}")
    nvme("attach-ns", f"/dev/{controller(address)}", *which)
    try:
        nvme("ns-rescan", f"/dev/{controller(owner)}")
        until(lambda: has_namespace(owner, nsid))
        yield
    finally:
        nvme("detach-ns", f"/dev/{controller(address)}", *which)
        nvme("ns-rescan", f"/dev/{controller(owner)}")
        until(lambda: not has_namespace(owner, nsid))


@contextlib.contextmanager
def nvme_vf(address: str, *, shares: bool = False) -> Iterator[str]:
    """Have one virtual function of a disk for a while, online and with the host's driver.

    shares: it keeps namespace 1, which its parent has too; else it has none.
    """
    device = f"/dev/{controller(address)}"
    with vfs(address, 1, probe=False) as (one,):
        listed = json.loads(nvme("list-secondary", device, "--output-format=json"))
        number = next(each["secondary-controller-identifier"]
                      for each in listed["secondary-controllers"]
                      if each["virtual-function-number"] == 1)
        which = ("virt-mgmt", device, f"--cntlid={number}")
        nvme(*which, "--act=7")
        for resource in (0, 1):
            nvme(*which, "--act=8", f"--rt={resource}", "--nr=2")
        nvme(*which, "--act=9")
        bind(one, "nvme")
        try:
            if not shares:
                # each start of a controller attaches what is shared
                nvme("detach-ns", device, "--namespace-id=1", f"--controllers={number}")
                nvme("ns-rescan", f"/dev/{controller(one)}")
                until(lambda: not has_namespace(one, 1))
            yield one
        finally:
            write(place(one) / "driver/unbind", one)
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


# --- events ------------------------------------------------------------------------------------


class Events:
    """The kernel's uevents since it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM,
                                     _UEVENT_PROTOCOL)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((0, _KERNEL_EVENTS))

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait(self, action: str, address: str, seconds: float = 30) -> float:
        """Return when the kernel told this of a PCI function (monotonic)."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                break
            head, *pairs = self._socket.recv(65536).decode(errors="replace").split("\0")
            if head.startswith(f"{action}@") and f"PCI_SLOT_NAME={address}" in pairs \
                    and "SUBSYSTEM=pci" in pairs:
                return time.monotonic()
        raise AssertionError(f"no {action} of {address} in {seconds} s")


def until(met: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for the kernel to finish something that it tells nobody."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "the kernel did not get there"
        time.sleep(0.05)
