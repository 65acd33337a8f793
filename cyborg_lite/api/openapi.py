# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document, made from the tables of routes, microversions, rules and types.

No schema here: `schemas.py` has those. It is served without a token, as the versions are: what
it says is in the source too.
"""

from __future__ import annotations

import http
import json
from collections.abc import Iterable
from typing import Any

from cyborg_lite import auth
from cyborg_lite import errors
from cyborg_lite.api import expose
from cyborg_lite.api import faults
from cyborg_lite.api import health
from cyborg_lite.api import microversions
from cyborg_lite.api import parameters
from cyborg_lite.api import root
from cyborg_lite.api import schemas

PATH = "/v2/openapi.json"

Json = dict[str, Any]

# --- which errors an operation can answer -----------------------------------------------------

EVERYWHERE = (errors.Invalid, errors.Unauthorized, errors.Forbidden,
              errors.VersionNotAcceptable, errors.Error, errors.Unavailable,
              errors.DeadlinePassed, errors.TooOld)
WITH_A_BODY = (errors.TooLarge, errors.NotJson)

_PROFILES = "/v2/device_profiles"
_PROFILE = "/v2/device_profiles/{uuid_or_name}"
_ARQS = "/v2/accelerator_requests"
_ARQ = "/v2/accelerator_requests/{uuid}"
_PROGRAM = "/v2/deployables/{uuid}/program"
_BIND = (errors.AlreadyHasArqs, errors.ServiceTokenMissing, errors.NotFound,
         errors.StateConflict, errors.BindFailed, errors.AgentUnavailable)

REFUSALS: dict[str, tuple[type[errors.Error], ...]] = {
    f"POST {_PROFILES}": (errors.Duplicate,),
    f"DELETE {_PROFILES}": (errors.NotFound, errors.InUse),
    f"PATCH {_PROFILE}": (errors.Duplicate, errors.InUse, errors.ChangedMeanwhile,
                          errors.PreconditionFailed),
    f"DELETE {_PROFILE}": (errors.InUse,),
    f"GET {_ARQS}": (errors.BindFailed, errors.NotResolved),
    f"POST {_ARQS}": (errors.NotFound,),
    f"PATCH {_ARQS}": _BIND,
    f"PATCH {_ARQ}": _BIND,
    f"POST {_ARQS}/action": (errors.ServiceTokenMissing, errors.NotFound, errors.StateConflict),
    f"DELETE {_ARQS}": (errors.NotFound, errors.ServiceTokenMissing),
    f"DELETE {_ARQ}": (errors.ServiceTokenMissing,),
    f"PATCH {_PROGRAM}": (errors.NotProgrammable, errors.AgentUnavailable),
    f"PATCH {_PROGRAM}/{{uuid}}": (errors.NotProgrammable, errors.AgentUnavailable),
    "PUT /v2/devices/{uuid}/partitioning": (
        errors.InUse, errors.StateConflict, errors.ChangedMeanwhile),
    "POST /v2/attributes": (errors.NotFound, errors.Duplicate),
    "DELETE /v2/attributes/{uuid}": (errors.Conflict,),
    "PUT /v2/services/{id}": (errors.StateConflict,),
    "POST /v2/orphans/{id}/clean": (errors.StateConflict,),
    "GET /v2/orphans/sweep": (errors.NotFound,),
    "POST /v2/orphans/sweep": (errors.NotFound,),
}
"""By route: what it refuses besides what every route does."""


def errors_of(route: root.Route) -> dict[int, list[type[errors.Error]]]:
    """Return the errors that a route can answer, by status."""
    kinds: list[type[errors.Error]] = [*EVERYWHERE, *REFUSALS.get(route.name, ())]
    if "{" in route.path or _has_a_new_path(route):
        kinds.append(errors.NotFound)
    if operation_of(route).body:
        kinds.extend(WITH_A_BODY)
    if _is_newer_than_its_path(route):
        kinds.append(errors.MethodNotAllowed)
    found: dict[int, list[type[errors.Error]]] = {}
    for kind in dict.fromkeys(kinds):
        found.setdefault(kind.status, []).append(kind)
    return dict(sorted(found.items()))


def _is_newer_than_its_path(route: root.Route) -> bool:
    since = microversions.route_since
    return any(other.path == route.path and since(other.name) < since(route.name)
               for other in root.ROUTES)


def _has_a_new_path(route: root.Route) -> bool:
    """Say whether there is nothing at the path below the version that brought the route."""
    is_new = microversions.route_since(route.name) > microversions.MINIMUM
    return is_new and not _is_newer_than_its_path(route)


# --- the document -----------------------------------------------------------------------------


def operation_of(route: root.Route) -> Any:
    """Return the exposed method that serves a route."""
    return getattr(route.controller, route.handler)


def document(base_url: str, max_accelerators: int) -> Json:
    """Return the description of the whole API, of all microversions.

    max_accelerators: what [api] max_accelerators_per_profile allows.
    """
    bodies = schemas.bodies(max_accelerators)
    paths: Json = {}
    for route in root.ROUTES:
        path, variables = _template(route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(
            route, variables, bodies.get(route.name))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OpenStack accelerator API",
            "version": microversions.text(microversions.MAXIMUM),
            "summary": "Lifecycle of hardware accelerators.",
            "description": "\n".join(f"- {microversions.text(row.minor)}: {row.sentence}"
                                     for row in microversions.TABLE),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base_url}],
        "paths": {**_open_paths(), **paths},
        "security": [{"token": []}],
        "components": _components(),
    }


def _template(path: str) -> tuple[str, list[str]]:
    """Return a path whose variables have different names, and these names."""
    names: list[str] = []
    segments = path.split("/")
    for index, segment in enumerate(segments):
        if segment.startswith("{"):
            name = segment[1:-1]
            names.append(f"{name}_again" if name in names else name)
            segments[index] = f"{{{names[-1]}}}"
    return "/".join(segments), names


def _operation(route: root.Route, variables: list[str], body: schemas.Schema | None) -> Json:
    exposed = operation_of(route)
    rule = next(rule for rule in auth.RULES if rule.name == f"cyborg:{exposed.rule}")
    noun = route.path.split("/")[2]
    found: Json = {
        "operationId": f"{noun}.{route.handler}",
        "tags": [noun],
        "summary": rule.description,
        "x-openstack-policy": rule.name,
        schemas.SINCE: microversions.text(microversions.route_since(route.name)),
        "parameters": [*_path_parameters(variables, exposed.path_types),
                       *_query_parameters(route), *_header_parameters(route)],
        "responses": _responses(route, exposed.statuses),
    }
    if body is not None:
        found["requestBody"] = {"required": exposed.body is True,
                                "content": {media: {"schema": body} for media in exposed.media}}
    if exposed.rule in ("arq:update", "arq:action"):
        found["security"] = [{"token": [], "service_token": []}]
    return found


def _path_parameters(names: list[str], types: Iterable[Any]) -> list[Json]:
    return [{"name": name, "in": "path", "required": True, "schema": kind.schema()}
            for name, kind in zip(names, types, strict=True)]


def _query_parameters(route: root.Route) -> list[Json]:
    found = []
    for name, minor in microversions.query_since(route.name).items():
        kind = operation_of(route).query_types[name]
        parameter = {"name": name, "in": "query", "required": False, "schema": kind.schema()}
        if isinstance(kind, parameters.Several):
            parameter |= {"style": "form", "explode": False}
        found.append(schemas.since(minor, parameter))
    return found


def _header_parameters(route: root.Route) -> list[Json]:
    found = [{"$ref": "#/components/parameters/version"}]
    if route.name == f"PATCH {_PROFILE}":
        found.append({"$ref": "#/components/parameters/if_match"})
    return found


def _responses(route: root.Route, statuses: Iterable[int]) -> Json:
    headers = dict(_HEADERS)
    if route.path == _PROFILE and route.method != "DELETE":
        headers["ETag"] = {"$ref": "#/components/headers/ETag"}
    good: Json = {"headers": headers}
    if route.name in schemas.REPLIES:
        good["content"] = {"application/json": {"schema": schemas.REPLIES[route.name]}}
    return {**{str(status): {"description": http.HTTPStatus(status).phrase, **good}
               for status in statuses},
            **{str(code): _error_response(code, kinds)
               for code, kinds in errors_of(route).items()}}


def _error_response(code: int, kinds: Iterable[type[errors.Error]]) -> Json:
    headers = {**_HEADERS}
    if code == errors.Unavailable.status:
        headers["Retry-After"] = {"schema": {"type": "integer"}}
    if code == errors.MethodNotAllowed.status:
        headers["Allow"] = {"schema": {"type": "string"}}
    return {"description": "; ".join(kind.title for kind in kinds), "headers": headers,
            "x-openstack-error-codes": [f"accelerator.{kind.slug}" for kind in kinds],
            "content": {"application/json": {"schema": schemas.ref("error")}}}


_HEADERS: Json = {name: {"$ref": f"#/components/headers/{name}"} for name in (
    microversions.HEADER, microversions.MINIMUM_HEADER, microversions.MAXIMUM_HEADER,
    "x-openstack-request-id")}


def _components() -> Json:
    text: Json = {"schema": {"type": "string"}}
    versions = [f"{microversions.SERVICE_TYPE} {word}" for word in (
        *(microversions.text(row.minor) for row in microversions.TABLE), "latest")]
    return {
        "schemas": {
            "link": schemas.an_object(
                {"href": {"type": "string"}, "rel": {"type": "string"}}, ("href", "rel")),
            "error": schemas.error(),
            **{name: schemas.noun(name) for name in schemas.NOUNS}},
        "parameters": {
            "version": {
                "name": microversions.HEADER, "in": "header", "required": False,
                "description": "The microversion that the client speaks; none, or that of another "
                               "service alone, is as the default.",
                "schema": {"type": "string", "enum": versions, "default": versions[0]}},
            "if_match": {
                "name": "If-Match", "in": "header", "required": False,
                "description": "Tags of the states in which the profile may be changed.",
                "schema": {"type": "string", "pattern": '^("[0-9a-f-]{1,60}"|\\*)$'}}},
        "headers": {name: text for name in (*_HEADERS, "ETag")},
        "securitySchemes": {
            "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
            "service_token": {"type": "apiKey", "in": "header", "name": "X-Service-Token"}},
    }


def _open_paths() -> Json:
    """Describe what is served without a token."""
    def served(name: str, summary: str, content: Json, **more: Json) -> Json:
        return {"get": {
            "operationId": name, "tags": ["versions"], "summary": summary, "security": [],
            "responses": {"200": {"description": "OK", "content": content}, **more}}}

    anything: Json = {"application/json": {"schema": {"type": "object"}}}
    return {
        "/": served("versions.get_all", "List the versions of the API.", anything),
        "/v2": served("versions.get_one", "Show version 2 of the API.", anything),
        PATH: served("versions.openapi", "Show this document.", anything),
        health.PATH: served(
            "versions.health", "Tell whether the API can serve.", {
                kind: {"schema": {}} for kind in ("text/plain", "text/html",
                                                  "application/json")},
            **{"503": _error_response(503, (errors.Unavailable,))}),
    }


# --- serving it -------------------------------------------------------------------------------


class Document:
    """Serves PATH, passes everything else on."""

    def __init__(self, app: faults.Application, public_endpoint: str | None,
                 max_accelerators: int) -> None:
        self._app = app
        self._public_endpoint = public_endpoint
        self._document = document("", max_accelerators)

    def __call__(self, environ: dict[str, Any],
                 start_response: faults.StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != PATH:
            return self._app(environ, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return faults.Fault(errors.MethodNotAllowed(
                f"{PATH} takes GET and HEAD.", allowed=("GET", "HEAD")))(environ, start_response)
        here = expose.base_url(environ, self._public_endpoint)
        body = json.dumps({**self._document, "servers": [{"url": here}]}).encode()
        start_response("200 OK", [("Content-Type", "application/json"),
                                  ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
