# SPDX-License-Identifier: Apache-2.0
"""What a conductor or an agent leaves undone, another conductor finishes; time is the test's.

The same with real processes and SIGKILL is in `test_processes.py`.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import time
from collections.abc import Callable
from typing import Any

import pytest

from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite import states
from cyborg_lite.conductor import arqs as conductor_arqs
from cyborg_lite.conductor import instance_operations
from cyborg_lite.conductor import takeover
from cyborg_lite.db import arqs
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases

LEASE_S = 70
BIND_TIMEOUT_S = 120


class Now(concurrent.futures.Executor):
    """Runs what is submitted at once, in the caller's thread."""

    def submit(self, function: Any, /, *args: Any, **named: Any) -> Any:
        function(*args, **named)


class Never(concurrent.futures.Executor):
    """Forgets what is submitted, as a process does that dies now."""

    def submit(self, function: Any, /, *args: Any, **named: Any) -> Any: ...


class Later(concurrent.futures.Executor):
    """Keeps what is submitted, as a busy pool does, until the test lets it go on."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, function: Any, /, *args: Any, **named: Any) -> Any:
        self.waiting.append(lambda: function(*args, **named))

    def run(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


class OldHost:
    """An agent of 1.1: does host work at once, fails it, or is silent. made: for which handles."""

    def __init__(self) -> None:
        self.error: str | None = None
        self.done: list[tuple[str, str]] = []
        self.made: set[str] = set()

    def _results(self, what: str, tasks: list[messages.HandleTask]
                 ) -> list[messages.HandleResult]:
        self.done += [(what, task.handle_uuid) for task in tasks]
        handles = {task.handle_uuid for task in tasks}
        self.made = self.made | handles if what == "prepare" else self.made - handles
        return [messages.HandleResult(handle_uuid=task.handle_uuid, error=self.error)
                for task in tasks]

    @buses.exposed
    def prepare(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        return self._results("prepare", tasks)

    @buses.exposed
    def clean(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        return self._results("clean", tasks)


class Host(OldHost):
    """An agent of today."""

    @buses.exposed
    def take_down(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        return self._results("take_down", tasks)


class RecordingBus(buses.LocalBus):
    """Notes until when the last call may be begun."""

    deadline = 0.0

    def call(self, topic: str, server: str | None, method: str, context: dict[str, Any],
             arguments: dict[str, Any], timeout_s: float) -> Any:
        self.deadline = context["deadline"]
        return super().call(topic, server, method, context, arguments, timeout_s)


class World:
    """A host with handles that need host work, and conductors on one database."""

    def __init__(self, database: session.Database) -> None:
        self.database = database
        self.passed_s = 0.0
        self.bus = RecordingBus()
        self.host: OldHost = Host()
        self.stop_host: Callable[[], None] = self.start_host()
        self.told: list[tuple[str, str]] = []
        builders.store(database, builders.a_report(prepares=True, cleans=True))

    def start_host(self) -> Callable[[], None]:
        return self.bus.serve(rpc.AGENT_TOPIC, builders.HOST, self.host)

    def clock(self) -> datetime.datetime:
        return session.now() + datetime.timedelta(seconds=self.passed_s)

    def conductor(self, pool: concurrent.futures.Executor | None = None,
                  cleaning_pool: concurrent.futures.Executor | None = None,
                  ) -> conductor_arqs.Binder:
        return conductor_arqs.Binder(
            database=self.database, agents=rpc.AgentClient(self.bus, 5), pool=pool or Now(),
            cleaning_pool=cleaning_pool or Now(),
            deliver=self.deliver, wake_cleaning=lambda: None, wake_sync=lambda: None,
            conductor_id=builders.new_uuid(), lease_s=LEASE_S, clock=self.clock)

    def deliver(self, events: list[dict[str, Any]]) -> None:
        self.told += [(event["arq_uuid"], event["status"]) for event in events]

    def bind(self, conductor: conductor_arqs.Binder, number: int = 1) -> list[messages.Arq]:
        found = builders.new_arqs(self.database, number)
        conductor_arqs.bind(conductor, builders.bind_requests(found))
        return found

    def bind_one(self, conductor: conductor_arqs.Binder) -> messages.Arq:
        """Bind an instance of its own; returns the ARQ as it is then."""
        return arqs.get(self.database, self.bind(conductor)[0].uuid, None)

    def state_of(self, arq: messages.Arq) -> str:
        return arqs.get(self.database, arq.uuid, None).state

    def handle_states(self) -> set[str]:
        return {str(row["state"]) for row in databases.all_rows(
            self.database, models.attach_handles)}


@pytest.fixture
def world(database: session.Database) -> World:
    return World(database)


def test_host_work_and_the_event_follow_the_bind(world: World) -> None:
    [arq] = world.bind(world.conductor())

    assert world.state_of(arq) == states.BOUND
    assert world.told == [(arq.uuid, "completed")]


def test_a_bind_of_a_dead_conductor_is_finished_once_its_lease_is_over(world: World) -> None:
    [arq] = world.bind(world.conductor(Never()))
    second = world.conductor()

    early = takeover.finish_binds(second, BIND_TIMEOUT_S)
    world.passed_s = LEASE_S + 1
    late = takeover.finish_binds(second, BIND_TIMEOUT_S)

    assert (early, late) == (0, 1)
    assert world.state_of(arq) == states.BOUND
    assert world.told == [(arq.uuid, "completed")]


def test_a_silent_agent_is_asked_again_and_then_the_bind_fails(world: World) -> None:
    world.stop_host()
    conductor = world.conductor()
    [arq] = world.bind(conductor)

    world.passed_s = LEASE_S + 1
    takeover.finish_binds(conductor, BIND_TIMEOUT_S)
    waiting = world.state_of(arq)
    world.passed_s = 2 * LEASE_S + 2
    takeover.finish_binds(conductor, BIND_TIMEOUT_S)

    assert waiting == states.BIND_STARTED
    failed = arqs.get(world.database, arq.uuid, None)
    assert failed.state == states.BIND_FAILED
    assert "within 120 s" in str(failed.state_reason)
    assert world.told == [(arq.uuid, "failed")]
    assert states.RESERVED not in world.handle_states()


def test_an_agent_that_returns_in_time_still_binds(world: World) -> None:
    world.stop_host()
    conductor = world.conductor()
    [arq] = world.bind(conductor)

    world.start_host()
    world.passed_s = LEASE_S + 1
    takeover.finish_binds(conductor, BIND_TIMEOUT_S)

    assert world.state_of(arq) == states.BOUND


def test_host_work_that_fails_is_the_reason_of_the_failed_bind(world: World) -> None:
    world.host.error = "no such mediated device type"

    [arq] = world.bind(world.conductor())

    failed = arqs.get(world.database, arq.uuid, None)
    assert (failed.state, failed.state_reason) == (
        states.BIND_FAILED, "no such mediated device type")
    assert world.told == [(arq.uuid, "failed")]


def test_a_deleted_instances_handle_is_cleaned_before_anybody_gets_it(world: World) -> None:
    conductor = world.conductor()
    [arq] = world.bind(conductor)
    conductor_arqs.delete(conductor, [arq.uuid], None, bound_too=True)
    waiting = world.handle_states()

    takeover.clean_handles(conductor)

    assert waiting == {states.CLEANING, states.FREE}
    assert world.handle_states() == {states.FREE}
    assert [what for what, _ in world.host.done] == ["prepare", "clean"]


def test_a_delete_does_not_wait_for_a_dead_host_and_its_handle_waits(world: World) -> None:
    conductor = world.conductor()
    [arq] = world.bind(conductor)
    world.stop_host()

    conductor_arqs.delete(conductor, [arq.uuid], None, bound_too=True)
    takeover.clean_handles(conductor)
    world.start_host()
    too_early = takeover.clean_handles(conductor)
    world.passed_s = LEASE_S + 1
    takeover.clean_handles(conductor)

    with pytest.raises(errors.NotFound):
        arqs.get(world.database, arq.uuid, None)
    assert too_early == 0
    assert world.handle_states() == {states.FREE}


def test_silent_hosts_that_hold_every_cleaning_thread_keep_no_bind_from_its_host_work(
        world: World) -> None:
    conductor = world.conductor(cleaning_pool=Never())
    [first] = world.bind(conductor)
    conductor_arqs.delete(conductor, [first.uuid], None, bound_too=True)

    takeover.clean_handles(conductor)
    [second] = world.bind(conductor)

    assert states.CLEANING in world.handle_states()
    assert world.state_of(second) == states.BOUND


def test_a_handle_that_cannot_be_cleaned_is_never_given_out(world: World) -> None:
    conductor = world.conductor()
    [arq] = world.bind(conductor)
    conductor_arqs.delete(conductor, [arq.uuid], None, bound_too=True)
    world.host.error = "the disk refuses"

    takeover.clean_handles(conductor)
    world.passed_s = LEASE_S + 1
    again = takeover.clean_handles(conductor)

    assert again == 0
    assert world.handle_states() == {states.FAILED, states.FREE}


def test_arqs_that_nobody_binds_expire(world: World) -> None:
    [never] = builders.new_arqs(world.database)
    conductor = world.conductor()

    early = takeover.expire_unbound(conductor, 86400)
    world.passed_s = 86401
    late = takeover.expire_unbound(conductor, 86400)

    assert (early, late) == (0, 1)
    with pytest.raises(errors.NotFound, match=never.uuid):
        arqs.get(world.database, never.uuid, None)


# --- host work that comes late ----------------------------------------------------------------


@pytest.mark.parametrize("give_back", ["delete", "unbind"])
def test_what_is_taken_down_late_is_not_the_next_instances(world: World, give_back: str) -> None:
    slow = Later()
    first, second = world.conductor(slow, slow), world.conductor()
    suspended = world.bind_one(second)
    instance_operations.suspend(first, str(suspended.instance_uuid))

    if give_back == "delete":
        conductor_arqs.delete_of_instance(second, str(suspended.instance_uuid))
    else:
        conductor_arqs.unbind(second, [suspended.uuid])
    takeover.clean_handles(second)
    running = world.bind_one(second)
    slow.run()

    assert running.attach_handle_uuid in world.host.made
    takeover.clean_handles(second)
    assert world.handle_states() == {states.FREE, states.IN_USE}


def test_what_is_prepared_late_is_not_left_on_a_handle_that_is_free(world: World) -> None:
    slow = Later()
    first, second = world.conductor(slow), world.conductor()
    [arq] = world.bind(first)

    conductor_arqs.delete(second, [arq.uuid], None, bound_too=True)
    takeover.clean_handles(second)
    slow.run()
    takeover.clean_handles(second)

    assert world.handle_states() == {states.FREE}
    assert world.host.made == set()


def test_a_handle_given_back_during_host_work_is_cleaned_when_its_conductor_dies(
        world: World) -> None:
    [arq] = world.bind(world.conductor(Never()))
    second = world.conductor()

    conductor_arqs.delete(second, [arq.uuid], None, bound_too=True)
    early = takeover.clean_handles(second)
    world.passed_s = LEASE_S + 1
    late = takeover.clean_handles(second)

    assert (early, late) == (0, 1)
    assert world.handle_states() == {states.FREE}


@pytest.mark.parametrize("work", ["prepare", "take_down", "clean"])
def test_no_agent_begins_what_it_was_asked_when_the_lease_is_over(
        world: World, work: str) -> None:
    slow = Later()
    first, second = world.conductor(slow, slow), world.conductor()
    if work == "prepare":
        world.bind(first)
    elif work == "take_down":
        instance_operations.suspend(first, str(world.bind_one(second).instance_uuid))
    else:
        conductor_arqs.delete(second, [world.bind_one(second).uuid], None, bound_too=True)
        takeover.clean_handles(first)

    world.passed_s = LEASE_S - 2
    slow.run()

    assert world.host.done[-1][0] == work
    assert world.bus.deadline < time.time() + 2


def test_an_agent_that_is_too_old_to_take_anything_down_delays_no_resumption(
        world: World) -> None:
    world.stop_host()
    world.host = OldHost()
    world.start_host()
    conductor = world.conductor()
    arq = world.bind_one(conductor)

    instance_operations.suspend(conductor, str(arq.instance_uuid))
    suspended = world.state_of(arq)
    instance_operations.resume(conductor, str(arq.instance_uuid))

    assert suspended == states.SUSPENDED
    assert world.state_of(arq) == states.BOUND


def test_suspensions_on_silent_hosts_keep_no_bind_from_its_host_work(world: World) -> None:
    conductor = world.conductor(cleaning_pool=Never())
    arq = world.bind_one(conductor)

    instance_operations.suspend(conductor, str(arq.instance_uuid))

    assert world.state_of(world.bind_one(conductor)) == states.BOUND
    assert [what for what, _ in world.host.done] == ["prepare", "prepare"]
