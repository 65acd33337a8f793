# SPDX-License-Identifier: Apache-2.0
"""The only functions that run as root, through oslo.privsep: each does one small thing.

No decision here. The agent that calls has no rights, and may have been taken over: each function
builds its path from parts that it checks itself and writes below sysfs. Disks are the exception:
their commands go through `nvme_ioctl.py`, which sends them to no disk that the host uses; and
partitions of GPUs, which `nvml_mig.py` has NVML make, and which NVML destroys only unused.

A driver calls them through `Environment.host`, a `Host`, and never by themselves. A new one
takes checked parts instead of a path, does one thing, and gets a method of `Host`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from cyborg_lite.drivers import nvme_ioctl
from cyborg_lite.drivers import nvml_mig
from cyborg_lite.drivers import sysfs

# oslo.privsep imports it wherever it finds it, for 10 MiB; this reads as "not installed"
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]

from oslo_privsep import capabilities  # noqa: E402  only now
from oslo_privsep import priv_context  # noqa: E402

MAX_VFS = 65535
MAX_TYPE = 2 ** 32 - 1

# root's own files in sysfs are written with the first; NVMe and NVIDIA commands want the second
CONTEXT = priv_context.PrivContext(
    "cyborg_lite", pypath=f"{__name__}.CONTEXT",
    capabilities=[capabilities.CAP_DAC_OVERRIDE, capabilities.CAP_SYS_ADMIN])

_DRIVER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PARENT = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_TYPE = re.compile(r"[A-Za-z0-9_ .:-]{1,128}")
_GROUP = re.compile(r"(noiommu-)?[0-9]{1,6}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

_here = False


class Refused(ValueError):
    """What was asked is nothing that a driver may ask; nothing was written."""


def run_here() -> None:
    """Run everything in this process, without a helper; for root, and for recorded trees.

    There is no boundary of rights within a process, so sysfs may be any tree then.
    """
    global _here
    _here = True
    CONTEXT.set_client_mode(False)


@CONTEXT.entrypoint
def write_function(root: str, address: str, name: str, text: str) -> None:
    """Write one of a PCI function's files that `_FUNCTION_FILES` knows."""
    allowed = _FUNCTION_FILES.get(name)
    if allowed is None or not allowed.fullmatch(text):
        raise Refused(f"{text!r} is nothing to write to {name!r} of a PCI function")
    _write(root, f"{sysfs.PCI_DEVICES}/{_matching(sysfs.ADDRESS, address)}/{name}", text)


@CONTEXT.entrypoint
def bind(root: str, address: str, driver: str) -> None:
    """Give the function to a driver that is loaded."""
    _write(root, f"bus/pci/drivers/{_matching(_DRIVER, driver)}/bind",
           _matching(sysfs.ADDRESS, address))


@CONTEXT.entrypoint
def probe(root: str, address: str) -> None:
    """Let the kernel find the driver of the function, its override considered."""
    _write(root, "bus/pci/drivers_probe", _matching(sysfs.ADDRESS, address))


@CONTEXT.entrypoint
def create_mdev(root: str, parent: str, type_id: str, uuid: str) -> None:
    """Make a mediated device of a type of this parent, a directory of class/mdev_bus."""
    _write(root, f"class/mdev_bus/{_matching(_PARENT, parent)}/mdev_supported_types/"
                 f"{_matching(_TYPE, type_id)}/create", _matching(_UUID, uuid))


@CONTEXT.entrypoint
def remove_mdev(root: str, uuid: str) -> None:
    """Remove a mediated device."""
    _write(root, f"bus/mdev/devices/{_matching(_UUID, uuid)}/remove", "1")


