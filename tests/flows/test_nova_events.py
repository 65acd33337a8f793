# SPDX-License-Identifier: Apache-2.0
"""Events go to Nova at least once, whatever Nova answers and whichever conductor lives."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cyborg_lite.clients import nova as nova_client
from cyborg_lite.conductor import nova_events
from cyborg_lite.db import models
from cyborg_lite.db import services
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases
from tests.fixtures import nova as nova_fixture
from tests.fixtures import placement as placement_fixture

CONDUCTOR = "11111111-1111-1111-1111-111111111111"
GIVE_UP_S = 600


@dataclasses.dataclass
class Settings:
    event_give_up: int = GIVE_UP_S


class Clock:
    """Stands still until a test lets time pass."""

    def __init__(self) -> None:
        self._start = session.now()
        self.passed_s = 0.0

    def __call__(self) -> datetime.datetime:
        return self._start + datetime.timedelta(seconds=self.passed_s)


@pytest.fixture
def nova() -> Iterator[nova_fixture.Nova]:
    with nova_fixture.serving() as serving:
        yield serving


class World:
    """One conductor's delivery between a database and a Nova."""

    def __init__(self, database: session.Database, nova: nova_fixture.Nova) -> None:
        self.database = database
        self.nova = nova
        self.clock = Clock()
        self.client = nova_client.from_conf(placement_fixture.configured("nova", nova.url))
        self.events = self.another(CONDUCTOR)

    def another(self, conductor: str) -> nova_events.NovaEvents:
        return nova_events.NovaEvents(self.database, self.client, conductor, Settings(),
                                      self.clock)

    def store(self, arqs: int = 1, instance: str | None = None, status: str = "completed",
              lease_s: float = 60) -> list[dict[str, Any]]:
        """Store events of one instance as a bind does, in its transaction."""
        instance = instance or builders.new_uuid()
        rows = [{"instance_uuid": instance, "arq_uuid": builders.new_uuid(), "status": status,
                 "request_id": f"req-{builders.new_uuid()}", "lease_owner": CONDUCTOR,
                 "due_at": self.clock() + datetime.timedelta(seconds=lease_s)}
                for _ in range(arqs)]
        with self.database.writing() as connection:
            services.insert_events(connection, rows)
        return rows

    def left(self) -> list[dict[str, Any]]:
        return databases.all_rows(self.database, models.events)

    def run_until_due(self) -> float:
        """Let the time pass until the next event is due and run; returns how long that was."""
        pause_s = max(0.0, (min(row["due_at"] for row in self.left())
                            - self.clock()).total_seconds())
        self.clock.passed_s += pause_s + 0.001
        self.events.run_once()
        return pause_s


@pytest.fixture
def world(sqlite: session.Database, nova: nova_fixture.Nova) -> World:
    return World(sqlite, nova)


def as_sent(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(row["instance_uuid"], row["arq_uuid"], row["status"]) for row in rows]


# --- right after a bind -----------------------------------------------------------------------


def test_events_of_an_instance_go_in_one_request_and_cost_one_statement(
        database: session.Database, nova: nova_fixture.Nova) -> None:
    world = World(database, nova)
    rows = world.store(8)

    with databases.counted(database) as statements:
        world.events.deliver(rows)

    assert len(statements) == 1
    assert len(nova.requests) == 1
    assert nova.requests[0].path == "/v2.1/os-server-external-events"
    assert nova.requests[0].headers["OpenStack-API-Version"] == "compute 2.82"
    assert nova.requests[0].headers["X-OpenStack-Request-ID"] == rows[0]["request_id"]
    assert nova.requests[0].events[0] == {
        "name": "accelerator-request-bound", "server_uuid": rows[0]["instance_uuid"],
        "tag": rows[0]["arq_uuid"], "status": "completed"}
    assert nova.taken() == as_sent(rows)
    assert world.left() == []


def test_several_instances_get_a_request_each_and_cost_one_statement(world: World) -> None:
    rows = [*world.store(2), *world.store(1, status="failed")]

    with databases.counted(world.database) as statements:
        world.events.deliver(rows)

    assert len(statements) == 1
    assert len(world.nova.requests) == 2
    assert world.nova.taken() == as_sent(rows)
    assert world.left() == []


def test_storing_events_is_one_statement(database: session.Database,
                                         nova: nova_fixture.Nova) -> None:
    world = World(database, nova)

    with databases.counted(database) as statements:
        world.store(8)

    assert len(statements) == 1


def test_an_event_of_the_same_arq_stored_meanwhile_is_not_lost(world: World) -> None:
    first = world.store(1)
    second = [{**first[0], "due_at": first[0]["due_at"] + datetime.timedelta(microseconds=1)}]
    with world.database.writing() as connection:
        services.insert_events(connection, second)

    world.events.deliver(first)

    assert [row["due_at"] for row in world.left()] == [second[0]["due_at"]]


def test_an_event_in_delivery_is_left_to_its_conductor_until_its_lease_ends(world: World) -> None:
    rows = world.store(1, lease_s=60)

    early = world.another("another").run_once()
    world.clock.passed_s += 61
    late = world.another("another").run_once()

    assert (early, late) == (0, 1)
    assert world.nova.taken() == as_sent(rows)
    assert world.left() == []


# --- what Nova refuses ------------------------------------------------------------------------


@pytest.mark.parametrize("code", [404, 422])
def test_only_what_nova_refused_is_sent_again(world: World, code: int) -> None:
    rows = world.store(3)
    refused = rows[1]
    world.nova.refusals[refused["arq_uuid"]] = code
    world.events.deliver(rows)
    left = [row["arq_uuid"] for row in world.left()]

    world.nova.refusals.clear()
    world.run_until_due()

    assert left == [refused["arq_uuid"]]
    assert [event["tag"] for event in world.nova.requests[1].events] == [refused["arq_uuid"]]
    assert sorted(world.nova.taken()) == sorted(as_sent(rows))
    assert world.left() == []


