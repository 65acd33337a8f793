# SPDX-License-Identifier: Apache-2.0
"""Open migrations and the two sets of ARQs that each has: begin, switch, end, and what differs.

Each function is one transaction, or a part of one of `binds.py`. What a bind does to ARQs and
handles is there. ARQs are locked first, then the migration.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import models
from cyborg_lite.db import session

M = models.migrations
T = models.arqs
H = models.attach_handles
D = models.deployables
V = models.devices

SOURCE, DESTINATION = "source", "destination"
COLD, LIVE = "cold", "live"

_UNDER_WAY = "switching"
"""Mark of a set between its two marks: places are unique in a set at every moment."""

Seen = tuple[str, ...]
"""What a guest sees of a device: attach type, mediated type, vendor, product."""


# --- for a bind -------------------------------------------------------------------------------

KIND = (V.c.vendor, V.c.model, V.c.std_board_info)


def kind_of(row: sa.Row[Any]) -> Seen:
    """Vendor and product of a device, from the columns of `KIND`."""
    try:
        board = json.loads(row.std_board_info or "{}")
    except ValueError:
        board = {}
    product = board.get("product_id") if isinstance(board, dict) else None
    return str(row.vendor), str(product or row.model)


def guest_sees(handle_type: str, handle_info: str, kind: Seen) -> Seen:
    """What a guest sees of an attach handle on a device of that kind."""
    info = json.loads(handle_info)
    return handle_type, str(info.get("asked_type") or info.get("vgpu_type") or ""), *kind


def open_for(connection: sa.Connection,
             requests: Iterable[messages.BindRequest]) -> dict[tuple[str, str], str]:
    """Open the migrations that these binds name; returns, of those that are live, the sets.

    StateConflict for one that has been switched, or is of another type; Invalid for two types.
    """
    asked, known = _asked_and_known(connection, requests)
    for key, row in known.items():
        if row.active_side != SOURCE:
            raise errors.StateConflict(
                f"Migration {key[1]} of instance {key[0]} has been switched to its "
                "destination; nothing more can be bound for it.")
    new = [_row(*key, wanted) for key, wanted in asked.items() if key not in known]
    if new:
        connection.execute(sa.insert(M), new)
    return {key: LIVE for key, wanted in asked.items()
            if (known[key].type if key in known else wanted) == LIVE}


def refuse_other_types(connection: sa.Connection,
                       requests: Iterable[messages.BindRequest]) -> None:
    """Refuse to repeat a bind for a migration as one of another type. Invalid, StateConflict."""
    _asked_and_known(connection, requests)


def _asked_and_known(
        connection: sa.Connection, requests: Iterable[messages.BindRequest],
        ) -> tuple[dict[tuple[str, str], str | None], dict[tuple[str, str], sa.Row[Any]]]:
    """The migrations that these binds name, with the type that each wants; those that are open."""
    asked: dict[tuple[str, str], str | None] = {}
    for request in requests:
        if request.migration_uuid is not None:
            key, wanted = (request.instance_uuid, request.migration_uuid), request.migration_type
            if None not in (wanted, asked.get(key)) and wanted != asked[key]:
                raise errors.Invalid(
                    f"Migration {key[1]} of instance {key[0]} is asked for as {asked[key]} and as "
                    f"{wanted}; it has one type.")
            asked[key] = wanted or asked.get(key)
    if not asked:
        return {}, {}
    known = {(row.instance_uuid, row.migration_uuid): row for row in connection.execute(
        sa.select(M).where(sa.tuple_(M.c.instance_uuid, M.c.migration_uuid).in_(list(asked)))
        .order_by(M.c.id).with_for_update())}
    for key, row in known.items():
        _refuse_other(row, asked[key])
    return asked, known


def _refuse_other(row: sa.Row[Any], wanted: str | None) -> None:
    if wanted not in (None, row.type):
        raise errors.StateConflict(
            f"Migration {row.migration_uuid} of instance {row.instance_uuid} was begun as "
            f"{row.type}; it can't become {wanted}.")


def _row(instance_uuid: str, migration_uuid: str, kind: str | None) -> dict[str, Any]:
    return {"instance_uuid": instance_uuid, "migration_uuid": migration_uuid,
            "type": kind or COLD, "active_side": SOURCE, "created_at": session.now(),
            "updated_at": session.now()}


def seen_by_guest(connection: sa.Connection, instance_uuid: str) -> list[Seen]:
    """What the instance sees now of the handles of its active set."""
    return [guest_sees(row.type, row.info, kind_of(row)) for row in connection.execute(
        sa.select(H.c.type, H.c.info, *KIND)
        .join_from(T, H, H.c.arq_uuid == T.c.uuid)
        .join(D, D.c.id == H.c.deployable_id).join(V, V.c.id == D.c.device_id)
        .where(T.c.instance_uuid == instance_uuid, T.c.migration_uuid == arqs.ACTIVE))]


def difference(before: Sequence[Seen], after: Sequence[Seen]) -> str | None:
    """Say what a running guest would see change, if anything."""
    missing = collections.Counter(before) - collections.Counter(after)
    added = collections.Counter(after) - collections.Counter(before)
    if not missing and not added:
        return None
    return ("The destination of a live migration has to show the guest what the source does; "
            f"the source has {_described(missing)} and the destination {_described(added)}.")


def _described(devices: Mapping[Seen, int]) -> str:
    return ", ".join(
        f"{number} x {' '.join(part for part in seen if part)}"
        for seen, number in sorted(devices.items())) or "nothing more"


# --- operations -------------------------------------------------------------------------------


def begin(database: session.Database, instance_uuid: str, migration_uuid: str,
          kind: str | None) -> list[messages.Arq]:
    """Open a migration, which may stay without ARQs; repeating it changes nothing.

    StateConflict when it is open as one of another type.
    """
    try:
        return _begin(database, instance_uuid, migration_uuid, kind)
    except db_exc.DBDuplicateEntry:
        # somebody else opened it at this moment; looking again shows it
        return _begin(database, instance_uuid, migration_uuid, kind)


@session.retrying
def _begin(database: session.Database, instance_uuid: str, migration_uuid: str,
           kind: str | None) -> list[messages.Arq]:
    with database.writing() as connection:
        known = _locked(connection, instance_uuid, migration_uuid)
        if known is None:
            connection.execute(sa.insert(M).values(_row(instance_uuid, migration_uuid, kind)))
        else:
            _refuse_other(known, kind)
        return arqs.sets_of(connection, instance_uuid)


@session.retrying
def switch(database: session.Database, instance_uuid: str, migration_uuid: str,
           to: str) -> list[messages.Arq]:
    """Make the set of that side the active one; repeating it changes nothing.

    Both sets keep their handles. NotFound for the migration; StateConflict unless every ARQ of
    the set is Bound. Returns all sets.
    """
    with database.writing() as connection:
        arqs.of_instance_locked(connection, instance_uuid)
        migration = _locked(connection, instance_uuid, migration_uuid)
        if migration is None:
            raise errors.NotFound(
                f"Instance {instance_uuid} has no open migration {migration_uuid}.")
        if migration.active_side != to:
            # with what was bound for it before it was locked
            rows = arqs.of_instance_locked(connection, instance_uuid)
            coming = [row for row in rows if row.migration_uuid == migration_uuid]
            going = [row for row in rows if row.migration_uuid == arqs.ACTIVE]
            for row in coming:
                if row.state != states.BOUND:
                    raise errors.StateConflict(
                        f"Accelerator request {row.uuid} of the {to} of migration "
                        f"{migration_uuid} is {row.state}; it has to be {states.BOUND}.")
            _mark(connection, going, _UNDER_WAY)
            _mark(connection, coming, arqs.ACTIVE)
            _mark(connection, going, migration_uuid)
            connection.execute(sa.update(M).where(M.c.id == migration.id).values(
                active_side=to, updated_at=session.now()))
        return arqs.sets_of(connection, instance_uuid)


def _mark(connection: sa.Connection, rows: Sequence[sa.Row[Any]], mark: str) -> None:
    if rows:
        connection.execute(
            sa.update(T).where(T.c.id.in_([row.id for row in rows]))
            .values(migration_uuid=mark, updated_at=session.now()))


@session.retrying
def end(database: session.Database, instance_uuid: str,
        migration_uuid: str) -> tuple[list[messages.Arq], bool]:
    """Free the inactive set and forget the migration, if there is one.

    Returns what the instance has then, and whether a handle needs cleaning.
    """
    with database.writing() as connection:
        rows = arqs.of_instance_locked(connection, instance_uuid)
        if connection.execute(sa.delete(M).where(
                M.c.instance_uuid == instance_uuid,
                M.c.migration_uuid == migration_uuid)).rowcount:
            # with what was bound for it before it went
            rows = arqs.of_instance_locked(connection, instance_uuid)
        to_clean = arqs.delete_rows(
            connection, [row for row in rows if row.migration_uuid == migration_uuid])
        return arqs.sets_of(connection, instance_uuid), to_clean


def _locked(connection: sa.Connection, instance_uuid: str,
            migration_uuid: str) -> sa.Row[Any] | None:
    return connection.execute(
        sa.select(M).where(M.c.instance_uuid == instance_uuid,
                           M.c.migration_uuid == migration_uuid).with_for_update()).first()
