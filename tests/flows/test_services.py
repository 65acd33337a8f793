# SPDX-License-Identifier: Apache-2.0
"""Hosts that die, come back and are doubled: real conductors, agents, API and Placement.

Time passes by setting back what is written of the past.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import webob
from oslo_config import cfg

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.api import app
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import cloud as clouds
from tests.fixtures import databases
from tests.fixtures import placement as placement_fixture

WAITS_FOR_NOBODY_S = 10
"""Far below the patience with an agent, far above what a busy machine needs."""

HEADERS = {"X-User-Id": "nova", "X-Project-Id": "service", "X-Roles": "admin",
           "X-Service-Roles": "service", "Content-Type": "application/json",
           "OpenStack-API-Version": "accelerator 2.10"}


@pytest.fixture
def conf(tmp_path: pathlib.Path) -> cfg.ConfigOpts:
    return clouds.configuration(tmp_path, f"sqlite:///{tmp_path}/test.sqlite")


@pytest.fixture
def running(conf: cfg.ConfigOpts) -> Iterator[clouds.Cloud]:
    with clouds.running(conf) as world:
        yield world


def let_pass(database: session.Database, seconds: float, *tables: sa.Table,
             host: str | None = None) -> None:
    """What these tables know of the past is so much longer ago."""
    with database.writing() as connection:
        for table in tables:
            rows = sa.select(table.c.id, table.c.last_seen)
            if host is not None:
                rows = rows.where(table.c.name == host)
            for row in connection.execute(rows).all():
                connection.execute(sa.update(table).where(table.c.id == row.id).values(
                    last_seen=row.last_seen - datetime.timedelta(seconds=seconds)))


def ask(world: clouds.Cloud, method: str, path: str, body: Any = None) -> webob.Response:
    """One request to the API, in a process of its own."""
    return webob.Request.blank(
        path, method=method, headers=HEADERS,
        body=json.dumps(body).encode() if body is not None else b"",
    ).get_response(app.make_app(world.conf, world.client))


def an_arq(world: clouds.Cloud, resources: str = "FPGA") -> messages.Arq:
    name = builders.new_uuid()
    world.client.create_device_profile(messages.DeviceProfile(
        uuid=builders.new_uuid(), name=name, groups=[{f"resources:{resources}": "1"}]))
    [arq] = world.client.create_arqs(name, "project1")
    return arq


def bind(world: clouds.Cloud, host: str = builders.HOST, provider: str | None = None,
         resources: str = "FPGA") -> str:
    """Bind one ARQ to a new instance; returns the instance. BindFailed."""
    [request] = builders.bind_requests([an_arq(world, resources)], host=host,
                                       provider=provider or builders.rp_uuid(host=host))
    world.client.bind_arqs([request])
    return request.instance_uuid


def state_of(world: clouds.Cloud, host: str = builders.HOST) -> str:
    [found] = [each for each in world.client.list_services(messages.ServiceQuery(host=host))
               if each.binary == "cyborg-lite-agent"]
    return found.state


# --- conductors that were away ----------------------------------------------------------------


def nobody_runs(conf: cfg.ConfigOpts, seconds: float, killed: bool = False) -> None:
    """So much time passes after the last conductor was stopped, or killed."""
    database = session.from_conf(conf, lambda: None)
    if killed:
        with database.writing() as connection:
            connection.execute(sa.update(models.conductors).values(stopped_at=None))
    let_pass(database, seconds, models.hosts, models.conductors)
    database.dispose()


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("away_s", [25, 70, 4000])
def test_after_an_outage_of_all_conductors_no_bind_to_a_live_host_is_refused(
        conf: cfg.ConfigOpts, killed: bool, away_s: float) -> None:
    """Between the start of a conductor and the host's next heartbeat."""
    with clouds.running(conf) as world:
        # the last beat that was written, and those after it that did not have to be
        world.client.report(builders.a_report())
        let_pass(world.conductor.database, 25, models.hosts)
    nobody_runs(conf, away_s, killed)

    with clouds.running(conf) as world:
        assert state_of(world) == "up"
        bind(world)


def test_a_host_that_was_down_before_the_outage_is_down_after_it(conf: cfg.ConfigOpts) -> None:
    with clouds.running(conf) as world:
        world.client.report(builders.a_report())
        let_pass(world.conductor.database, 61, models.hosts)
    nobody_runs(conf, 4000)

    with clouds.running(conf) as world:
        assert state_of(world) == "down"
        with pytest.raises(errors.BindFailed, match="Host node1 is down"):
            bind(world)


