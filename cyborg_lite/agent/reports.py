# SPDX-License-Identifier: Apache-2.0
"""What a driver returned, made fit to be reported: completed, compared, named by a digest.

Pure: no driver is asked here, nothing is logged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from cyborg_lite import codec
from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import pci_ids
from cyborg_lite.drivers import sysfs

_PARTS = {"domain", "bus", "device", "function"}


class BadReport(Exception):
    """A driver returned what can't be reported."""


def canonical(devices: Iterable[messages.ReportedDevice]) -> str:
    """Return JSON text that is equal for equal sets of devices, in whatever order they come."""
    return _sorted_json([_ordered(device) for device in devices])


def digest_of(devices: Iterable[messages.ReportedDevice], failed_drivers: Sequence[str],
              withheld: Iterable[messages.WithheldFunction] = ()) -> str:
    """Return the SHA-256 of a discovery.

    The failed drivers count: a device that vanishes while its driver fails leaves no other trace.
    So do the reasons of what is withheld: they are to be seen.
    """
    text = canonical(devices) + json.dumps(sorted(failed_drivers))
    text += _sorted_json([codec.encode(each) for each in withheld])
    return hashlib.sha256(text.encode()).hexdigest()


def withheld(driver: str, address: str, reason: str,
             function: sysfs.PciFunction | None) -> messages.WithheldFunction:
    """Return what a driver does not offer; as a device of its own unless it is part of another."""
    if function is None or function.is_virtual:
        return messages.WithheldFunction(address=address, driver=driver, reason=reason)
    return messages.WithheldFunction(
        address=address, driver=driver, reason=reason, type=pci_ids.device_type(function),
        vendor=function.vendor, model=function.product, numa_node=function.numa_node)


def _ordered(device: messages.ReportedDevice) -> dict[str, Any]:
    data: dict[str, Any] = codec.encode(device)
    for deployable in data["deployables"]:
        deployable["handles"] = json.loads(_sorted_json(deployable["handles"]))
        deployable["traits"] = sorted(deployable["traits"])
    data["deployables"] = json.loads(_sorted_json(data["deployables"]))
    return data


def _sorted_json(items: Iterable[Any]) -> str:
    texts = sorted(json.dumps(item, sort_keys=True, separators=(",", ":")) for item in items)
    return f"[{','.join(texts)}]"


def completed(device: messages.ReportedDevice, name: str,
              driver: base.Driver) -> messages.ReportedDevice:
    """Fill in what the agent knows better than the driver."""
    able = isinstance(driver, base.PreparesHandles)
    fills_in = isinstance(driver, base.PreparesHandles) and not driver.knows_steps
    deployables = []
    for deployable in device.deployables:
        told = deployable.prepares or deployable.cleans
        if told and not able:
            raise BadReport(f"{deployable.name} is said to need host work, but the driver "
                             "can do none")
        if fills_in and not told:
            deployable = dataclasses.replace(deployable, prepares=True, cleans=True)
        deployables.append(deployable)
    return dataclasses.replace(device, driver=name, deployables=deployables)


def addresses(device: messages.ReportedDevice) -> set[str]:
    """The PCI functions that a device takes: its own, and those of its handles."""
    taken = {device.pci_address} if device.pci_address else set()
    for deployable in device.deployables:
        taken.update(filter(None, map(handle_address, deployable.handles)))
    return taken


def handle_address(handle: messages.ReportedHandle) -> str | None:
    """Return the PCI function that a handle is, or that is its parent; None without one."""
    if handle.type not in ("PCI", "MDEV") or not handle.info.keys() >= _PARTS:
        return None
    return "{domain}:{bus}:{device}.{function}".format(**handle.info)


def _names(device: messages.ReportedDevice) -> set[str]:
    """What must be unique on the host: the device's address, the deployables' names."""
    return {f"device {device.address}",
            *(f"deployable {deployable.name}" for deployable in device.deployables)}


def is_new(device: messages.ReportedDevice, claimed: set[str], names: set[str]) -> bool:
    """Say whether nobody reported it so far, and note its names."""
    own = _names(device)
    if claimed & addresses(device) or names & own:
        return False
    names |= own
    return True
