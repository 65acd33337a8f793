# SPDX-License-Identifier: Apache-2.0
"""How devices are split and shall be split, and who has it done. What a layout is, is not here.

What reports bring is in `partition_reports.py`.

A row outlives its device, so that a card that was away for a while keeps the wish.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cyborg_lite import codec
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import closed_devices
from cyborg_lite.db import leases
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import services
from cyborg_lite.db import session

D = models.deployables
H = models.attach_handles
N = models.hosts
P = models.device_partitions
V = models.devices

CLOSED = closed_devices.CLOSED
UNCERTAIN = closed_devices.UNCERTAIN
BUSY_STATES = states.HELD_STATES | {states.CLEANING}
"""A handle in one of these keeps its device from being split in another way."""

FAULT_LENGTH = 4000

MODEL = "model"
"""Names, beside what was reported, the model of the device; another one has no part in its wish."""

GIVEN_UP = "given_up"
"""In a stored wish, how many were wished for when the device went on with what it has. What has it
counts as none, so that who doesn't know it, a conductor of an earlier release, wishes for none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How one device is split, and what is wished for it.

    wish: what it shall have, as it was stored, without one None. given_up: what was wished for
    instead, and could not be. generation: of the wish, 0 without one. answered: the agent says
    that it is done, and a report came since. was_asked: the agent may have begun with it.
    asking: somebody asks it now. busy: handles by state, those alone that keep the device as it is.
    is_silent: the agent was to be asked, and has said nothing yet. host_state, last_seen: of the
    host. synced: Placement knows what our rows say of the host. withheld: why the device is
    reported no more, and may be split otherwise.
    model: of the device that was reported, where that was kept. is_recent: of a wish that was
    taken, whether all that was reported is from after whatever its agent may have done for it.
    """

    id: int
    device_uuid: str
    hostname: str
    address: str
    driver: str
    reported: messages.ReportedPartitioning | None = None
    reported_key: str | None = None
    wish: list[dict[str, Any]] | None = None
    given_up: list[dict[str, Any]] | None = None
    wished_key: str | None = None
    generation: int = 0
    wished_at: datetime.datetime | None = None
    was_asked: bool = False
    asking: bool = False
    is_silent: bool = False
    host_state: str = liveness.UP
    last_seen: datetime.datetime | None = None
    fault: str | None = None
    fault_generation: int = 0
    answered: bool = False
    busy: Mapping[str, int] = dataclasses.field(default_factory=dict)
    synced: bool = False
    withheld: str | None = None
    model: str | None = None
    is_recent: bool = True

    @property
    def is_as_wished(self) -> bool:
        """Whether nothing has to be done."""
        return self.wished_key is None or self.wished_key == self.reported_key

    @property
    def is_certain(self) -> bool:
        """Whether the device is as was reported: no agent began to change it and didn't say how."""
        return self.reported_key != UNCERTAIN and (self.is_as_wished or not self.was_asked)

    @property
    def reported_fault(self) -> str | None:
        """What the driver says now; of a failure that somebody has settled nothing."""
        if self.reported is None or (
                self.is_as_wished and (self.reported.fault or "")[:FAULT_LENGTH] == self.fault):
            return None
        return self.reported.fault

    @property
    def has_failed(self) -> bool:
        """Whether the wish was tried and could not be met."""
        return self.generation > 0 and self.fault_generation == self.generation


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """What a device has, as a wish for just that; reported_key: when it was looked at."""

    wish: Sequence[Mapping[str, Any]]
    key: str
    reported_key: str | None


_SPLIT = sa.select(
    P, N.c.generation.label("host_generation"), N.c.synced_generation, N.c.digest, N.c.last_seen,
    sa.select(V.c.withheld).where(V.c.uuid == P.c.device_uuid).scalar_subquery().label("withheld"),
).outerjoin_from(P, N, N.c.name == P.c.hostname)


