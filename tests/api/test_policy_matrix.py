# SPDX-License-Identifier: Apache-2.0
"""Who may do what: each persona against each operation, over HTTP; and old policy files.

The table is written out, so that a default that changes is seen here.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import webob

from cyborg_lite import auth
from cyborg_lite.api import app
from cyborg_lite.api import faults
from cyborg_lite.api import root
from tests.fixtures import cloud as clouds

SOME_UUID = "11111111-1111-1111-1111-111111111111"

PERSONAS = {
    "nobody": "",
    "reader": "reader",
    "member": "member,reader",
    "manager": "manager,member,reader",
    "service": "service",
    "admin": "admin,manager,member,reader",
}
"""The roles of each persona's token, with those that Keystone implies."""

UNIMPLIED = {"member": "member", "manager": "manager", "admin": "admin"}
"""Their tokens where nobody told Keystone, or where there is none."""

ALL_READ = {"reader", "member", "manager", "admin"}
ARQS_READ = {"reader", "member", "manager", "service", "admin"}
ARQS_WRITE = {"member", "manager", "service", "admin"}
HOSTS_READ = {"manager", "admin"}
ADMIN = {"admin"}

ALLOWED: dict[str, set[str]] = {
    "GET /v2/device_profiles": ALL_READ,
    "POST /v2/device_profiles": ADMIN,
    "DELETE /v2/device_profiles": ADMIN,
    "GET /v2/device_profiles/{uuid_or_name}": ALL_READ,
    "PATCH /v2/device_profiles/{uuid_or_name}": ADMIN,
    "DELETE /v2/device_profiles/{uuid_or_name}": ADMIN,
    "GET /v2/accelerator_requests": ARQS_READ,
    "POST /v2/accelerator_requests": ARQS_WRITE,
    "PATCH /v2/accelerator_requests": ARQS_WRITE,
    "DELETE /v2/accelerator_requests": ARQS_WRITE,
    "POST /v2/accelerator_requests/action": ARQS_WRITE,
    "GET /v2/accelerator_requests/{uuid}": ARQS_READ,
    "PATCH /v2/accelerator_requests/{uuid}": ARQS_WRITE,
    "DELETE /v2/accelerator_requests/{uuid}": ARQS_WRITE,
    "GET /v2/devices": HOSTS_READ,
    "GET /v2/devices/{uuid}": HOSTS_READ,
    "POST /v2/devices/{uuid}/disable": ADMIN,
    "POST /v2/devices/{uuid}/enable": ADMIN,
    "POST /v2/devices/{uuid}/clean": ADMIN,
    "GET /v2/devices/{uuid}/partitioning": HOSTS_READ,
    "PUT /v2/devices/{uuid}/partitioning": ADMIN,
    "GET /v2/deployables": HOSTS_READ,
    "GET /v2/deployables/{uuid}": HOSTS_READ,
    "PATCH /v2/deployables/{uuid}/program": ADMIN,
    "PATCH /v2/deployables/{uuid}/program/{uuid}": ADMIN,
    "GET /v2/attributes": HOSTS_READ,
    "POST /v2/attributes": ADMIN,
    "GET /v2/attributes/{uuid}": HOSTS_READ,
    "DELETE /v2/attributes/{uuid}": ADMIN,
    "GET /v2/services": HOSTS_READ,
    "PUT /v2/services/{id}": ADMIN,
    "GET /v2/orphans": ADMIN,
    "GET /v2/orphans/{id}": ADMIN,
    "POST /v2/orphans/{id}/clean": ADMIN,
    "GET /v2/orphans/sweep": ADMIN,
    "POST /v2/orphans/sweep": ADMIN,
}


