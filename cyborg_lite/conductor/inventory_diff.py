# SPDX-License-Identifier: Apache-2.0
"""Pure: what is known of a host and what it reports -> the changes. No input or output.

Uuids are derived from host and address, so the same card on the same host is the same device
after any loss of rows, and a report may be applied twice.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from cyborg_lite import codec
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.conductor import partition_wishes
from cyborg_lite.db import inventory as rows
from cyborg_lite.db import partitioning

NAMESPACE = uuid.UUID("5dd7df29-6ab1-5c2c-a0f4-90ab5f4a6e3c")

DEVICE_FIELDS = ("address", "type", "vendor", "model", "std_board_info", "vendor_board_info",
                 "driver", "pci_address", "numa_node")
"""Fields of a reported device that are columns of its row."""

WITHHELD = "withheld"
"""Stands where a device's status stands: it stays, as a disabled one does."""


def stable_uuid(*parts: str) -> str:
    """The uuid of what these parts name: host, address, deployable, handle."""
    return str(uuid.uuid5(NAMESPACE, "\0".join(parts)))


def may_be_ours(provider_uuid: str) -> bool:
    """Whether `stable_uuid` can have made it: others mark providers with OWNER_CYBORG too.

    Cyborg's own are named by version 3, of the deployable's name.
    """
    return uuid.UUID(provider_uuid).version == 5


def diff(known: rows.KnownHost, report: messages.HostReport) -> rows.Changes:
    """Say what the report changes.

    Handles that an ARQ holds are never removed: they go to `missing`. Devices of a driver that
    failed, that are withheld, or that an operator disabled, stay although they are not reported.
    """
    return _Diff(known, report).changes


