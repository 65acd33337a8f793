# SPDX-License-Identifier: Apache-2.0
"""Who is up, down or gone: heartbeats, conductors that were away, agents that claim one host."""

from __future__ import annotations

import concurrent.futures
import datetime
import logging
from typing import Any

import pytest
import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.conductor import services
from cyborg_lite.db import devices
from cyborg_lite.db import heartbeats
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import service_list
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases

NOON = datetime.datetime(2026, 6, 1, 12)
DOWN_S, GONE_S = 60, 3600


def later(seconds: float, than: datetime.datetime = NOON) -> datetime.datetime:
    return than + datetime.timedelta(seconds=seconds)


def horizon(moment: datetime.datetime = NOON) -> liveness.Horizon:
    return liveness.Horizon(down_before=later(-DOWN_S, moment), gone_before=later(-GONE_S, moment))


def a_host(database: session.Database, name: str = builders.HOST, **values: Any) -> None:
    """A host with a card, as its row shall be."""
    builders.store(database, builders.a_report(host=name))
    with database.writing() as connection:
        connection.execute(sa.update(models.hosts).where(models.hosts.c.name == name)
                           .values(values or {"last_seen": NOON}))


def state(database: session.Database, moment: datetime.datetime = NOON,
          host: str = builders.HOST) -> str:
    [found] = service_list.list_services(
        database, messages.ServiceQuery(host=host, binary=heartbeats.AGENT), horizon(moment))
    return found.state


# --- the rule ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "expected"), [
    ({"last_seen": later(-60)}, "up"),
    ({"last_seen": later(-61)}, "down"),
    ({"last_seen": later(-3600)}, "down"),
    ({"last_seen": later(-3601)}, "gone"),
    ({"last_seen": later(-3601), "silence_counts_from": later(-60)}, "up"),
    ({"last_seen": later(-3601), "silence_counts_from": later(-61)}, "down"),
    ({"last_seen": later(-9999), "silence_counts_from": later(-3601)}, "gone"),
    ({"last_seen": later(-5), "silence_counts_from": later(-9999)}, "up"),
    ({"last_seen": later(-5), "gone_at": later(-1)}, "gone"),
    ({"last_seen": None}, "down")])
def test_silence_makes_a_host_down_and_then_gone(
        database: session.Database, values: dict[str, Any], expected: str) -> None:
    a_host(database, **values)

    assert state(database) == expected
    [device] = devices.list_devices(database, messages.DeviceQuery(), horizon())
    assert device.host_state == expected
    assert devices.get_device(database, device.uuid, horizon()).host_state == expected


def test_a_heartbeat_or_a_report_makes_a_gone_host_up(database: session.Database) -> None:
    for bring_back in (
            lambda: heartbeats.is_current(database, messages.Heartbeat(
                host=builders.HOST, resource_provider_name=builders.HOST, digest="x"),
                datetime.datetime.min),
            lambda: heartbeats.claim(database, builders.HOST, "machine1"),
            lambda: builders.store(database, builders.a_report())):
        a_host(database, last_seen=later(-9999), gone_at=later(-1))

        bring_back()

        assert state(database, session.now()) == "up"


# --- conductors that were away ----------------------------------------------------------------


def beat(database: session.Database, moment: datetime.datetime, uuid: str = "c1") -> bool:
    return heartbeats.conductor_lives(
        database, services.itself(uuid, "controller", "1.0"), moment,
        deaf_before=later(-20, moment), horizon=horizon(moment))


@pytest.mark.parametrize("away_s", [30, 300, 2 * GONE_S])
def test_after_all_conductors_were_away_a_live_host_has_all_its_time_again(
        database: session.Database, away_s: int) -> None:
    beat(database, NOON)
    a_host(database, last_seen=later(-25))

    again = later(away_s)
    assert not beat(database, again, "c2")

    assert state(database, again) == "up"
    assert state(database, later(DOWN_S, again)) == "up"
    assert state(database, later(DOWN_S + 1, again)) == "down"
    assert state(database, later(GONE_S + 1, again)) == "gone"


def test_a_host_that_was_down_before_stays_so_and_is_gone_only_for_silence_that_was_heard(
        database: session.Database) -> None:
    beat(database, NOON)
    a_host(database, "down", last_seen=later(-DOWN_S - 1))
    a_host(database, "gone", last_seen=later(-GONE_S - 1))

    again = later(2 * GONE_S)
    beat(database, again)

    assert state(database, again, "down") == "down"
    assert state(database, later(GONE_S - DOWN_S - 1, again), "down") == "down"
    assert state(database, later(GONE_S - DOWN_S + 1, again), "down") == "gone"
    assert state(database, again, "gone") == "gone"


def test_silence_counts_as_long_as_any_conductor_hears(database: session.Database) -> None:
    a_host(database, last_seen=NOON)
    for second in range(0, 120, 10):
        assert beat(database, later(second), "c1" if second < 60 else "c2") == (second > 0)

    # the first beats again after a minute, and others heard meanwhile
    assert beat(database, later(121), "c1")

    assert state(database, later(121)) == "down"


def test_two_conductors_that_start_at_one_time_do_it_once(
        server_database: session.Database) -> None:
    beat(server_database, NOON)
    a_host(server_database, "down", last_seen=later(-DOWN_S - 1))
    again = later(300)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        heard = list(pool.map(lambda number: beat(server_database, later(number, again),
                                                  f"c{number}"), range(2, 6)))

    assert sorted(heard) == [False, True, True, True]
    assert state(server_database, later(6, again), "down") == "down"


