# SPDX-License-Identifier: Apache-2.0
"""Each way in which rows can contradict the invariants is found, on the three databases."""

from __future__ import annotations

import datetime

import pytest
import sqlalchemy as sa

from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import checks
from cyborg_lite.db import migration_sets
from cyborg_lite.db import models
from cyborg_lite.db import session
from cyborg_lite.db import sweeps
from cyborg_lite.db import uncleaned
from tests.fixtures import builders
from tests.fixtures import databases

LIMITS = checks.Limits(bind_s=240, sync_s=1200, event_s=1200)
NOBODY = "00000000-0000-0000-0000-000000000000"

A = models.arqs
H = models.attach_handles


def found(database: session.Database, later_s: float = 0) -> list[str]:
    moment = session.now() + datetime.timedelta(seconds=later_s)
    return [finding.what for finding in checks.find(database, LIMITS, moment)]


def a_bound_arq(database: session.Database, **report: bool) -> str:
    builders.store(database, builders.a_report(devices=[builders.a_device(
        "Fake0",
        deployables=[builders.a_deployable("Fake0", **report)])]))
    [arq] = builders.new_arqs(database)
    [request] = builders.bind_requests([arq])
    binds.start(database, [request], builders.an_owner(), "req-1")
    return arq.uuid


def change(database: session.Database, table: sa.Table, which: sa.ColumnElement[bool],
           **values: object) -> None:
    with database.writing() as connection:
        assert connection.execute(sa.update(table).where(which).values(values)).rowcount == 1


def test_a_bound_arq_and_free_handles_are_in_order(database: session.Database) -> None:
    arq = a_bound_arq(database)

    assert arqs.get(database, arq, None).state == "Bound"
    assert found(database) == []


@pytest.mark.parametrize(("values", "expected"), [
    ({"arq_uuid": None}, ["is in_use and belongs to no ARQ", "is Bound and holds no handle"]),
    ({"arq_uuid": NOBODY}, [f"belongs to ARQ {NOBODY}, which does not exist",
                            "is Bound and holds no handle"]),
    ({"state": "free"}, ["is free and yet belongs to ARQ", "but its handle"]),
    ({"state": "reserved"}, ["but its handle"]),
    ({"state": "lost"}, ["a state that does not exist: lost", "is lost and yet belongs",
                         "but its handle"]),
])
def test_a_handle_that_does_not_fit_its_arq_is_named(
        database: session.Database, values: dict[str, object], expected: list[str]) -> None:
    arq = a_bound_arq(database)

    change(database, H, H.c.arq_uuid == arq, **values)

    findings = found(database)
    assert len(findings) == len(expected)
    assert all(any(part in finding for finding in findings) for part in expected)


@pytest.mark.parametrize(("values", "expected"), [
    ({"state": "Initial"}, ["is Initial and yet holds handle"]),
    ({"state": "BindStarted"}, ["is BindStarted, but its handle"]),
    ({"state": "Sleeping"}, ["a state that does not exist: Sleeping", "and yet holds handle"]),
    ({"device_rp_uuid": NOBODY}, [f"was bound to provider {NOBODY}"]),
    ({"hostname": "elsewhere"}, ["was bound to host elsewhere"]),
    ({"instance_uuid": None}, ["without instance, host or provider"]),
])
def test_an_arq_that_does_not_fit_its_handle_is_named(
        database: session.Database, values: dict[str, object], expected: list[str]) -> None:
    arq = a_bound_arq(database)

    change(database, A, A.c.uuid == arq, **values)

    findings = found(database)
    assert len(findings) == len(expected)
    assert all(arq in finding for finding in findings)
    assert all(any(part in finding for finding in findings) for part in expected)


def test_a_bind_that_nobody_finishes_is_stuck_after_its_limit(database: session.Database) -> None:
    arq = a_bound_arq(database, prepares=True)

    assert arqs.get(database, arq, None).state == "BindStarted"
    assert found(database, LIMITS.bind_s - 30) == []
    assert any(f"ARQ {arq} is in BindStarted since" in what
               for what in found(database, LIMITS.bind_s + 30))


