# SPDX-License-Identifier: Apache-2.0
"""The WSGI application: pecan, and the order of the middleware around it.

No routes here, no requests of our own: `root.py` and `expose.py` have those.
"""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import oslo_middleware
import pecan.core
from oslo_config import cfg
from oslo_middleware import cors
from paste import deploy

from cyborg_lite import auth
from cyborg_lite import errors
from cyborg_lite import rpc
from cyborg_lite.api import authentication
from cyborg_lite.api import console
from cyborg_lite.api import expose
from cyborg_lite.api import faults
from cyborg_lite.api import health
from cyborg_lite.api import measuring
from cyborg_lite.api import openapi
from cyborg_lite.api import root


class Pecan(pecan.core.ExplicitPecan):  # type: ignore[misc]
    """Pecan without its own reading of path, query, body, file extension and Accept.

    Those come before policy there; its parser answers deep JSON and bad UTF-8 with a 500, and any
    attribute of a controller could be a path.
    """

    def find_controller(self, state: Any) -> tuple[Any, list[Any], dict[str, Any]]:
        path = state.request.path_info.split("/")[1:]
        handler, variables = self.root.route(path, state.request)
        return handler, [state.request, state.response, *variables], {}

    def invoke_controller(self, controller: Any, args: list[Any], kwargs: dict[str, Any],
                          state: Any) -> None:
        state.response = controller(*args, **kwargs)

    def _handle_empty_response_body(self, state: Any) -> None:
        """Keep the status that the handler chose; pecan would make 204 of an empty 200."""

    def __call__(self, environ: dict[str, Any],
                 start_response: faults.StartResponse) -> Iterable[bytes]:
        try:
            reply: Iterable[bytes] = super().__call__(environ, start_response)
        except errors.Error as error:
            return faults.Fault(error)(environ, start_response)
        return reply


# --- the middleware, in order, each as (application, configuration) -> application ------------

_CONDUCTOR: contextvars.ContextVar[rpc.ConductorClient] = contextvars.ContextVar("conductor")
_CONF: contextvars.ContextVar[cfg.ConfigOpts] = contextvars.ContextVar("conf")

Filter = Callable[[faults.Application, cfg.ConfigOpts], faults.Application]


def _cors(app: faults.Application, conf: cfg.ConfigOpts) -> faults.Application:
    conf.register_opts(cors.OPTS, group="cors")
    if not conf.cors.allowed_origin:
        return app
    wrapped: faults.Application = cors.CORS(app, conf)
    return wrapped


def _proxy(app: faults.Application, conf: cfg.ConfigOpts) -> faults.Application:
    wrapped: faults.Application = oslo_middleware.HTTPProxyToWSGI(app, conf)
    return wrapped if conf.oslo_middleware.enable_proxy_headers_parsing else app


def _health(app: faults.Application, conf: cfg.ConfigOpts) -> faults.Application:
    return health.Healthcheck(app, conf, health.Probe(_CONDUCTOR.get().ping))


def _documents(app: faults.Application, conf: cfg.ConfigOpts) -> faults.Application:
    described = openapi.Document(app, conf.api.public_endpoint,
                                 conf.api.max_accelerators_per_profile)
    return root.VersionDocuments(described, conf.api.public_endpoint)


FILTERS: dict[str, Filter] = {
    "faults": lambda app, conf: faults.Outermost(app),
    "request_id": oslo_middleware.RequestId,
    "http_proxy_to_wsgi": _proxy,
    "cors": _cors,
    "sizelimit": oslo_middleware.RequestBodySizeLimiter,
    "healthcheck": _health,
    "console": console.served,
    "versions": _documents,
    "authentication": authentication.authenticated,
}
"""From the outside in; api-paste.ini has the same order."""


def _core(conf: cfg.ConfigOpts) -> faults.Application:
    services = expose.Services(
        conductor=_CONDUCTOR.get(), enforcer=auth.Enforcer(conf),
        service_roles=authentication.service_roles(conf),
        public_endpoint=conf.api.public_endpoint,
        max_accelerators_per_profile=conf.api.max_accelerators_per_profile,
        page_limit=lambda: int(conf.api.max_limit))
    core: faults.Application = Pecan(root.Root(services), use_context_locals=False)
    return core


def make_app(conf: cfg.ConfigOpts, conductor: rpc.ConductorClient) -> faults.Application:
    """Return the whole application.

    The pipeline is that of [api] api_paste_config where such a file is found, else `FILTERS`.
    Raises cfg.Error when noauth would be exposed.
    """
    authentication.refuse_exposed_noauth(conf)
    app = _pipeline(conf, conductor)
    return measuring.Measured(app) if conf.metrics.enabled else app


def _pipeline(conf: cfg.ConfigOpts, conductor: rpc.ConductorClient) -> faults.Application:
    tokens = _CONF.set(conf), _CONDUCTOR.set(conductor)
    try:
        paste_file = _paste_file(conf)
        if paste_file:
            loaded: faults.Application = deploy.loadapp(f"config:{paste_file}", name="main")
            return loaded
        app = _core(conf)
        for wrap in reversed(FILTERS.values()):
            app = wrap(app, conf)
        return app
    finally:
        _CONF.reset(tokens[0])
        _CONDUCTOR.reset(tokens[1])


def _paste_file(conf: cfg.ConfigOpts) -> str | None:
    name = conf.api.api_paste_config
    found = name if os.path.isabs(name) else conf.find_file(name)
    if found and not os.path.exists(found):
        raise cfg.ConfigFilesNotFoundError([found])
    return os.path.abspath(found) if found else None


# --- for api-paste.ini ------------------------------------------------------------------------


def paste_app(global_conf: dict[str, str], **local_conf: str) -> faults.Application:
    """Make the innermost application; only within `make_app`."""
    return _core(_CONF.get())


def paste_filter(global_conf: dict[str, str],
                 name: str) -> Callable[[faults.Application], faults.Application]:
    """Make the filter of `FILTERS` called `name`; only within `make_app`."""
    conf, wrap = _CONF.get(), FILTERS[name]
    return lambda app: wrap(app, conf)
