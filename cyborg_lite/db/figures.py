# SPDX-License-Identifier: Apache-2.0
"""Counts of everything, for those who watch the service. A fixed number of statements.

What a number means, and under which name it is shown, is said in `metrics.py`.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from cyborg_lite import states
from cyborg_lite.db import closed_devices
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import session
from cyborg_lite.db import sweeps

C = models.conductors
E = models.events
H = models.attach_handles
L = models.device_partitions
M = models.migrations
N = models.hosts
Q = models.orphans
R = models.arqs
S = models.sweeps
V = models.devices

ENABLED = "enabled"
OPEN, FAILED = "open", "failed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The whole cloud at one moment. States in which there is nothing are counted as 0.

    devices: by type and status. orphans: by kind and state. layout_wishes: those that are not true,
    open or failed. Ages and lags in seconds; sweep_age_s is None before the first sweep.
    """

    devices: Mapping[tuple[str, str], int]
    devices_withheld: int
    handles: Mapping[str, int]
    arqs: Mapping[str, int]
    oldest_bind_s: float
    migrations: int
    layout_wishes: Mapping[str, int]
    hosts: Mapping[str, int]
    hosts_disabled: int
    hosts_unsynced: int
    hosts_sync_failing: int
    sync_lag_s: float
    conductors: Mapping[str, int]
    events_waiting: int
    oldest_event_s: float
    orphans: Mapping[tuple[str, str], int]
    sweep_age_s: float | None


def read(database: session.Database, moment: datetime.datetime,
         horizon: liveness.Horizon) -> Figures:
    """Count. Seven statements. Unavailable."""
    with database.reading() as connection:
        devices = connection.execute(
            sa.select(V.c.type, V.c.status, sa.func.count(), sa.func.count(V.c.withheld))
            .group_by(V.c.type, V.c.status)).all()
        handles = {state: count for state, count in connection.execute(
            sa.select(H.c.state, sa.func.count()).group_by(H.c.state))}
        arqs = {state: (count, oldest) for state, count, oldest in connection.execute(
            sa.select(R.c.state, sa.func.count(), sa.func.min(R.c.updated_at))
            .group_by(R.c.state))}
        hosts = connection.execute(sa.select(
            liveness.host_state(horizon).label("liveness"),
            sa.func.count().label("number"), _count(N.c.status != ENABLED).label("disabled"),
            _count(N.c.generation > N.c.synced_generation).label("unsynced"),
            _count(N.c.sync_attempts > 0).label("failing"),
            sa.func.min(N.c.sync_due_at).label("due_at")).group_by("liveness")).all()
        conductors = {state: count for state, count in connection.execute(
            sa.select(liveness.conductor_state(horizon).label("liveness"), sa.func.count())
            .where(C.c.stopped_at.is_(None)).group_by("liveness"))}
        orphans = {(kind, state): count for kind, state, count in connection.execute(
            sa.select(Q.c.kind, Q.c.state, sa.func.count()).group_by(Q.c.kind, Q.c.state))}
        one = connection.execute(_singles()).one()
    return Figures(
        devices={(row[0], row[1]): row[2] for row in devices},
        devices_withheld=sum(row[3] for row in devices),
        handles={state: handles.get(state, 0) for state in states.HANDLE_STATES},
        arqs={state: arqs.get(state, (0, None))[0] for state in states.ARQ_STATES},
        oldest_bind_s=_age(moment, arqs.get(states.BIND_STARTED, (0, None))[1]),
        migrations=one.migrations,
        layout_wishes={OPEN: one.wishes - one.wishes_failed, FAILED: one.wishes_failed},
        hosts=dict.fromkeys(liveness.STATES, 0) | {row.liveness: row.number for row in hosts},
        hosts_disabled=sum(row.disabled for row in hosts),
        hosts_unsynced=sum(row.unsynced for row in hosts),
        hosts_sync_failing=sum(row.failing for row in hosts),
        sync_lag_s=_age(moment, min((row.due_at for row in hosts), default=None)),
        conductors=dict.fromkeys((liveness.UP, liveness.DOWN), 0) | conductors,
        events_waiting=one.events, oldest_event_s=_age(moment, one.oldest_event),
        orphans=orphans,
        sweep_age_s=None if one.swept_at is None else _age(moment, one.swept_at))


def _singles() -> sa.Select[Any]:
    """What is one number of its table, each; one round trip for all."""
    untrue = sa.or_(closed_devices.IS_GIVEN_UP, sa.and_(
        L.c.wished_key.is_not(None),
        sa.or_(L.c.reported_key.is_(None), L.c.reported_key != L.c.wished_key)))
    wishes = sa.select(sa.func.count()).select_from(L).where(untrue)
    return sa.select(
        sa.select(sa.func.count()).select_from(M).scalar_subquery().label("migrations"),
        sa.select(sa.func.count()).select_from(E).scalar_subquery().label("events"),
        sa.select(sa.func.min(E.c.created_at)).scalar_subquery().label("oldest_event"),
        # one that failed, or was of a host or one orphan, or wrote nothing, leaves orphans unseen
        sa.select(sa.func.max(S.c.finished_at)).where(
            S.c.state == sweeps.DONE, S.c.mode != sweeps.DRY_RUN, S.c.host.is_(None),
            S.c.only_orphan.is_(None)).scalar_subquery().label("swept_at"),
        wishes.scalar_subquery().label("wishes"),
        wishes.where(L.c.fault.is_not(None), L.c.fault_generation == L.c.wish_generation)
        .scalar_subquery().label("wishes_failed"))


def _count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.count(sa.case((condition, 1)))


def _age(moment: datetime.datetime, since: datetime.datetime | None) -> float:
    """Return the seconds since then; 0 for what is still to come, and for nothing."""
    return 0.0 if since is None else max(0.0, (moment - since).total_seconds())
