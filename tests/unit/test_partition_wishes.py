# SPDX-License-Identifier: Apache-2.0
"""What is shown of a device's partitions, which wishes are refused, and when one is met.

The arithmetic itself is tested with `layouts`.
"""

from __future__ import annotations

import dataclasses
import sys

import pytest

from cyborg_lite import errors
from cyborg_lite import layouts
from cyborg_lite import messages
from cyborg_lite.conductor import partition_wishes
from tests.fixtures import split_cards
from tests.nvml import oracle
from tests.nvml import stand_in

SEVEN = split_cards.counts(g1_5gb=7)
MIXED = split_cards.counts(g3_20gb=1, g2_10gb=1, g1_5gb=2)


def a_card(scheme: str = "mig", card: str = split_cards.A100,
           **wish: int) -> messages.ReportedPartitioning:
    """A card of that scheme, split so."""
    made = split_cards.Card(card=card, scheme=scheme)
    made.split({one.profile: one.count for one in split_cards.counts(**wish)})
    return made.partitioning()


def a_sliced_card(card: str = split_cards.A100, mixed: bool = False,
                  **there: int) -> messages.ReportedPartitioning:
    """A card whose vGPUs share it."""
    ids = {one.name: one.id for one in split_cards.vgpu_types_of(card)}
    names = {name.replace("_", "-"): number for name, number in there.items()}
    return messages.ReportedPartitioning(
        scheme="vgpu", vgpu_types=split_cards.vgpu_types_of(card), mixed=mixed,
        partitions=[messages.Partition(profile=name, profile_id=ids[name])
                    for name, number in names.items() for _ in range(number)])


def is_met(reported: messages.ReportedPartitioning, wish: list[messages.PartitionCount],
           by: messages.ReportedPartitioning) -> bool:
    """Whether a wish that the first card takes is what the second one has."""
    rows = partition_wishes.to_rows(reported, partition_wishes.judge(reported, None, wish))
    return partition_wishes.key_of_report(by, rows) == partition_wishes.key_of_wish(rows)


# --- what is shown ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(stand_in.mig_cards()))
def test_the_layouts_of_a_card_are_all_that_its_placements_allow(name: str) -> None:
    reported = a_card(card=name)

    every = partition_wishes.layouts_of(reported, every=True)
    maximal = partition_wishes.layouts_of(reported, every=False)

    assert [one.id for one in every] == [one.id for one in layouts.all_layouts(
        oracle.of_card(name))]
    assert maximal == [one for one in every if one.maximal]


def test_the_layouts_of_a_sliced_card_are_one_type_each() -> None:
    reported = a_sliced_card()

    assert [one.id for one in partition_wishes.layouts_of(reported, every=False)] == [
        "A100-40C", "A100-10Cx4", "A100-4Cx10"]
    assert partition_wishes.layouts_of(reported, every=True)[-1].id == "empty"


def test_listing_layouts_costs_no_more_a_layout_with_many_vgpu_types() -> None:
    def calls_a_layout(types: int) -> float:
        reported = messages.ReportedPartitioning(scheme="vgpu", vgpu_types=[
            messages.PartitionVgpuType(name=f"DC-{number}C", id=number, memory_mib=number,
                                       max_instances=16) for number in range(1, types + 1)])
        seen = []
        sys.setprofile(lambda frame, event, argument: seen.append(1) if event == "call" else None)
        try:
            found = partition_wishes.layouts_of(reported, every=True)
        finally:
            sys.setprofile(None)
        return len(seen) / len(found)

    assert calls_a_layout(48) < 1.5 * calls_a_layout(4)


def test_partitions_are_shown_by_profile_with_their_places() -> None:
    assert partition_wishes.current_of(a_card("mig-vgpu", g3_20gb=1, g1_5gb=2)) == [
        messages.PartitionGroup(profile="3g.20gb", count=1, vgpu_type="A100-3-20C",
                                placements=[messages.PartitionPlace(start=4, size=4)]),
        messages.PartitionGroup(profile="1g.5gb", count=2, vgpu_type="A100-1-5C", placements=[
            messages.PartitionPlace(start=start, size=1) for start in (0, 1)])]


def test_vgpus_of_a_sliced_card_are_shown_by_type_and_lie_nowhere() -> None:
    assert partition_wishes.current_of(a_sliced_card(A100_4C=3)) == [
        messages.PartitionGroup(profile="A100-4C", count=3, vgpu_type="A100-4C")]


def test_a_sliced_type_is_shown_as_a_profile() -> None:
    shown = partition_wishes.profiles_of(a_sliced_card())

    assert [(one.name, one.slices, one.max_instances, one.vgpu_types) for one in shown] == [
        ("A100-40C", 0, 1, ["A100-40C"]), ("A100-10C", 0, 4, ["A100-10C"]),
        ("A100-4C", 0, 10, ["A100-4C"])]


# --- a wish -----------------------------------------------------------------------------------