def ask(application: faults.Application, route: str, roles: str,
        scope: tuple[str, str] | None = ("X-Project-Id", "project1")) -> webob.Response:
    """Send a request that is good in form, of a token with these roles and that scope."""
    method, path = route.split()
    for variable in ("{uuid}", "{uuid_or_name}", "{id}"):
        path = path.replace(variable, SOME_UUID)
    return webob.Request.blank(
        path, method=method, body=b"{}" if method in ("POST", "PATCH", "PUT") else b"",
        headers={"X-User-Id": "user1", "X-Roles": roles, "Content-Type": "application/json",
                 "OpenStack-API-Version": "accelerator latest", **dict([scope] if scope else [])},
    ).get_response(application)


def is_refused(reply: webob.Response) -> bool:
    """Whether policy refused; any other answer means that it let the request pass."""
    assert reply.status_int < 500, reply.text
    if reply.status_int != 403:
        return False
    return bool(json.loads(reply.body)["errors"][0]["code"] == "accelerator.forbidden")


def test_the_table_has_every_route() -> None:
    assert set(ALLOWED) == {route.name for route in root.ROUTES}


@pytest.mark.parametrize("route", ALLOWED)
def test_an_operation_is_for_these_personas_alone(
        shared_application: faults.Application, route: str) -> None:
    allowed = {persona for persona, roles in PERSONAS.items()
               if not is_refused(ask(shared_application, route, roles))}

    assert allowed == ALLOWED[route]


@pytest.mark.parametrize("route", ALLOWED)
def test_a_role_includes_the_lesser_ones_where_keystone_does_not_imply_them(
        shared_application: faults.Application, route: str) -> None:
    allowed = {persona for persona, roles in UNIMPLIED.items()
               if not is_refused(ask(shared_application, route, roles))}

    assert allowed == ALLOWED[route] & UNIMPLIED.keys()


@pytest.mark.parametrize("route", ALLOWED)
def test_a_token_without_a_project_is_refused_unless_it_is_an_administrators_or_a_services(
        shared_application: faults.Application, route: str) -> None:
    for persona in ("reader", "member", "manager"):
        reply = ask(shared_application, route, PERSONAS[persona], scope=None)
        assert is_refused(reply), persona


@pytest.mark.parametrize("route", ALLOWED)
def test_a_token_for_the_system_is_refused_even_with_the_role_admin(
        shared_application: faults.Application, route: str) -> None:
    reply = ask(shared_application, route, PERSONAS["admin"],
                scope=("OpenStack-System-Scope", "all"))

    assert is_refused(reply)
    assert reply.json["errors"][0]["detail"].endswith("and a token that is not of a project.")


@pytest.mark.parametrize("rule", auth.RULES, ids=lambda rule: rule.name)
def test_a_rule_is_documented_and_for_projects(rule: Any) -> None:
    assert rule.name.startswith("cyborg:")
    assert rule.description.endswith(".")
    assert rule.operations
    assert rule.scope_types == ["project"]


def test_every_rule_that_a_rule_names_exists() -> None:
    names = {rule.name for rule in auth.list_rules()}
    for rule in auth.list_rules():
        for word in rule.check_str.replace("(", " ").replace(")", " ").split():
            if word.startswith("rule:"):
                assert word.removeprefix("rule:") in names, rule.name


# --- policy files written for OpenStack Cyborg ------------------------------------------------

MakeApplication = Callable[..., faults.Application]


@pytest.fixture
def with_policy(shared_cloud: clouds.Cloud, tmp_path: pathlib.Path) -> MakeApplication:
    """Make the application with a policy file, given as rules, and lines of [oslo_policy]."""
    def make(rules: dict[str, str], more: str = "") -> faults.Application:
        policy_file = tmp_path / "old-policy.yaml"
        policy_file.write_text(json.dumps(rules))  # JSON is YAML
        conf = clouds.configuration(
            tmp_path, "sqlite://", more=f"[oslo_policy]\npolicy_file = {policy_file}\n{more}")
        return app.make_app(conf, shared_cloud.client)
    return make


