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
from collections.abc import Sequence

from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import usage

_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")

_JUDGED = ("02", "03", "0b", "12")
"""Classes of functions that may be offered while a host driver has them: networks, whose
interfaces show whether they are used, and accelerators. A disk or a USB controller may not."""


def judge(candidates: Sequence[sysfs.PciFunction], environment: base.Environment,
          movable: Collection[str] = ()) -> tuple[list[sysfs.PciFunction], dict[str, str]]:
    """Split candidates into those to offer whole and those to withhold, with the reason.

    What drivers named earlier offer, or withhold while a host driver has it, is respected.
    movable: addresses that the operator wants taken from their host driver before a guest gets
        them; these need no more than that no use of the host's can be seen, and so do their
        neighbours in the IOMMU group that are movable too.
    """
    functions = environment.sysfs.pci_functions()
    groups = _by_group(functions)
    children = collections.Counter(each.physfn for each in functions)
    offered: list[sysfs.PciFunction] = []
    withheld: dict[str, str] = {}
    taken = set(environment.claimed)
    for function in candidates:
        neighbours = _neighbours(function, groups)
        reason = (_forbidden(function, environment) or _impossible(function)
                  or carved(function, children.get(function.address, 0))
                  or _used_by_host(function, environment, movable)
                  or _used_group(function, neighbours, environment, movable)
                  or _taken(function, neighbours, taken))
        if reason is None:
            offered.append(function)
            taken.add(function.address)
        else:
            withheld[function.address] = reason
    return offered, withheld


def used_group(function: sysfs.PciFunction, environment: base.Environment) -> str | None:
    """Return why the function's IOMMU group can't go to a guest: a neighbour that the host uses.

    For drivers that judge a function itself in their own way.
    """
    groups = _by_group(environment.sysfs.pci_functions())
    return _used_group(function, _neighbours(function, groups), environment, ())


def is_passthrough_driver(driver: str | None) -> bool:
    """Say whether a function with this driver, or with none, is out of the host's hands."""
    return driver in (None, "pci-stub", "xen-pciback") or sysfs.is_vfio(driver)


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


def _forbidden(function: sysfs.PciFunction, environment: base.Environment) -> str | None:
    if environment.devices.is_never_offered(function):
        return device_config.NEVER
    doubt = environment.doubted.get(function.address)
    # the driver that knows the card best has looked at it as its host driver shows it
    return None if is_passthrough_driver(function.driver) else doubt


def _impossible(function: sysfs.PciFunction) -> str | None:
    if function.is_bridge:
        return "it is a bridge"
    if function.vendor == "ffff":
        return "it does not answer: its vendor id reads ffff"
    if function.iommu_group is None:
        return ("it has no IOMMU group: switch the IOMMU on in the firmware and on the kernel's "
                "command line (intel_iommu=on for Intel)")
    return None


def carved(function: sysfs.PciFunction, children: int = 0) -> str | None:
    """Return why it is no whole device: virtual functions, mediated devices, or is one itself.

    children: how many functions say that this one is their physical function.
    """
    count = max(function.num_vfs, children)
    if count:
        return f"its virtual functions are enabled ({count} of them)"
    if any(_UUID.fullmatch(name) for name in function.entries):
        return "it has mediated devices"
    if function.is_virtual and function.vendor == "10de" and function.class_code.startswith("03"):
        return "it is a virtual function of an NVIDIA GPU: without a vGPU type it is no device"
    return None


def _used_by_host(function: sysfs.PciFunction, environment: base.Environment,
                  movable: Collection[str]) -> str | None:
    display = environment.use.of_display(function)
    if display or is_passthrough_driver(function.driver):
        return display
    use = environment.use.of(function)
    if function.address in movable or function.class_code.startswith(_JUDGED):
        return use
    if use and usage.UNTOLD not in use:
        return use
    return (f"the host's {function.driver} driver has it, and whether it is in use "
            f"{usage.UNTOLD}; bind it to vfio-pci to offer it")


def _used_group(function: sysfs.PciFunction, neighbours: Iterable[sysfs.PciFunction],
                environment: base.Environment, movable: Collection[str]) -> str | None:
    for other in neighbours:
        if is_passthrough_driver(other.driver):
            continue
        use = environment.use.of(other) if other.address in movable else None
        if other.address not in movable or use:
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
