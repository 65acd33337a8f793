# SPDX-License-Identifier: Apache-2.0
"""Which cases a run has, and running them on one target or alternately on two.

Prints progress through a function it is given; makes no tables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from tests.bench import boots
from tests.bench import figures
from tests.bench import lists
from tests.bench import meters
from tests.bench import nova
from tests.bench import null_service
from tests.bench import reports
from tests.bench import seeds
from tests.bench import sweeps
from tests.bench import targets
from tests.bench import tokens
from tests.bench import wire

FAMILIES = ("idle", "boot", "lists", "reports", "sweep")
LISTS = ("get_instance", *lists.PATHS)
WARM_UP_BOOTS = 3

Say = Callable[[str], None]
Results = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is done at most; each bound holds by itself."""

    concurrency: tuple[int, ...] = (1, 16)
    accelerators: tuple[int, ...] = (1, 8)
    beside: tuple[int, ...] = (0, 1000)
    sizes: tuple[int, ...] = (100, 1000, 10000)
    devices: tuple[int, ...] = (8, 64)
    lists: tuple[str, ...] = LISTS
    boots: int = 40
    requests: int = 20
    reports: int = 200
    rounds: int = 2
    budget_s: float = 10.0


class Bench:
    """One target made ready: logged in, its profiles made, its meters and recorder open."""

    def __init__(self, target: targets.Target, limits: Limits, stack: contextlib.ExitStack) -> None:
        self.target = target
        self.meters = meters.Meters(target)
        identity = tokens.identity(target)
        events: nova.Events
        if target.nova_wait:
            events = nova.RemoteRecorder(target.nova_wait)
        else:
            events = stack.enter_context(nova.Recorder(target.nova_listen or "127.0.0.1:0"))
        connection = wire.Connection(target.url, identity.headers)
        providers, capacity = boots.find_providers(target, connection)
        connection.close()
        self.site = boots.Site(target, identity, events, providers, capacity)
        for accelerators in {1, *limits.accelerators}:
            boots.make_profile(self.site, accelerators)
        self.seeder: seeds.Seeder | None = None
        if target.database:
            self.seeder = seeds.KINDS[target.schema](
                target.database, identity.project_id, boots.profile_name(1), target.resources,
                target.trait)
            stack.callback(self.seeder.close)
        self.reporter: reports.Reporter | None = None
        if target.reporter and target.placement_url:
            self.reporter = stack.enter_context(reports.Reporter(target.reporter))


