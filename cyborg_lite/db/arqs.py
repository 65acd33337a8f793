# SPDX-License-Identifier: Apache-2.0
"""ARQs: create, look at, unbind, delete. What a bind does to them is in `db/binds.py`.

One function is one question or one transaction. Rows are always locked in the order ARQs, then
handles.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import handles
from cyborg_lite.db import leases
from cyborg_lite.db import models
from cyborg_lite.db import paging
from cyborg_lite.db import session

T = models.arqs
H = models.attach_handles

ACTIVE = ""
"""The mark of the active set: no migration's uuid."""

BOUND_TO_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("instance_uuid", "hostname", "device_rp_uuid", "set_position",
                     "state_reason", "lease_owner", "lease_until")),
    "migration_uuid": ACTIVE, "resumes": False}
"""Columns that say what an ARQ is bound to, and what is under way with that."""


def create(database: session.Database, profile_name: str,
           project_id: str | None) -> list[messages.Arq]:
    """One ARQ per accelerator of each group of the profile, all or none; NotFound."""
    return _create(database, profile_name, project_id, uuid.uuid4())


@session.retrying
def _create(database: session.Database, profile_name: str, project_id: str | None,
            seed: uuid.UUID) -> list[messages.Arq]:
    """Make the ARQs that this seed gives their uuids: repeating it makes no others."""
    profiles = models.device_profiles
    rows: list[dict[str, Any]] = []
    try:
        with database.writing() as connection:
            profile = connection.execute(
                sa.select(profiles.c.id, profiles.c.name, profiles.c.groups)
                .where(profiles.c.name == profile_name)).first()
            if profile is None:
                raise _no_profile(profile_name)
            rows += [_new_row(profile, number, group, project_id)
                     for number, group in enumerate(json.loads(profile.groups))
                     for _ in range(accelerators_of(group))]
            for position, row in enumerate(rows):
                row["uuid"] = str(uuid.uuid5(seed, str(position)))
            connection.execute(sa.insert(T), rows)
    except db_exc.DBDuplicateEntry:
        # they were stored before the connection broke
        with database.reading() as connection:
            return [_message(row) for row in connection.execute(
                _WITH_HANDLE.where(T.c.uuid.in_([row["uuid"] for row in rows]))
                .order_by(T.c.id)).mappings()]
    except db_exc.DBReferenceError as error:
        raise _no_profile(profile_name) from error
    return [_message(row | {"handle_uuid": None}) for row in rows]


def accelerators_of(group: dict[str, str]) -> int:
    """How many accelerators a group of a device profile asks for."""
    return sum(int(value) for key, value in group.items() if key.startswith("resources:"))


def _no_profile(name: str) -> errors.NotFound:
    return errors.NotFound(f"Device profile {name!r} does not exist; "
                           "GET /v2/device_profiles lists those that do.")


def _new_row(profile: sa.Row[Any], number: int, group: dict[str, str],
             project_id: str | None) -> dict[str, Any]:
    return {"project_id": project_id, "state": states.INITIAL,
            "device_profile_id": profile.id, "device_profile_name": profile.name,
            "device_profile_group_id": number, "device_profile_group": session.to_json(group),
            "created_at": session.now(), "updated_at": session.now(), **BOUND_TO_NOTHING}


# --- looking ----------------------------------------------------------------------------------

_SHOWN_HANDLE_STATES = (states.IN_USE, states.MISSING)

_COLUMNS = sa.select(
    T.c.uuid, T.c.project_id, T.c.state, T.c.state_reason, T.c.device_profile_name,
    T.c.device_profile_group_id, T.c.instance_uuid, T.c.migration_uuid, T.c.hostname,
    T.c.device_rp_uuid, T.c.created_at, T.c.updated_at, H.c.uuid.label("handle_uuid"),
    H.c.type.label("handle_type"), H.c.info.label("handle_info"))

_SHOWN_HANDLE = sa.and_(H.c.arq_uuid == T.c.uuid, H.c.state.in_(_SHOWN_HANDLE_STATES))

_WITH_HANDLE = _COLUMNS.select_from(T.outerjoin(H, _SHOWN_HANDLE))

ORDER = paging.Order(T, {"uuid": T.c.uuid, "state": T.c.state,
                         "device_profile_name": T.c.device_profile_name})