def test_an_event_and_a_host_that_nobody_cares_for_are_stuck(database: session.Database) -> None:
    arq = a_bound_arq(database)

    findings = found(database, LIMITS.sync_s + 300)

    assert any(f"the event of ARQ {arq}" in what for what in findings)
    assert any(f"host {builders.HOST} was not compared" in what for what in findings)


def test_one_function_with_two_handles_is_named(database: session.Database) -> None:
    builders.store(database, builders.a_report(2, handles=1))
    found_before = found(database)
    with database.writing() as connection:
        connection.execute(sa.update(H).values(type="PCI"))

    assert found_before == []
    [finding] = found(database)
    assert finding.startswith(f"2 handles of host {builders.HOST} are the same PCI")


def test_a_forgotten_handle_that_is_there_uncleaned_is_named(database: session.Database) -> None:
    builders.store(database, builders.a_report(handles=1))
    [handle] = databases.all_rows(database, H)
    with database.writing() as connection:
        uncleaned.note(connection, builders.HOST, {str(handle["uuid"]), NOBODY})

    assert found(database) == [
        f"handle {handle['uuid']} is free, and noted as one that went before it was cleaned"]


def test_a_resumption_that_is_over_and_noted_is_named(database: session.Database) -> None:
    arq = a_bound_arq(database)

    change(database, A, A.c.uuid == arq, resumes=True)

    assert found(database) == [f"ARQ {arq} is Bound, and noted as one that is being resumed"]


@pytest.mark.parametrize(("values", "expected"), [
    ({}, []), ({"active_side": "middle"}, ["its middle is active"]),
    ({"type": "lukewarm"}, ["is lukewarm"])])
def test_a_migration_of_no_kind_is_named(
        database: session.Database, values: dict[str, str], expected: list[str]) -> None:
    arq = a_bound_arq(database)
    instance = arqs.get(database, arq, None).instance_uuid
    assert instance is not None
    migration_sets.begin(database, instance, NOBODY, "cold")
    if values:
        change(database, models.migrations, models.migrations.c.instance_uuid == instance,
               **values)

    findings = found(database)

    assert len(findings) == len(expected)
    assert all(part in finding for part, finding in zip(expected, findings, strict=True))


@pytest.mark.parametrize(("change_it", "stuck"), [
    ({}, True), ({"reported_key": "wished"}, False), ({"due_at": None}, False),
    ({"device_uuid": NOBODY}, False)])
def test_a_device_that_nobody_splits_is_stuck(
        database: session.Database, change_it: dict[str, object], stuck: bool) -> None:
    builders.store(database, builders.a_report())
    [device] = databases.all_rows(database, models.devices)
    long_ago = session.now() - datetime.timedelta(seconds=LIMITS.sync_s + 60)
    with database.writing() as connection:
        connection.execute(sa.update(models.hosts).values(
            synced_generation=models.hosts.c.generation))
        connection.execute(sa.insert(models.device_partitions).values({
            "device_uuid": device["uuid"], "hostname": builders.HOST, "address": "Fake0",
            "driver": "fake_driver", "reported_key": "reported", "wished_key": "wished",
            "wish_generation": 1, "answered_generation": 0, "fault_generation": 0,
            "due_at": long_ago, "created_at": long_ago} | change_it))

    findings = found(database)

    assert [f"device {device['uuid']} of host {builders.HOST} waits since" in finding
            for finding in findings] == [True] * stuck


@pytest.mark.parametrize(("lease_s", "stuck"), [(-3600, True), (60, False)])
def test_a_sweep_on_which_nobody_works_is_stuck(
        database: session.Database, lease_s: float, stuck: bool) -> None:
    now = session.now()
    long_ago = now - datetime.timedelta(seconds=LIMITS.sync_s + 60)
    for mode in (sweeps.CLEAN, sweeps.DRY_RUN):
        sweeps.start(database, mode=mode, asked_by="somebody", moment=long_ago,
                     owner=builders.an_owner(lease_s=lease_s))
    # the second waits for the first
    first, _ = databases.all_rows(database, models.sweeps)

    findings = found(database)

    assert [f"sweep {first['uuid']} is worked on by nobody" in finding
            for finding in findings] == [True] * stuck
