# SPDX-License-Identifier: Apache-2.0
"""The metrics themselves: names, labels, what is counted where, and what a scrape costs."""

from __future__ import annotations

import datetime
import pathlib
import re
import urllib.request
from typing import Any

import pytest
import webob
from oslo_config import cfg
from prometheus_client import parser

from cyborg_lite import buses
from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import metrics
from cyborg_lite.agent import figures as agent_figures
from cyborg_lite.agent import hardware
from cyborg_lite.agent import settings
from cyborg_lite.api import app
from cyborg_lite.conductor import figures
from cyborg_lite.conductor import service
from cyborg_lite.db import liveness
from cyborg_lite.db import migrate
from cyborg_lite.db import session
from cyborg_lite.wsgi import scrapes
from tests.fixtures import builders
from tests.fixtures import cloud as clouds
from tests.fixtures import databases

A_UUID = "6a0e1d2c-93f4-4b1e-8a57-0c6d2f1e9b38"
OF_CLIENTS = {"project", "user", "instance", "arq", "uuid", "id", "path", "request", "profile"}


def families(service: str, *collectors: Any) -> dict[str, Any]:
    """What a service exposes, as Prometheus would read it."""
    answer = scrape(service, *collectors)
    assert answer.status_code == 200
    return {family.name: family for family in parser.text_string_to_metric_families(answer.text)}


def scrape(service: str, *collectors: Any, path: str = "/metrics",
           method: str = "GET") -> webob.Response:
    registry = metrics.registry_of([service], "1.2.3", collectors)
    return webob.Request.blank(path, method=method).get_response(scrapes.application(registry))


def value(service: str, name: str, /, **labels: str) -> float:
    return metrics.registry_of([service], "0").get_sample_value(name, labels) or 0


# --- the table --------------------------------------------------------------------------------


def test_each_name_is_there_once_and_says_its_unit() -> None:
    names = [metric.name for metric in metrics.TABLE]

    assert len(names) == len(set(names))
    for metric in metrics.TABLE:
        assert re.fullmatch(r"cyborg_lite_[a-z_]+", metric.name)
        assert metric.services
        assert metric.help.endswith(".")
        if metric.kind == "histogram":
            assert metric.name.endswith("_seconds")


def test_no_label_tells_of_tenants() -> None:
    named = {label for metric in metrics.TABLE for label in metric.labels}

    assert named.isdisjoint(OF_CLIENTS)


@pytest.mark.parametrize("service", metrics.SERVICES)
def test_a_service_exposes_its_own_metrics_alone(service: str) -> None:
    found = families(service)

    counted = {metric.name for metric in metrics.TABLE
               if metric.kind != "gauge" and service in metric.services}
    others = {metric.name for metric in metrics.TABLE if service not in metric.services}
    assert counted <= found.keys()
    assert others.isdisjoint(found)
    assert "process_resident_memory_bytes" in found
    sample, = found["cyborg_lite_build_info"].samples
    assert sample.labels == {"service": service, "version": "1.2.3"}


def test_what_is_no_scrape_is_refused() -> None:
    assert scrape("api", path="/").status_code == 404
    assert scrape("api", path="/v2/devices").status_code == 404
    refused = scrape("api", method="POST")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET")


# --- API --------------------------------------------------------------------------------------


@pytest.fixture
def measured_api(tmp_path: pathlib.Path) -> Any:
    conf = clouds.configuration(tmp_path, f"sqlite:///{tmp_path}/test.sqlite",
                                more="[metrics]\nenabled = true\n")
    with clouds.running(conf) as cloud:
        yield app.make_app(conf, cloud.client)


def requests_counted(method: str, route: str, status: str) -> float:
    return value("api", "cyborg_lite_api_requests_total", method=method, route=route,
                 status=status)