class Run:
    """Collects the rounds of each case for each target."""

    def __init__(self, benches: list[Bench], limits: Limits, families: tuple[str, ...],
                 say: Say) -> None:
        self._benches, self._limits, self._families, self._say = benches, limits, families, say
        self._rounds: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.notes: list[str] = []

    def results(self) -> Results:
        """Run everything; returns case -> target -> measurement."""
        for family in self._families:
            getattr(self, f"_{family}")()
        return {case: {name: figures.merged(rounds) for name, rounds in by_target.items()}
                for case, by_target in self._rounds.items()}

    def _idle(self) -> None:
        for bench in self._benches:
            for service, sizes in bench.meters.resident().items():
                self._keep(f"idle {service}", bench, {
                    "units": 1, "wall_s": 0.0, "errors": [], "before": {}, "after": {},
                    "samples": {"resident_mib": sizes}})

    def _boot(self) -> None:
        limits = self._limits
        for beside in limits.beside:
            able = self._seeded(max(1, beside // 16), beside) if beside else self._benches
            for accelerators in limits.accelerators:
                for concurrency in limits.concurrency:
                    if beside and accelerators != min(limits.accelerators):
                        continue
                    self._boot_case(able, beside, accelerators, concurrency)
            self._unseed(able if beside else [])

    def _boot_case(self, able: list[Bench], beside: int, accelerators: int,
                   concurrency: int) -> None:
        case = f"boot x{concurrency}, {accelerators} acc, beside {beside}"
        wanted = concurrency * accelerators
        fitting = [bench for bench in able if bench.site.capacity >= wanted]
        if len(fitting) < len(able):
            self._note(f"{case}: needs {wanted} handles, left out where there are fewer")
        for turn, bench in self._turns(fitting):
            if not turn:
                self._boots(bench, 1, accelerators, WARM_UP_BOOTS)
            self._keep(case, bench, self._boots(bench, concurrency, accelerators,
                                                self._limits.boots * min(concurrency, 4)))

    def _boots(self, bench: Bench, concurrency: int, accelerators: int, count: int) -> dict[
            str, Any]:
        return boots.run(bench.site, concurrency=concurrency, accelerators=accelerators,
                         count=count, budget_s=self._limits.budget_s,
                         read_meters=bench.meters.read)

    def _lists(self) -> None:
        for size in self._limits.sizes:
            able = self._seeded(size, size)
            for what in self._limits.lists:
                for _, bench in self._turns(able):
                    self._keep(f"{what} of {size}", bench, lists.run(
                        bench.site, what=what, size=size, count=self._limits.requests,
                        budget_s=self._limits.budget_s, read_meters=bench.meters.read))
            self._unseed(able)

    def _reports(self) -> None:
        able = [bench for bench in self._benches if bench.reporter]
        if len(able) < len(self._benches):
            self._note("reports: left out where reporter or placement_url is not set")
        for devices in self._limits.devices:
            for _, bench in self._turns(able):
                assert bench.reporter
                found = reports.run(bench.site, bench.reporter, devices=devices,
                                    count=self._limits.reports, budget_s=self._limits.budget_s,
                                    read_meters=bench.meters.read)
                for step, one in found.items():
                    if one["units"] or one["errors"]:
                        self._keep(f"report {devices} devices, {step}", bench, one)

    def _sweep(self) -> None:
        able = self._seeded(max(1, max(self._limits.sizes) // 16), max(self._limits.sizes))
        fitting = [bench for bench in able if bench.target.schema == "cyborg-lite"
                   and isinstance(bench.site.events, nova.Recorder)]
        if len(fitting) < len(able):
            self._note("sweep: left out where there are no sweeps, or nova_listen is not set")
        for bench in fitting:
            assert isinstance(bench.site.events, nova.Recorder)
            bench.site.events.servers = seeds.servers(max(self._limits.sizes))
        size = max(self._limits.sizes)
        for turn, bench in self._turns(fitting):
            if not turn:
                self._boots(bench, 1, 1, WARM_UP_BOOTS)
            self._keep(f"boot x1, no sweep of {size}", bench,
                       self._boots(bench, 1, 1, self._limits.boots))
            with sweeps.Sweeper(bench.site) as sweeper:
                one = self._boots(bench, 1, 1, self._limits.boots)
            one["samples"]["whole_sweep"] = sweeper.took_ms
            one["errors"] += [sweeper.error] if sweeper.error else []
            self._keep(f"boot x1, during sweeps of {size}", bench, one)
            self._note(f"{bench.target.name}: a sweep of {size} counted {sweeper.counts}")
        self._unseed(able)

    def _turns(self, benches: list[Bench]) -> Iterator[tuple[int, Bench]]:
        """Yield targets alternately, so that a slow minute of the machine hits each."""
        for turn in range(self._limits.rounds):
            for bench in benches if turn % 2 == 0 else benches[::-1]:
                yield turn, bench

    def _seeded(self, devices: int, arqs: int) -> list[Bench]:
        able = [bench for bench in self._benches if bench.seeder]
        if len(able) < len(self._benches):
            self._note("cases beside stored objects: left out where database is not set")
        for bench in able:
            self._say(f"{bench.target.name}: storing {devices} devices and {arqs} ARQs")
            assert bench.seeder
            bench.seeder.seed(devices, arqs)
        return able

    def _unseed(self, benches: list[Bench]) -> None:
        for bench in benches:
            assert bench.seeder
            bench.seeder.unseed()

    def _keep(self, case: str, bench: Bench, one: dict[str, Any]) -> None:
        one["meters"] = figures.per_unit(one.pop("before"), one.pop("after"), one["units"])
        self._rounds.setdefault(case, {}).setdefault(bench.target.name, []).append(one)
        first = next(iter(one["samples"].items()), None)
        text = ("" if first is None or not first[1] else
                f"{first[0]} median {figures.number(figures.summary(first[1])['median'])}")
        self._say(f"{bench.target.name}: {case}: {one['units']} in {one['wall_s']:.1f} s {text}"
                  + (f"; ERROR {one['errors'][0]}" if one["errors"] else ""))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self._say(text)


def overhead(limits: Limits) -> dict[str, Any]:
    """Measure the generator itself: boots against a service that does nothing."""
    with contextlib.ExitStack() as stack:
        recorder = stack.enter_context(nova.Recorder("127.0.0.1:0"))
        process = subprocess.Popen(
            [sys.executable, "-m", null_service.__name__, f"http://{recorder.address}/v2.1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.enter_context(process)
        stack.callback(process.stdin.close)  # type: ignore[union-attr]
        address = process.stdout.readline().strip()  # type: ignore[union-attr]
        target = targets.Target(name="null", url=f"http://{address}/v2", auth="noauth",
                                hostname=null_service.HOSTNAME)
        site = boots.Site(target, tokens.identity(target), recorder, [null_service.PROVIDER],
                          null_service.HANDLES)
        return {f"boot x{concurrency}, 1 acc": figures.merged([_metered(boots.run(
            site, concurrency=concurrency, accelerators=1, count=100 * min(concurrency, 4),
            budget_s=min(limits.budget_s, 5.0),
            read_meters=lambda: {"cpu_ms.generator": meters.own_cpu_ms()}))])
            for concurrency in limits.concurrency}


def _metered(one: dict[str, Any]) -> dict[str, Any]:
    one["meters"] = figures.per_unit(one.pop("before"), one.pop("after"), one["units"])
    return one
