# SPDX-License-Identifier: Apache-2.0
"""Suspend, resume, resize, cold and live migration as a patched Nova makes them, when all is well.

What goes wrong is in `test_operations_that_fail.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures import nova_calls
from tests.fixtures import nova_moves
from tests.fixtures.nova_records import Server

BIND = ["GET profile", "POST", "PATCH migration", "GET instance migration"]
FINISH = ["switch", "GET instance"]


def booted(played: nova_moves.Nova, profile: str | None = "both") -> Server:
    """A server that runs on node1; its calls are forgotten."""
    server = played.boot(profile, "node1")
    assert server.state == "active"
    played.calls.made.clear()
    return server


def sets(played: nova_moves.Nova, server: Server) -> list[Any]:
    """Host, state and side of all the server's ARQs."""
    found = played.calls.look(f"instance={server.uuid}&sets=all", nova_calls.NEW)
    assert not isinstance(found, int)
    return sorted((arq["hostname"], arq["state"], "active" if arq["active"] else "inactive")
                  for arq in found)


def both(host: str, side: str = "active") -> list[Any]:
    return [(host, "Bound", side)] * 2


# --- suspend and resume -----------------------------------------------------------------------


def test_a_suspended_server_keeps_its_handles_and_gets_its_device_back_with_the_same_uuid(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    host = played.cloud.hosts["node1"]
    handles, made = server.guest.handles, dict(host.made)

    assert played.suspend(server)
    suspended, away = sets(played, server), dict(host.made)
    nobody_else = [played.boot("both", "node1") for _ in range(2)]
    assert played.resume(server)

    assert played.calls.made[:2] == ["GET instance", "suspend"]
    assert played.calls.made[-2:] == ["resume", "GET instance"]
    assert suspended == [("node1", "Suspended", "active")] * 2
    assert (len(made), away) == (1, {})
    assert made.items() <= host.made.items()
    assert server.guest.handles == handles
    assert [other.state for other in nobody_else] == ["active", "error"]
    assert played.made_by_nova == []


def test_a_suspended_servers_device_stays_away_over_agent_restart_and_host_reboot(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    handles = server.guest.handles
    host = played.cloud.hosts["node1"]
    played.suspend(server)

    host.stop_agent()
    host.start_agent(played.cloud.bus)
    played.cloud.work()
    after_restart = dict(host.made)
    played.host_dies("node1")
    played.host_returns("node1")
    after_reboot = dict(host.made)
    assert played.resume(server)

    assert (after_restart, after_reboot) == ({}, {})
    assert server.guest.handles == handles
    assert played.made_by_nova == []


def test_a_nova_that_says_nothing_of_suspension_keeps_its_devices(played: nova_moves.Nova) -> None:
    server = booted(played)
    made = dict(played.cloud.hosts["node1"].made)

    played.stop(server)
    assert played.reboot(server)

    assert played.cloud.hosts["node1"].made == made


def test_a_suspended_server_is_deleted_or_shelved_like_any_other(played: nova_moves.Nova) -> None:
    first, second = booted(played), booted(played)
    played.suspend(first)
    played.suspend(second)

    played.delete(first)
    assert played.shelve(second)

    assert (sets(played, first), sets(played, second)) == ([], [])


# --- cold migration and resize ----------------------------------------------------------------


def test_a_cold_migration_holds_both_sets_until_it_is_confirmed(played: nova_moves.Nova) -> None:
    server = booted(played)
    before = server.guest.handles

    assert played.resize(server, "both", "node2")
    in_between = sets(played, server)
    migration = server.migration
    assert migration
    claims = played.claims.hosts_of(server.uuid), played.claims.hosts_of(migration.uuid)
    played.confirm(server)

    assert played.calls.made == [*BIND, *FINISH, "end"]
    assert in_between == [*both("node1", "inactive"), *both("node2")]
    assert claims == ({"node2"}, {"node1"})
    assert sets(played, server) == both("node2")
    assert not set(server.guest.handles) & set(before)
    assert played.made_by_nova == []


def test_a_reverted_migration_has_the_same_handles_as_before(played: nova_moves.Nova) -> None:
    server = booted(played)
    before = server.guest.handles
    assert played.resize(server, "both", "node2")

    assert played.revert(server)

    assert played.calls.made == [*BIND, *FINISH, "switch", "end", "GET instance"]
    assert sets(played, server) == both("node1")
    assert server.guest.handles == before
    assert played.claims.hosts_of(server.uuid) == {"node1"}


def test_nobody_gets_the_handles_of_a_source_that_is_not_confirmed(played: nova_moves.Nova) -> None:
    server = booted(played)
    assert played.resize(server, "both", "node2")

    others = [played.boot("both", "node1") for _ in range(2)]

    assert [other.state for other in others] == ["active", "error"]
    assert played.revert(server)


@pytest.mark.parametrize("end", ["confirm", "revert", "delete"])
@pytest.mark.parametrize("host", ["node1", "node2"])
@pytest.mark.parametrize(("old", "new"), [
    ("both", "vgpu"), ("vgpu", "disk"), ("both", None), (None, "both"), (None, None)])
def test_a_resize_to_another_flavor_has_the_accelerators_of_that_flavor(
        played: nova_moves.Nova, old: str | None, new: str | None, host: str, end: str) -> None:
    server = booted(played, old)
    count = {None: 0, "both": 2, "vgpu": 1, "disk": 1}

    assert played.resize(server, new, host)
    resized = sets(played, server)
    made = list(played.calls.made)
    if end == "confirm":
        played.confirm(server)
    elif end == "revert":
        assert played.revert(server)
    else:
        played.delete(server)

    assert sorted(resized) == sorted([("node1", "Bound", "inactive")] * count[old]
                                     + [(host, "Bound", "active")] * count[new])
    begin = BIND if new else ["begin"] if old else []
    assert made == begin + (["switch"] if old or new else []) + (["GET instance"] if new else [])
    left = {"confirm": [(host, "Bound", "active")] * count[new],
            "revert": [("node1", "Bound", "active")] * count[old], "delete": []}
    assert sets(played, server) == left[end]


def test_agents_that_restart_keep_the_devices_of_both_sets(played: nova_moves.Nova) -> None:
    server = booted(played)
    assert played.resize(server, "both", "node2")
    hosts = [played.cloud.hosts[name] for name in ("node1", "node2")]
    before = [dict(host.made) for host in hosts]

    for host in hosts:
        host.stop_agent()
        host.start_agent(played.cloud.bus)
    played.cloud.work()

    assert [len(made) for made in before] == [1, 1]
    assert [dict(host.made) for host in hosts] == before


def test_a_reboot_between_resize_and_confirmation_reads_the_active_set(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    assert played.resize(server, "both", "node2")
    handles = server.guest.handles

    assert played.reboot(server)
    played.confirm(server)

    assert server.guest.handles == handles


def test_a_stopped_server_migrates_and_stays_stopped(played: nova_moves.Nova) -> None:
    server = booted(played)
    played.stop(server)

    assert played.resize(server, "both", "node2")
    played.confirm(server)

    assert server.state == "stopped"
    assert played.reboot(server)


@pytest.mark.parametrize("end", ["confirm", "revert"])
def test_a_migration_ends_while_the_other_host_is_dead(
        played: nova_moves.Nova, end: str) -> None:
    server = booted(played)
    assert played.resize(server, "both", "node2")

    if end == "confirm":
        played.host_dies("node1")
        played.confirm(server)
    else:
        played.host_dies("node2")
        assert played.revert(server)

    assert sets(played, server) == both("node2" if end == "confirm" else "node1")


# --- live migration ---------------------------------------------------------------------------


def test_a_live_migration_finds_its_device_made_at_the_destination(
        played: nova_moves.Nova) -> None:
    server = booted(played)

    assert played.live_migrate(server, "node2")

    assert played.calls.made == [*BIND, "switch", "end"]
    assert sets(played, server) == both("node2")
    assert played.made_by_nova == []
    assert list(played.cloud.hosts["node2"].made) == [
        handle for handle in server.guest.handles if handle in played.cloud.hosts["node2"].made]
    assert played.claims.hosts_of(server.uuid) == {"node2"}
    assert played.reboot(server)


def test_a_live_migration_that_breaks_leaves_the_guest_with_what_it_has(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    before = server.guest.handles

    assert not played.live_migrate(server, "node2", breaks=True)

    assert played.calls.made == [*BIND, "end"]
    assert sets(played, server) == both("node1")
    assert (server.guest.runs, server.guest.handles) == (True, before)
    assert played.claims.hosts_of(server.uuid) == {"node1"}


def test_a_destination_that_shows_the_guest_another_device_is_refused(
        played: nova_moves.Nova) -> None:
    server = booted(played, "vgpu")

    assert not played.live_migrate(server, "node4")

    assert played.calls.made == ["GET profile", "POST", "PATCH migration", "DELETE arqs", "end"]
    assert sets(played, server) == [("node1", "Bound", "active")]
    assert server.guest.runs
    assert played.resize(server, "vgpu", "node4")


def test_a_server_goes_round_all_hosts_and_keeps_nothing_behind(played: nova_moves.Nova) -> None:
    server = booted(played)

    for number in range(6):
        host = f"node{(number + 1) % 3 + 1}"
        if number % 2:
            assert played.resize(server, "both", host)
            played.confirm(server)
        else:
            assert played.live_migrate(server, host)
        played.cloud.work()

    assert len(sets(played, server)) == 2


# --- without any new call ---------------------------------------------------------------------


@pytest.mark.parametrize("end", ["confirm", "revert", "delete"])
def test_a_migration_works_in_todays_calls_alone(played: nova_moves.Nova, end: str) -> None:
    server = booted(played)

    assert played.resize(server, "both", "node2", recreates=True)
    resized = sets(played, server)
    made = list(played.calls.made)
    if end == "confirm":
        played.confirm(server)
    elif end == "revert":
        played.cloud.work()
        assert played.revert(server)
    else:
        played.delete(server)

    recreate = ["DELETE instance", "POST", "PATCH", "GET instance"]
    assert made == ["GET profile", *recreate]
    assert played.calls.made[len(made):] == {
        "confirm": [], "revert": recreate, "delete": ["DELETE instance"]}[end]
    assert resized == both("node2")
    assert sets(played, server) == {
        "confirm": both("node2"), "revert": both("node1"), "delete": []}[end]


def test_a_server_recreated_meanwhile_keeps_the_one_that_reverts_from_coming_back(
        played: nova_moves.Nova) -> None:
    """The weakness of that way: while the source waits, its handle is to be cleaned."""
    server = booted(played)
    assert played.resize(server, "both", "node2", recreates=True)
    played.host_dies("node1")
    played.host_returns("node1")
    host = played.cloud.hosts["node1"]
    host.stop_agent()

    returned = played.revert(server)
    host.start_agent(played.cloud.bus)
    played.cloud.let_pass()

    assert not returned or server.state == "active"
