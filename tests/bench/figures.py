# SPDX-License-Identifier: Apache-2.0
"""Arithmetic and tables: percentiles, summaries, ratios, text.

Nothing here measures anything.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the smallest sample that `share` of all don't exceed.

    share: between 0 and 1. Raises ValueError without samples.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Return count, median, p95, least and most, in the samples' own unit."""
    if not samples:
        return {"count": 0}
    return {"count": len(samples), "median": statistics.median(samples),
            "p95": percentile(samples, 0.95), "min": min(samples), "max": max(samples)}


def per_unit(before: dict[str, float], after: dict[str, float], units: int) -> dict[str, float]:
    """Return how much each meter that was read both times rose, for one unit of work."""
    return {name: (after[name] - before[name]) / units
            for name in before if name in after} if units else {}


def merged(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make one measurement of several rounds of the same case.

    A round: {"units", "wall_s", "samples": {name: [ms]}, "meters": {name: per unit}, "errors"}.
    """
    units = sum(one["units"] for one in rounds)
    names = list(dict.fromkeys(name for one in rounds for name in one["samples"]))
    samples = {name: [value for one in rounds for value in one["samples"].get(name, ())]
               for name in names}
    meters = {}
    for name in dict.fromkeys(name for one in rounds for name in one["meters"]):
        parts = [(one["meters"][name], one["units"]) for one in rounds if name in one["meters"]]
        weight = sum(count for _, count in parts)
        if weight:
            meters[name] = sum(value * count for value, count in parts) / weight
    wall_s = sum(one["wall_s"] for one in rounds)
    return {"units": units, "wall_s": wall_s,
            "per_second": units / wall_s if wall_s and units else None,
            "steps": {name: summary(values) for name, values in samples.items()},
            "meters": meters,
            "errors": [text for one in rounds for text in one["errors"]],
            "rounds": [{name: summary(values).get("median")
                        for name, values in one["samples"].items()} for one in rounds]}


def ratio(ours: float | None, other: float | None) -> float | None:
    """Return how many times `other` is `ours`; None where one of them is missing or zero."""
    if not ours or other is None:
        return None
    return other / ours


def compared(first: dict[str, Any], second: dict[str, Any], step: str) -> dict[str, Any]:
    """Return how many times faster the first target was than the second.

    by_round: the same for each round, so that the spread can be seen.
    """
    medians = [ratio(one.get(step), two.get(step))
               for one, two in zip(first["rounds"], second["rounds"], strict=False)]
    return {
        "median": ratio(first["steps"].get(step, {}).get("median"),
                        second["steps"].get(step, {}).get("median")),
        "p95": ratio(first["steps"].get(step, {}).get("p95"),
                     second["steps"].get(step, {}).get("p95")),
        "per_second": ratio(second.get("per_second"), first.get("per_second")),
        "by_round": medians,
        "meters": {name: ratio(value, second["meters"][name])
                   for name, value in first["meters"].items() if name in second["meters"]},
    }


def number(value: float | None) -> str:
    """Write a figure with three digits that count."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of text: the first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    lines = []
    for row in [heads, ["-" * width for width in widths], *rows]:
        cells = [cell.ljust(width) if place == 0 else cell.rjust(width)
                 for place, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
