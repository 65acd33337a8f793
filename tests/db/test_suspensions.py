# SPDX-License-Identifier: Apache-2.0
"""Suspend and resume, on the three databases. What hosts do is tested in flows/."""

from __future__ import annotations

import datetime

import pytest

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import checks
from cyborg_lite.db import handles
from cyborg_lite.db import migration_sets
from cyborg_lite.db import models
from cyborg_lite.db import session
from cyborg_lite.db import suspensions
from tests.fixtures import builders
from tests.fixtures import databases

LIMITS = checks.Limits(bind_s=1e6, sync_s=1e6, event_s=1e6)


def bound_with_host_work(database: session.Database, number: int = 1) -> str:
    builders.store(database, builders.a_report(prepares=True, cleans=True))
    instance, owner = builders.new_uuid(), builders.an_owner()
    outcome = binds.start(database, builders.bind_requests(
        builders.new_arqs(database, number), instance), owner, None)
    binds.finish(database, results(outcome.tasks), owner, owner, None)
    return instance


def results(tasks: dict[str, list[messages.HandleTask]],
            error: str | None = None) -> list[messages.HandleResult]:
    return [messages.HandleResult(handle_uuid=task.handle_uuid, error=error)
            for task in tasks[builders.HOST]]


def states_of(database: session.Database, instance: str) -> set[str]:
    return {arq.state for arq in
            arqs.list_arqs(database, messages.ArqQuery(instance_uuid=instance))}


def taken_down(database: session.Database, instance: str) -> set[str]:
    """Suspend, and let the host have done its part; returns the handles."""
    owner = builders.an_owner()
    outcome = suspensions.suspend(database, instance, owner)
    uuids = {task.handle_uuid for task in outcome.tasks[builders.HOST]}
    assert suspensions.taken_down(database, sorted(uuids), owner, owner) == {}
    return uuids


