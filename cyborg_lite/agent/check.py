# SPDX-License-Identifier: Apache-2.0
"""The pre-flight: what this host would offer, what not and why, and what should be mended.

No service is asked and nothing is written: it runs beside an agent, as any user, and on a
recorded tree.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from cyborg_lite import layouts
from cyborg_lite import messages
from cyborg_lite.agent import hardware
from cyborg_lite.agent import installed
from cyborg_lite.agent import reports
from cyborg_lite.agent import settings
from cyborg_lite.drivers import base
from cyborg_lite.drivers import pci_ids
from cyborg_lite.drivers import sysfs

CLEAR, PROBLEMS, BAD_CONFIGURATION = 0, 1, 2
"""Exit statuses."""

_MEND_FILE = "mend the file, and send the agent SIGHUP or start it again"
_NO_IOMMU = base.Problem(
    "the host has no IOMMU groups: nothing can be given to a guest",
    "switch the IOMMU on in the firmware (VT-d, AMD-Vi, SMMU) and on the kernel's command line "
    "(intel_iommu=on for Intel)")


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What the pre-flight found; a row has the keys of the JSON's devices."""

    host: str
    problems: list[base.Problem]
    rows: list[dict[str, Any]]

    @property
    def status(self) -> int:
        """The exit status."""
        return PROBLEMS if self.problems else CLEAR


def run(wanted: settings.Settings, catalogue: installed.Catalogue | None = None) -> Result:
    """Look at the host as these settings want it. Raises base.ConfigurationError."""
    drivers = settings.hardware_for(wanted, catalogue, checking=True)
    found = drivers.discover()
    functions = {each.address: each for each in drivers.sysfs.pci_functions()}
    rows: dict[str, dict[str, Any]] = {}
    for device in found.devices:
        _add_offered(rows, device, functions)
    for slot in drivers.slots:
        for address, reason in (slot.driver.withheld if slot.driver else {}).items():
            if address not in rows:
                rows[address] = {**_row(address, functions.get(address), slot.name),
                                 "reason": reason}
    return Result(wanted.host, list(_problems(wanted, drivers, functions, rows)),
                  [rows[address] for address in sorted(rows, key=_order)])


# --- rows -------------------------------------------------------------------------------------


def _row(address: str, function: sysfs.PciFunction | None, driver: str) -> dict[str, Any]:
    """Return a row of what is not offered; without a function nothing is known of it."""
    return {
        "address": address, "vendor_id": function and function.vendor,
        "product_id": function and function.product, "class": function and function.class_code,
        "kernel_driver": function and function.driver, "driver": driver,
        "device_type": pci_ids.device_type(function) if function else "PCI",
        "offered": False, "reason": None, "resource_class": None, "traits": [], "handles": [],
        "numa_node": function and function.numa_node,
        "iommu_group": function and function.iommu_group}


def _add_offered(rows: dict[str, dict[str, Any]], device: messages.ReportedDevice,
                 functions: dict[str, sysfs.PciFunction]) -> None:
    own = device.pci_address or device.address
    for deployable in device.deployables:
        for handle in deployable.handles:
            address = reports.handle_address(handle) or own
            row = rows.setdefault(address, _described(address, device, functions))
            row["offered"] = True
            row["resource_class"] = row["resource_class"] or deployable.resource_class
            row["traits"] = sorted({*row["traits"], *deployable.traits})
            row["handles"].append(_handle(handle, own))
    if own not in rows:
        parts = any(deployable.handles for deployable in device.deployables)
        rows[own] = {**_described(own, device, functions), "reason": (
            "its virtual functions are offered" if parts
            else _unattachable(device.partitioning) if device.partitioning
            else "it has nothing left to offer")}


def _unattachable(partitioning: messages.ReportedPartitioning) -> str:
    """Why a device that can be split offers nothing."""
    if partitioning.fault:
        return partitioning.fault
    if not partitioning.partitions:
        return "it is not split into partitions, and offers nothing until it is"
    counts = collections.Counter(each.profile for each in partitioning.partitions)
    return (f"it is split into {layouts.describe(counts.items())}; a guest gets a partition only "
            "as a vGPU, and it has none to offer")


