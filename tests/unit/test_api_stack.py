# SPDX-License-Identifier: Apache-2.0
"""The stack around the operations: who may come in, what every error looks like, health.

The conductor here is an endpoint of a few lines on the local bus, which answers as told.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import pytest
import webob
from oslo_config import cfg

from cyborg_lite import buses
from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.api import app
from cyborg_lite.api import authentication
from cyborg_lite.api import faults
from cyborg_lite.api import health

ADMIN = {"X-User-Id": "u", "X-Project-Id": "p", "X-Roles": "admin"}
SAMPLE_PASTE = pathlib.Path(__file__).parents[2] / "etc/cyborg-lite/api-paste.ini"

Configure = Callable[..., cfg.ConfigOpts]


class Endpoint:
    """A conductor that has nothing, or the trouble it is given."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.pings = 0
        self.asked: messages.ArqQuery | None = None

    @buses.exposed
    def ping(self) -> None:
        self.pings += 1
        if self.trouble:
            raise self.trouble

    @buses.exposed
    def list_devices(self, query: messages.DeviceQuery) -> list[messages.Device]:
        if self.trouble:
            raise self.trouble
        return []

    @buses.exposed
    def list_arqs(self, query: messages.ArqQuery) -> list[messages.Arq]:
        self.asked = query
        return []


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def client(endpoint: Endpoint) -> rpc.ConductorClient:
    bus = buses.LocalBus()
    bus.serve(rpc.CONDUCTOR_TOPIC, "conductor", endpoint)
    return rpc.ConductorClient(bus, 30)


@pytest.fixture
def configure(tmp_path: pathlib.Path) -> Configure:
    """Make a configuration from the text of a file."""
    def configure(text: str = "[api]\nauth_strategy = noauth\n") -> cfg.ConfigOpts:
        path = tmp_path / "cyborg-lite.conf"
        path.write_text(text)
        return config.load(["--config-file", str(path)], cfg.ConfigOpts())
    return configure


def get(application: faults.Application, path: str, method: str = "GET",
        headers: dict[str, str] | None = None, **environ: str) -> webob.Response:
    request = webob.Request.blank(path, method=method, headers=headers or {}, environ=environ)
    return request.get_response(application)


def the_error(reply: webob.Response) -> dict[str, Any]:
    (error,) = json.loads(reply.body)["errors"]
    assert reply.content_type == "application/json"
    assert error["status"] == reply.status_int
    assert error["request_id"] == reply.headers["x-openstack-request-id"]
    return dict(error)


# --- errors -----------------------------------------------------------------------------------


def test_a_conductor_that_is_away_is_503_with_a_time_to_come_back(configure: Configure) -> None:
    application = app.make_app(configure(), rpc.ConductorClient(buses.LocalBus(), 30))

    reply = get(application, "/v2/devices", headers=ADMIN)

    assert reply.status_int == 503
    assert reply.headers["Retry-After"] == "5"
    assert the_error(reply)["code"] == "accelerator.unavailable"
    assert json.loads(reply.body)["error_message"]["faultcode"] == "Server"


def test_an_error_that_nobody_expected_tells_nothing_of_itself(
        configure: Configure, client: rpc.ConductorClient, endpoint: Endpoint) -> None:
    endpoint.trouble = KeyError("SELECT secret FROM table")

    reply = get(app.make_app(configure(), client), "/v2/devices", headers=ADMIN)

    assert reply.status_int == 500
    assert "secret" not in reply.text
    assert the_error(reply)["code"] == "accelerator.internal"


@pytest.mark.parametrize("above", ["", "/v2"])
def test_what_is_not_there_is_named_as_it_was_asked_for(
        configure: Configure, client: rpc.ConductorClient, above: str) -> None:
    reply = get(app.make_app(configure(), client), f"{above}/%C3%A9t%C3%A9", headers=ADMIN)

    assert reply.status_int == 404
    assert the_error(reply)["detail"].startswith(f"There is nothing at {above}/été;")


