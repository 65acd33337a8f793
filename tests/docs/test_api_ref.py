# SPDX-License-Identifier: Apache-2.0
"""The API reference against the code: routes, parameters, fields, statuses, errors, versions.

The pages are read as text, so that this is fast; the last test builds them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import re
import sys
from typing import Any

import pytest
import yaml

from cyborg_lite import errors
from cyborg_lite.api import health
from cyborg_lite.api import microversions
from cyborg_lite.api import openapi
from cyborg_lite.api import root
from cyborg_lite.api import schemas
from tests.fixtures import processes

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "api-ref" / "source"
PARAMETERS: dict[str, dict[str, Any]] = yaml.safe_load((SOURCE / "parameters.yaml").read_text())
STATUSES: dict[int, Any] = yaml.safe_load((SOURCE / "status.yaml").read_text())
PAGES = {path.name: path.read_text() for path in SOURCE.glob("*.inc")}
OPEN = {"GET /", "GET /v2", f"GET {openapi.PATH}", f"GET {health.PATH}"}

_ITEM = re.compile(r"^   - (.+)$", re.MULTILINE)
_TITLE = re.compile(r"^(\S.*)\n-+$", re.MULTILINE)

Names = dict[str, tuple[str, str]]
"""Name of a parameter: where it is (path, query, header, body), and since which version."""


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """What the reference says of one operation."""

    route: str
    text: str
    parts: dict[str, str]

    def statuses(self, kind: str) -> list[int]:
        found = re.search(rf"rest_status_code:: {kind} status\.yaml\n\n((?:   - \d+\n)+)",
                          self.parts["Response codes"])
        return [int(code) for code in _ITEM.findall(found[1])] if found else []

    def names(self, part: str) -> Names:
        """The parameters of the part Request or Response."""
        found = re.search(r"rest_parameters:: parameters\.yaml\n\n((?:   - .+\n?)+)",
                          self.parts.get(part, ""))
        names = {}
        for item in _ITEM.findall(found[1]) if found else []:
            name, key = item.split(": ")
            entry = PARAMETERS[key]
            names[name] = (entry["in"], str(entry.get("min_version", "2.0")))
        return names


def operations() -> dict[str, Operation]:
    found = {}
    for text in PAGES.values():
        for part in text.split("\n.. rest_method:: ")[1:]:
            route, _, body = part.partition("\n")
            pieces = _TITLE.split(body)
            operation = Operation(route, pieces[0], dict(zip(pieces[1::2], pieces[2::2],
                                                             strict=True)))
            assert route not in found, f"{route} comes twice"
            found[route] = operation
    return found


OPERATIONS = operations()
DESCRIBED: dict[str, dict[str, Any]] = {
    operation["operationId"]: operation
    for path in openapi.document("", 64)["paths"].values() for operation in path.values()}
EACH_ROUTE = pytest.mark.parametrize("route", root.ROUTES, ids=lambda route: route.name)


def described(route: root.Route) -> dict[str, Any]:
    """What the OpenAPI document says of a route."""
    return DESCRIBED[f"{route.path.split('/')[2]}.{route.handler}"]


def of_place(names: Names, *places: str) -> dict[str, str]:
    return {name: since for name, (place, since) in names.items() if place in places}


def in_order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def versions(since: dict[str, int]) -> dict[str, str]:
    return {name: microversions.text(minor) for name, minor in since.items()}


def test_the_reference_has_every_route_and_no_other() -> None:
    assert set(OPERATIONS) == {route.name for route in root.ROUTES} | OPEN


def test_every_page_is_included() -> None:
    included = re.findall(r"^\.\. include:: (.+)$", (SOURCE / "index.rst").read_text(),
                          re.MULTILINE)

    assert sorted(included) == sorted(PAGES)


@EACH_ROUTE
def test_an_operation_names_its_rule_and_the_version_that_brought_it(route: root.Route) -> None:
    text = OPERATIONS[route.name].text

    assert f"Policy rule: ``cyborg:{openapi.operation_of(route).rule}``." in text
    since = microversions.route_since(route.name)
    assert re.findall(r"^\.\. versionadded:: (.+)$", text, re.MULTILINE) == (
        [microversions.text(since)] if since else [])


@EACH_ROUTE
def test_an_operation_has_the_statuses_of_the_code(route: root.Route) -> None:
    operation = OPERATIONS[route.name]

    assert operation.statuses("success") == openapi.operation_of(route).statuses
    assert operation.statuses("error") == list(openapi.errors_of(route))


def test_every_status_is_explained_and_no_other() -> None:
    used = {code for operation in OPERATIONS.values() for kind in ("success", "error")
            for code in operation.statuses(kind)}

    assert set(STATUSES) == used


@EACH_ROUTE
def test_an_operation_has_the_parameters_of_the_code(route: root.Route) -> None:
    names = OPERATIONS[route.name].names("Request")

    # limit, marker and their like came before some lists that have them
    came = microversions.text(microversions.route_since(route.name))
    described_since = {name: max(since, came, key=in_order)
                       for name, since in of_place(names, "query").items()}
    assert described_since == versions(microversions.query_since(route.name))
    assert set(of_place(names, "path")) == set(re.findall(r"\{(\w+)\}", route.path))
    headers = {"version": microversions.HEADER, "if_match": "If-Match"}
    assert set(of_place(names, "header")) == {
        headers[parameter["$ref"].rpartition("/")[2]]
        for parameter in described(route)["parameters"] if "$ref" in parameter}


OF_PATCHES: dict[str, dict[str, int]] = {
    "PATCH /v2/device_profiles/{uuid_or_name}": {"op": 0, "path": 0, "value": 0},
    "PATCH /v2/accelerator_requests": microversions.patch_since(),
    "PATCH /v2/accelerator_requests/{uuid}": microversions.patch_since(),
    "PATCH /v2/deployables/{uuid}/program": {"op": 0, "path": 0, "value": 0},
    "PATCH /v2/deployables/{uuid}/program/{uuid}": {"op": 0, "path": 0, "value": 0},
}


@EACH_ROUTE
def test_an_operation_has_the_body_fields_of_the_code(route: root.Route) -> None:
    names = OPERATIONS[route.name].names("Request")

    wanted = OF_PATCHES.get(route.name) or microversions.body_since(route.name)
    assert of_place(names, "body") == versions(wanted)


@EACH_ROUTE
def test_an_operation_has_the_reply_of_the_code(route: root.Route) -> None:
    names = OPERATIONS[route.name].names("Response")
    if route.name not in schemas.REPLIES:
        assert names == {}
        assert "No body." in OPERATIONS[route.name].parts["Response"]
        return

    wanted = fields_of(schemas.REPLIES[route.name])

    assert of_place(names, "body") == wanted
    headers = described(route)["responses"][str(openapi.operation_of(route).status)]["headers"]
    assert of_place(names, "header") == ({"ETag": "2.4"} if "ETag" in headers else {})


def fields_of(schema: dict[str, Any]) -> dict[str, str]:
    """The names in a reply: those around the noun, and those of the noun."""
    found: dict[str, str] = {}
    if "$ref" in schema:
        noun = schemas.noun(schema["$ref"].rpartition("/")[2])
        return {name: field.get(schemas.SINCE, "2.0")
                for name, field in noun["properties"].items()}
    for name, part in schema["properties"].items():
        found[name] = part.get(schemas.SINCE, "2.0")
        part = part.get("items", part)
        if not part.get("$ref", "").endswith("/link"):
            found |= fields_of(part)
    return found


def test_every_parameter_is_used() -> None:
    used = {item.split(": ")[1] for text in PAGES.values() for item in _ITEM.findall(text)
            if ": " in item}

    assert set(PARAMETERS) == used


def test_the_errors_are_those_of_the_code() -> None:
    listed = re.findall(r"^   \* - (\d+)\n     - ``accelerator\.([a-z-]+)``$",
                        PAGES["errors.inc"], re.MULTILINE)

    assert sorted(listed) == sorted((str(kind.status), slug)
                                    for slug, kind in errors.BY_SLUG.items())


def test_the_history_has_every_microversion_with_its_sentence() -> None:
    parts = re.split(r"^(\d\.\d+)\n=+$", PAGES["history.inc"], flags=re.MULTILINE)[1:]
    found = {version: " ".join(text.split())
             for version, text in zip(parts[::2], parts[1::2], strict=True)}

    assert found == {microversions.text(row.minor): row.sentence for row in microversions.TABLE}


def test_every_sample_is_shown_and_exists() -> None:
    shown = {name for text in PAGES.values()
             for name in re.findall(r"literalinclude:: samples/(.+)$", text, re.MULTILINE)}

    assert shown == {path.name for path in (SOURCE / "samples").glob("*.json")}


@pytest.mark.skipif(importlib.util.find_spec("os_api_ref") is None,
                    reason="os-api-ref is not installed: tox -e docs")
def test_the_reference_builds_without_a_warning(tmp_path: pathlib.Path) -> None:
    done = processes.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-E", "-q", "-b", "html",
         "-d", tmp_path / "doctrees", SOURCE, tmp_path / "html"], within_s=300)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "/v2/accelerator_requests" in (tmp_path / "html" / "index.html").read_text()
