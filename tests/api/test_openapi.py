# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: valid, complete, served to anybody, and true of the real application."""

from __future__ import annotations

import copy
import json
from typing import Any

import hypothesis
import jsonschema
import openapi_spec_validator
import pytest
import schemathesis
import webob
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

from cyborg_lite import errors
from cyborg_lite.api import faults
from cyborg_lite.api import microversions
from cyborg_lite.api import openapi
from cyborg_lite.api import root
from cyborg_lite.api import schemas
from tests.fixtures import builders

ADMIN = {"X-User-Id": "admin", "X-Project-Id": "project0", "X-Roles": "admin",
         "X-Service-Roles": "service"}
LATEST = {"OpenStack-API-Version": "accelerator latest"}
DOCUMENT = openapi.document("http://api.example.org", 64)
PATHS = [path for path in DOCUMENT["paths"] if path.startswith("/v2/") and path != openapi.PATH]
EXAMPLES = 15
"""Of each operation, as many good in form and bad in form."""


def described(route: root.Route) -> dict[str, Any]:
    """What the document says of a route."""
    path = route.path
    if path.count("{uuid}") == 2:
        path = path.removesuffix("{uuid}") + "{uuid_again}"
    found: dict[str, Any] = DOCUMENT["paths"][path][route.method.lower()]
    return found


# --- the document by itself -------------------------------------------------------------------


def test_the_document_is_valid_openapi() -> None:
    openapi_spec_validator.validate(copy.deepcopy(DOCUMENT))


def test_the_document_has_the_routes_and_no_other() -> None:
    found = {(path, method) for path in PATHS for method in DOCUMENT["paths"][path]}

    assert len(found) == len(root.ROUTES)
    assert {(route.path.replace("program/{uuid}", "program/{uuid_again}"), route.method.lower())
            for route in root.ROUTES} == found


@pytest.mark.parametrize("route", root.ROUTES, ids=lambda route: route.name)
def test_an_operation_names_its_version_and_its_rule(route: root.Route) -> None:
    operation = described(route)

    assert operation[schemas.SINCE] == microversions.text(microversions.route_since(route.name))
    assert operation["x-openstack-policy"] == f"cyborg:{openapi.operation_of(route).rule}"


@pytest.mark.parametrize("route", root.ROUTES, ids=lambda route: route.name)
def test_an_operation_has_the_query_parameters_of_the_table(route: root.Route) -> None:
    found = {parameter["name"]: parameter.get(schemas.SINCE, "2.0")
             for parameter in described(route)["parameters"] if parameter.get("in") == "query"}

    assert found == {name: microversions.text(minor) for name, minor in
                     microversions.query_since(route.name).items()}


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for path in DOCUMENT["paths"].values()
             for operation in path.values()]

    assert len(names) == len(set(names))


def test_each_route_that_takes_a_body_has_a_schema_and_no_other() -> None:
    taking = {route.name for route in root.ROUTES if openapi.operation_of(route).body}

    assert set(schemas.bodies(64)) == taking


@pytest.mark.parametrize("name", sorted({name for row in microversions.TABLE for name in row.body}))
def test_a_body_has_the_fields_of_the_table(name: str) -> None:
    schema = schemas.bodies(64)[name]
    schema = schema.get("items") or (schema.get("oneOf") or [schema])[0]

    assert set(schema["properties"]) == set(microversions.body_since(name))


def test_every_error_is_documented_by_some_operation() -> None:
    documented = {kind for route in root.ROUTES
                  for kinds in openapi.errors_of(route).values() for kind in kinds}

    # agents alone are told that a host is taken
    assert documented == set(errors.BY_SLUG.values()) - {errors.HostTaken}


def test_what_a_route_refuses_is_said_of_routes_that_exist() -> None:
    names = {route.name for route in root.ROUTES}

    assert set(openapi.REFUSALS) <= names
    assert set(schemas.REPLIES) <= names


# --- as it is served --------------------------------------------------------------------------


