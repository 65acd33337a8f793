# SPDX-License-Identifier: Apache-2.0
"""Binds on the three databases. What Nova hears of it is tested in flows/."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import datetime

import pytest
import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import devices
from cyborg_lite.db import leases
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases


def handle_states(database: session.Database) -> collections.Counter[str]:
    return collections.Counter(
        str(row["state"]) for row in databases.all_rows(database, models.attach_handles))


def start(database: session.Database, requests: list[messages.BindRequest]) -> binds.Outcome:
    return binds.start(database, requests, builders.an_owner(), "req-1")


def test_a_bind_without_host_work_is_bound_with_a_handle_and_an_event(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [arq] = builders.new_arqs(database)
    [request] = builders.bind_requests([arq])

    start(database, [request])

    found = arqs.get(database, arq.uuid, None)
    assert found.state == states.BOUND
    assert found.instance_uuid == request.instance_uuid
    assert found.attach_handle_type == "TEST_PCI"
    assert found.attach_handle_info["bus"] == "0c"
    [event] = databases.all_rows(database, models.events)
    assert (event["arq_uuid"], event["status"]) == (arq.uuid, "completed")
    assert handle_states(database) == {"in_use": 1, "free": 15}


@pytest.mark.parametrize("others", [0, 200])
@pytest.mark.parametrize("number", [1, 8])
def test_statements_of_a_servers_life_do_not_grow(
        database: session.Database, number: int, others: int) -> None:
    builders.store(database, builders.a_report())
    for _ in range(others // 20):
        builders.new_arqs(database, 20)
    builders.new_arqs(database, number)
    instance = builders.new_uuid()

    with databases.counted(database) as creating:
        found = builders.arqs.create(database, f"fpga{number}", "project1")
    with databases.counted(database) as binding:
        start(database, builders.bind_requests(found, instance))
    with databases.counted(database) as reading:
        arqs.list_arqs(database, messages.ArqQuery(instance_uuid=instance))
    with databases.counted(database) as deleting:
        arqs.delete_of_instance(database, instance)

    assert len(creating) <= 4
    assert len(binding) <= 7  # and one more to forget the event once Nova has it
    assert len(reading) <= 2
    assert len(deleting) <= 8


def test_repeating_the_same_bind_changes_nothing(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    requests = builders.bind_requests(builders.new_arqs(database, 2))
    start(database, requests)
    before = databases.all_rows(database, models.arqs)

    outcome = start(database, requests)

    assert outcome == binds.Outcome()
    assert databases.all_rows(database, models.arqs) == before
    assert handle_states(database)["in_use"] == 2


def test_a_different_bind_of_a_bound_arq_is_refused(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    found = builders.new_arqs(database)
    start(database, builders.bind_requests(found))

    with pytest.raises(errors.StateConflict, match="is Bound"):
        start(database, builders.bind_requests(found))


def test_a_bound_arq_is_not_given_to_another_project_by_repeating_its_bind(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    instance = builders.new_uuid()
    (bound,) = builders.bound_arqs(database, 1, instance)
    (again,) = builders.bind_requests([bound], instance)

    start(database, [dataclasses.replace(again, project_id=bound.project_id)])
    with pytest.raises(errors.StateConflict, match=f"project {bound.project_id}"):
        start(database, [dataclasses.replace(again, project_id="other")])

    assert arqs.get(database, bound.uuid, None).project_id == bound.project_id


def test_an_instance_that_has_arqs_gets_no_more(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    instance = builders.new_uuid()
    builders.bound_arqs(database, 1, instance)
    more = builders.new_arqs(database)

    with pytest.raises(errors.AlreadyHasArqs, match=instance):
        start(database, builders.bind_requests(more, instance))

    assert arqs.get(database, more[0].uuid, None).state == states.INITIAL


def test_nothing_joins_the_arqs_of_an_instance_beside_a_repeated_bind(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    instance = builders.new_uuid()
    bound = builders.bound_arqs(database, 1, instance)
    more = builders.new_arqs(database)

    with pytest.raises(errors.AlreadyHasArqs, match=instance):
        start(database, builders.bind_requests([*bound, *more], instance))

    assert arqs.get(database, more[0].uuid, None).state == states.INITIAL


@pytest.mark.parametrize(("change", "reason"), [
    ({"device_rp_uuid": builders.new_uuid()}, "not a deployable"),
    ({"hostname": "node2"}, "not on host node2"),
])
def test_a_bind_to_what_is_not_there_fails_with_the_reason(
        database: session.Database, change: dict[str, str], reason: str) -> None:
    builders.store(database, builders.a_report())
    [arq] = builders.new_arqs(database)
    wrong = messages.BindRequest(**{
        "arq_uuid": arq.uuid, "hostname": builders.HOST, "device_rp_uuid": builders.rp_uuid(),
        "instance_uuid": builders.new_uuid()} | change)

    outcome = start(database, [wrong])

    assert reason in outcome.failed[arq.uuid]
    found = arqs.get(database, arq.uuid, None)
    assert (found.state, found.attach_handle_uuid) == (states.BIND_FAILED, None)
    assert reason in str(found.state_reason)
    assert [row["status"] for row in databases.all_rows(database, models.events)] == ["failed"]
    assert handle_states(database) == {"free": 16}


def test_a_disabled_device_refuses_new_binds_and_keeps_running_ones(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [running] = builders.bound_arqs(database)
    [device] = devices.list_devices(database, messages.DeviceQuery())
    devices.set_status(database, device.uuid, "maintaining")
    [arq] = builders.new_arqs(database)

    outcome = start(database, builders.bind_requests([arq]))

    assert "disabled" in outcome.failed[arq.uuid]
    assert arqs.get(database, running.uuid, None).state == states.BOUND


def test_one_missing_handle_fails_the_whole_instance_and_reserves_nothing(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(handles=3))
    found = builders.new_arqs(database, 4)

    outcome = start(database, builders.bind_requests(found))

    assert set(outcome.failed) == {arq.uuid for arq in found}
    assert handle_states(database) == {"free": 3}


def test_a_failed_bind_may_be_tried_again_elsewhere(database: session.Database) -> None:
    builders.store(database, builders.a_report(2, handles=1))
    found = builders.new_arqs(database, 2)
    instance = builders.new_uuid()
    start(database, builders.bind_requests(found, instance))

    start(database, [
        messages.BindRequest(arq_uuid=arq.uuid, hostname=builders.HOST, instance_uuid=instance,
                             device_rp_uuid=builders.rp_uuid(f"Fake{number}"))
        for number, arq in enumerate(found)])

    assert {arq.state for arq in arqs.list_arqs(
        database, messages.ArqQuery(instance_uuid=instance))} == {states.BOUND}
    assert handle_states(database) == {"in_use": 2}


@pytest.mark.parametrize(("elsewhere", "heard"), [(False, ["completed"]),
                                                  (True, ["failed", "completed"])])
def test_nova_hears_nothing_of_a_failed_bind_once_the_server_tries_again(
        database: session.Database, elsewhere: bool, heard: list[str]) -> None:
    builders.store(database, builders.a_report())
    found = builders.new_arqs(database, 2)
    [first, *_] = failing = builders.bind_requests(found, provider=builders.new_uuid())
    start(database, failing)

    start(database, builders.bind_requests(
        found, builders.new_uuid() if elsewhere else first.instance_uuid))

    events = databases.all_rows(database, models.events)
    assert [row["status"] for row in events if row["arq_uuid"] == found[0].uuid] == heard
    assert [row["status"] for row in events if row["arq_uuid"] == found[1].uuid] == heard


def test_a_hundred_binds_at_once_share_sixteen_handles(
        server_database: session.Database) -> None:
    builders.store(server_database, builders.a_report())
    found = [builders.new_arqs(server_database)[0] for _ in range(100)]

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        outcomes = list(pool.map(
            lambda arq: start(server_database, builders.bind_requests([arq])), found))

    assert sum(len(outcome.bound) for outcome in outcomes) == 16
    assert sum(len(outcome.failed) for outcome in outcomes) == 84
    assert handle_states(server_database) == {"in_use": 16}
    held = [row["arq_uuid"] for row in databases.all_rows(
        server_database, models.attach_handles)]
    assert len(set(held)) == 16


def test_of_two_binds_of_one_instance_at_once_one_wins(
        server_database: session.Database) -> None:
    builders.store(server_database, builders.a_report(handles=64))

    def bind(pair: tuple[messages.Arq, str]) -> bool:
        try:
            start(server_database, builders.bind_requests([pair[0]], pair[1]))
        except errors.AlreadyHasArqs:
            return False
        return True

    instances = [builders.new_uuid() for _ in range(10)]
    pairs = [(builders.new_arqs(server_database)[0], instance)
             for instance in instances for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        won = list(pool.map(bind, pairs))

    assert sum(won) == len(instances)
    for instance in instances:
        assert len(arqs.list_arqs(
            server_database, messages.ArqQuery(instance_uuid=instance))) == 1


@pytest.mark.parametrize(("times", "wins"), [(3, True), (100, False)])
def test_a_bind_beside_others_that_come_and_go_is_never_an_internal_error(
        postgresql: session.Database, times: int, wins: bool) -> None:
    """Each time that it looks the instance has nothing, and when it writes a rival was faster."""
    for host in (builders.HOST, "node2"):
        builders.store(postgresql, builders.a_report(host=host))
    [arq], [rival] = builders.new_arqs(postgresql), builders.new_arqs(postgresql)
    instance = builders.new_uuid()
    rivals = builders.bind_requests(
        [rival], instance, host="node2", provider=builders.rp_uuid(host="node2"))
    left, busy = times, False

    @sa.event.listens_for(postgresql.engine, "before_cursor_execute")
    def be_faster(connection: object, cursor: object, statement: str, *rest: object) -> None:
        nonlocal left, busy
        if busy or not statement.startswith(("SELECT arqs", "UPDATE arqs")):
            return
        busy = True
        if statement.startswith("SELECT"):
            arqs.unbind(postgresql, [rival.uuid])
        elif left:
            left -= 1
            start(postgresql, rivals)
        busy = False

    try:
        if wins:
            assert start(postgresql, builders.bind_requests([arq], instance)).bound == [arq.uuid]
        else:
            with pytest.raises(errors.StateConflict, match=instance):
                start(postgresql, builders.bind_requests([arq], instance))
    finally:
        sa.event.remove(postgresql.engine, "before_cursor_execute", be_faster)


# --- host work --------------------------------------------------------------------------------


def started_with_host_work(database: session.Database, number: int = 1
                           ) -> tuple[list[messages.Arq], list[messages.HandleTask]]:
    builders.store(database, builders.a_report(prepares=True, cleans=True))
    found = builders.new_arqs(database, number)
    outcome = start(database, builders.bind_requests(found))
    return found, outcome.tasks[builders.HOST]


def held_by(database: session.Database, arq: messages.Arq) -> leases.Owner:
    """The lease that an ARQ's bind has now."""
    [row] = [row for row in databases.all_rows(database, models.arqs) if row["uuid"] == arq.uuid]
    return leases.Owner(row["lease_owner"], row["lease_until"])  # type: ignore[arg-type]


