# SPDX-License-Identifier: Apache-2.0
"""The invariants of the tables as questions to a live database. Nothing is repaired here."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator

import sqlalchemy as sa

from cyborg_lite import states
from cyborg_lite.db import closed_devices
from cyborg_lite.db import migration_sets
from cyborg_lite.db import models
from cyborg_lite.db import session
from cyborg_lite.db import sweeps

A = models.arqs
H = models.attach_handles
P = models.deployables
V = models.devices
N = models.hosts
E = models.events
M = models.migrations
L = models.device_partitions
U = models.uncleaned_handles
W = models.sweeps
S = models.sweep_steps

SHOWN = 100
"""Findings of one kind that are named; there may be more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One row that should not be as it is. invariant: its number in the specification."""

    invariant: int
    what: str


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take before they count as stuck, in seconds."""

    bind_s: float
    sync_s: float
    event_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Question:
    invariant: int
    text: str
    select: sa.Select[tuple[object, ...]]


def find(database: session.Database, limits: Limits,
         moment: datetime.datetime | None = None) -> list[Finding]:
    """Return what contradicts the invariants, at most SHOWN of a kind. One statement a kind."""
    moment = moment or session.now()
    found = []
    with database.reading() as connection:
        for question in (*_handles(), *_arqs(), *_migrations(), *_stuck(limits, moment)):
            for row in connection.execute(question.select.limit(SHOWN)):
                found.append(Finding(question.invariant, question.text.format(**row._mapping)))
    return found


def _handles() -> Iterator[_Question]:
    named = sa.select(H.c.uuid.label("handle"), H.c.state, H.c.arq_uuid.label("arq"))
    held = H.c.state.in_(states.HELD_STATES)
    yield _Question(1, "handle {handle} is {state} and belongs to no ARQ",
                    named.where(held, H.c.arq_uuid.is_(None)))
    yield _Question(1, "handle {handle} is {state} and yet belongs to ARQ {arq}",
                    named.where(~held, H.c.arq_uuid.is_not(None)))
    yield _Question(1, "handle {handle} belongs to ARQ {arq}, which does not exist",
                    named.outerjoin(A, A.c.uuid == H.c.arq_uuid)
                    .where(H.c.arq_uuid.is_not(None), A.c.id.is_(None)))
    yield _Question(1, "{number} handles of host {host} are the same {type} {info}, and {held} "
                       "of them held: two servers could have it",
                    sa.select(sa.func.count().label("number"), V.c.hostname.label("host"),
                              H.c.type, H.c.info,
                              sa.func.sum(sa.case((held, 1), else_=0)).label("held"))
                    .join_from(H, P, P.c.id == H.c.deployable_id).join(V, V.c.id == P.c.device_id)
                    .where(H.c.type.in_(("PCI", "MDEV")))
                    .group_by(V.c.hostname, H.c.type, H.c.info)
                    .having(sa.func.count() > 1))
    yield _Question(6, "handle {handle} is {state}, and noted as one that went before it was "
                       "cleaned",
                    named.join(U, U.c.handle_uuid == H.c.uuid))
    known = H.c.state.in_(states.HANDLE_STATES)
    yield _Question(1, "handle {handle} is in a state that does not exist: {state}",
                    named.where(~known))


def _arqs() -> Iterator[_Question]:
    named = sa.select(A.c.uuid.label("arq"), A.c.state)
    with_handle = named.add_columns(
        H.c.uuid.label("handle"), H.c.state.label("handle_state"), A.c.hostname.label("host"),
        V.c.hostname.label("handle_host"), P.c.rp_uuid.label("provider"),
        A.c.device_rp_uuid.label("wanted"),
    ).join_from(A, H, H.c.arq_uuid == A.c.uuid).join(P, P.c.id == H.c.deployable_id).join(
        V, V.c.id == P.c.device_id)
    holding = A.c.state.in_([states.BIND_STARTED, states.BOUND, states.SUSPENDED])
    yield _Question(1, "ARQ {arq} is {state} and holds no handle",
                    named.outerjoin(H, H.c.arq_uuid == A.c.uuid)
                    .where(holding, H.c.id.is_(None)))
    yield _Question(1, "ARQ {arq} is {state} and yet holds handle {handle}",
                    with_handle.where(~holding))
    fitting = sa.or_(
        sa.and_(A.c.state == states.BIND_STARTED, ~A.c.resumes, H.c.state == states.RESERVED),
        sa.and_(sa.or_(A.c.state.in_([states.BOUND, states.SUSPENDED]), A.c.resumes),
                H.c.state == states.IN_USE),
        H.c.state == states.MISSING)
    yield _Question(1, "ARQ {arq} is {state}, but its handle {handle} is {handle_state}",
                    with_handle.where(holding, ~fitting))
    yield _Question(1, "ARQ {arq} was bound to provider {wanted}, but its handle {handle} is one "
                       "of {provider}",
                    with_handle.where(A.c.device_rp_uuid != P.c.rp_uuid))
    yield _Question(1, "ARQ {arq} was bound to host {host}, but its handle {handle} is on "
                       "{handle_host}",
                    with_handle.where(A.c.hostname != V.c.hostname))
    yield _Question(1, "ARQ {arq} is {state} without instance, host or provider",
                    named.where(holding, sa.or_(A.c.instance_uuid.is_(None),
                                                A.c.hostname.is_(None),
                                                A.c.device_rp_uuid.is_(None))))
    yield _Question(1, "ARQ {arq} is in a state that does not exist: {state}",
                    named.where(A.c.state.not_in(states.ARQ_STATES)))
    yield _Question(1, "ARQ {arq} is {state}, and noted as one that is being resumed",
                    named.where(A.c.resumes, A.c.state != states.BIND_STARTED))