@pytest.mark.parametrize(("method", "path", "labels"), [
    ("GET", "/v2/devices", ("GET", "/v2/devices", "2xx")),
    ("GET", f"/v2/devices/{A_UUID}", ("GET", "/v2/devices/{uuid}", "4xx")),
    ("GET", "/v2/devices?colour=red", ("GET", "/v2/devices", "4xx")),
    ("GET", "/v2/secret/plans", ("GET", "other", "4xx")),
    ("BREW", "/v2/devices", ("other", "other", "4xx")),
    ("GET", "/", ("GET", "other", "2xx")),
])
def test_a_request_is_counted_by_its_route(measured_api: Any, method: str, path: str,
                                           labels: tuple[str, str, str]) -> None:
    before = requests_counted(*labels)

    webob.Request.blank(path, method=method).get_response(measured_api)

    assert requests_counted(*labels) == before + 1
    assert value("api", "cyborg_lite_api_requests_in_progress") == 0
    assert value("api", "cyborg_lite_api_request_seconds_count", method=labels[0],
                 route=labels[1]) >= 1


def test_a_request_in_progress_is_seen(measured_api: Any) -> None:
    seen = []

    class Body:
        def read(self, size: int = -1) -> bytes:
            seen.append(value("api", "cyborg_lite_api_requests_in_progress"))
            return b""

    request = webob.Request.blank("/v2/device_profiles", method="POST")
    request.environ["wsgi.input"] = Body()
    request.headers["Content-Length"] = "10"
    request.get_response(measured_api)

    assert seen
    assert seen[0] == 1


def test_without_metrics_nothing_is_put_around_the_application(tmp_path: pathlib.Path) -> None:
    conf = clouds.configuration(tmp_path, f"sqlite:///{tmp_path}/test.sqlite")
    before = requests_counted("GET", "/v2/devices", "2xx")

    with clouds.running(conf) as cloud:
        webob.Request.blank("/v2/devices").get_response(app.make_app(conf, cloud.client))

    assert requests_counted("GET", "/v2/devices", "2xx") == before


# --- calls, binds, Placement, Nova -------------------------------------------------------------


class Endpoint:
    @buses.exposed
    def ping(self) -> None:
        raise errors.NotFound("Nothing here.")


def test_calls_are_counted_by_method_and_error() -> None:
    dispatcher = buses.Dispatcher(Endpoint())
    before = value("conductor", "cyborg_lite_rpc_errors_total", method="ping", error="not-found")
    unknown = value("conductor", "cyborg_lite_rpc_seconds_count", method="other")

    dispatcher.dispatch("ping", {}, {})
    dispatcher.dispatch("no such method", {}, {})

    assert value("conductor", "cyborg_lite_rpc_errors_total", method="ping",
                 error="not-found") == before + 1
    assert value("conductor", "cyborg_lite_rpc_seconds_count", method="other") == unknown + 1


def test_what_alerts_look_for_begins_at_zero() -> None:
    class New:
        @buses.exposed
        def never_called(self) -> None: ...

    buses.Dispatcher(New())

    found = metrics.registry_of(["conductor"], "0")
    for name, labels in (("rpc_errors_total", {"method": "never_called", "error": "internal"}),
                         ("bind_seconds_count", {"outcome": "failed"}),
                         ("bind_seconds_count", {"outcome": "bound"})):
        assert found.get_sample_value(f"cyborg_lite_{name}", labels) is not None


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Any:
    conf = clouds.configuration(tmp_path, f"sqlite:///{tmp_path}/test.sqlite")
    with clouds.running(conf) as running:
        running.client.report(builders.a_report(1, handles=1))
        yield running


