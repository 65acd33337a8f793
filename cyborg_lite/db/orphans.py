# SPDX-License-Identifier: Apache-2.0
"""Records of orphans: what was seen, since when, and what became of it. Who is one: `conductor/`.

A record is open until it is settled; those that were cleaned stay, as the account of what was
deleted, when and why. A suspicion that came to nothing leaves no record.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.db import models
from cyborg_lite.db import paging
from cyborg_lite.db import session

O = models.orphans  # noqa: E741

SEEN, CONFIRMED, CLEANED, KEPT, FAILED = STATES = (
    "seen", "confirmed", "cleaned", "kept", "failed")

BULK = 200


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An open record. mark: what was seen; acting: its cleaning was begun."""

    id: int
    uuid: str
    key: str
    mark: str
    state: str
    first_seen: datetime.datetime
    acting: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a record shall say. record: the open one, None for a new one."""

    record: Record | None
    key: str
    kind: str
    object: str
    host: str | None
    mark: str
    reason: str
    evidence: Mapping[str, str]
    action: str
    state: str
    first_seen: datetime.datetime


def open_key(kind: str, object_uuid: str) -> str:
    """What no two open records share."""
    return f"{kind}|{object_uuid}"


def of_hosts(hosts: Collection[str], kinds: Collection[str]) -> sa.ColumnElement[bool]:
    """The condition that finds the open records of these kinds on these hosts."""
    return sa.and_(O.c.open_key.is_not(None), O.c.host.in_(sorted(hosts)),
                   O.c.kind.in_(sorted(kinds)))


def of_no_host(kinds: Collection[str], host: str | None) -> sa.ColumnElement[bool]:
    """The condition that finds open records of these kinds, or of no host; or those of one host."""
    if host is not None:
        return sa.and_(O.c.open_key.is_not(None), O.c.host == host, O.c.kind.in_(sorted(kinds)))
    return sa.and_(O.c.open_key.is_not(None),
                   sa.or_(O.c.host.is_(None), O.c.kind.in_(sorted(kinds))))


def find(database: session.Database, condition: sa.ColumnElement[bool],
         keys: Collection[str]) -> dict[str, Record]:
    """The open records that fit, and those of these keys, by key. One statement."""
    with database.reading() as connection:
        rows = connection.execute(
            sa.select(O.c.id, O.c.uuid, O.c.open_key, O.c.mark, O.c.state, O.c.first_seen,
                      O.c.acting_at)
            .where(sa.or_(condition, O.c.open_key.in_(sorted(keys)))).order_by(O.c.id)).all()
    return {row.open_key: Record(id=row.id, uuid=row.uuid, key=row.open_key, mark=row.mark,
                                 state=row.state, first_seen=row.first_seen,
                                 acting=row.acting_at is not None) for row in rows}


def suspected(database: session.Database, kinds: Collection[str],
              but: Collection[int]) -> tuple[dict[str, int], int]:
    """How many records of each of these kinds may yet be cleaned, without those of these ids, and
    how many ARQs are on hosts.
    """
    arqs = models.arqs
    with database.reading() as connection:
        found = {row.kind: int(row.number) for row in connection.execute(
            sa.select(O.c.kind, sa.func.count().label("number"))
            .where(O.c.open_key.is_not(None), O.c.kind.in_(sorted(kinds)), O.c.state != KEPT,
                   O.c.id.not_in(sorted(but))).group_by(O.c.kind))}
        return found, int(connection.scalar(
            sa.select(sa.func.count()).where(arqs.c.hostname.is_not(None))) or 0)


@session.retrying
def store(database: session.Database, sightings: Sequence[Sighting], over: Sequence[Record],
          moment: datetime.datetime, by: str) -> dict[str, int]:
    """Write what was seen in one transaction; returns the ids of open records by key.

    over: records of what is there no more. One whose cleaning had begun was cleaned; the others
    were no orphans. A record that somebody has closed since it was read stays as it is.
    """
    new = [one for one in sightings if one.record is None]
    read = [one.record.id for one in sightings if one.record] + [record.id for record in over]
    with database.writing() as connection:
        still = set(connection.scalars(
            sa.select(O.c.id).where(O.c.id.in_(read), O.c.open_key.is_not(None))
            .order_by(O.c.id).with_for_update())) if read else set()
        old = [one for one in sightings if one.record is not None and one.record.id in still]
        cleaned = [record.id for record in over if record.acting and record.id in still]
        wrong = [record.id for record in over if not record.acting and record.id in still]
        for start in range(0, len(old), BULK):
            session.bulk_update(connection, O, "id", [
                {"id": one.record.id if one.record else 0, **_values(one), "last_seen": moment,
                 "acting_at": None, "updated_at": moment} for one in old[start:start + BULK]])
        if new:
            connection.execute(sa.insert(O), [
                {"uuid": str(uuid.uuid4()), "open_key": one.key, "kind": one.kind,
                 "object": one.object, **_values(one), "last_seen": moment, "created_at": moment}
                for one in new])
        if cleaned:
            _set_cleaned(connection, cleaned, moment, by)
        if wrong:
            connection.execute(sa.delete(O).where(O.c.id.in_(wrong)))
        keys = [one.key for one in sightings]
        return {row.open_key: row.id for row in connection.execute(
            sa.select(O.c.open_key, O.c.id).where(O.c.open_key.in_(keys)))} if keys else {}


def _values(one: Sighting) -> dict[str, Any]:
    return {"host": one.host, "mark": one.mark, "reason": one.reason, "action": one.action,
            "evidence": session.to_json(one.evidence), "state": one.state,
            "first_seen": one.first_seen}


@session.retrying
def begin_acting(database: session.Database, ids: Sequence[int],
                 moment: datetime.datetime) -> None:
    """Note that these are being cleaned, before they are."""
    with database.writing() as connection:
        connection.execute(sa.update(O).where(O.c.id.in_(ids)).values(
            acting_at=moment, updated_at=moment))


@session.retrying
def finish_acting(database: session.Database, cleaned: Sequence[int],
                  others: Mapping[int, tuple[str, str]], moment: datetime.datetime,
                  by: str) -> None:
    """Note what was cleaned, and of the others their state and the reason."""
    with database.writing() as connection:
        if cleaned:
            _set_cleaned(connection, cleaned, moment, by)
        for key, (state, reason) in sorted(others.items()):
            connection.execute(sa.update(O).where(O.c.id == key, O.c.open_key.is_not(None)).values(
                state=state, reason=reason, acting_at=None, updated_at=moment))


def _set_cleaned(connection: sa.Connection, ids: Sequence[int], moment: datetime.datetime,
                 by: str) -> None:
    connection.execute(sa.update(O).where(O.c.id.in_(ids)).values(
        state=CLEANED, open_key=None, cleaned_at=moment, cleaned_by=by, updated_at=moment))


def settle(connection: sa.Connection, sightings: Sequence[Sighting], moment: datetime.datetime,
           by: str) -> None:
    """Note in the caller's transaction what it deletes, whether that was seen before or not."""
    if not sightings:
        return
    known = {row.open_key: row.id for row in connection.execute(
        sa.select(O.c.open_key, O.c.id).where(O.c.open_key.in_([one.key for one in sightings]))
        .order_by(O.c.id).with_for_update())}
    if known:
        _set_cleaned(connection, list(known.values()), moment, by)
    new = [one for one in sightings if one.key not in known]
    if new:
        connection.execute(sa.insert(O), [
            {"uuid": str(uuid.uuid4()), "open_key": None, "kind": one.kind, "object": one.object,
             **_values(one), "state": CLEANED, "last_seen": moment, "acting_at": moment,
             "cleaned_at": moment, "cleaned_by": by, "created_at": moment, "updated_at": moment}
            for one in new])


