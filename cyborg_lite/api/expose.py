# SPDX-License-Identifier: Apache-2.0
"""One decorator for every operation: version, policy, parameters, body, reply.

The name of no resource here. What is checked, in this order: the microversion and the route
(`root.py`), who asks and the policy rule, path, query, body. Only then the handler runs.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import webob
from wsme import types as wsme_types

from cyborg_lite import auth
from cyborg_lite import errors
from cyborg_lite import rpc
from cyborg_lite.api import faults
from cyborg_lite.api import microversions
from cyborg_lite.api import parameters

ROUTE = "cyborg_lite.route"
"""Key in the WSGI environment: the route that was found, as `GET /v2/things`."""

Handler = Callable[..., Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the controllers of one application share. page_limit: asked at each request."""

    conductor: rpc.ConductorClient
    enforcer: auth.Enforcer
    service_roles: frozenset[str]
    public_endpoint: str | None = None
    max_accelerators_per_profile: int = 64
    page_limit: Callable[[], int] = lambda: 1000

    @property
    def max_limit(self) -> int:
        """Entries of the largest page, as configured now."""
        return self.page_limit()


class Controller:
    """Base of the controllers: one a noun, its operations exposed."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.conductor = services.conductor


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One request, as a handler sees it."""

    caller: auth.Caller
    version: int
    route: str
    base_url: str
    query: str = ""
    if_match: str | None = None

    def supports(self, slug: str) -> bool:
        """Say whether the client speaks the microversion that brought `slug`."""
        return microversions.supports(self.version, slug)

    def link(self, path: str, rel: str = "self") -> dict[str, str]:
        """Return a link below the point where this API is mounted."""
        return {"href": f"{self.base_url}/{path}", "rel": rel}

    def known_fields(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a body that the route has at this version.

        Others are ignored, as ever, and refused from 2.4 on.
        """
        known = [name for name, since in microversions.body_since(self.route).items()
                 if since <= self.version]
        unknown = set(body) - set(known)
        if unknown and self.supports("device_profile_update"):
            raise errors.Invalid(f"The body has {parameters.shown(sorted(unknown)[0])}, which is "
                                 f"unknown here; allowed: {', '.join(known) or '-'}.")
        return {name: body[name] for name in known if name in body}


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What a handler returns when it has headers to send too, or another status than usual."""

    body: Any
    headers: Mapping[str, str]
    status: int | None = None


def base_url(environ: dict[str, Any], public_endpoint: str | None) -> str:
    """Return where clients find this API: the configured address, or the one they used."""
    if public_endpoint:
        return public_endpoint.rstrip("/")
    return str(webob.Request(environ).application_url).rstrip("/")


OPTIONAL = "optional"
"""A body that may be left out; the handler gets an empty object then."""

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
"""What RFC 6902 calls its documents."""


def expose(rule: str, *path: wsme_types.UserType, status: int = 200, body: bool | str = False,
           also: int | None = None, media: tuple[str, ...] = (JSON,),
           query: Mapping[str, wsme_types.UserType] | None = None) -> Callable[[Handler], Handler]:
    """Make a method the handler of a route.

    rule: of the policy, without `cyborg:`. path: types of the path's variables. query: types of
    the query parameters, given to the handler by name (dots become underscores) when present.
    body: whether there is a JSON body, given as `body`; or OPTIONAL. also: the status of a `Reply`
    that names one. media: what the body may be called. What the handler returns becomes JSON,
    None an empty reply.
    """
    query_types = dict(query or {})

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def operation(self: Controller, request: Any, response: Any, *segments: str) -> Any:
            environ = request.environ
            services = self.services
            caller = auth.caller_from(environ, services.service_roles, services.enforcer)
            services.enforcer.authorize(f"cyborg:{rule}", caller)
            call = Call(caller, faults.version_of(environ), environ[ROUTE],
                        base_url(environ, services.public_endpoint),
                        environ.get("QUERY_STRING", ""), environ.get("HTTP_IF_MATCH"))
            values = [parameters.convert(kind, "In the path,", segment)
                      for kind, segment in zip(path, segments, strict=True)]
            named = _query(call, call.query, query_types)
            if body == OPTIONAL and not _raw(request):
                named["body"] = {}
            elif body:
                named["body"] = _body(request, media)
            elif environ["REQUEST_METHOD"] == "POST" and _raw(request):
                _refuse_body(call, request)
            return _reply(handler(self, call, *values, **named), status)

        operation.query_types = query_types  # type: ignore[attr-defined]
        operation.rule = rule  # type: ignore[attr-defined]
        operation.path_types = path  # type: ignore[attr-defined]
        operation.status = status  # type: ignore[attr-defined]
        operation.statuses = sorted({status, also or status})  # type: ignore[attr-defined]
        operation.body = body  # type: ignore[attr-defined]
        operation.media = media  # type: ignore[attr-defined]
        return operation

    return decorate


def _query(call: Call, query_string: str,
           types: Mapping[str, wsme_types.UserType]) -> dict[str, Any]:
    given = parameters.query(query_string)
    if not given:
        return {}
    since = microversions.query_since(call.route)
    named: dict[str, Any] = {}
    for name, values in given.items():
        if since.get(name, microversions.MAXIMUM + 1) > call.version:
            raise errors.Invalid(_unknown(name, since, call.version))
        kind = types[name]
        what = f"Query parameter {name}"
        if isinstance(kind, parameters.Many):
            converted: Any = parameters.convert(kind, what, ",".join(values))
        elif isinstance(kind, parameters.Repeated):
            converted = [parameters.convert(kind, what, value) for value in values]
        elif len(values) > 1:
            raise errors.Invalid(f"{what} is given {len(values)} times; give it once.")
        else:
            converted = parameters.convert(kind, what, values[0])
        named[name.replace(".", "_")] = converted
    return named


def _unknown(name: str, since: Mapping[str, int], version: int) -> str:
    if name in since:
        return (f"Query parameter {name} needs microversion {microversions.text(since[name])}; "
                f"the request speaks {microversions.text(version)}.")
    allowed = ", ".join(sorted(known for known, minor in since.items() if minor <= version))
    return f"Query parameter {parameters.shown(name)} is unknown here; allowed: {allowed or '-'}."


def _body(request: Any, media: tuple[str, ...] = (JSON,)) -> Any:
    kind = request.content_type.strip()
    raw = _raw(request)
    if not raw:
        raise errors.Invalid("The body is empty; JSON is needed.")
    if kind.lower() not in media:
        raise errors.NotJson(f"Content-Type {parameters.shown(kind)} is not understood; send "
                             f"{' or '.join(media)}.")
    return parameters.json_body(raw)


def _raw(request: Any) -> bytes:
    try:
        return bytes(request.body)
    except (OSError, ValueError) as error:  # ValueError: a server that knows a chunk from none
        raise errors.Invalid("The body ended before its Content-Length, or it comes in chunks "
                             "that are none.") from error


def _refuse_body(call: Call, request: Any) -> None:
    """Refuse fields where none are known, in the versions that refuse unknown ones."""
    if call.supports("device_profile_update"):
        body = _body(request)
        if not isinstance(body, dict):
            raise errors.Invalid("The body is not an object; none is needed here.")
        call.known_fields(body)


def _reply(result: Any, status: int) -> Any:
    if isinstance(result, Reply):
        reply = _reply(result.body, result.status or status)
        reply.headers.update(result.headers)
        return reply
    if result is None:
        reply = webob.Response(status=status, body=b"")
        del reply.content_type
        return reply
    return webob.Response(status=status, body=json.dumps(result).encode(),
                          content_type="application/json", charset=None)