def test_binds_events_and_requests_that_fail_are_counted(cloud: clouds.Cloud) -> None:
    def bound() -> float:
        return value("conductor", "cyborg_lite_bind_seconds_count", outcome="bound")

    def failed() -> float:
        return value("conductor", "cyborg_lite_bind_seconds_count", outcome="failed")

    before = bound(), failed()
    refused = value("conductor", "cyborg_lite_nova_events_total", outcome="refused")
    silent = value("conductor", "cyborg_lite_outgoing_request_seconds_count", service="nova",
                   method="POST", status="none")
    arqs = builders.new_arqs(cloud.conductor.database, 2)

    cloud.client.bind_arqs(builders.bind_requests(arqs[:1]))
    with pytest.raises(errors.BindFailed):
        cloud.client.bind_arqs(builders.bind_requests(arqs[1:]))
    cloud.conductor.stop()

    assert (bound(), failed()) == (before[0] + 1, before[1] + 1)
    assert value("conductor", "cyborg_lite_nova_events_total", outcome="refused") > refused
    assert value("conductor", "cyborg_lite_outgoing_request_seconds_count", service="nova",
                 method="POST", status="none") > silent


def test_a_comparison_with_placement_that_fails_is_counted(tmp_path: pathlib.Path) -> None:
    conf = clouds.configuration(tmp_path, f"sqlite:///{tmp_path}/test.sqlite")
    conductor = service.Conductor(conf, buses.LocalBus())
    migrate.upgrade(conductor.database.engine)
    builders.store(conductor.database, builders.a_report(1))
    before = value("conductor", "cyborg_lite_placement_syncs_total", outcome="failed")

    conductor.placement_sync.run_once()

    assert value("conductor", "cyborg_lite_placement_syncs_total", outcome="failed") == before + 1


# --- gauges of the database -------------------------------------------------------------------


def horizon() -> liveness.Horizon:
    down_before = session.now() - datetime.timedelta(seconds=60)
    return liveness.Horizon(down_before=down_before)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_database_is_shown_as_gauges(sqlite: session.Database) -> None:
    builders.store(sqlite, builders.a_report(2))
    builders.bound_arqs(sqlite, 3)

    found = families("conductor", figures.Collector(sqlite, horizon))

    def shown(name: str) -> dict[tuple[str, ...], float]:
        return {tuple(sample.labels.values()): sample.value
                for sample in found[f"cyborg_lite_{name}"].samples}

    assert shown("devices") == {("enabled", "FPGA"): 2}
    assert shown("attach_handles") == {
        ("free",): 29, ("in_use",): 3, ("reserved",): 0, ("cleaning",): 0, ("failed",): 0,
        ("missing",): 0}
    assert shown("arqs")[("Bound",)] == 3
    assert shown("hosts")[("up",)] == 1
    assert shown("database_up") == {(): 1}
    expected = {metric.name for metric in metrics.TABLE
                if metric.kind == "gauge" and metric.services == (metrics.CONDUCTOR,)}
    assert expected <= found.keys()


def test_scrapes_that_follow_each_other_ask_the_database_once(sqlite: session.Database) -> None:
    clock = Clock()
    collector = figures.Collector(sqlite, horizon, clock)
    families("conductor", collector)

    with databases.counted(sqlite) as soon:
        families("conductor", collector)
    clock.now += figures.KEPT_S
    with databases.counted(sqlite) as later:
        families("conductor", collector)

    assert len(soon) == 0
    assert len(later) == 7


def test_a_database_that_does_not_answer_is_shown_and_the_rest_stays(
        tmp_path: pathlib.Path) -> None:
    without_tables = session.Database(f"sqlite:///{tmp_path}/empty.sqlite")

    found = families("conductor", figures.Collector(without_tables, horizon))

    assert found["cyborg_lite_database_up"].samples[0].value == 0
    assert "cyborg_lite_arqs" not in found
    assert "cyborg_lite_rpc_seconds" in found


# --- agents -----------------------------------------------------------------------------------


def a_state(**more: Any) -> agent_figures.State:
    return agent_figures.State(**({"host": "node1", "drivers": ["fake_driver"], "discovery": None,
                                   "discovery_age_s": 9.0, "heartbeat_age_s": 9.0} | more))


