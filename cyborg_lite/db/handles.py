# SPDX-License-Identifier: Apache-2.0
"""Attach handles that are given back, and those that wait for their clean step.

What a bind does to handles is in `binds.py`.
"""

from __future__ import annotations

import collections
import datetime
import json
import types
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import leases
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import services
from cyborg_lite.db import session
from cyborg_lite.db import uncleaned

H = models.attach_handles
T = models.arqs
D = models.deployables
V = models.devices
N = models.hosts


def task_columns(*more: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """What a task for the agent is made of, from handle, deployable and device."""
    return (sa.select(H.c.id, H.c.uuid, H.c.type, H.c.info, D.c.name, V.c.address, V.c.driver,
                      V.c.hostname, *more)
            .join_from(H, D, D.c.id == H.c.deployable_id).join(V, V.c.id == D.c.device_id))


def tasks_by_host(rows: Iterable[sa.Row[Any]]) -> dict[str, list[messages.HandleTask]]:
    """Rows of `task_columns` as messages, one call to an agent a host."""
    tasks: dict[str, list[messages.HandleTask]] = collections.defaultdict(list)
    for row in rows:
        tasks[row.hostname].append(messages.HandleTask(
            handle_uuid=row.uuid, deployable_name=row.name, device_address=row.address,
            driver=row.driver, type=row.type, info=json.loads(row.info),
            instance_uuid=getattr(row, "instance_uuid", None)))
    return dict(tasks)


@session.retrying
def intent_of(database: session.Database, hostname: str) -> messages.HostIntent:
    """Return what should exist on the host: handles that are held, and those to clean.

    What a suspended instance holds is taken down, and so neither.
    """
    with database.reading() as connection:
        rows = connection.execute(
            task_columns(H.c.state, T.c.instance_uuid)
            .outerjoin(T, T.c.uuid == H.c.arq_uuid)
            .where(V.c.hostname == hostname,
                   sa.or_(sa.and_(H.c.state.in_(sorted(states.HELD_STATES)), D.c.prepares,
                                  T.c.state != states.SUSPENDED),
                          sa.and_(H.c.state == states.CLEANING, D.c.cleans)))
            .order_by(H.c.id)).all()
    held = [row for row in rows if row.state in states.HELD_STATES]
    given_back = [row for row in rows if row.state not in states.HELD_STATES]
    return messages.HostIntent(prepare=tasks_by_host(held).get(hostname, []),
                               clean=tasks_by_host(given_back).get(hostname, []))


def let_go(connection: sa.Connection, handle_uuids: Collection[str],
           lease: leases.Owner) -> None:
    """What was given back while its host worked on it by this lease may be cleaned from now on."""
    connection.execute(
        sa.update(H).where(H.c.uuid.in_(handle_uuids), H.c.state == states.CLEANING,
                           leases.held(H, lease))
        .values(lease_owner=None, lease_until=None))


@session.retrying
def take_to_clean(database: session.Database, owner: leases.Owner, moment: datetime.datetime,
                  at_most: int, horizon: liveness.Horizon = liveness.NOBODY_IS_DOWN,
                  ) -> dict[str, list[messages.HandleTask]]:
    """Take handles in `cleaning` that no conductor works on; returns tasks by host.

    Those of a host that is down wait until it is up: however many they are, they keep nobody from
    cleaning others.
    """
    silent = sa.exists().where(
        D.c.id == H.c.deployable_id, V.c.id == D.c.device_id, N.c.name == V.c.hostname,
        liveness.host_state(horizon) != liveness.UP)
    with database.writing() as connection:
        ids = connection.scalars(
            sa.select(H.c.id)
            .where(H.c.state == states.CLEANING,
                   sa.or_(H.c.lease_until.is_(None), H.c.lease_until < moment), ~silent)
            .order_by(H.c.id).limit(at_most)
            .with_for_update(skip_locked=database.skips_locked)).all()
        if not ids:
            return {}
        connection.execute(
            sa.update(H).where(H.c.id.in_(ids))
            .values(lease_owner=owner.conductor, lease_until=owner.lease_until))
        return tasks_by_host(connection.execute(
            task_columns().where(H.c.id.in_(ids)).order_by(H.c.id)))


@session.retrying
def finish_clean(database: session.Database, hostname: str,
                 results: Sequence[messages.HandleResult], lease: leases.Owner) -> int:
    """Write what became of clean steps: `free`, or `failed` with the reason. Returns how many.

    What its host has no more is forgotten, and cleaned first should it ever come back.

    lease: under which they were begun. A handle that was taken to be cleaned again since is left
    alone: another server may have had it between.
    """
    reasons = {result.handle_uuid: result.error for result in results}
    gone = {result.handle_uuid for result in results if result.gone}
    with database.writing() as connection:
        found = connection.execute(
            sa.select(H.c.id, H.c.uuid)
            .where(H.c.uuid.in_(reasons), H.c.state == states.CLEANING, leases.held(H, lease))
            .order_by(H.c.id).with_for_update()).all()
        forgotten = [row for row in found if row.uuid in gone]
        if forgotten:
            connection.execute(sa.delete(H).where(H.c.id.in_([row.id for row in forgotten])))
            uncleaned.note(connection, hostname, [row.uuid for row in forgotten])
        rows = [row for row in found if row.uuid not in gone]
        moment = session.now()
        session.bulk_update(connection, H, "id", [
            {"id": row.id, "state_reason": reasons[row.uuid], "updated_at": moment,
             "lease_owner": None, "lease_until": None,
             "state": states.FAILED if reasons[row.uuid] else states.FREE} for row in rows])
        if found:
            services.mark_hosts_changed(connection, {hostname})
        if forgotten or any(reasons[row.uuid] is None for row in rows):
            # what went from the host during its cleaning may go now: a full report tells
            services.ask_for_report(connection, {hostname})
    return len(found)


# --- giving back ------------------------------------------------------------------------------


def release(connection: sa.Connection, arq_uuids: Sequence[str],
            under_way: Mapping[str, leases.Owner] = types.MappingProxyType({})) -> bool:
    """Take from ARQs what they hold, whatever the host does; returns whether any needs cleaning.

    A handle without a clean step is free at once, or forgotten when the host reports it no more:
    then the host is asked for a full report so that what remains of its device goes too. One with
    a clean step waits for it in either case: what is away now may come back with the data on it.

    under_way: by ARQ, who works on the host side of its handle. It is cleaned after that: what
    is done to it later would be done to somebody else's.
    """
    if not arq_uuids:
        return False
    # subqueries, not joins: only the handles are to be locked, on every database
    cleans = (sa.select(D.c.cleans).where(D.c.id == H.c.deployable_id)
              .scalar_subquery().label("cleans"))
    hostname = (sa.select(V.c.hostname).join_from(D, V, V.c.id == D.c.device_id)
                .where(D.c.id == H.c.deployable_id)
                .scalar_subquery().label("hostname"))
    held = connection.execute(
        sa.select(H.c.id, H.c.state, H.c.arq_uuid, cleans, hostname)
        .where(H.c.arq_uuid.in_(arq_uuids))
        .order_by(H.c.id).with_for_update()).all()
    release, give_back = states.handle_move("release"), states.handle_move("give_back")
    kept = [row for row in held
            if states.allows(release if row.cleans else give_back, row.state)]
    lost = [row for row in held
            if not row.cleans and states.allows(states.handle_move("forget"), row.state)]
    moment = session.now()
    rows = []
    for row in kept:
        worker = under_way.get(row.arq_uuid) if row.cleans else None
        rows.append({"id": row.id, "state": (release if row.cleans else give_back).target,
                     "arq_uuid": None, "updated_at": moment,
                     "lease_owner": worker.conductor if worker else None,
                     "lease_until": worker.lease_until if worker else None})
    session.bulk_update(connection, H, "id", rows)
    if lost:
        connection.execute(sa.delete(H).where(H.c.id.in_([row.id for row in lost])))
    to_clean = [row for row in kept if row.cleans]
    if to_clean or lost:
        services.mark_hosts_changed(connection, {row.hostname for row in [*to_clean, *lost]},
                                    to_report={row.hostname for row in lost})
    return bool(to_clean)
