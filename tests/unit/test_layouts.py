# SPDX-License-Identifier: Apache-2.0
"""Every layout a device allows: against what NVIDIA publishes, and against trying everything.

Wishes and plans have tests of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import hypothesis
import pytest

from cyborg_lite import layouts
from tests.nvml import oracle
from tests.nvml import stand_in

CARDS = sorted(stand_in.mig_cards())
SEVEN_SLICES = [name for name in CARDS if stand_in.mig_cards()[name]["slices"] == 7]


def texts(found: Iterable[layouts.Layout]) -> list[str]:
    return [str(layout) for layout in found]


# --- what NVIDIA publishes --------------------------------------------------------------------

@pytest.mark.parametrize("name", CARDS)
def test_maximal_layouts_are_the_published_combinations(name: str) -> None:
    found = texts(layouts.maximal_layouts(oracle.base_of(name)))

    assert sorted(found) == sorted(stand_in.mig_cards()[name]["layouts"]["maximal"])


@pytest.mark.parametrize("name", CARDS)
def test_trying_everything_agrees_with_the_known_numbers_of_placed_layouts(name: str) -> None:
    facts = stand_in.mig_cards()[name]
    profiles = oracle.base_of(name)

    placed = oracle.everything(profiles)

    maximal = [one for one in placed if not oracle.additions(profiles, one)]
    # the known numbers leave out the empty one
    assert (len(placed) - 1, len(maximal)) == (
        facts["layouts"]["placed"], facts["layouts"]["maximal_placed"])


def test_trying_everything_finds_the_layouts_of_the_figure_for_a100() -> None:
    profiles = oracle.base_of("A100-40GB")
    names = {one.id: one.name for one in profiles}

    maximal = [one for one in oracle.everything(profiles) if not oracle.additions(profiles, one)]

    drawn = [" ".join(f"{names[key]}@{place.start}"
                      for key, place in sorted(one, key=lambda pair: pair[1]))
             for one in maximal]
    figure = stand_in.mig_cards()["A100-40GB"]["layouts"]["maximal_in_place"]
    assert sorted(drawn) == sorted(figure)


@pytest.mark.parametrize("name", SEVEN_SLICES)
def test_the_double_memory_profile_gives_the_published_number(name: str) -> None:
    found = layouts.maximal_layouts(oracle.base_of(name, double_memory=True))

    assert len(found) == stand_in.mig_cards()[name]["double_memory"]["maximal"]


@pytest.mark.parametrize("name", ["A30-24GB", "A100-40GB", "RTX-PRO-6000-Blackwell-96GB"])
def test_all_profiles_of_a_card_agree_with_trying_everything(name: str) -> None:
    agrees_with_trying(oracle.of_card(name))


def agrees_with_trying(profiles: list[layouts.Profile]) -> None:
    placed = oracle.everything(profiles)
    maximal = {oracle.as_counts(one) for one in placed if not oracle.additions(profiles, one)}

    found = layouts.all_layouts(profiles)

    assert len({oracle.counts_of(one) for one in found}) == len(found)
    assert {oracle.counts_of(one) for one in found} == {oracle.as_counts(one) for one in placed}
    assert {oracle.counts_of(one) for one in found if one.maximal} == maximal


@hypothesis.given(oracle.any_profiles())
def test_any_placements_agree_with_trying_everything(profiles: list[layouts.Profile]) -> None:
    agrees_with_trying(profiles)


# --- shape of the answer ----------------------------------------------------------------------

def test_three_of_seven_slices_twice_use_six_slices_and_all_memory() -> None:
    layout = layouts.find(oracle.of_card("A100-40GB"), "9x2")

    assert layout is not None
    assert (str(layout), layout.slices_used, layout.memory_used_mib, layout.maximal) == (
        "2x3g.20gb", 6, 2 * 19968, True)


def test_at_most_one_partition_has_the_media_engines() -> None:
    found = layouts.all_layouts(oracle.of_card("A30-24GB"))

    assert "1g.6gb + 1g.6gb+me" in texts(found)
    assert not [one for one in found if sum("+me" in part.profile for part in one.counts) > 1]


def test_the_empty_layout_is_valid_and_last_and_not_maximal() -> None:
    found = layouts.all_layouts(oracle.of_card("A100-40GB"))

    assert (found[-1].id, found[-1].counts, found[-1].maximal) == ("empty", (), False)


def test_the_largest_partitions_come_first() -> None:
    found = texts(layouts.maximal_layouts(oracle.base_of("A100-40GB")))

    assert found[:3] == ["7g.40gb", "4g.20gb + 3g.20gb", "4g.20gb + 2g.10gb + 1g.5gb"]
    assert found[-1] == "7x1g.5gb"


@pytest.mark.parametrize("change", ["order", "names", "memory"])
def test_ids_survive_another_order_and_a_driver_that_renames(change: str) -> None:
    profiles = oracle.of_card("H100-94GB")
    changed = {
        "order": profiles[::-1],
        "names": [layouts.Profile(one.id, one.name.replace("12gb", "11gb"), one.slices,
                                  one.memory_mib, one.max_instances, one.placements)
                  for one in profiles],
        "memory": [layouts.Profile(one.id, one.name, one.slices, one.memory_mib + 512,
                                   one.max_instances, one.placements) for one in profiles],
    }[change]

    before = [one.id for one in layouts.all_layouts(profiles)]

    assert [one.id for one in layouts.all_layouts(changed)] == before
    assert len(set(before)) == len(before)


def test_each_layout_is_found_by_its_id() -> None:
    profiles = oracle.of_card("RTX-PRO-6000-Blackwell-96GB")

    for layout in layouts.all_layouts(profiles):
        assert layouts.find(profiles, layout.id) == layout
    assert layouts.find(profiles, "14x9") is None


def test_a_device_without_profiles_has_the_empty_layout_alone() -> None:
    assert [one.id for one in layouts.all_layouts([])] == ["empty"]


def test_a_profile_without_placements_is_in_no_layout() -> None:
    unknown = layouts.Profile(19, "1g.5gb", 1, 4864, 7, ())

    assert [one.id for one in layouts.all_layouts([unknown])] == ["empty"]


@pytest.mark.parametrize("name", CARDS)
def test_a_card_takes_less_than_50_ms_of_processor_time(name: str) -> None:
    profiles = oracle.of_card(name)
    seconds = []
    for extra in range(5):
        # other ids, so that no answer is remembered
        fresh = [layouts.Profile(one.id + 100 + extra, one.name, one.slices, one.memory_mib,
                                 one.max_instances, one.placements) for one in profiles]
        before = time.process_time()
        layouts.all_layouts(fresh)
        seconds.append(time.process_time() - before)

    assert min(seconds) < 0.05