def _split(row: sa.Row[Any], busy: Mapping[str, int]) -> Split:
    is_given_up = row.fault_generation == row.answered_generation == row.wish_generation
    reported = None if row.reported is None else json.loads(row.reported)
    return Split(
        id=row.id, device_uuid=row.device_uuid, hostname=row.hostname, address=row.address,
        driver=row.driver, reported_key=row.reported_key, wished_key=row.wished_key,
        reported=None if reported is None else _reported(reported),
        model=None if reported is None else reported.get(MODEL),
        wish=wish_of(row.wish),
        given_up=[{**one, "count": one[GIVEN_UP]} for one in json.loads(row.wish)
                  if GIVEN_UP in one] if row.wish and is_given_up else None,
        generation=row.wish_generation, wished_at=row.wished_at,
        # a wish is due when it is made; then when its agent is to be asked again, or not at all
        was_asked=row.due_at != row.wished_at, asking=row.lease_owner is not None,
        is_silent=(row.due_at is not None and row.due_at > session.now()
                   and row.lease_owner is None
                   and row.answered_generation != row.wish_generation),
        host_state=getattr(row, "host_state", liveness.UP), last_seen=row.last_seen,
        fault=row.fault, fault_generation=row.fault_generation,
        answered=row.answered_generation == row.wish_generation and row.digest is not None,
        busy=busy, synced=row.host_generation == row.synced_generation, withheld=row.withheld)


def _reported(stored: Any) -> messages.ReportedPartitioning:
    reported: messages.ReportedPartitioning = codec.decode(messages.ReportedPartitioning, stored)
    return reported


def wish_of(stored: str | None) -> list[dict[str, Any]] | None:
    return None if stored is None else [
        one for one in json.loads(stored) if GIVEN_UP not in one]


def _busy(connection: sa.Connection,
          device_uuids: Collection[str]) -> dict[str, collections.Counter[str]]:
    """Handles of these devices that keep them as they are, by state."""
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    if device_uuids:
        for device_uuid, state, number in connection.execute(
                sa.select(V.c.uuid, H.c.state, sa.func.count())
                .join_from(H, D, D.c.id == H.c.deployable_id).join(V, V.c.id == D.c.device_id)
                .where(V.c.uuid.in_(sorted(device_uuids)), H.c.state.in_(sorted(BUSY_STATES)))
                .group_by(V.c.uuid, H.c.state)):
            found[device_uuid][state] = number
    return found


# --- what the API asks ------------------------------------------------------------------------


def get(database: session.Database, device_uuid: str,
        horizon: liveness.Horizon = liveness.NOBODY_IS_DOWN) -> Split | None:
    """One device; None when its driver never said how it can be split. NotFound. Two statements."""
    state = liveness.host_state(horizon).label("host_state")
    with database.reading() as connection:
        row = connection.execute(_SPLIT.add_columns(state).where(
            P.c.device_uuid == device_uuid,
            sa.exists().where(V.c.uuid == P.c.device_uuid))).first()
        if row is None:
            _check_device(connection, device_uuid)
            return None
        return _split(row, _busy(connection, [device_uuid])[device_uuid])


def _check_device(connection: sa.Connection, device_uuid: str) -> None:
    if connection.scalar(sa.select(V.c.id).where(V.c.uuid == device_uuid)) is None:
        raise errors.NotFound(f"Device {device_uuid} does not exist.")


def set_wish(database: session.Database, split: Split, wish: Sequence[Mapping[str, Any]], key: str,
             key_now: str, user_id: str | None, *, must_be_free: bool) -> None:
    """Wish for a layout, judged for the device as `split` shows it. The host becomes dirty.

    key: of the wish; key_now: of the device as it is, to compare, or UNCERTAIN. must_be_free:
    nobody may have a handle of the device.

    ChangedMeanwhile when somebody wished since then, or the device is split in another way by
    now; InUse when a handle is. Its handles are locked, so that a bind either was before, or sees
    the wish.
    """
    moment = session.now()
    _set_wish(database, split, {
        "wish": session.to_json(list(wish)), "wished_key": key, "reported_key": key_now,
        "wish_generation": split.generation + 1, "wished_by": user_id, "wished_at": moment,
        # reports go on telling it where no agent is asked
        "fault": split.fault if key == key_now else None,
        "fault_generation": 0, "answered_generation": 0, "lease_owner": None,
        "due_at": None if key == key_now else moment, "updated_at": moment},
        must_be_free=must_be_free)