def test_a_layer_that_breaks_is_500_with_all_headers() -> None:
    def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise ZeroDivisionError("secret")

    reply = get(faults.Outermost(broken), "/v2/devices")

    assert reply.status_int == 500
    assert "secret" not in reply.text
    assert the_error(reply)["code"] == "accelerator.internal"
    assert reply.headers["OpenStack-API-Version"] == "accelerator 2.0"


@pytest.mark.parametrize(("status", "slug"), [
    ("400 Bad Request", "invalid"), ("401 Unauthorized", "unauthorized"),
    ("403 Forbidden", "forbidden"), ("404 Not Found", "not-found"),
    ("413 Request Entity Too Large", "too-large"), ("418 I'm a Teapot", "invalid"),
    ("502 Bad Gateway", "internal"), ("503 Service Unavailable", "unavailable")])
def test_the_error_of_another_layer_gets_our_form_and_keeps_its_headers(
        status: str, slug: str) -> None:
    def other(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(status, [("Content-Type", "text/html"), ("Content-Length", "9"),
                                ("WWW-Authenticate", "Keystone uri=x"), ("Vary", "Origin")])
        return [b"<html>bad"]

    reply = get(faults.Outermost(other), "/v2/devices")

    assert reply.status == status
    assert the_error(reply)["code"] == f"accelerator.{slug}"
    assert reply.headers["WWW-Authenticate"] == "Keystone uri=x"
    assert reply.headers["Vary"] == "Origin, OpenStack-API-Version"
    assert ("Retry-After" in reply.headers) == (status[:3] == "503")


@pytest.mark.parametrize(("given", "kept"), [
    ([], "no-store"), ([("Cache-Control", "no-cache")], "no-cache")])
def test_no_cache_keeps_an_answer_for_somebody_else(
        given: list[tuple[str, str]], kept: str) -> None:
    def other(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "application/json"), *given])
        return [b"{}"]

    reply = get(faults.Outermost(other), "/v2/devices")

    assert dict(reply.headerlist)["Cache-Control"] == kept


def test_each_error_of_the_tree_has_a_form(configure: Configure) -> None:
    for kind in errors.BY_SLUG.values():
        reply = get(faults.Outermost(faults.Fault(kind("why"))), "/")
        assert the_error(reply)["title"] == kind.title


def test_a_body_over_the_limit_is_refused_before_anybody_asks_who_sends_it(
        configure: Configure, client: rpc.ConductorClient) -> None:
    conf = configure("[oslo_middleware]\nmax_request_body_size = 10\n"
                     "[keystone_authtoken]\nauth_type = none\n")

    reply = webob.Request.blank("/v2/devices", method="POST", body=b"12345678901").get_response(
        app.make_app(conf, client))

    assert reply.status_int == 413
    assert the_error(reply)["code"] == "accelerator.too-large"


# --- who comes in -----------------------------------------------------------------------------


def test_keystone_without_a_token_is_401_for_all_but_documents_and_health(
        configure: Configure, client: rpc.ConductorClient) -> None:
    application = app.make_app(configure("[keystone_authtoken]\nwww_authenticate_uri = http://k\n"
                                         "auth_type = none\n"), client)

    for path in ("/v2/devices", "/v2/nothing", "/v2/devices/x?y=z"):
        reply = get(application, path, headers=ADMIN)
        assert reply.status_int == 401
        assert the_error(reply)["code"] == "accelerator.unauthorized"
        assert "http://k" in reply.headers["WWW-Authenticate"]
    for path in ("/", "/v2", "/v2/", "/healthcheck"):
        assert get(application, path).status_int == 200


def test_noauth_takes_a_client_without_headers_for_an_administrator(
        configure: Configure, client: rpc.ConductorClient) -> None:
    assert get(app.make_app(configure(), client), "/v2/devices").status_int == 200


@pytest.mark.parametrize("missing", ADMIN)
def test_noauth_adds_nothing_to_a_client_that_says_something(
        configure: Configure, client: rpc.ConductorClient, missing: str) -> None:
    given = {name: value for name, value in ADMIN.items() if name != missing}
    expected = 403 if missing == "X-Roles" else 200
    assert get(app.make_app(configure(), client), "/v2/devices",
               headers=given).status_int == expected


