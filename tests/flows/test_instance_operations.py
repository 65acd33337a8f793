# SPDX-License-Identifier: Apache-2.0
"""Each operation of Nova's that needs no patch: its calls, and what is left on every side.

After each test the fixture lets everything come to rest and looks for what contradicts itself.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.fixtures import databases
from tests.fixtures import nova_calls
from tests.fixtures import nova_moves
from tests.fixtures.nova_records import Server

WAITS_FOR_NOBODY_S = 10
"""Far below the patience with an agent, far above what a busy machine needs."""

PROFILES = ("plain", "vgpu", "disk", "both")
CREATE = ["GET profile", "POST", "PATCH", "GET instance"]


def booted(played: nova_moves.Nova, profile: str | None = "vgpu") -> Server:
    """A server that runs on node1; its calls are forgotten."""
    server = played.boot(profile, "node1")
    assert server.state == "active"
    played.calls.made.clear()
    return server


def held(played: nova_moves.Nova, server: Server) -> list[Any]:
    """Host and state of all the server's ARQs."""
    found = played.calls.look(f"instance={server.uuid}&sets=all", nova_calls.NEW)
    assert not isinstance(found, int)
    return sorted((arq["hostname"], arq["state"]) for arq in found)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_server_boots_with_its_accelerators(played: nova_moves.Nova, profile: str) -> None:
    server = played.boot(profile, "node1")

    assert played.calls.made == CREATE
    assert server.state == "active"
    assert held(played, server) == [("node1", "Bound")] * len(server.providers)
    assert len(server.guest.handles) == len(server.providers)
    assert played.made_by_nova == []


def test_a_server_without_a_profile_makes_no_call(played: nova_moves.Nova) -> None:
    server = played.boot(None, "node1")
    played.reboot(server)
    played.delete(server)

    assert played.calls.made == []


def test_an_unknown_profile_is_refused_before_anything_is_made(played: nova_moves.Nova) -> None:
    played.calls.planned = [nova_calls.Planned("GET profile", nova_calls.Fault.ERROR)]

    server = played.boot("plain", "node1")

    assert server.state == "refused"
    assert played.calls.made == ["GET profile"]


def test_a_build_that_fails_everywhere_leaves_nothing(played: nova_moves.Nova) -> None:
    server = played.boot("both", "node1", breaks_on=["node1"])

    assert server.state == "error"
    assert played.calls.made == [*CREATE, "DELETE instance", "DELETE arqs"]
    assert played.calls.statuses[-2:] == [204, 404]
    assert held(played, server) == []


def test_a_build_goes_on_to_the_next_host(played: nova_moves.Nova) -> None:
    server = played.boot("both", "node1", "node2", breaks_on=["node1"])

    assert server.state == "active"
    assert played.calls.made == [*CREATE, "DELETE instance", "DELETE arqs",
                                 "POST", "PATCH", "GET instance"]
    assert held(played, server) == [("node2", "Bound")] * 2


def test_soft_and_hard_reboot_and_start_find_the_same_handles(played: nova_moves.Nova) -> None:
    server = booted(played)
    before = server.guest.handles

    assert played.reboot(server)
    played.stop(server)
    assert played.reboot(server)

    assert played.calls.made == ["GET instance"] * 2
    assert server.guest.handles == before


def test_pause_stop_and_rescue_make_no_call_and_keep_what_the_server_has(
        played: nova_moves.Nova) -> None:
    server = booted(played)

    played.pause(server)
    played.stop(server)
    played.rescue(server)

    assert played.calls.made == []
    assert held(played, server) == [("node1", "Bound")]


def test_a_rebuild_asks_twice_and_keeps_the_handles(played: nova_moves.Nova) -> None:
    server = booted(played)
    before = server.guest.handles

    assert played.rebuild(server)

    assert played.calls.made == ["GET instance"] * 2
    assert server.guest.handles == before


def test_an_offloaded_server_has_nothing_and_gets_it_anew(played: nova_moves.Nova) -> None:
    server = booted(played, "both")

    assert played.shelve(server)
    offloaded = held(played, server)
    played.cloud.work()
    assert played.unshelve(server, "node2")

    assert offloaded == []
    assert played.calls.made == ["GET instance", "GET instance", "DELETE instance", *CREATE]
    assert held(played, server) == [("node2", "Bound")] * 2


def test_an_evacuated_server_runs_elsewhere_and_its_old_handles_wait_for_the_dead_host(
        played: nova_moves.Nova) -> None:
    server = booted(played, "both")
    before = server.guest.handles
    played.host_dies("node1")

    assert played.evacuate(server, "node2")
    elsewhere = held(played, server)
    again = played.boot("vgpu", "node1")
    played.host_returns("node1")

    assert played.calls.made[:5] == ["GET profile", "DELETE instance", "POST", "PATCH",
                                     "GET instance"]
    assert elsewhere == [("node2", "Bound")] * 2
    assert not set(server.guest.handles) & set(before)
    assert again.state == "error"
    assert played.claims.hosts_of(server.uuid) == {"node2"}


def test_a_deleted_server_leaves_nothing(played: nova_moves.Nova) -> None:
    server = booted(played, "both")

    played.delete(server)

    assert played.calls.made == ["DELETE instance"]
    assert held(played, server) == []


@pytest.mark.parametrize("operation", ["delete", "evacuate"])
def test_a_dead_host_delays_neither_a_delete_nor_an_evacuation(
        played: nova_moves.Nova, operation: str) -> None:
    server = booted(played, "both")
    played.host_dies("node1")
    conductor = played.cloud.conductor
    assert conductor

    began = time.monotonic()
    with databases.counted(conductor.database) as statements:
        played.calls.delete_of_instance(server.uuid)
    took_s = time.monotonic() - began

    assert len(statements) <= 10
    assert took_s < WAITS_FOR_NOBODY_S
    if operation == "evacuate":
        assert played.evacuate(server, "node2")
    else:
        played.delete(server)


def test_a_host_that_reboots_makes_the_mediated_devices_again_with_the_same_uuids(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    made = dict(played.cloud.hosts["node1"].made)

    played.host_dies("node1")
    lost = dict(played.cloud.hosts["node1"].made)
    played.host_returns("node1")

    assert (len(made), lost) == (1, {})
    assert played.cloud.hosts["node1"].made == made
    assert played.reboot(server)
    assert played.made_by_nova == []


def test_a_guest_that_nova_resumes_with_its_host_runs_without_and_gets_them_by_a_hard_reboot(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    before = server.guest.handles
    played.host_dies("node1")
    played.host_returns("node1", resumes_guests=True)
    without = server.guest.handles

    assert held(played, server) == [("node1", "Bound")]
    assert played.reboot(server)

    assert played.calls.made == ["GET instance"]
    assert (without, server.guest.handles) == ((), before)


def test_a_guest_started_before_its_agent_gets_the_device_that_the_agent_would_make(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    played.host_dies("node1")
    host = played.cloud.hosts["node1"]
    host.is_on = True

    assert played.reboot(server)
    early = list(played.made_by_nova)
    host.start_agent(played.cloud.bus)
    played.cloud.work()

    assert early == list(server.guest.handles)
    assert list(host.made) == early