def finish(database: session.Database, done: list[messages.HandleResult],
           lease: leases.Owner) -> binds.Outcome:
    return binds.finish(database, done, lease, builders.an_owner(), None)


def results(tasks: list[messages.HandleTask], **wrong: str) -> list[messages.HandleResult]:
    return [messages.HandleResult(handle_uuid=task.handle_uuid,
                                  error=wrong.get(f"number{number}"))
            for number, task in enumerate(tasks)]


def test_host_work_comes_between_reserved_and_in_use(database: session.Database) -> None:
    [arq], tasks = started_with_host_work(database)
    assert arqs.get(database, arq.uuid, None).state == states.BIND_STARTED
    assert handle_states(database)["reserved"] == 1
    assert databases.all_rows(database, models.events) == []

    finish(database, results(tasks), held_by(database, arq))

    assert arqs.get(database, arq.uuid, None).state == states.BOUND
    assert handle_states(database)["in_use"] == 1
    assert [row["status"] for row in databases.all_rows(database, models.events)] == ["completed"]


def test_host_work_that_fails_for_one_handle_fails_the_instance_and_cleans_all(
        database: session.Database) -> None:
    found, tasks = started_with_host_work(database, 2)

    finish(database, results(tasks, number1="no such type"), held_by(database, found[0]))

    assert {arqs.get(database, arq.uuid, None).state for arq in found} == {states.BIND_FAILED}
    assert handle_states(database) == {"cleaning": 2, "free": 14}
    assert {row["status"] for row in databases.all_rows(database, models.events)} == {"failed"}


