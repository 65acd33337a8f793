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
from cyborg_lite.db import closed_devices
from cyborg_lite.db import handles
from cyborg_lite.db import leases
from cyborg_lite.db import liveness
from cyborg_lite.db import migration_sets
from cyborg_lite.db import models
from cyborg_lite.db import services
from cyborg_lite.db import session

T = models.arqs
H = models.attach_handles

ENABLED = "enabled"


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


@dataclasses.dataclass(frozen=True, slots=True)
class _Provider:
    deployable_id: int
    deployable_name: str
    hostname: str
    prepares: bool
    guest_sees: tuple[str, ...]
    device_status: str
    device_address: str
    driver: str
    host_state: str
    last_seen: datetime.datetime | None
    host_status: str | None
    disabled_reason: str | None
    is_split: bool


def start(database: session.Database, requests: Sequence[messages.BindRequest], owner: leases.Owner,
          request_id: str | None,
          horizon: liveness.Horizon = liveness.NOBODY_IS_DOWN) -> Outcome:
    """Reserve a handle for each ARQ, all of a set or none of it.

    NotFound, StateConflict and AlreadyHasArqs change nothing. An ARQ that has exactly this bind
    already is left as it is and named in no part of the outcome.
    """
    for attempt in (1, 2):
        try:
            return _start(database, requests, owner, request_id, horizon)
        except db_exc.DBDuplicateEntry:
            # somebody made a set for the same instance at this moment; looking again shows it
            if attempt == 2:
                raise
    raise AssertionError("unreachable")


@session.retrying
def _start(database: session.Database, requests: Sequence[messages.BindRequest],
           owner: leases.Owner, request_id: str | None, horizon: liveness.Horizon) -> Outcome:
    with database.writing() as connection:
        todo, positions = _what_to_bind(connection, requests)
        if not todo:
            return Outcome()
        live = migration_sets.open_for(connection, [asked for _, asked in todo])
        providers = _providers(
            connection, {asked.device_rp_uuid for _, asked in todo}, horizon)
        failures = _fail_whole_sets(todo, {
            asked.arq_uuid: reason for _, asked in todo
            if (reason := _refusal(asked, providers.get(asked.device_rp_uuid)))})
        wanted = collections.Counter(
            providers[asked.device_rp_uuid].deployable_id for _, asked in todo
            if asked.arq_uuid not in failures)
        free = {deployable: _free_handles(connection, database, deployable, number)
                for deployable, number in sorted(wanted.items())}
        failures |= _fail_whole_sets(todo, _closed(connection, todo, failures, providers))
        failures |= _fail_whole_sets(
            todo, _shortages(todo, failures, providers, free, wanted))
        if live:
            failures |= _fail_whole_sets(
                todo, _differences(connection, todo, live, failures, providers, free))
        outcome = _assign(todo, failures, providers, free)
        _store(connection, todo, positions, outcome, providers, free, owner, request_id)
        return outcome


Todo = list[tuple[sa.Row[Any], messages.BindRequest]]
Set = tuple[str, str]
"""An instance's active set, or its inactive one of a migration: the two uuids."""


def _set_of(request: messages.BindRequest) -> Set:
    return request.instance_uuid, request.migration_uuid or arqs.ACTIVE


def _what_to_bind(connection: sa.Connection,
                  requests: Sequence[messages.BindRequest],
                  ) -> tuple[Todo, collections.Counter[Set]]:
    """Return what is not bound so already, and the next free position in each set."""
    asked = {request.arq_uuid: request for request in requests}
    instances = {request.instance_uuid for request in requests}
    rows = connection.execute(
        sa.select(T.c.id, T.c.uuid, T.c.state, T.c.instance_uuid, T.c.migration_uuid,
                  T.c.hostname, T.c.device_rp_uuid, T.c.set_position, T.c.project_id)
        .where(sa.or_(T.c.uuid.in_(asked), T.c.instance_uuid.in_(instances)))
        .order_by(T.c.id).with_for_update()).all()
    missing = set(asked) - {row.uuid for row in rows}
    if missing:
        raise arqs.not_found(sorted(missing))
    todo = [(row, asked[row.uuid]) for row in rows
            if row.uuid in asked and not _is_bound_so(row, asked[row.uuid])]
    move = states.arq_move("bind")
    for row, request in todo:
        if not states.allows(move, row.state):
            raise errors.StateConflict(
                f"Accelerator request {row.uuid} of project {row.project_id} is {row.state} with "
                "instance "
                f"{row.instance_uuid}, host {row.hostname} and provider {row.device_rp_uuid}; "
                f"it can be bound to {request.instance_uuid}, {request.hostname} and "
                f"{request.device_rp_uuid} only from {', '.join(sorted(move.sources))}.")
    # a set that exists may be repeated or tried again, but nothing joins it
    joined = {_set_of(request) for row, request in todo
              if (row.instance_uuid, row.migration_uuid) != _set_of(request)}
    sets = {_set_of(request) for request in requests}
    for row in rows:
        own, wish = (row.instance_uuid, row.migration_uuid), asked.get(row.uuid)
        if own in (joined & {_set_of(wish)} if wish else sets):
            raise _already_has(row)
    positions: collections.Counter[Set] = collections.Counter()
    for row in rows:
        if row.instance_uuid is not None:
            own = row.instance_uuid, row.migration_uuid
            positions[own] = max(positions[own], (row.set_position or 0) + 1)
    return todo, positions


