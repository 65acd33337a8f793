# SPDX-License-Identifier: Apache-2.0
"""Conductors as real processes on RabbitMQ, MariaDB and PostgreSQL: many at once, killed, cut off.

Nova is the stand-in; Placement is not needed here.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator

import pytest
from oslo_config import cfg

from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import checks
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import cloud
from tests.fixtures import databases
from tests.fixtures import nova as nova_fixture
from tests.fixtures import processes
from tests.fixtures import servers
from tests.flows import dying_conductor

PATIENCE_S = 60


class Host:
    """The agent's side of host work, on a real bus: does nothing, at once."""

    def __init__(self) -> None:
        self.prepared: list[str] = []

    @buses.exposed
    def prepare(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        self.prepared += [task.handle_uuid for task in tasks]
        return [messages.HandleResult(handle_uuid=task.handle_uuid) for task in tasks]

    @buses.exposed
    def clean(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        return [messages.HandleResult(handle_uuid=task.handle_uuid) for task in tasks]


@dataclasses.dataclass
class World:
    """A database, a broker, a Nova, and conductors that come and go."""

    folder: pathlib.Path
    conf: cfg.ConfigOpts
    database: session.Database
    nova: nova_fixture.Nova
    bus: buses.MessagingBus
    running: list[processes.Process] = dataclasses.field(default_factory=list)
    at_end: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)

    def start(self, *program: str | pathlib.Path) -> processes.Process:
        """Start a conductor and wait until it answers."""
        number = len(self.running)
        conductor = processes.Process(
            f"conductor{number}",
            [*(program or (processes.console_script("cyborg-lite-conductor"),)),
             "--config-file", self.conf.config_file[0]],
            self.folder / f"conductor{number}.log", {"PYTHONPATH": str(pathlib.Path.cwd())})
        self.running.append(conductor)
        conductor.wait_until(self.answers, PATIENCE_S)
        return conductor

    def answers(self) -> bool:
        try:
            self.client(5).ping()
        except errors.Unavailable:
            return False
        return True

    def client(self, timeout_s: float = 30) -> rpc.ConductorClient:
        return rpc.ConductorClient(self.bus, timeout_s)

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait for something that happens by itself."""
        give_up, pause = time.monotonic() + PATIENCE_S, threading.Event()
        while not true():
            assert time.monotonic() < give_up, f"{what} did not happen within {PATIENCE_S} s"
            pause.wait(0.05)

    def handles(self) -> collections.Counter[str]:
        return collections.Counter(str(row["state"]) for row in databases.all_rows(
            self.database, models.attach_handles))

    def broken_invariants(self) -> list[str]:
        return [found.what for found in checks.find(
            self.database, checks.Limits(bind_s=60, sync_s=3600, event_s=60))]


CONFIGURATION = """
[DEFAULT]
transport_url = {}
[conductor]
agent_rpc_timeout = 2
"""


@pytest.fixture
def world(server_database: session.Database, tmp_path: pathlib.Path,
          folder: Callable[[str], pathlib.Path]) -> Iterator[World]:
    nova = nova_fixture.Nova()
    with servers.rabbitmq_vhost(folder) as transport_url:
        conf = cloud.configuration(
            tmp_path, server_database.engine.url.render_as_string(hide_password=False),
            nova=nova.url, more=CONFIGURATION.format(transport_url))
        world = World(tmp_path, conf, server_database, nova, cloud.messaging_bus(conf))
        try:
            yield world
        finally:
            for conductor in world.running:
                conductor.stop()
            world.at_end.close()
            world.bus.close()
            nova.stop()


def test_a_hundred_binds_on_sixteen_handles_from_three_conductors(world: World) -> None:
    for _ in range(3):
        world.start()
    client = world.client()
    client.report(builders.a_report())
    found = [builders.new_arqs(world.database)[0] for _ in range(100)]

    def bind(arq: messages.Arq) -> str:
        try:
            client.bind_arqs(builders.bind_requests([arq]))
        except errors.BindFailed as error:
            return error.detail
        return ""

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(bind, found))

    refused = [answer for answer in answers if answer]
    assert len(refused) == 84
    assert all("0 free attach handles; 1 are needed" in answer for answer in refused)
    by_state = collections.Counter(
        arq.state for arq in arqs.list_arqs(world.database, messages.ArqQuery()))
    assert by_state == {states.BOUND: 16, states.BIND_FAILED: 84}
    assert world.handles() == {states.IN_USE: 16}
    taken = world.nova.wait_for(100)
    assert collections.Counter(status for _, _, status in taken) == {
        "completed": 16, "failed": 84}
    assert world.broken_invariants() == []


def test_a_conductor_killed_at_any_step_of_a_bind_leaves_nothing_undone(world: World) -> None:
    host = Host()
    world.at_end.callback(world.bus.serve(rpc.AGENT_TOPIC, builders.HOST, host))
    builders.store(world.database, builders.a_report(prepares=True, cleans=True))
    asked: dict[str, messages.BindRequest] = {}
    for step in dying_conductor.STEPS:
        dying = world.start(sys.executable, "-m", "tests.flows.dying_conductor", step)
        [request] = builders.bind_requests(builders.new_arqs(world.database))
        asked[step] = request
        with contextlib.suppress(errors.Unavailable):
            world.client(3).bind_arqs([request])
        dying.wait_until_ended(PATIENCE_S)

    world.start()

    finished = {step: request for step, request in asked.items()
                if step != "before the reservation"}
    taken = set()
    world.until(lambda: taken.update(world.nova.taken()) or {
        arq for _, arq, _ in taken} >= {
        request.arq_uuid for request in finished.values()}, "an event for each bind")
    for step, request in finished.items():
        arq = arqs.get(world.database, request.arq_uuid, None)
        assert arq.state == states.BOUND, step
        assert (request.instance_uuid, request.arq_uuid, "completed") in taken
    lost = asked["before the reservation"]
    assert arqs.get(world.database, lost.arq_uuid, None).state == states.INITIAL
    world.until(lambda: databases.all_rows(world.database, models.events) == [],
                "forgetting the events that Nova has")
    assert world.handles()[states.IN_USE] == len(finished)
    assert states.RESERVED not in world.handles()
    assert world.broken_invariants() == []


class SlowHost(Host):
    """Prepares when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = threading.Event(), threading.Event()

    @buses.exposed
    def prepare(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        self.asked.set()
        assert self.go_on.wait(PATIENCE_S)
        return super().prepare(tasks)


def test_a_conductor_that_is_told_to_stop_finishes_the_bind_in_hand(world: World) -> None:
    host = SlowHost()
    world.at_end.callback(world.bus.serve(rpc.AGENT_TOPIC, builders.HOST, host))
    builders.store(world.database, builders.a_report(prepares=True, cleans=True))
    conductor = world.start()
    [request] = builders.bind_requests(builders.new_arqs(world.database))
    world.client().bind_arqs([request])
    assert host.asked.wait(PATIENCE_S)

    conductor.signal(signal.SIGTERM)
    conductor.wait_until(lambda: "finishing the work in hand" in conductor.log.read_text(),
                         PATIENCE_S)
    host.go_on.set()

    assert conductor.wait_until_ended(PATIENCE_S) == 0
    assert arqs.get(world.database, request.arq_uuid, None).state == states.BOUND
    assert (request.instance_uuid, request.arq_uuid, "completed") in world.nova.taken()
    assert databases.all_rows(world.database, models.events) == []


PRIVATE = {"mariadb": (servers.private_mariadb, servers.MARIADB),
           "postgresql": (servers.private_postgresql, servers.POSTGRESQL)}


@pytest.mark.parametrize("kind", PRIVATE)
def test_work_goes_on_after_the_database_restarted(
        kind: str, tmp_path: pathlib.Path, folder: Callable[[str], pathlib.Path]) -> None:
    make, url = PRIVATE[kind]
    server, nova = make(folder(kind)), nova_fixture.Nova()
    with (server.running(), servers.own_database(url.format(server.port)) as database_url,
          contextlib.closing(nova_closing := contextlib.ExitStack())):
        nova_closing.callback(nova.stop)
        conf = cloud.configuration(tmp_path, database_url, nova=nova.url)
        with cloud.running(conf) as running:
            running.client.report(builders.a_report())
            found = builders.new_arqs(running.conductor.database, 2)
            running.client.bind_arqs(builders.bind_requests(found[:1]))

            server.stop()
            with pytest.raises(errors.Unavailable):
                running.client.get_arq(found[0].uuid, None)
            server.start()

            assert running.client.get_arq(found[0].uuid, None).state == states.BOUND
            running.client.bind_arqs(builders.bind_requests(found[1:]))
            nova.wait_for(2)
            limits = checks.Limits(bind_s=60, sync_s=3600, event_s=60)
            assert checks.find(running.conductor.database, limits) == []
