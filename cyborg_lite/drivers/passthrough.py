# SPDX-License-Identifier: Apache-2.0
"""Which PCI functions can be given to a guest now, and why the others can't.

Judges only: nothing is bound, unbound or written. What can't be judged is not offered. A function
on a vfio driver may well be inside a guest already: that is no reason here, since the guest is
ours and a function in use must stay reported.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from cyborg_lite.drivers import sysfs

_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")
_IFF_UP = 1

_JUDGED = ("02", "03", "0b", "12")
"""Classes of functions that may be offered while a host driver has them: networks, whose
interfaces show whether they are used, and accelerators. A disk or a USB controller may not."""


def judge(candidates: Sequence[sysfs.PciFunction], reader: sysfs.Sysfs,
          claimed: Collection[str] = ()) -> tuple[list[sysfs.PciFunction], dict[str, str]]:
    """Split candidates into those to offer and those to withhold, with the reason by address.

    claimed: addresses that another driver offers.
    """
    groups = _by_group(reader.pci_functions())
    children = collections.Counter(each.physfn for each in reader.pci_functions())
    offered: list[sysfs.PciFunction] = []
    withheld: dict[str, str] = {}
    taken = set(claimed)
    for function in candidates:
        neighbours = _neighbours(function, groups)
        reason = (_impossible(function) or _carved(function, children)
                  or _used_by_host(function, reader) or _used_group(function, neighbours)
                  or _taken(function, neighbours, taken))
        if reason is None:
            offered.append(function)
            taken.add(function.address)
        else:
            withheld[function.address] = reason
    return offered, withheld


def is_passthrough_driver(driver: str | None) -> bool:
    """Say whether a function with this driver, or with none, is out of the host's hands."""
    return driver in (None, "pci-stub", "xen-pciback") or driver.endswith(("vfio-pci", "vfio_pci"))


def _by_group(functions: Iterable[sysfs.PciFunction]) -> dict[int, list[sysfs.PciFunction]]:
    groups: dict[int, list[sysfs.PciFunction]] = {}
    for function in functions:
        if function.iommu_group is not None:
            groups.setdefault(function.iommu_group, []).append(function)
    return groups


def _neighbours(function: sysfs.PciFunction,
                groups: dict[int, list[sysfs.PciFunction]]) -> list[sysfs.PciFunction]:
    """The other functions that go to a guest with this one; bridges stay with the host."""
    if function.iommu_group is None:
        return []
    return [each for each in groups.get(function.iommu_group, [])
            if each.address != function.address and not each.is_bridge]


def _impossible(function: sysfs.PciFunction) -> str | None:
    if function.is_bridge:
        return "it is a bridge"
    if function.vendor == "ffff":
        return "it does not answer: its vendor id reads ffff"
    if function.iommu_group is None:
        return ("it has no IOMMU group: switch the IOMMU on in the firmware and on the kernel's "
                "command line (intel_iommu=on for Intel)")
    return None


def _carved(function: sysfs.PciFunction, children: Mapping[str | None, int]) -> str | None:
    count = max(function.num_vfs, children.get(function.address, 0))
    if count:
        return f"its virtual functions are enabled ({count} of them)"
    if any(_UUID.fullmatch(name) for name in function.entries):
        return "it has mediated devices"
    if function.is_virtual and function.vendor == "10de" and function.class_code.startswith("03"):
        return "it is a virtual function of an NVIDIA GPU: without a vGPU type it is no device"
    return None


def _used_by_host(function: sysfs.PciFunction, reader: sysfs.Sysfs) -> str | None:
    if function.driver is not None and is_passthrough_driver(function.driver):
        return None
    # the firmware's framebuffer shows the console without any driver
    if "boot_vga" in function.entries and reader.number(f"{function.path}/boot_vga") != 0:
        return "it is the display of the host (boot_vga)"
    if function.driver is None:
        return None
    if not function.class_code.startswith(_JUDGED):
        return (f"the host's {function.driver} driver has it, and whether it is in use can't be "
                "told; bind it to vfio-pci to offer it")
    return _used_interface(function, reader)


def _used_interface(function: sysfs.PciFunction, reader: sysfs.Sysfs) -> str | None:
    below = [name for name in sorted(function.entries) if re.fullmatch(r"virtio[0-9]+", name)]
    for directory in [function.path, *(f"{function.path}/{name}" for name in below)]:
        for interface in reader.names(f"{directory}/net"):
            place = f"{directory}/net/{interface}"
            flags = reader.number(f"{place}/flags")
            if flags is None:
                return f"whether its interface {interface} is in use can't be told"
            if flags & _IFF_UP:
                return f"its interface {interface} is up"
            if any(name == "master" or name.startswith("upper_") for name in reader.names(place)):
                return f"its interface {interface} is part of a bridge or bond"
    return None


def _used_group(function: sysfs.PciFunction,
                neighbours: Iterable[sysfs.PciFunction]) -> str | None:
    for other in neighbours:
        if not is_passthrough_driver(other.driver):
            return (f"it shares IOMMU group {function.iommu_group} with {other.address}, which "
                    f"the host's {other.driver} driver uses; bind that to vfio-pci too")
    return None


def _taken(function: sysfs.PciFunction, neighbours: Iterable[sysfs.PciFunction],
           taken: Collection[str]) -> str | None:
    if function.address in taken:
        return "another driver offers it"
    for other in neighbours:
        if other.address in taken:
            return (f"IOMMU group {function.iommu_group} goes to one guest as a whole, and "
                    f"{other.address} of it is offered")
    return None
