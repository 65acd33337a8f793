# SPDX-License-Identifier: Apache-2.0
"""Sweeps and their steps, one a host: who works on which, what is left. What they find: `orphans`.

Of several sweeps the oldest goes first, so that no host is ever in two hands; a dry run, which does
nothing to any, may be done meanwhile by who asks for it.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import uuid
from collections.abc import Collection
from collections.abc import Mapping

import sqlalchemy as sa
from oslo_db import exception as db_exc

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.db import leases
from cyborg_lite.db import models
from cyborg_lite.db import session

W = models.sweeps
P = models.sweep_steps
N = models.hosts
T = models.arqs
V = models.devices
O = models.orphans  # noqa: E741

RUNNING, DONE, FAILED = "running", "done", "failed"

CLEAN, RECORD, DRY_RUN = "clean", "record", "dry_run"
"""What a sweep may do: everything; note what it sees; neither."""

NO_HOST = ""
"""Name of the step for what belongs to no host; it is the last."""

NO_LEASE_IS_LONGER = datetime.timedelta(hours=1)
"""One that seems so was taken by a clock that was ahead; whoever has it loses it in good order."""

MOST_HOSTS = 200
KEPT = 1000
"""Records of sweeps that are over."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Steps of one sweep that a conductor has taken. only: the one orphan that it is about."""

    sweep_id: int
    uuid: str
    mode: str
    host: str | None
    only: str | None
    asked_by: str
    hosts: tuple[str, ...]

    @property
    def is_last(self) -> bool:
        """Whether this is about what belongs to no host."""
        return self.hosts == (NO_HOST,)


def start(database: session.Database, *, mode: str, asked_by: str, moment: datetime.datetime,
          host: str | None = None, hosts: Collection[str] | None = None,
          only: str | None = None, owner: leases.Owner | None = None) -> messages.Sweep:
    """Begin a sweep of one host, of some or of all; returns the one that does that already.

    only: the record that it is about. owner: who has all its steps, for now. NotFound for the host.
    """
    open_key = f"{mode}|{host or ''}|{only or ''}"
    try:
        return _start(database, open_key, mode, asked_by, moment, host, hosts, only, owner)
    except db_exc.DBDuplicateEntry:
        with database.reading() as connection:
            row = connection.execute(sa.select(W).where(W.c.open_key == open_key)).first()
        if row is None:  # it is over by now
            return _start(database, open_key, mode, asked_by, moment, host, hosts, only, owner)
        return _message(row)


@session.retrying
def _start(database: session.Database, open_key: str, mode: str, asked_by: str,
           moment: datetime.datetime, host: str | None, hosts: Collection[str] | None,
           only: str | None, owner: leases.Owner | None) -> messages.Sweep:
    lease = {} if owner is None else {
        "lease_owner": owner.conductor, "lease_until": owner.lease_until}
    values = {"uuid": str(uuid.uuid4()), "open_key": open_key, "state": RUNNING, "mode": mode,
              "host": host, "only_orphan": only, "asked_by": asked_by, "started_at": moment,
              "counts": "{}", "created_at": moment}
    with database.writing() as connection:
        weights = _weights(connection, host)
        if host is not None and host not in weights:
            raise errors.NotFound(f"Host {host!r} is not known; `GET /v2/services` lists those "
                                  "that are.")
        if hosts is not None:
            weights = {name: weight for name, weight in weights.items() if name in hosts}
        if not only or host is None:
            weights[NO_HOST] = 0
        connection.execute(sa.insert(W).values(values))
        row = connection.execute(sa.select(W).where(W.c.uuid == values["uuid"])).one()
        # the last is the one of no host
        names = sorted(weights, key=lambda name: (name == NO_HOST, name))
        connection.execute(sa.insert(P), [
            {"sweep_id": row.id, "host": name, "weight": weights[name], "done": False,
             **lease} for name in names])
        connection.execute(sa.delete(W).where(W.c.state != RUNNING, W.c.id <= row.id - KEPT))
        return _message(row)


