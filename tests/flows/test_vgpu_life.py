# SPDX-License-Identifier: Apache-2.0
"""A vGPU from bind to delete with a real conductor and a real driver, and a reboot between.

Only the kernel and Nova are played.
"""

from __future__ import annotations

import dataclasses
import pathlib
import threading
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from cyborg_lite import buses
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite import states
from cyborg_lite.agent import hardware
from cyborg_lite.agent import restoring
from cyborg_lite.conductor import takeover
from tests.drivers import machines
from tests.drivers import vgpu_machines
from tests.fixtures import builders
from tests.fixtures import cloud
from tests.fixtures import nova as nova_fixture

CARD = "0000:41:00.0"
WAYS: dict[str, Callable[[], vgpu_machines.Entries]] = {
    "mdev on the card": lambda: vgpu_machines.on_card(CARD, 10, total_vfs=16),
    "mdev on functions": lambda: vgpu_machines.on_functions(CARD, 10, count=12),
    "vendor VFIO": lambda: vgpu_machines.vendor(CARD, 10, count=12)}


@dataclasses.dataclass
class Host:
    """The host's agent, without its threads: what the conductor asks of it, it does."""

    folder: pathlib.Path
    kernel: vgpu_machines.Gpus
    drivers: hardware.Hardware
    was_taken_down: threading.Event = dataclasses.field(default_factory=threading.Event)

    @buses.exposed
    def prepare(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        return self.drivers.handles.prepare(tasks)

    @buses.exposed
    def clean(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        return self.drivers.handles.clean(tasks)

    @buses.exposed
    def take_down(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        results = self.drivers.handles.take_down(tasks)
        self.was_taken_down.set()
        return results

    def start(self, conductor: rpc.ConductorClient) -> None:
        """Start the agent: restore, discover, report."""
        self.drivers = drivers_on(self.folder, self.kernel)
        restoring.Restoration(builders.HOST, conductor).restore(self.drivers)
        found = self.drivers.discover()
        conductor.report(messages.HostReport(
            host=builders.HOST, resource_provider_name=builders.HOST, digest=found.digest,
            devices=found.devices, withheld=found.withheld))

    def vgpus(self) -> list[str]:
        return [*self.kernel.mdevs(), *self.kernel.types_set()]


def drivers_on(folder: pathlib.Path, kernel: vgpu_machines.Gpus) -> hardware.Hardware:
    options = {"gpu_devices": {"enabled_vgpu_types": [], "offer_vendor_vfio": True},
               "mdev": {"created_by": "agent"}}
    place = hardware.Place(sysfs_root=kernel.root, proc_root=str(folder), dev_root=str(folder),
                           state_path=str(folder / "state"))
    return hardware.Hardware(["nvidia_gpu_driver"], options, place, host=kernel)


@pytest.fixture(params=list(WAYS))
def host(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Host:
    """A host with one card, in each of the three ways in turn."""
    kernel = vgpu_machines.Gpus(machines.tree(tmp_path, WAYS[request.param]()).root)
    return Host(tmp_path, kernel, drivers_on(tmp_path, kernel))


@pytest.fixture
def nova() -> Iterator[nova_fixture.Nova]:
    played = nova_fixture.Nova()
    yield played
    played.stop()


@pytest.fixture
def running(tmp_path: pathlib.Path, nova: nova_fixture.Nova, host: Host) -> Iterator[cloud.Cloud]:
    """A conductor, and the host's agent on its bus."""
    conf = cloud.configuration(tmp_path, f"sqlite:///{tmp_path}/test.sqlite", nova=nova.url)
    with cloud.running(conf) as world:
        stop = world.bus.serve(rpc.AGENT_TOPIC, builders.HOST, host)
        yield world
        stop()


def bound(running: cloud.Cloud, nova: nova_fixture.Nova) -> messages.Arq:
    running.client.create_device_profile(messages.DeviceProfile(
        uuid=builders.new_uuid(), name="vgpu", groups=[{"resources:VGPU": "1"}]))
    [deployable] = running.client.list_deployables(messages.DeployableQuery())
    [request] = builders.bind_requests(running.client.create_arqs("vgpu", "project1"),
                                       provider=str(deployable.rp_uuid))
    running.client.bind_arqs([request])
    nova.wait_for(1)
    return running.client.get_arq(request.arq_uuid, None)


def test_a_vgpu_is_made_for_its_server_comes_back_after_a_reboot_and_goes_with_it(
        host: Host, running: cloud.Cloud, nova: nova_fixture.Nova) -> None:
    host.start(running.client)
    arq = bound(running, nova)
    made = host.vgpus()

    host.kernel.reboot()
    after_reboot = host.vgpus()
    host.start(running.client)
    restored = host.vgpus()
    running.client.delete_arqs_of_instance(str(arq.instance_uuid))
    takeover.clean_handles(running.conductor.binder)
    running.conductor.stop()

    assert (arq.state, len(made), after_reboot) == (states.BOUND, 1, [])
    assert restored == made
    assert host.vgpus() == []
    if arq.attach_handle_type == "MDEV":
        assert made == [arq.attach_handle_uuid]


@pytest.mark.parametrize("reboots", [False, True])
def test_the_vgpu_of_a_suspended_server_is_away_and_comes_back_as_the_same(
        host: Host, running: cloud.Cloud, nova: nova_fixture.Nova, reboots: bool) -> None:
    host.start(running.client)
    arq = bound(running, nova)
    made = host.vgpus()
    instance = str(arq.instance_uuid)

    [suspended] = running.client.suspend_instance(instance)
    assert host.was_taken_down.wait(20)
    away = host.vgpus()
    if reboots:
        host.kernel.reboot()
        host.start(running.client)
    still_away = host.vgpus()
    running.client.resume_instance(instance)
    events = nova.wait_for(2)

    assert suspended.state == states.SUSPENDED
    assert (away, still_away) == ([], [])
    assert host.vgpus() == made
    assert [status for *_, status in events] == ["completed", "completed"]
    assert running.client.get_arq(arq.uuid, None).state == states.BOUND


def test_what_a_crash_between_making_and_reporting_left_is_removed_at_the_next_start(
        host: Host, running: cloud.Cloud) -> None:
    host.start(running.client)
    [deployable] = [deployable for device in host.drivers.discover().devices
                    for deployable in device.deployables]
    handle = deployable.handles[0]
    host.prepare([messages.HandleTask(
        handle_uuid=builders.new_uuid(), deployable_name=deployable.name, device_address=CARD,
        driver="nvidia_gpu_driver", type=handle.type, info=handle.info)])
    left = len(host.vgpus())

    host.start(running.client)

    assert left == 1
    assert host.vgpus() == []