def test_a_member_of_no_project_may_nothing(configure: Configure,
                                            client: rpc.ConductorClient) -> None:
    reply = get(app.make_app(configure(), client), "/v2/accelerator_requests",
                headers={"X-User-Id": "u", "X-Roles": "member,reader,manager"})
    assert reply.status_int == 403


@pytest.mark.parametrize(("headers", "scope"), [
    ({"X-Roles": "reader"}, "p"), ({"X-Roles": "admin"}, None),
    ({"X-Roles": "reader", "X-Service-Roles": "service"}, None),
    ({"X-Roles": "reader", "X-Service-Roles": "member"}, "p"),
    ({"X-Roles": "reader", "X-Service-Roles": "service",
      "X-Service-Identity-Status": "Invalid"}, "p")])
def test_only_administrators_and_service_tokens_look_beyond_their_project(
        configure: Configure, client: rpc.ConductorClient, endpoint: Endpoint,
        headers: dict[str, str], scope: str | None) -> None:
    get(app.make_app(configure(), client), "/v2/accelerator_requests",
        headers={"X-User-Id": "u", "X-Project-Id": "p"} | headers)
    assert endpoint.asked is not None
    assert endpoint.asked.project_id == scope


def test_the_roles_of_a_service_token_are_configurable(
        configure: Configure, client: rpc.ConductorClient, endpoint: Endpoint) -> None:
    conf = configure("[api]\nauth_strategy = noauth\n"
                     "[keystone_authtoken]\nservice_token_roles = helper\n")

    get(app.make_app(conf, client), "/v2/accelerator_requests", headers={
        "X-User-Id": "u", "X-Project-Id": "p", "X-Roles": "reader", "X-Service-Roles": "helper"})

    assert endpoint.asked is not None
    assert endpoint.asked.project_id is None


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "node7.example.org"])
def test_noauth_refuses_to_start_where_others_can_reach_it(
        configure: Configure, client: rpc.ConductorClient, address: str) -> None:
    conf = configure(f"[api]\nauth_strategy = noauth\nhost_ip = {address}\n")
    with pytest.raises(cfg.Error, match=r"\[api\] host_ip = .*allow_noauth_beyond_loopback"):
        app.make_app(conf, client)


@pytest.mark.parametrize("more", ["host_ip = ::1", "host_ip = 127.0.0.2", "host_ip = localhost",
                                  "host_ip = 0.0.0.0\nallow_noauth_beyond_loopback = true"])
def test_noauth_starts_where_nobody_else_can_or_all_may(configure: Configure,
                                                        more: str) -> None:
    authentication.refuse_exposed_noauth(configure(f"[api]\nauth_strategy = noauth\n{more}\n"))


def test_keystone_may_listen_anywhere(configure: Configure) -> None:
    authentication.refuse_exposed_noauth(configure("[api]\nhost_ip = 0.0.0.0\n"))


@pytest.mark.parametrize(("address", "allowed", "status"), [
    ("192.0.2.1", False, 403), ("192.0.2.1", True, 200), ("127.0.0.1", False, 200),
    ("::1", False, 200), ("", False, 200)])
def test_noauth_serves_no_stranger_under_a_foreign_server_either(
        configure: Configure, client: rpc.ConductorClient, address: str, allowed: bool,
        status: int) -> None:
    conf = configure(f"[api]\nauth_strategy = noauth\nallow_noauth_beyond_loopback = {allowed}\n")
    assert get(app.make_app(conf, client), "/v2/devices",
               REMOTE_ADDR=address).status_int == status


# --- where it is ------------------------------------------------------------------------------


def test_links_start_where_the_client_found_us(configure: Configure,
                                               client: rpc.ConductorClient) -> None:
    reply = get(app.make_app(configure(), client), "/", SCRIPT_NAME="/accelerator",
                HTTP_HOST="cloud.example.org")
    assert reply.json["versions"][0]["links"][0]["href"] == (
        "http://cloud.example.org/accelerator/v2")