def sets_of(connection: sa.Connection, instance_uuid: str) -> list[messages.Arq]:
    """The ARQs of all sets of an instance, in the caller's transaction."""
    return [_message(row) for row in connection.execute(
        _WITH_HANDLE.where(T.c.instance_uuid == instance_uuid).order_by(T.c.id)).mappings()]


def list_arqs(database: session.Database, query: messages.ArqQuery) -> list[messages.Arq]:
    """The ARQs that fit, oldest first unless the page says otherwise."""
    conditions = [column == value for column, value in (
        (T.c.project_id, query.project_id), (T.c.instance_uuid, query.instance_uuid),
        (T.c.hostname, query.hostname), (T.c.device_profile_name, query.device_profile_name),
        (T.c.device_rp_uuid, query.device_rp_uuid),
        (T.c.migration_uuid, query.migration_uuid)) if value is not None]
    if query.migration_uuid is None and not query.all_sets:
        conditions.append(T.c.migration_uuid == ACTIVE)
    conditions += [column.in_(values) for column, values in (
        (T.c.state, query.states), (T.c.instance_uuid, query.instance_uuids))
        if values is not None]
    with database.reading() as connection:
        if query.page is None:
            statement = _WITH_HANDLE.where(*conditions)
        else:
            # the page first, its handles then: a join keeps MySQL from walking the index
            visible = [] if query.project_id is None else [T.c.project_id == query.project_id]
            page = paging.paged(connection, sa.select(T.c.id).where(*conditions), ORDER,
                                query.page, *visible).subquery()
            statement = _COLUMNS.select_from(
                page.join(T, T.c.id == page.c.id).outerjoin(H, _SHOWN_HANDLE))
        found = connection.execute(paging.ordered(statement, ORDER, query.page))
        return [_message(row) for row in found.mappings()]


def get(database: session.Database, arq_uuid: str, project_id: str | None) -> messages.Arq:
    """One ARQ; NotFound, also for another project's when `project_id` is given."""
    statement = _WITH_HANDLE.where(T.c.uuid == arq_uuid)
    if project_id is not None:
        statement = statement.where(T.c.project_id == project_id)
    with database.reading() as connection:
        row = connection.execute(statement).mappings().first()
    if row is None:
        raise not_found([arq_uuid])
    return _message(row)


def not_found(uuids: Sequence[str]) -> errors.NotFound:
    """The error that names ARQs which the caller can't see or which don't exist."""
    return errors.NotFound(f"Accelerator request {', '.join(uuids)} does not exist.")


def _message(row: Any) -> messages.Arq:
    has_handle = row["handle_uuid"] is not None
    return messages.Arq(
        uuid=row["uuid"], state=row["state"], state_reason=row["state_reason"],
        device_profile_name=row["device_profile_name"],
        device_profile_group_id=row["device_profile_group_id"],
        project_id=row["project_id"], hostname=row["hostname"],
        device_rp_uuid=row["device_rp_uuid"], instance_uuid=row["instance_uuid"],
        attach_handle_type=row["handle_type"] if has_handle else None,
        attach_handle_uuid=row["handle_uuid"],
        attach_handle_info=json.loads(row["handle_info"]) if has_handle else {},
        migration_uuid=row["migration_uuid"] or None,
        created_at=session.text(row["created_at"]), updated_at=session.text(row["updated_at"]))


# --- giving back ------------------------------------------------------------------------------


@session.retrying
def unbind(database: session.Database, uuids: Sequence[str]) -> bool:
    """Take the handles back; repeating it changes nothing. Returns whether any needs cleaning.

    NotFound and StateConflict change nothing at all.
    """
    move = states.arq_move("unbind")
    with database.writing() as connection:
        rows = locked(connection, T.c.uuid.in_(uuids))
        missing = set(uuids) - {row.uuid for row in rows}
        if missing:
            raise not_found(sorted(missing))
        bound = [row for row in rows if row.state not in (states.INITIAL, move.target)]
        for row in bound:
            if not states.allows(move, row.state):
                raise errors.StateConflict(
                    f"Accelerator request {row.uuid} is {row.state}; it can be unbound from "
                    f"{', '.join(sorted(move.sources))}.")
        if not bound:
            return False
        connection.execute(
            sa.update(T).where(T.c.id.in_([row.id for row in bound]))
            .values(state=move.target, updated_at=session.now(), **BOUND_TO_NOTHING))
        _drop_events(connection, bound)
        return handles.release(connection, [row.uuid for row in bound], _under_way(bound))


