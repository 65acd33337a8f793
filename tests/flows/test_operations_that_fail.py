# SPDX-License-Identifier: Apache-2.0
"""The rows of the tables of the page for operators: what follows when a call of an operation fails.

Each call in each way is in `test_operations_failing_anywhere.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures import nova_calls
from tests.fixtures import nova_moves
from tests.fixtures import played_hosts
from tests.fixtures.nova_calls import Fault
from tests.fixtures.nova_records import Server


def resized(nova: nova_moves.Nova, server: Server, *hosts: str) -> None:
    assert nova.resize(server, "both", *(hosts or ("node2",)))


def booted(nova: nova_moves.Nova, profile: str = "both") -> Server:
    server = nova.boot(profile, "node1")
    assert server.state == "active"
    return server


def sets(nova: nova_moves.Nova, server: Server) -> list[Any]:
    """Host and side of all the server's ARQs that are Bound or Suspended."""
    found = nova.calls.look(f"instance={server.uuid}&sets=all", nova_calls.NEW)
    assert not isinstance(found, int)
    return sorted((arq["hostname"], "active" if arq["active"] else "inactive") for arq in found)


def both(host: str, side: str = "active") -> list[Any]:
    return [(host, side)] * 2


def plan(nova: nova_moves.Nova, call: str, fault: Fault = Fault.LOST, at: int = 1) -> None:
    nova.calls.planned.append(nova_calls.Planned(call, fault, at))


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.UNHEARD, Fault.ERROR])
@pytest.mark.parametrize("call", ["POST", "PATCH", "GET instance"])
def test_a_server_that_could_not_be_built_is_deleted_and_leaves_nothing(
        played: nova_moves.Nova, call: str, fault: Fault) -> None:
    plan(played, call, fault)
    server = played.boot("both", "node1")
    assert server.state == "error"

    played.delete(server)

    assert sets(played, server) == []


def test_what_is_lost_with_both_deletes_of_a_failed_build_goes_with_the_server(
        played: nova_moves.Nova) -> None:
    plan(played, "DELETE instance")
    plan(played, "DELETE arqs")
    server = played.boot("both", "node1", "node2", breaks_on=["node1"])
    second_try = played.calls.statuses[-2:]

    played.delete(server)

    assert server.uuid not in played.forgotten
    assert second_try[-1] == 204
    assert sets(played, server) == []


