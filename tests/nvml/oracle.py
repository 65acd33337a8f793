# SPDX-License-Identifier: Apache-2.0
"""What a device allows, found by trying everything; slow, and written apart from the service's own.

Also profiles as test data: those of published cards, and those of no card there is.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from cyborg_lite import layouts
from tests.nvml import stand_in

DOUBLE_MEMORY = 9
"""NVML's index of the 1g profile of double memory."""


def a_profile(facts: dict[str, Any]) -> layouts.Profile:
    return layouts.Profile(
        facts["id"], facts["name"], facts["slices"], facts["memory_mib"], facts["max"],
        tuple(layouts.Placement(start, facts["size"]) for start in facts["starts"]))


def of_card(name: str) -> list[layouts.Profile]:
    return [a_profile(one) for one in stand_in.mig_cards()[name]["profiles"]]


def base_of(name: str, double_memory: bool = False) -> list[layouts.Profile]:
    return [a_profile(one) for one in stand_in.mig_cards()[name]["profiles"]
            if "+" not in one["name"] and "-" not in one["name"]
            and (double_memory or one["index"] != DOUBLE_MEMORY)]


Placed = frozenset[tuple[int, layouts.Placement]]


def everything(profiles: list[layouts.Profile]) -> set[Placed]:
    """Every set of partitions in their places, by adding one at a time."""
    found: set[Placed] = {frozenset()}
    ahead: list[Placed] = [frozenset()]
    while ahead:
        there = ahead.pop()
        for more in additions(profiles, there):
            grown = there | {more}
            if grown not in found:
                found.add(grown)
                ahead.append(grown)
    return found


def at_most(profiles: list[layouts.Profile], limit: int) -> bool:
    """Whether so many sets of partitions are enough for `everything`; media are not looked at."""
    sets: collections.Counter[int] = collections.Counter({0: 1})
    units = max((one.start + one.size for each in profiles for one in each.placements), default=0)
    for unit in range(units):
        for end, number in collections.Counter(
                one.start + one.size for each in profiles for one in each.placements
                if one.start == unit).items():
            sets[end] += number * sets[unit]
        sets[unit + 1] += sets[unit]
    return sets[units] <= limit


def room(profiles: list[layouts.Profile], there: Iterable[tuple[int, layouts.Placement]],
         profile_id: int) -> int:
    """How many more of a profile fit beside what is there; its places have one size."""
    placed, number = frozenset(there), 0
    while more := [one for one in additions(profiles, placed) if one[0] == profile_id]:
        placed, number = placed | {min(more)}, number + 1
    return number


def additions(profiles: list[layouts.Profile], there: Placed
              ) -> list[tuple[int, layouts.Placement]]:
    by_id = {one.id: one for one in profiles}
    taken = {unit for _, place in there for unit in range(place.start, place.start + place.size)}
    names = [by_id[key].name for key, _ in there]
    return [(one.id, place) for one in profiles for place in one.placements
            if sum(key == one.id for key, _ in there) < one.max_instances
            and not taken & set(range(place.start, place.start + place.size))
            and media_allows([*names, one.name])]


def media_allows(names: list[str]) -> bool:
    everything_taken = [name for name in names if name.endswith("+me.all")]
    with_media = [name for name in names if name.endswith("+me")] + everything_taken
    if len(with_media) > 1:
        return False
    return not everything_taken or all(
        name.endswith("-me") for name in names if name not in everything_taken)


def as_counts(placed: Placed) -> frozenset[tuple[int, int]]:
    return frozenset(collections.Counter(key for key, _ in placed).items())


def counts_of(layout: layouts.Layout) -> frozenset[tuple[int, int]]:
    return frozenset((one.profile_id, one.count) for one in layout.counts)


@st.composite
def any_profiles(draw: st.DrawFn) -> list[layouts.Profile]:
    """Profiles of no device there is, with placements as odd as they like."""
    units = draw(st.integers(1, 6))
    kinds = draw(st.lists(
        st.tuples(st.sampled_from(["", "+me", "+me.all", "-me", "+gfx"]), st.integers(1, units),
                  st.sets(st.integers(0, units - 1), max_size=4), st.integers(0, 4)),
        max_size=4))
    return [layouts.Profile(
        id=at, name=f"p{at}{suffix}", slices=size, memory_mib=size * 1024, max_instances=most,
        placements=tuple(layouts.Placement(start, size) for start in starts
                         if start + size <= units))
        for at, (suffix, size, starts, most) in enumerate(kinds)]
