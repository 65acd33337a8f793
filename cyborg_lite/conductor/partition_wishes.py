# SPDX-License-Identifier: Apache-2.0
"""Pure: what a device reports, what is wished for -> what is shown, refused, planned. No rows.

The arithmetic is in `layouts`, `layout_wishes`, `layout_plans` and `vgpu_layouts`; here are the
three schemes: MIG partitions, time-sliced vGPUs, and MIG partitions that vGPUs live in.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from cyborg_lite import errors
from cyborg_lite import layout_plans
from cyborg_lite import layout_wishes
from cyborg_lite import layouts
from cyborg_lite import messages
from cyborg_lite import vgpu_layouts
from cyborg_lite.db import session

VGPU = "vgpu"
MIG_VGPU = "mig-vgpu"
NONE = "none"

_COUNT = re.compile(r"[0-9]{1,4}")

Kind = tuple[int | None, str | None]
"""What tells partitions of one layout apart: id of the profile, and name of the vGPU type."""


# --- what there can be ------------------------------------------------------------------------


def profiles_of(reported: messages.ReportedPartitioning) -> list[messages.PartitionProfile]:
    """The profiles, largest first; a time-sliced type is shown as a profile too."""
    if reported.scheme == VGPU:
        return [messages.PartitionProfile(
            name=one.name, id=one.id, slices=0, memory_mib=one.memory_mib,
            max_instances=one.max_instances, placements=one.placements, vgpu_types=[one.name])
            for one in sorted(reported.vgpu_types, key=lambda one: (-one.memory_mib, one.name))
            if one.partition_profile_id is None]
    by_id = {one.id: one for one in reported.profiles}
    return [dataclasses.replace(by_id[one.id], vgpu_types=_types_in(reported, by_id[one.id]))
            for one in layouts.ordered(map(_profile, reported.profiles))]


def layouts_of(reported: messages.ReportedPartitioning, *, every: bool) -> list[messages.Layout]:
    """The valid layouts, each once; without `every` the maximal ones."""
    found: Sequence[layouts.Layout]
    if reported.scheme == VGPU:
        found = _sliced_layouts(reported)
    else:
        found = layouts.all_layouts(map(_profile, reported.profiles))
    only = _only_types(reported)
    return [_shown(one, only) for one in found if every or one.maximal]


def current_of(reported: messages.ReportedPartitioning) -> list[messages.PartitionGroup]:
    """The partitions that exist, grouped by profile and type, in the order of the profiles."""
    groups: dict[Kind, list[messages.Partition]] = collections.defaultdict(list)
    for one in reported.partitions:
        groups[_kind(reported, one)].append(one)
    order = {one.id: index for index, one in enumerate(profiles_of(reported))}
    names = {one.id: one.name for one in reported.profiles}
    return [messages.PartitionGroup(
        profile=names.get(found[0].profile_id, found[0].profile) if kind[0] is not None
        else str(kind[1]),
        count=len(found), vgpu_type=kind[1],
        placements=sorted((one.place for one in found if one.place is not None),
                          key=lambda place: place.start))
        for kind, found in sorted(groups.items(), key=lambda pair: (
            order.get(pair[1][0].profile_id, len(order)), str(pair[0][1])))]


def _types_in(reported: messages.ReportedPartitioning,
              profile: messages.PartitionProfile) -> list[str]:
    return profile.vgpu_types or [one.name for one in reported.vgpu_types
                                  if one.partition_profile_id == profile.id]


def _sliced_layouts(reported: messages.ReportedPartitioning) -> list[layouts.Layout]:
    nothing = vgpu_layouts.check((), {}).layout
    types = [_vgpu_type(one) for one in reported.vgpu_types]
    return [*vgpu_layouts.whole_device(types),
            *([dataclasses.replace(nothing, maximal=False)] if nothing else [])]


def _only_types(reported: messages.ReportedPartitioning) -> dict[int, str]:
    """The vGPU type of each profile that has but one."""
    return {one.id: one.vgpu_types[0] for one in profiles_of(reported)
            if len(one.vgpu_types) == 1} if reported.scheme in (VGPU, MIG_VGPU) else {}


def _shown(layout: layouts.Layout, only: Mapping[int, str]) -> messages.Layout:
    """A layout as a message, with the vGPU type of each profile that has but one."""
    return _layout(layout, [
        messages.PartitionCount(profile=one.profile, count=one.count,
                                vgpu_type=only.get(one.profile_id))
        for one in layout.counts])


def _layout(layout: layouts.Layout, partitions: list[messages.PartitionCount]) -> messages.Layout:
    return messages.Layout(
        id=layout.id, partitions=partitions, slices_used=layout.slices_used,
        memory_used_mib=layout.memory_used_mib, maximal=layout.maximal)


def _profile(one: messages.PartitionProfile) -> layouts.Profile:
    return layouts.Profile(one.id, one.name, one.slices, one.memory_mib, one.max_instances,
                           tuple(map(_placement, one.placements)))


def _vgpu_type(one: messages.PartitionVgpuType) -> vgpu_layouts.VgpuType:
    return vgpu_layouts.VgpuType(
        one.id, one.name, one.memory_mib, one.max_instances, one.partition_profile_id,
        one.max_per_partition, tuple(map(_placement, one.placements)))


def _placement(place: messages.PartitionPlace) -> layouts.Placement:
    return layouts.Placement(place.start, place.size)


# --- a wish -----------------------------------------------------------------------------------


def judge(reported: messages.ReportedPartitioning, layout_id: str | None,
          partitions: Sequence[messages.PartitionCount] | None) -> messages.Layout:
    """The layout that is wished for, by its id or by its partitions, with the type of each.

    Where several types could live in a partition and none is named, its driver chooses. Invalid
    says why it can't be, and which valid layouts come nearest.
    """
    if (layout_id is None) == (partitions is None):
        raise errors.Invalid("Exactly one of layout and partitions says how to split the device.")
    if partitions is None:
        layout = next((one for one in layouts_of(reported, every=True) if one.id == layout_id),
                      None)
        if layout is None:
            raise errors.Invalid(_no_such_layout(reported, str(layout_id)))
        return layout
    if reported.scheme == VGPU:
        return _judge_sliced(reported, partitions)
    return _judge_placed(reported, partitions)


def _no_such_layout(reported: messages.ReportedPartitioning, layout_id: str) -> str:
    """Why an id names no layout, and what comes nearest to the partitions that it seems to mean."""
    said = f"The device has no layout {layout_id!r}"
    names = ({one.name: one.name for one in reported.vgpu_types} if reported.scheme == VGPU
             else {str(one.id): one.name for one in reported.profiles})
    wish: collections.Counter[str] = collections.Counter()
    for part in [layout_id] if reported.scheme == VGPU else layout_id.split("-"):
        name, _, number = (part, "", "1") if part in names else part.rpartition("x")
        if name not in names or not _COUNT.fullmatch(number):
            some = ", ".join(one.id for one in layouts_of(reported, every=False)[:5])
            return (f"{said}; its layouts are listed by GET with ?all=true, among them "
                    f"{some or 'none'}.")
        wish[names[name]] += int(number)
    verdict = _verdict(reported, wish)
    if verdict.layout is not None:
        return f"{said}; these partitions are layout {verdict.layout.id!r}."
    return f"{said}. {_refusal(verdict)}"


def _verdict(reported: messages.ReportedPartitioning,
             wish: Mapping[str, int]) -> layout_wishes.Verdict:
    if reported.scheme == VGPU:
        return vgpu_layouts.check([_vgpu_type(one) for one in reported.vgpu_types], wish,
                                  mixed=reported.mixed)
    return layout_wishes.check(map(_profile, reported.profiles), wish)


def _judge_sliced(reported: messages.ReportedPartitioning,
                  partitions: Sequence[messages.PartitionCount]) -> messages.Layout:
    wish: collections.Counter[str] = collections.Counter()
    for one in partitions:
        if one.vgpu_type not in (None, one.profile):
            raise errors.Invalid(
                f"The device is time-sliced: profile and vgpu_type are both the name of a vGPU "
                f"type, but {one.profile!r} and {one.vgpu_type!r} were wished for.")
        wish[one.profile] += one.count
    return _shown(_accepted(_verdict(reported, wish)), _only_types(reported))


def _judge_placed(reported: messages.ReportedPartitioning,
                  partitions: Sequence[messages.PartitionCount]) -> messages.Layout:
    wish: collections.Counter[str] = collections.Counter()
    for one in partitions:
        wish[one.profile] += one.count
    layout = _accepted(_verdict(reported, wish))
    if reported.scheme != MIG_VGPU:
        typed = next((one for one in partitions if one.vgpu_type is not None), None)
        if typed is not None:
            raise errors.Invalid(
                f"The partitions of the device take no vGPU type, but {typed.vgpu_type!r} was "
                f"wished for in {typed.profile}.")
        return _shown(layout, {})
    types: collections.Counter[tuple[str, str | None]] = collections.Counter()
    only = {one.profile: one.vgpu_type
            for one in _shown(layout, _only_types(reported)).partitions}
    for one in partitions:
        if one.count:
            types[one.profile, one.vgpu_type or only[one.profile]] += one.count
    order = [one.profile for one in layout.counts]
    wanted = [messages.PartitionCount(profile=profile, count=number, vgpu_type=name)
              for (profile, name), number in sorted(
                  types.items(), key=lambda pair: (order.index(pair[0][0]), str(pair[0][1])))]
    _check_types(reported, partitions)
    return _layout(layout, wanted)


def _accepted(verdict: layout_wishes.Verdict) -> layouts.Layout:
    if verdict.layout is None:
        raise errors.Invalid(_refusal(verdict))
    return verdict.layout


def _refusal(verdict: layout_wishes.Verdict) -> str:
    nearest = ", ".join(f"{one.id} ({one})" for one in verdict.nearest)
    return verdict.reason + (f" The nearest valid layouts: {nearest}." if nearest else "")


def _check_types(reported: messages.ReportedPartitioning,
                 partitions: Iterable[messages.PartitionCount]) -> None:
    types = {one.name: one.vgpu_types for one in profiles_of(reported)}
    for one in partitions:
        if one.vgpu_type not in (None, *types[one.profile]):
            raise errors.Invalid(
                f"No vGPU type {one.vgpu_type!r} lives in {one.profile}; its types are "
                f"{', '.join(types[one.profile]) or 'none'}.")


# --- comparing --------------------------------------------------------------------------------


def key_of_wish(wish: Iterable[Mapping[str, Any]]) -> str:
    """The layout of a stored wish, as a text to compare with `key_of_report`."""
    return _key(_counts(wish))


def key_of_report(reported: messages.ReportedPartitioning,
                  wish: Iterable[Mapping[str, Any]] | None) -> str:
    """The layout that exists: the text of the wish, if it meets that, else one of its own."""
    there = collections.Counter(_kind(reported, one) for one in reported.partitions)
    wanted = _counts(wish or ())
    return _key(wanted if wish is not None and _meets(there, wanted) else there)


def is_met(reported: messages.ReportedPartitioning, wish: Sequence[Mapping[str, Any]]) -> bool:
    """Whether what is reported is what was wished for."""
    return key_of_report(reported, wish) == key_of_wish(wish)


def _counts(wish: Iterable[Mapping[str, Any]]) -> collections.Counter[Kind]:
    return collections.Counter({(one["profile_id"], one["vgpu_type"]): one["count"]
                                for one in wish})


def _meets(there: collections.Counter[Kind], wanted: collections.Counter[Kind]) -> bool:
    """Whether there are as many of each profile, and of those that name a type as many of it."""
    named = collections.Counter({kind: number for kind, number in wanted.items()
                                 if kind[1] is not None})
    return _by_profile(there) == _by_profile(wanted) and named <= there


def _by_profile(counts: collections.Counter[Kind]) -> collections.Counter[int | None]:
    found: collections.Counter[int | None] = collections.Counter()
    for (profile_id, _), number in counts.items():
        found[profile_id] += number
    return found


def _key(counts: collections.Counter[Kind]) -> str:
    return str(session.to_json(sorted(
        ([profile, name, number] for (profile, name), number in counts.items() if number),
        key=str)))


def _kind(reported: messages.ReportedPartitioning, one: messages.Partition) -> Kind:
    if reported.scheme == VGPU:
        return None, one.vgpu_type or one.profile
    return one.profile_id, one.vgpu_type if reported.scheme == MIG_VGPU else None


def to_rows(reported: messages.ReportedPartitioning,
            layout: messages.Layout) -> list[dict[str, Any]]:
    """What to store of a wish: ids beside names, because drivers rename profiles."""
    ids = {one.name: one.id for one in reported.profiles}
    return [{"profile": one.profile, "count": one.count, "vgpu_type": one.vgpu_type,
             "profile_id": None if reported.scheme == VGPU else ids[one.profile]}
            for one in layout.partitions]


def what_is(reported: messages.ReportedPartitioning) -> list[dict[str, Any]]:
    """What to store of a wish for just the partitions that exist."""
    names = {one.id: one.name for one in reported.profiles}
    groups = collections.Counter(_kind(reported, one) for one in reported.partitions)
    return [{"profile": str(vgpu_type) if profile_id is None else
             names.get(profile_id, str(profile_id)),
             "count": number, "vgpu_type": vgpu_type, "profile_id": profile_id}
            for (profile_id, vgpu_type), number in groups.items()]


def from_rows(reported: messages.ReportedPartitioning | None,
              wish: Iterable[dict[str, Any]]) -> list[messages.PartitionCount]:
    """A stored wish, in the names that the device's profiles have now."""
    names = {one.id: one.name for one in reported.profiles} if reported else {}
    return [messages.PartitionCount(
        profile=names.get(one["profile_id"], one["profile"]), count=one["count"],
        vgpu_type=one["vgpu_type"]) for one in wish]


