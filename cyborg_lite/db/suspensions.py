# SPDX-License-Identifier: Apache-2.0
"""Suspend and resume: ARQs keep their handles while the host side of them is away.

Each function is one transaction. The end of a resumption with host work is that of a bind:
`binds.finish`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import handles
from cyborg_lite.db import leases
from cyborg_lite.db import models
from cyborg_lite.db import services
from cyborg_lite.db import session

T = models.arqs
H = models.attach_handles
D = models.deployables


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What it came to: all sets of the instance, host work by host, events that are stored."""

    arqs: list[messages.Arq]
    tasks: dict[str, list[messages.HandleTask]] = dataclasses.field(default_factory=dict)
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@session.retrying
def suspend(database: session.Database, instance_uuid: str, owner: leases.Owner) -> Outcome:
    """Bound ARQs of the active set become Suspended; repeating it changes nothing.

    StateConflict when one is in another state. The owner has the host side taken down; until its
    lease ends, or `taken_down`, nobody makes it again.
    """
    move = states.arq_move("suspend")
    with database.writing() as connection:
        rows = _active_set(connection, instance_uuid)
        _refuse_others(rows, {*move.sources, move.target}, "suspended")
        # with our lease: by an earlier try, before the connection broke
        todo = [row for row in rows if states.allows(move, row.state)
                or (row.lease_owner, row.lease_until) == (owner.conductor, owner.lease_until)]
        work = _host_work(connection, todo)
        working = {row.arq_uuid for row in work}
        _move(connection, [row for row in todo if row.uuid in working], move.target, owner)
        _move(connection, [row for row in todo if row.uuid not in working], move.target)
        return Outcome(arqs.sets_of(connection, instance_uuid), handles.tasks_by_host(work))


@session.retrying
def taken_down(database: session.Database, handle_uuids: Sequence[str], lease: leases.Owner,
               owner: leases.Owner) -> dict[str, list[messages.HandleTask]]:
    """The host side of these handles is away, or never will be by this lease: resume may begin.

    What was given back meanwhile may be cleaned. Returns host work by host, now the owner's, for
    what was resumed meanwhile.
    """
    holders = sa.select(H.c.arq_uuid).where(H.c.uuid.in_(handle_uuids))
    with database.writing() as connection:
        rows = arqs.locked(connection, sa.and_(
            T.c.uuid.in_(holders), leases.held(T, lease),
            T.c.state.in_((states.SUSPENDED, states.BIND_STARTED))))
        waiting = [row for row in rows if row.state == states.BIND_STARTED]
        for some, values in (
                (waiting, (owner.conductor, owner.lease_until)),
                ([row for row in rows if row.state == states.SUSPENDED], (None, None))):
            if some:
                connection.execute(
                    sa.update(T).where(T.c.id.in_([row.id for row in some]))
                    .values(lease_owner=values[0], lease_until=values[1]))
        if len(rows) < len(handle_uuids):
            handles.let_go(connection, handle_uuids, lease)
        return handles.tasks_by_host(_host_work(connection, waiting))


@session.retrying
def resume(database: session.Database, instance_uuid: str, owner: leases.Owner,
           request_id: str | None) -> Outcome:
    """Suspended ARQs become Bound, with an event, or BindStarted where the host has to work.

    Repeating it changes nothing. StateConflict when one of the active set is in no state for that.
    A set that became inactive while it was suspended is resumed too: it may be switched back to.
    What is being taken down at this moment waits until that is over: it keeps the lease of who does
    it.
    """
    move = states.arq_move("resume")
    with database.writing() as connection:
        rows = arqs.of_instance_locked(connection, instance_uuid)
        _refuse_others([row for row in rows if row.migration_uuid == arqs.ACTIVE],
                       {*move.sources, states.BOUND, move.target}, "resumed")
        todo = [row for row in rows if states.allows(move, row.state)]
        work = _host_work(connection, todo)
        working = {row.arq_uuid for row in work}
        busy = {row.uuid for row in todo if row.uuid in working
                and row.lease_until is not None and row.lease_until > session.now()}
        at_once = [row for row in todo if row.uuid not in working]
        _move(connection, at_once, states.BOUND)
        _move(connection, [row for row in todo if row.uuid in working - busy], move.target, owner,
              resumes=True)
        _move(connection, [row for row in todo if row.uuid in busy], move.target, resumes=True)
        events = binds.event_rows({row.uuid: instance_uuid for row in at_once}, {}, owner,
                                  request_id)
        services.insert_events(connection, events)
        return Outcome(arqs.sets_of(connection, instance_uuid),
                       handles.tasks_by_host([row for row in work if row.arq_uuid not in busy]),
                       events)


def _active_set(connection: sa.Connection, instance_uuid: str) -> list[sa.Row[Any]]:
    return [row for row in arqs.of_instance_locked(connection, instance_uuid)
            if row.migration_uuid == arqs.ACTIVE]


def _refuse_others(rows: Sequence[sa.Row[Any]], fitting: set[str], what: str) -> None:
    for row in rows:
        if row.state not in fitting:
            raise errors.StateConflict(
                f"Accelerator request {row.uuid} of instance {row.instance_uuid} is {row.state}; "
                f"an instance can be {what} when all are {' or '.join(sorted(fitting))}.")


def _host_work(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[sa.Row[Any]]:
    """Tasks for those of the ARQs whose handle needs a host side."""
    if not rows:
        return []
    return list(connection.execute(
        handles.task_columns(H.c.arq_uuid, T.c.instance_uuid)
        .join(T, T.c.uuid == H.c.arq_uuid)
        .where(H.c.arq_uuid.in_([row.uuid for row in rows]), D.c.prepares).order_by(H.c.id)))


def _move(connection: sa.Connection, rows: Sequence[sa.Row[Any]], state: str,
          owner: leases.Owner | None = None, *, resumes: bool = False) -> None:
    """Set the state and, with an owner, its lease."""
    lease = {"lease_owner": owner.conductor, "lease_until": owner.lease_until} if owner else {}
    if rows:
        connection.execute(
            sa.update(T).where(T.c.id.in_([row.id for row in rows])).values(
                state=state, state_reason=None, resumes=resumes, updated_at=session.now(),
                **lease))