def test_links_start_at_the_public_endpoint_when_there_is_one(
        configure: Configure, client: rpc.ConductorClient) -> None:
    conf = configure("[api]\nauth_strategy = noauth\npublic_endpoint = https://c.example/acc/\n")
    reply = get(app.make_app(conf, client), "/v2")
    assert reply.json["versions"][0]["links"][0]["href"] == "https://c.example/acc/v2"


def test_a_proxy_is_believed_when_told_to(configure: Configure,
                                          client: rpc.ConductorClient) -> None:
    conf = configure("[api]\nauth_strategy = noauth\n"
                     "[oslo_middleware]\nenable_proxy_headers_parsing = true\n")
    reply = get(app.make_app(conf, client), "/", headers={
        "X-Forwarded-Proto": "https", "X-Forwarded-Host": "cloud.example.org",
        "X-Forwarded-Prefix": "/acc"})
    assert reply.json["versions"][0]["links"][0]["href"] == "https://cloud.example.org/acc/v2"


# --- the pipeline -----------------------------------------------------------------------------


def test_the_paste_file_has_the_pipeline_of_the_code() -> None:
    (line,) = [line for line in SAMPLE_PASTE.read_text().splitlines()
               if line.startswith("pipeline = ")]
    assert line.split()[2:] == [*app.FILTERS, "api"]


def test_the_paste_file_makes_the_same_application(configure: Configure,
                                                   client: rpc.ConductorClient) -> None:
    conf = configure(f"[api]\nauth_strategy = noauth\napi_paste_config = {SAMPLE_PASTE}\n")

    application = app.make_app(conf, client)

    assert isinstance(application, faults.Outermost)
    assert get(application, "/v2/devices", headers=ADMIN).json == {"devices": []}
    assert get(application, "/v2/nothing", headers=ADMIN).status_int == 404
    assert get(application, "/healthcheck").status_int == 200


def test_a_paste_file_that_is_named_has_to_exist(configure: Configure,
                                                 client: rpc.ConductorClient,
                                                 tmp_path: pathlib.Path) -> None:
    conf = configure(f"[api]\nauth_strategy = noauth\napi_paste_config = {tmp_path}/none.ini\n")
    with pytest.raises(cfg.ConfigFilesNotFoundError, match=r"none\.ini"):
        app.make_app(conf, client)


# --- health -----------------------------------------------------------------------------------


def test_health_follows_the_conductor(configure: Configure, client: rpc.ConductorClient,
                                      endpoint: Endpoint) -> None:
    application = app.make_app(configure(), client)
    endpoint.trouble = errors.Unavailable("The database does not answer")

    reply = get(application, "/healthcheck")

    assert reply.status_int == 503
    assert "database" in the_error(reply)["detail"]
    assert "Retry-After" in reply.headers


def test_an_operator_takes_an_api_out_of_service_with_a_file(
        configure: Configure, client: rpc.ConductorClient, tmp_path: pathlib.Path) -> None:
    (tmp_path / "away").touch()
    application = app.make_app(configure(
        "[api]\nauth_strategy = noauth\n[healthcheck]\nbackends = disable_by_file\n"
        f"disable_by_file_path = {tmp_path}/away\n"), client)

    assert get(application, "/healthcheck").status_int == 503
    (tmp_path / "away").unlink()
    assert get(application, "/healthcheck").status_int == 200


def test_health_takes_no_other_method(configure: Configure, client: rpc.ConductorClient) -> None:
    reply = get(app.make_app(configure(), client), "/healthcheck", method="DELETE")
    assert reply.status_int == 405
    assert reply.headers["Allow"] == "GET, HEAD"


def test_one_answer_of_the_conductor_serves_all_who_ask_for_a_while(
        client: rpc.ConductorClient, endpoint: Endpoint) -> None:
    now = [100.0]
    probe = health.Probe(client.ping, clock=lambda: now[0])

    assert [probe.trouble() for _ in range(5)] == [None] * 5
    assert endpoint.pings == 1

    endpoint.trouble = errors.Unavailable("away")
    now[0] += health.FRESH_S
    trouble = probe.trouble()
    assert trouble is not None
    assert trouble.detail == "away"
    assert probe.trouble() is trouble
    assert endpoint.pings == 2
