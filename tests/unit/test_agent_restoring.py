# SPDX-License-Identifier: Apache-2.0
"""What an agent does when it starts: first what should exist, then what it offers."""

from __future__ import annotations

import dataclasses
import pathlib
import threading
import uuid
from collections.abc import Callable

import pytest

from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.agent import hardware
from cyborg_lite.agent import restoring
from cyborg_lite.agent import service
from cyborg_lite.agent import settings
from cyborg_lite.drivers import fake
from cyborg_lite.drivers import mdev
from tests.drivers import machines
from tests.drivers import vgpu_machines
from tests.fixtures.scripted import Catalogue

GPU = "0000:41:00.0"
DEADLINE_S = 20


class Conductor:
    """Knows what should exist, and notes in which order it is asked."""

    def __init__(self) -> None:
        self.intent = messages.HostIntent()
        self.asked: list[str] = []
        self.trouble: errors.Error | None = None
        self.on_intent: Callable[[], object] = lambda: None

    @buses.exposed
    def host_intent(self, host: str) -> messages.HostIntent:
        self.asked.append(f"host_intent {host}")
        if self.trouble:
            raise self.trouble
        self.on_intent()
        return self.intent

    @buses.exposed
    def heartbeat(self, beat: messages.Heartbeat) -> messages.HeartbeatReply:
        self.asked.append("heartbeat")
        return messages.HeartbeatReply(report_wanted=False)


CATALOGUE = Catalogue(fake_driver=fake.FakeDriver, mdev_driver=mdev.MdevDriver)


class Host:
    """An agent with mdev_driver on a played card, and its conductor."""

    def __init__(self, folder: pathlib.Path, *drivers: str) -> None:
        self.folder = folder
        self.root = machines.tree(folder, vgpu_machines.on_card(GPU, 1)).root
        self.kernel = vgpu_machines.Gpus(self.root)
        self.conductor = Conductor()
        self.now = 1000.0
        self.bus = buses.LocalBus()
        self.bus.serve(rpc.CONDUCTOR_TOPIC, "c1", self.conductor)
        self.drivers = drivers
        self.agent = self.started()

    def started(self) -> service.Agent:
        """An agent process that starts now."""
        wanted = settings.Settings(
            host="node7", resource_provider_name="node7", sysfs_root=self.root,
            enabled_drivers=self.drivers, state_path=str(self.folder / "state"),
            options={"mdev": {"enabled_types": ["T4-2B"]}})
        self.agent = service.Agent(lambda: wanted, rpc.ConductorClient(self.bus, 30.0),
                                   catalogue=CATALOGUE, clock=lambda: self.now)
        self.agent.hardware = hardware.Hardware(
            wanted.enabled_drivers, wanted.options,
            hardware.Place(sysfs_root=self.root, state_path=wanted.state_path), CATALOGUE,
            host=self.kernel)
        return self.agent

    def tasks(self) -> list[messages.HandleTask]:
        found = self.agent.hardware.discover()
        return [messages.HandleTask(
            handle_uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, handle.info["vgpu_mark"])),
            deployable_name=GPU, device_address=GPU, driver="mdev_driver", type=handle.type,
            info=handle.info) for handle in found.devices[0].deployables[0].handles]


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path, "mdev_driver")


def uuids(tasks: list[messages.HandleTask]) -> list[str]:
    return sorted(task.handle_uuid for task in tasks)


def test_after_a_reboot_what_is_held_is_made_before_anything_is_told(host: Host) -> None:
    tasks = host.tasks()[2:4]
    host.conductor.intent = messages.HostIntent(prepare=tasks)
    host.agent.hardware.handles.prepare(tasks)
    host.kernel.reboot()

    host.started().run_once()

    assert host.kernel.mdevs() == uuids(tasks)
    assert host.conductor.asked == ["host_intent node7", "heartbeat"]


