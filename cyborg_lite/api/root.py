# SPDX-License-Identifier: Apache-2.0
"""The routes, in one table, and the version documents.

No operation's code: a route names the controller and the method that serve it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from cyborg_lite import errors
from cyborg_lite.api import arqs
from cyborg_lite.api import deployables
from cyborg_lite.api import device_profiles
from cyborg_lite.api import devices
from cyborg_lite.api import expose
from cyborg_lite.api import faults
from cyborg_lite.api import instance_operations
from cyborg_lite.api import microversions
from cyborg_lite.api import orphans
from cyborg_lite.api import partitioning
from cyborg_lite.api import services as service_operations

ARQS = arqs.AcceleratorRequests
OPERATIONS = instance_operations.InstanceOperations
PROFILES = device_profiles.DeviceProfiles
DEVICES = devices.Devices
PARTITIONING = partitioning.Partitioning
DEPLOYABLES = deployables.Deployables
ATTRIBUTES = deployables.Attributes
SERVICES = service_operations.Services
ORPHANS = orphans.Orphans


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """Method and path, where `{...}` is a variable, and the handler that serves them."""

    method: str
    path: str
    controller: type[expose.Controller]
    handler: str

    @property
    def name(self) -> str:
        """Return the key of the microversion table."""
        return f"{self.method} {self.path}"


ROUTES = (
    Route("GET", "/v2/device_profiles", PROFILES, "get_all"),
    Route("POST", "/v2/device_profiles", PROFILES, "post"),
    Route("DELETE", "/v2/device_profiles", PROFILES, "delete"),
    Route("GET", "/v2/device_profiles/{uuid_or_name}", PROFILES, "get_one"),
    Route("PATCH", "/v2/device_profiles/{uuid_or_name}", PROFILES, "patch_one"),
    Route("DELETE", "/v2/device_profiles/{uuid_or_name}", PROFILES, "delete_one"),
    Route("GET", "/v2/accelerator_requests", ARQS, "get_all"),
    Route("POST", "/v2/accelerator_requests", ARQS, "post"),
    Route("PATCH", "/v2/accelerator_requests", ARQS, "patch"),
    Route("DELETE", "/v2/accelerator_requests", ARQS, "delete"),
    Route("POST", "/v2/accelerator_requests/action", OPERATIONS, "act"),
    Route("GET", "/v2/accelerator_requests/{uuid}", ARQS, "get_one"),
    Route("PATCH", "/v2/accelerator_requests/{uuid}", ARQS, "patch_one"),
    Route("DELETE", "/v2/accelerator_requests/{uuid}", ARQS, "delete_one"),
    Route("GET", "/v2/devices", DEVICES, "get_all"),
    Route("GET", "/v2/devices/{uuid}", DEVICES, "get_one"),
    Route("POST", "/v2/devices/{uuid}/disable", DEVICES, "disable"),
    Route("POST", "/v2/devices/{uuid}/enable", DEVICES, "enable"),
    Route("POST", "/v2/devices/{uuid}/clean", DEVICES, "clean"),
    Route("GET", "/v2/devices/{uuid}/partitioning", PARTITIONING, "get"),
    Route("PUT", "/v2/devices/{uuid}/partitioning", PARTITIONING, "put"),
    Route("GET", "/v2/deployables", DEPLOYABLES, "get_all"),
    Route("GET", "/v2/deployables/{uuid}", DEPLOYABLES, "get_one"),
    Route("PATCH", "/v2/deployables/{uuid}/program", DEPLOYABLES, "program"),
    Route("PATCH", "/v2/deployables/{uuid}/program/{uuid}", DEPLOYABLES, "program_repeated"),
    Route("GET", "/v2/attributes", ATTRIBUTES, "get_all"),
    Route("POST", "/v2/attributes", ATTRIBUTES, "post"),
    Route("GET", "/v2/attributes/{uuid}", ATTRIBUTES, "get_one"),
    Route("DELETE", "/v2/attributes/{uuid}", ATTRIBUTES, "delete_one"),
    Route("GET", "/v2/services", SERVICES, "get_all"),
    Route("PUT", "/v2/services/{id}", SERVICES, "put_one"),
    Route("GET", "/v2/orphans", ORPHANS, "get_all"),
    Route("GET", "/v2/orphans/{id}", ORPHANS, "get_one"),
    Route("POST", "/v2/orphans/{id}/clean", ORPHANS, "clean"),
    Route("GET", "/v2/orphans/sweep", ORPHANS, "get_sweep"),
    Route("POST", "/v2/orphans/sweep", ORPHANS, "post_sweep"),
)

_VARIABLE = "{}"
_Found = tuple[Callable[..., Any], Route]


class Root:
    """Pecan's root: finds the handler of a path in the table."""

    def __init__(self, services: expose.Services, routes: Iterable[Route] = ROUTES) -> None:
        self._tree: dict[str, Any] = {}
        controllers: dict[type[expose.Controller], expose.Controller] = {}
        for route in routes:
            if route.controller not in controllers:
                controllers[route.controller] = route.controller(services)
            node = self._tree
            for segment in route.path.strip("/").split("/"):
                node = node.setdefault(_VARIABLE if segment.startswith("{") else segment, {})
            handler = getattr(controllers[route.controller], route.handler)
            node.setdefault("", {})[route.method] = (handler, route)

    def route(self, path: list[str], request: Any) -> tuple[Any, list[str]]:
        """Return the handler and the path's variables; NotFound, MethodNotAllowed."""
        version = faults.version_of(request.environ)
        segments = path[:-1] if path and not path[-1] else path
        node, variables = self._tree, []
        for segment in segments:
            below = node.get(segment) if segment else None
            if below is None and segment:
                below = node.get(_VARIABLE)
                variables.append(segment)
            if below is None:
                raise errors.NotFound(_nothing_at(request.path_info))
            node = below
        handler, route = _at(node.get("", {}), request, version)
        request.environ[expose.ROUTE] = route.name
        return handler, variables


