# SPDX-License-Identifier: Apache-2.0
"""Work on one PCI function between guests: put it on another kernel driver, reset it.

Each step looks first whether somebody uses the function, and afterwards whether it has worked.
"""

from __future__ import annotations

from cyborg_lite.drivers import base
from cyborg_lite.drivers import passthrough
from cyborg_lite.drivers import sysfs


class Refused(Exception):
    """The work was not done, or did not help; the text says which function and why."""


def move(function: sysfs.PciFunction, driver: str, environment: base.Environment) -> None:
    """Put the function and what shares its IOMMU group on this driver; repeating is harmless.

    A neighbour that no entry with driver_override means is left alone, and is an obstacle.
    """
    reader = environment.sysfs.fresh()
    use = environment.use.fresh()
    together = [each for each in reader.pci_functions()
                if not each.is_bridge and function.iommu_group is not None
                and each.iommu_group == function.iommu_group]
    wanted: dict[str, str] = {}
    for each in together or [function]:
        entry = environment.devices.entry_for(each)
        own = entry.driver_override if entry else None
        to = driver if each.address == function.address else own
        if each.address != function.address and passthrough.is_passthrough_driver(each.driver):
            continue
        if to is None:
            raise Refused(f"{function.address} shares its IOMMU group with {each.address}, which "
                          f"the host's {each.driver} driver has and no device file gives away")
        if each.driver == to:
            continue
        reason = use.of(each) or use.of_guest(each)
        if reason:
            raise Refused(f"{each.address} can't be put on {to}: {reason}")
        wanted[each.address] = to
    for each in together or [function]:
        if each.address in wanted:
            _move(each, wanted[each.address], environment)


def _move(function: sysfs.PciFunction, driver: str, environment: base.Environment) -> None:
    environment.host.set_driver_override(function.address, driver)
    if function.driver is not None:
        environment.host.unbind(function.address)
    environment.host.probe(function.address)
    now = environment.sysfs.fresh().pci_function(function.address)
    if now is None or now.driver != driver:
        raise Refused(f"{function.address} was to be on {driver} and is on "
                      f"{(now and now.driver) or 'no driver'}; is the module {driver} loaded?")


def can_be_reset(function: sysfs.PciFunction) -> bool:
    """Say whether the kernel knows a way; older kernels have no list of ways, only the file."""
    return "reset" in function.entries


def reset(function: sysfs.PciFunction, environment: base.Environment) -> None:
    """Reset the function by the best way that it has."""
    methods = environment.sysfs.fresh().text(f"{function.path}/reset_method")
    if not can_be_reset(function) or methods == "":
        raise Refused(f"{function.address} can't be reset: the kernel knows no way to do it")
    use = environment.use.fresh()
    reason = use.of(function) or use.of_guest(function)
    if reason:
        raise Refused(f"{function.address} can't be reset: {reason}")
    try:
        environment.host.reset(function.address)
    except OSError as error:
        raise Refused(f"{function.address} was not reset by {methods or 'the kernel'}: "
                      f"{error.strerror or error}") from error