def _weights(connection: sa.Connection, host: str | None) -> dict[str, int]:
    """How many ARQs there are on each host that any row names."""
    weights: dict[str, int] = {}
    for column in (N.c.name, V.c.hostname, O.c.host):
        statement = sa.select(column).distinct()
        if column is O.c.host:
            statement = statement.where(O.c.open_key.is_not(None), O.c.host.is_not(None))
        if host is not None:
            statement = statement.where(column == host)
        weights |= dict.fromkeys(connection.scalars(statement), 0)
    counted = sa.select(T.c.hostname, sa.func.count()).where(T.c.hostname.is_not(None)).group_by(
        T.c.hostname)
    if host is not None:
        counted = counted.where(T.c.hostname == host)
    for name, count in connection.execute(counted):
        weights[name] = count
    return weights


@session.retrying
def take(database: session.Database, owner: leases.Owner, moment: datetime.datetime,
         batch_size: int, only: str | None = None) -> Work | None:
    """Take steps of the oldest sweep that nobody works on: hosts with about so many ARQs.

    only: the sweep to take them of; None then when another is older and this is no dry run.

    None when there is nothing to take, which may be because others are at it.
    """
    free = sa.and_(P.c.done.is_(False),
                   sa.or_(P.c.lease_until.is_(None), P.c.lease_until < moment,
                          P.c.lease_until > owner.lease_until + NO_LEASE_IS_LONGER,
                          P.c.lease_owner == owner.conductor))
    at_once = sa.case((sa.and_(W.c.uuid == only, W.c.mode == DRY_RUN), 0), else_=1)
    with database.reading() as connection:
        sweep = connection.execute(
            sa.select(W).where(W.c.state == RUNNING).order_by(at_once, W.c.id).limit(1)).first()
    if sweep is None or only not in (None, sweep.uuid):
        return None
    of_sweep = sa.select(P.c.id, P.c.host, P.c.weight).where(P.c.sweep_id == sweep.id)
    with database.writing() as connection:
        rows = connection.execute(
            of_sweep.where(free, P.c.host != NO_HOST).order_by(P.c.id).limit(MOST_HOSTS)
            .with_for_update(skip_locked=database.skips_locked)).all()
        if not rows:
            open_hosts = connection.scalar(
                sa.select(sa.func.count()).where(
                    P.c.sweep_id == sweep.id, P.c.done.is_(False), P.c.host != NO_HOST))
            if open_hosts:
                return None
            rows = connection.execute(
                of_sweep.where(free).order_by(P.c.id)
                .with_for_update(skip_locked=database.skips_locked)).all()
            if not rows:
                return None
        taken, weight = [], 0
        for row in rows:
            taken.append(row)
            weight += row.weight
            if weight >= batch_size:
                break
        connection.execute(
            sa.update(P).where(P.c.id.in_([row.id for row in taken]))
            .values(lease_owner=owner.conductor, lease_until=owner.lease_until))
    return Work(sweep_id=sweep.id, uuid=sweep.uuid, mode=sweep.mode, host=sweep.host,
                only=sweep.only_orphan, asked_by=sweep.asked_by,
                hosts=tuple(row.host for row in taken))


@session.retrying
def keep(database: session.Database, work: Work, owner: leases.Owner) -> bool:
    """Lengthen the lease of steps; False when somebody else has one of them by now."""
    with database.writing() as connection:
        # those too that this conductor will come to
        connection.execute(
            sa.update(P).where(P.c.sweep_id == work.sweep_id, P.c.lease_owner == owner.conductor)
            .values(lease_until=owner.lease_until))
        return connection.scalar(
            sa.select(sa.func.count()).where(_ours(work, owner))) == len(work.hosts)


def _ours(work: Work, owner: leases.Owner) -> sa.ColumnElement[bool]:
    return sa.and_(P.c.sweep_id == work.sweep_id, P.c.host.in_(work.hosts),
                   P.c.lease_owner == owner.conductor)