def test_a_conductor_lists_itself_until_it_is_stopped(conf: cfg.ConfigOpts) -> None:
    with clouds.running(conf) as first, clouds.running(conf) as second:
        second.conductor.watch.beat()

        def conductors() -> set[str]:
            return {found.id for found in first.client.list_services(messages.ServiceQuery(
                binary="cyborg-lite-conductor", state="up"))}

        assert conductors() == {first.conductor.conductor_id, second.conductor.conductor_id}
        second.conductor.watch.end()
        assert conductors() == {first.conductor.conductor_id}


# --- a host that dies -------------------------------------------------------------------------


def test_a_dead_host_refuses_binds_at_once_and_lets_everything_else_go_on(
        running: clouds.Cloud) -> None:
    """With a thousand handles that wait for it to be cleaned."""
    database = running.conductor.database
    running.client.report(builders.a_report(2, handles=1001, cleans=True))
    with database.writing() as connection:
        connection.execute(sa.update(models.attach_handles).where(
            models.attach_handles.c.deployable_id == 1).values(state=states.CLEANING))
    instance = bind(running, provider=builders.rp_uuid("Fake1"))
    let_pass(database, 61, models.hosts)

    began = time.monotonic()
    refusal = ask(running, "PATCH", "/v2/accelerator_requests", {an_arq(running).uuid: [
        {"path": "/hostname", "op": "add", "value": builders.HOST},
        {"path": "/device_rp_uuid", "op": "add", "value": builders.rp_uuid("Fake1")},
        {"path": "/instance_uuid", "op": "add", "value": builders.new_uuid()}]})
    delete = ask(running, "DELETE", f"/v2/accelerator_requests?instance={instance}")
    took_s = time.monotonic() - began

    assert refusal.status_int == 409
    assert "Host node1 is down: its agent was last heard of at" in refusal.text
    assert "accelerator.bind-failed" in refusal.text
    assert delete.status_int == 204
    assert took_s < WAITS_FOR_NOBODY_S
    [event] = [row for row in databases.all_rows(database, models.events)
               if row["status"] == "failed"]
    assert event is not None
    assert ask(running, "GET", f"/v2/accelerator_requests?instance={instance}").json["arqs"] == []
    devices = ask(running, "GET", "/v2/devices").json["devices"]
    assert {device["host_state"] for device in devices} == {"down"}


def test_a_heartbeat_is_enough_for_binds_to_go_on(running: clouds.Cloud) -> None:
    report = builders.a_report()
    running.client.report(report)
    let_pass(running.conductor.database, 61, models.hosts)
    assert state_of(running) == "down"

    running.client.heartbeat(messages.Heartbeat(
        host=report.host, resource_provider_name=report.host, digest=report.digest))

    assert state_of(running) == "up"
    bind(running)


# --- an agent that is disabled ----------------------------------------------------------------


def test_the_capacity_of_a_disabled_agent_is_reserved_in_placement(
        tmp_path: pathlib.Path, placement: placement_fixture.Placement) -> None:
    conf = with_placement(tmp_path, placement)
    placement.make_compute_node(builders.HOST)
    with clouds.running(conf) as world:
        world.client.report(builders.a_report(2, handles=4))
        consumer = bind(world)
        [agent] = world.client.list_services(messages.ServiceQuery(binary="cyborg-lite-agent"))

        def reserved() -> list[int]:
            world.conductor.placement_sync.run_once()
            in_order(world)
            return [placement.inventories(builders.rp_uuid(name))["FPGA"]["reserved"]
                    for name in ("Fake0", "Fake1")]

        before = reserved()
        ask(world, "PUT", f"/v2/services/{agent.id}", {"status": "disabled"})
        disabled = reserved()
        running_one = world.client.list_arqs(messages.ArqQuery(instance_uuid=consumer))
        ask(world, "PUT", f"/v2/services/{agent.id}", {"status": "enabled"})

        assert (before, disabled, reserved()) == ([0, 0], [4, 4], [0, 0])
        assert [arq.state for arq in running_one] == [states.BOUND]


def with_placement(folder: pathlib.Path, placement: placement_fixture.Placement) -> cfg.ConfigOpts:
    return clouds.configuration(
        folder, f"sqlite:///{folder}/test.sqlite", placement=placement.url,
        more=f"[placement]\nauth_type = admin_token\nendpoint = {placement.url}\ntoken = admin")


def in_order(world: clouds.Cloud) -> None:
    """Have every host compared with Placement until nothing is left to do."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        hosts = databases.all_rows(world.conductor.database, models.hosts)
        if all(row["synced_generation"] == row["generation"] for row in hosts):
            return
        world.conductor.placement_sync.run_once()
    raise AssertionError("Placement is not in order in time")
