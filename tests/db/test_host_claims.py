# SPDX-License-Identifier: Apache-2.0
"""Agents that claim one host, on the three databases: one has it, the others are refused."""

from __future__ import annotations

import concurrent.futures
import datetime
from typing import Any

import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.conductor import inventory as conductor_inventory
from cyborg_lite.conductor import inventory_diff
from cyborg_lite.db import heartbeats
from cyborg_lite.db import inventory
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases

NOON = datetime.datetime(2026, 6, 1, 12)


def later(seconds: float, than: datetime.datetime = NOON) -> datetime.datetime:
    return than + datetime.timedelta(seconds=seconds)


def a_host(database: session.Database, **values: Any) -> None:
    """A host with a card, as its row shall be."""
    builders.store(database, builders.a_report())
    with database.writing() as connection:
        connection.execute(sa.update(models.hosts).values(values))


def heard(silent_before: datetime.datetime) -> heartbeats.Hearing:
    return heartbeats.Hearing(silent_before=silent_before)


def is_taken(database: session.Database, agent_id: str | None,
             silent_before: datetime.datetime, host: str = builders.HOST) -> bool:
    """Whether each way to speak for the host is refused to an agent; none does it in part."""
    told = messages.Heartbeat(host=host, resource_provider_name=host, digest="x",
                              agent_id=agent_id)
    before = databases.all_rows(database, models.hosts)
    hearing = heard(silent_before)
    refusals = []
    for speak in (
            lambda: heartbeats.claim(database, host, agent_id, hearing),
            lambda: conductor_inventory.heartbeat(database, told, 15, hearing),
            lambda: inventory.store(database, messages.HostReport(
                host=host, resource_provider_name=host, digest="new", devices=[],
                agent_id=agent_id), inventory_diff.diff, hearing)):
        try:
            speak()
        except errors.HostTaken as error:
            refusals.append(error.detail)
            assert databases.all_rows(database, models.hosts) == before
    assert len(refusals) in (0, 3), refusals
    assert all(f"speaks for host {host}" in text and "another [DEFAULT] host" in text
               for text in refusals)
    return bool(refusals)


def spoken_for(database: session.Database) -> object:
    return databases.all_rows(database, models.hosts)[0]["agent_id"]


def test_a_second_machine_is_refused_until_the_first_is_silent(
        database: session.Database) -> None:
    a_host(database, last_seen=NOON, agent_id="machine1")

    assert is_taken(database, "machine2", later(-35))
    assert spoken_for(database) == "machine1"
    assert not is_taken(database, "machine2", later(1))
    assert spoken_for(database) == "machine2"
    assert is_taken(database, "machine1", later(-35))


def test_the_same_machine_may_start_its_agent_again_at_once(database: session.Database) -> None:
    a_host(database, last_seen=NOON, agent_id="machine1")

    assert not is_taken(database, "machine1", later(-35))


def test_an_agent_of_an_earlier_release_is_believed_and_one_that_follows_it_too(
        database: session.Database) -> None:
    a_host(database, last_seen=NOON, agent_id=None)

    assert not is_taken(database, None, later(-35))
    assert spoken_for(database) is None
    assert not is_taken(database, "machine1", later(-35))
    assert spoken_for(database) == "machine1"
    assert not is_taken(database, None, later(-35))
    assert spoken_for(database) == "machine1"


def test_a_host_that_is_new_is_of_who_reports_it_first(database: session.Database) -> None:
    heartbeats.claim(database, builders.HOST, "machine2", heard(later(-35)))
    inventory.store(database, messages.HostReport(
        host=builders.HOST, resource_provider_name="rp", digest="1", devices=[],
        agent_id="machine1"), inventory_diff.diff, heard(later(-35)))

    assert spoken_for(database) == "machine1"
    assert is_taken(database, "machine2", later(-35))


def test_of_two_that_follow_a_silent_agent_one_is_refused(
        server_database: session.Database) -> None:
    a_host(server_database, last_seen=later(-9999), agent_id="machine1")

    def follow(agent_id: str) -> bool:
        try:
            heartbeats.is_current(server_database, messages.Heartbeat(
                host=builders.HOST, resource_provider_name="rp", digest="x",
                agent_id=agent_id), later(-15), heard(later(-35, session.now())))
        except errors.HostTaken:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        accepted = list(pool.map(follow, ["machine2", "machine3", "machine4", "machine5"]))

    assert accepted.count(True) == 1


def test_an_unchanged_heartbeat_with_an_identity_is_one_select(database: session.Database) -> None:
    a_host(database, last_seen=session.now(), agent_id="machine1", digest="same",
           resource_provider_name="rp")
    told = messages.Heartbeat(host=builders.HOST, resource_provider_name="rp", digest="same",
                              agent_id="machine1")

    with databases.counted(database) as seen:
        reply = conductor_inventory.heartbeat(database, told, 15, heard(later(-35)))

    assert not reply.report_wanted
    assert len(seen) == 1
    assert not seen.writes
