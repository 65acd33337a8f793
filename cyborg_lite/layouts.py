# SPDX-License-Identifier: Apache-2.0
"""Partition arithmetic: every layout that the placements of a device's profiles allow.

No NVML, no files, no names of device models: what a device can do is data that its driver gives.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterable
from collections.abc import Sequence

_COUNT_BITS = 10
_COUNT_MASK = (1 << _COUNT_BITS) - 1

EMPTY_ID = "empty"
"""Id of the layout without partitions."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Placement:
    """The memory units `start` to `start + size - 1` of a device. A unit is not a slice."""

    start: int
    size: int

    @property
    def mask(self) -> int:
        """One bit for each unit."""
        return ((1 << self.size) - 1) << self.start


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """One kind of partition, as NVML tells it: `id` is what a creation takes, `name` may change."""

    id: int
    name: str
    slices: int
    memory_mib: int
    max_instances: int
    placements: tuple[Placement, ...]

    @property
    def takes_media(self) -> bool:
        """Holds the one set of media engines (`+me`, `+me.all`) that a device has to give."""
        return self.name.endswith(("+me", "+me.all"))

    @property
    def takes_all_media(self) -> bool:
        """Leaves no media engine, so that only `-me` profiles can be beside it."""
        return self.name.endswith("+me.all")

    @property
    def needs_media(self) -> bool:
        """Can't be beside a profile that takes all media engines."""
        return not self.name.endswith(("-me", "+me.all"))

    @property
    def units(self) -> int:
        """Memory units of its smallest placement."""
        return min((placement.size for placement in self.placements), default=0)


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """So many partitions of one profile."""

    profile_id: int
    profile: str
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """A set of partitions. `id` is made of profile ids, so it survives a change of names.

    `maximal`: it can be placed in a way that leaves room for nothing more.
    """

    id: str
    counts: tuple[Count, ...]
    slices_used: int
    memory_used_mib: int
    maximal: bool

    def __str__(self) -> str:
        return describe((count.profile, count.count) for count in self.counts)


def describe(counts: Iterable[tuple[str, int]]) -> str:
    """`3g.20gb + 2x1g.5gb`."""
    parts = [name if count == 1 else f"{count}x{name}" for name, count in counts if count]
    return " + ".join(parts) or "no partitions"


def ordered(profiles: Iterable[Profile]) -> list[Profile]:
    """Largest first; of equal ones by id, which drivers keep while they change names."""
    return sorted(profiles, key=lambda one: (-one.slices, -one.units, one.id))


def all_layouts(profiles: Iterable[Profile]) -> tuple[Layout, ...]:
    """Every valid layout once, largest partitions first; the empty one is the last."""
    return _search(tuple(ordered(profiles)))


def maximal_layouts(profiles: Iterable[Profile]) -> tuple[Layout, ...]:
    """The valid layouts that can be placed so that nothing can be added."""
    return tuple(layout for layout in all_layouts(profiles) if layout.maximal)


def find(profiles: Iterable[Profile], layout_id: str) -> Layout | None:
    """The valid layout with that id."""
    return next((one for one in all_layouts(profiles) if one.id == layout_id), None)


def layout_id(counts: Iterable[tuple[int, int]]) -> str:
    """The id of a layout of (profile id, count), given in the order of `ordered`."""
    parts = [str(profile_id) if count == 1 else f"{profile_id}x{count}"
             for profile_id, count in counts if count]
    return "-".join(parts) or EMPTY_ID


def shapes(profiles: Sequence[Profile]) -> dict[tuple[Placement, ...], list[int]]:
    """Profiles (by index) that lie in the same places; in the search they are one."""
    found: dict[tuple[Placement, ...], list[int]] = {}
    for index, profile in enumerate(profiles):
        placements = tuple(sorted({one for one in profile.placements if one.size > 0}))
        if placements and profile.max_instances > 0:
            found.setdefault(placements, []).append(index)
    return found


