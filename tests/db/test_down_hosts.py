# SPDX-License-Identifier: Apache-2.0
"""What a host that is down or disabled still does, and what not: binds, deletes, cleaning."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest
import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import handles
from cyborg_lite.db import heartbeats
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import service_list
from cyborg_lite.db import services
from cyborg_lite.db import session
from cyborg_lite.db import usage
from tests.fixtures import builders
from tests.fixtures import databases

AGENT = heartbeats.service_uuid(builders.HOST)
AT_MOST_S = 5
"""What it costs is counted in statements; this sees only one that reads row by row."""


def silent_for(database: session.Database, seconds: float, host: str = builders.HOST) -> None:
    with database.writing() as connection:
        connection.execute(sa.update(models.hosts).where(models.hosts.c.name == host).values(
            last_seen=session.now() - datetime.timedelta(seconds=seconds)))


def horizon() -> liveness.Horizon:
    return liveness.Horizon(
        down_before=session.now() - datetime.timedelta(seconds=60),
        gone_before=session.now() - datetime.timedelta(seconds=3600))


def bind(database: session.Database, **more: Any) -> binds.Outcome:
    return binds.start(database, builders.bind_requests(builders.new_arqs(database), **more),
                       builders.an_owner(), None, horizon())


def reason_of(outcome: binds.Outcome) -> str:
    [reason] = outcome.failed.values()
    return reason


# --- binds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "expected"), [(61, "down"), (3601, "gone")])
def test_a_bind_to_a_host_that_is_down_fails_at_once_with_that_reason(
        database: session.Database, seconds: int, expected: str) -> None:
    builders.store(database, builders.a_report(prepares=True))
    silent_for(database, seconds)

    outcome = bind(database)

    assert f"Host node1 is {expected}: its agent was last heard of at 20" in reason_of(outcome)
    assert outcome.tasks == {}
    [event] = outcome.events
    assert event["status"] == "failed"
    assert {row["state"] for row in databases.all_rows(
        database, models.attach_handles)} == {states.FREE}


def test_a_bind_to_an_agent_that_is_disabled_fails_and_what_runs_there_stays(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [running] = builders.bound_arqs(database)
    service_list.set_status(database, AGENT, "disabled", "moves to another rack", horizon())

    outcome = bind(database)

    assert reason_of(outcome) == ("The agent of host node1 is disabled (moves to another rack); "
                                  "enable it or choose another host.")
    assert arqs.get(database, running.uuid, None).state == states.BOUND
    service_list.set_status(database, AGENT, "enabled", None, horizon())
    assert len(bind(database).bound) == 1


def test_whether_the_host_lives_costs_a_bind_no_statement(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    found = builders.new_arqs(database)
    with databases.counted(database) as seen:
        binds.start(database, builders.bind_requests(found), builders.an_owner(), None, horizon())

    assert len(seen) <= 7  # tests/db/test_sizes.py


def test_one_host_that_is_down_fails_the_whole_instance(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    builders.store(database, builders.a_report(host="node2"))
    silent_for(database, 61, "node2")
    found = builders.new_arqs(database, 2)
    instance = builders.new_uuid()

    outcome = binds.start(database, [
        *builders.bind_requests(found[:1], instance),
        *builders.bind_requests(found[1:], instance, host="node2",
                                provider=builders.rp_uuid(host="node2"))],
        builders.an_owner(), None, horizon())

    assert set(outcome.failed) == {arq.uuid for arq in found}


# --- an agent that is disabled ----------------------------------------------------------------


def test_disabling_an_agent_has_its_capacity_reserved_and_enabling_undoes_it(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(handles=4))
    profile = builders.a_profile(database)

    def look() -> tuple[str, int, object]:
        [offer] = services.list_offers(database, builders.HOST)
        [group] = usage.of_profile(database, profile, None)
        [host] = databases.all_rows(database, models.hosts)
        return offer.agent_status, group.free, host["generation"]

    before = look()
    _, changed = service_list.set_status(database, AGENT, "disabled", None, horizon())
    disabled = look()
    _, again = service_list.set_status(database, AGENT, "disabled", "why", horizon())
    after_again = look()
    service_list.set_status(database, AGENT, "enabled", None, horizon())

    assert (before, disabled, after_again, look()) == (
        ("enabled", 4, 1), ("disabled", 0, 2), ("disabled", 0, 2), ("enabled", 4, 3))
    assert (changed, again) == (True, False)


def test_what_an_operator_said_outlives_reports_and_silence(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    service_list.set_status(database, AGENT, "disabled", "broken", horizon())

    silent_for(database, 3601)
    builders.store(database, builders.a_report())

    [found] = service_list.list_services(database, messages.ServiceQuery(), horizon())
    assert (found.id, found.state, found.status, found.disabled_reason) == (
        AGENT, "up", "disabled", "broken")


@pytest.mark.parametrize(("uuid", "error"), [
    ("11111111-1111-1111-1111-111111111111", errors.StateConflict),
    ("22222222-2222-2222-2222-222222222222", errors.NotFound)])
def test_what_is_no_agent_cannot_be_disabled(
        database: session.Database, uuid: str, error: type[errors.Error]) -> None:
    moment = session.now()
    heartbeats.conductor_lives(
        database, messages.Service(
            id="11111111-1111-1111-1111-111111111111", binary=heartbeats.CONDUCTOR,
            host="controller", state="up", status="enabled"),
        moment, deaf_before=moment, horizon=horizon())

    with pytest.raises(error):
        service_list.set_status(database, uuid, "disabled", None, horizon())


# --- the list ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", [[], [["host", "desc"]], [["state", "asc"], ["host", "asc"]],
                                  [["binary", "desc"], ["id", "asc"]], [["status", "desc"]]])
def test_pages_of_services_are_the_list_in_parts(
        database: session.Database, sort: list[list[str]]) -> None:
    for number in range(5):
        builders.store(database, builders.a_report(host=f"node{number}"))
    silent_for(database, 61, "node1")
    silent_for(database, 3601, "node3")
    service_list.set_status(database, heartbeats.service_uuid("node2"), "disabled", None, horizon())
    for number in range(3):
        moment = session.now()
        heartbeats.conductor_lives(database, messages.Service(
            id=builders.new_uuid(), binary=heartbeats.CONDUCTOR, host=f"node{number}",
            state="up", status="enabled"), moment,
            deaf_before=moment - datetime.timedelta(seconds=20), horizon=horizon())

    def ask(**page: Any) -> list[str]:
        return [found.id for found in service_list.list_services(
            database, messages.ServiceQuery(page=messages.Page(sort=sort, **page)), horizon())]

    everything = ask()
    pages: list[str] = []
    while page := ask(limit=3, marker=pages[-1] if pages else None):
        pages += page

    assert len(set(everything)) == 8
    assert pages == everything


# --- deletes and cleaning ---------------------------------------------------------------------


def many_in_cleaning(database: session.Database, number: int, host: str) -> None:
    """A host that died with so many handles given back and not cleaned yet."""
    builders.store(database, builders.a_report(
        [builders.a_device("Fake0", deployables=[builders.a_deployable(
            "Fake0", handles=number, cleans=True)])], host=host))
    with database.writing() as connection:
        connection.execute(sa.update(models.attach_handles)
                           .where(models.attach_handles.c.state == states.FREE)
                           .values(state=states.CLEANING))


def test_deletes_of_a_dead_host_cost_the_same_however_many_handles_wait(
        database: session.Database) -> None:
    costs = {}
    for waiting in (10, 1000):
        databases.empty(database)
        many_in_cleaning(database, waiting, "dead")
        builders.store(database, builders.a_report(
            2, host="dead", handles=waiting, cleans=True))
        instance = builders.new_uuid()
        binds.start(database, builders.bind_requests(
            builders.new_arqs(database), instance, host="dead",
            provider=builders.rp_uuid("Fake1", host="dead")), builders.an_owner(), None)
        assert len(arqs.list_arqs(database, messages.ArqQuery(instance_uuid=instance))) == 1
        silent_for(database, 61, "dead")

        began = time.monotonic()
        with databases.counted(database) as seen:
            arqs.delete_of_instance(database, instance)
        assert time.monotonic() - began < AT_MOST_S

        costs[waiting] = len(seen)
        assert arqs.list_arqs(database, messages.ArqQuery(instance_uuid=instance)) == []
    assert costs[10] == costs[1000]


def test_handles_of_a_dead_host_wait_and_keep_nobody_elses_from_being_cleaned(
        database: session.Database) -> None:
    many_in_cleaning(database, 150, "dead")
    many_in_cleaning(database, 1, "alive")
    silent_for(database, 61, "dead")

    def take(conductor: str) -> dict[str, int]:
        taken = handles.take_to_clean(
            database, builders.an_owner(conductor), session.now(), 100, horizon())
        return {host: len(tasks) for host, tasks in taken.items()}

    assert take("c1") == {"alive": 1}
    silent_for(database, 0, "dead")
    assert take("c2") == {"dead": 100}
