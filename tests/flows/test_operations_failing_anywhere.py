# SPDX-License-Identifier: Apache-2.0
"""Each call of each operation is lost, or unheard, or kills a conductor at each point of its work.

What Nova does then is said by `test_operations_that_fail.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures import nova_calls
from tests.fixtures import nova_invariants
from tests.fixtures import nova_moves
from tests.fixtures.nova_calls import Fault
from tests.fixtures.nova_records import Server

Operation = Callable[[nova_moves.Nova, Server], Any]


def resized(nova: nova_moves.Nova, server: Server, *hosts: str) -> None:
    assert nova.resize(server, "both", *(hosts or ("node2",)))


OPERATIONS: dict[str, tuple[Operation, Operation]] = {
    # name: (what comes before, the operation)
    "reboot": (lambda nova, server: None, lambda nova, server: nova.reboot(server)),
    "rebuild": (lambda nova, server: None, lambda nova, server: nova.rebuild(server)),
    "shelve": (lambda nova, server: None, lambda nova, server: nova.shelve(server)),
    "unshelve": (lambda nova, server: nova.shelve(server),
                 lambda nova, server: nova.unshelve(server, "node2")),
    "evacuate": (lambda nova, server: nova.host_dies("node1"),
                 lambda nova, server: nova.evacuate(server, "node2")),
    "delete": (lambda nova, server: None, lambda nova, server: nova.delete(server)),
    "suspend": (lambda nova, server: None, lambda nova, server: nova.suspend(server)),
    "resume": (lambda nova, server: nova.suspend(server),
               lambda nova, server: nova.resume(server)),
    "resize": (lambda nova, server: None,
               lambda nova, server: nova.resize(server, "both", "node2", "node3")),
    "resize to nothing": (lambda nova, server: None,
                          lambda nova, server: nova.resize(server, None, "node2")),
    "confirm": (resized, lambda nova, server: nova.confirm(server)),
    "revert": (resized, lambda nova, server: nova.revert(server)),
    "delete resized": (resized, lambda nova, server: nova.delete(server)),
    "live migrate": (lambda nova, server: None,
                     lambda nova, server: nova.live_migrate(server, "node2")),
    "break live": (lambda nova, server: None,
                   lambda nova, server: nova.live_migrate(server, "node2", breaks=True)),
    "recreate": (lambda nova, server: None, lambda nova, server: nova.resize(
        server, "both", "node2", recreates=True)),
}


def booted(nova: nova_moves.Nova, profile: str = "both") -> Server:
    server = nova.boot(profile, "node1")
    assert server.state == "active"
    return server


def plan(nova: nova_moves.Nova, call: str, fault: Fault = Fault.LOST, at: int = 1) -> None:
    nova.calls.planned.append(nova_calls.Planned(call, fault, at))


def calls_of(nova: nova_moves.Nova, name: str) -> list[str]:
    """The calls of an operation that succeeds."""
    before, operation = OPERATIONS[name]
    server = booted(nova)
    before(nova, server)
    nova.calls.made.clear()
    operation(nova, server)
    made = list(nova.calls.made)
    clear(nova)
    return made


def clear(nova: nova_moves.Nova) -> None:
    nova.remove_everything()
    nova.cloud.settle()


@pytest.mark.parametrize("name", OPERATIONS)
def test_whichever_call_is_lost_or_unheard_nothing_contradicts_itself(
        played: nova_moves.Nova, name: str) -> None:
    before, operation = OPERATIONS[name]
    for call in dict.fromkeys(calls_of(played, name)):
        for fault in (Fault.LOST, Fault.UNHEARD):
            server = booted(played)
            before(played, server)
            plan(played, call, fault)

            operation(played, server)

            assert not played.calls.planned
            assert nova_invariants.always(played) == [], (call, fault)
            played.cloud.settle()
            assert nova_invariants.at_rest(played) == [], (call, fault)
            can_be_repaired(played, server)
            clear(played)


def can_be_repaired(nova: nova_moves.Nova, server: Server) -> None:
    """A hard reboot helps, wherever the server is somewhere; a delete does in any case."""
    if server.state in ("active", "stopped", "resized", "suspended"):
        assert nova.reboot(server), server
        assert nova_invariants.always(nova) == []


# --- a conductor that dies at each point of its work ------------------------------------------

MORTAL = {
    # the call: the operation that makes it
    "POST": "unshelve", "PATCH": "unshelve", "DELETE instance": "delete",
    "PATCH migration": "resize", "begin": "resize to nothing", "switch": "resize",
    "end": "confirm", "suspend": "suspend", "resume": "resume"}


@pytest.mark.parametrize("call", MORTAL)
def test_wherever_a_conductor_dies_another_brings_all_to_rest(
        played: nova_moves.Nova, call: str) -> None:
    before, operation = OPERATIONS[MORTAL[call]]
    point = 0
    survived = False
    while not survived:
        point += 1
        server, deaths = booted(played), played.cloud.deaths
        before(played, server)
        plan(played, call, Fault.CONDUCTOR_DIES, point)

        operation(played, server)

        survived = played.cloud.deaths == deaths
        played.cloud.start_conductor()
        assert nova_invariants.always(played) == [], point
        played.cloud.settle()
        assert nova_invariants.at_rest(played) == [], point
        can_be_repaired(played, server)
        clear(played)
    assert point > 1