def test_a_wish_by_its_id_is_the_wish_by_its_partitions() -> None:
    reported = a_card("mig-vgpu")

    by_id = partition_wishes.judge(reported, "9-14-19x2", None)

    assert by_id == partition_wishes.judge(reported, None, MIXED)
    assert [(one.profile, one.count, one.vgpu_type) for one in by_id.partitions] == [
        ("3g.20gb", 1, "A100-3-20C"), ("2g.10gb", 1, "A100-2-10C"), ("1g.5gb", 2, "A100-1-5C")]


@pytest.mark.parametrize(("reported", "layout", "partitions", "words"), [
    (a_card(), "half", None, ["no layout 'half'; its layouts are listed", "?all=true", "5-9"]),
    (a_card(), "9-9-9", None, ["no layout '9-9-9'. 3 of 3g.20gb", "9-14x2 (3g.20gb + 2x2g.10gb)"]),
    (a_card(), "19x2-9", None, ["no layout '19x2-9'; these partitions are layout '9-19x2'"]),
    (a_card(), "19x99999", None, ["no layout '19x99999'; its layouts are listed"]),
    (a_sliced_card(), "A100-4Cx11", None, ["no layout 'A100-4Cx11'. 11 of", "A100-4Cx10"]),
    (a_sliced_card(), "A100-4C-A100-4C", None, ["no layout 'A100-4C-A100-4C'", "?all=true"]),
    (a_card(), None, split_cards.counts(g4_20gb=2), [
        "2 of 4g.20gb were wished for; the device holds 1", "5-9 (4g.20gb + 3g.20gb)"]),
    (a_card(), None, split_cards.counts(g8_1gb=1), ["no profile '8g.1gb'", "7g.40gb"]),
    (a_card(), None, None, ["Exactly one of layout and partitions"]),
    (a_card(), "empty", SEVEN, ["Exactly one of layout and partitions"]),
    (a_card(), None, [messages.PartitionCount(profile="1g.5gb", count=1, vgpu_type="A100-1-5C")],
     ["take no vGPU type", "'A100-1-5C'"]),
    (a_card("mig-vgpu"), None,
     [messages.PartitionCount(profile="1g.5gb", count=1, vgpu_type="A100-40C")],
     ["No vGPU type 'A100-40C' lives in 1g.5gb", "A100-1-5C"]),
    (a_card("mig-vgpu"), None,
     [messages.PartitionCount(profile="1g.5gb", count=0, vgpu_type="A100-40C")],
     ["No vGPU type 'A100-40C' lives in 1g.5gb", "A100-1-5C"]),
    (a_sliced_card(), None, [messages.PartitionCount(profile="A100-4C", count=11)],
     ["11 of A100-4C", "A100-4Cx10"]),
    (a_sliced_card(), None,
     [messages.PartitionCount(profile="A100-4C", count=1, vgpu_type="A100-40C")],
     ["both the name of a vGPU type"]),
    (a_sliced_card(), None, [messages.PartitionCount(profile="A100-4C", count=1),
                             messages.PartitionCount(profile="A100-10C", count=1)],
     ["one vGPU type at a time"]),
])
def test_a_refusal_says_why_and_what_is_possible(
        reported: messages.ReportedPartitioning, layout: str | None,
        partitions: list[messages.PartitionCount] | None, words: list[str]) -> None:
    with pytest.raises(errors.Invalid) as refusal:
        partition_wishes.judge(reported, layout, partitions)

    assert [word for word in words if word not in refusal.value.detail] == []


def test_a_card_in_mixed_size_mode_takes_types_beside_each_other() -> None:
    reported = a_sliced_card("H100-80GB", mixed=True)

    layout = partition_wishes.judge(reported, None, [
        messages.PartitionCount(profile="H100-40C", count=1),
        messages.PartitionCount(profile="H100-8C", count=4)])

    assert [(one.profile, one.count) for one in layout.partitions] == [
        ("H100-40C", 1), ("H100-8C", 4)]


def test_where_several_types_can_live_the_driver_chooses_unless_one_is_named() -> None:
    reported = a_card("mig-vgpu", card="RTX-PRO-6000-Blackwell-96GB")
    named = [messages.PartitionCount(profile="1g.24gb+gfx", count=1, vgpu_type="DC-1-24Q"),
             messages.PartitionCount(profile="1g.24gb+gfx", count=2)]

    layout = partition_wishes.judge(reported, None, named)

    assert [(one.vgpu_type, one.count) for one in layout.partitions] == [
        ("DC-1-24Q", 1), (None, 2)]


# --- when it is met ---------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["mig", "mig-vgpu"])
def test_a_wish_is_met_by_its_partitions_wherever_they_lie(scheme: str) -> None:
    there = a_card(scheme, g3_20gb=1, g2_10gb=1, g1_5gb=2)

    assert is_met(a_card(scheme), MIXED, there)
    assert not is_met(a_card(scheme), SEVEN, there)
    assert not is_met(a_card(scheme), MIXED, a_card(scheme))