# --- what setting a layout does ---------------------------------------------------------------


def plan(reported: messages.ReportedPartitioning,
         layout: messages.Layout) -> messages.PartitioningPlan:
    """What is kept, destroyed and created; InUse when a partition in use would have to go."""
    wanted: collections.Counter[int] = collections.Counter()
    profiles = {one.name: one for one in profiles_of(reported)}
    names = {one.id: one.name for one in profiles.values()}
    for one in layout.partitions:
        wanted[profiles[one.profile].id] += one.count
    if reported.scheme == VGPU or any(one.place is None for one in reported.partitions):
        return _plan_without_places(reported, layout, wanted, names)
    found = layout_plans.plan(
        [_profile(one) for one in reported.profiles],
        [layout_plans.Instance(one.id if one.id is not None else -index, one.profile_id,
                               _placement(one.place), one.in_use)
         for index, one in enumerate(reported.partitions, 1) if one.place is not None],
        wanted)
    if found.reason:
        raise errors.InUse(found.reason)
    return messages.PartitioningPlan(layout=layout, kept=len(found.kept), steps=[
        messages.PartitionStep(
            action=step.action, profile=names.get(step.profile_id, str(step.profile_id)),
            placement=messages.PartitionPlace(start=step.placement.start,
                                              size=step.placement.size))
        for step in found.steps])


