# SPDX-License-Identifier: Apache-2.0
"""What sysfs tells of an NVMe controller that the host's nvme driver has.

Reading only, as an ordinary user can; nothing is judged but whether it can be judged.
"""

from __future__ import annotations

import dataclasses
import re

from cyborg_lite.drivers import nvme_records
from cyborg_lite.drivers import sysfs

CLASS = "010802"
DRIVER = "nvme"

_SUBSYSTEMS = "class/nvme-subsystem"
_CONTROLLER = re.compile(r"nvme\d+")
_NAMESPACE = re.compile(r"nvme(\d+)(?:c\d+)?n(\d+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Controller:
    """name: such as `nvme0`, not the same after each boot. state: the kernel's word, or None."""

    name: str
    state: str | None
    identity: nvme_records.Identity | None
    firmware: str | None


def of(function: sysfs.PciFunction, reader: sysfs.Sysfs) -> Controller | None:
    """Return the controller of a function; None when the nvme driver made none."""
    names = [name for name in reader.names(f"{function.path}/nvme") if _CONTROLLER.fullmatch(name)]
    if len(names) != 1:
        return None
    place = f"{function.path}/nvme/{names[0]}"
    serial, nqn, model = (reader.text(f"{place}/{name}") for name in
                          ("serial", "subsysnqn", "model"))
    identity = nvme_records.Identity(serial, nqn or "", model or "") if serial else None
    return Controller(names[0], reader.text(f"{place}/state"), identity,
                      reader.text(f"{place}/firmware_rev"))


def trouble(function: sysfs.PciFunction, controller: Controller | None,
            reader: sysfs.Sysfs) -> str | None:
    """Return why the controller can't be used, or shares its disks with another one."""
    if controller is None:
        return "the nvme driver has it, but made no controller of it"
    if controller.state != "live":
        return f"its controller {controller.name} is not live but {controller.state or 'unknown'}"
    if controller.identity is None:
        return "which disk it is can't be told: it shows no serial number"
    return None if function.is_virtual else _sharers(controller.name, reader)


def _sharers(name: str, reader: sysfs.Sysfs) -> str | None:
    for subsystem in reader.names(_SUBSYSTEMS):
        members = [each for each in reader.names(f"{_SUBSYSTEMS}/{subsystem}")
                   if _CONTROLLER.fullmatch(each)]
        if name in members:
            others = ", ".join(each for each in members if each != name)
            return f"it shares its disks with {others}" if others else None
    return f"whether it shares its disks can't be told: no {_SUBSYSTEMS} has {name}"


def has_block_device(function: sysfs.PciFunction, nsid: int, reader: sysfs.Sysfs) -> bool:
    """Say whether the kernel has a block device for a namespace of the function."""
    controller = of(function, reader)
    if controller is None:
        return False
    place = f"{function.path}/nvme/{controller.name}"
    for name in reader.names(place):
        match = _NAMESPACE.fullmatch(name)
        if match and reader.number(f"{place}/{name}/nsid") == nsid:
            return f"nvme{match[1]}n{match[2]}" in reader.names("class/block")
    return False