class _Diff:
    def __init__(self, known: rows.KnownHost, report: messages.HostReport) -> None:
        self.known = known
        self.report = report
        self.changes = rows.Changes()
        self.handles_of = _by_deployable(known.handles)
        self.attributes_of = _by_deployable(known.attributes)
        self._devices()
        self._keep_apart()

    def _devices(self) -> None:
        reported = {stable_uuid(self.report.host, device.address): device
                    for device in self.report.devices}
        for device_uuid, device in reported.items():
            values = {**{name: getattr(device, name) for name in DEVICE_FIELDS},
                      "withheld": None}
            self.changes.devices.put(self.known.devices.get(device_uuid), device_uuid, values)
            self._deployables(device_uuid, device)
            self._partitions(device_uuid, device)
        reasons = {each.address: each.reason for each in self.report.withheld}
        for each in self.report.withheld:
            self._withheld(stable_uuid(self.report.host, each.address), each, reported)
        for device_uuid, row in self.known.devices.items():
            if device_uuid not in reported and row["driver"] not in self.report.failed_drivers:
                self._gone_device(row, reasons.get(row["address"]))

    def _partitions(self, device_uuid: str, device: messages.ReportedDevice) -> None:
        known = self.known.partitions.get(device_uuid)
        reported = device.partitioning
        if known is None and reported is None:
            return
        if known is not None and self._is_another(device_uuid, device, known):
            self.changes.replaced.append(device_uuid)
            known = {**known, "wish": None, "wished_key": None, "is_uncertain": False}
        values = {
            "address": device.address, "driver": device.driver,
            "reported": None if reported is None else rows.canonical(
                {**codec.encode(reported), partitioning.MODEL: device.model}),
            "reported_key": None if reported is None else known["reported_key"]
            if known and known["is_uncertain"] else partition_wishes.key_of_report(
                reported, known["wish"] if known else None)}
        if known is None:
            self.changes.new_partitions.append({"device_uuid": device_uuid, **values})
        elif any(known[name] != value for name, value in values.items()):
            self.changes.changed_partitions.append({"id": known["id"], **values})
            if known["reported_key"] != values["reported_key"]:
                self.changes.split_anew.append(device_uuid)
                if values["reported_key"] == known["wished_key"] is not None:
                    self.changes.as_wished.append(device_uuid)

    def _is_another(self, device_uuid: str, device: messages.ReportedDevice,
                    known: Mapping[str, Any]) -> bool:
        """Say whether a layout was wished for of a device of another model in this place."""
        if known["wished_key"] is None:
            return False
        before = json.loads(known["reported"] or "{}").get(partitioning.MODEL) or (
            self.known.devices.get(device_uuid, {}).get("model"))
        # of what no driver could tell the model yet, nobody knows that it was another
        return bool(before) and before != device.model

    def _withheld(self, device_uuid: str, withheld: messages.WithheldFunction,
                  reported: Mapping[str, messages.ReportedDevice]) -> None:
        """Show a device that has never offered anything, so that its row tells the reason."""
        if withheld.type is None or device_uuid in reported or device_uuid in self.known.devices:
            return
        self.changes.devices.put(None, device_uuid, {
            **dict.fromkeys(DEVICE_FIELDS), "address": withheld.address, "type": withheld.type,
            "vendor": withheld.vendor or "", "model": withheld.model or "",
            "driver": withheld.driver, "pci_address": withheld.address,
            "numa_node": withheld.numa_node, "withheld": withheld.reason})

    def _gone_device(self, device: Mapping[str, Any], withheld: str | None) -> None:
        if withheld is not None:
            # it is there and offers nothing: its row tells the reason
            self.changes.devices.put(device, device["uuid"], {
                **{name: device[name] for name in DEVICE_FIELDS}, "withheld": withheld})
        status = device["status"] if withheld is None else WITHHELD
        kept = False
        for deployable in self.known.deployables.values():
            if deployable["device_id"] == device["id"]:
                kept |= self._gone_deployable(deployable, status)
        if not kept and status == rows.ENABLED:
            self.changes.devices.gone.append(device["id"])

    def _deployables(self, device_uuid: str, device: messages.ReportedDevice) -> None:
        reported = {stable_uuid(self.report.host, device.address, deployable.name): deployable
                    for deployable in device.deployables}
        for deployable_uuid, deployable in reported.items():
            known = self.known.deployables.get(deployable_uuid)
            values = {
                "name": f"{self.report.host}_{deployable.name}",
                "driver_name": deployable.driver_name, "prepares": deployable.prepares,
                "cleans": deployable.cleans, "num_accelerators": len(deployable.handles)}
            self.changes.deployables.put(known, deployable_uuid, values,
                                         parent=device_uuid, rp_uuid=deployable_uuid)
            self._handles(deployable_uuid, known, deployable)
            self._attributes(deployable_uuid, known, deployable)
        known_device = self.known.devices.get(device_uuid)
        for deployable_uuid, row in self.known.deployables.items():
            if (known_device and row["device_id"] == known_device["id"]
                    and deployable_uuid not in reported):
                self._gone_deployable(row, rows.ENABLED)

    def _gone_deployable(self, deployable: Mapping[str, Any], status: str) -> bool:
        """Let go what may go; returns whether something must stay."""
        held = False
        for handle in self.handles_of.get(deployable["id"], ()):
            held |= self._gone_handle(handle)
        if not held and status == rows.ENABLED:
            self.changes.deployables.gone.append(deployable["id"])
        return held

    def _handles(self, deployable_uuid: str, known: Mapping[str, Any] | None,
                 deployable: messages.ReportedDeployable) -> None:
        existing = {row["uuid"]: row for row in self.handles_of.get(known["id"], ())
                    } if known else {}
        reported = {}
        for handle in deployable.handles:
            info = rows.canonical(handle.info)
            reported[stable_uuid(deployable_uuid, handle.type, info)] = (handle.type, info)
        # other words for one function, a network say, are no other handle: with two of them two
        # servers could have it
        same = {_slot(row["type"], row["info"]): handle_uuid
                for handle_uuid, row in existing.items() if handle_uuid not in reported}
        same.pop(None, None)
        found = {handle_uuid if handle_uuid in existing else
                 same.get(_slot(kind, info), handle_uuid): (kind, info)
                 for handle_uuid, (kind, info) in reported.items()}
        for handle_uuid, (kind, info) in found.items():
            row = existing.get(handle_uuid)
            if row is None:
                self.changes.new_handles.append(
                    {"uuid": handle_uuid, "parent": deployable_uuid, "type": kind, "info": info,
                     "state": states.FREE})
                continue
            if row["info"] != info:
                self.changes.changed_handles.append({"id": row["id"], "info": info})
            if row["state"] == states.MISSING:
                self.changes.found_handles.append(row["id"])
        for handle_uuid, row in existing.items():
            if handle_uuid not in found:
                self._gone_handle(row)

    def _gone_handle(self, row: Mapping[str, Any]) -> bool:
        """Returns whether it stays: an ARQ holds it, or the last tenant's data may be on it."""
        if row["state"] == states.FREE:
            self.changes.gone_handles.append(row["id"])
            return False
        if states.allows(states.handle_move("lose"), row["state"]):
            self.changes.lost_handles.append(row["id"])
        return True

    def _keep_apart(self) -> None:
        """Make no handle of what another one, that stays, is already: two servers could have it.

        The full report that follows when that one has gone makes it.
        """
        if not self.changes.new_handles:
            return
        going = set(self.changes.gone_handles)
        staying: dict[str, set[str]] = {}
        for row in self.known.handles:
            slot = _slot(row["type"], row["info"])
            if slot and row["id"] not in going:
                staying.setdefault(slot[0], set()).add(slot[1])
        self.changes.new_handles[:] = [
            row for row in self.changes.new_handles
            if not _overlaps(_slot(row["type"], row["info"]), staying)]

    def _attributes(self, deployable_uuid: str, known: Mapping[str, Any] | None,
                    deployable: messages.ReportedDeployable) -> None:
        existing = {row["key"]: row for row in self.attributes_of.get(known["id"], ())
                    } if known else {}
        operators = {key for key, row in existing.items() if row["origin"] == rows.OPERATOR}
        wanted = dict(_agent_attributes(deployable, operators))
        for key, value in wanted.items():
            row = existing.get(key)
            if row is None:
                self.changes.new_attributes.append(
                    {"uuid": stable_uuid(deployable_uuid, "attribute", key),
                     "parent": deployable_uuid, "key": key, "value": value})
            elif row["value"] != value:
                self.changes.changed_attributes.append({"id": row["id"], "value": value})
        self.changes.gone_attributes.extend(
            row["id"] for key, row in existing.items()
            if key not in wanted and key not in operators)


