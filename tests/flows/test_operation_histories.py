# SPDX-License-Identifier: Apache-2.0
"""Chance sequences of operations and faults over several hosts and servers.

The same in every run. CYBORG_LITE_HISTORIES=N plays N other ones instead, and says what happened.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import hypothesis
from hypothesis import stateful
from hypothesis import strategies as some

from tests.fixtures import nova_calls
from tests.fixtures import nova_invariants
from tests.fixtures import played_hosts
from tests.fixtures.nova_records import Server
from tests.flows import conftest

HISTORIES = int(os.environ.get("CYBORG_LITE_HISTORIES", "0"))
STEPS = 30
SERVERS_AT_MOST = 5

HOSTS = ("node1", "node2", "node3")
PROFILES = [*conftest.PROFILES, None]
CALLS = ("GET profile", "POST", "PATCH", "GET instance", "DELETE", "switch", "end", "begin",
         "suspend", "resume")
FAULTS = [fault for fault in nova_calls.Fault if fault is not nova_calls.Fault.NONE]

HAPPENED: collections.Counter[str] = collections.Counter()
"""How often each operation ended in each way; a run of one's own choice prints it (pytest -s)."""

WORKS, DEAD, NOWHERE = "on a host that works", "on a dead host", "on no host"


class Operations(stateful.RuleBasedStateMachine):
    """Users, operators, Nova and what goes wrong. Each step does something that is possible."""

    def __init__(self, cloud: conftest.Shared) -> None:
        super().__init__()
        self.shared = cloud
        self.nova = cloud.get()
        # given back only by a history that ends well
        cloud.nova = None

    def teardown(self) -> None:
        """All is mended, comes to rest, and can be removed."""
        conftest.come_to_rest(self.nova)
        self.shared.nova = self.nova

    @stateful.rule(data=some.data(), kind=some.sampled_from(
        ["operation", "operation", "operation", "fault", "trouble", "time"]))
    def step(self, data: Any, kind: str) -> None:
        if kind == "operation":
            self.operate(data)
        elif kind == "fault":
            # of few steps to come; else nothing would ever succeed
            self.nova.calls.planned[:] = [*self.nova.calls.planned[-1:], nova_calls.Planned(
                data.draw(some.sampled_from(CALLS)), data.draw(some.sampled_from(FAULTS)),
                data.draw(some.integers(1, 6)))]
        elif kind == "trouble":
            self.make_trouble(data)
        else:
            self.nova.cloud.let_pass(data.draw(some.sampled_from([5, 75, 130])))

    @stateful.invariant()
    def nothing_contradicts_itself(self) -> None:
        assert nova_invariants.always(self.nova) == []

    # --- users, operators and Nova ------------------------------------------------------------

    def operate(self, data: Any) -> None:
        """One operation of those that Nova allows now, on one of the servers it allows it for."""
        nova = self.nova
        allowed: dict[str, Callable[[Server], Any]] = {}
        servers: dict[str, list[Server]] = {}

        def allow(name: str, where: Sequence[str], states: str,
                  operation: Callable[[Server], Any]) -> None:
            found = [server for server in nova.servers.values()
                     if server.state in states.split() and self.where(server) in where]
            if found:
                allowed[name], servers[name] = operation, found

        allow("delete", (WORKS, DEAD, NOWHERE), "active stopped error resized suspended shelved "
              "offloaded", nova.delete)
        allow("reboot", (WORKS,), "active stopped resized suspended error", nova.reboot)
        allow("stop", (WORKS,), "active", nova.stop)
        allow("rebuild", (WORKS,), "active stopped", nova.rebuild)
        allow("shelve", (WORKS,), "active stopped", nova.shelve)
        allow("unshelve", (NOWHERE,), "offloaded",
              lambda server: nova.unshelve(server, self.host(data)))
        allow("suspend", (WORKS,), "active", nova.suspend)
        allow("resume", (WORKS,), "suspended", nova.resume)
        allow("resize", (WORKS,), "active stopped", lambda server: self.resize(server, data))
        allow("confirm", (WORKS, DEAD), "resized", nova.confirm)
        allow("revert", (WORKS, DEAD), "resized", nova.revert)
        allow("live migrate", (WORKS,), "active", lambda server: self.live_migrate(server, data))
        allow("evacuate", (DEAD,), "active stopped error",
              lambda server: self.evacuate(server, data))
        living = sum(server.state not in nova_invariants.GONE for server in nova.servers.values())
        name = data.draw(some.sampled_from(
            [*allowed, *(["boot"] * 2 if living < SERVERS_AT_MOST else [])]))
        if name == "boot":
            server = nova.boot(data.draw(some.sampled_from(PROFILES)), self.host(data),
                               self.host(data))
            HAPPENED[f"boot -> {server.state}"] += 1
            return
        server = data.draw(some.sampled_from(servers[name]))
        before = server.state
        result = allowed[name](server)
        HAPPENED[f"{name}, {before} -> {server.state} {result}"] += 1

    def where(self, server: Server) -> str:
        if server.host is None:
            return NOWHERE
        return WORKS if self.nova.cloud.hosts[server.host].is_on else DEAD

    def host(self, data: Any, but: str | None = None) -> str:
        """A host that works, if one does, and is not that one."""
        found = [name for name in HOSTS if self.nova.cloud.hosts[name].is_on and name != but]
        return str(data.draw(some.sampled_from(found or HOSTS)))

    def resize(self, server: Server, data: Any) -> bool:
        breaks = data.draw(some.sampled_from(["", "", "", "first", "source", "finish"]))
        profile = data.draw(some.sampled_from([server.profile, server.profile, *PROFILES]))
        first, second = self.host(data), self.host(data)
        return self.nova.resize(
            server, profile, *dict.fromkeys((first, second)),
            breaks_on=[first] if breaks == "first" else [], breaks_at_source=breaks == "source",
            breaks_at_finish=breaks == "finish",
            recreates=data.draw(some.sampled_from([False, False, False, True])))

    def live_migrate(self, server: Server, data: Any) -> bool:
        host = self.host(data, but=server.host)
        return host != server.host and self.nova.live_migrate(
            server, host, breaks=data.draw(some.sampled_from([False, False, True])))

    def evacuate(self, server: Server, data: Any) -> bool:
        host = self.host(data, but=server.host)
        if host == server.host or (server.migration and server.migration.kind == "cold"):
            return False
        return self.nova.evacuate(server, host)

    # --- what goes wrong ----------------------------------------------------------------------

    def make_trouble(self, data: Any) -> None:
        nova, cloud = self.nova, self.nova.cloud
        host = cloud.hosts[data.draw(some.sampled_from(HOSTS))]

        def restart() -> None:
            host.stop_agent()
            host.start_agent(cloud.bus)

        def change_mood() -> None:
            host.mood = data.draw(some.sampled_from(played_hosts.Mood))

        def die() -> None:
            cloud.start_conductor()
            cloud.dies_at = cloud.points + data.draw(some.integers(1, 9))
            cloud.work()
            cloud.dies_at = None

        def lose_power() -> None:
            if host.is_on:
                nova.host_dies(host.name)
            else:
                nova.host_returns(host.name, resumes_guests=data.draw(some.booleans()))

        data.draw(some.sampled_from([
            lose_power, lose_power, restart, host.stop_agent, change_mood, die,
            cloud.kill_conductor, cloud.start_api]))()


def test_whatever_is_done_and_whatever_fails_no_two_servers_share_and_nothing_is_lost(
        shared_cloud_in_time: conftest.Shared) -> None:
    try:
        stateful.run_state_machine_as_test(  # type: ignore[no-untyped-call]
            lambda: Operations(shared_cloud_in_time),
            settings=hypothesis.settings(
                deadline=None, derandomize=not HISTORIES, max_examples=HISTORIES or 12,
                stateful_step_count=STEPS, database=None, print_blob=True,
                suppress_health_check=list(hypothesis.HealthCheck)))
    finally:
        if HISTORIES:
            print("\n".join(f"{count:6} {what}" for what, count in sorted(HAPPENED.items())))
