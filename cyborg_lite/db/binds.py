# SPDX-License-Identifier: Apache-2.0
"""A bind in the database: start, finish, and who finishes it when a conductor died.

Each function is one transaction (or one question). An ARQ's state and its handle's state move
together, by the table in `states.py`.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import bind_choice
from cyborg_lite.db import bind_wishes
from cyborg_lite.db import handles
from cyborg_lite.db import leases
from cyborg_lite.db import liveness
from cyborg_lite.db import migration_sets
from cyborg_lite.db import models
from cyborg_lite.db import services
from cyborg_lite.db import session

T = models.arqs
H = models.attach_handles

ATTEMPTS = 5
"""At a bind of an instance that others bind at the same moment."""

@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a bind came to.

    bound: ARQs that are Bound. failed: reason by ARQ. tasks: host work by host, still to be done.
    events: rows for Nova, stored already.
    """

    bound: list[str] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    tasks: dict[str, list[messages.HandleTask]] = dataclasses.field(default_factory=dict)
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def start(database: session.Database, requests: Sequence[messages.BindRequest], owner: leases.Owner,
          request_id: str | None,
          horizon: liveness.Horizon = liveness.NOBODY_IS_DOWN) -> Outcome:
    """Reserve a handle for each ARQ, all of a set or none of it.

    NotFound, StateConflict and AlreadyHasArqs change nothing. An ARQ that has exactly this bind
    already is left as it is and named in no part of the outcome.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _start(database, requests, owner, request_id, horizon)
        except db_exc.DBDuplicateEntry as error:
            # somebody made a set for the same instance at this moment; looking again shows it,
            # unless that one is gone by then and another one is made
            if attempt == ATTEMPTS:
                instances = ", ".join(sorted({request.instance_uuid for request in requests}))
                raise errors.StateConflict(
                    f"Others bind to {instances} and unbind at this moment, {ATTEMPTS} times in a "
                    "row; see what it has and bind again.") from error
    raise AssertionError("unreachable")


@session.retrying
def _start(database: session.Database, requests: Sequence[messages.BindRequest],
           owner: leases.Owner, request_id: str | None, horizon: liveness.Horizon) -> Outcome:
    with database.writing() as connection:
        todo, positions = bind_wishes.what_to_bind(connection, requests)
        if not todo:
            migration_sets.refuse_other_types(connection, requests)
            return Outcome()
        services.drop_events(connection, {
            row.uuid: row.instance_uuid for row, asked in todo
            if row.state == states.BIND_FAILED and row.instance_uuid == asked.instance_uuid})
        live = migration_sets.open_for(connection, [asked for _, asked in todo])
        choice = bind_choice.choose(connection, database, todo, live, horizon)
        outcome = _outcome(choice, todo)
        _store(connection, todo, positions, outcome, choice, owner, request_id)
        return outcome


def _outcome(choice: bind_choice.Choice, todo: bind_wishes.Todo) -> Outcome:
    """Bound at once is what needs no host work."""
    outcome = Outcome(failed=choice.failed)
    tasks: dict[str, list[messages.HandleTask]] = collections.defaultdict(list)
    for _, asked in todo:
        if asked.arq_uuid not in choice.given:
            continue
        provider, handle = (choice.given[asked.arq_uuid].provider,
                            choice.given[asked.arq_uuid].handle)
        if provider.prepares:
            tasks[provider.hostname].append(messages.HandleTask(
                handle_uuid=handle.uuid, deployable_name=provider.deployable_name,
                device_address=provider.device_address, driver=provider.driver,
                type=handle.type, info=json.loads(handle.info),
                instance_uuid=asked.instance_uuid))
        else:
            outcome.bound.append(asked.arq_uuid)
    outcome.tasks.update(tasks)
    return outcome


def _store(connection: sa.Connection, todo: bind_wishes.Todo,
           positions: collections.Counter[bind_wishes.Set], outcome: Outcome,
           choice: bind_choice.Choice, owner: leases.Owner, request_id: str | None) -> None:
    moment = session.now()
    bound = set(outcome.bound)
    arq_rows, handle_rows = [], []
    for row, asked in todo:
        reason = outcome.failed.get(asked.arq_uuid)
        own = bind_wishes.set_of(asked)
        state = (states.BIND_FAILED if reason else
                 states.BOUND if asked.arq_uuid in bound else states.BIND_STARTED)
        arq_rows.append({
            "id": row.id, "state": state, "state_reason": reason,
            "instance_uuid": own[0], "migration_uuid": own[1], "hostname": asked.hostname,
            "device_rp_uuid": asked.device_rp_uuid,
            "set_position": row.set_position if (row.instance_uuid, row.migration_uuid) == own
            else positions[own],
            "project_id": asked.project_id or row.project_id, "updated_at": moment,
            "lease_owner": owner.conductor if state == states.BIND_STARTED else None,
            "lease_until": owner.lease_until if state == states.BIND_STARTED else None})
        positions[own] += 1
        if reason is None:
            handle_rows.append({
                "id": choice.given[asked.arq_uuid].handle.id, "arq_uuid": asked.arq_uuid,
                "updated_at": moment,
                "state": states.IN_USE if state == states.BOUND else states.RESERVED})
    session.bulk_update(connection, T, "id", arq_rows)
    session.bulk_update(connection, H, "id", handle_rows)
    outcome.events.extend(event_rows(
        {asked.arq_uuid: asked.instance_uuid for _, asked in todo
         if asked.arq_uuid in bound or asked.arq_uuid in outcome.failed},
        outcome.failed, owner, request_id))
    services.insert_events(connection, outcome.events)


def event_rows(instances: Mapping[str, str], failed: Mapping[str, str], owner: leases.Owner,
               request_id: str | None) -> list[dict[str, Any]]:
    """Rows for Nova, `{arq: instance}`, as `services.insert_events` takes them."""
    return [{"arq_uuid": arq, "instance_uuid": instance, "request_id": request_id,
             "status": "failed" if arq in failed else "completed",
             "due_at": owner.lease_until, "lease_owner": owner.conductor}
            for arq, instance in instances.items()]


# --- the end of a bind with host work ---------------------------------------------------------


@session.retrying
def finish(database: session.Database, results: Sequence[messages.HandleResult],
           lease: leases.Owner, owner: leases.Owner, request_id: str | None) -> Outcome:
    """Write what the host made of handles: Bound, or BindFailed for the whole set.

    What was to be resumed and failed is Suspended again, with its handle.

    lease: under which the work was begun; owner: who tells Nova. A bind that somebody took over
    meanwhile is his. A handle whose ARQ went is left alone, also when another ARQ has it by now:
    this result is not that one's.
    """
    reasons = {result.handle_uuid: result.error for result in results}
    with database.writing() as connection:
        rows = connection.execute(
            sa.select(T.c.id, T.c.uuid, T.c.instance_uuid, T.c.migration_uuid, T.c.resumes,
                      H.c.id.label("handle_id"), H.c.uuid.label("handle_uuid"),
                      H.c.state.label("handle_state"))
            .join_from(H, T, T.c.uuid == H.c.arq_uuid)
            .where(H.c.uuid.in_(reasons), T.c.state == states.BIND_STARTED, leases.held(T, lease))
            .order_by(T.c.id).with_for_update()).all()
        if len(rows) < len(reasons):
            handles.let_go(connection, reasons, lease)
        failed = {row.uuid: reason for row in rows if (reason := _why_failed(row, reasons))}
        bad_sets = {(row.instance_uuid, row.migration_uuid): failed[row.uuid] for row in rows
                    if row.uuid in failed}
        failed |= {row.uuid: reason for row in rows if row.uuid not in failed and (
            reason := bad_sets.get((row.instance_uuid, row.migration_uuid)))}
        good = [row for row in rows if row.uuid not in failed]
        outcome = Outcome(bound=[row.uuid for row in good], failed=failed)
        moment = session.now()
        session.bulk_update(connection, T, "id", [
            {"id": row.id, "state_reason": failed.get(row.uuid), "updated_at": moment,
             "state": states.BOUND if row.uuid not in failed else
             states.SUSPENDED if row.resumes else states.BIND_FAILED, "resumes": False,
             "lease_owner": None, "lease_until": None} for row in rows])
        session.bulk_update(connection, H, "id", [
            {"id": row.handle_id, "state": states.IN_USE, "updated_at": moment}
            for row in good])
        handles.release(connection, [row.uuid for row in rows
                                     if row.uuid in failed and not row.resumes])
        outcome.events.extend(event_rows(
            {row.uuid: row.instance_uuid for row in rows}, failed, owner, request_id))
        services.insert_events(connection, outcome.events)
    return outcome


def _why_failed(row: sa.Row[Any], reasons: Mapping[str, str | None]) -> str | None:
    if row.handle_state != (states.IN_USE if row.resumes else states.RESERVED):
        return f"The host reports attach handle {row.handle_uuid} no more."
    return reasons[row.handle_uuid]


@session.retrying
def take_unfinished(database: session.Database, owner: leases.Owner, moment: datetime.datetime,
                    bind_timeout_s: float, at_most: int,
                    ) -> tuple[dict[str, list[messages.HandleTask]], list[str]]:
    """Take over binds whose conductor's lease has run out, or that took too long.

    Returns (tasks by host to do again, handles whose bind is older than `bind_timeout_s`).
    """
    too_old = moment - datetime.timedelta(seconds=bind_timeout_s)
    with database.writing() as connection:
        ids = connection.scalars(
            sa.select(T.c.id)
            .where(T.c.state == states.BIND_STARTED,
                   sa.or_(T.c.lease_until < moment, T.c.updated_at < too_old))
            .order_by(T.c.id).limit(at_most)
            .with_for_update(skip_locked=database.skips_locked)).all()
        if not ids:
            return {}, []
        connection.execute(
            sa.update(T).where(T.c.id.in_(ids))
            .values(lease_owner=owner.conductor, lease_until=owner.lease_until))
        rows = connection.execute(
            handles.task_columns(T.c.updated_at, T.c.instance_uuid)
            .join(T, T.c.uuid == H.c.arq_uuid).where(T.c.id.in_(ids)).order_by(T.c.id)).all()
    return (handles.tasks_by_host([row for row in rows if row.updated_at >= too_old]),
            [row.uuid for row in rows if row.updated_at < too_old])
