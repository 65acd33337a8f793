# SPDX-License-Identifier: Apache-2.0
"""Reads of what is stored: one instance's ARQs, and whole lists, one request after another.

Knows the public API alone; what is stored was put there by a seeder.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from tests.bench import boots
from tests.bench import seeds
from tests.bench import wire

ANSWER = "answer"
"""The one step of these cases: from the request until the whole answer is read."""

PATHS = {
    "arqs": "/accelerator_requests",
    "devices": "/devices",
    "deployables": "/deployables",
}
WARM_UP = 2


def run(site: boots.Site, *, what: str, size: int, count: int, budget_s: float,
        read_meters: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """Send `count` requests, or as many as start within the budget, at least one.

    what: a key of PATHS, or get_instance for one of the seeded instances each time.
    Answers that lack seeded objects are errors.
    """
    connection = site.connection(timeout_s=300.0)
    samples: list[float] = []
    errors: list[str] = []
    numbers = itertools.count()

    def once() -> float:
        began = time.perf_counter()
        found = _ask(connection, what, next(numbers) * 7919 % size)
        lasted = (time.perf_counter() - began) * 1000
        wanted = 1 if what == "get_instance" else size
        if found < wanted:
            errors.append(f"{what} answered {found} entries, at least {wanted} are stored")
        return lasted

    try:
        first = once()
        # a first request may pay for connections; a slow one is not worth repeating for that
        for _ in range(WARM_UP if first * WARM_UP < budget_s * 250 else 0):
            once()
        before = read_meters()
        began = time.perf_counter()
        while len(samples) < count and (
                not samples or time.perf_counter() - began < budget_s):
            samples.append(once())
        wall_s = time.perf_counter() - began
        after = read_meters()
    except (wire.WireError, boots.BootFailed) as error:
        return {"units": 0, "wall_s": 0.0, "samples": {}, "errors": [str(error)],
                "before": {}, "after": {}}
    finally:
        connection.close()
    return {"units": len(samples), "wall_s": wall_s, "samples": {ANSWER: samples},
            "errors": errors[:boots.MOST_ERRORS], "before": before, "after": after}


def _ask(connection: wire.Connection, what: str, number: int) -> int:
    """Send one request; returns how many entries came."""
    if what == "get_instance":
        path = f"/accelerator_requests?instance={seeds.seed_uuid('instance', number)}"
    else:
        path = PATHS[what]
    answer = connection.request("GET", path)
    if answer.status != 200:
        raise boots.BootFailed(f"GET {path} answered {answer.status}: {answer.body[:300]!r}")
    # counting is cheaper than decoding ten thousand entries; each entry has one of these
    return answer.body.count(b'"created_at"')