def _plan_without_places(reported: messages.ReportedPartitioning, layout: messages.Layout,
                         wanted: collections.Counter[int],
                         names: dict[int, str]) -> messages.PartitioningPlan:
    """Counts alone: time-sliced vGPUs lie nowhere, and NVML tells places to the privileged."""
    ids = {name: profile_id for profile_id, name in names.items()}
    here: collections.Counter[int] = collections.Counter()
    for one in reported.partitions:
        name = one.vgpu_type or one.profile
        here[ids.get(name, one.profile_id) if reported.scheme == VGPU else one.profile_id] += 1
    for profile_id in here - wanted:
        busy = sum(one.in_use for one in reported.partitions
                   if ids.get(one.vgpu_type or one.profile, one.profile_id) == profile_id)
        if busy > wanted[profile_id]:
            raise errors.InUse(
                f"{busy} partitions of {names.get(profile_id, profile_id)} are in use; free them, "
                "or choose a layout that keeps them.")
    return messages.PartitioningPlan(layout=layout, kept=(here & wanted).total(), steps=[
        messages.PartitionStep(action=action, profile=names.get(profile_id, str(profile_id)))
        for action, counts in ((layout_plans.DESTROY, here - wanted),
                               (layout_plans.CREATE, wanted - here))
        for profile_id in counts.elements()])
