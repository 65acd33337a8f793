# SPDX-License-Identifier: Apache-2.0
"""What a host reported, as rows: what is known, and storing the difference.

A fixed number of statements, however many devices. What to change is decided elsewhere
(`conductor/inventory_diff.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import heartbeats
from cyborg_lite.db import models
from cyborg_lite.db import partition_reports
from cyborg_lite.db import session
from cyborg_lite.db import uncleaned

N = models.hosts
V = models.devices
D = models.deployables
H = models.attach_handles
A = models.attributes
T = models.arqs

ENABLED = "enabled"
OPERATOR = "operator"
AGENT = "agent"

canonical = session.to_json


@dataclasses.dataclass(frozen=True, slots=True)
class KnownHost:
    """The rows of a host: devices and deployables by uuid, handles and attributes in a list.

    partitions: by the uuid of their device, which may be away.
    """

    devices: dict[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    deployables: dict[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    handles: Sequence[Mapping[str, Any]] = ()
    attributes: Sequence[Mapping[str, Any]] = ()
    partitions: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class TableChanges:
    """New rows with a uuid, changed values with an id, ids of rows that go."""

    new: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    changed: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    gone: list[int] = dataclasses.field(default_factory=list)

    def put(self, known: Mapping[str, Any] | None, uuid: str, values: dict[str, Any],
            **only_new: Any) -> None:
        """Note a row that shall have these values; `only_new` are those that never change."""
        if known is None:
            self.new.append({"uuid": uuid, **values, **only_new})
        elif any(known[name] != value for name, value in values.items()):
            self.changed.append({"id": known["id"], **values})


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """What a report changes. `parent` in a new row is the uuid of the row that it belongs to.

    as_wished: uuids of devices that are split now as was wished for. replaced: of those that are
    of another model than the one that a layout was wished for.
    """

    devices: TableChanges = dataclasses.field(default_factory=TableChanges)
    deployables: TableChanges = dataclasses.field(default_factory=TableChanges)
    new_handles: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    changed_handles: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    found_handles: list[int] = dataclasses.field(default_factory=list)
    lost_handles: list[int] = dataclasses.field(default_factory=list)
    gone_handles: list[int] = dataclasses.field(default_factory=list)
    new_attributes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    changed_attributes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    gone_attributes: list[int] = dataclasses.field(default_factory=list)
    new_partitions: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    changed_partitions: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    split_anew: list[str] = dataclasses.field(default_factory=list)
    as_wished: list[str] = dataclasses.field(default_factory=list)
    replaced: list[str] = dataclasses.field(default_factory=list)

    def __bool__(self) -> bool:
        return self.is_for_placement or bool(self.changed_partitions)

    @property
    def is_for_placement(self) -> bool:
        """Whether providers may differ now; what is merely said of partitions makes none differ."""
        return any(
            (part.new or part.changed or part.gone) if isinstance(part, TableChanges) else part
            for part in (getattr(self, field.name) for field in dataclasses.fields(self)
                         if field.name != "changed_partitions"))


class HandleTaken(Exception):
    """A handle went to an ARQ, or came from one, between look and write: look again."""


@session.retrying
def store(database: session.Database, report: messages.HostReport,
          diff: Callable[[KnownHost, messages.HostReport], Changes],
          hearing: heartbeats.Hearing | None = None) -> Changes:
    """Compare a report with the rows and write the difference, in one transaction. HostTaken."""
    hearing = hearing or heartbeats.Hearing()
    for _ in range(20):
        try:
            with database.writing() as connection:
                host_id = _locked_host(connection, report, hearing)
                changes = diff(_known(connection, report.host), report)
                _apply(connection, report.host, changes)
                _settle_host(connection, host_id, report, hearing,
                             changed=changes.is_for_placement)
                return changes
        except HandleTaken:
            continue
    raise AssertionError("handles of one host were taken between every two looks")


def _locked_host(connection: sa.Connection, report: messages.HostReport,
                 hearing: heartbeats.Hearing) -> int | None:
    row = connection.execute(sa.select(*heartbeats.HEARD).where(N.c.name == report.host)
                             .with_for_update()).first()
    if row is None:
        return None
    heartbeats.refuse_another(row, report.host, report.agent_id, hearing)
    return int(row.id)


def _known(connection: sa.Connection, host: str) -> KnownHost:
    devices = connection.execute(
        sa.select(V).where(V.c.hostname == host)).mappings().all()
    partitions = partition_reports.known(connection, host)
    if not devices:
        return KnownHost(partitions=partitions)
    deployables = connection.execute(
        sa.select(D).join(V, V.c.id == D.c.device_id)
        .where(V.c.hostname == host)).mappings().all()
    handles, attributes = (
        [dict(row) for row in connection.execute(
            sa.select(table).join(D, D.c.id == table.c.deployable_id)
            .join(V, V.c.id == D.c.device_id).where(V.c.hostname == host)).mappings()]
        for table in (H, A))
    return KnownHost({row["uuid"]: dict(row) for row in devices},
                     {row["uuid"]: dict(row) for row in deployables}, handles, attributes,
                     partitions)


def _apply(connection: sa.Connection, host: str, changes: Changes) -> None:
    _remove(connection, changes)
    moment = session.now()
    times = {"created_at": moment, "updated_at": None}
    if changes.devices.new:
        connection.execute(sa.insert(V), [
            {**row, **times, "hostname": host, "status": ENABLED} for row in changes.devices.new])
    _change(connection, V, changes.devices.changed)
    if changes.deployables.new:
        device_ids = _ids(connection, V, changes.deployables.new)
        connection.execute(sa.insert(D), [
            {**_without_parent(row), **times, "device_id": device_ids[row["parent"]]}
            for row in changes.deployables.new])
    _change(connection, D, changes.deployables.changed)
    _change(connection, H, changes.changed_handles)
    _set_state(connection, changes.lost_handles, "lose", states.handle_move("lose").target)
    # a missing handle's ARQ does not move on while it has the handle
    _set_state(connection, changes.found_handles, "find", sa.case(
        (H.c.arq_uuid.in_(sa.select(T.c.uuid).where(T.c.uuid == H.c.arq_uuid,
                                                    T.c.state == states.BIND_STARTED,
                                                    ~T.c.resumes)),
         states.handle_move("find_reserved").target), else_=states.handle_move("find").target))
    new_parts = [*changes.new_handles, *changes.new_attributes]
    ids = _ids(connection, D, new_parts) if new_parts else {}
    dirty = uncleaned.take(connection, host, {row["uuid"] for row in changes.new_handles}
                           ) if changes.new_handles else set()
    new_handles = [{**row, "state": states.CLEANING} if row["uuid"] in dirty else row
                   for row in changes.new_handles]
    for table, rows, constant in ((H, new_handles, {}),
                                  (A, changes.new_attributes, {"origin": AGENT})):
        if rows:
            connection.execute(sa.insert(table), [
                {**_without_parent(row), **times, **constant, "deployable_id": ids[row["parent"]]}
                for row in rows])
    _change(connection, A, changes.changed_attributes)
    partition_reports.forget_wishes(connection, changes.replaced)
    partition_reports.store_reported(connection, host, changes.new_partitions,
                                     changes.changed_partitions)


def _remove(connection: sa.Connection, changes: Changes) -> None:
    if changes.gone_handles:
        removed = connection.execute(sa.delete(H).where(
            H.c.id.in_(changes.gone_handles), H.c.state == states.FREE))
        if removed.rowcount != len(changes.gone_handles):
            raise HandleTaken
    for table, ids in ((A, changes.gone_attributes), (D, changes.deployables.gone),
                       (V, changes.devices.gone)):
        if ids:
            connection.execute(sa.delete(table).where(table.c.id.in_(ids)))


def _change(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    moment = session.now()
    session.bulk_update(connection, table, "id", [{**row, "updated_at": moment} for row in rows])


def _set_state(connection: sa.Connection, ids: list[int], event: str,
               target: str | sa.ColumnElement[str]) -> None:
    move = states.handle_move(event)
    if ids:
        moved = connection.execute(
            sa.update(H).where(H.c.id.in_(ids), H.c.state.in_(move.sources))
            .values(state=target, updated_at=session.now()))
        if moved.rowcount != len(ids):
            raise HandleTaken


def _ids(connection: sa.Connection, table: sa.Table,
         children: list[dict[str, Any]]) -> dict[str, int]:
    uuids = {row["parent"] for row in children}
    return {row.uuid: row.id for row in connection.execute(
        sa.select(table.c.uuid, table.c.id).where(table.c.uuid.in_(uuids)))}


def _without_parent(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "parent"}


def _settle_host(connection: sa.Connection, host_id: int | None, report: messages.HostReport,
                 hearing: heartbeats.Hearing, *, changed: bool) -> None:
    moment = session.now()
    values = {
        **heartbeats.signs_of_life(report.host, report.agent_id, hearing), "digest": report.digest,
        "resource_provider_name": report.resource_provider_name,
        "agent_version": report.version, "drivers": session.to_json(report.drivers)}
    if host_id is None:
        connection.execute(sa.insert(N).values(
            name=report.host, created_at=moment, generation=1, synced_generation=0,
            sync_attempts=0, sync_due_at=moment, **values))
        return
    if changed:
        values |= {"generation": N.c.generation + 1, "sync_due_at": moment, "sync_attempts": 0}
    connection.execute(sa.update(N).where(N.c.id == host_id).values(**values))