def send(application: faults.Application, method: str, path: str, body: Any = None,
         **headers: str) -> webob.Response:
    return webob.Request.blank(
        path, method=method, body=json.dumps(body).encode() if body is not None else b"",
        headers={**ADMIN, **LATEST, "Content-Type": "application/json", **headers},
    ).get_response(application)


def test_the_document_is_served_with_the_address_that_the_client_used(
        shared_application: faults.Application) -> None:
    reply = send(shared_application, "GET", openapi.PATH)

    assert reply.status_int == 200
    assert reply.content_type == "application/json"
    assert reply.json == {**json.loads(json.dumps(DOCUMENT)),
                          "servers": [{"url": "http://localhost"}]}


def test_the_document_needs_no_token_and_no_version(
        shared_application: faults.Application) -> None:
    request = webob.Request.blank(openapi.PATH, headers={
        "X-User-Id": "somebody", "X-Roles": "", "OpenStack-API-Version": "accelerator 2.99"})

    assert request.get_response(shared_application).status_int == 200


def test_head_tells_the_size_of_the_document(shared_application: faults.Application) -> None:
    got = send(shared_application, "GET", openapi.PATH)

    reply = send(shared_application, "HEAD", openapi.PATH)

    assert (reply.status_int, reply.body) == (200, b"")
    assert reply.content_length == got.content_length


def test_the_document_can_only_be_read(shared_application: faults.Application) -> None:
    reply = send(shared_application, "PUT", openapi.PATH)

    assert reply.status_int == 405
    assert reply.headers["Allow"] == "GET, HEAD"


# --- is it true? ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(shared_application: faults.Application) -> dict[str, str]:
    """Make something of each noun; the uuid of each, by noun."""
    groups = [{"resources:FPGA": "1", "trait:CUSTOM_FAKE_DEVICE": "required"}]
    profile = send(shared_application, "POST", "/v2/device_profiles",
                   [{"name": "known", "groups": groups}]).json
    arqs = [send(shared_application, "POST", "/v2/accelerator_requests",
                 {"device_profile_name": "known"}).json["arqs"][0]["uuid"] for _ in range(2)]
    assert send(shared_application, "PATCH", "/v2/accelerator_requests", {arqs[0]: [
        {"path": "/hostname", "op": "add", "value": builders.HOST},
        {"path": "/device_rp_uuid", "op": "add", "value": builders.rp_uuid()},
        {"path": "/instance_uuid", "op": "add", "value": builders.new_uuid()},
    ]}).status_int == 202
    attribute = send(shared_application, "POST", "/v2/attributes",
                     {"deployable_id": 1, "key": "known", "value": "x"}).json
    first = {noun: send(shared_application, "GET", f"/v2/{noun}").json[noun][0]["uuid"]
             for noun in ("devices", "deployables")}
    service = send(shared_application, "GET", "/v2/services").json["services"][0]
    assert send(shared_application, "POST", "/v2/orphans/sweep", {}).status_int == 202
    orphan = send(shared_application, "GET", "/v2/orphans").json["orphans"][0]
    return {"device_profiles": profile["uuid"], "accelerator_requests": arqs[0],
            "attributes": attribute["uuid"], "services": service["id"],
            "orphans": orphan["id"], **first}


def schema_of_reply(route: root.Route) -> dict[str, Any]:
    status = str(openapi.operation_of(route).status)
    content = described(route)["responses"][status]["content"]["application/json"]
    return {**content["schema"], "components": DOCUMENT["components"]}


READS = [route for route in root.ROUTES if route.method == "GET"]


@pytest.mark.parametrize(("route", "minor"), [
    (route, minor) for route in READS
    for minor in range(microversions.route_since(route.name), microversions.MAXIMUM + 1)],
    ids=lambda value: getattr(value, "name", str(value)))
def test_a_reply_of_every_microversion_has_the_form_that_is_described(
        shared_application: faults.Application, known: dict[str, str], route: root.Route,
        minor: int) -> None:
    path = with_variables(route.path, known)

    reply = send(shared_application, "GET", path,
                 **{"OpenStack-API-Version": f"accelerator {microversions.text(minor)}"})

    assert reply.status_int == 200, reply.text
    jsonschema.Draft202012Validator(
        schema_of_reply(route),
        format_checker=jsonschema.FormatChecker(["uuid", "date-time"])).validate(reply.json)


