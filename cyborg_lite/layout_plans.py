# SPDX-License-Identifier: Apache-2.0
"""From one layout to another: where partitions go, which are kept, what is destroyed and created.

Pure as `layouts`: who executes the steps, and what an error in the middle means, is decided there.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

from cyborg_lite import layouts

DESTROY = "destroy"
CREATE = "create"


@dataclasses.dataclass(frozen=True, slots=True)
class Instance:
    """A partition that exists. One in use is never destroyed."""

    id: int
    profile_id: int
    placement: layouts.Placement
    in_use: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One thing to do. `instance_id` is known of what is destroyed."""

    action: str
    profile_id: int
    placement: layouts.Placement
    instance_id: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All destructions, then all creations, largest first; or the reason why there is no way."""

    steps: tuple[Step, ...] = ()
    kept: tuple[Instance, ...] = ()
    reason: str = ""

    @property
    def destroyed(self) -> int:
        """Number of partitions that are lost on the way."""
        return sum(step.action == DESTROY for step in self.steps)


Place = tuple[int, layouts.Placement]
"""Id of a profile and where one partition of it lies."""


def plan(profiles: Iterable[layouts.Profile], current: Iterable[Instance],
         wanted: Mapping[int, int]) -> Plan:
    """The steps from `current` to `wanted` ({profile id: count}) that destroy the fewest.

    Creations name their placement: where a driver puts a partition by itself depends on the order,
    and some orders end with an error although everything would fit.
    """
    known = layouts.ordered(profiles)
    here = sorted(current, key=lambda one: one.placement)
    pinned = [one for one in here if one.in_use]
    free = [one for one in here if not one.in_use]
    for size in range(len(free), -1, -1):
        options = []
        for chosen in itertools.combinations(free, size):
            kept = [*pinned, *chosen]
            missing = _missing(wanted, kept)
            if missing is None:
                continue
            placed = arrange(known, missing, [one.placement for one in kept])
            if placed is not None:
                options.append((-sum(one.placement.size for one in kept), kept, placed))
        if options:
            _, kept, placed = min(options, key=lambda option: option[0])
            return _steps(here, kept, placed)
    return Plan(reason=_reason(known, pinned, wanted))


def arrange(profiles: Iterable[layouts.Profile], counts: Mapping[int, int],
            taken: Iterable[layouts.Placement] = ()) -> tuple[Place, ...] | None:
    """Places for `counts` ({profile id: count}) beside what is `taken`, largest first.

    Of several ways, the one that leaves most placements free, so that a later addition moves
    nothing. None: there is no way.
    """
    known = layouts.ordered(profiles)
    if set(counts) - {one.id for one in known}:
        return None
    kinds = list(layouts.shapes(known).items())
    if sum(counts.values()) != sum(counts.get(known[one].id, 0)
                                   for _, members in kinds for one in members):
        return None
    wanted = [sum(counts.get(known[one].id, 0) for one in members) for _, members in kinds]
    used = 0
    for placement in taken:
        used |= placement.mask
    places = [kind for kind, _ in kinds]
    best = max(_ways(places, wanted, used), default=None,
               key=lambda way: _room(places, used, way))
    if best is None:
        return None
    given: list[Place] = []
    for (_, members), starts in zip(kinds, best, strict=True):
        ids = itertools.chain.from_iterable(
            itertools.repeat(known[one].id, counts.get(known[one].id, 0)) for one in members)
        given += zip(ids, starts, strict=True)
    return tuple(sorted(given, key=lambda one: (-one[1].size, one[1].start)))


def _ways(places: Sequence[Sequence[layouts.Placement]], wanted: Sequence[int],
          used: int) -> Iterator[tuple[tuple[layouts.Placement, ...], ...]]:
    """Every way to place so many of each shape; partitions of one shape are exchangeable."""
    if not places:
        yield ()
        return
    for chosen in _rows(places[0], wanted[0], used):
        mask = used
        for one in chosen:
            mask |= one.mask
        for rest in _ways(places[1:], wanted[1:], mask):
            yield (chosen, *rest)


def _rows(places: Sequence[layouts.Placement], number: int,
          used: int) -> Iterator[tuple[layouts.Placement, ...]]:
    if number == 0:
        yield ()
        return
    for at in range(len(places) - number + 1):
        if not places[at].mask & used:
            for rest in _rows(places[at + 1:], number - 1, used | places[at].mask):
                yield (places[at], *rest)


def _room(places: Sequence[Sequence[layouts.Placement]], used: int,
          way: Iterable[Iterable[layouts.Placement]]) -> int:
    for one in itertools.chain.from_iterable(way):
        used |= one.mask
    return sum(not place.mask & used for kind in places for place in kind)


def _missing(wanted: Mapping[int, int], kept: Iterable[Instance]) -> dict[int, int] | None:
    """What has to be created beside `kept`; None if more is kept than is wanted."""
    missing = collections.Counter({key: number for key, number in wanted.items() if number})
    missing.subtract(one.profile_id for one in kept)
    return None if any(number < 0 for number in missing.values()) else dict(missing)


def _steps(here: Iterable[Instance], kept: Sequence[Instance], placed: Iterable[Place]) -> Plan:
    gone = [Step(DESTROY, one.profile_id, one.placement, one.id)
            for one in here if one not in kept]
    new = [Step(CREATE, profile_id, placement) for profile_id, placement in placed]
    return Plan((*gone, *new), tuple(kept))


def _reason(profiles: Iterable[layouts.Profile], pinned: Sequence[Instance],
            wanted: Mapping[int, int]) -> str:
    names = {one.id: one.name for one in profiles}
    text = layouts.describe((names.get(key, f"profile {key}"), number)
                            for key, number in wanted.items())
    if not pinned:
        return f"{text}: the device has no placements at which they lie side by side."
    held = ", ".join(f"{names.get(one.profile_id, f'profile {one.profile_id}')} at unit"
                     f" {one.placement.start}" for one in pinned)
    return (f"{text} can't be reached while these partitions are in use: {held}. Free them, or"
            " choose a layout that keeps them.")
