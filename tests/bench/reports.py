# SPDX-License-Identifier: Apache-2.0
"""An agent's reports of a host: first, unchanged, one device changed, all gone.

The words of an agent are a reporter's matter (`reporters/`), run as a program of its own in
whatever interpreter has what it needs; here is what is asked of it and when Placement agrees.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable
from typing import Any

from tests.bench import boots
from tests.bench import wire

STEPS = ("first", "unchanged", "repeated", "changed", "gone")
CALL = "call"
"""Until the agent has its answer."""
AGREED = "agreed"
"""Until Placement has as many providers below the host's as it reported devices."""
SETTLE_S = 120.0
POLL_S = 0.05


class Reporter:
    """The program that speaks as an agent. Use as a context manager."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(  # what the operator of the benchmark named
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Reporter:
        self._answer()
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def report(self, **order: Any) -> dict[str, Any]:
        """Have one report sent; returns its answer, {"seconds": ...} or {"error": ...}."""
        self._process.stdin.write(json.dumps(order) + "\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            return {"error": f"the reporter ended with {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer


class Tree:
    """A host's provider in Placement, made for one case and removed after it."""

    def __init__(self, site: boots.Site, host: str) -> None:
        self._connection = wire.Connection(
            str(site.target.placement_url),
            {**site.identity.headers, "OpenStack-API-Version": "placement 1.39"})
        self._uuid = str(uuid.uuid4())
        self.polls = 0
        answer = self._connection.request(
            "POST", "/resource_providers", {"name": host, "uuid": self._uuid})
        if answer.status != 200:
            raise wire.WireError(f"Placement answered {answer.status}: {answer.body[:300]!r}")

    def settle(self, children: int, began: float) -> float | None:
        """Wait until so many providers are below; returns the ms since `began`, None if never.

        Each look is a request of ours, counted in `polls`.
        """
        while time.perf_counter() - began < SETTLE_S:
            self.polls += 1
            if len(self._members()) == children + 1:
                return (time.perf_counter() - began) * 1000
            time.sleep(POLL_S)
        return None

    def remove(self) -> None:
        """Delete the provider and what was left below it."""
        members = self._members()
        for one in sorted(members, key=lambda each: each["uuid"] == self._uuid):
            self._connection.request("DELETE", f"/resource_providers/{one['uuid']}")
        self._connection.close()

    def _members(self) -> list[dict[str, Any]]:
        answer = self._connection.request("GET", f"/resource_providers?in_tree={self._uuid}")
        found: list[dict[str, Any]] = answer.json()["resource_providers"]
        return found


def run(site: boots.Site, reporter: Reporter, *, devices: int, count: int, budget_s: float,
        read_meters: Callable[[], dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Report a new host's life once; returns a measurement for each step of STEPS.

    unchanged is sent `count` times, within the budget, and so is repeated: the whole report
    once more, where an agent would otherwise send less (a reporter skips it where it would not).
    """
    host = f"bench-report-{uuid.uuid4().hex[:8]}"
    tree = Tree(site, host)
    try:
        return {step: _measure(step, tree, reporter, host=host, devices=devices,
                               count=count if step in ("unchanged", "repeated") else 1,
                               budget_s=budget_s, read_meters=read_meters)
                for step in STEPS}
    finally:
        reporter.report(host=host, devices=0, changed=0)
        tree.remove()


def _measure(step: str, tree: Tree, reporter: Reporter, *, host: str, devices: int, count: int,
             budget_s: float, read_meters: Callable[[], dict[str, float]]) -> dict[str, Any]:
    order = {"host": host, "devices": 0 if step == "gone" else devices,
             "changed": 1 if step in ("changed", "gone") else 0, "whole": step == "repeated"}
    samples: dict[str, list[float]] = {CALL: [], AGREED: []}
    errors = []
    before, polls = read_meters(), tree.polls
    began = time.perf_counter()
    while len(samples[CALL]) < count and (
            not samples[CALL] or time.perf_counter() - began < budget_s):
        sent = time.perf_counter()
        answer = reporter.report(**order)
        if "skip" in answer:
            break
        if "error" in answer:
            errors.append(f"{step}: {answer['error']}")
            break
        samples[CALL].append(answer["seconds"] * 1000)
        if step in ("first", "gone"):
            agreed = tree.settle(order["devices"], sent)
            if agreed is None:
                errors.append(f"{step}: Placement did not agree within {SETTLE_S:g} s")
            else:
                samples[AGREED].append(agreed)
    wall_s = time.perf_counter() - began
    if step == "changed":
        # the sync that follows a change has no sign that any service would show: give it time
        time.sleep(1.0)
    after = read_meters()
    if "placement" in after:
        after["placement"] -= tree.polls - polls
    return {"units": len(samples[CALL]), "wall_s": wall_s,
            "samples": {name: values for name, values in samples.items() if values},
            "errors": errors, "before": before, "after": after}
