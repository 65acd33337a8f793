# SPDX-License-Identifier: Apache-2.0
"""One keystoneauth session for each service that we call, and one bounded request over it.

What the services' answers mean is the business of the other modules here.
"""

from __future__ import annotations

import time
from typing import Any

import requests
from keystoneauth1 import adapter as ks_adapter
from keystoneauth1 import exceptions as ks_exceptions
from keystoneauth1 import loading as ks_loading
from keystoneauth1 import service_token
from keystoneauth1 import session as ks_session
from oslo_config import cfg

from cyborg_lite import errors
from cyborg_lite import metrics

TIMEOUT_S = 20
RETRIES = 1
RETRY_DELAY_S = 0.2
"""Few and short: whoever calls tries again by itself, with a growing delay."""


class Away(errors.Unavailable):
    """The service gave no usable answer: none at all, a 5xx, or it does not let us in."""

    slug, title = "service-away", "A service that is needed does not answer"


class Stumbled(Away):
    """The service answered 500: it fails at this very request, and may answer others."""


class Service:
    """One service of the catalog. Safe to use from several threads."""

    def __init__(self, adapter: ks_adapter.Adapter, name: str) -> None:
        self._adapter = adapter
        self._name = name

    def endpoint(self) -> str:
        """Return the address that requests go to, without a trailing slash; Away."""
        try:
            endpoint = self._adapter.get_endpoint()
        except ks_exceptions.ClientException as error:
            raise Away(f"The address of {self._name} is not known: {error}") from error
        if not endpoint:
            raise Away(f"The catalog has no endpoint of {self._name}.")
        return str(endpoint).rstrip("/")

    def request(self, method: str, path: str, microversion: str, *, body: Any = None,
                request_id: str | None = None) -> requests.Response:
        """Send one request; any status below 500 but 401, 403, 429 is returned, else Away."""
        given: dict[str, Any] = {} if body is None else {"json": body}
        headers = {"Accept": "application/json"}
        if request_id:
            headers["X-OpenStack-Request-ID"] = request_id
        began = time.perf_counter()
        status = "none"
        try:
            response: requests.Response = self._adapter.request(
                path, method, raise_exc=False, microversion=microversion, headers=headers, **given)
            status = f"{response.status_code // 100}xx"
        except ks_exceptions.ClientException as error:
            raise Away(f"{self._name} gave no answer to {method} {path}: {error}") from error
        finally:
            metrics.OUTGOING_SECONDS.labels(self._name.lower(), method, status).observe(
                time.perf_counter() - began)
        if response.status_code in (401, 403):
            raise Away(f"{self._name} answered {response.status_code} to {method} {path}: our "
                       "user is not known there or may not do this.")
        if response.status_code == 429 or response.status_code >= 500:
            kind = Stumbled if response.status_code == 500 else Away
            raise kind(f"{self._name} answered {response.status_code} to {method} {path}.")
        return response


def service_from(conf: cfg.ConfigOpts, group: str, name: str, connections: int = 1) -> Service:
    """Return the service that the options of a group lead to; nothing is sent yet.

    Call it once a process: the session keeps its token and its connections.
    Raises cfg.Error, which names group and option.
    """
    auth = _auth_from(conf, group)
    if auth is None:
        raise cfg.Error(f"[{group}] auth_type is not set; {name} is needed. Set password with its "
                        "options, or none with endpoint_override.")
    if conf.service_user.send_service_user_token:
        service_auth = _auth_from(conf, "service_user")
        if service_auth is None:
            raise cfg.Error("[service_user] auth_type is not set, and send_service_user_token is "
                            "true; set password with its options.")
        auth = service_token.ServiceTokenAuthWrapper(auth, service_auth)
    options = conf[group]
    http = requests.Session()
    transport = ks_session.TCPKeepAliveAdapter(
        pool_maxsize=max(10, connections), tls_ciphers=options.tls_ciphers,
        tls_min_version=options.tls_min_version)
    for scheme in list(http.adapters):
        http.mount(scheme, transport)
    session = ks_loading.load_session_from_conf_options(
        conf, group, auth=auth, session=http, timeout=options.timeout or TIMEOUT_S)
    try:
        adapter = ks_loading.load_adapter_from_conf_options(
            conf, group, session=session, user_agent="cyborg-lite", **_retry_defaults(options))
    except TypeError as error:
        raise cfg.Error(f"[{group}]: {error}") from error
    return Service(adapter, name)


def _auth_from(conf: cfg.ConfigOpts, group: str) -> Any:
    try:
        return ks_loading.load_auth_from_conf_options(conf, group)
    except (ks_exceptions.NoMatchingPlugin, ks_exceptions.OptionError) as error:
        raise cfg.Error(f"[{group}] auth_type = {conf[group].auth_type}: {error}") from error


def _retry_defaults(options: Any) -> dict[str, Any]:
    defaults = {"connect_retries": RETRIES, "connect_retry_delay": RETRY_DELAY_S,
                "status_code_retries": RETRIES, "status_code_retry_delay": RETRY_DELAY_S}
    return {name: value for name, value in defaults.items() if options[name] is None}
