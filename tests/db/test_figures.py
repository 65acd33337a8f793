# SPDX-License-Identifier: Apache-2.0
"""The counts that are shown to those who watch: what they say, and what they cost."""

from __future__ import annotations

import datetime
import time

import sqlalchemy as sa

from cyborg_lite import states
from cyborg_lite.db import binds
from cyborg_lite.db import figures
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import services
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases

MINUTE = datetime.timedelta(seconds=60)
MANY = 10_000
AT_MOST_S = 5
"""Far above what it takes, far below what rows that are read one by one would."""


def read(database: session.Database, later: datetime.timedelta = datetime.timedelta(),
         ) -> figures.Figures:
    moment = session.now() + later
    return figures.read(database, moment, liveness.Horizon(
        down_before=moment - MINUTE, gone_before=moment - 60 * MINUTE))


def update(database: session.Database, table: sa.Table, **values: object) -> None:
    with database.writing() as connection:
        connection.execute(sa.update(table).values(**values))


def test_an_empty_database_has_zeros(database: session.Database) -> None:
    found = read(database)

    assert found.devices == {}
    assert set(found.handles) == set(states.HANDLE_STATES)
    assert set(found.arqs) == set(states.ARQ_STATES)
    assert {*found.handles.values(), *found.arqs.values(), found.events_waiting,
            found.oldest_bind_s, found.sync_lag_s, found.oldest_event_s, found.migrations,
            *found.hosts.values(), *found.conductors.values()} == {0}
    assert found.orphans == {}
    assert found.sweep_age_s is None


def test_devices_handles_and_arqs_are_counted(database: session.Database) -> None:
    builders.store(database, builders.a_report(
        2, withheld={"0000:41:00.0": "a mount"}, withheld_type="SSD"))
    builders.new_arqs(database, 2)
    builders.bound_arqs(database, 3)

    found = read(database)

    assert found.devices == {("FPGA", "enabled"): 2, ("SSD", "enabled"): 1}
    assert found.devices_withheld == 1
    assert (found.handles["free"], found.handles["in_use"]) == (29, 3)
    assert (found.arqs["Initial"], found.arqs["Bound"]) == (2, 3)


def test_hosts_are_up_down_gone_disabled_dirty_and_failing(database: session.Database) -> None:
    for host in ("node1", "node2", "node3", "node4"):
        builders.store(database, builders.a_report(1, host=host))
    update(database, models.hosts, synced_generation=models.hosts.c.generation)
    silent = session.now() - 2 * MINUTE
    with database.writing() as connection:
        services.mark_hosts_changed(connection, ["node2"])
        for name, values in (("node2", {"status": "disabled"}),
                             ("node3", {"sync_attempts": 2, "last_seen": silent}),
                             ("node4", {"last_seen": silent, "gone_at": silent})):
            connection.execute(sa.update(models.hosts).where(models.hosts.c.name == name)
                               .values(values))

    found = read(database)

    assert found.hosts == {"up": 2, "down": 1, "gone": 1}
    assert (found.hosts_disabled, found.hosts_unsynced, found.hosts_sync_failing) == (1, 1, 1)


def test_conductors_count_until_they_stop_as_told(database: session.Database) -> None:
    now = session.now()
    with database.writing() as connection:
        for seen, stopped in ((now, None), (now - 2 * MINUTE, None), (now, now)):
            connection.execute(sa.insert(models.conductors).values(
                uuid=builders.new_uuid(), host="node1", last_seen=seen, stopped_at=stopped,
                created_at=now))

    assert read(database).conductors == {"up": 1, "down": 1}


def test_orphans_are_counted_by_kind_and_state_and_a_sweep_has_an_age(
        database: session.Database) -> None:
    now = session.now()
    with database.writing() as connection:
        for number, state in enumerate(("confirmed", "confirmed", "cleaned")):
            connection.execute(sa.insert(models.orphans).values(
                uuid=builders.new_uuid(), kind="arq_instance_gone", object=f"object{number}",
                mark="", reason="", evidence="{}", action="", state=state, first_seen=now,
                last_seen=now, created_at=now))
        for values in ({"finished_at": now - 2 * MINUTE}, {"state": "failed"}, {"host": "node1"},
                       {"mode": "dry_run"}, {"mode": "clean", "only_orphan": builders.new_uuid()}):
            connection.execute(sa.insert(models.sweeps).values(**{
                "uuid": builders.new_uuid(), "state": "done", "mode": "record",
                "asked_by": "timer", "started_at": now - 3 * MINUTE, "finished_at": now,
                "counts": "{}", "created_at": now, **values}))

    found = read(database)

    assert found.orphans == {("arq_instance_gone", "confirmed"): 2,
                             ("arq_instance_gone", "cleaned"): 1}
    assert found.sweep_age_s is not None
    assert 120 <= found.sweep_age_s < 150