@session.retrying
def account(database: session.Database, sightings: Sequence[Sighting], moment: datetime.datetime,
            by: str) -> None:
    """Note what somebody else has cleaned."""
    with database.writing() as connection:
        settle(connection, sightings, moment, by)


@session.retrying
def account_open(database: session.Database, kind: str, objects: Collection[str],
                 moment: datetime.datetime, by: str) -> None:
    """Note that somebody has cleaned these, where a record of them is open."""
    keys = [open_key(kind, one) for one in objects]
    with database.writing() as connection:
        ids = connection.scalars(sa.select(O.c.id).where(O.c.open_key.in_(keys))
                                 .order_by(O.c.id).with_for_update()).all()
        if ids:
            _set_cleaned(connection, ids, moment, by)


def old_accounts(database: session.Database, before: datetime.datetime,
                 at_most: int) -> list[int]:
    """Ids of records of what was cleaned before then."""
    with database.reading() as connection:
        return list(connection.scalars(
            sa.select(O.c.id).where(O.c.state == CLEANED, O.c.cleaned_at < before)
            .order_by(O.c.id).limit(at_most)))


@session.retrying
def delete_accounts(database: session.Database, ids: Sequence[int]) -> int:
    """Delete these records; returns how many."""
    with database.writing() as connection:
        return connection.execute(
            sa.delete(O).where(O.c.id.in_(ids), O.c.state == CLEANED)).rowcount


# --- looking ----------------------------------------------------------------------------------

ORDER = paging.Order(O, {"kind": O.c.kind, "state": O.c.state})


def list_orphans(database: session.Database, query: messages.OrphanQuery) -> list[messages.Orphan]:
    """The records that fit, oldest first unless the page says otherwise."""
    statement = sa.select(O)
    for name in ("kind", "host", "state"):
        wanted = getattr(query, name)
        if wanted is not None:
            statement = statement.where(O.c[name] == wanted)
    with database.reading() as connection:
        return [_message(row) for row in connection.execute(
            paging.paged(connection, statement, ORDER, query.page))]


def get(database: session.Database, orphan_uuid: str) -> messages.Orphan:
    """One record; NotFound."""
    with database.reading() as connection:
        row = connection.execute(sa.select(O).where(O.c.uuid == orphan_uuid)).first()
    if row is None:
        raise errors.NotFound(f"Orphan {orphan_uuid} does not exist; what turned out to be none "
                              "leaves no record.")
    return _message(row)


def due_hosts(database: session.Database, seen_before: datetime.datetime) -> list[str | None]:
    """Hosts with something that was seen once, so long ago that it may be confirmed."""
    with database.reading() as connection:
        return list(connection.scalars(
            sa.select(O.c.host).where(O.c.state == SEEN, O.c.first_seen <= seen_before)
            .distinct()))


def _message(row: sa.Row[Any]) -> messages.Orphan:
    evidence: dict[str, str] = json.loads(row.evidence)
    if row.cleaned_at is not None:
        evidence |= {"cleaned_at": str(session.text(row.cleaned_at)),
                     "cleaned_by": row.cleaned_by or ""}
    return messages.Orphan(
        id=row.uuid, kind=row.kind, object=row.object, host=row.host, reason=row.reason,
        evidence=evidence, action=row.action, state=row.state,
        first_seen=session.text(row.first_seen), last_seen=session.text(row.last_seen))