def _described(address: str, device: messages.ReportedDevice,
               functions: dict[str, sysfs.PciFunction]) -> dict[str, Any]:
    row = _row(address, functions.get(address), device.driver)
    row["device_type"] = device.type
    if address not in functions:
        row |= {"vendor_id": _id(device.vendor), "product_id": _id(device.model),
                "numa_node": device.numa_node}
    return row


def _handle(handle: messages.ReportedHandle, parent: str) -> dict[str, Any]:
    is_mediated = handle.type == "MDEV"
    return {"type": handle.type,
            "address": reports.handle_address(handle) or (parent if is_mediated else None),
            "mdev_type": handle.info.get("asked_type") if is_mediated else None}


def _id(text: str) -> str | None:
    match = re.fullmatch(r"(?:0x)?([0-9a-f]{4})", text.lower())
    return match[1] if match else None


def _order(address: str) -> tuple[int, tuple[int, ...], str]:
    if sysfs.ADDRESS.fullmatch(address):
        return 0, sysfs.address_key(address), address
    return 1, (), address


# --- problems ---------------------------------------------------------------------------------


def _problems(wanted: settings.Settings, drivers: hardware.Hardware,
              functions: dict[str, sysfs.PciFunction],
              rows: dict[str, dict[str, Any]]) -> Iterator[base.Problem]:
    for bad in wanted.files.bad:
        disabled = bad.driver if bad.driver in drivers.drivers else None
        yield base.Problem(bad.text + (f"; {disabled} is disabled" if disabled else ""),
                           _MEND_FILE)
    for slot in drivers.slots:
        if slot.file_complaint:
            if not any(bad.text in slot.file_complaint for bad in wanted.files.bad):
                yield base.Problem(f"{slot.file_complaint}; {slot.name} is disabled", _MEND_FILE)
        elif slot.error is not None:
            yield base.Problem(f"{slot.name} failed: {slot.error}",
                               "its devices are not offered until it works")
        if slot.driver is not None:
            yield from slot.driver.problems
    if not rows and not os.path.isdir(wanted.sysfs_root):
        yield base.Problem(f"[agent] sysfs_root = {wanted.sysfs_root}: there is no such directory",
                           "name the place where sysfs is mounted, or a recorded tree")
    looked_at = [functions[address] for address in rows if address in functions]
    if looked_at and not drivers.sysfs.names("kernel/iommu_groups") and all(
            each.iommu_group is None for each in looked_at):
        yield _NO_IOMMU


# --- output -----------------------------------------------------------------------------------


def as_json(result: Result) -> str:
    """Return the result as one JSON object."""
    return json.dumps({"host": result.host,
                       "problems": [dataclasses.asdict(each) for each in result.problems],
                       "devices": result.rows}, indent=2)


_TITLES = ("ADDRESS", "ID", "KERNEL DRIVER", "TYPE", "DRIVER", "OFFERED AS, OR WHY NOT")


def as_table(result: Result) -> str:
    """Return the result for people."""
    cells = [_TITLES, *(_cells(row) for row in result.rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_TITLES) - 1)]
    lines = [f"host {result.host}: {sum(row['offered'] for row in result.rows)} of "
             f"{len(result.rows)} looked at are offered"]
    if result.rows:
        lines += ["  ".join([*(text.ljust(width) for text, width in zip(
            line, widths, strict=False)), line[-1]]).rstrip() for line in cells]
    for problem in result.problems:
        lines += ["", *textwrap.wrap(f"PROBLEM: {problem.what}", 96, subsequent_indent="  "),
                  *textwrap.wrap(f"to mend: {problem.hint}", 96, initial_indent="  ",
                                 subsequent_indent="  ")]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    ids = f"{row['vendor_id'] or '-'}:{row['product_id'] or '-'}"
    return (row["address"], ids, row["kernel_driver"] or "-", row["device_type"], row["driver"],
            _offer(row) if row["offered"] else f"no: {row['reason']}")


def _offer(row: dict[str, Any]) -> str:
    kinds = sorted({handle["mdev_type"] or handle["type"] for handle in row["handles"]})
    return f"{len(row['handles'])} {row['resource_class']} ({', '.join(kinds)})"
