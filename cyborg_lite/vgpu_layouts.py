# SPDX-License-Identifier: Apache-2.0
"""Layouts of vGPU types: time-sliced of one type, of mixed sizes, and inside MIG partitions.

Pure as `layouts`; which host interface makes a vGPU (mdev, vendor VFIO) is not known here.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from cyborg_lite import layout_wishes
from cyborg_lite import layouts


@dataclasses.dataclass(frozen=True, slots=True)
class VgpuType:
    """One type as NVML tells it. Drivers renumber types, so the name is what lasts.

    `partition_profile_id`: the MIG profile it lives in, None if it shares the whole device.
    `placements`: where it may lie when sizes are mixed; none if the device can't mix.
    """

    id: int
    name: str
    memory_mib: int
    max_instances: int
    partition_profile_id: int | None = None
    max_per_partition: int = 1
    placements: tuple[layouts.Placement, ...] = ()

    @property
    def short_name(self) -> str:
        """The last word: `A100-4C` of `NVIDIA A100-4C`."""
        return self.name.split()[-1] if self.name.split() else ""


def whole_device(types: Iterable[VgpuType]) -> tuple[layouts.Layout, ...]:
    """Every layout of one time-sliced type; maximal with as many as the device holds."""
    return tuple(_layout([(one, number)], number == one.max_instances)
                 for one in _ordered(types) if one.partition_profile_id is None
                 for number in range(one.max_instances, 0, -1))


def check(types: Iterable[VgpuType], wish: Mapping[str, int], *,
          mixed: bool = False) -> layout_wishes.Verdict:
    """Judge {name: count} of time-sliced types. `mixed`: the device is in mixed-size mode."""
    shared = [one for one in _ordered(types) if one.partition_profile_id is None]
    by_name = {key: one for one in shared for key in (one.short_name, one.name)}
    wished: collections.Counter[VgpuType] = collections.Counter()
    for name, number in wish.items():
        if name not in by_name:
            known = ", ".join(one.short_name for one in shared) or "none"
            return layout_wishes.Verdict(
                None, f"The device has no vGPU type {name!r}; it has {known}.")
        wished[by_name[name]] += number
    present = [(one, wished[one]) for one in shared if wished[one]]
    reason = _refusal(present, mixed)
    if reason:
        return layout_wishes.Verdict(None, reason, _nearest(shared, present))
    return layout_wishes.Verdict(_layout(present, not _room_left(shared, present, mixed)))


def partitions_needed(types: Iterable[VgpuType], wish: Mapping[str, int]) -> dict[int, int]:
    """{MIG profile id: count} that the MIG-backed types of a wish need.

    Types of one framebuffer size share a partition up to its number; sizes never do.
    """
    by_name = {key: one for one in types for key in (one.short_name, one.name)}
    sizes: collections.Counter[tuple[int, int, int]] = collections.Counter()
    for name, number in wish.items():
        one = by_name[name]
        if one.partition_profile_id is not None and number > 0:
            sizes[one.partition_profile_id, one.memory_mib, one.max_per_partition] += number
    needed: collections.Counter[int] = collections.Counter()
    for (profile_id, _, each), number in sizes.items():
        needed[profile_id] += -(-number // max(each, 1))
    return dict(needed)


def _ordered(types: Iterable[VgpuType]) -> list[VgpuType]:
    return sorted(types, key=lambda one: (-one.memory_mib, one.name))


def _refusal(present: Sequence[tuple[VgpuType, int]], mixed: bool) -> str:
    for one, number in present:
        if number < 0:
            return f"The count of {one.short_name} is {number}; it must be 0 or more."
        if number > one.max_instances:
            return (f"{number} of {one.short_name} were wished for; the device holds"
                    f" {one.max_instances} of them at most.")
    text = layouts.describe((one.short_name, number) for one, number in present)
    if not mixed:
        return "" if len(present) < 2 else (
            f"{text}: the device takes one vGPU type at a time, unless it is in mixed-size mode.")
    still = [one.short_name for one, _ in present if not one.placements]
    if still:
        return f"The device named no placement of {', '.join(still)}, so it can't be mixed."
    if _place(present) is None:
        return f"{text}: in mixed-size mode the device has no placements for all of them."
    return ""


def _place(present: Sequence[tuple[VgpuType, int]]) -> int | None:
    """The units that they use; None if they don't fit.

    Sizes are powers of two and placements are multiples of the size, so that taking the largest
    first and the lowest place for each leaves no gap that another order would have used.
    """
    used = 0
    for one, number in sorted(present, key=lambda pair: -pair[0].placements[0].size):
        for _ in range(number):
            free = [place.mask for place in sorted(one.placements) if not place.mask & used]
            if not free:
                return None
            used |= free[0]
    return used


def _room_left(shared: Iterable[VgpuType], present: Sequence[tuple[VgpuType, int]],
               mixed: bool) -> bool:
    if not mixed:
        return not present or any(number < one.max_instances for one, number in present)
    return any(_place([*present, (one, 1)]) is not None for one in shared if one.placements)


def _layout(present: Sequence[tuple[VgpuType, int]], maximal: bool) -> layouts.Layout:
    names = [one.short_name if number == 1 else f"{one.short_name}x{number}"
             for one, number in present]
    return layouts.Layout(
        id="+".join(names) or layouts.EMPTY_ID,
        counts=tuple(layouts.Count(one.id, one.short_name, number) for one, number in present),
        slices_used=0,
        memory_used_mib=sum(one.memory_mib * number for one, number in present),
        maximal=maximal)


def _nearest(shared: Sequence[VgpuType],
             present: Sequence[tuple[VgpuType, int]]) -> tuple[layouts.Layout, ...]:
    """As many as can be of each type that was wished for, the most wished for first."""
    ranked = sorted(present, key=lambda pair: -pair[0].memory_mib * pair[1])
    return tuple(_layout([(one, most)], most == one.max_instances)
                 for one, number in ranked
                 for most in [min(max(number, 1), one.max_instances)] if most > 0)
