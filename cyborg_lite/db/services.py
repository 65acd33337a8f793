# SPDX-License-Identifier: Apache-2.0
"""Work that conductors share: leases, hosts that Placement has to learn of, events for Nova.

No Placement, no Nova and no policy here: who decides is `conductor/`.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cyborg_lite.db import closed_devices
from cyborg_lite.db import leases
from cyborg_lite.db import models
from cyborg_lite.db import session

S = models.hosts
D = models.deployables
V = models.devices
A = models.attributes
H = models.attach_handles
P = models.device_partitions
E = models.events

BULK = 200
"""Rows that one UPDATE with values of their own may name."""

CANDIDATES = 16


# --- hosts that Placement has to learn of -----------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DirtyHost:
    """A host to compare with Placement, as it was when a conductor took it.

    attempts: failed ones since the last success.
    """

    id: int
    name: str
    resource_provider_name: str
    generation: int
    attempts: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one deployable offers, from our rows.

    handles: how many in each state. synced: what was stored by `store_synced`, or empty.
    """

    deployable_id: int
    rp_uuid: str
    name: str
    device_status: str
    agent_status: str = "enabled"
    is_closed: bool = False
    resource_class: str | None
    traits: frozenset[str]
    handles: Mapping[str, int]
    synced: Mapping[str, Any]


def mark_hosts_changed(connection: sa.Connection, hostnames: Collection[str],
                       to_report: Collection[str] = ()) -> None:
    """Have these hosts compared with Placement at once. One statement, in the caller's transaction.

    to_report: those of them that are also to be asked for a full report, see `ask_for_report`.
    """
    if hostnames:
        digest = {"digest": sa.case((S.c.name.in_(sorted(to_report)), sa.null()),
                                    else_=S.c.digest)} if to_report else {}
        connection.execute(
            sa.update(S).where(S.c.name.in_(sorted(hostnames)))
            .values(generation=S.c.generation + 1, sync_due_at=session.now(), **digest))


def ask_for_report(connection: sa.Connection, hostnames: Collection[str]) -> None:
    """Have the next heartbeat of these hosts answered by asking for everything they have."""
    connection.execute(
        sa.update(S).where(S.c.name.in_(sorted(hostnames))).values(digest=None))


@session.retrying
def take_due_host(database: session.Database, owner: leases.Owner,
                  moment: datetime.datetime) -> DirtyHost | None:
    """Lease the host that is due longest, or return None.

    Of several conductors that ask at once, each gets another host.
    """
    due = sa.and_(S.c.sync_due_at <= moment,
                  sa.or_(S.c.lease_until.is_(None), S.c.lease_until < moment))
    with database.reading() as connection:
        ids = connection.scalars(sa.select(S.c.id).where(due).order_by(S.c.sync_due_at, S.c.id)
                                 .limit(CANDIDATES)).all()
    for host_id in ids:
        with database.writing() as connection:
            taken = connection.execute(
                sa.update(S).where(S.c.id == host_id, due)
                .values(lease_owner=owner.conductor, lease_until=owner.lease_until)).rowcount
            if taken:
                row = connection.execute(sa.select(S).where(S.c.id == host_id)).one()
                return DirtyHost(
                    id=row.id, name=row.name, generation=row.generation,
                    resource_provider_name=row.resource_provider_name,
                    attempts=row.sync_attempts)
    return None


@session.retrying
def keep_host(database: session.Database, host_id: int, owner: leases.Owner) -> bool:
    """Lengthen a lease; False when somebody else has the host by now."""
    with database.writing() as connection:
        return _still_ours(connection, host_id, owner)


def _still_ours(connection: sa.Connection, host_id: int, owner: leases.Owner) -> bool:
    return bool(connection.execute(
        sa.update(S).where(S.c.id == host_id, S.c.lease_owner == owner.conductor)
        .values(lease_until=owner.lease_until)).rowcount)