def test_an_arq_deleted_during_its_host_work_gets_no_event_and_its_handle_is_cleaned(
        database: session.Database) -> None:
    [arq], tasks = started_with_host_work(database)
    lease = held_by(database, arq)
    arqs.delete(database, [arq.uuid], None, bound_too=True)

    outcome = finish(database, results(tasks), lease)

    assert outcome == binds.Outcome()
    assert handle_states(database) == {"cleaning": 1, "free": 15}


def test_an_unfinished_bind_is_taken_over_when_its_lease_ends_and_by_one_conductor(
        database: session.Database) -> None:
    _, tasks = started_with_host_work(database, 2)
    now = session.now()
    later = now + datetime.timedelta(seconds=61)
    second = builders.an_owner("22222222-2222-2222-2222-222222222222", lease_s=200)

    before = binds.take_unfinished(database, second, now, 120, 100)
    taken = binds.take_unfinished(database, second, later, 120, 100)
    again = binds.take_unfinished(database, second, later, 120, 100)

    assert before == ({}, [])
    assert {task.handle_uuid for task in taken[0][builders.HOST]} == {
        task.handle_uuid for task in tasks}
    assert again == ({}, [])


def test_a_bind_older_than_the_timeout_is_named_as_too_old(database: session.Database) -> None:
    _, tasks = started_with_host_work(database)
    later = session.now() + datetime.timedelta(seconds=130)

    todo, too_old = binds.take_unfinished(
        database, builders.an_owner(lease_s=300), later, 120, 100)

    assert (todo, too_old) == ({}, [tasks[0].handle_uuid])