def test_what_is_to_clean_and_what_nobody_has_is_removed(host: Host) -> None:
    held, given_back, leftover = host.tasks()[:3]
    stranger = str(uuid.uuid4())
    host.agent.hardware.handles.prepare([held, given_back, leftover])
    host.kernel.create_mdev(GPU, "nvidia-227", stranger)
    host.conductor.intent = messages.HostIntent(prepare=[held], clean=[given_back])

    host.started().run_once()

    assert host.kernel.mdevs() == sorted([held.handle_uuid, stranger])


def test_what_is_made_while_the_conductor_answers_is_no_leftover(host: Host) -> None:
    """A bind whose handle the answer does not know yet."""
    [task] = host.tasks()[:1]
    agent = host.started()
    host.conductor.on_intent = lambda: agent.hardware.handles.prepare([task])

    agent.run_once()

    assert host.kernel.mdevs() == [task.handle_uuid]


def test_nothing_is_discovered_before_a_conductor_answered(host: Host) -> None:
    host.conductor.trouble = errors.Unavailable("The database is away.")
    agent = host.started()

    wait_s = agent.run_once()
    first = list(host.conductor.asked)
    host.conductor.trouble = None
    host.now += wait_s
    agent.run_once()

    assert 0 < wait_s <= 10
    assert first.count("host_intent node7") == 1
    assert host.conductor.asked.count("host_intent node7") == 2


def test_the_conductor_is_asked_once(host: Host) -> None:
    for _ in range(3):
        host.agent.run_once()
        host.now += 60

    assert host.conductor.asked.count("host_intent node7") == 1


def test_what_failed_is_tried_again_while_it_is_held(host: Host) -> None:
    tasks = host.tasks()[:2]
    host.conductor.intent = messages.HostIntent(prepare=tasks)
    host.kernel.refusals = {"create_mdev": [OSError(5, "Input/output error")] * 2}
    agent = host.started()

    agent.run_once()
    failed = host.kernel.mdevs()
    host.conductor.intent = messages.HostIntent(prepare=tasks[:1])
    for _ in range(3):
        host.now += 60
        agent.run_once()

    assert failed == []
    assert host.kernel.mdevs() == uuids(tasks[:1])
    # the start, and one round more: then nothing had failed
    assert host.conductor.asked.count("host_intent node7") == 2


def test_a_call_about_a_handle_waits_for_the_restoration(host: Host) -> None:
    [task] = host.tasks()[:1]
    agent = host.started()
    asking, answer = threading.Event(), threading.Event()

    def answer_slowly() -> None:
        asking.set()
        answer.wait(DEADLINE_S)

    host.conductor.on_intent = answer_slowly
    starting = threading.Thread(target=agent.run_once)
    starting.start()
    assert asking.wait(DEADLINE_S)
    results: list[messages.HandleResult] = []
    calling = threading.Thread(
        target=lambda: results.extend(agent.endpoint.prepare([task])))
    calling.start()

    assert host.kernel.mdevs() == []
    answer.set()
    starting.join(DEADLINE_S)
    calling.join(DEADLINE_S)

    assert [result.error for result in results] == [None]
    assert host.kernel.mdevs() == [task.handle_uuid]


def test_a_call_that_waited_too_long_is_sent_away(host: Host) -> None:
    restoration = restoring.Restoration("node7", rpc.ConductorClient(host.bus, 30.0))

    with pytest.raises(errors.Unavailable, match="has just started"):
        restoration.wait(host.agent.hardware, wait_s=0)


def test_a_host_whose_drivers_keep_nothing_asks_nothing(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, "fake_driver")

    host.agent.run_once()

    assert host.conductor.asked == ["heartbeat"]
    host.agent.endpoint.prepare([])


def test_a_clean_step_of_another_driver_is_left_to_the_conductors_request(host: Host) -> None:
    """Erasing a disk may take hours, and the conductor asks for it in any case."""
    [task] = host.tasks()[:1]
    other = dataclasses.replace(task, driver="fake_driver", handle_uuid=str(uuid.uuid4()))
    host.conductor.intent = messages.HostIntent(clean=[other])

    host.started().run_once()

    assert host.conductor.asked == ["host_intent node7", "heartbeat"]
