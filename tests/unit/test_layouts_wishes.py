# SPDX-License-Identifier: Apache-2.0
"""A wish is judged: the layout, or the reason and what comes nearest.

Which layouts there are is tested with layouts.
"""

from __future__ import annotations

import collections

import hypothesis
import pytest
from hypothesis import strategies as st

from cyborg_lite import layout_wishes
from cyborg_lite import layouts
from tests.nvml import oracle

A100 = oracle.of_card("A100-40GB")
RTX = oracle.of_card("RTX-PRO-6000-Blackwell-96GB")


def test_a_valid_wish_is_answered_with_its_layout() -> None:
    verdict = layout_wishes.check(A100, {"1g.5gb": 2, "3g.20gb": 1, "7g.40gb": 0, "2g.10gb": 1})

    assert verdict.layout is not None
    assert (str(verdict.layout), verdict.reason) == ("3g.20gb + 2g.10gb + 2x1g.5gb", "")


def test_no_partitions_is_a_valid_wish() -> None:
    verdict = layout_wishes.check(A100, {})

    assert verdict.layout is not None
    assert verdict.layout.id == layouts.EMPTY_ID


@pytest.mark.parametrize(("profiles", "wish", "reason", "nearest"), [
    (A100, {"1g.5gb": 8}, "8 of 1g.5gb were wished for; the device holds 7 of them at most.",
     "7x1g.5gb"),
    (A100, {"4g.20gb": 2}, "2 of 4g.20gb were wished for; the device holds 1 of them at most.",
     "4g.20gb + 3g.20gb"),
    (A100, {"1g.5gb": -1}, "The count of 1g.5gb is -1; it must be 0 or more.", "1g.5gb"),
    (A100, {"7g.40gb": 1, "1g.5gb": 1}, "7g.40gb + 1g.5gb needs 9 memory units; the device has 8.",
     "7g.40gb"),
    (A100, {"3g.20gb": 2, "1g.5gb": 1}, "2x3g.20gb + 1g.5gb needs 9 memory units; the device"
     " has 8.", "2x3g.20gb"),
    (A100, {"4g.20gb": 1, "1g.5gb": 4}, "4g.20gb + 4x1g.5gb: the device has no placements at"
     " which they lie side by side.", "3g.20gb + 4x1g.5gb"),
    (A100, {"1g.11gb": 1}, "The device has no profile '1g.11gb'; it has 7g.40gb, 4g.20gb, 3g.20gb,"
     " 2g.10gb, 1g.10gb, 1g.5gb, 1g.5gb+me.", "1g.5gb"),
    (RTX, {"1g.24gb+me.all": 1, "1g.24gb+gfx": 1}, "1g.24gb+me.all takes all media engines: beside"
     " it only profiles without media engines (-me) can be, but 1g.24gb+gfx + 1g.24gb+me.all was"
     " wished for.", None),
    (oracle.of_card("A30-24GB"), {"1g.6gb+me": 1, "2g.12gb+me": 1},
     "2g.12gb+me + 1g.6gb+me: only one partition with media engines (+me) fits a device.", None),
])
def test_a_refusal_says_why_and_what_comes_nearest(
        profiles: list[layouts.Profile], wish: dict[str, int], reason: str,
        nearest: str | None) -> None:
    verdict = layout_wishes.check(profiles, wish)

    assert (verdict.layout, verdict.reason) == (None, reason)
    assert len(verdict.nearest) == 3
    assert nearest is None or str(verdict.nearest[0]) == nearest


def test_a_caller_who_may_not_see_placements_is_told_so() -> None:
    unknown = layouts.Profile(19, "1g.5gb", 1, 4864, 7, ())

    verdict = layout_wishes.check([unknown], {"1g.5gb": 1})

    assert verdict.reason == ("The device named no placement of 1g.5gb; NVML tells placements to"
                              " privileged callers only.")
    assert verdict.nearest == ()


def test_an_absurd_count_costs_no_more_than_a_small_one() -> None:
    verdict = layout_wishes.check(A100, {"1g.5gb": 10 ** 12, "2g.10gb": 10 ** 12})

    assert "at most" in verdict.reason
    assert verdict.nearest


@hypothesis.given(oracle.any_profiles(), st.data())
def test_a_wish_is_granted_exactly_if_trying_everything_finds_it(
        profiles: list[layouts.Profile], data: st.DataObject) -> None:
    names = [one.name for one in profiles] or ["p0"]
    wish = collections.Counter(data.draw(st.lists(st.sampled_from(names), max_size=6)))
    ids = {one.name: one.id for one in profiles}
    possible = {oracle.as_counts(one) for one in oracle.everything(profiles)}

    verdict = layout_wishes.check(profiles, wish)

    fits = all(name in ids for name in wish) and frozenset(
        (ids[name], number) for name, number in wish.items()) in possible
    assert (verdict.layout is not None, verdict.reason == "") == (fits, fits)
    assert all(oracle.counts_of(one) in possible for one in verdict.nearest)


@hypothesis.given(st.sampled_from(layouts.all_layouts(A100)[:-1]))
def test_nothing_is_nearer_to_a_layout_than_itself(layout: layouts.Layout) -> None:
    wish = {one.profile: one.count for one in layout.counts}

    verdict = layout_wishes.check(A100, {**wish, "unknown": 1})

    assert verdict.nearest[0] == layout