@functools.lru_cache(maxsize=64)
def _search(profiles: tuple[Profile, ...]) -> tuple[Layout, ...]:
    shape_of = shapes(profiles)
    kinds = list(shape_of)
    members = list(shape_of.values())
    found: dict[tuple[int, ...], bool] = {}
    for packed, rooms in _placed(kinds, profiles, members).items():
        numbers = [packed >> _COUNT_BITS * at & _COUNT_MASK for at in range(len(kinds))]
        choices = [_shares(number, tuple(profiles[one].max_instances for one in variants))
                   for number, variants in zip(numbers, members, strict=True)]
        for chosen in itertools.product(*choices):
            counts = [0] * len(profiles)
            for variants, share in zip(members, chosen, strict=True):
                for index, number in zip(variants, share, strict=True):
                    counts[index] = number
            if media_fits(profiles, counts):
                found[tuple(counts)] = _is_maximal(profiles, counts, members, rooms)
    return tuple(_layout(profiles, counts, found[counts])
                 for counts in sorted(found, reverse=True))


def _placed(kinds: Sequence[tuple[Placement, ...]], profiles: Sequence[Profile],
            members: Sequence[Sequence[int]]) -> dict[int, set[tuple[int, ...]]]:
    """Each reachable number of partitions per shape, packed, with the rooms that may be left.

    A room is the set of shapes for which a place is still free. The scan goes over the units from
    left to right and remembers what lies there, not how it got there.
    """
    limits = [min(sum(profiles[one].max_instances for one in variants), _COUNT_MASK)
              for variants in members]
    units = max((one.start + one.size for kind in kinds for one in kind), default=0)
    low = _COUNT_BITS * len(kinds)
    steps: dict[int, list[tuple[int, int, int, int]]] = collections.defaultdict(list)
    for at, kind in enumerate(kinds):
        for one in kind:
            step = (one.mask << low) + (1 << _COUNT_BITS * at)
            steps[one.start].append((one.start + one.size, _COUNT_BITS * at, limits[at], step))
    reached: list[set[int]] = [set() for _ in range(units + 1)]
    reached[0].add(0)
    for unit in range(units):
        reached[unit + 1] |= reached[unit]
        for end, shift, limit, step in steps[unit]:
            reached[end].update(state + step for state in reached[unit]
                                if (state >> shift & _COUNT_MASK) < limit)
    masks = [[one.mask for one in kind] for kind in kinds]
    rooms: dict[int, set[tuple[int, ...]]] = collections.defaultdict(set)
    free_shapes = functools.lru_cache(maxsize=None)(lambda used: tuple(
        at for at, places in enumerate(masks) if any(not used & place for place in places)))
    for state in reached[units]:
        rooms[state & ((1 << low) - 1)].add(free_shapes(state >> low))
    return rooms


@functools.lru_cache(maxsize=1024)
def _shares(number: int, limits: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Every way to give `number` partitions of one shape to its profiles."""
    if not limits:
        return () if number else ((),)
    return tuple((first, *rest) for first in range(min(number, limits[0]) + 1)
                 for rest in _shares(number - first, limits[1:]))


def media_fits(profiles: Sequence[Profile], counts: Sequence[int]) -> bool:
    """Whether the media engines of a device are enough; no placement shows that."""
    present = list(zip(profiles, counts, strict=True))
    if sum(number for one, number in present if number and one.takes_media) > 1:
        return False
    return not (any(number and one.takes_all_media for one, number in present)
                and any(number and one.needs_media for one, number in present))


def _is_maximal(profiles: Sequence[Profile], counts: list[int], members: Sequence[Sequence[int]],
                rooms: Iterable[tuple[int, ...]]) -> bool:
    def can_add(index: int) -> bool:
        if counts[index] >= profiles[index].max_instances:
            return False
        counts[index] += 1
        fits = media_fits(profiles, counts)
        counts[index] -= 1
        return fits

    return any(not any(can_add(index) for at in room for index in members[at]) for room in rooms)


def _layout(profiles: Sequence[Profile], counts: Sequence[int], maximal: bool) -> Layout:
    present = [(one, number) for one, number in zip(profiles, counts, strict=True) if number]
    return Layout(
        id=layout_id((one.id, number) for one, number in present),
        counts=tuple(Count(one.id, one.name, number) for one, number in present),
        slices_used=sum(one.slices * number for one, number in present),
        memory_used_mib=sum(one.memory_mib * number for one, number in present),
        maximal=maximal)