@session.retrying
def _set_wish(database: session.Database, split: Split, values: Mapping[str, Any], *,
              must_be_free: bool) -> None:
    with database.writing() as connection:
        # the same order as a report: host, handles, this row
        connection.execute(sa.select(N.c.id).where(N.c.name == split.hostname).with_for_update())
        held = connection.execute(
            sa.select(H.c.state).where(H.c.deployable_id.in_(
                sa.select(D.c.id).join_from(D, V, V.c.id == D.c.device_id)
                .where(V.c.uuid == split.device_uuid)))
            .order_by(H.c.id).with_for_update()).all()
        row = connection.execute(
            sa.select(P.c.id, P.c.wish_generation, P.c.wished_key, P.c.wished_at, P.c.reported_key)
            .where(P.c.id == split.id).with_for_update()).first()
        if row is None:
            raise errors.NotFound(f"Device {split.device_uuid} does not exist any more.")
        if all(getattr(row, name) == values[name]
               for name in ("wish_generation", "wished_key", "wished_at")):
            return  # stored by an earlier try, before the connection broke
        if must_be_free:
            check_free(split, collections.Counter(
                one.state for one in held if one.state in BUSY_STATES))
        if (row.wish_generation, row.reported_key) != (split.generation, split.reported_key):
            raise errors.ChangedMeanwhile(
                f"How device {split.device_uuid} is split, or shall be, was changed meanwhile; "
                "look at it again.")
        connection.execute(sa.update(P).where(P.c.id == row.id).values(values))
        if values["wished_key"] != values["reported_key"] or not split.is_as_wished:
            services.mark_hosts_changed(connection, {split.hostname})


def check_free(split: Split, busy: Mapping[str, int]) -> None:
    """InUse, with how many, unless every attach handle of the device is free."""
    if not busy:
        return
    held = sum(busy.get(state, 0) for state in states.HELD_STATES)
    dirty = busy.get(states.CLEANING, 0)
    parts = [*([f"{held} of its attach handles are held by an accelerator request"]
               if held else []),
             *([f"{dirty} wait to be cleaned"] if dirty else [])]
    raise errors.InUse(
        f"Device {split.device_uuid} on host {split.hostname} can't be split anew: "
        f"{' and '.join(parts)}. Disable the device and try again once its servers are gone.")


# --- what agents are asked --------------------------------------------------------------------


def wishes_of(database: session.Database, hostname: str) -> list[Split]:
    """The wishes of a host that its agent may meet: Placement offers nothing that would go."""
    with database.reading() as connection:
        rows = connection.execute(_SPLIT.where(
            P.c.hostname == hostname, P.c.wished_key.is_not(None),
            sa.or_(sa.not_(CLOSED), N.c.generation == N.c.synced_generation))
            .order_by(P.c.id)).all()
        busy = _busy(connection, {row.device_uuid for row in rows})
    return [_split(row, busy[row.device_uuid]) for row in rows]


@session.retrying
def take_due(database: session.Database, owner: leases.Owner, moment: datetime.datetime,
             at_most: int) -> list[Split]:
    """Take wishes that no conductor works on and that Placement knows of; their hosts are synced.
    """
    with database.reading() as connection:
        found = connection.execute(
            sa.select(P.c.id, P.c.wish_generation)
            .join_from(P, N, N.c.name == P.c.hostname).join(V, V.c.uuid == P.c.device_uuid)
            .where(P.c.due_at <= moment, CLOSED, N.c.generation == N.c.synced_generation)
            .order_by(P.c.due_at, P.c.id).limit(at_most)).all()
    if not found:
        return []
    with database.writing() as connection:
        due = connection.execute(
            sa.select(P.c.id, P.c.due_at, P.c.wished_at, P.c.lease_owner).where(
                P.c.due_at <= moment, CLOSED,
                sa.or_(*(sa.and_(P.c.id == row.id, P.c.wish_generation == row.wish_generation)
                         for row in found)))
            .order_by(P.c.id).with_for_update(skip_locked=database.skips_locked)).all()
        if not due:
            return []
        ids = [row.id for row in due]
        connection.execute(sa.update(P).where(P.c.id.in_(ids)).values(
            lease_owner=owner.conductor, due_at=owner.lease_until))
        rows = connection.execute(_SPLIT.where(P.c.id.in_(ids)).order_by(P.c.id)).all()
        busy = _busy(connection, {row.device_uuid for row in rows})
    first = {row.id for row in due if row.due_at == row.wished_at}
    abandoned = {row.id for row in due if row.lease_owner is not None}
    return [dataclasses.replace(
        _split(row, busy[row.device_uuid]),
        is_recent=row.id in first or (row.id not in abandoned and row.digest is not None))
        for row in rows]


