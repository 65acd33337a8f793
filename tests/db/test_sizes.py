# SPDX-License-Identifier: Apache-2.0
"""What each use case costs beside 100 and beside 10 000 ARQs and devices: the same.

Statements are counted; on PostgreSQL the plans are looked at too, so that no question of the API
reads a whole table to find its rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from cyborg_lite import messages
from cyborg_lite.conductor import inventory as conductor_inventory
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import device_profiles
from cyborg_lite.db import devices
from cyborg_lite.db import models
from cyborg_lite.db import services
from cyborg_lite.db import session
from cyborg_lite.db import usage
from tests.fixtures import builders
from tests.fixtures import databases

SMALL, LARGE = 100, 10_000
PREPARING = "node2"
"""A host whose handles need work before they are used."""


def fill(database: session.Database, number: int) -> None:
    """Other people's ARQs, bound and unbound, and other hosts' devices with their handles."""
    profile = builders.a_profile(database, "others")
    times = {"created_at": session.now(), "updated_at": session.now()}
    with database.writing() as connection:
        profile_id = connection.scalar(sa.select(models.device_profiles.c.id).where(
            models.device_profiles.c.uuid == profile.uuid))
        connection.execute(sa.insert(models.devices), [
            {"uuid": builders.new_uuid(), "hostname": f"other{index // 8}",
             "address": f"card{index}", "type": "GPU", "vendor": "10de", "model": "x",
             "driver": "fake_driver", "status": "enabled", **times} for index in range(number)])
        ids = connection.scalars(sa.select(models.devices.c.id)).all()
        connection.execute(sa.insert(models.deployables), [
            {"uuid": (uuid := builders.new_uuid()), "device_id": device_id,
             "name": f"other_{uuid}", "rp_uuid": uuid, "num_accelerators": 1, "prepares": False,
             "cleans": False, **times} for device_id in ids])
        deployable_ids = connection.scalars(sa.select(models.deployables.c.id)).all()
        arq_uuids = [builders.new_uuid() for _ in range(number)]
        connection.execute(sa.insert(models.arqs), [
            {"uuid": uuid, "project_id": f"project{index % 50}", "state": "Bound",
             "device_profile_id": profile_id, "device_profile_name": "others",
             "device_profile_group_id": 0, "device_profile_group": "{}", "migration_uuid": "",
             "instance_uuid": builders.new_uuid(), "set_position": 0,
             "hostname": f"other{index // 8}", "device_rp_uuid": builders.new_uuid(), **times}
            for index, uuid in enumerate(arq_uuids)])
        connection.execute(sa.insert(models.attach_handles), [
            {"uuid": builders.new_uuid(), "deployable_id": deployable_id, "type": "PCI",
             "info": "{}", "state": "in_use", "arq_uuid": arq_uuid, **times}
            for deployable_id, arq_uuid in zip(deployable_ids, arq_uuids, strict=True)])
        connection.execute(sa.insert(models.attributes), [
            {"uuid": builders.new_uuid(), "deployable_id": deployable_id, "key": "rc",
             "value": "PGPU", "origin": "agent", **times} for deployable_id in deployable_ids])


def life(database: session.Database) -> dict[str, databases.Statements]:
    """A server's life and an agent's beats; returns the statements of each step."""
    seen = {}
    builders.store(database, builders.a_report(host=PREPARING, prepares=True))
    for number in (1, 8):
        builders.new_arqs(database, number)
        instance = builders.new_uuid()
        with databases.counted(database) as seen[f"create {number}"]:
            found = arqs.create(database, f"fpga{number}", "project1")
        with databases.counted(database) as seen[f"bind {number}"]:
            binds.start(database, builders.bind_requests(found, instance), builders.an_owner(),
                        None)
        with databases.counted(database) as seen[f"by instance {number}"]:
            arqs.list_arqs(database, messages.ArqQuery(instance_uuid=instance))
        with databases.counted(database) as seen[f"show {number}"]:
            arqs.get(database, found[0].uuid, None)
        with databases.counted(database) as seen[f"delete by instance {number}"]:
            arqs.delete_of_instance(database, instance)
        found = arqs.create(database, f"fpga{number}", "project1")
        with databases.counted(database) as seen[f"bind {number} with host work"]:
            bind_with_host_work(database, found, instance)
        arqs.delete_of_instance(database, instance)
    beat = messages.Heartbeat(host=builders.HOST, resource_provider_name=builders.HOST,
                              digest="same")
    with databases.counted(database) as seen["unchanged report"]:
        conductor_inventory.heartbeat(database, beat, write_every_s=15)
    with databases.counted(database) as seen["changed report of 64"]:
        builders.store(database, builders.a_report(64, handles=2))
    with databases.counted(database) as seen["profiles by name"]:
        device_profiles.list_profiles(database, ["others"])
    with databases.counted(database) as seen["devices of a host"]:
        devices.list_devices(database, messages.DeviceQuery(hostname=builders.HOST))
    return seen


def bind_with_host_work(database: session.Database, found: list[messages.Arq],
                        instance: str) -> None:
    """From the request until Nova has been told: what a conductor asks of the database."""
    lease = builders.an_owner()
    started = binds.start(database, builders.bind_requests(
        found, instance, host=PREPARING, provider=builders.rp_uuid(host=PREPARING)), lease, None)
    finished = binds.finish(database, [
        messages.HandleResult(handle_uuid=task.handle_uuid) for task in started.tasks[PREPARING]],
        lease, builders.an_owner(), None)
    services.delete_events(database, services.events_just_stored(finished.events))
    assert len(finished.bound) == len(found)


LIMITS = {"create 1": 4, "create 8": 4, "bind 1": 7, "bind 8": 7,
          "bind 1 with host work": 10, "bind 8 with host work": 10,
          "by instance 1": 2, "by instance 8": 2, "show 1": 1, "show 8": 1,
          "delete by instance 1": 8, "delete by instance 8": 8,
          "unchanged report": 2, "changed report of 64": 16, "profiles by name": 3,
          "devices of a host": 3}
"""A bind has one more: forgetting the event that Nova took. With host work it is counted: 5 to
reserve the handles, 4 to write what the host made of them, and that one."""


def test_no_count_grows_with_what_else_is_stored(database: session.Database) -> None:
    counts = {}
    for number in (SMALL, LARGE):
        databases.empty(database)
        fill(database, number)
        builders.store(database, builders.a_report(digest="same"))
        counts[number] = {step: len(seen) for step, seen in life(database).items()}

    assert counts[SMALL] == counts[LARGE]
    assert {step: count for step, count in counts[LARGE].items() if count > LIMITS[step]} == {}


def test_an_unchanged_report_writes_nothing(database: session.Database) -> None:
    builders.store(database, builders.a_report(64, digest="same"))

    assert life(database)["unchanged report"].writes == []


@pytest.fixture
def large_postgresql(postgresql: session.Database) -> session.Database:
    fill(postgresql, LARGE)
    builders.store(postgresql, builders.a_report(digest="same"))
    with postgresql.engine.connect().execution_options(
            isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
    return postgresql


def test_no_question_reads_a_whole_table(large_postgresql: session.Database) -> None:
    """Postgres itself counts rows that sequential scans of the large tables returned."""
    def scanned() -> dict[str, int]:
        with large_postgresql.engine.connect().execution_options(
                isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
            return {name: rows for name, rows in connection.execute(sa.text(
                "SELECT relname, seq_tup_read FROM pg_stat_user_tables "
                "WHERE relname IN ('arqs', 'attach_handles', 'deployables', 'devices')"))}

    life(large_postgresql)
    large_postgresql.dispose()  # a connection hands in its counts when it ends
    before = scanned()
    life(large_postgresql)
    large_postgresql.dispose()

    assert {name: rows - before[name] for name, rows in scanned().items()
            if rows - before[name] >= LARGE} == {}


# --- pages ------------------------------------------------------------------------------------

PAGE = 100
PAGED: dict[str, Callable[[session.Database, messages.Page], list[Any]]] = {
    "arqs": lambda database, page: arqs.list_arqs(database, messages.ArqQuery(page=page)),
    "devices": lambda database, page: devices.list_devices(
        database, messages.DeviceQuery(page=page)),
    "deployables": lambda database, page: devices.list_deployables(
        database, messages.DeployableQuery(page=page)),
    "attributes": lambda database, page: devices.list_attributes(database, None, None, page),
}


def rows_read(database: session.Database, ask: Callable[[], object]) -> int:
    """How many rows MariaDB looked at: a cost without a clock."""
    counts: list[int] = []

    def count(dbapi_connection: Any, *_: object) -> None:
        cursor = dbapi_connection.cursor()
        cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
        counts.append(sum(int(value) for _, value in cursor.fetchall()))
        cursor.close()

    for event in ("checkout", "checkin"):
        sa.event.listen(database.engine, event, count)
    try:
        ask()
    finally:
        for event in ("checkout", "checkin"):
            sa.event.remove(database.engine, event, count)
    return counts[-1] - counts[0]


@pytest.mark.parametrize(("name", "key", "direction"), [
    ("arqs", "created_at", "asc"), ("arqs", "device_profile_name", "asc"), ("arqs", "uuid", "desc"),
    ("devices", "hostname", "asc"), ("devices", "vendor", "desc"),
    ("deployables", "name", "asc"), ("attributes", "key", "asc")])
def test_a_page_costs_the_same_at_the_start_in_the_middle_and_at_the_end(
        large_mariadb: session.Database, name: str, key: str, direction: str) -> None:
    list_page = PAGED[name]
    order = [[key, direction]]
    everything = [entry.uuid for entry in list_page(large_mariadb, messages.Page(sort=order))]

    def ask(index: int) -> None:
        found = list_page(large_mariadb, messages.Page(
            limit=PAGE, marker=everything[index - 1], sort=order))
        assert [entry.uuid for entry in found] == everything[index:index + PAGE]

    costs = [rows_read(large_mariadb, lambda index=index: ask(index))
             for index in (1, LARGE // 2, LARGE - PAGE)]

    assert max(costs) <= 10 * PAGE, costs


def test_the_usage_of_a_profile_beside_500_others_is_four_statements(
        large_mariadb: session.Database) -> None:
    profile = device_profiles.get(large_mariadb, None, "others")

    with databases.counted(large_mariadb) as seen:
        [group] = usage.of_profile(large_mariadb, dataclasses.replace(
            profile, groups=[{"resources:PGPU": "1"}]), None)

    assert len(seen) <= 4
    assert (group.total, group.used, group.providers, group.arqs) == (
        LARGE, LARGE, LARGE, {"Bound": LARGE})


@pytest.fixture(scope="module")
def large_mariadb(mariadb_tables: session.Database) -> session.Database:
    databases.empty(mariadb_tables)
    fill(mariadb_tables, LARGE)
    for number in range(500):
        builders.a_profile(mariadb_tables, f"profile{number}")
    return mariadb_tables
