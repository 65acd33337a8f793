# SPDX-License-Identifier: Apache-2.0
"""What a test does to the kernel itself: binds, makes virtual functions and mdevs, listens.

Nothing of cyborg_lite is used here, so that what a driver did is judged by other eyes. Each
function that changes something is a context manager that changes it back.
"""

from __future__ import annotations

import contextlib
import fcntl
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