def _migrations() -> Iterator[_Question]:
    yield _Question(9, "migration {migration} of instance {instance} is {type} and its {side} is "
                       "active: there is no such migration",
                    sa.select(M.c.migration_uuid.label("migration"), M.c.type,
                              M.c.instance_uuid.label("instance"), M.c.active_side.label("side"))
                    .where(sa.or_(
                        M.c.type.not_in((migration_sets.COLD, migration_sets.LIVE)),
                        M.c.active_side.not_in((migration_sets.SOURCE,
                                                migration_sets.DESTINATION)))))
    yield _Question(9, "ARQ {arq} is in the inactive set of migration {migration} of instance "
                       "{instance}, which is not open",
                    sa.select(A.c.uuid.label("arq"), A.c.migration_uuid.label("migration"),
                              A.c.instance_uuid.label("instance"))
                    .outerjoin(M, sa.and_(M.c.instance_uuid == A.c.instance_uuid,
                                          M.c.migration_uuid == A.c.migration_uuid))
                    .where(A.c.migration_uuid != "", M.c.id.is_(None)))


def _stuck(limits: Limits, moment: datetime.datetime) -> Iterator[_Question]:
    def ago(seconds: float) -> datetime.datetime:
        return moment - datetime.timedelta(seconds=seconds)

    yield _Question(2, "ARQ {arq} is in BindStarted since {since}: does a conductor run?",
                    sa.select(A.c.uuid.label("arq"), A.c.updated_at.label("since"))
                    .where(A.c.state == states.BIND_STARTED, A.c.updated_at < ago(limits.bind_s)))
    yield _Question(3, "the event of ARQ {arq} for instance {instance} waits since {since}: does "
                       "a conductor run?",
                    sa.select(E.c.arq_uuid.label("arq"), E.c.instance_uuid.label("instance"),
                              E.c.due_at.label("since")).where(E.c.due_at < ago(limits.event_s)))
    yield _Question(4, "host {host} was not compared with Placement since {since}: does a "
                       "conductor run?",
                    sa.select(N.c.name.label("host"), N.c.sync_due_at.label("since"))
                    .where(N.c.sync_due_at < ago(limits.sync_s)))
    yield _Question(2, "device {device} of host {host} waits since {since} to be split as was "
                       "wished for: does a conductor run?",
                    sa.select(L.c.device_uuid.label("device"), L.c.hostname.label("host"),
                              L.c.due_at.label("since"))
                    .join_from(L, V, V.c.uuid == L.c.device_uuid).join(N, N.c.name == L.c.hostname)
                    .where(L.c.due_at < ago(limits.sync_s), closed_devices.CLOSED,
                           N.c.generation == N.c.synced_generation))
    older = W.alias()
    worked_on = sa.exists().where(S.c.sweep_id == W.c.id, S.c.lease_until >= ago(limits.sync_s))
    yield _Question(2, "sweep {sweep} is worked on by nobody since {since}: does a conductor run?",
                    sa.select(W.c.uuid.label("sweep"),
                              sa.func.coalesce(W.c.updated_at, W.c.started_at).label("since"))
                    .where(W.c.state == sweeps.RUNNING, ~worked_on,
                           sa.func.coalesce(W.c.updated_at, W.c.started_at) < ago(limits.sync_s),
                           ~sa.exists().where(older.c.id < W.c.id,
                                              older.c.state == sweeps.RUNNING)))