@session.retrying
def finish_host(database: session.Database, host: DirtyHost, owner: leases.Owner, *,
                moment: datetime.datetime, due_at: datetime.datetime, done: bool) -> None:
    """Give a host back: compared (`done`), or to be tried again.

    A change that came meanwhile keeps the host due now. Does nothing when the lease is lost.
    """
    values: dict[str, Any] = {
        "lease_owner": None, "lease_until": None,
        "sync_attempts": 0 if done else host.attempts + 1,
        "sync_due_at": sa.case((S.c.generation == host.generation, due_at),
                               else_=S.c.sync_due_at)}
    if done:
        values |= {"synced_generation": host.generation, "synced_at": moment}
    with database.writing() as connection:
        connection.execute(
            sa.update(S).where(S.c.id == host.id, S.c.lease_owner == owner.conductor)
            .values(values))


def list_offers(database: session.Database, hostname: str) -> list[Offer]:
    """What the deployables of a host offer. Three statements."""
    of_host = sa.select(D.c.id).join_from(D, V, V.c.id == D.c.device_id).where(
        V.c.hostname == hostname)
    with database.reading() as connection:
        rows = connection.execute(
            sa.select(D.c.id, D.c.rp_uuid, D.c.name, D.c.synced, V.c.status,
                      closed_devices.CLOSED.label("is_closed"),
                      S.c.status.label("agent_status"))
            .join_from(D, V, V.c.id == D.c.device_id).outerjoin(S, S.c.name == V.c.hostname)
            .outerjoin(P, P.c.device_uuid == V.c.uuid)
            .where(V.c.hostname == hostname)
            .order_by(D.c.id)).all()
        pairs = connection.execute(
            sa.select(A.c.deployable_id, A.c.key, A.c.value)
            .where(A.c.deployable_id.in_(of_host),
                   sa.or_(A.c.key == "rc", A.c.key.startswith("trait", autoescape=True)))).all()
        counts = connection.execute(
            sa.select(H.c.deployable_id, H.c.state, sa.func.count())
            .where(H.c.deployable_id.in_(of_host))
            .group_by(H.c.deployable_id, H.c.state)).all()
    classes: dict[int, str] = {}
    traits: dict[int, set[str]] = collections.defaultdict(set)
    for deployable_id, key, value in pairs:
        if key == "rc":
            classes[deployable_id] = value
        else:
            traits[deployable_id].add(value)
    handles: dict[int, dict[str, int]] = collections.defaultdict(dict)
    for deployable_id, state, count in counts:
        handles[deployable_id][state] = count
    return [Offer(deployable_id=row.id, rp_uuid=row.rp_uuid, name=row.name,
                  device_status=row.status, is_closed=bool(row.is_closed),
                  agent_status=row.agent_status or "enabled",
                  resource_class=classes.get(row.id),
                  traits=frozenset(traits[row.id]), handles=handles[row.id],
                  synced=json.loads(row.synced) if row.synced else {})
            for row in rows]


@session.retrying
def store_synced(database: session.Database, host: DirtyHost, owner: leases.Owner,
                 synced: Mapping[int, Mapping[str, Any]]) -> bool:
    """Note by deployable id what Placement has of it; False when the lease is lost."""
    rows = [{"id": key, "synced": session.to_json(value)} for key, value in sorted(synced.items())]
    with database.writing() as connection:
        if not _still_ours(connection, host.id, owner):
            return False
        for start in range(0, len(rows), BULK):
            session.bulk_update(connection, D, "id", rows[start:start + BULK])
    return True


def known_providers(database: session.Database, rp_uuids: Collection[str]) -> set[str]:
    """Of these resource providers, those that are a deployable of any host."""
    with database.reading() as connection:
        return set(connection.scalars(
            sa.select(D.c.rp_uuid).where(D.c.rp_uuid.in_(sorted(rp_uuids)))))


