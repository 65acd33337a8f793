# SPDX-License-Identifier: Apache-2.0
"""Who says who the caller is: keystonemiddleware, or noauth, which believes any client.

No policy here: see `cyborg_lite/auth.py`.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import logging
from collections.abc import Iterable
from typing import Any

from keystoneauth1 import exceptions as ks_exceptions
from keystonemiddleware import auth_token
from oslo_config import cfg

from cyborg_lite import errors
from cyborg_lite.api import faults

LOG = logging.getLogger(__name__)

GROUP = "keystone_authtoken"


def register_options(conf: cfg.ConfigOpts) -> None:
    """Register [keystone_authtoken], of which service_token_roles counts for noauth too."""
    for group, options in auth_token.list_opts():
        conf.register_opts(options, group=group)


def service_roles(conf: cfg.ConfigOpts) -> frozenset[str]:
    """Return the roles of which a service token needs one."""
    register_options(conf)
    return frozenset(conf[GROUP].service_token_roles)


def refuse_exposed_noauth(conf: cfg.ConfigOpts) -> None:
    """Raise cfg.Error when noauth would listen on an address that others can reach."""
    if (conf.api.auth_strategy == "noauth" and not conf.api.allow_noauth_beyond_loopback
            and not is_loopback(conf.api.host_ip)):
        raise cfg.ConfigFileValueError(
            f"[api] auth_strategy = noauth would let anybody who reaches [api] host_ip = "
            f"{conf.api.host_ip} do anything. Use keystone, listen on 127.0.0.1, or set [api] "
            "allow_noauth_beyond_loopback = true.")


def refuse_cache_without_library(conf: cfg.ConfigOpts) -> None:
    """Raise cfg.Error when tokens are to be cached by what is not installed.

    keystonemiddleware looks for it at the first token, and each request would fail.
    """
    register_options(conf)
    servers = conf[GROUP].memcached_servers
    if servers and importlib.util.find_spec("memcache") is None:
        raise cfg.ConfigFileValueError(
            f"[{GROUP}] memcached_servers = {','.join(servers)}: tokens can't be cached there "
            "without python-memcached. Install the extra memcached, or leave the option out.")


def is_loopback(address: str) -> bool:
    """Say whether only this machine can have that address."""
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"


class NoAuth:
    """Believes X-User-Id, X-Project-Id, X-Roles and X-Service-Roles of any client near by.

    A client that sends none of the first three is an administrator of project `noauth`, so that
    clients without authentication (`--os-auth-type none`) can be used.
    """

    IDENTITY = ("HTTP_X_USER_ID", "HTTP_X_PROJECT_ID", "HTTP_X_ROLES")

    def __init__(self, app: faults.Application, conf: cfg.ConfigOpts) -> None:
        self._app = app
        self._anywhere = conf.api.allow_noauth_beyond_loopback

    def __call__(self, environ: dict[str, Any],
                 start_response: faults.StartResponse) -> Iterable[bytes]:
        address = environ.get("REMOTE_ADDR")
        if address and not self._anywhere and not is_loopback(address):
            return faults.Fault(errors.Forbidden(
                f"[api] auth_strategy is noauth, which serves loopback addresses only; this "
                f"request came from {address}."))(environ, start_response)
        if not any(name in environ for name in self.IDENTITY):
            environ.update(zip(self.IDENTITY, ("noauth", "noauth", "admin"), strict=True))
        return self._app(environ, start_response)


def authenticated(app: faults.Application, conf: cfg.ConfigOpts) -> faults.Application:
    """Put [api] auth_strategy before an application. Raises cfg.Error."""
    if conf.api.auth_strategy == "noauth":
        refuse_exposed_noauth(conf)
        return NoAuth(app, conf)
    refuse_cache_without_library(conf)
    if not (conf[GROUP].auth_type or conf[GROUP].auth_section):
        LOG.error("[%s] auth_type is not set: no token can be checked, and each request that has "
                  "one fails. Set password with its options.", GROUP)
    try:
        protected: faults.Application = auth_token.AuthProtocol(app, {"oslo_config_config": conf})
    except (ks_exceptions.NoMatchingPlugin, ks_exceptions.OptionError) as error:
        raise cfg.ConfigFileValueError(
            f"[{GROUP}] auth_type = {conf[GROUP].auth_type}: {error}") from error
    return protected
