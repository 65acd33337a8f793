# SPDX-License-Identifier: Apache-2.0
"""Devices, deployables and attributes as the API sees them. Reports are stored by `inventory.py`.
"""

from __future__ import annotations

import collections
import uuid
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import paging
from cyborg_lite.db import services
from cyborg_lite.db import session

V = models.devices
D = models.deployables
A = models.attributes
N = models.hosts

ENABLED = "enabled"
AGENT = "agent"
OPERATOR = "operator"


# --- devices ----------------------------------------------------------------------------------


DEVICE_ORDER = paging.Order(V, {"uuid": V.c.uuid, "type": V.c.type, "vendor": V.c.vendor,
                                "hostname": V.c.hostname, "status": V.c.status})


def _with_host(horizon: liveness.Horizon) -> sa.Select[Any]:
    return (sa.select(V, liveness.host_state(horizon).label("host_state"))
            .outerjoin(N, N.c.name == V.c.hostname))


def list_devices(database: session.Database, query: messages.DeviceQuery,
                 horizon: liveness.Horizon = liveness.NOBODY_IS_DOWN) -> list[messages.Device]:
    """The devices that fit, oldest first unless the page says otherwise."""
    statement = _with_host(horizon)
    for column, value in ((V.c.type, query.type), (V.c.vendor, query.vendor),
                          (V.c.hostname, query.hostname)):
        if value is not None:
            statement = statement.where(column == value)
    if query.offered_only:
        statement = statement.where(sa.or_(
            V.c.withheld.is_(None), sa.exists().where(D.c.device_id == V.c.id)))
    with database.reading() as connection:
        found = connection.execute(paging.paged(connection, statement, DEVICE_ORDER, query.page))
        return [_device(row) for row in found.mappings()]


def get_device(database: session.Database, device_uuid: str,
               horizon: liveness.Horizon = liveness.NOBODY_IS_DOWN) -> messages.Device:
    """One device; NotFound."""
    with database.reading() as connection:
        row = connection.execute(
            _with_host(horizon).where(V.c.uuid == device_uuid)).mappings().first()
    if row is None:
        raise _no_device(device_uuid)
    return _device(row)


@session.retrying
def set_status(database: session.Database, device_uuid: str, status: str,
               reason: str | None = None) -> bool:
    """Enable or disable a device; returns whether its status changed.

    A device that is disabled again keeps the moment; a reason that is given replaces the old one.
    """
    with database.writing() as connection:
        row = connection.execute(
            sa.select(V.c.id, V.c.status, V.c.hostname, V.c.status_reason)
            .where(V.c.uuid == device_uuid).with_for_update()).first()
        if row is None:
            raise _no_device(device_uuid)
        values: dict[str, Any] = {"status": status, "status_reason": None, "disabled_at": None}
        if status != ENABLED:
            values = {"status": status, "status_reason": reason or row.status_reason}
        if row.status == status:
            if values.get("status_reason") != row.status_reason:
                connection.execute(sa.update(V).where(V.c.id == row.id).values(values))
            return False
        moment = session.now()
        if status != ENABLED:
            values["disabled_at"] = moment
        connection.execute(sa.update(V).where(V.c.id == row.id)
                           .values(updated_at=moment, **values))
        services.mark_hosts_changed(connection, {row.hostname})
        if status == ENABLED:
            # it was kept although it may be gone: a full report tells
            services.ask_for_report(connection, {row.hostname})
        return True


def _no_device(device_uuid: str) -> errors.NotFound:
    return errors.NotFound(f"Device {device_uuid} does not exist.")


def _device(row: Any) -> messages.Device:
    return messages.Device(
        uuid=row["uuid"], type=row["type"], vendor=row["vendor"], model=row["model"],
        std_board_info=row["std_board_info"], vendor_board_info=row["vendor_board_info"],
        hostname=row["hostname"], status=row["status"], driver_name=row["driver"],
        pci_address=row["pci_address"], numa_node=row["numa_node"],
        host_state=row["host_state"],
        status_reason=row["status_reason"] or row["withheld"],
        disabled_at=session.text(row["disabled_at"]),
        created_at=session.text(row["created_at"]), updated_at=session.text(row["updated_at"]))


# --- deployables ------------------------------------------------------------------------------


DEPLOYABLE_ORDER = paging.Order(D, {"uuid": D.c.uuid, "name": D.c.name})


def list_deployables(database: session.Database,
                     query: messages.DeployableQuery) -> list[messages.Deployable]:
    """The deployables that fit with their attributes, oldest first unless the page says otherwise.
    """
    statement = sa.select(D)
    if query.name is not None:
        statement = statement.where(D.c.name == query.name)
    pairs = sa.select(A.c.deployable_id, A.c.key, A.c.value).order_by(A.c.key)
    restricted = query.name is not None or query.page is not None
    with database.reading() as connection:
        rows = connection.execute(
            paging.paged(connection, statement, DEPLOYABLE_ORDER, query.page)).mappings().all()
        if restricted:
            pairs = pairs.where(A.c.deployable_id.in_([row["id"] for row in rows]))
        attributes = _grouped(connection.execute(pairs))
    return [_deployable(row, attributes[row["id"]]) for row in rows]


