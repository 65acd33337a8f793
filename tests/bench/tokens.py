# SPDX-License-Identifier: Apache-2.0
"""Who the generator is: headers for each request, from Keystone or made up for noauth.

One login per user and run; no request of a case pays for it.
"""

from __future__ import annotations

import dataclasses

from tests.bench import targets
from tests.bench import wire


@dataclasses.dataclass(frozen=True)
class Identity:
    """Headers that every request carries, and the project that owns what they make."""

    headers: dict[str, str]
    project_id: str


def identity(target: targets.Target) -> Identity:
    """Log in (or make up who we are); raises WireError when Keystone refuses."""
    if target.auth == "noauth":
        project = target.project_name
        return Identity({"X-User-Id": target.username, "X-Project-Id": project,
                         "X-Roles": "admin,member,reader,manager",
                         "X-Service-Roles": "service"}, project)
    token, project = _login(target, target.username, target.password, target.project_name)
    service = token
    if target.service_username:
        service, _ = _login(target, target.service_username, target.service_password or "",
                            target.service_project_name)
    return Identity({"X-Auth-Token": token, "X-Service-Token": service}, project)


def _login(target: targets.Target, username: str, password: str,
           project_name: str) -> tuple[str, str]:
    connection = wire.Connection(str(target.auth_url))
    answer = connection.request("POST", "/auth/tokens", {"auth": {
        "identity": {"methods": ["password"], "password": {"user": {
            "name": username, "domain": {"name": target.user_domain_name},
            "password": password}}},
        "scope": {"project": {"name": project_name,
                              "domain": {"name": target.project_domain_name}}}}})
    connection.close()
    token = answer.header("X-Subject-Token")
    if answer.status != 201 or token is None:
        raise wire.WireError(f"Keystone answered {answer.status} to the login of {username} "
                             f"in project {project_name}: {answer.body[:200]!r}")
    return token, answer.json()["token"]["project"]["id"]