WHOLE = ""
"""The part of a function that an attach handle is when it is the function itself."""


def _slot(kind: str, info: str) -> tuple[str, str] | None:
    """Return which function, or parent of mediated devices, a handle is, and which part of it.

    None for what is no part of the host: two servers may well have it.
    """
    if kind not in ("PCI", "MDEV"):
        return None
    parts = json.loads(info)
    words = [parts.get(name) for name in ("domain", "bus", "device", "function")]
    place = parts.get("parent") if None in words else ":".join(map(str, words))
    if place is None:
        return None
    return place, WHOLE if kind == "PCI" else parts.get("vgpu_mark", WHOLE)


def _overlaps(slot: tuple[str, str] | None, taken: Mapping[str, set[str]]) -> bool:
    if slot is None:
        return False
    place, part = slot
    return bool(taken.get(place, set()) if part == WHOLE else
                taken.get(place, set()) & {part, WHOLE})


def _agent_attributes(deployable: messages.ReportedDeployable,
                      taken: set[str]) -> Iterable[tuple[str, str]]:
    """Key and value of everything the driver says; keys that an operator has are left to him."""
    numbers = (number for number in itertools.count() if f"trait{number}" not in taken)
    if "rc" not in taken:
        yield "rc", deployable.resource_class
    for trait, number in zip(sorted(set(deployable.traits)), numbers, strict=False):
        yield f"trait{number}", trait
    for key, value in deployable.attributes.items():
        if key not in taken and key != "rc" and not key.startswith("trait"):
            yield key, value


def _by_deployable(found: Iterable[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    grouped: dict[int, list[Mapping[str, Any]]] = {}
    for row in found:
        grouped.setdefault(row["deployable_id"], []).append(row)
    return grouped


