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
        todo = [row for row in rows if states.allows(move, row.state)]
        work = _host_work(connection, todo)
        working = {row.arq_uuid for row in work}
        _move(connection, [row for row in todo if row.uuid in working], move.target, owner)
        _move(connection, [row for row in todo if row.uuid not in working], move.target, None)
        return Outcome(arqs.sets_of(connection, instance_uuid), handles.tasks_by_host(work))


@session.retrying
def taken_down(database: session.Database, handle_uuids: Sequence[str],
               lease: leases.Owner) -> None:
    """The host side of these handles is away, or never will be by this lease: resume may begin."""
    holders = sa.select(H.c.arq_uuid).where(H.c.uuid.in_(handle_uuids))
    with database.writing() as connection:
        connection.execute(
            sa.update(T).where(T.c.uuid.in_(holders), T.c.state == states.SUSPENDED,
                               leases.held(T, lease))
            .values(lease_owner=None, lease_until=None))


@session.retrying
def resume(database: session.Database, instance_uuid: str, owner: leases.Owner,
           request_id: str | None) -> Outcome:
    """Suspended ARQs become Bound, with an event, or BindStarted where the host has to work.

    Repeating it changes nothing. StateConflict when one is in no state for that. What is being
    taken down at this moment waits until that is over; a conductor takes it up then.
    """
    move = states.arq_move("resume")
    with database.writing() as connection:
        rows = _active_set(connection, instance_uuid)
        _refuse_others(rows, {*move.sources, states.BOUND, move.target}, "resumed")
        todo = [row for row in rows if states.allows(move, row.state)]
        work = _host_work(connection, todo)
        working = {row.arq_uuid for row in work}
        busy = {row.uuid for row in todo if row.uuid in working
                and row.lease_until is not None and row.lease_until > session.now()}
        at_once = [row for row in todo if row.uuid not in working]
        _move(connection, at_once, states.BOUND, None)
        _move(connection, [row for row in todo if row.uuid in working - busy], move.target, owner,
              resumes=True)
        if busy:
            over = max(row.lease_until for row in todo if row.uuid in busy)
            _move(connection, [row for row in todo if row.uuid in busy], move.target,
                  leases.Owner(owner.conductor, over), resumes=True)
        events = binds.event_rows({row.uuid: instance_uuid for row in at_once}, {}, owner,
                                  request_id)
        services.insert_events(connection, events)
        return Outcome(arqs.sets_of(connection, instance_uuid),
                       handles.tasks_by_host([row for row in work if row.arq_uuid not in busy]),
                       events)


def _active_set(connection: sa.Connection, instance_uuid: str) -> list[sa.Row[Any]]:
    return arqs.locked(connection, sa.and_(T.c.instance_uuid == instance_uuid,
                                           T.c.migration_uuid == arqs.ACTIVE))


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
          owner: leases.Owner | None, *, resumes: bool = False) -> None:
    if rows:
        connection.execute(
            sa.update(T).where(T.c.id.in_([row.id for row in rows])).values(
                state=state, state_reason=None, resumes=resumes, updated_at=session.now(),
                lease_owner=owner.conductor if owner else None,
                lease_until=owner.lease_until if owner else None))