def test_a_suspended_instance_keeps_its_handle(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    instance = builders.new_uuid()
    [before] = builders.bound_arqs(database, 1, instance)

    for _ in range(2):
        outcome = suspensions.suspend(database, instance, builders.an_owner())

    assert outcome.tasks == {}
    assert [arq.state for arq in outcome.arqs] == [states.SUSPENDED]
    assert outcome.arqs[0].attach_handle_uuid == before.attach_handle_uuid
    assert checks.find(database, LIMITS) == []


def test_resuming_without_host_work_is_bound_at_once_with_an_event(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    instance = builders.new_uuid()
    builders.bound_arqs(database, 1, instance)
    suspensions.suspend(database, instance, builders.an_owner())
    databases_events = len(databases.all_rows(database, models.events))

    first = suspensions.resume(database, instance, builders.an_owner(), "req-2")
    second = suspensions.resume(database, instance, builders.an_owner(), "req-2")

    assert [arq.state for arq in first.arqs] == [states.BOUND]
    assert [event["status"] for event in first.events] == ["completed"]
    assert second.events == []
    assert len(databases.all_rows(database, models.events)) == databases_events + 1


def test_host_work_takes_down_and_makes_again_the_same_handle(
        database: session.Database) -> None:
    instance = bound_with_host_work(database, 2)
    down = taken_down(database, instance)
    owner = builders.an_owner()

    up = suspensions.resume(database, instance, owner, None)

    assert {task.handle_uuid for task in up.tasks[builders.HOST]} == down
    assert states_of(database, instance) == {states.BIND_STARTED}
    assert checks.find(database, LIMITS) == []
    outcome = binds.finish(database, results(up.tasks), owner, owner, None)
    assert [event["status"] for event in outcome.events] == ["completed"] * 2
    assert states_of(database, instance) == {states.BOUND}


def test_a_resumption_that_fails_is_suspended_again_and_keeps_its_handle(
        database: session.Database) -> None:
    instance = bound_with_host_work(database, 2)
    down = taken_down(database, instance)
    owner = builders.an_owner()
    up = suspensions.resume(database, instance, owner, None)
    first, second = results(up.tasks)

    outcome = binds.finish(database, [first, messages.HandleResult(
        handle_uuid=second.handle_uuid, error="no room")], owner, owner, None)

    assert [event["status"] for event in outcome.events] == ["failed"] * 2
    found = arqs.list_arqs(database, messages.ArqQuery(instance_uuid=instance))
    assert {(arq.state, arq.state_reason) for arq in found} == {(states.SUSPENDED, "no room")}
    assert {arq.attach_handle_uuid for arq in found} == down
    assert checks.find(database, LIMITS) == []


def test_what_is_being_taken_down_is_made_again_only_after_that(
        database: session.Database) -> None:
    instance = bound_with_host_work(database)
    going = builders.an_owner(lease_s=30)
    down = suspensions.suspend(database, instance, going)

    up = suspensions.resume(database, instance, builders.an_owner("2" * 36), None)

    assert up.tasks == {}
    assert states_of(database, instance) == {states.BIND_STARTED}
    later = going.lease_until + datetime.timedelta(seconds=1)
    tasks, too_old = binds.take_unfinished(database, builders.an_owner(), later, 1e6, 10)
    assert (tasks, too_old) == (down.tasks, [])


def test_what_was_resumed_while_it_was_taken_down_is_made_again_at_once_then(
        database: session.Database) -> None:
    instance = bound_with_host_work(database, 2)
    going, again = builders.an_owner(lease_s=30), builders.an_owner()
    down = suspensions.suspend(database, instance, going)
    suspensions.resume(database, instance, builders.an_owner("2" * 36), None)

    tasks = suspensions.taken_down(
        database, [task.handle_uuid for task in down.tasks[builders.HOST]], going, again)

    assert tasks == down.tasks
    binds.finish(database, results(tasks), again, again, None)
    assert states_of(database, instance) == {states.BOUND}


def test_the_host_makes_nothing_for_a_suspended_instance_when_its_agent_starts(
        database: session.Database) -> None:
    instance = bound_with_host_work(database)

    before = handles.intent_of(database, builders.HOST)
    suspensions.suspend(database, instance, builders.an_owner())

    assert len(before.prepare) == 1
    assert handles.intent_of(database, builders.HOST) == messages.HostIntent()


@pytest.mark.parametrize("act", ["suspend", "resume"])
def test_an_instance_whose_bind_failed_can_be_neither(
        database: session.Database, act: str) -> None:
    builders.store(database, builders.a_report(handles=1))
    instance = builders.new_uuid()
    binds.start(database, builders.bind_requests(builders.new_arqs(database, 2), instance),
                builders.an_owner(), None)

    acts = {"suspend": lambda: suspensions.suspend(database, instance, builders.an_owner()),
            "resume": lambda: suspensions.resume(database, instance, builders.an_owner(), None)}

    with pytest.raises(errors.StateConflict, match="BindFailed"):
        acts[act]()


def test_an_instance_without_accelerators_is_suspended_and_resumed_with_nothing_done(
        database: session.Database) -> None:
    instance = builders.new_uuid()

    assert suspensions.suspend(database, instance, builders.an_owner()).arqs == []
    assert suspensions.resume(database, instance, builders.an_owner(), None).arqs == []


def test_the_arqs_of_a_suspended_instance_can_be_deleted(database: session.Database) -> None:
    instance = bound_with_host_work(database)
    taken_down(database, instance)

    arqs.delete_of_instance(database, instance)

    assert [row["state"] for row in databases.all_rows(database, models.attach_handles)
            if row["state"] != states.FREE] == [states.CLEANING]


def test_a_handle_that_the_host_lost_while_resuming_comes_back_as_the_instances_own(
        database: session.Database) -> None:
    instance = bound_with_host_work(database)
    taken_down(database, instance)
    owner = builders.an_owner()
    up = suspensions.resume(database, instance, owner, None)
    builders.store(database, builders.a_report(0))
    builders.store(database, builders.a_report(prepares=True, cleans=True))

    binds.finish(database, results(up.tasks), owner, owner, None)

    assert states_of(database, instance) == {states.BOUND}
    assert checks.find(database, LIMITS) == []


def test_a_set_that_was_switched_away_from_while_suspended_can_be_resumed_and_switched_back_to(
        database: session.Database) -> None:
    instance, migration = bound_with_host_work(database), builders.new_uuid()
    taken_down(database, instance)
    migration_sets.begin(database, instance, migration, None)
    migration_sets.switch(database, instance, migration, "destination")
    with pytest.raises(errors.StateConflict, match="Suspended"):
        migration_sets.switch(database, instance, migration, "source")
    owner = builders.an_owner()

    up = suspensions.resume(database, instance, owner, None)
    binds.finish(database, results(up.tasks), owner, owner, None)
    migration_sets.switch(database, instance, migration, "source")

    assert states_of(database, instance) == {states.BOUND}
    assert checks.find(database, LIMITS) == []


def test_a_failed_inactive_set_keeps_no_instance_from_being_suspended_and_resumed(
        database: session.Database) -> None:
    instance = bound_with_host_work(database)
    binds.start(database, builders.bind_requests(
        builders.new_arqs(database), instance, provider=builders.new_uuid(),
        migration=builders.new_uuid()), builders.an_owner(), None)
    taken_down(database, instance)
    owner = builders.an_owner()

    up = suspensions.resume(database, instance, owner, None)
    binds.finish(database, results(up.tasks), owner, owner, None)

    assert states_of(database, instance) == {states.BOUND}


def test_the_cost_does_not_grow_with_the_number_of_arqs(database: session.Database) -> None:
    counts = []
    for number in (1, 8):
        databases.empty(database)
        instance = bound_with_host_work(database, number)
        owner = builders.an_owner()
        with databases.counted(database) as statements:
            down = suspensions.suspend(database, instance, owner)
            suspensions.taken_down(
                database, [task.handle_uuid for task in down.tasks[builders.HOST]], owner, owner)
            suspensions.resume(database, instance, owner, None)
        counts.append(len(statements))

    assert counts[0] == counts[1] <= 10
