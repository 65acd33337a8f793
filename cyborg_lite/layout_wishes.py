# SPDX-License-Identifier: Apache-2.0
"""Judges a wish for a layout: valid, or why not and which valid layouts come nearest.

Pure as `layouts`; where a wish is stored and who may make one is not known here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

from cyborg_lite import layouts


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The layout that was wished for, or the reason against it and what comes nearest."""

    layout: layouts.Layout | None
    reason: str = ""
    nearest: tuple[layouts.Layout, ...] = ()


def check(profiles: Iterable[layouts.Profile], wish: Mapping[str, int], limit: int = 3) -> Verdict:
    """Judge a wish of {profile name: count}; a refusal names `limit` layouts that come nearest."""
    known = layouts.ordered(profiles)
    by_name = {profile.name: profile for profile in known}
    # a count beyond what any device holds says no more than one too many
    counts = [min(max(wish.get(one.name, 0), 0), one.max_instances + 1) for one in known]
    valid = layouts.all_layouts(known)
    reason = _refusal(by_name, wish)
    if not reason:
        wanted = layouts.layout_id(zip((one.id for one in known), counts, strict=True))
        for layout in valid:
            if layout.id == wanted:
                return Verdict(layout)
        reason = _misfit(known, counts)
    return Verdict(None, reason, _nearest(known, counts, valid, limit))


def _refusal(by_name: Mapping[str, layouts.Profile], wish: Mapping[str, int]) -> str:
    """What is wrong with the wish before anything is placed."""
    for name, number in wish.items():
        if name not in by_name:
            return f"The device has no profile {name!r}; it has {', '.join(by_name) or 'none'}."
        if number < 0:
            return f"The count of {name} is {number}; it must be 0 or more."
        if number > by_name[name].max_instances:
            return (f"{number} of {name} were wished for; the device holds"
                    f" {by_name[name].max_instances} of them at most.")
    return ""


def _misfit(profiles: Sequence[layouts.Profile], counts: Sequence[int]) -> str:
    present = [(one, number) for one, number in zip(profiles, counts, strict=True) if number]
    text = layouts.describe((one.name, number) for one, number in present)
    if not layouts.media_fits(profiles, counts):
        everything = [one.name for one, _ in present if one.takes_all_media]
        if everything:
            return (f"{everything[0]} takes all media engines: beside it only profiles without"
                    f" media engines (-me) can be, but {text} was wished for.")
        return f"{text}: only one partition with media engines (+me) fits a device."
    nowhere = [one.name for one, _ in present if not one.units]
    if nowhere:
        return (f"The device named no placement of {', '.join(nowhere)}; NVML tells placements to"
                " privileged callers only.")
    need = sum(one.units * number for one, number in present)
    have = max(place.start + place.size for one in profiles for place in one.placements)
    if need > have:
        return f"{text} needs {need} memory units; the device has {have}."
    return f"{text}: the device has no placements at which they lie side by side."


def _nearest(profiles: Sequence[layouts.Profile], wish: Sequence[int],
             valid: Iterable[layouts.Layout], limit: int) -> tuple[layouts.Layout, ...]:
    weight = {one.id: one.slices + one.units for one in profiles}
    wished = list(_spread((one.id, n) for one, n in zip(profiles, wish, strict=True)))

    def order(layout: layouts.Layout) -> tuple[int, int, bool]:
        offered = list(_spread((count.profile_id, count.count) for count in layout.counts))
        return _distance(wished, offered, weight), -layout.slices_used, not layout.maximal

    return tuple(sorted((one for one in valid if one.counts), key=order)[:limit])


def _spread(counts: Iterable[tuple[int, int]]) -> Iterator[int]:
    return itertools.chain.from_iterable(itertools.repeat(one, number) for one, number in counts)


def _distance(wished: Sequence[int], offered: Sequence[int], weight: Mapping[int, int]) -> int:
    """Edit distance of two lists of profile ids, largest first: leave out, add, or exchange."""
    row = list(itertools.accumulate((weight[one] + 1 for one in offered), initial=0))
    for mine in wished:
        above, row = row, [row[0] + weight[mine] + 1]
        for at, theirs in enumerate(offered):
            exchange = abs(weight[mine] - weight[theirs]) + (mine != theirs)
            row.append(min(above[at] + exchange, above[at + 1] + weight[mine] + 1,
                           row[at] + weight[theirs] + 1))
    return row[-1]