def get_deployable(database: session.Database, deployable_uuid: str) -> messages.Deployable:
    """One deployable with its attributes; NotFound."""
    with database.reading() as connection:
        row = connection.execute(
            sa.select(D).where(D.c.uuid == deployable_uuid)).mappings().first()
        if row is None:
            raise errors.NotFound(f"Deployable {deployable_uuid} does not exist.")
        attributes = _grouped(connection.execute(
            sa.select(A.c.deployable_id, A.c.key, A.c.value)
            .where(A.c.deployable_id == row["id"]).order_by(A.c.key)))
    return _deployable(row, attributes[row["id"]])


def _grouped(rows: Any) -> dict[int, list[list[str]]]:
    grouped: dict[int, list[list[str]]] = collections.defaultdict(list)
    for deployable_id, key, value in rows:
        grouped[deployable_id].append([key, value])
    return grouped


def _deployable(row: Any, attributes: list[list[str]]) -> messages.Deployable:
    return messages.Deployable(
        uuid=row["uuid"], id=row["id"], parent_id=None, root_id=row["id"], name=row["name"],
        num_accelerators=row["num_accelerators"], device_id=row["device_id"],
        rp_uuid=row["rp_uuid"], driver_name=row["driver_name"],
        bitstream_id=row["bitstream_id"], attributes=attributes,
        created_at=session.text(row["created_at"]), updated_at=session.text(row["updated_at"]))


# --- attributes -------------------------------------------------------------------------------


ATTRIBUTE_ORDER = paging.Order(A, {"uuid": A.c.uuid, "key": A.c.key,
                                   "deployable_id": A.c.deployable_id})


def list_attributes(database: session.Database, deployable_id: int | None, key: str | None,
                    page: messages.Page | None = None) -> list[messages.Attribute]:
    """The attributes that fit, oldest first unless the page says otherwise."""
    statement = sa.select(A)
    if deployable_id is not None:
        statement = statement.where(A.c.deployable_id == deployable_id)
    if key is not None:
        statement = statement.where(A.c.key == key)
    with database.reading() as connection:
        found = connection.execute(paging.paged(connection, statement, ATTRIBUTE_ORDER, page))
        return [_attribute(row) for row in found.mappings()]


def get_attribute(database: session.Database, attribute_uuid: str) -> messages.Attribute:
    """One attribute; NotFound."""
    with database.reading() as connection:
        row = connection.execute(
            sa.select(A).where(A.c.uuid == attribute_uuid)).mappings().first()
    if row is None:
        raise _no_attribute(attribute_uuid)
    return _attribute(row)


def create_attribute(database: session.Database, deployable_id: int, key: str,
                     value: str) -> messages.Attribute:
    """Add an operator's attribute; NotFound for the deployable, Duplicate for the key."""
    values = {"uuid": str(uuid.uuid4()), "deployable_id": deployable_id, "key": key,
              "value": value, "origin": OPERATOR, "created_at": session.now(),
              "updated_at": None}
    _create_attribute(database, values)
    return _attribute(values)


@session.retrying
def _create_attribute(database: session.Database, values: dict[str, Any]) -> None:
    deployable_id, key = values["deployable_id"], values["key"]
    try:
        with database.writing() as connection:
            hostname = _host_of(connection, deployable_id)
            if hostname is None:
                raise errors.NotFound(f"Deployable with id {deployable_id} does not exist; "
                                      "attributes belong to the integer id of a deployable.")
            connection.execute(sa.insert(A), values)
            services.mark_hosts_changed(connection, {hostname})
    except db_exc.DBDuplicateEntry as error:
        with database.reading() as connection:
            # stored by an earlier try, before the connection broke
            if connection.scalar(sa.select(A.c.id).where(A.c.uuid == values["uuid"])):
                return
        raise errors.Duplicate(f"Deployable {deployable_id} has an attribute {key} already; "
                               "delete that one first.") from error


def delete_attribute(database: session.Database, attribute_uuid: str) -> None:
    """Delete an operator's attribute; NotFound, Conflict for one that the agent reports."""
    _delete_attribute(database, attribute_uuid, set())


@session.retrying
def _delete_attribute(database: session.Database, attribute_uuid: str, seen: set[str]) -> None:
    """Delete it, unless an earlier try that had `seen` it did, before the connection broke."""
    with database.writing() as connection:
        row = connection.execute(
            sa.select(A.c.id, A.c.deployable_id, A.c.key, A.c.origin)
            .where(A.c.uuid == attribute_uuid).with_for_update()).first()
        if row is None and attribute_uuid in seen:
            return
        if row is None:
            raise _no_attribute(attribute_uuid)
        seen.add(attribute_uuid)
        if row.origin == AGENT:
            raise errors.Conflict(f"Attribute {attribute_uuid} ({row.key}) is reported by the "
                                  "host's agent. Use another key, or change the agent's "
                                  "configuration.")
        hostname = _host_of(connection, row.deployable_id)
        connection.execute(sa.delete(A).where(A.c.id == row.id))
        if hostname is not None:
            services.mark_hosts_changed(connection, {hostname})


def _host_of(connection: sa.Connection, deployable_id: int) -> str | None:
    return connection.scalar(
        sa.select(V.c.hostname).join_from(D, V, V.c.id == D.c.device_id)
        .where(D.c.id == deployable_id))


def _no_attribute(attribute_uuid: str) -> errors.NotFound:
    return errors.NotFound(f"Attribute {attribute_uuid} does not exist.")


def _attribute(row: Any) -> messages.Attribute:
    return messages.Attribute(
        uuid=row["uuid"], deployable_id=row["deployable_id"], key=row["key"], value=row["value"],
        created_at=session.text(row["created_at"]), updated_at=session.text(row["updated_at"]))