CREATE = "POST /v2/device_profiles"
NEW_DEFAULTS_OFF = "enforce_new_defaults = false"


@pytest.mark.parametrize(("check", "allowed"), [
    ("rule:is_admin", {"admin"}),
    ("rule:admin_api", {"admin"}),
    ("is_admin:True", {"admin"}),
    ("is_admin:False", set(PERSONAS) - {"admin"}),
    ("rule:project_admin_api", {"admin"}),
    ("rule:project_member_or_admin", {"member", "manager", "admin"}),
    ("rule:admin_or_owner", set(PERSONAS)),
    ("rule:admin_or_user", set(PERSONAS)),
    ("rule:default", set(PERSONAS)),
    ("rule:allow", set(PERSONAS)),
    ("rule:deny", set()),
    ("rule:public_api", set()),
    ("rule:is_admin or role:accelerator_admin", {"admin"}),
])
@pytest.mark.filterwarnings("ignore:Policy")
def test_a_policy_file_may_name_what_cyborg_had(
        with_policy: MakeApplication, check: str, allowed: set[str]) -> None:
    application = with_policy({"cyborg:device_profile:create": check})

    assert {persona for persona, roles in PERSONAS.items()
            if not is_refused(ask(application, CREATE, roles))} == allowed


@pytest.mark.filterwarnings("ignore:Policy")
def test_a_policy_file_may_say_what_an_old_name_means(with_policy: MakeApplication) -> None:
    application = with_policy({"is_admin": "role:accelerator_admin",
                               "cyborg:device:disable": "rule:is_admin"})

    route = "POST /v2/devices/{uuid}/disable"
    assert not is_refused(ask(application, route, "accelerator_admin"))
    assert is_refused(ask(application, route, PERSONAS["admin"]))


@pytest.mark.filterwarnings("ignore:Policy")
def test_a_policy_file_may_say_what_a_member_is_by_what_a_reader_is(
        with_policy: MakeApplication) -> None:
    application = with_policy({"project_member_api": "rule:project_reader_api and role:writer"})

    route = "POST /v2/accelerator_requests"
    assert not is_refused(ask(application, route, "reader,writer"))
    assert is_refused(ask(application, route, "reader"))
    assert is_refused(ask(application, route, "writer"))


def test_a_rule_that_nobody_wrote_lets_nobody_pass(with_policy: MakeApplication) -> None:
    application = with_policy({"cyborg:device_profile:create": "rule:amdin_api"})

    assert is_refused(ask(application, CREATE, PERSONAS["admin"]))


@pytest.mark.filterwarnings("ignore:Policy")
@pytest.mark.parametrize(("route", "allowed"), [
    ("GET /v2/device_profiles", set(PERSONAS)),
    ("GET /v2/accelerator_requests", set(PERSONAS)),
    ("DELETE /v2/accelerator_requests", set(PERSONAS)),
    ("POST /v2/accelerator_requests", ARQS_WRITE),
    ("POST /v2/device_profiles", ADMIN),
    ("PATCH /v2/device_profiles/{uuid_or_name}", ADMIN),
    ("GET /v2/devices", HOSTS_READ),
])
def test_earlier_defaults_are_valid_beside_the_new_ones_where_an_operator_wants_it(
        with_policy: MakeApplication, route: str, allowed: set[str]) -> None:
    application = with_policy({}, NEW_DEFAULTS_OFF)

    assert {persona for persona, roles in PERSONAS.items()
            if not is_refused(ask(application, route, roles))} == allowed


@pytest.mark.filterwarnings("ignore:Policy")
def test_an_old_name_that_a_file_changes_reaches_the_earlier_default(
        with_policy: MakeApplication) -> None:
    application = with_policy({"is_admin": "role:accelerator_admin"}, NEW_DEFAULTS_OFF)

    assert not is_refused(ask(application, CREATE, "accelerator_admin"))
    assert is_refused(ask(application, CREATE, PERSONAS["member"]))
