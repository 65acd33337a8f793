# SPDX-License-Identifier: Apache-2.0
"""vGPU types: one type per device, mixed sizes, and how many MIG partitions a wish needs.

The counts are those that NVIDIA publishes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import hypothesis
import pytest
from hypothesis import strategies as st

from cyborg_lite import layouts
from cyborg_lite import vgpu_layouts
from tests.nvml import stand_in


def types_of(card: str) -> list[vgpu_layouts.VgpuType]:
    facts = stand_in.vgpu_hosts()[card]
    return [vgpu_layouts.VgpuType(
        one["id"], facts["prefix"] + one["name"], one["memory_mib"], one["max"],
        None if one["gi_profile"] == stand_in.NO_PROFILE else one["gi_profile"], one["per_gi"],
        tuple(layouts.Placement(at * one["size"], one["size"]) for at in range(one["places"])))
        for one in facts["types"]]


T4 = types_of("T4")
A100 = types_of("A100-40GB")
H100 = types_of("H100-80GB")
RTX = types_of("RTX-PRO-6000-Blackwell-96GB")


def test_a_time_sliced_device_has_one_maximal_layout_per_type() -> None:
    found = vgpu_layouts.whole_device(A100)

    assert [one.id for one in found if one.maximal] == ["A100-40C", "A100-10Cx4", "A100-4Cx10"]
    assert len(found) == 10 + 4 + 1
    assert len({one.id for one in found}) == len(found)


def test_a_wish_of_one_type_is_valid_up_to_its_number() -> None:
    verdict = vgpu_layouts.check(T4, {"GRID T4-2Q": 8})

    assert verdict.layout is not None
    assert (verdict.layout.id, verdict.layout.memory_used_mib, verdict.layout.maximal) == (
        "T4-2Qx8", 16384, True)
    assert verdict.layout in vgpu_layouts.whole_device(T4)


@pytest.mark.parametrize(("wish", "reason", "nearest"), [
    ({"T4-2Q": 9}, "9 of T4-2Q were wished for; the device holds 8 of them at most.", ["T4-2Qx8"]),
    ({"T4-2Q": -1}, "The count of T4-2Q is -1; it must be 0 or more.", ["T4-2Q"]),
    ({"T4-2Q": 2, "T4-8Q": 1}, "T4-8Q + 2xT4-2Q: the device takes one vGPU type at a time, unless"
     " it is in mixed-size mode.", ["T4-8Q", "T4-2Qx2"]),
])
def test_a_refusal_says_why(wish: dict[str, int], reason: str, nearest: list[str]) -> None:
    verdict = vgpu_layouts.check(T4, wish)

    assert (verdict.layout, verdict.reason) == (None, reason)
    assert [one.id for one in verdict.nearest] == nearest


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    verdict = vgpu_layouts.check(A100, {"A100-1-5C": 1})

    assert verdict.reason == ("The device has no vGPU type 'A100-1-5C'; it has A100-40C, A100-10C,"
                              " A100-4C.")


def test_mixed_sizes_round_to_a_power_of_two_so_ten_become_eight() -> None:
    assert vgpu_layouts.check(H100, {"H100-8C": 10}).layout is not None
    assert vgpu_layouts.check(H100, {"H100-8C": 9}, mixed=True).layout is None
    mixed = vgpu_layouts.check(H100, {"H100-8C": 8}, mixed=True).layout
    assert mixed is not None
    assert mixed.maximal


def test_mixed_sizes_lie_side_by_side_while_there_is_room() -> None:
    fits = vgpu_layouts.check(H100, {"H100-40C": 1, "H100-20C": 1, "H100-8C": 1}, mixed=True)
    full = vgpu_layouts.check(H100, {"H100-40C": 1, "H100-20C": 1, "H100-8C": 3}, mixed=True)

    assert fits.layout is not None
    assert (fits.layout.id, fits.layout.maximal) == ("H100-40C+H100-20C+H100-8C", False)
    assert full.reason == ("H100-40C + H100-20C + 3xH100-8C: in mixed-size mode the device has no"
                           " placements for all of them.")


def test_a_device_that_named_no_placements_can_not_be_mixed() -> None:
    verdict = vgpu_layouts.check(T4, {"T4-2Q": 2, "T4-8Q": 1}, mixed=True)

    assert verdict.reason == ("The device named no placement of T4-8Q, T4-2Q, so it can't be"
                              " mixed.")


@hypothesis.given(st.dictionaries(st.sampled_from([one.short_name for one in H100]),
                                  st.integers(0, 4), max_size=3))
def test_mixed_sizes_are_granted_exactly_if_trying_everything_finds_places(
        wish: dict[str, int]) -> None:
    by_name = {one.short_name: one for one in H100}
    all_of_them = [by_name[name] for name, number in wish.items() for _ in range(number)]
    hypothesis.assume(len(all_of_them) <= 6)

    verdict = vgpu_layouts.check(H100, wish, mixed=True)

    too_many = any(number > by_name[name].max_instances for name, number in wish.items())
    assert (verdict.layout is not None) == (not too_many and fit(all_of_them, 0))


def fit(rest: Sequence[vgpu_layouts.VgpuType], used: int) -> bool:
    return not rest or any(
        fit(rest[1:], used | place.mask) for place in rest[0].placements if not place.mask & used)


@pytest.mark.parametrize(("types", "wish", "needed"), [
    (A100, {"A100-1-5C": 7}, {19: 7}),
    (A100, {"A100-3-20C": 1, "A100-1-5C": 2, "A100-2-10C": 1}, {9: 1, 19: 2, 14: 1}),
    (RTX, {"DC-1-12Q": 1, "DC-1-12C": 2}, {47: 2}),
    (RTX, {"DC-1-12Q": 1, "DC-1-24Q": 1}, {47: 2}),
    (RTX, {"DC-2-12C": 4, "DC-2-12Q": 1, "DC-1-2Q": 24}, {35: 2, 47: 2}),
    (RTX, {"DC-96Q": 1}, {}),
])
def test_partitions_needed_by_a_wish_of_mig_backed_types(
        types: list[vgpu_layouts.VgpuType], wish: dict[str, int], needed: dict[int, int]) -> None:
    assert vgpu_layouts.partitions_needed(types, wish) == needed


def test_framebuffer_sizes_never_share_a_partition_though_as_many_of_each_would_fit() -> None:
    types = [vgpu_layouts.VgpuType(at, f"NVIDIA X-1-{gb}Q", gb * 1024, 4, 47, 2)
             for at, gb in enumerate((11, 12))]

    assert vgpu_layouts.partitions_needed(types, {"X-1-11Q": 1, "X-1-12Q": 1}) == {47: 2}
    assert vgpu_layouts.partitions_needed(types, {"X-1-11Q": 2}) == {47: 1}


@pytest.mark.parametrize("card", ["A100-40GB", "RTX-PRO-6000-Blackwell-96GB"])
def test_published_maxima_are_those_of_partitions_times_types_in_one(card: str) -> None:
    most = {one["id"]: one["max"] for one in stand_in.mig_cards()[card]["profiles"]}
    backed = [one for one in types_of(card) if one.partition_profile_id is not None]

    for one, more in itertools.product(backed, (0, 1)):
        needed = vgpu_layouts.partitions_needed(
            [one], {one.short_name: one.max_instances + more})
        assert (needed[one.partition_profile_id or 0] <= most[one.partition_profile_id or 0]) == (
            not more)