def test_a_failed_event_that_nova_took_is_not_sent_again(world: World) -> None:
    # the answer's own status says "completed" for it, and "failed" for what was refused
    rows = [*world.store(1, "instance", status="failed"), *world.store(1, "instance")]
    world.nova.refusals[rows[1]["arq_uuid"]] = 422

    world.events.deliver(rows)

    assert world.nova.requests[0].status == 207
    assert [row["arq_uuid"] for row in world.left()] == [rows[1]["arq_uuid"]]


def test_the_pause_doubles_up_to_half_a_minute(world: World) -> None:
    rows = world.store(1)
    world.nova.refusals[rows[0]["arq_uuid"]] = 422
    world.events.deliver(rows)

    pauses = [round(world.run_until_due(), 1) for _ in range(9)]

    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize("code", [404, 422])
def test_what_nova_refuses_for_long_is_dropped_and_said(
        world: World, code: int, caplog: pytest.LogCaptureFixture) -> None:
    rows = world.store(1)
    world.nova.refusals[rows[0]["instance_uuid"]] = code
    world.events.deliver(rows)

    world.clock.passed_s += GIVE_UP_S - 10
    world.events.run_once()
    before = len(world.left())
    world.clock.passed_s += 60
    world.events.run_once()

    assert before == 1
    assert world.left() == []
    dropped = [record for record in caplog.records if "dropped" in record.getMessage()]
    assert len(dropped) == 1
    assert rows[0]["arq_uuid"] in dropped[0].getMessage()
    assert str(code) in dropped[0].getMessage()


def test_a_whole_answer_404_counts_for_each_event(world: World) -> None:
    rows = world.store(2)
    with world.nova.answering(404):
        world.events.deliver(rows)
        left = world.left()
        world.clock.passed_s += GIVE_UP_S + 1
        world.events.run_once()

    assert len(left) == 2
    assert world.left() == []


def test_a_request_that_nova_finds_wrong_is_an_error_and_given_up(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    rows = world.store(1)
    with world.nova.answering(400):
        world.events.deliver(rows)
        left = len(world.left())
        world.clock.passed_s += GIVE_UP_S + 1
        world.events.run_once()

    assert left == 1
    assert world.left() == []
    assert {record.levelno for record in caplog.records
            if record.name == nova_events.__name__} == {logging.ERROR}


# --- Nova away --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 503, nova_fixture.NOTHING, 401])
def test_events_wait_while_nova_is_away_and_go_when_it_is_back(
        world: World, status: int, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*world.store(2), *world.store(1)]
    with world.nova.answering(status):
        world.events.deliver(rows)
        for _ in range(3):
            world.run_until_due()
        left = len(world.left())
    warnings = [record for record in caplog.records if record.name == nova_events.__name__
                and record.levelno >= logging.WARNING]

    world.clock.passed_s += 31
    world.events.run_once()

    assert left == 3
    assert len(warnings) == 1
    assert sorted(world.nova.taken()) == sorted(as_sent(rows))
    assert world.left() == []


def test_nova_away_is_waited_for_ten_times_as_long(world: World) -> None:
    rows = world.store(1)
    with world.nova.answering(500):
        world.events.deliver(rows)
        world.clock.passed_s += GIVE_UP_S * 9
        world.events.run_once()
        after_nine = len(world.left())
        world.clock.passed_s += GIVE_UP_S * 2
        world.events.run_once()

    assert after_nine == 1
    assert world.left() == []


def test_one_silent_request_does_not_make_every_instance_wait_for_its_own(world: World) -> None:
    rows = [row for _ in range(5) for row in world.store(1)]
    with world.nova.answering(500):
        world.events.deliver(rows)

    assert len({request.events[0]["tag"] for request in world.nova.requests}) == 1
    assert [row["attempts"] for row in world.left()] == [1] * 5


def test_an_event_that_was_taken_and_not_deleted_is_sent_again(world: World) -> None:
    rows = world.store(1)
    # as after a crash between Nova's answer and our delete
    world.client.send_bound([nova_client.Bound(*entry) for entry in as_sent(rows)], None)
    world.clock.passed_s += 61

    world.events.run_once()

    assert world.nova.taken() == as_sent(rows) * 2
    assert world.left() == []


def test_an_endpoint_without_a_version_is_completed(
        sqlite: session.Database, nova: nova_fixture.Nova) -> None:
    client = nova_client.from_conf(placement_fixture.configured("nova", nova.root))

    statuses = client.send_bound([nova_client.Bound("i", "a", "completed")], None)

    assert statuses == [200]


# --- several conductors -----------------------------------------------------------------------


def test_conductors_that_run_at_once_deliver_each_event_once(
        server_database: session.Database, nova: nova_fixture.Nova) -> None:
    world = World(server_database, nova)
    rows = [row for _ in range(40) for row in world.store(1, lease_s=-1)]
    start = threading.Barrier(4)

    def run(conductor: str) -> int:
        events = world.another(conductor)
        start.wait(timeout=20)
        return events.run_once()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(run, ["a", "b", "c", "d"]))

    # one that found all rows locked leaves them to the others
    assert sum(taken) == 40
    assert sorted(nova.taken()) == sorted(as_sent(rows))
    assert world.left() == []


def test_a_batch_is_bounded_and_the_rest_comes_next(world: World) -> None:
    for _ in range(3):
        world.store(50, lease_s=-1)

    counts = [world.events.run_once() for _ in range(3)]

    assert counts == [100, 50, 0]
    assert world.left() == []