@CONTEXT.entrypoint
def is_group_open(group: str) -> bool:
    """Say whether somebody has /dev/vfio/GROUP open: the kernel lets one open it at a time."""
    try:
        os.close(os.open(f"/dev/vfio/{_matching(_GROUP, group)}", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    return False


@CONTEXT.entrypoint
def nvme_admin(root: str, address: str, serial: str, opcode: int, nsid: int,
               words: Sequence[int], data: bytes, length: int,
               timeout_ms: int) -> tuple[int, int, bytes]:
    """Send an admin command to the controller that the nvme driver has at this address."""
    return nvme_ioctl.admin(_sysfs_place(root, address), serial, opcode, nsid, words, data,
                            length, timeout_ms)


@CONTEXT.entrypoint
def nvme_write(root: str, address: str, serial: str, nsid: int, offset: int,
               data: bytes) -> None:
    """Write to a namespace that nobody on the host uses, past every cache."""
    nvme_ioctl.write(_sysfs_place(root, address), serial, nsid, offset, data)


@CONTEXT.entrypoint
def nvme_read(root: str, address: str, serial: str, nsid: int, offset: int,
              length: int) -> bytes:
    """Read from a namespace that nobody on the host uses, past every cache."""
    return nvme_ioctl.read(_sysfs_place(root, address), serial, nsid, offset, length)


@CONTEXT.entrypoint
def nvme_rescan(root: str, address: str) -> None:
    """Let the nvme driver look for namespaces that came or went."""
    name = nvme_ioctl.controller_name(_sysfs_place(root, address))
    _write(root, f"{sysfs.PCI_DEVICES}/{address}/nvme/{name}/rescan_controller", "1")


@CONTEXT.entrypoint
def look_at_partitions(addresses: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what NVML says of these cards to root: it tells places and partitions to no other."""
    return nvml_mig.look([_matching(sysfs.ADDRESS, each) for each in addresses])


@CONTEXT.entrypoint
def set_mig_mode(address: str, wanted: bool) -> int:
    """Switch MIG mode; NVML refuses while somebody uses the card."""
    return nvml_mig.set_mode(_matching(sysfs.ADDRESS, address), bool(wanted))


@CONTEXT.entrypoint
def change_partition(address: str, change: str, *numbers: int) -> None:
    """Do one of the changes of `_PARTITION_CHANGES` to one partition of a card."""
    if change not in _PARTITION_CHANGES or not all(
            isinstance(each, int) and 0 <= each <= MAX_TYPE for each in numbers):
        raise Refused(f"{change!r} with {numbers!r} is nothing to do to a partition")
    _PARTITION_CHANGES[change](_matching(sysfs.ADDRESS, address), *numbers)


_PARTITION_CHANGES = {"create": nvml_mig.create, "fill": nvml_mig.fill, "empty": nvml_mig.empty,
                      "destroy": nvml_mig.destroy}

_FUNCTION_FILES = {
    "sriov_numvfs": re.compile(r"[0-9]{1,5}"),
    "sriov_drivers_autoprobe": re.compile(r"[01]"),
    "driver_override": re.compile(r"\n|[A-Za-z0-9_-]{1,64}"),
    "driver/unbind": sysfs.ADDRESS,
    "reset": re.compile("1"),
    "nvidia/current_vgpu_type": re.compile(r"[0-9]{1,10}"),
}


def _matching(pattern: re.Pattern[str], text: str) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text) or text in (".", ".."):
        raise Refused(f"{text!r} does not look like {pattern.pattern}")
    return text


def _sysfs_place(root: str, address: str) -> str:
    """Return the directory of a PCI function, on sysfs unless we run in-process."""
    place = os.path.join(os.path.realpath(root), sysfs.PCI_DEVICES,
                         _matching(sysfs.ADDRESS, address))
    if not _here and os.stat(place).st_dev != os.stat("/sys/bus").st_dev:
        raise Refused(f"{place} is no directory of sysfs")
    return place


def _write(root: str, path: str, text: str) -> None:
    with _opened(root, path) as descriptor:
        os.write(descriptor, text.encode("ascii"))


@contextlib.contextmanager
def _opened(root: str, path: str) -> Iterator[int]:
    """Open a file that exists below the root, which must be sysfs unless we run in-process."""
    top = os.path.realpath(root)
    place = os.path.realpath(os.path.join(top, path))
    if not place.startswith(f"{top}/"):
        raise Refused(f"{path} of {root} leads out of it")
    descriptor = os.open(place, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _here and os.fstat(descriptor).st_dev != os.stat("/sys/bus").st_dev:
            raise Refused(f"{place} is no file of sysfs")
        # only now: whoever asks must not be able to empty a file that he can't write
        os.ftruncate(descriptor, 0)
        yield descriptor
    finally:
        os.close(descriptor)


class Host:
    """The privileged functions with one root of sysfs; a driver's only way to change its host.

    Each raises OSError as the kernel answers, or Refused. Tests put a kernel of their own here.
    """

    def __init__(self, root: str = "/sys") -> None:
        self.root = root

    def set_num_vfs(self, address: str, count: int) -> None:
        """Make so many virtual functions. From other than 0 the kernel wants 0 first (EBUSY)."""
        if not 0 <= count <= MAX_VFS:
            raise Refused(f"{count} virtual functions are not between 0 and {MAX_VFS}")
        write_function(self.root, address, "sriov_numvfs", str(count))

    def set_vf_autoprobe(self, address: str, wanted: bool) -> None:
        """Say whether virtual functions made from now on get a host driver."""
        write_function(self.root, address, "sriov_drivers_autoprobe", str(int(wanted)))

    def set_driver_override(self, address: str, driver: str | None) -> None:
        """Fix the driver that the function will get, or let the kernel choose again."""
        write_function(self.root, address, "driver_override", driver or "\n")

    def unbind(self, address: str) -> None:
        """Take the function from its driver; FileNotFoundError when it has none."""
        write_function(self.root, address, "driver/unbind", address)

    def bind(self, address: str, driver: str) -> None:
        """Give the function to a driver that is loaded."""
        bind(self.root, address, driver)

    def probe(self, address: str) -> None:
        """Let the kernel find the driver of the function, its override considered."""
        probe(self.root, address)

    def reset(self, address: str) -> None:
        """Reset the function by the best method that it has."""
        write_function(self.root, address, "reset", "1")

    def create_mdev(self, parent: str, type_id: str, uuid: str) -> None:
        """Make a mediated device; FileExistsError when the uuid exists on any parent."""
        create_mdev(self.root, parent, type_id, uuid)

    def remove_mdev(self, uuid: str) -> None:
        """Remove a mediated device; FileNotFoundError when it is gone."""
        remove_mdev(self.root, uuid)

    def is_group_open(self, group: str) -> bool:
        """Say whether a guest, or anybody, has the VFIO group of this number open."""
        return bool(is_group_open(group))

    def set_vgpu_type(self, address: str, type_id: int) -> None:
        """Set the vGPU type of a virtual function of the vendor's VFIO framework; 0 removes it."""
        if not 0 <= type_id <= MAX_TYPE:
            raise Refused(f"{type_id} is no number of a vGPU type")
        write_function(self.root, address, "nvidia/current_vgpu_type", str(type_id))

    def nvme_admin(self, address: str, serial: str, opcode: int, nsid: int,
                   words: Sequence[int], data: bytes, length: int,
                   timeout_ms: int) -> tuple[int, int, bytes]:
        """Send an NVMe admin command; returns status, result and what the device answered.

        serial: of the disk that is meant; a command that may destroy is sent to no other, and
        not while the host uses it (EBUSY).
        """
        status, result, answer = nvme_admin(self.root, address, serial, opcode, nsid,
                                            list(words), data, length, timeout_ms)
        return status, result, answer

    def nvme_write(self, address: str, serial: str, nsid: int, offset: int, data: bytes) -> None:
        """Write whole pages to a namespace that the host doesn't use."""
        nvme_write(self.root, address, serial, nsid, offset, data)

    def nvme_read(self, address: str, serial: str, nsid: int, offset: int,
                  length: int) -> bytes:
        """Read whole pages of a namespace that the host doesn't use."""
        return bytes(nvme_read(self.root, address, serial, nsid, offset, length))

    def nvme_rescan(self, address: str) -> None:
        """Let the nvme driver look for namespaces that came or went."""
        nvme_rescan(self.root, address)

    def look_at_partitions(self, addresses: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what `nvml_mig.look` says of these cards. Raises nvml_mig.Refused."""
        return dict(look_at_partitions(list(addresses)))

    def set_mig_mode(self, address: str, wanted: bool) -> int:
        """Switch MIG mode; returns NVML's code of the outcome. Raises nvml_mig.Refused."""
        return int(set_mig_mode(address, wanted))

    def create_partition(self, address: str, profile_id: int, start: int, size: int) -> None:
        """Make a GPU instance at its place. Raises nvml_mig.Refused."""
        change_partition(address, "create", profile_id, start, size)

    def fill_partition(self, address: str, number: int, profile_id: int, start: int) -> None:
        """Give a GPU instance the compute instance that takes all of it."""
        change_partition(address, "fill", number, profile_id, start)

    def empty_partition(self, address: str, number: int, profile_id: int, start: int) -> None:
        """Destroy the compute instances of a GPU instance."""
        change_partition(address, "empty", number, profile_id, start)

    def destroy_partition(self, address: str, number: int, profile_id: int, start: int) -> None:
        """Destroy a GPU instance that is empty."""
        change_partition(address, "destroy", number, profile_id, start)
