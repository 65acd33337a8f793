# SPDX-License-Identifier: Apache-2.0
"""How the clients log in, what a wrong option says, and what unusual answers mean."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import requests_mock
from oslo_config import cfg

from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite.clients import keystone
from cyborg_lite.clients import nova
from cyborg_lite.clients import placement

KEYSTONE = "http://keystone.example.org/v3"
PLACEMENT = "http://placement.example.org"


def configured(service_user: dict[str, Any] | None = None, **options: Any) -> cfg.ConfigOpts:
    """Configuration whose [placement] has these options, as a file would give them."""
    from keystoneauth1 import loading
    conf = config.register(cfg.ConfigOpts())
    conf([], default_config_files=[], default_config_dirs=[])
    for group, given in (("placement", options), ("service_user", service_user or {})):
        if given.get("auth_type") in ("password", "none"):
            loader = loading.get_plugin_loader(given["auth_type"])
            conf.register_opts([option._to_oslo_opt() for option in loader.get_options()],
                               group=group)
        for name, value in given.items():
            conf.set_override(name, value, group=group)
    return conf


def a_login(expires_in_s: float = 3600) -> dict[str, Any]:
    """What Keystone answers to a log-in."""
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=expires_in_s)
    return {"token": {
        "methods": ["password"], "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "user": {"id": "u", "name": "u", "domain": {"id": "d", "name": "d"}},
        "project": {"id": "p", "name": "p", "domain": {"id": "d", "name": "d"}},
        "catalog": [{"type": "placement", "name": "placement", "id": "1", "endpoints": [
            {"interface": "public", "region": "R", "region_id": "R", "id": "2",
             "url": PLACEMENT}]}]}}


PASSWORD = {"auth_type": "password", "auth_url": KEYSTONE, "username": "u", "password": "secret",
            "project_name": "p", "user_domain_name": "d", "project_domain_name": "d"}


@pytest.fixture
def http() -> Any:
    with requests_mock.Mocker() as mocker:
        mocker.get(KEYSTONE, json={"version": {
            "id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": KEYSTONE}]}})
        mocker.post(f"{KEYSTONE}/auth/tokens", json=a_login(),
                    headers={"X-Subject-Token": "token1"})
        mocker.get(f"{PLACEMENT}/resource_providers", json={"resource_providers": []})
        yield mocker


def logins(http: Any) -> int:
    return sum(request.path == "/v3/auth/tokens" for request in http.request_history)


def test_many_requests_cost_one_login(http: Any) -> None:
    client = placement.from_conf(configured(**PASSWORD))

    for _ in range(5):
        client.find_provider("node1")
    client.for_request("req-1").find_provider("node1")

    assert logins(http) == 1
    assert {request.headers["X-Auth-Token"] for request in http.request_history
            if request.path == "/resource_providers"} == {"token1"}
    assert http.last_request.headers["OpenStack-API-Version"] == "placement 1.36"
    assert http.last_request.headers["X-OpenStack-Request-ID"] == "req-1"


def test_a_token_that_was_withdrawn_is_renewed_within_the_request(http: Any) -> None:
    client = placement.from_conf(configured(**PASSWORD))
    http.get(f"{PLACEMENT}/resource_providers", [
        {"status_code": 401}, {"json": {"resource_providers": []}}])

    assert client.find_provider("node1") is None

    assert logins(http) == 2


@pytest.mark.parametrize("own", [PASSWORD, {"auth_type": "none", "endpoint_override": PLACEMENT}],
                         ids=["password", "none"])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_service_token_goes_along_where_it_is_wanted(
        http: Any, own: dict[str, Any], wanted: bool) -> None:
    def log_in(request: Any, context: Any) -> dict[str, Any]:
        user = request.json()["auth"]["identity"]["password"]["user"]["name"]
        context.headers["X-Subject-Token"] = f"token of {user}"
        return a_login()

    http.post(f"{KEYSTONE}/auth/tokens", json=log_in)
    service_user = {**PASSWORD, "username": "accelerator", "send_service_user_token": wanted}

    placement.from_conf(configured(service_user, **own)).find_provider("node1")

    sent = http.last_request.headers
    assert sent.get("X-Service-Token") == ("token of accelerator" if wanted else None)
    assert (sent["X-Auth-Token"] == "token of u") == (own is PASSWORD)


def test_a_service_token_of_nobody_is_refused_by_name() -> None:
    with pytest.raises(cfg.Error, match=r"\[service_user\] auth_type is not set"):
        placement.from_conf(configured({"send_service_user_token": True}, **PASSWORD))


def test_a_keystone_that_is_away_is_a_placement_that_is_away(http: Any) -> None:
    http.post(f"{KEYSTONE}/auth/tokens", status_code=503)
    client = placement.from_conf(configured(**PASSWORD, status_code_retry_delay=0.01))

    with pytest.raises(keystone.Away):
        client.find_provider("node1")


def test_every_request_has_a_time_limit_and_few_retries(http: Any) -> None:
    http.get(f"{PLACEMENT}/resource_providers", status_code=503)
    client = placement.from_conf(configured(
        auth_type="none", endpoint_override=PLACEMENT, status_code_retry_delay=0.01))

    with pytest.raises(keystone.Away, match="503"):
        client.find_provider("node1")

    assert len(http.request_history) == 1 + keystone.RETRIES
    assert {request.timeout for request in http.request_history} == {keystone.TIMEOUT_S}


@pytest.mark.parametrize(("options", "said"), [
    ({}, r"\[placement\] auth_type is not set"),
    ({"auth_type": "no_such_type"}, r"\[placement\] auth_type = no_such_type"),
    ({"auth_type": "password"}, r"\[placement\] auth_type = password.*auth.url"),
    ({"auth_type": "none", "endpoint_override": PLACEMENT, "valid_interfaces": ["outer"]},
     r"\[placement\].*outer"),
])
def test_a_wrong_option_is_named_when_the_client_is_made(options: dict[str, Any],
                                                         said: str) -> None:
    with pytest.raises(cfg.Error, match=said):
        placement.from_conf(configured(**options))


@pytest.mark.parametrize(("answer", "raised"), [
    ({"status_code": 404}, errors.NotFound),
    ({"status_code": 409, "json": {"errors": [{"code": "placement.concurrent_update"}]}},
     placement.GenerationConflict),
    ({"status_code": 409, "json": {"errors": [{"code": "placement.duplicate_name"}]}},
     errors.Duplicate),
    ({"status_code": 409, "text": "a proxy's words"}, placement.GenerationConflict),
    ({"status_code": 400, "json": {"errors": []}}, placement.Refused),
    ({"status_code": 406, "json": []}, placement.Refused),
    ({"status_code": 200, "text": "<html>"}, keystone.Away),
    ({"status_code": 403}, keystone.Away),
    ({"status_code": 429}, keystone.Away),
    ({"status_code": 502}, keystone.Away),
])
def test_each_answer_of_placement_has_its_error(http: Any, answer: dict[str, Any],
                                                raised: type[errors.Error]) -> None:
    http.post(f"{PLACEMENT}/resource_providers", **answer)
    client = placement.from_conf(configured(auth_type="none", endpoint_override=PLACEMENT))

    with pytest.raises(raised):
        client.create_provider("u", "name", "parent")


def test_an_event_of_which_the_answer_says_nothing_was_not_taken(http: Any) -> None:
    http.post(f"{PLACEMENT}/v2.1/os-server-external-events", status_code=207, json={"events": [
        {"server_uuid": "i", "tag": "b", "status": "completed", "code": 200}]})
    service = keystone.service_from(
        configured(auth_type="none", endpoint_override=f"{PLACEMENT}/v2.1"), "placement", "Nova")

    statuses = nova.Nova(service).send_bound(
        [nova.Bound("i", "a", "completed"), nova.Bound("i", "b", "completed")], None)

    assert statuses == [500, 200]