def _at(methods: dict[str, _Found], request: Any, version: int) -> _Found:
    """Return what serves the method, among those that this version has."""
    offered = {method: found for method, found in methods.items()
               if microversions.route_since(found[1].name) <= version}
    if not offered:
        raise errors.NotFound(_nothing_at(request.path_info))
    found = offered.get("GET" if request.method == "HEAD" else request.method)
    if found is None:
        allowed = {*offered, *(["HEAD"] if "GET" in offered else [])}
        raise errors.MethodNotAllowed(
            f"{request.path_info} takes {', '.join(sorted(allowed))}, not {request.method}.",
            allowed=allowed)
    return found


def _nothing_at(path: str) -> str:
    shown = path if len(path) <= 80 else f"{path[:77]}..."
    return (f"There is nothing at {shown}; the nouns of this API are below "
            f"/v{microversions.MAJOR}.")


class VersionDocuments:
    """Answers / and /v2 without a token, and refuses what is not below /v2."""

    def __init__(self, app: faults.Application, public_endpoint: str | None) -> None:
        self._app = app
        self._public_endpoint = public_endpoint

    def __call__(self, environ: dict[str, Any],
                 start_response: faults.StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        first, _, rest = path.lstrip("/").partition("/")
        if first and first != "v2":
            return faults.Fault(errors.NotFound(_nothing_at(path)))(environ, start_response)
        if rest:
            return self._app(environ, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return faults.Fault(errors.MethodNotAllowed(
                f"{path or '/'} takes GET and HEAD.", allowed=("GET", "HEAD")))(
                    environ, start_response)
        return self._document(environ, start_response, is_root=not first)

    def _document(self, environ: dict[str, Any], start_response: faults.StartResponse,
                  is_root: bool) -> Iterable[bytes]:
        v2 = microversions.document(expose.base_url(environ, self._public_endpoint))
        document: dict[str, Any] = {"versions": [v2]}
        if is_root:
            document = {"name": "OpenStack accelerator API",
                        "description": "Lifecycle of hardware accelerators.",
                        "versions": [v2], "default_version": v2}
        body = json.dumps(document).encode()
        start_response("200 OK", [("Content-Type", "application/json"),
                                  ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