@session.retrying
def finish(database: session.Database, hostname: str, faults: Mapping[int, str | None],
           lease: leases.Owner, look_at: datetime.datetime,
           stands: Mapping[int, Stand] | None = None,
           is_met: Callable[[messages.ReportedPartitioning, Sequence[Mapping[str, Any]]], bool]
           = lambda reported, wish: False) -> list[int]:
    """Write what an agent answered, by id; returns those that were still ours.

    A wish without a fault is looked at again at `look_at`; the report that confirms it comes
    before. One with a fault is left alone until somebody wishes again, or the agent starts. stands:
    of those with a fault, what the device has as ever; it goes on with that, open again. is_met:
    whether what was reported last is the wish: of a device that was uncertain that is enough.
    """
    with database.writing() as connection:
        # what it says is believed when a report confirms it
        services.ask_for_report(connection, {hostname})
        rows = connection.execute(
            sa.select(P.c.id, P.c.wish_generation, P.c.wish, P.c.wished_key, P.c.reported,
                      P.c.reported_key)
            .where(P.c.id.in_(sorted(faults)), P.c.lease_owner == lease.conductor,
                   P.c.due_at == lease.lease_until)
            .order_by(P.c.id).with_for_update()).all()
        moment = session.now()
        session.bulk_update(connection, P, "id", [
            {"id": row.id, "lease_owner": None, "updated_at": moment,
             "due_at": None if faults[row.id] else look_at,
             "answered_generation": 0 if faults[row.id] else row.wish_generation,
             "fault_generation": row.wish_generation if faults[row.id] else 0,
             "fault": (faults[row.id] or "")[:FAULT_LENGTH] or None} for row in rows])
        for row in rows:
            stand = (stands or {}).get(row.id)
            # a report since then may tell of something else
            if stand is not None and stand.reported_key == row.reported_key:
                _go_on_with(connection, hostname, row, stand)
            elif (not faults[row.id] and row.reported_key == UNCERTAIN and row.reported is not None
                    and is_met(_reported(json.loads(row.reported)), wish_of(row.wish) or ())):
                connection.execute(sa.update(P).where(P.c.id == row.id).values(
                    reported_key=row.wished_key, answered_generation=0, due_at=None))
                services.mark_hosts_changed(connection, {hostname})
    return [row.id for row in rows]


def _go_on_with(connection: sa.Connection, hostname: str, row: sa.Row[Any], stand: Stand) -> None:
    given_up = [{**one, "count": 0, GIVEN_UP: one["count"]} for one in wish_of(row.wish) or ()]
    connection.execute(sa.update(P).where(P.c.id == row.id).values(
        wish=session.to_json([*stand.wish, *given_up]), wished_key=stand.key,
        reported_key=stand.key, answered_generation=row.wish_generation))
    services.mark_hosts_changed(connection, {hostname})


@session.retrying
def postpone(database: session.Database, ids: Collection[int], lease: leases.Owner,
             until: datetime.datetime, silent: str | None = None) -> None:
    """Leave wishes until then: their agents did not answer, or have to wait.

    silent: the host of an agent that was asked: what it did is known when it reports again.
    """
    with database.writing() as connection:
        if silent is not None:
            services.ask_for_report(connection, {silent})
        connection.execute(
            sa.update(P).where(P.c.id.in_(sorted(ids)), P.c.lease_owner == lease.conductor,
                               P.c.due_at == lease.lease_until)
            .values(lease_owner=None, due_at=until))