@pytest.mark.parametrize("there", [
    a_card(g3_20gb=1, g1_5gb=2), a_card("mig-vgpu", g3_20gb=1, g1_5gb=2), a_sliced_card(A100_4C=3),
    a_card()], ids=["mig", "mig-vgpu", "vgpu", "empty"])
def test_a_wish_for_what_is_there_is_met_by_just_that(
        there: messages.ReportedPartitioning) -> None:
    wish = partition_wishes.what_is(there)

    assert partition_wishes.is_met(there, wish)
    assert not partition_wishes.is_met(
        dataclasses.replace(there, partitions=[*there.partitions, *there.partitions[:1]] or [
            messages.Partition(profile="7g.40gb", profile_id=0)]), wish)
    assert sum(one.count for one in partition_wishes.from_rows(there, wish)) == len(
        there.partitions)


def test_the_empty_wish_is_met_by_a_card_without_partitions() -> None:
    assert is_met(a_card(g1_5gb=1), [], a_card())
    assert not is_met(a_card(), [], a_card(g1_5gb=1))


def test_a_wish_that_names_a_type_is_met_by_that_type_alone() -> None:
    reported = a_card("mig-vgpu", card="RTX-PRO-6000-Blackwell-96GB")

    def with_types(*names: str) -> messages.ReportedPartitioning:
        return dataclasses.replace(reported, partitions=[
            messages.Partition(profile="1g.24gb+gfx", profile_id=47, vgpu_type=name)
            for name in names])

    any_type = [messages.PartitionCount(profile="1g.24gb+gfx", count=2)]
    one_named = [messages.PartitionCount(profile="1g.24gb+gfx", count=1, vgpu_type="DC-1-24Q"),
                 messages.PartitionCount(profile="1g.24gb+gfx", count=1)]
    assert is_met(reported, any_type, with_types("DC-1-3Q", "DC-1-24Q"))
    assert is_met(reported, one_named, with_types("DC-1-3Q", "DC-1-24Q"))
    assert not is_met(reported, one_named, with_types("DC-1-3Q", "DC-1-3Q"))
    assert not is_met(reported, any_type, with_types("DC-1-3Q"))


def test_a_wish_survives_a_driver_that_renames_profiles() -> None:
    before = a_card()
    rows = partition_wishes.to_rows(before, partition_wishes.judge(before, None, SEVEN))
    renamed = dataclasses.replace(
        a_card(g1_5gb=7), profiles=[dataclasses.replace(one, name=f"new-{one.name}")
                                    for one in before.profiles])

    assert partition_wishes.key_of_report(renamed, rows) == partition_wishes.key_of_wish(rows)
    assert [one.profile for one in partition_wishes.from_rows(renamed, rows)] == ["new-1g.5gb"]


# --- what it does -----------------------------------------------------------------------------


def test_a_plan_keeps_what_it_can_and_names_the_rest() -> None:
    reported = a_card(g3_20gb=1, g1_5gb=1)

    plan = partition_wishes.plan(reported, partition_wishes.judge(
        reported, None, split_cards.counts(g3_20gb=1, g2_10gb=1)))

    assert plan.kept == 1
    assert [(step.action, step.profile, step.placement is not None) for step in plan.steps] == [
        ("destroy", "1g.5gb", True), ("create", "2g.10gb", True)]


def test_a_plan_for_partitions_without_places_counts_them() -> None:
    blind = a_card(g1_5gb=3)
    blind = dataclasses.replace(blind, partitions=[
        dataclasses.replace(one, place=None) for one in blind.partitions])

    plan = partition_wishes.plan(blind, partition_wishes.judge(
        blind, None, split_cards.counts(g3_20gb=1, g1_5gb=2)))

    assert (plan.kept, [(step.action, step.profile) for step in plan.steps]) == (
        2, [("destroy", "1g.5gb"), ("create", "3g.20gb")])


def test_a_plan_of_a_sliced_card_counts_types() -> None:
    reported = a_sliced_card(A100_4C=2)

    plan = partition_wishes.plan(reported, partition_wishes.judge(reported, "A100-10Cx4", None))

    assert (plan.kept, [(step.action, step.profile) for step in plan.steps]) == (
        0, [("destroy", "A100-4C")] * 2 + [("create", "A100-10C")] * 4)


@pytest.mark.parametrize("reported", [a_card(g7_40gb=1), a_sliced_card(A100_40C=1)])
def test_a_partition_in_use_is_not_planned_away(reported: messages.ReportedPartitioning) -> None:
    busy = dataclasses.replace(reported, partitions=[
        dataclasses.replace(one, in_use=True) for one in reported.partitions])

    with pytest.raises(errors.InUse, match="in use"):
        partition_wishes.plan(busy, partition_wishes.judge(busy, "empty", None))
