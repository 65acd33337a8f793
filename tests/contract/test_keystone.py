# SPDX-License-Identifier: Apache-2.0
"""Who is who, with real tokens: roles, projects, service tokens, and headers that claim them.

The policy of each operation is tested elsewhere; here, that Keystone's word counts and no other.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import requests

from tests.contract import cloud as clouds

FORGED = {"X-Service-Roles": "service", "X-Service-User-Name": "nova",
          "X-Service-Identity-Status": "Confirmed"}


@pytest.fixture
def token(cloud: clouds.Cloud) -> Any:
    """Return a function: a token of that user in that project."""
    return lambda user, project: cloud.keystone.session(user, project).get_token()


@pytest.fixture
def bind(cloud: clouds.Cloud, token: Any, instance: str) -> Any:
    """Return a function that sends a bind of an ARQ nobody has; what counts comes before that.

    403: the caller may not bind. 404: it may, and there is no such ARQ.
    """
    patch = [{"op": "add", "path": "/hostname", "value": clouds.HOST},
             {"op": "add", "path": "/device_rp_uuid", "value": cloud.device_provider()},
             {"op": "add", "path": "/instance_uuid", "value": instance}]

    def send(**headers: str) -> requests.Response:
        return requests.patch(
            f"{cloud.api_url}/v2/accelerator_requests", json={str(uuid.uuid4()): patch},
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            timeout=60)

    return send


def slug(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["errors"][0]["code"]


@pytest.mark.parametrize("headers", [{}, {"X-Auth-Token": "no such token"},
                                     {"X-User-Id": "admin", "X-Roles": "admin"}])
def test_nobody_is_served_without_a_token_that_keystone_knows(cloud, headers):
    answer = requests.get(f"{cloud.api_url}/v2/devices", headers=headers, timeout=60)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{cloud.keystone.url}"'
    assert answer.json()["errors"][0]["status"] == 401


def test_versions_and_health_need_no_token(cloud):
    for path in ("/", "/v2", "/v2/", "/healthcheck"):
        assert requests.get(cloud.api_url + path, timeout=60).status_code == 200


def test_a_revoked_token_of_the_caller_is_refused(cloud):
    session = cloud.keystone.session("demo", "demo")
    token = session.get_token()
    session.delete(f"{cloud.keystone.url}/auth/tokens", headers={"X-Subject-Token": token})

    answer = requests.get(f"{cloud.api_url}/v2/accelerator_requests",
                          headers={"X-Auth-Token": token}, timeout=60)

    assert answer.status_code == 401


def test_a_role_claimed_in_a_header_counts_for_nothing(cloud, token):
    answer = requests.get(
        f"{cloud.api_url}/v2/devices", timeout=60,
        headers={"X-Auth-Token": token("demo", "demo"), "X-Roles": "admin", "X-Is-Admin": "True"})

    assert slug(answer) == (403, "accelerator.forbidden")


def test_a_service_token_lets_a_user_bind(bind, token):
    answer = bind(X_Auth_Token=token("demo", "demo"), X_Service_Token=token("nova", "service"))

    assert slug(answer) == (404, "accelerator.not-found")


@pytest.mark.parametrize("user", [("demo", "demo"), ("admin", "admin"), ("nova", "service")])
def test_nobody_binds_without_a_service_token(bind, token, user):
    assert slug(bind(X_Auth_Token=token(*user))) == (403, "accelerator.service-token-missing")


def test_a_service_token_claimed_in_headers_counts_for_nothing(bind, token):
    claimed = {name.replace("-", "_"): value for name, value in FORGED.items()}

    answer = bind(X_Auth_Token=token("demo", "demo"), **claimed)

    assert slug(answer) == (403, "accelerator.service-token-missing")


@pytest.mark.parametrize("user", [("demo", "demo"), ("admin", "admin")])
def test_a_token_without_a_service_role_is_no_service_token(bind, token, user):
    answer = bind(X_Auth_Token=token("demo", "demo"), X_Service_Token=token(*user))

    assert answer.status_code in (401, 403)


def test_deleting_by_instance_needs_a_service_token_of_everybody(cloud, token, instance):
    for user in (("demo", "demo"), ("admin", "admin"), ("nova", "service")):
        answer = requests.delete(
            f"{cloud.api_url}/v2/accelerator_requests", params={"instance": instance},
            headers={"X-Auth-Token": token(*user)}, timeout=60)

        assert slug(answer) == (403, "accelerator.service-token-missing")


def test_a_reader_reads_and_a_member_writes_in_their_project_alone(cloud):
    admin = cloud.accelerator("admin", "admin")
    name = f"roles-{uuid.uuid4().hex[:8]}"
    assert admin.post("/device_profiles", json=[
        {"name": name, "groups": [{"resources:FPGA": "1"}]}]).status_code == 201
    reader, member, other = (cloud.accelerator(*user) for user in (
        ("demo-reader", "demo"), ("demo", "demo"), ("other", "other")))

    refused = reader.post("/accelerator_requests", json={"device_profile_name": name})
    made = member.post("/accelerator_requests", json={"device_profile_name": name})
    arq = made.json()["arqs"][0]["uuid"]
    statuses = {
        "reader shows": reader.get(f"/accelerator_requests/{arq}").status_code,
        "reader deletes": reader.delete(f"/accelerator_requests?arqs={arq}").status_code,
        "other shows": other.get(f"/accelerator_requests/{arq}").status_code,
        "other deletes": other.delete(f"/accelerator_requests?arqs={arq}").status_code,
        "admin shows": admin.get(f"/accelerator_requests/{arq}").status_code,
        "member deletes": member.delete(f"/accelerator_requests?arqs={arq}").status_code,
        "admin deletes the profile": admin.delete(f"/device_profiles/{name}").status_code,
    }

    assert refused.status_code == 403
    assert statuses == {
        "reader shows": 200, "reader deletes": 403, "other shows": 404, "other deletes": 404,
        "admin shows": 200, "member deletes": 204, "admin deletes the profile": 204}


def test_a_manager_sees_devices_and_a_member_does_not(cloud):
    assert cloud.accelerator("demo-manager", "demo").get("/devices").status_code == 200
    assert cloud.accelerator("demo", "demo").get("/devices").status_code == 403
