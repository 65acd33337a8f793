# SPDX-License-Identifier: Apache-2.0
"""Chance sequences of operations and faults over several hosts and servers.

The same in every run. CYBORG_LITE_HISTORIES=N plays N other ones each time instead.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import stateful
from hypothesis import strategies as some

from tests.fixtures import nova_calls
from tests.fixtures import nova_invariants
from tests.fixtures import played_hosts
from tests.fixtures.nova_player import Server
from tests.flows import conftest

HISTORIES = int(os.environ.get("CYBORG_LITE_HISTORIES", "0"))
STEPS = 30
SERVERS_AT_MOST = 5

HOSTS = ("node1", "node2", "node3")
CALLS = ("GET profile", "POST", "PATCH", "GET instance", "DELETE", "switch", "end", "begin",
         "suspend", "resume")
FAULTS = [fault for fault in nova_calls.Fault if fault is not nova_calls.Fault.NONE]

HAPPENED: collections.Counter[str] = collections.Counter()
"""How often each operation ended in each way; a run of one's own choice prints it (pytest -s)."""

numbers = some.integers(0, 20)
hosts = some.sampled_from(HOSTS)
profiles = some.sampled_from([*conftest.PROFILES, None])


class Operations(stateful.RuleBasedStateMachine):
    """Users, operators, Nova and what goes wrong. Every rule is possible in every state: one that
    finds no server to work on does nothing."""

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

    def pick(self, number: int, *states: str, on_dead_host: bool = False) -> Server | None:
        """One of the servers in these states, on a host that works unless told otherwise."""
        found = [server for server in self.nova.servers.values() if server.state in states
                 and (not server.host
                      or self.nova.cloud.hosts[server.host].is_on is not on_dead_host)]
        return found[number % len(found)] if found else None

    def on(self, server: Server | None, name: str, operation: Callable[[Server], Any]) -> None:
        """Note what becomes of it."""
        if server is not None:
            before = server.state
            result = operation(server)
            HAPPENED[f"{name}, {before} -> {server.state} {result}"] += 1

    def alive(self, *names: str) -> list[str]:
        return [name for name in dict.fromkeys(names) if self.nova.cloud.hosts[name].is_on]

    # --- users --------------------------------------------------------------------------------

    @stateful.rule(profile=profiles, first=hosts, second=hosts, breaks=some.booleans())
    def boot(self, profile: str | None, first: str, second: str, breaks: bool) -> None:
        living = [server for server in self.nova.servers.values()
                  if server.state not in nova_invariants.GONE]
        if len(living) < SERVERS_AT_MOST:
            server = self.nova.boot(profile, *self.alive(first, second),
                                    breaks_on=[first] if breaks and first != second else [])
            HAPPENED[f"boot -> {server.state}"] += 1

    @stateful.rule(number=numbers, dead=some.booleans())
    def delete(self, number: int, dead: bool) -> None:
        self.on(self.pick(number, "active", "stopped", "error", "resized", "suspended",
                          "shelved", "offloaded", on_dead_host=dead), "delete",
                self.nova.delete)

    @stateful.rule(number=numbers)
    def reboot(self, number: int) -> None:
        server = self.pick(number, "active", "stopped", "resized", "suspended", "error")
        if server is not None and server.host:
            self.on(server, "reboot", self.nova.reboot)

    @stateful.rule(number=numbers)
    def stop(self, number: int) -> None:
        self.on(self.pick(number, "active"), "stop", self.nova.stop)

    @stateful.rule(number=numbers)
    def rebuild(self, number: int) -> None:
        self.on(self.pick(number, "active", "stopped"), "rebuild", self.nova.rebuild)

    @stateful.rule(number=numbers)
    def shelve(self, number: int) -> None:
        self.on(self.pick(number, "active", "stopped"), "shelve", self.nova.shelve)

    @stateful.rule(number=numbers, host=hosts)
    def unshelve(self, number: int, host: str) -> None:
        if self.alive(host):
            self.on(self.pick(number, "offloaded"), "unshelve",
                    lambda server: self.nova.unshelve(server, host))

    @stateful.rule(number=numbers)
    def suspend(self, number: int) -> None:
        self.on(self.pick(number, "active"), "suspend", self.nova.suspend)

    @stateful.rule(number=numbers)
    def resume(self, number: int) -> None:
        self.on(self.pick(number, "suspended"), "resume", self.nova.resume)

    @stateful.rule(number=numbers, profile=some.one_of(some.just("the same"), profiles),
                   first=hosts, second=hosts,
                   breaks=some.sampled_from(["", "", "first", "source", "finish"]),
                   recreates=some.sampled_from([False, False, False, True]))
    def resize(self, number: int, profile: str | None, first: str, second: str, breaks: str,
               recreates: bool) -> None:
        server = self.pick(number, "active", "stopped")
        if server is not None and self.alive(first, second):
            self.on(server, "resize", lambda server: self.nova.resize(
                server, server.profile if profile == "the same" else profile,
                *self.alive(first, second), recreates=recreates,
                breaks_on=[first] if breaks == "first" else [],
                breaks_at_source=breaks == "source", breaks_at_finish=breaks == "finish"))

    @stateful.rule(number=numbers, dead=some.booleans())
    def confirm(self, number: int, dead: bool) -> None:
        self.on(self.pick(number, "resized", on_dead_host=dead), "confirm",
                self.nova.confirm)

    @stateful.rule(number=numbers, dead=some.booleans())
    def revert(self, number: int, dead: bool) -> None:
        self.on(self.pick(number, "resized", on_dead_host=dead), "revert",
                self.nova.revert)

    # --- operators ----------------------------------------------------------------------------

    @stateful.rule(number=numbers, host=hosts, breaks=some.booleans())
    def live_migrate(self, number: int, host: str, breaks: bool) -> None:
        server = self.pick(number, "active")
        if server is not None and server.host != host and self.alive(host):
            self.on(server, "live migrate",
                    lambda server: self.nova.live_migrate(server, host, breaks=breaks))

    @stateful.rule(number=numbers, host=hosts)
    def evacuate(self, number: int, host: str) -> None:
        server = self.pick(number, "active", "stopped", "error", on_dead_host=True)
        if (server is not None and server.host and server.host != host and self.alive(host)
                and (server.migration is None or server.migration.kind == "live")):
            self.on(server, "evacuate", lambda server: self.nova.evacuate(server, host))

    # --- what goes wrong ----------------------------------------------------------------------

    @stateful.rule(host=hosts)
    def a_host_dies(self, host: str) -> None:
        if self.alive(host):
            self.nova.host_dies(host)

    @stateful.rule(host=hosts, resumes=some.booleans())
    def a_host_returns(self, host: str, resumes: bool) -> None:
        if not self.alive(host):
            self.nova.host_returns(host, resumes_guests=resumes)

    @stateful.rule(host=hosts)
    def an_agent_restarts(self, host: str) -> None:
        self.nova.cloud.hosts[host].stop_agent()
        self.nova.cloud.hosts[host].start_agent(self.nova.cloud.bus)

    @stateful.rule(host=hosts)
    def an_agent_ends(self, host: str) -> None:
        self.nova.cloud.hosts[host].stop_agent()

    @stateful.rule(host=hosts, mood=some.sampled_from(played_hosts.Mood))
    def an_agent_is_in_another_mood(self, host: str, mood: played_hosts.Mood) -> None:
        self.nova.cloud.hosts[host].mood = mood

    @stateful.rule(call=some.sampled_from(CALLS), fault=some.sampled_from(FAULTS),
                   at=some.integers(1, 6))
    def a_call_will_fail(self, call: str, fault: nova_calls.Fault, at: int) -> None:
        self.nova.calls.planned.append(nova_calls.Planned(call, fault, at))

    @stateful.rule(at=some.integers(1, 9))
    def a_conductor_dies_at_its_own_work(self, at: int) -> None:
        cloud = self.nova.cloud
        cloud.dies_at = cloud.points + at
        cloud.work()
        cloud.dies_at = None

    @stateful.rule()
    def the_conductor_is_killed(self) -> None:
        self.nova.cloud.kill_conductor()

    @stateful.rule()
    def all_work(self) -> None:
        self.nova.cloud.start_conductor()
        self.nova.cloud.work()

    @stateful.rule(seconds=some.sampled_from([5, 75, 130]))
    def time_passes(self, seconds: int) -> None:
        self.nova.cloud.let_pass(seconds)

    # --- what always holds --------------------------------------------------------------------

    @stateful.invariant()
    def nothing_contradicts_itself(self) -> None:
        assert nova_invariants.always(self.nova) == []


def test_whatever_is_done_and_whatever_fails_no_two_servers_share_and_nothing_is_lost(
        shared_cloud_in_time: conftest.Shared) -> None:
    stateful.run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Operations(shared_cloud_in_time),
        settings=hypothesis.settings(
            deadline=None, derandomize=not HISTORIES, max_examples=HISTORIES or 12,
            stateful_step_count=STEPS, database=None, print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck)))
    if HISTORIES:
        print("\n".join(f"{count:6} {what}" for what, count in sorted(HAPPENED.items())))
