# SPDX-License-Identifier: Apache-2.0
"""What a bind asks for: which sets of ARQs, and whether they may be made. Locks the ARQs.

Which handles they get is in `bind_choice.py`, what is stored in `binds.py`.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import models

T = models.arqs

Todo = list[tuple[sa.Row[Any], messages.BindRequest]]
Set = tuple[str, str]
"""An instance's active set, or its inactive one of a migration: the two uuids."""


def set_of(request: messages.BindRequest) -> Set:
    """The set that the ARQ shall belong to."""
    return request.instance_uuid, request.migration_uuid or arqs.ACTIVE


def what_to_bind(connection: sa.Connection,
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
    joined = {set_of(request) for row, request in todo
              if (row.instance_uuid, row.migration_uuid) != set_of(request)}
    sets = {set_of(request) for request in requests}
    for row in rows:
        own, wish = (row.instance_uuid, row.migration_uuid), asked.get(row.uuid)
        if own in (joined & {set_of(wish)} if wish else sets):
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
        == (*set_of(request), request.hostname, request.device_rp_uuid)) and (
        request.project_id in (None, row.project_id))


def fail_whole_sets(todo: Todo, failures: Mapping[str, str]) -> dict[str, str]:
    """An instance can't run with a part of its accelerators: one failure fails the whole set."""
    by_set = {set_of(asked): failures[asked.arq_uuid] for _, asked in todo
              if asked.arq_uuid in failures}
    return {asked.arq_uuid: failures.get(asked.arq_uuid, by_set[set_of(asked)])
            for _, asked in todo if set_of(asked) in by_set}
