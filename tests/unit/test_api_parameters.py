# SPDX-License-Identifier: Apache-2.0
"""Values from outside: what is let in, and what the refusal says."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from cyborg_lite import errors
from cyborg_lite.api import parameters

UUID = "0a1b2c3d-0000-1111-2222-333344445555"

JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats()
    | strategies.text(), lambda inner: strategies.lists(inner) | strategies.dictionaries(
        strategies.text(), inner), max_leaves=20)


@hypothesis.settings(derandomize=True, deadline=None, database=None)
@hypothesis.given(JSON)
def test_any_json_is_let_in_as_it_is_or_refused(value: Any) -> None:
    raw = json.dumps(value).encode()
    try:
        got = parameters.json_body(raw)
    except errors.Invalid:
        return
    assert got == value
    for leaf in leaves(got):
        if isinstance(leaf, str):
            leaf.encode("utf-8")
            assert "\x00" not in leaf
        if isinstance(leaf, int | float):
            assert math.isfinite(leaf)
            assert abs(leaf) < 2**63 or isinstance(leaf, float)


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for pair in value.items() for part in pair for leaf in leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


@hypothesis.settings(derandomize=True, deadline=None, database=None)
@hypothesis.given(strategies.binary(max_size=200))
def test_any_bytes_are_json_or_refused(raw: bytes) -> None:
    with contextlib.suppress(errors.Invalid):
        parameters.json_body(raw)


@pytest.mark.parametrize(("depth", "fine"), [(parameters.MAX_DEPTH, True),
                                             (parameters.MAX_DEPTH + 1, False),
                                             (900, False), (50_000, False)])
def test_nesting_has_a_limit(depth: int, fine: bool) -> None:
    raw = b"[" * depth + b"1" + b"]" * depth
    if fine:
        parameters.json_body(raw)
        return
    with pytest.raises(errors.Invalid, match="nested deeper than 32"):
        parameters.json_body(raw)


@pytest.mark.parametrize(("raw", "reason"), [
    (b'{"a": 1, "b": 2, "a": 3}', "'a' twice"), (b"[NaN]", "NaN"), (b"[-Infinity]", "-Infinity"),
    (b"[1e999]", "64 bits"), (b"[-9223372036854775809]", "64 bits"),
    (b"[" + b"1" * 5000 + b"]", "64 bits"), (rb'["\ud800"]', "surrogate"),
    (rb'{"\u0000": 1}', "control character"), (b"\xff", "UTF-8"), (b"{", "not JSON")])
def test_a_body_is_refused_with_its_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(errors.Invalid, match=reason):
        parameters.json_body(raw)


def test_four_byte_characters_and_line_breaks_may_be_in_a_body() -> None:
    assert parameters.json_body('["\U0001f600\\n\\ud83d\\ude00"]'.encode()) == [
        "\U0001f600\n\U0001f600"]


@pytest.mark.parametrize("text", [UUID, UUID.upper(), UUID.replace("-", "")])
def test_a_uuid_has_one_spelling_from_here_on(text: str) -> None:
    assert parameters.convert(parameters.Uuid(), "instance", text) == UUID


@pytest.mark.parametrize("text", ["", "x", UUID[:-1], UUID + "0", "{" + UUID + "}",
                                  "urn:uuid:" + UUID, UUID + "\n", UUID.replace("0a", "\u0660a"),
                                  UUID[:9] + UUID[9:].replace("-", "")])
def test_what_is_no_uuid_is_refused_by_name(text: str) -> None:
    with pytest.raises(errors.Invalid, match=r"instance .* is not a uuid"):
        parameters.convert(parameters.Uuid(), "instance", text)


@pytest.mark.parametrize("value", [None, True, 1.5, [], {}, "", "0", "-1", "1.0", " 1", "\u0663",
                                   0, -1, 2**31, "9" * 4000])
def test_what_is_no_key_is_refused(value: Any) -> None:
    with pytest.raises(errors.Invalid, match="deployable_id"):
        parameters.convert(parameters.Integer(), "deployable_id", value)


@pytest.mark.parametrize("value", [7, "7"])
def test_a_key_may_be_a_number_or_its_digits(value: Any) -> None:
    assert parameters.convert(parameters.Integer(), "deployable_id", value) == 7


@pytest.mark.parametrize("value", ["", "x" * 256, "a\nb", "a\tb"])
def test_a_line_of_text_has_limits(value: str) -> None:
    with pytest.raises(errors.Invalid, match="key"):
        parameters.convert(parameters.Text(), "key", value)


def test_a_long_value_is_cut_in_the_error() -> None:
    with pytest.raises(errors.Invalid) as caught:
        parameters.convert(parameters.Uuid(), "instance", "x" * 10_000)
    assert len(caught.value.detail) < 150


def test_a_list_names_each_once_in_order() -> None:
    kind = parameters.Several(parameters.Text())
    assert parameters.convert(kind, "name", "b, a,b") == ["b", "a"]


@pytest.mark.parametrize("value", ["", ",", "a,", "a,,b", ",".join("a" * 1001)])
def test_a_list_with_a_hole_or_without_end_is_refused(value: str) -> None:
    with pytest.raises(errors.Invalid, match="name"):
        parameters.convert(parameters.Several(parameters.Text()), "name", value)


def test_a_query_keeps_the_order_of_repeated_parameters() -> None:
    assert parameters.query("b=2&a=%F0%9F%98%80&b=1&c") == {
        "b": ["2", "1"], "a": ["\U0001f600"], "c": [""]}


@pytest.mark.parametrize("query", [
    "a=%ff", "%ff=a", "a=%00", "a=1&" * (parameters.MAX_PARAMETERS + 1), "a=\u20ac"])
def test_a_query_that_can_not_be_read_is_refused(query: str) -> None:
    with pytest.raises(errors.Invalid):
        parameters.query(query)


def test_filters_add_to_plain_parameters() -> None:
    assert parameters.with_filters({"type": "GPU"}, ["vendor"], ["10de"]) == {
        "type": "GPU", "vendor": "10de"}
    assert parameters.with_filters({"type": "GPU"}, ["type"], ["GPU"]) == {"type": "GPU"}


@pytest.mark.parametrize(("fields", "values"), [(["type"], None), (None, ["x"]),
                                                (["type"], ["FPGA"])])
def test_filters_without_a_partner_or_at_odds_are_refused(
        fields: list[str] | None, values: list[str] | None) -> None:
    with pytest.raises(errors.Invalid, match="filter"):
        parameters.with_filters({"type": "GPU"}, fields, values)
