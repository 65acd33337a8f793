# SPDX-License-Identifier: Apache-2.0
"""A plan keeps what is in use, destroys the fewest, and each of its steps is one a card accepts.

The same plans run against the stand-in for NVML in its own tests.
"""

from __future__ import annotations

import collections

import hypothesis
import pytest
from hypothesis import strategies as st

from cyborg_lite import layout_plans
from cyborg_lite import layouts
from tests.nvml import oracle

A100 = oracle.of_card("A100-40GB")
BASE = oracle.base_of("A100-40GB", double_memory=True)
ONE, DOUBLE, TWO, THREE, FOUR, SEVEN = 19, 15, 14, 9, 5, 0
SMALL = {"A100": BASE, "A30": oracle.of_card("A30-24GB"),
         "RTX": oracle.base_of("RTX-PRO-6000-Blackwell-96GB")}
PLACED = {name: sorted(oracle.everything(profiles), key=str)
          for name, profiles in SMALL.items()}


def there(*places: tuple[int, int, int], in_use: tuple[int, ...] = ()
          ) -> list[layout_plans.Instance]:
    return [layout_plans.Instance(at, profile_id, layouts.Placement(start, size), at in in_use)
            for at, (profile_id, start, size) in enumerate(places)]


def starts(plan: layout_plans.Plan, action: str) -> list[tuple[int, int]]:
    return [(step.profile_id, step.placement.start) for step in plan.steps
            if step.action == action]


def test_what_is_already_there_needs_no_steps() -> None:
    current = there((THREE, 4, 4), (ONE, 0, 1))

    plan = layout_plans.plan(A100, current, {THREE: 1, ONE: 1})

    assert (plan.steps, plan.reason, len(plan.kept)) == ((), "", 2)


def test_an_addition_destroys_nothing() -> None:
    plan = layout_plans.plan(A100, there((ONE, 0, 1), (ONE, 6, 1)), {ONE: 2, THREE: 0, TWO: 2})

    assert plan.destroyed == 0
    assert starts(plan, layout_plans.CREATE) == [(TWO, 2), (TWO, 4)]


def test_only_what_stands_in_the_way_is_destroyed_and_made_again_elsewhere() -> None:
    plan = layout_plans.plan(A100, there((ONE, 1, 1), (ONE, 5, 1)), {FOUR: 1, ONE: 2})

    assert starts(plan, layout_plans.DESTROY) == [(ONE, 1)]
    assert starts(plan, layout_plans.CREATE) == [(FOUR, 0), (ONE, 4)]


def test_destructions_come_first_and_large_creations_before_small_ones() -> None:
    plan = layout_plans.plan(A100, there((SEVEN, 0, 8)), {ONE: 1, TWO: 1, FOUR: 1})

    assert [step.action for step in plan.steps] == ["destroy", "create", "create", "create"]
    assert starts(plan, layout_plans.CREATE) == [(FOUR, 0), (TWO, 4), (ONE, 6)]


def test_the_order_that_a_card_places_badly_is_given_places_that_fit() -> None:
    plan = layout_plans.plan(A100, [], {ONE: 2, TWO: 1, THREE: 1})

    assert starts(plan, layout_plans.CREATE)[0] == (THREE, 4)


@pytest.mark.parametrize(("counts", "places"), [
    ({THREE: 1}, [(THREE, 4)]),
    ({ONE: 1}, [(ONE, 6)]),
    ({TWO: 1, ONE: 1}, [(TWO, 4), (ONE, 6)]),
])
def test_a_layout_with_room_leaves_it_where_the_most_fits(
        counts: dict[int, int], places: list[tuple[int, int]]) -> None:
    placed = layout_plans.arrange(A100, counts)

    assert placed is not None
    assert [(key, place.start) for key, place in placed] == places


def test_a_partition_in_use_is_kept_and_worked_around() -> None:
    current = there((ONE, 0, 1), (ONE, 4, 1), in_use=(1,))

    plan = layout_plans.plan(A100, current, {THREE: 1, ONE: 1})

    assert starts(plan, layout_plans.DESTROY) == [(ONE, 0)]
    assert starts(plan, layout_plans.CREATE) == [(THREE, 0)]


def test_a_layout_that_partitions_in_use_prevent_is_refused_by_name_and_place() -> None:
    current = there((ONE, 0, 1), in_use=(0,))

    plan = layout_plans.plan(A100, current, {FOUR: 1, ONE: 1})

    assert plan.steps == ()
    assert plan.reason == (
        "4g.20gb + 1g.5gb can't be reached while these partitions are in use: 1g.5gb at unit 0."
        " Free them, or choose a layout that keeps them.")


def test_a_partition_in_use_that_is_not_wanted_is_refused() -> None:
    plan = layout_plans.plan(A100, there((ONE, 0, 1), in_use=(0,)), {})

    assert (plan.steps, "in use" in plan.reason) == ((), True)


def test_what_can_not_be_placed_is_refused() -> None:
    assert "side by side" in layout_plans.plan(A100, [], {FOUR: 1, ONE: 4}).reason
    assert "profile 99" in layout_plans.plan(A100, [], {99: 1}).reason


def test_a_partition_of_a_profile_that_the_driver_no_longer_names_is_destroyed() -> None:
    plan = layout_plans.plan(A100, there((99, 0, 4), (ONE, 6, 1)), {ONE: 1})

    assert starts(plan, layout_plans.DESTROY) == [(99, 0)]


@hypothesis.given(st.sampled_from(sorted(SMALL)), st.data())
def test_any_plan_ends_at_the_wish_with_the_fewest_destroyed(
        name: str, data: st.DataObject) -> None:
    profiles = SMALL[name]
    begin = sorted(data.draw(st.sampled_from(PLACED[name])))
    wanted = collections.Counter(key for key, _ in data.draw(st.sampled_from(PLACED[name])))
    in_use = data.draw(st.sets(st.sampled_from(range(len(begin)))) if begin else st.just(set()))
    current = [layout_plans.Instance(at, key, place, at in in_use)
               for at, (key, place) in enumerate(begin)]
    held = {(one.profile_id, one.placement) for one in current if one.in_use}
    ends = [end for end in PLACED[name]
            if collections.Counter(key for key, _ in end) == wanted and held <= end]

    plan = layout_plans.plan(profiles, current, wanted)

    if not ends:
        assert (bool(plan.reason), plan.steps) == (True, ())
        return
    assert plan.reason == ""
    assert plan.destroyed == min(len(set(begin) - end) for end in ends)
    now = set(begin)
    for step in plan.steps:
        place = (step.profile_id, step.placement)
        if step.action == layout_plans.DESTROY:
            assert place in now - held
            assert step.instance_id is not None
            assert begin[step.instance_id] == place
            now.remove(place)
        else:
            assert place in oracle.additions(profiles, frozenset(now))
            now.add(place)
    assert collections.Counter(key for key, _ in now) == wanted
