# SPDX-License-Identifier: Apache-2.0
"""The brake of sweeps: who takes half of what lives for dead is wrong, or was told wrong things.

A Nova of another region, or one from an old backup, lacks thousands of instances at once. What is
an orphan is in `orphan_judgement.py`.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Protocol

from cyborg_lite.conductor import orphan_judgement as judgement
from cyborg_lite.db import orphans
from cyborg_lite.db import session

BRAKED = (judgement.ARQ_INSTANCE_GONE, judgement.ARQ_INSTANCE_ELSEWHERE,
          judgement.ALLOCATION_WITHOUT_CONSUMER)
"""Kinds that Nova's word makes orphans. The rows of a host stay while it has ARQs."""


class Limits(Protocol):
    """The options of `[reconcile]` that are used."""

    brake_above: int
    brake_above_percent: int


def hold(database: session.Database, verdicts: Sequence[judgement.Verdict],
         over: Sequence[orphans.Record], limits: Limits,
         ) -> tuple[list[judgement.Verdict], dict[str, str]]:
    """Hold back what is confirmed of each kind of which there are too many; says why, by kind.

    What counts is every open record of the kind, of whichever host and sweep: when something is
    confirmed, an earlier sweep has seen all hosts. over: records of what is there no more. Three
    statements, none where nothing of these kinds is confirmed.
    """
    kinds = {one.finding.kind for one in verdicts
             if one.is_confirmed and one.finding.kind in BRAKED}
    if not kinds:
        return list(verdicts), {}
    here = [one for one in verdicts if one.finding.kind in kinds]
    elsewhere, arqs = orphans.suspected(
        database, kinds, but=[*(record.id for record in over), *(
            one.sighting.record.id for one in here if one.sighting.record is not None)])
    found = collections.Counter(elsewhere)
    found.update(one.finding.kind for one in here if not one.finding.keeps)
    why = too_many(found, arqs, limits)
    return [_held(one, why[one.finding.kind])
            if one.is_confirmed and one.finding.kind in why else one for one in verdicts], why


def too_many(found: Mapping[str, int], arqs: int, limits: Limits) -> dict[str, str]:
    """Say of which kinds there are more than both limits allow; arqs: those of the whole cloud."""
    most = max(limits.brake_above, arqs * limits.brake_above_percent // 100)
    return {kind: f"{number} orphans of this kind at once, beside {arqs} accelerator requests on "
                  f"hosts, are more than the {most} that [reconcile] brake_above and "
                  "brake_above_percent allow"
            for kind, number in sorted(found.items()) if number > most}


def _held(verdict: judgement.Verdict, why: str) -> judgement.Verdict:
    sighting = dataclasses.replace(
        verdict.sighting,
        reason=f"{verdict.finding.reason} It waits for an administrator to clean it: {why}.")
    return dataclasses.replace(verdict, sighting=sighting, is_held=True)
