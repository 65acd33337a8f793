# SPDX-License-Identifier: Apache-2.0
"""What was printed on real cards agrees with the test data, and with what is computed from it.

What is published, and what trying everything finds, is tested with layouts.
"""

from __future__ import annotations

import collections
from typing import Any

import pytest

from cyborg_lite import layout_plans
from cyborg_lite import layout_wishes
from cyborg_lite import layouts
from tests.nvml import oracle
from tests.nvml import stand_in

RECORDED = stand_in.recorded()


def named(kind: str) -> Any:
    return pytest.mark.parametrize("one", RECORDED[kind], ids=lambda one: str(one["card"]))


def instances(one: dict[str, Any]) -> list[layout_plans.Instance]:
    """The partitions of a recorded state, all of them in use."""
    sizes = {each.id: each.units for each in oracle.of_card(one["card"])}
    places = [each.split("@") for each in one["partitions"]]
    return [layout_plans.Instance(at, int(number), layouts.Placement(int(start),
                                                                     sizes[int(number)]), True)
            for at, (number, start) in enumerate(places)]


@named("listings")
def test_profiles_and_places_are_those_that_were_printed(one: dict[str, Any]) -> None:
    known = {each.id: each for each in oracle.of_card(one["card"])}

    for number, (name, most, size, starts) in one["profiles"].items():
        profile = known[number]
        assert (profile.name, profile.max_instances) == (name, most)
        if starts is not None:
            assert [(each.start, each.size) for each in profile.placements] == [
                (start, size) for start in starts]


@named("listings")
def test_as_many_of_a_profile_as_were_printed_can_be_placed(one: dict[str, Any]) -> None:
    profiles = oracle.of_card(one["card"])

    for number, (_, most, *_) in one["profiles"].items():
        assert layout_plans.arrange(profiles, {number: most}) is not None


@named("states")
def test_partitions_that_were_on_a_card_are_a_layout_that_needs_no_step(
        one: dict[str, Any]) -> None:
    profiles = oracle.of_card(one["card"])
    there = instances(one)
    counts = collections.Counter(each.profile_id for each in there)
    names = {each.id: each.name for each in profiles}

    verdict = layout_wishes.check(profiles, {names[key]: n for key, n in counts.items()})
    plan = layout_plans.plan(profiles, there, counts)

    by_id = {each.id: each for each in profiles}
    assert all(each.placement in by_id[each.profile_id].placements for each in there)
    assert verdict.layout is not None
    assert (plan.steps, plan.reason) == ((), "")


@pytest.mark.parametrize("one", [one for one in RECORDED["states"] if "free" in one],
                         ids=lambda one: str(one["card"]))
def test_one_more_fits_beside_what_was_there_if_there_was_room(one: dict[str, Any]) -> None:
    profiles = oracle.of_card(one["card"])
    there = instances(one)
    counts = collections.Counter(each.profile_id for each in there)

    for number, free in one["free"].items():
        plan = layout_plans.plan(profiles, there, counts + collections.Counter([number]))
        assert (plan.reason == "") == (free > 0), number


@named("refused")
def test_an_order_that_nvidia_refuses_has_places_that_fit(one: dict[str, Any]) -> None:
    profiles = oracle.of_card(one["card"])

    plan = layout_plans.plan(profiles, [], collections.Counter(one["order"]))

    assert plan.reason == ""
    assert len(plan.steps) == len(one["order"])