def test_a_beat_of_a_conductor_costs_the_same_beside_many_hosts(
        database: session.Database) -> None:
    for number in range(20):
        a_host(database, f"node{number}")
    beat(database, NOON)

    with databases.counted(database) as seen:
        beat(database, later(10))

    assert len(seen) <= 3


def test_a_conductor_that_ended_is_listed_no_more_but_when_it_heard_last_is_known(
        database: session.Database) -> None:
    def listed(moment: datetime.datetime) -> dict[str, str]:
        return {found.id: found.state for found in service_list.list_services(
            database, messages.ServiceQuery(), horizon(moment))}

    beat(database, NOON, "stopped")
    beat(database, NOON, "killed")
    a_host(database, last_seen=later(-DOWN_S - 1))
    heartbeats.conductor_stops(database, "stopped", NOON)

    assert {"killed", "stopped"} & set(listed(NOON)) == {"killed"}
    again = later(300)
    beat(database, again, "new")
    assert listed(again) == {"killed": "down", "new": "up",
                             heartbeats.service_uuid(builders.HOST): "down"}
    beat(database, later(GONE_S + 1), "new")
    assert "killed" not in listed(later(GONE_S + 1))
    assert [row["uuid"] for row in databases.all_rows(database, models.conductors)] == ["new"]


# --- a conductor's own watch ------------------------------------------------------------------


class Options:
    """The options that a watch reads."""

    service_down_time = DOWN_S
    host_gone_after = GONE_S


class Road:
    """The way that a call takes: it comes back, or it does not."""

    def __init__(self) -> None:
        self.is_open = True

    def ping(self) -> None:
        if not self.is_open:
            raise errors.Unavailable("The message broker does not answer.")


class Watched:
    """A conductor's watch with a clock of its own."""

    def __init__(self, database: session.Database) -> None:
        self.now = NOON
        self.road = Road()
        self.watch = services.Watch(
            database, services.itself("c1", "controller", "1.0"), Options(), Options(),
            self.road.ping, lambda: self.now)

    def pass_time(self, seconds: float) -> None:
        """Let the timer run out again and again."""
        until = later(seconds, self.now)
        while self.now < until:
            self.now = min(later(1, self.now), until)
            self.watch.beat_if_due()


@pytest.fixture
def watched(sqlite: session.Database) -> Watched:
    return Watched(sqlite)


def shown(database: session.Database, watched: Watched) -> str:
    [device] = devices.list_devices(database, messages.DeviceQuery(), watched.watch.horizon())
    assert device.host_state is not None
    return device.host_state


def test_no_host_is_down_before_a_conductor_has_begun(
        sqlite: session.Database, watched: Watched) -> None:
    a_host(sqlite, last_seen=later(-9999))

    assert shown(sqlite, watched) == "up"


def test_a_conductor_that_begins_counts_from_then(
        sqlite: session.Database, watched: Watched) -> None:
    a_host(sqlite, last_seen=later(-9999))
    watched.watch.begin()

    assert shown(sqlite, watched) == "up"
    watched.pass_time(DOWN_S + 1)
    assert shown(sqlite, watched) == "down"


def test_while_the_broker_is_away_no_host_becomes_down_and_after_it_none_is(
        sqlite: session.Database, watched: Watched) -> None:
    """A conductor that hears nothing doesn't take that for silence, nor does it afterwards."""
    a_host(sqlite, last_seen=later(-25))
    watched.watch.begin()
    watched.watch.beat()

    watched.road.is_open = False
    watched.pass_time(600)
    during = shown(sqlite, watched)
    watched.road.is_open = True
    before_its_first_beat = shown(sqlite, watched)
    watched.watch.beat()

    assert (during, before_its_first_beat, shown(sqlite, watched)) == ("up", "up", "up")
    watched.pass_time(DOWN_S + 1)
    assert shown(sqlite, watched) == "down"


def test_what_keeps_a_conductor_from_beating_is_said_once(
        watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watched.watch.begin()

    watched.road.is_open = False
    watched.pass_time(300)
    watched.road.is_open = True
    watched.pass_time(60)

    assert caplog.text.count("does not hear what is sent to it") == 1
    assert caplog.text.count("hears again what is sent to it") == 1


def test_a_conductor_beats_as_often_as_the_option_says_now(
        sqlite: session.Database, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option may be changed while it runs."""
    def seen() -> Any:
        [row] = databases.all_rows(sqlite, models.conductors)
        return row["last_seen"]

    watched.watch.begin()
    watched.pass_time(9)
    assert seen() == NOON
    watched.pass_time(1)
    assert seen() == watched.now
    monkeypatch.setattr(Options, "service_down_time", 12)
    a_host(sqlite, last_seen=watched.now)

    watched.pass_time(13)

    assert seen() >= later(-2, watched.now)
    assert shown(sqlite, watched) == "down"


def test_a_short_silence_of_conductors_makes_no_host_down(
        sqlite: session.Database, watched: Watched) -> None:
    """The longest that does not count as an outage, and a beat just not written before it."""
    a_host(sqlite, last_seen=later(-watched.watch.write_every_s() - 10))
    watched.watch.begin()
    sqlite_last_seen = later(-watched.watch.write_every_s() - 10)
    with sqlite.writing() as connection:
        connection.execute(sa.update(models.hosts).values(
            last_seen=sqlite_last_seen, silence_counts_from=None))

    watched.now = later(2 * watched.watch.beat_every_s)
    watched.watch.beat()

    # time for one more heartbeat
    watched.now = later(10, watched.now)
    assert shown(sqlite, watched) == "up"