def _already_has(row: sa.Row[Any]) -> errors.Error:
    if row.migration_uuid == arqs.ACTIVE:
        return errors.AlreadyHasArqs(
            f"Instance {row.instance_uuid} already has accelerator requests "
            f"({row.uuid}); no more can be bound to it.")
    return errors.StateConflict(
        f"Migration {row.migration_uuid} of instance {row.instance_uuid} already has accelerator "
        f"requests ({row.uuid}); no more can be bound for it.")


def _is_bound_so(row: sa.Row[Any], request: messages.BindRequest) -> bool:
    return row.state in (states.BIND_STARTED, states.BOUND) and (
        (row.instance_uuid, row.migration_uuid, row.hostname, row.device_rp_uuid)
        == (*_set_of(request), request.hostname, request.device_rp_uuid)) and (
        request.project_id in (None, row.project_id))


def _providers(connection: sa.Connection, rp_uuids: Iterable[str],
               horizon: liveness.Horizon) -> dict[str, _Provider]:
    D, V, N = models.deployables, models.devices, models.hosts
    P = models.device_partitions
    return {row.rp_uuid: _Provider(row.id, row.name, row.hostname, row.prepares,
                                   migration_sets.kind_of(row), row.status,
                                   row.address, row.driver, row.host_state, row.last_seen,
                                   row.host_status, row.disabled_reason,
                                   row.split_id is not None)
            for row in connection.execute(
                sa.select(D.c.rp_uuid, D.c.id, D.c.name, D.c.prepares, V.c.hostname, V.c.status,
                          V.c.address, V.c.driver, *migration_sets.KIND,
                          liveness.host_state(horizon).label("host_state"), N.c.last_seen,
                          N.c.status.label("host_status"), N.c.disabled_reason,
                          P.c.id.label("split_id"))
                .join_from(D, V, V.c.id == D.c.device_id)
                .outerjoin(N, N.c.name == V.c.hostname)
                .outerjoin(P, P.c.device_uuid == V.c.uuid)
                .where(D.c.rp_uuid.in_(rp_uuids)))}


def _refusal(request: messages.BindRequest, provider: _Provider | None) -> str | None:
    if provider is None:
        return f"Resource provider {request.device_rp_uuid} is not a deployable of this service."
    if provider.hostname != request.hostname:
        return (f"Resource provider {request.device_rp_uuid} is not on host {request.hostname}; "
                "bind to the host that it belongs to.")
    if provider.device_status != ENABLED:
        return (f"The device of resource provider {request.device_rp_uuid} is disabled; "
                "enable it or choose another provider.")
    if provider.host_status not in (ENABLED, None):
        why = f" ({provider.disabled_reason})" if provider.disabled_reason else ""
        return (f"The agent of host {provider.hostname} is disabled{why}; enable it or choose "
                "another host.")
    if provider.last_seen is not None and provider.host_state != liveness.UP:
        return (f"Host {provider.hostname} is {provider.host_state}: its agent was last heard of "
                f"at {session.text(provider.last_seen)}; choose another host.")
    return None


def _fail_whole_sets(todo: Todo, failures: Mapping[str, str]) -> dict[str, str]:
    """An instance can't run with a part of its accelerators: one failure fails the whole set."""
    by_set = {_set_of(asked): failures[asked.arq_uuid] for _, asked in todo
              if asked.arq_uuid in failures}
    return {asked.arq_uuid: failures.get(asked.arq_uuid, by_set[_set_of(asked)])
            for _, asked in todo if _set_of(asked) in by_set}


def _free_handles(connection: sa.Connection, database: session.Database, deployable_id: int,
                  number: int) -> list[sa.Row[Any]]:
    """Lock `number` free handles of a deployable, or all there are."""
    query = (sa.select(H.c.id, H.c.uuid, H.c.type, H.c.info)
             .where(H.c.deployable_id == deployable_id, H.c.state == states.FREE)
             .order_by(H.c.id))
    if not database.skips_locked:
        return list(connection.execute(query.limit(number)))
    found = connection.execute(
        query.limit(number).with_for_update(skip_locked=True)).all()
    if len(found) < number:
        # what was skipped may come free again: wait for those who hold it, then be sure
        found = connection.execute(query.with_for_update()).all()
    return list(found[:number])