def names_of_other_hosts(database: session.Database, host: DirtyHost,
                         names: Collection[str]) -> set[str]:
    """Of these compute node names, those that another host goes by."""
    with database.reading() as connection:
        rows = connection.execute(
            sa.select(S.c.name, S.c.resource_provider_name)
            .where(S.c.id != host.id, sa.or_(S.c.name.in_(names),
                                             S.c.resource_provider_name.in_(names))))
        return {name for row in rows for name in row} & set(names)


# --- events for Nova --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event that Nova has not taken yet. attempts: those that failed."""

    id: int
    instance_uuid: str
    arq_uuid: str
    status: str
    request_id: str | None
    attempts: int
    created_at: datetime.datetime


def insert_events(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store events in one statement, in the caller's transaction.

    rows: instance_uuid, arq_uuid, status (completed or failed), request_id, lease_owner (who
    delivers it now) and due_at (when another conductor may).
    """
    if rows:
        moment = session.now()
        connection.execute(sa.insert(E).values(
            [{**row, "attempts": 0, "created_at": moment} for row in rows]))


def drop_events(connection: sa.Connection, instances: Mapping[str, str]) -> None:
    """Forget what Nova has not taken of binds that are tried again, `{arq: instance}`.

    It would hear of the first try after the second one. In the caller's transaction.
    """
    if instances:
        connection.execute(sa.delete(E).where(
            E.c.arq_uuid.in_(sorted(instances)), E.c.instance_uuid.in_(set(instances.values()))))


@session.retrying
def take_due_events(database: session.Database, owner: leases.Owner, moment: datetime.datetime,
                    at_most: int) -> list[Event]:
    """Lease the events that are due longest; no other conductor gets the same."""
    with database.reading() as connection:
        ids = connection.scalars(
            sa.select(E.c.id).where(E.c.due_at <= moment).order_by(E.c.due_at, E.c.id)
            .limit(at_most)).all()
    if not ids:
        return []
    with database.writing() as connection:
        ids = connection.scalars(
            sa.select(E.c.id).where(E.c.id.in_(ids), E.c.due_at <= moment).order_by(E.c.id)
            .with_for_update(skip_locked=database.skips_locked)).all()
        if not ids:
            return []
        connection.execute(
            sa.update(E).where(E.c.id.in_(ids))
            .values(lease_owner=owner.conductor, due_at=owner.lease_until))
        rows = connection.execute(sa.select(E).where(E.c.id.in_(ids)).order_by(E.c.id)).all()
    return [Event(id=row.id, instance_uuid=row.instance_uuid, arq_uuid=row.arq_uuid,
                  status=row.status, request_id=row.request_id, attempts=row.attempts,
                  created_at=row.created_at) for row in rows]


def events_just_stored(rows: Iterable[Mapping[str, Any]]) -> sa.ColumnElement[bool]:
    """The condition that finds rows given to `insert_events` again, without knowing their ids.

    `due_at` belongs to it: an ARQ that was bound twice in a moment has two events.
    """
    by_lease: dict[tuple[str, datetime.datetime], list[str]] = collections.defaultdict(list)
    for row in rows:
        by_lease[row["lease_owner"], row["due_at"]].append(row["arq_uuid"])
    return sa.or_(*(
        sa.and_(E.c.arq_uuid.in_(arqs), E.c.lease_owner == owner, E.c.due_at == due_at)
        for (owner, due_at), arqs in by_lease.items()))


def events_with_ids(ids: Sequence[int]) -> sa.ColumnElement[bool]:
    """The condition that finds events by their ids."""
    return E.c.id.in_(ids)


@session.retrying
def delete_events(database: session.Database, which: sa.ColumnElement[bool]) -> None:
    """Nova has them, or we gave up. One statement."""
    with database.writing() as connection:
        connection.execute(sa.delete(E).where(which))


@session.retrying
def postpone_events(database: session.Database, which: sa.ColumnElement[bool], attempts: int,
                    due_at: datetime.datetime) -> None:
    """Try these again later, whoever comes first. One statement."""
    with database.writing() as connection:
        connection.execute(sa.update(E).where(which).values(
            attempts=attempts, due_at=due_at, lease_owner=None))