def delete(database: session.Database, uuids: Sequence[str], project_id: str | None,
           bound_too: bool) -> tuple[list[str], bool]:
    """Delete ARQs; returns (uuids that don't exist, whether a handle needs cleaning).

    ServiceTokenMissing, without `bound_too`, when one has an instance; then none is deleted.
    """
    seen: set[str] = set()
    to_clean = _delete(database, uuids, project_id, bound_too, seen)
    return [one for one in dict.fromkeys(uuids) if one not in seen], to_clean


@session.retrying
def _delete(database: session.Database, uuids: Sequence[str], project_id: str | None,
            bound_too: bool, seen: set[str]) -> bool:
    """Delete what there is; returns whether a handle needs cleaning.

    seen: takes what there was, also when an earlier try deleted it and then the connection broke.
    """
    condition: sa.ColumnElement[bool] = T.c.uuid.in_(uuids)
    if project_id is not None:
        condition = sa.and_(condition, T.c.project_id == project_id)
    with database.writing() as connection:
        rows = locked(connection, condition)
        for row in rows:
            if row.instance_uuid is not None and not bound_too:
                raise errors.ServiceTokenMissing(
                    f"Accelerator request {row.uuid} is bound to instance {row.instance_uuid}; "
                    "only a request with a service token may delete it. Use the Compute API.")
        to_clean = delete_rows(connection, rows)
        # what an earlier try deleted may have held one
        to_clean |= bool(seen.difference(row.uuid for row in rows))
        seen.update(row.uuid for row in rows)
    return to_clean


@session.retrying
def delete_of_instance(database: session.Database, instance_uuid: str) -> bool:
    """Delete all ARQs of the instance, of every set; returns whether a handle needs cleaning."""
    migrations = models.migrations
    with database.writing() as connection:
        to_clean = delete_rows(connection, of_instance_locked(connection, instance_uuid))
        if connection.execute(
                sa.delete(migrations).where(migrations.c.instance_uuid == instance_uuid)).rowcount:
            # what was bound for one of them before it went
            to_clean |= delete_rows(connection, of_instance_locked(connection, instance_uuid))
        return to_clean


def locked(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[sa.Row[Any]]:
    """Lock ARQs, in the order in which everybody locks them."""
    return list(connection.execute(
        sa.select(T.c.id, T.c.uuid, T.c.state, T.c.instance_uuid, T.c.migration_uuid, T.c.hostname,
                  T.c.lease_owner, T.c.lease_until)
        .where(condition).order_by(T.c.id).with_for_update()))


def of_instance_locked(connection: sa.Connection, instance_uuid: str) -> list[sa.Row[Any]]:
    """Lock the ARQs of all sets of an instance; the marks are those at that moment.

    PostgreSQL finds rows before it waits for their locks: of rows that change their mark meanwhile,
    those that come to have the one asked for would be missed.
    """
    return locked(connection, T.c.instance_uuid == instance_uuid)


def delete_rows(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> bool:
    """Delete locked ARQs in the caller's transaction; returns whether a handle needs cleaning."""
    if not rows:
        return False
    to_clean = handles.release(
        connection, [row.uuid for row in rows if row.state != states.INITIAL], _under_way(rows))
    _drop_events(connection, rows)
    connection.execute(sa.delete(T).where(T.c.id.in_([row.id for row in rows])))
    return to_clean


def _drop_events(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> None:
    """Nova is not told of a bind that is undone."""
    uuids = [row.uuid for row in rows if row.state != states.INITIAL]
    if uuids:
        connection.execute(sa.delete(models.events).where(models.events.c.arq_uuid.in_(uuids)))


def _under_way(rows: Sequence[sa.Row[Any]]) -> dict[str, leases.Owner]:
    """By ARQ, who has its host make or take down something at this moment."""
    return {row.uuid: leases.Owner(row.lease_owner, row.lease_until) for row in rows
            if row.lease_until is not None and row.lease_until > session.now()}