def test_an_agent_shows_devices_and_failures_by_driver() -> None:
    discovery = hardware.Discovery(
        [builders.a_device("a"), builders.a_device("b")], ["pci_driver"], "digest",
        [messages.WithheldFunction(address="0000:01:00.0", driver="nvme_ssd_driver",
                                   reason="a mount")])
    state = a_state(drivers=["fake_driver", "pci_driver", "nvme_ssd_driver"],
                    discovery=discovery, discovery_age_s=4.0, heartbeat_age_s=2.0)

    found = families("agent", agent_figures.Collector(
        [lambda: state, lambda: a_state(host="node2")]))

    def shown(name: str) -> dict[str, float]:
        return {sample.labels["driver"]: sample.value
                for sample in found[f"cyborg_lite_agent_{name}"].samples}

    assert shown("devices") == {"fake_driver": 2, "nvme_ssd_driver": 0, "pci_driver": 0}
    assert shown("withheld_functions")["nvme_ssd_driver"] == 1
    assert shown("driver_failed") == {"fake_driver": 0, "nvme_ssd_driver": 0, "pci_driver": 1}
    for name, own in (("discovery", 4.0), ("heartbeat", 2.0)):
        assert {sample.labels["host"]: sample.value for sample in
                found[f"cyborg_lite_agent_{name}_age_seconds"].samples} == {
                    "node1": own, "node2": 9.0}


# --- ports ------------------------------------------------------------------------------------


def test_each_process_takes_the_next_free_port_and_no_more_than_there_are_processes() -> None:
    first = scrapes.listen("127.0.0.1", 0, 1)
    port = first.getsockname()[1]
    try:
        with scrapes.listen("127.0.0.1", port, 3) as second:
            assert port < second.getsockname()[1] <= port + 2
        with pytest.raises(OSError, match="in use"):
            scrapes.listen("127.0.0.1", port, 1)
    finally:
        first.close()


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


def configured(*lines: str) -> cfg.ConfigOpts:
    conf = config.load([], cfg.ConfigOpts())
    for line in lines:
        group, name, given = line.split()
        conf.set_override(name, int(given), group)
    return conf


def test_under_another_server_a_process_listens_from_its_first_request_on() -> None:
    wrapped = scrapes.AtFirstRequest(hello, configured("metrics api_port 0"))
    assert wrapped.listener is None

    for _ in range(2):
        assert webob.Request.blank("/").get_response(wrapped).body == b"hello"

    assert wrapped.listener is not None
    with urllib.request.urlopen(wrapped.listener.url, timeout=30) as answer:
        assert b"cyborg_lite_api_requests" in answer.read()
    wrapped.listener.stop()


def test_under_another_server_a_port_that_is_taken_costs_no_request(
        caplog: pytest.LogCaptureFixture) -> None:
    with scrapes.listen("127.0.0.1", 0, 1) as taken:
        port = taken.getsockname()[1]
        wrapped = scrapes.AtFirstRequest(hello, configured(f"metrics api_port {port}"))

        assert webob.Request.blank("/").get_response(wrapped).body == b"hello"

    assert wrapped.listener is None
    assert f"[metrics] api_port = {port}: this process shows no metrics" in caplog.text


def test_under_another_server_a_port_that_becomes_free_is_found_later() -> None:
    clock = Clock()
    with scrapes.listen("127.0.0.1", 0, 1) as taken:
        port = taken.getsockname()[1]
        wrapped = scrapes.AtFirstRequest(hello, configured(f"metrics api_port {port}"), clock)
        webob.Request.blank("/").get_response(wrapped)

    webob.Request.blank("/").get_response(wrapped)
    assert wrapped.listener is None
    clock.now += scrapes.AGAIN_AFTER_S
    webob.Request.blank("/").get_response(wrapped)

    assert wrapped.listener is not None
    assert wrapped.listener.url == f"http://127.0.0.1:{port}/metrics"
    wrapped.listener.stop()


def test_drivers_are_given_no_metrics_options() -> None:
    assert "metrics" not in settings.read(configured()).options
