# SPDX-License-Identifier: Apache-2.0
"""What is measured: one endpoint with all that a case may need, from a file, options, environment.

Opens no connection.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import tomllib
from collections.abc import Mapping
from typing import Any
from urllib import parse

SCHEMAS = ("cyborg-lite", "cyborg")
ENVIRONMENT = {
    "auth_url": "OS_AUTH_URL", "username": "OS_USERNAME", "password": "OS_PASSWORD",
    "project_name": "OS_PROJECT_NAME", "user_domain_name": "OS_USER_DOMAIN_NAME",
    "project_domain_name": "OS_PROJECT_DOMAIN_NAME",
}


class BadTarget(Exception):
    """A setting is missing, unknown or not allowed; the text says which."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One endpoint. What is left out makes the cases that need it impossible.

    url: of the API with its version, such as http://127.0.0.1:6666/v2.
    auth: keystone or noauth (then `project_name` is sent as the project's id).
    service_*: whose token goes along as the service token; the user's own when left out.
    hostname, providers: where boots are bound; the providers are found by the host's name if
      left out.
    nova_listen: address for our own recorder, where the service sends its events to; or
      nova_wait: the address of a recorder that runs (see README).
    database, schema: where other objects are put before a case, and in whose tables.
    statements, statements_user: a MariaDB that counts statements (userstat) and whose to count.
    access_logs: name of a meter -> {"path": file, "match": text that a line must have}.
    pids: name of a service -> process ids; their children count too.
    placement_url: needed by the reports, which make compute nodes' providers of their own.
    reporter: command that reports devices on request (see reporters/).
    """

    name: str
    url: str
    auth: str = "keystone"
    auth_url: str | None = None
    username: str = "admin"
    password: str = ""
    project_name: str = "admin"
    user_domain_name: str = "Default"
    project_domain_name: str = "Default"
    service_username: str | None = None
    service_password: str | None = None
    service_project_name: str = "service"
    hostname: str | None = None
    providers: list[str] = dataclasses.field(default_factory=list)
    resources: str = "FPGA"
    trait: str | None = "CUSTOM_FAKE_DEVICE"
    nova_listen: str | None = None
    nova_wait: str | None = None
    database: str | None = None
    schema: str = SCHEMAS[0]
    statements: str | None = None
    statements_user: str | None = None
    access_logs: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    pids: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    placement_url: str | None = None
    reporter: list[str] = dataclasses.field(default_factory=list)


def from_settings(settings: Mapping[str, Any], environment: Mapping[str, str] | None = None,
                  beyond_loopback: bool = False) -> Target:
    """Build a target; what is not set and has a variable is taken from the environment."""
    environment = os.environ if environment is None else environment
    known = {field.name for field in dataclasses.fields(Target)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise BadTarget(f"unknown setting {', '.join(unknown)}; known are "
                        f"{', '.join(sorted(known))}")
    values = dict(settings)
    if values.get("auth", "keystone") == "keystone":
        for name, variable in ENVIRONMENT.items():
            if name not in values and environment.get(variable):
                values[name] = environment[variable]
    for name in ("name", "url"):
        if not values.get(name):
            raise BadTarget(f"a target needs {name}")
    target = Target(**values)
    _check(target, beyond_loopback)
    return target


def from_file(path: str, overrides: Mapping[str, Any], *, environment: Mapping[str, str] |
              None = None, beyond_loopback: bool = False) -> Target:
    """Read a TOML file of settings; `overrides` win."""
    with open(path, "rb") as file:
        try:
            settings = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise BadTarget(f"{path}: {error}") from error
    return from_settings({**settings, **overrides}, environment, beyond_loopback)


def assignment(text: str) -> tuple[str, Any]:
    """Split `key=value`; a value that is JSON (a list, an object, a number) is decoded."""
    key, mark, value = text.partition("=")
    if not mark or not key:
        raise BadTarget(f"{text!r} is not key=value")
    if value[:1] in "[{":
        try:
            return key, json.loads(value)
        except ValueError as error:
            raise BadTarget(f"{key}: {error}") from error
    return key, value


def _check(target: Target, beyond_loopback: bool) -> None:
    if target.auth not in ("keystone", "noauth"):
        raise BadTarget(f"auth is {target.auth!r}; allowed are keystone and noauth")
    if target.auth == "keystone" and not target.auth_url:
        raise BadTarget(f"target {target.name} needs auth_url (or OS_AUTH_URL) for Keystone")
    if target.schema not in SCHEMAS:
        raise BadTarget(f"schema is {target.schema!r}; allowed are {', '.join(SCHEMAS)}")
    if target.nova_listen and target.nova_wait:
        raise BadTarget("nova_listen and nova_wait exclude each other")
    addresses = [target.url, target.auth_url, target.nova_wait, target.database,
                 target.statements, target.placement_url]
    if target.nova_listen:
        addresses.append(f"http://{target.nova_listen}")
    for address in filter(None, addresses):
        host = parse.urlsplit(address).hostname
        if not beyond_loopback and host is not None and not _is_loopback(host):
            raise BadTarget(f"{host} is not a loopback address; --beyond-loopback allows it")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