@pytest.mark.parametrize("route", READS, ids=lambda route: route.name)
def test_a_reply_of_the_latest_microversion_has_every_field_that_is_described(
        shared_application: faults.Application, known: dict[str, str],
        route: root.Route) -> None:
    reply = send(shared_application, "GET", with_variables(route.path, known)).json

    schema = schema_of_reply(route)
    if "$ref" not in schema:
        assert set(reply) == set(schema["properties"])
        name = next(iter(schema["properties"]))
        schema, reply = schema["properties"][name], reply[name]
        if schema.get("type") == "array":
            assert reply
            schema, reply = schema["items"], reply[0]
    component = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert set(reply) == set(component["properties"])


def with_variables(path: str, known: dict[str, str]) -> str:
    uuid = known[path.split("/")[2]]
    for variable in ("{uuid}", "{uuid_or_name}", "{id}"):
        path = path.replace(variable, uuid)
    return path


@pytest.fixture(scope="module")
def schema(shared_application: faults.Application) -> schemathesis.BaseSchema:
    """The document, as a client reads it; noauth asks for no token, so neither does this."""
    served = send(shared_application, "GET", openapi.PATH).json
    for part in (served, *(operation for path in served["paths"].values()
                           for operation in path.values())):
        part.pop("security", None)
    loaded = schemathesis.openapi.from_dict(served)
    loaded.app = shared_application
    loaded.location = openapi.PATH
    return loaded


TRUE = [checks.not_a_server_error, openapi_checks.status_code_conformance,
        openapi_checks.content_type_conformance, openapi_checks.response_headers_conformance,
        openapi_checks.response_schema_conformance]
BAD_IS_REFUSED = [*TRUE, openapi_checks.negative_data_rejection]

STEADY = hypothesis.settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
    phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck))

VERSIONS = DOCUMENT["components"]["parameters"]["version"]["schema"]["enum"]
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_is_good_in_form_gets_an_answer_that_is_described(
        schema: schemathesis.BaseSchema, known: dict[str, str], method: str, path: str) -> None:
    @STEADY
    @hypothesis.given(case=schema[path][method].as_strategy())
    def send_each(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=ADMIN, checks=TRUE)
        if about_known(case):
            case.call_and_validate(headers=ADMIN, checks=TRUE)

    def about_known(case: schemathesis.Case) -> bool:
        """Put what exists in the place of made-up uuids; say whether there are any."""
        is_arq_patch = method == "patch" and path.startswith("/v2/accelerator_requests")
        if case.path_parameters:
            uuid = known[path.split("/")[2]]
            case.path_parameters = dict.fromkeys(case.path_parameters, uuid)
        if is_arq_patch:
            case.body = {known["accelerator_requests"]: next(iter(case.body.values()))}
        return bool(case.path_parameters or is_arq_patch)

    send_each()


@pytest.mark.parametrize(("method", "path"), [
    (method, path) for method, path in OPERATIONS if path in PATHS])
def test_what_is_bad_in_form_is_refused_as_described(
        schema: schemathesis.BaseSchema, method: str, path: str) -> None:
    bad = schemathesis.GenerationMode.NEGATIVE

    @STEADY
    @hypothesis.given(case=schema[path][method].as_strategy(generation_mode=bad))
    def send_each(case: schemathesis.Case) -> None:
        hypothesis.assume(not is_understood_beyond_its_form(case))
        case.call_and_validate(headers=ADMIN, checks=BAD_IS_REFUSED)

    def is_understood_beyond_its_form(case: schemathesis.Case) -> bool:
        """Say whether the version header is one of old clients or meant for other services."""
        header = (case.headers or {}).get(microversions.HEADER)
        try:
            return header not in (None, *VERSIONS) and microversions.negotiate(header) >= 0
        except errors.VersionNotAcceptable:
            return False

    send_each()