def test_a_layout_that_is_wished_and_not_there_is_open_or_failed(
        database: session.Database) -> None:
    now = session.now()
    with database.writing() as connection:
        for number, (reported, wished, fault, given_up) in enumerate((
                ("a", "a", None, 0), ("a", "b", None, 0), ("a", "b", "busy", 0),
                (None, "b", None, 0), ("a", None, None, 0), ("a", "a", "busy", 1))):
            connection.execute(sa.insert(models.device_partitions).values(
                device_uuid=builders.new_uuid(), hostname="node1", address=str(number),
                driver="nvidia_mig_driver", reported_key=reported, wished_key=wished, fault=fault,
                wish_generation=1, answered_generation=given_up, fault_generation=1 if fault else 0,
                created_at=now))

    assert read(database).layout_wishes == {"open": 2, "failed": 2}


def test_the_lag_is_that_of_the_host_that_waits_longest(database: session.Database) -> None:
    builders.store(database, builders.a_report(1, host="node1"))
    builders.store(database, builders.a_report(1, host="node2"))
    update(database, models.hosts, sync_due_at=session.now() + MINUTE)
    with database.writing() as connection:
        services.mark_hosts_changed(connection, ["node2"])

    assert 50 < read(database, 0.9 * MINUTE).sync_lag_s < 60
    update(database, models.hosts, sync_due_at=session.now() + MINUTE)
    assert read(database).sync_lag_s == 0


def test_binds_under_way_and_events_that_wait_have_an_age(database: session.Database) -> None:
    builders.store(database, builders.a_report(1, prepares=True))
    binds.start(database, builders.bind_requests(builders.new_arqs(database, 1)),
                builders.an_owner(), None)
    with database.writing() as connection:
        services.insert_events(connection, [{
            "instance_uuid": builders.new_uuid(), "arq_uuid": builders.new_uuid(),
            "status": "completed", "request_id": None, "lease_owner": None,
            "due_at": session.now()}])

    found = read(database, MINUTE)

    assert found.arqs["BindStarted"] == 1
    assert found.events_waiting == 1
    assert 60 <= found.oldest_bind_s < 90
    assert 60 <= found.oldest_event_s < 90


def test_the_statements_are_as_many_whatever_there_is(database: session.Database) -> None:
    with databases.counted(database) as empty:
        read(database)
    builders.store(database, builders.a_report(4))
    builders.bound_arqs(database, 5)
    builders.store(database, builders.a_report(3, host="node2"))

    with databases.counted(database) as filled:
        read(database)

    assert len(filled) == len(empty)
    assert filled.writes == []
    assert len(filled) == 7


def test_ten_thousand_rows_of_each_are_counted_quickly(database: session.Database) -> None:
    builders.store(database, builders.a_report(1))
    builders.new_arqs(database, 1)
    now = session.now()
    with database.writing() as connection:
        services.insert_events(connection, [{
            "instance_uuid": builders.new_uuid(), "arq_uuid": builders.new_uuid(),
            "status": "completed", "request_id": None, "lease_owner": None, "due_at": now}])
        connection.execute(sa.insert(models.orphans).values(
            uuid=builders.new_uuid(), kind="arq_never_bound", object="", mark="", reason="",
            evidence="{}" * 500, action="", state="cleaned", first_seen=now, last_seen=now,
            created_at=now))
    for table in (models.devices, models.attach_handles, models.arqs, models.events,
                  models.orphans):
        multiply(database, table)

    began = time.perf_counter()
    found = read(database)
    took_s = time.perf_counter() - began

    assert found.arqs["Initial"] == found.handles["free"] - 15 == MANY + 1
    assert found.events_waiting == found.devices["FPGA", "enabled"] == MANY + 1
    assert found.orphans == {("arq_never_bound", "cleaned"): MANY + 1}
    assert took_s < AT_MOST_S


def multiply(database: session.Database, table: sa.Table) -> None:
    """Store the first row many times more, each with a uuid of its own."""
    row = dict(databases.all_rows(database, table)[0])
    del row["id"]
    fresh = {"uuid"} & row.keys()
    with database.writing() as connection:
        connection.execute(sa.insert(table), [
            {**row, **dict.fromkeys(fresh, f"{number:08d}-0000-4000-8000-000000000000")}
            for number in range(MANY)])
