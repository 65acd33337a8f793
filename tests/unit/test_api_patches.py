# SPDX-License-Identifier: Apache-2.0
"""The patch map of accelerator requests is understood as a whole or refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cyborg_lite import errors
from cyborg_lite.api import arqs

ARQ = "aaaaaaaa-1111-1111-1111-111111111111"
OTHER = "bbbbbbbb-1111-1111-1111-111111111111"
RP = "cccccccc-1111-1111-1111-111111111111"
INSTANCE = "dddddddd-1111-1111-1111-111111111111"

BIND = [{"path": "/hostname", "op": "add", "value": "node_1.example-x"},
        {"path": "/device_rp_uuid", "op": "add", "value": RP.upper()},
        {"path": "/instance_uuid", "op": "add", "value": INSTANCE}]
UNBIND = [{"path": each["path"], "op": "remove"} for each in BIND]


def test_a_bind_is_understood_and_its_uuids_get_one_spelling() -> None:
    (patch,) = arqs.patches_from({ARQ.upper(): BIND})

    request = patch.bind_request()

    assert request.arq_uuid == ARQ
    assert request.hostname == "node_1.example-x"
    assert request.device_rp_uuid == RP
    assert request.instance_uuid == INSTANCE
    assert request.project_id is None


def test_an_owner_may_be_named() -> None:
    owner = {"path": "/project_id", "op": "add", "value": "0123456789abcdef"}
    (patch,) = arqs.patches_from({ARQ: [*BIND, owner]})
    assert patch.bind_request().project_id == "0123456789abcdef"


def test_a_removal_needs_no_values_and_not_every_path() -> None:
    assert [patch.operation for patch in arqs.patches_from({ARQ: UNBIND, OTHER: UNBIND[:1]})] == [
        "remove", "remove"]


def broken(**change: Any) -> list[dict[str, Any]]:
    patch = copy.deepcopy(BIND)
    patch[0].update(change)
    return patch


@pytest.mark.parametrize(("body", "reason"), [
    (None, "not a map"), ([], "not a map"), ({}, "not a map"), ("x", "not a map"),
    ({"x": BIND}, "is not a uuid"), ({ARQ: None}, "list"), ({ARQ: []}, "list"),
    ({ARQ: {}}, "list"), ({ARQ: [None]}, "not an object"), ({ARQ: [{}]}, "op"),
    ({ARQ: BIND, ARQ.upper(): BIND}, "written differently"),
    ({ARQ: BIND, OTHER: UNBIND}, "others"), ({ARQ: [*BIND[:2], UNBIND[2]]}, "add and remove"),
    ({ARQ: BIND[:2]}, "lacks /instance_uuid"), ({ARQ: [*BIND, BIND[0]]}, "twice"),
    ({ARQ: broken(op="replace")}, "replace"), ({ARQ: broken(op=None)}, "op"),
    ({ARQ: broken(op=["add"])}, "op"), ({ARQ: broken(path="/state")}, "/state"),
    ({ARQ: broken(path=None)}, "path"), ({ARQ: broken(path={})}, "path"),
    ({ARQ: broken(path="hostname")}, "hostname"), ({ARQ: broken(value=None)}, "/hostname"),
    ({ARQ: broken(value=1)}, "/hostname"), ({ARQ: broken(value="")}, "/hostname"),
    ({ARQ: broken(value="a b")}, "/hostname"), ({ARQ: broken(value="a/b")}, "/hostname"),
    ({ARQ: broken(value="x" * 256)}, "/hostname"), ({ARQ: broken(value="n\n")}, "/hostname"),
    ({ARQ: [BIND[0], {**BIND[1], "value": "rp"}, BIND[2]]}, "/device_rp_uuid"),
    ({ARQ: [*BIND, {"path": "/project_id", "op": "add", "value": "a b"}]}, "/project_id"),
    ({ARQ: [*BIND, {"path": "/project_id", "op": "add", "value": ""}]}, "/project_id"),
    ({ARQ: [{"path": "/hostname", "op": "add"}, *BIND[1:]]}, "/hostname"),
])
def test_anything_else_is_refused_with_its_reason(body: Any, reason: str) -> None:
    with pytest.raises(errors.Invalid, match=reason):
        arqs.patches_from(body)


def test_a_map_has_a_limit() -> None:
    body = {f"aaaaaaaa-1111-1111-1111-{number:012}": UNBIND for number in range(501)}
    with pytest.raises(errors.Invalid, match="501"):
        arqs.patches_from(body)