@session.retrying
def finish(database: session.Database, work: Work, owner: leases.Owner,
           counts: Mapping[str, int], moment: datetime.datetime,
           fault: str | None = None) -> messages.Sweep | None:
    """Note that steps are done; returns the sweep when they were its last.

    fault: why nothing was judged in them; the sweep goes on, and ends as failed.
    """
    with database.writing() as connection:
        sweep = connection.execute(
            sa.select(W).where(W.c.id == work.sweep_id).with_for_update()).first()
        if sweep is None or sweep.state != RUNNING:
            return None
        done = connection.execute(
            sa.update(P).where(_ours(work, owner), P.c.done.is_(False))
            .values(done=True, lease_owner=None, lease_until=None)).rowcount
        if done != len(work.hosts):
            return None
        total = collections.Counter(json.loads(sweep.counts))
        total.update(counts)
        fault = fault or sweep.fault
        values: dict[str, object] = {
            "counts": session.to_json(total), "fault": fault, "updated_at": moment}
        left = connection.scalar(sa.select(sa.func.count()).where(
            P.c.sweep_id == work.sweep_id, P.c.done.is_(False)))
        if not left:
            values |= {"state": DONE if fault is None else FAILED, "finished_at": moment,
                       "open_key": None}
            connection.execute(sa.delete(P).where(P.c.sweep_id == work.sweep_id))
        connection.execute(sa.update(W).where(W.c.id == work.sweep_id).values(values))
        if left:
            return None
        return _message(connection.execute(sa.select(W).where(W.c.id == work.sweep_id)).one())


@session.retrying
def fail(database: session.Database, work: Work, fault: str, moment: datetime.datetime) -> None:
    """End a sweep that can't go on; what it did is kept."""
    with database.writing() as connection:
        connection.execute(
            sa.update(W).where(W.c.id == work.sweep_id, W.c.state == RUNNING)
            .values(state=FAILED, fault=fault, finished_at=moment, open_key=None,
                    updated_at=moment))
        connection.execute(sa.delete(P).where(P.c.sweep_id == work.sweep_id))


def last(database: session.Database) -> messages.Sweep:
    """The one that began last; NotFound when there was none."""
    with database.reading() as connection:
        row = connection.execute(sa.select(W).where(W.c.only_orphan.is_(None))
                                 .order_by(W.c.id.desc()).limit(1)).first()
    if row is None:
        raise errors.NotFound("No sweep was begun yet; POST /v2/orphans/sweep begins one.")
    return _message(row)


def get(database: session.Database, sweep_uuid: str) -> messages.Sweep:
    """One sweep; NotFound."""
    with database.reading() as connection:
        row = connection.execute(sa.select(W).where(W.c.uuid == sweep_uuid)).first()
    if row is None:
        raise errors.NotFound(f"Sweep {sweep_uuid} does not exist.")
    return _message(row)


def last_of_all_hosts(database: session.Database) -> datetime.datetime | None:
    """When the last sweep of every host began that was no dry run."""
    with database.reading() as connection:
        found: datetime.datetime | None = connection.scalar(
            sa.select(sa.func.max(W.c.started_at)).where(
                W.c.host.is_(None), W.c.only_orphan.is_(None), W.c.mode != DRY_RUN))
        return found


def failed_since(database: session.Database, moment: datetime.datetime) -> bool:
    """Whether a sweep failed since then."""
    with database.reading() as connection:
        return connection.scalar(
            sa.select(W.c.id).where(W.c.state == FAILED, W.c.finished_at >= moment)
            .limit(1)) is not None


def _message(row: sa.Row[tuple[object, ...]]) -> messages.Sweep:
    return messages.Sweep(
        id=row.uuid, state=row.state, dry_run=row.mode != CLEAN, host=row.host, fault=row.fault,
        started_at=session.text(row.started_at), finished_at=session.text(row.finished_at),
        counts=json.loads(row.counts))
