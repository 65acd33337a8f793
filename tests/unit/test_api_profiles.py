# SPDX-License-Identifier: Apache-2.0
"""What a device profile may look like."""

from __future__ import annotations

import json
import re
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from cyborg_lite import errors
from cyborg_lite.api import device_profiles

FPGA = {"resources:FPGA": "1"}
KEY = re.compile(r"(resources|trait|accel):\S(.*\S)?", re.DOTALL)


def groups(*given: Any) -> list[dict[str, str]]:
    return device_profiles.groups_from(list(given), 64)


def test_blanks_round_names_are_stripped_and_amounts_become_text() -> None:
    assert groups({"resources: CUSTOM_NIC ": 2, "trait: CUSTOM_X": "required",
                   "accel: k ": " v "}) == [
        {"resources:CUSTOM_NIC": "2", "trait:CUSTOM_X": "required", "accel:k": " v "}]


@pytest.mark.parametrize("name", ["FPGA", "PGPU", "VGPU", "GPU", "PCI_DEVICE", "CUSTOM_QAT",
                                  "CUSTOM_" + "X" * 238])
def test_classes_of_accelerators_are_allowed(name: str) -> None:
    assert groups({f"resources:{name}": "1"})


@pytest.mark.parametrize("name", ["VCPU", "MEMORY_MB", "DISK_GB", "fpga", "CUSTOM_", "CUSTOM_x",
                                  "custom_x", "CUSTOM_\u00c4", "", "FPGA\n1",
                                  "CUSTOM_" + "X" * 239])
def test_other_classes_are_refused(name: str) -> None:
    with pytest.raises(errors.Invalid, match=r"groups\[1\] key"):
        groups(FPGA, {f"resources:{name}": "1"})


@pytest.mark.parametrize("amount", ["1", "01", " 7 ", 1, 64])
def test_positive_amounts_are_allowed(amount: Any) -> None:
    assert groups({"resources:FPGA": amount}) == [{"resources:FPGA": str(int(amount))}]


@pytest.mark.parametrize("amount", [0, -1, "0", "-1", "1.0", "1e1", "", "x", True, False, None,
                                    1.0, 1.5, [], {}, ["1"], 2**62, "9" * 30, "\u0663", "1_0"])
def test_other_amounts_are_refused(amount: Any) -> None:
    with pytest.raises(errors.Invalid, match=r"FPGA|max_accelerators_per_profile"):
        groups({"resources:FPGA": amount})


@pytest.mark.parametrize(("key", "value"), [
    ("trait:CUSTOM_X", "optional"), ("trait:CUSTOM_X", None), ("trait:CUSTOM_X", True),
    ("trait:CUSTOM_X", ["required"]), ("trait:HW_GPU_API_VULKAN", "required"),
    ("trait:", "required"),
    ("trait:custom_x", "required"), ("accel:", "x"), ("accel:x", None), ("accel:x", 1),
    ("accel:x", "v" * 256), ("accel:" + "k" * 250, "v"), ("resources", "1"), ("", "1"),
    (" resources:FPGA", "1"), ("Resources:FPGA", "1"), ("group_policy", "none")])
def test_other_entries_are_refused(key: str, value: Any) -> None:
    with pytest.raises(errors.Invalid, match=r"groups\[0\]"):
        groups({**FPGA, key: value})


@pytest.mark.parametrize("given", [None, [], {}, "x", 1, [None], [[]], ["resources:FPGA"], [{}],
                                   [{"trait:CUSTOM_X": "required"}], [FPGA, {}]])
def test_groups_are_a_list_of_groups_that_ask_for_something(given: Any) -> None:
    with pytest.raises(errors.Invalid, match="groups"):
        device_profiles.groups_from(given, 64)


def test_a_name_that_two_keys_have_once_stripped_is_refused() -> None:
    with pytest.raises(errors.Invalid, match="twice"):
        groups({"resources:FPGA": "1", "resources: FPGA": "2"})


def test_the_accelerators_of_all_groups_count_together() -> None:
    device_profiles.groups_from([{"resources:FPGA": "2"}, {"resources:GPU": "2"}], 4)
    with pytest.raises(errors.Invalid, match="5 accelerators"):
        device_profiles.groups_from([{"resources:FPGA": "2"}, {"resources:GPU": "3"}], 4)


def test_a_group_fits_into_the_row_of_an_arq() -> None:
    huge = {f"accel:{number}": "\U0001f600" * 255 for number in range(20)}
    with pytest.raises(errors.Invalid, match="larger than 16384 bytes"):
        groups({**FPGA, **huge})


@pytest.mark.parametrize("given", [
    {"name": "a b"}, {"name": ""}, {"name": None}, {"name": 1}, {"name": "a\n"},
    {"name": "\u00e4"}, {"name": "x" * 256}, {}, {"name": "x", "uuid": "y"},
    {"name": "x", "uuid": 1}, {"name": "x", "description": "d" * 1025},
    {"name": "x", "description": ["d"]}])
def test_name_uuid_and_description_are_checked(given: dict[str, Any]) -> None:
    with pytest.raises(errors.Invalid):
        device_profiles.profile_from({"groups": [FPGA], **given}, 64)


def test_a_profile_without_a_uuid_gets_one() -> None:
    profile = device_profiles.profile_from({"name": "x", "uuid": None, "groups": [FPGA]}, 64)
    assert len(profile.uuid) == 36
    assert profile.description is None


NAMES = strategies.sampled_from(["FPGA", " GPU", "CUSTOM_A", "VCPU", ""]) | strategies.text()
KEYS = strategies.builds("{}:{}".format, strategies.sampled_from(
    ["resources", "trait", "accel", "x"]), NAMES) | strategies.text()
VALUES = strategies.sampled_from(["1", "required", "forbidden"]) | strategies.integers() \
    | strategies.text() | strategies.none() | strategies.booleans() | strategies.floats()


@hypothesis.settings(derandomize=True, deadline=None, database=None, max_examples=300)
@hypothesis.given(strategies.lists(strategies.dictionaries(KEYS, VALUES)))
def test_whatever_is_let_in_can_be_stored(given: Any) -> None:
    try:
        found = device_profiles.groups_from(given, 64)
    except errors.Invalid:
        return
    total = 0
    for group in found:
        assert len(json.dumps(group)) <= device_profiles.MAX_GROUP_SIZE
        for key, value in group.items():
            assert KEY.fullmatch(key)
            assert isinstance(value, str)
            total += int(value) if key.startswith("resources:") else 0
    assert 1 <= total <= 64
