# SPDX-License-Identifier: Apache-2.0
"""RPC over a real RabbitMQ. What is called does not matter here."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator

import pytest
from oslo_config import cfg

from cyborg_lite import buses
from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.agent import claims
from cyborg_lite.conductor import service
from cyborg_lite.db import migrate
from cyborg_lite.db import models
from tests.fixtures import builders
from tests.fixtures import cloud
from tests.fixtures import databases
from tests.fixtures import servers


class Endpoint:
    """Answers pings, and holds a call until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.left = threading.Event()
        self.committed: list[str] = []
        self.prepared = 0
        self.reports: list[messages.HostReport] = []

    @buses.exposed
    def ping(self) -> None: ...

    @buses.exposed
    def get_device(self, uuid: str) -> messages.Device:
        raise errors.NotFound(f"Device {uuid} does not exist.")

    @buses.exposed
    def report(self, report: messages.HostReport) -> None:
        self.reports.append(report)

    @buses.exposed
    def delete_arqs_of_instance(self, instance_uuid: str) -> None:
        self.entered.set()
        self.let_go.wait(30)
        try:
            buses.check_deadline()  # as a transaction does before it commits
            self.committed.append(instance_uuid)
        finally:
            self.left.set()

    @buses.exposed
    def prepare(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        self.prepared += 1
        return [messages.HandleResult(handle_uuid=task.handle_uuid) for task in tasks]


def a_bus(url: str) -> buses.MessagingBus:
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(f"[DEFAULT]\ntransport_url = {url}\n")
        file.flush()
        return cloud.messaging_bus(
            config.load(["--config-file", file.name], cfg.ConfigOpts()))


@contextlib.contextmanager
def serving(url: str, topic: str, server: str) -> Iterator[tuple[Endpoint, buses.MessagingBus]]:
    endpoint, bus = Endpoint(), a_bus(url)
    stop = bus.serve(topic, server, endpoint)
    try:
        yield endpoint, bus
    finally:
        endpoint.let_go.set()
        stop()


def test_messages_and_errors_cross_the_broker(rabbitmq: str) -> None:
    report = builders.a_report(3)
    with serving(rabbitmq, rpc.CONDUCTOR_TOPIC, "node1") as (endpoint, _):
        client = rpc.ConductorClient(a_bus(rabbitmq), 20)

        client.report(report)
        with pytest.raises(errors.NotFound, match="Device x does not exist"):
            client.get_device("x")

    assert endpoint.reports == [report]


def test_an_agent_is_called_by_the_name_of_its_host(rabbitmq: str) -> None:
    task = messages.HandleTask(handle_uuid="h", deployable_name="d", device_address="a",
                               driver="fake_driver", type="PCI", info={})
    with serving(rabbitmq, rpc.AGENT_TOPIC, "node_with_underscore.example.org"):
        client = rpc.AgentClient(a_bus(rabbitmq), 20)

        results = client.prepare(agent_host="node_with_underscore.example.org", tasks=[task])

        assert results == [messages.HandleResult(handle_uuid="h")]


class Desk:
    """Accepts agents, or refuses them."""

    def __init__(self) -> None:
        self.refuses: set[str | None] = set()

    @buses.exposed
    def claim_host(self, host: str, agent_id: str | None) -> None:
        if agent_id in self.refuses:
            raise errors.HostTaken(f"The agent of another machine speaks for host {host}.")


def test_a_refused_agent_gets_none_of_the_calls_for_the_host(rabbitmq: str) -> None:
    """Two that serve one name would take turns."""
    desk, first, copy = Desk(), Endpoint(), Endpoint()
    bus = a_bus(rabbitmq)
    stop = bus.serve(rpc.CONDUCTOR_TOPIC, "controller", desk)
    conductor = rpc.ConductorClient(a_bus(rabbitmq), 20)

    def claim_of(identity: str, endpoint: Endpoint) -> claims.Claim:
        own_bus = a_bus(rabbitmq)
        return claims.Claim("node4", identity, conductor,
                            lambda: own_bus.serve(rpc.AGENT_TOPIC, "node4", endpoint))

    desk.refuses = {"copy"}
    of_first, of_copy = claim_of("first", first), claim_of("copy", copy)
    client = rpc.AgentClient(a_bus(rabbitmq), 20)
    of_first.make()
    with pytest.raises(errors.HostTaken):
        of_copy.make()
    for _ in range(4):
        client.prepare(agent_host="node4", tasks=[])
    assert (first.prepared, copy.prepared) == (4, 0)

    # the other has it now: the first is told with its next beat
    desk.refuses = set()
    of_first.refused(errors.HostTaken("The agent of another machine speaks for host node4."))
    for thread in threading.enumerate():
        if thread.name == "agent-refused":
            thread.join(20)
    of_copy.make()
    for _ in range(4):
        client.prepare(agent_host="node4", tasks=[])
    assert (first.prepared, copy.prepared) == (4, 4)
    of_copy.end()
    stop()


def test_a_conductor_beats_as_long_as_it_hears_itself_over_the_broker(
        rabbitmq: str, tmp_path: pathlib.Path) -> None:
    conf = cloud.configuration(tmp_path, f"sqlite:///{tmp_path}/test.sqlite",
                               more=f"[DEFAULT]\ntransport_url = {rabbitmq}")
    conductor = service.Conductor(conf, cloud.messaging_bus(conf))
    migrate.upgrade(conductor.database.engine)
    with pytest.raises(errors.Unavailable):
        conductor.watch.beat()
    assert databases.all_rows(conductor.database, models.conductors) == []

    conductor.start()
    conductor.watch.beat()
    conductor.stop()

    [row] = databases.all_rows(conductor.database, models.conductors)
    assert row["last_seen"] > row["created_at"]  # type: ignore[operator]


def test_nobody_serving_is_known_at_once(rabbitmq: str) -> None:
    client = rpc.AgentClient(a_bus(rabbitmq), 30)
    began = time.monotonic()

    with pytest.raises(errors.Unavailable, match="on no-such-host; look whether it runs"):
        client.clean(agent_host="no-such-host", tasks=[])

    assert time.monotonic() - began < 15


def test_a_caller_that_gave_up_leaves_nothing_that_is_executed_later(rabbitmq: str) -> None:
    with serving(rabbitmq, rpc.CONDUCTOR_TOPIC, "node2") as (endpoint, _):
        client = rpc.ConductorClient(a_bus(rabbitmq), 3)

        with pytest.raises(errors.Unavailable, match="conductor gave no answer within 3 s; look"):
            client.delete_arqs_of_instance("i")

        assert endpoint.entered.is_set()
        endpoint.let_go.set()
        assert endpoint.left.wait(10)
        assert endpoint.committed == []


def test_a_broker_that_is_away_makes_no_caller_wait_without_end_and_calls_work_when_it_is_back(
        folder: Callable[[str], pathlib.Path]) -> None:
    with servers.rabbitmq_node(folder) as node:
        with serving(node.url, rpc.CONDUCTOR_TOPIC, "node3"):
            before = rpc.ConductorClient(a_bus(node.url), 4)
            before.ping()

            node.stop()
            meanwhile = rpc.ConductorClient(a_bus(node.url), 4)
            for client in (before, meanwhile):
                began = time.monotonic()
                with pytest.raises(errors.Unavailable, match="broker does not answer"):
                    client.ping()
                assert time.monotonic() - began < 15
            node.start()

            give_up = time.monotonic() + 60
            for client in (before, meanwhile):
                while not answers(client):
                    assert time.monotonic() < give_up


def answers(client: rpc.ConductorClient) -> bool:
    try:
        client.ping()
    except errors.Unavailable:
        return False
    return True


def test_a_broker_that_refuses_the_login_is_unavailable_to_each_call(rabbitmq: str) -> None:
    client = rpc.ConductorClient(a_bus(rabbitmq.replace("guest:guest", "guest:wrong")), 10)

    for _ in range(2):
        with pytest.raises(errors.Unavailable, match="broker refuses"):
            client.ping()