def test_a_bind_older_than_the_timeout_is_taken_from_who_still_works_on_it(
        database: session.Database) -> None:
    _, tasks = started_with_host_work(database)
    now = session.now()
    binds.take_unfinished(database, builders.an_owner(lease_s=140),
                          now + datetime.timedelta(seconds=70), 120, 100)

    _, too_old = binds.take_unfinished(database, builders.an_owner(lease_s=300),
                                       now + datetime.timedelta(seconds=121), 120, 100)

    assert too_old == [tasks[0].handle_uuid]


@pytest.mark.parametrize("wrong", [{}, {"number0": "no such type"}])
def test_host_work_for_an_arq_that_went_says_nothing_of_the_next_one_with_that_handle(
        database: session.Database, wrong: dict[str, str]) -> None:
    builders.store(database, builders.a_report(handles=1, prepares=True))
    [first] = builders.new_arqs(database)
    tasks = start(database, builders.bind_requests([first])).tasks[builders.HOST]
    lease = held_by(database, first)
    arqs.delete(database, [first.uuid], None, bound_too=True)
    [second] = builders.new_arqs(database)
    start(database, builders.bind_requests([second]))

    outcome = finish(database, results(tasks, **wrong), lease)

    assert outcome == binds.Outcome()
    assert arqs.get(database, second.uuid, None).state == states.BIND_STARTED