def _closed(connection: sa.Connection, todo: Todo, failures: Mapping[str, str],
            providers: Mapping[str, _Provider]) -> dict[str, str]:
    """Why none of a device that is being split is given out.

    Looked at while the handles are locked, as a wish locks them too: none comes between.
    """
    asked = [request for _, request in todo if request.arq_uuid not in failures
             and providers[request.device_rp_uuid].is_split]
    closed = closed_devices.deployables_of(
        connection, {providers[request.device_rp_uuid].deployable_id for request in asked}
    ) if asked else set()
    return {request.arq_uuid:
            f"The device of resource provider {request.device_rp_uuid} is being split anew; wait "
            "until its layout is applied, or choose another provider."
            for request in asked
            if providers[request.device_rp_uuid].deployable_id in closed}


def _shortages(todo: Todo, failures: Mapping[str, str], providers: Mapping[str, _Provider],
               free: Mapping[int, Sequence[Any]],
               wanted: Mapping[int, int]) -> dict[str, str]:
    short = {}
    left = {deployable: len(handles) for deployable, handles in free.items()}
    for _, asked in todo:
        if asked.arq_uuid in failures:
            continue
        deployable = providers[asked.device_rp_uuid].deployable_id
        left[deployable] -= 1
        if left[deployable] < 0:
            short[asked.arq_uuid] = (
                f"Resource provider {asked.device_rp_uuid} on host {asked.hostname} has "
                f"{len(free[deployable])} free attach handles; {wanted[deployable]} are needed.")
    return short


def _differences(connection: sa.Connection, todo: Todo, live: Mapping[Set, str],
                 failures: Mapping[str, str], providers: Mapping[str, _Provider],
                 free: Mapping[int, Sequence[sa.Row[Any]]]) -> dict[str, str]:
    """What a running guest would see change: a live migration can't exchange its devices."""
    given: collections.Counter[int] = collections.Counter()
    seen: dict[Set, dict[str, tuple[str, ...]]] = collections.defaultdict(dict)
    for _, asked in todo:
        if asked.arq_uuid in failures:
            continue
        provider = providers[asked.device_rp_uuid]
        handle = free[provider.deployable_id][given[provider.deployable_id]]
        given[provider.deployable_id] += 1
        if _set_of(asked) in live:
            seen[_set_of(asked)][asked.arq_uuid] = migration_sets.guest_sees(
                handle.type, handle.info, provider.guest_sees)
    different: dict[str, str] = {}
    for (instance, _), after in seen.items():
        reason = migration_sets.difference(
            migration_sets.seen_by_guest(connection, instance), list(after.values()))
        if reason:
            different |= dict.fromkeys(after, reason)
    return different


def _assign(todo: Todo, failures: dict[str, str], providers: Mapping[str, _Provider],
            free: dict[int, list[sa.Row[Any]]]) -> Outcome:
    """Give each ARQ that did not fail its handle; `free` keeps, in order, those given."""
    outcome = Outcome(failed=failures)
    tasks: dict[str, list[messages.HandleTask]] = collections.defaultdict(list)
    taken: collections.Counter[int] = collections.Counter()
    for _, asked in todo:
        if asked.arq_uuid in failures:
            continue
        provider = providers[asked.device_rp_uuid]
        handle = free[provider.deployable_id][taken[provider.deployable_id]]
        taken[provider.deployable_id] += 1
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


def _store(connection: sa.Connection, todo: Todo, positions: collections.Counter[Set],
           outcome: Outcome, providers: Mapping[str, _Provider],
           free: Mapping[int, Sequence[sa.Row[Any]]],
           owner: leases.Owner, request_id: str | None) -> None:
    moment = session.now()
    bound = set(outcome.bound)
    given: collections.Counter[int] = collections.Counter()
    arq_rows, handle_rows = [], []
    for row, asked in todo:
        reason = outcome.failed.get(asked.arq_uuid)
        own = _set_of(asked)
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
            deployable = providers[asked.device_rp_uuid].deployable_id
            handle = free[deployable][given[deployable]]
            given[deployable] += 1
            handle_rows.append({
                "id": handle.id, "arq_uuid": asked.arq_uuid, "updated_at": moment,
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
        failed = {row.uuid: reason for row in rows if (reason := _why_failed(row, reasons))}
        bad_sets = {(row.instance_uuid, row.migration_uuid): failed[row.uuid] for row in rows
                    if row.uuid in failed}
        failed |= {row.uuid: reason for row in rows if row.uuid not in failed and (
            reason := bad_sets.get((row.instance_uuid, row.migration_uuid)))}
        good = [row for row in rows if row.uuid not in failed]
        outcome = Outcome(bound=[row.uuid for row in good], failed=failed)
        session.bulk_update(connection, T, "id", [
            {"id": row.id, "state_reason": failed.get(row.uuid), "updated_at": session.now(),
             "state": states.BOUND if row.uuid not in failed else
             states.SUSPENDED if row.resumes else states.BIND_FAILED, "resumes": False,
             "lease_owner": None, "lease_until": None} for row in rows])
        session.bulk_update(connection, H, "id", [
            {"id": row.handle_id, "state": states.IN_USE, "updated_at": session.now()}
            for row in good])
        arqs.release_handles(connection, [row.uuid for row in rows
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
