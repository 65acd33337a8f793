# SPDX-License-Identifier: Apache-2.0
"""vGPU types: their names, the kernel's texts, and the arithmetic, against published facts."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyborg_lite.drivers import vgpu_types
from tests.nvml import stand_in

PUBLISHED: list[tuple[str, dict[str, Any]]] = [
    (host["prefix"], one) for host in stand_in.vgpu_hosts().values() for one in host["types"]]
NAMES = st.from_regex(r"[A-Z][A-Za-z0-9]{0,6}(-[A-Z][a-z]{1,4})?-([1-9]-)?(0|[1-9][0-9]{0,2})"
                      r"[ABCQ](ME|NOME|MEALL|GFX|4)?", fullmatch=True)


@pytest.mark.parametrize(("prefix", "one"), PUBLISHED,
                         ids=[f"{one['name']}-{one['id']}" for _, one in PUBLISHED])
def test_a_published_name_tells_memory_and_partition(prefix: str, one: dict[str, Any]) -> None:
    found = vgpu_types.parse_name(prefix + one["name"])

    assert found is not None
    assert found.short == one["name"]
    assert found.memory_mib == one["memory_mib"]
    assert (found.slices is not None) == (one["gi_profile"] >= 0)


@pytest.mark.parametrize(("name", "expected"), [
    ("GRID T4-2B", vgpu_types.TypeName("T4-2B", "T4", None, 2048, "B")),
    ("GRID M10-0B", vgpu_types.TypeName("M10-0B", "M10", None, 512, "B")),
    ("GRID T4-2B4", vgpu_types.TypeName("T4-2B4", "T4", None, 2048, "B", "4")),
    ("NVIDIA A100-1-5CME", vgpu_types.TypeName("A100-1-5CME", "A100", 1, 5120, "C", "ME")),
    ("NVIDIA RTX Pro 6000 Blackwell DC-3Q", vgpu_types.TypeName("DC-3Q", "DC", None, 3072, "Q")),
    ("NVIDIA RTX6000-Ada-48Q",
     vgpu_types.TypeName("RTX6000-Ada-48Q", "RTX6000-Ada", None, 49152, "Q")),
    ("Dual port serial", None), ("GVTg_V5_4", None), ("", None), ("A100-C", None)])
def test_the_short_name_is_the_last_word(
        name: str, expected: vgpu_types.TypeName | None) -> None:
    assert vgpu_types.parse_name(name) == expected


@given(words=st.lists(st.text(string.ascii_letters + string.digits, min_size=1), max_size=6),
       short=NAMES)
def test_words_before_the_short_name_change_nothing(words: list[str], short: str) -> None:
    assert vgpu_types.parse_name(" ".join([*words, short])) == vgpu_types.parse_name(short)


@given(text=st.text())
def test_no_text_makes_a_parser_fail(text: str) -> None:
    vgpu_types.parse_name(text)
    vgpu_types.is_meant(text, text, text)

    assert all(number >= 0 and name for number, name in vgpu_types.parse_creatable(text).items())
    assert vgpu_types.parse_description(text).keys() <= {"max_instance", "framebuffer"}


@given(types=st.dictionaries(st.integers(0, 2 ** 32 - 1), NAMES, max_size=20),
       noise=st.lists(st.sampled_from(["", "ID : vGPU Name", "none", ":", "- : x", "\t"]),
                      max_size=4))
def test_every_creatable_line_is_found_among_others(types: dict[int, str],
                                                    noise: list[str]) -> None:
    lines = noise + [f" {number}\t: NVIDIA  {name} " for number, name in types.items()]

    found = vgpu_types.parse_creatable("\n".join(lines))

    assert found == {number: f"NVIDIA {name}" for number, name in types.items()}


def test_a_description_tells_in_numbers() -> None:
    text = ("num_heads=4, frl_config=60, framebuffer=1024M, max_resolution=4096x2160, "
            "max_instance=4")

    assert vgpu_types.parse_description(text) == {"framebuffer": 1024, "max_instance": 4}
    assert vgpu_types.parse_description("low_gm_size: 128MB\nfence: 4\nweight: 4\n") == {}


@pytest.mark.parametrize("word", ["nvidia-222", "222", "T4-2B", "t4-2b", "GRID T4-2B",
                                  " GRID  T4-2B "])
def test_a_type_is_meant_by_id_full_or_short_name(word: str) -> None:
    assert vgpu_types.is_meant(word, "nvidia-222", "GRID T4-2B")


@pytest.mark.parametrize("word", ["", "22", "T4-2", "T4", "GRID", "nvidia-2222", "serial"])
def test_another_word_means_no_type(word: str) -> None:
    assert not vgpu_types.is_meant(word, "nvidia-222", "GRID T4-2B")
    assert not vgpu_types.is_meant(word, "mtty-1", "Single port serial")


# --- what fits ----------------------------------------------------------------------------------


SHARED = [(model, one) for model, host in stand_in.vgpu_hosts().items()
          for one in host["types"] if one["gi_profile"] < 0]


@pytest.mark.parametrize(("model", "one"), SHARED, ids=[one["name"] for _, one in SHARED])
def test_as_many_of_one_size_fit_as_is_published(model: str, one: dict[str, Any]) -> None:
    total = max(each["memory_mib"] for name, each in SHARED if name == model)

    assert vgpu_types.room(total, [], one["memory_mib"]) == one["max"]
    assert vgpu_types.room(total, [one["memory_mib"]] * one["max"], one["memory_mib"]) == 0


@pytest.mark.parametrize(("total", "used", "wanted", "left"), [
    (81920, [8192] * 3, 8192, 7), (81920, [40960], 8192, 4), (81920, [20480], 8192, 6),
    (96256, [48128], 15360, 2), (81920, [81920], 8192, 0), (8192, [], 16384, 0),
    (0, [], 1024, 0), (8192, [99999], 1024, 0)])
def test_mixed_sizes_take_shares_that_are_powers_of_two(
        total: int, used: list[int], wanted: int, left: int) -> None:
    assert vgpu_types.room(total, used, wanted) == left


@given(total=st.integers(1, 2 ** 18), used=st.lists(st.integers(1, 2 ** 18), max_size=8),
       wanted=st.integers(1, 2 ** 18))
def test_what_is_offered_always_fits_beside_what_is_there(
        total: int, used: list[int], wanted: int) -> None:
    left = vgpu_types.room(total, used, wanted)

    assert left >= 0
    assert not left or sum(used) + left * wanted <= total


# --- the type that nobody chose -----------------------------------------------------------------


def choices(model: str) -> list[vgpu_types.Choice]:
    return [vgpu_types.Choice(str(one["id"]), one["name"], one["max"])
            for one in stand_in.vgpu_hosts()[model]["types"]]


@pytest.mark.parametrize(("model", "expected"), [
    ("T4", "T4-4Q"), ("A100-40GB", "A100-10C"), ("H100-80GB", "H100-20C"),
    ("RTX-PRO-6000-Blackwell-96GB", "DC-24Q")])
def test_a_card_is_cut_into_four_when_nobody_says_how(model: str, expected: str) -> None:
    found = vgpu_types.sensible(choices(model))

    assert found is not None
    assert found.name == expected


def test_without_a_type_that_fits_four_times_the_most_parts_are_taken() -> None:
    one, two = vgpu_types.Choice("a", "GVTg_V5_4", 1), vgpu_types.Choice("b", "GVTg_V5_8", 2)

    assert vgpu_types.sensible([one, two]) == two


def test_a_type_for_partitions_is_never_taken_unasked() -> None:
    assert vgpu_types.sensible([vgpu_types.Choice("471", "A100-1-5C", 7)]) is None
    assert vgpu_types.sensible([]) is None


@given(order=st.permutations(choices("T4")))
def test_the_order_of_types_decides_nothing(order: list[vgpu_types.Choice]) -> None:
    assert vgpu_types.sensible(order) == vgpu_types.sensible(choices("T4"))