def test_what_a_shelved_server_left_is_freed_and_it_is_unshelved_on_another_host(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    plan(played, "DELETE instance")
    played.shelve(server)
    left = sets(played, server)

    for _ in range(3):
        played.cloud.let_pass(700)

    assert left == both("node1")
    assert sets(played, server) == []
    assert played.unshelve(server, "node2")
    assert sets(played, server) == both("node2")


def test_a_failed_preparation_fails_the_build_and_the_next_host_is_taken(
        played: nova_moves.Nova) -> None:
    played.cloud.hosts["node1"].mood = played_hosts.Mood.FAILS

    server = played.boot("both", "node1", "node2")

    assert server.host == "node2"
    assert sets(played, server) == both("node2")


@pytest.mark.parametrize("mood", [played_hosts.Mood.ANSWERS_TOO_LATE, played_hosts.Mood.DIES])
def test_an_agent_that_is_not_heard_is_asked_again_and_the_server_runs(
        played: nova_moves.Nova, mood: played_hosts.Mood) -> None:
    host = played.cloud.hosts["node1"]
    host.mood = mood
    let_pass, mended = played.cloud.let_pass, []

    def mend(seconds: float = 75) -> None:
        if not mended:
            host.mood = played_hosts.Mood.WORKS
            host.start_agent(played.cloud.bus)
            mended.append(True)
        let_pass(seconds)

    played.cloud.let_pass = mend  # type: ignore[method-assign]
    try:
        server = played.boot("both", "node1")
    finally:
        del played.cloud.let_pass  # type: ignore[method-assign]

    assert server.state == "active"
    assert played.calls.made[-2:] == ["GET instance"] * 2


def test_an_agent_that_stays_silent_fails_the_build_within_novas_patience(
        played: nova_moves.Nova) -> None:
    played.cloud.hosts["node1"].stop_agent()

    server = played.boot("both", "node1", "node2")

    assert server.host == "node2"


@pytest.mark.parametrize("step", ["GET profile", "POST", "PATCH migration"])
def test_a_destination_that_is_not_bound_leaves_the_server_where_it_is(
        played: nova_moves.Nova, step: str) -> None:
    server = booted(played)
    before = server.guest.handles
    plan(played, step, Fault.UNHEARD)

    assert not played.resize(server, "both", "node2")

    assert sets(played, server) == both("node1")
    assert (server.state, server.guest.handles, server.guest.runs) == ("active", before, True)


def test_the_next_host_is_taken_for_the_same_migration_when_one_fails_to_bind(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    played.calls.made.clear()
    plan(played, "PATCH migration", Fault.UNHEARD)

    assert played.resize(server, "both", "node2", "node3")

    assert played.calls.made == [
        "GET profile", "POST", "PATCH migration", "DELETE arqs", "POST", "PATCH migration",
        "GET instance migration", "switch", "GET instance"]
    assert sets(played, server) == [*both("node1", "inactive"), *both("node3")]


@pytest.mark.parametrize("trouble", ["hypervisor", "agent", "GET"])
def test_a_preparation_that_fails_ends_the_migration_and_goes_to_the_next_host(
        played: nova_moves.Nova, trouble: str) -> None:
    server = booted(played)
    if trouble == "agent":
        played.cloud.hosts["node2"].mood = played_hosts.Mood.FAILS
    if trouble == "GET":
        plan(played, "GET instance migration")
    played.calls.made.clear()

    assert played.resize(server, "both", "node2", "node3",
                         breaks_on=["node2"] if trouble == "hypervisor" else [])

    assert "end" in played.calls.made
    assert sets(played, server) == [*both("node1", "inactive"), *both("node3")]


def test_a_failed_inactive_set_never_disturbs_the_active_one(played: nova_moves.Nova) -> None:
    server = booted(played)
    played.cloud.hosts["node2"].mood = played_hosts.Mood.FAILS
    plan(played, "end")

    assert not played.resize(server, "both", "node2")

    assert played.calls.look(f"instance={server.uuid}") != 409
    assert played.reboot(server)


def test_a_source_that_fails_to_give_the_disk_keeps_its_set(played: nova_moves.Nova) -> None:
    server = booted(played)
    before = server.guest.handles

    assert not played.resize(server, "both", "node2", breaks_at_source=True)

    assert sets(played, server) == both("node1")
    assert (server.guest.handles, server.guest.runs) == (before, True)


@pytest.mark.parametrize(("call", "fault"), [
    ("switch", Fault.LOST), ("switch", Fault.UNHEARD), ("GET instance", Fault.LOST), ("", None)])
@pytest.mark.parametrize("then", ["reboot", "delete", "revert"])
def test_a_finish_that_fails_keeps_both_sets_until_a_hard_reboot_or_a_delete(
        played: nova_moves.Nova, call: str, fault: Fault | None, then: str) -> None:
    server = booted(played)
    if fault:
        plan(played, call, fault)
    if call == "GET instance":
        # that of the migration's set comes first
        plan(played, "GET instance migration", Fault.NONE)
        played.calls.planned.reverse()

    assert not played.resize(server, "both", "node2", breaks_at_finish=fault is None)

    assert server.state == "error"
    assert len(sets(played, server)) == 4
    if then == "reboot":
        assert played.reboot(server)
        assert server.state == "resized"
        assert sets(played, server) == [*both("node1", "inactive"), *both("node2")]
    elif then == "revert":
        assert played.revert(server)
        assert sets(played, server) == both("node1")
    else:
        played.delete(server)
        assert sets(played, server) == []


def test_an_unheard_end_of_a_confirmation_is_found_by_the_delete(played: nova_moves.Nova) -> None:
    server = booted(played)
    resized(played, server)
    plan(played, "end")
    played.confirm(server)
    left = sets(played, server)

    assert played.reboot(server)
    played.delete(server)

    assert left == [*both("node1", "inactive"), *both("node2")]
    assert sets(played, server) == []


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.UNHEARD])
@pytest.mark.parametrize("call", ["switch", "end", "GET instance"])
@pytest.mark.parametrize("then", ["reboot", "delete"])
def test_a_revert_that_fails_is_mended_by_a_hard_reboot_or_a_delete(
        played: nova_moves.Nova, call: str, fault: Fault, then: str) -> None:
    server = booted(played)
    before = server.guest.handles
    resized(played, server)
    plan(played, call, fault)

    reverted = played.revert(server)
    if then == "reboot":
        assert played.reboot(server)
        assert server.guest.handles == before
    else:
        played.delete(server)
        assert sets(played, server) == []

    assert reverted == (call == "end")


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.UNHEARD])
def test_the_switch_after_a_live_migration_is_repeated_until_it_is_answered(
        played: nova_moves.Nova, fault: Fault) -> None:
    server = booted(played)
    for _ in range(2):
        plan(played, "switch", fault)
    played.calls.made.clear()

    assert played.live_migrate(server, "node2")

    assert played.calls.made[-4:] == ["switch"] * 3 + ["end"]
    assert sets(played, server) == both("node2")


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.UNHEARD])
def test_a_switch_never_answered_leaves_both_sets_and_is_done_before_the_next_start(
        played: nova_moves.Nova, fault: Fault) -> None:
    server = booted(played)
    for _ in range(nova_moves.SWITCH_TRIES):
        plan(played, "switch", fault)

    assert played.live_migrate(server, "node2")
    unsure = sets(played, server)
    handles = server.guest.handles
    assert played.reboot(server)

    assert len(unsure) == 4
    assert server.guest.handles == handles
    assert sets(played, server) == both("node2")


def test_a_live_migration_to_an_agent_that_fails_is_rolled_back(played: nova_moves.Nova) -> None:
    server = booted(played)
    played.cloud.hosts["node2"].mood = played_hosts.Mood.FAILS

    assert not played.live_migrate(server, "node2")

    assert (server.guest.runs, sets(played, server)) == (True, both("node1"))


def test_suspend_does_not_start_without_its_answer_and_resume_leaves_it_suspended(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    plan(played, "GET instance")
    began = played.suspend(server)
    state = server.state
    assert played.suspend(server)
    failed = []
    for call in ("resume", "GET instance"):
        plan(played, call, Fault.UNHEARD)
        failed.append(played.resume(server))

    assert (began, state) == (False, "active")
    assert (failed, server.state) == ([False, False], "suspended")
    assert played.resume(server)


def test_a_resume_that_the_host_fails_keeps_the_handle_and_is_repeated(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    handles = server.guest.handles
    played.suspend(server)
    host = played.cloud.hosts["node1"]

    host.mood = played_hosts.Mood.FAILS
    failed = played.resume(server)
    host.mood = played_hosts.Mood.WORKS
    assert played.resume(server)

    assert not failed
    assert server.guest.handles == handles


def test_an_evacuation_whose_delete_is_lost_fails_and_is_repeated(
        played: nova_moves.Nova) -> None:
    server = booted(played)
    played.host_dies("node1")
    plan(played, "DELETE instance")
    first = played.evacuate(server, "node2")

    assert played.evacuate(server, "node2")

    assert not first
    assert sets(played, server) == both("node2")
