# SPDX-License-Identifier: Apache-2.0
"""Hosts that come back, changed or not, and machines that claim the same host.

Real agents and drivers, a real conductor, a real Placement; the kernel is played.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite import states
from cyborg_lite.agent import hardware
from cyborg_lite.agent import service
from cyborg_lite.conductor import takeover
from cyborg_lite.db import heartbeats
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.drivers import machines
from tests.drivers import vgpu_machines
from tests.fixtures import agents
from tests.fixtures import builders
from tests.fixtures import cloud as clouds
from tests.fixtures import databases
from tests.fixtures import placement as placement_fixture

GPU = "0000:41:00.0"


@pytest.fixture
def placement(tmp_path: pathlib.Path) -> Iterator[placement_fixture.Placement]:
    with placement_fixture.serving(tmp_path) as serving:
        serving.make_compute_node(agents.COMPUTE_NODE)
        yield serving


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[clouds.Cloud]:
    conf = clouds.configuration(tmp_path, f"sqlite:///{tmp_path}/test.sqlite")
    with clouds.running(conf) as running:
        yield running


@pytest.fixture
def placed(tmp_path: pathlib.Path,
           placement: placement_fixture.Placement) -> Iterator[clouds.Cloud]:
    """Like `world`, with a real Placement."""
    conf = clouds.configuration(
        tmp_path, f"sqlite:///{tmp_path}/test.sqlite", placement=placement.url,
        more=f"[placement]\nauth_type = admin_token\nendpoint = {placement.url}\ntoken = admin")
    with clouds.running(conf) as running:
        yield running


def silent_for(world: clouds.Cloud, seconds: float) -> None:
    """The hosts have been silent for so long."""
    with world.conductor.database.writing() as connection:
        connection.execute(sa.update(models.hosts).values(
            last_seen=session.now() - datetime.timedelta(seconds=seconds)))


def bind(world: clouds.Cloud, provider: str, resources: str = "FPGA") -> messages.Arq:
    name = builders.new_uuid()
    world.client.create_device_profile(messages.DeviceProfile(
        uuid=builders.new_uuid(), name=name, groups=[{f"resources:{resources}": "1"}]))
    [request] = builders.bind_requests(world.client.create_arqs(name, "project1"),
                                       provider=provider)
    world.client.bind_arqs([request])
    return world.client.get_arq(request.arq_uuid, None)


def provider(world: clouds.Cloud, name: str) -> str:
    [found] = [each for each in world.client.list_deployables(messages.DeployableQuery())
               if each.name == name]
    return str(found.rp_uuid)


def addresses(world: clouds.Cloud) -> list[str]:
    return sorted(f"{row['hostname']} {row['address']}" for row in databases.all_rows(
        world.conductor.database, models.devices))


def handle_states(world: clouds.Cloud) -> list[str]:
    return [str(row["state"]) for row in databases.all_rows(
        world.conductor.database, models.attach_handles)]


# --- two machines and one host ----------------------------------------------------------------


def test_a_copy_of_a_machine_is_refused_and_the_first_goes_on(
        tmp_path: pathlib.Path, world: clouds.Cloud, caplog: pytest.LogCaptureFixture) -> None:
    first = agents.Machine(tmp_path / "first", world)
    first.rounds()
    copy = agents.Machine(tmp_path / "copy", world, boot_id="another boot", devices=5)

    copy.rounds(5)

    assert (first.is_accepted, copy.is_accepted) == (True, False)
    assert caplog.text.count("speaks for host node1") == 1
    assert addresses(world) == ["node1 FakeDevice"]
    rpc.AgentClient(world.bus, 30).prepare("node1", [])
    with pytest.raises(errors.Unavailable):
        copy.agent.endpoint.prepare([])


def test_a_copy_of_a_host_that_is_new_too_is_refused_at_its_report(
        tmp_path: pathlib.Path, world: clouds.Cloud) -> None:
    first = agents.Machine(tmp_path / "first", world)
    copy = agents.Machine(tmp_path / "copy", world, boot_id="another boot", devices=5)
    first.agent.claim.make()
    copy.agent.claim.make()

    first.rounds(2)
    copy.rounds(2)

    assert (first.is_accepted, copy.is_accepted) == (True, False)
    assert addresses(world) == ["node1 FakeDevice"]


def test_an_agent_that_starts_again_is_accepted_at_once(
        tmp_path: pathlib.Path, world: clouds.Cloud) -> None:
    machine = agents.Machine(tmp_path, world)
    machine.rounds()

    machine.started().run_once()

    assert machine.is_accepted


def test_a_machine_that_has_booted_again_is_accepted_once_its_last_beat_is_old(
        tmp_path: pathlib.Path, world: clouds.Cloud) -> None:
    """A boot takes longer, as a rule, than the silence that is needed."""
    machine = agents.Machine(tmp_path, world)
    machine.rounds()
    machine.boot("second boot")

    machine.started().run_once()
    at_once = machine.is_accepted
    silent_for(world, 46)
    machine.rounds(2)

    assert (at_once, machine.is_accepted) == (False, True)


def test_a_live_agent_that_beats_as_seldom_as_allowed_is_not_followed(
        tmp_path: pathlib.Path, world: clouds.Cloud) -> None:
    """Each quarter of service_down_time, and its last beat did not have to be written."""
    first = agents.Machine(tmp_path / "first", world)
    first.rounds()
    silent_for(world, 15 + 2 * 15 - 1)
    copy = agents.Machine(tmp_path / "copy", world, boot_id="another boot")

    copy.rounds()

    assert not copy.is_accepted


def test_a_machine_that_takes_a_dead_ones_place_has_its_name_and_keeps_it(
        tmp_path: pathlib.Path, world: clouds.Cloud) -> None:
    first = agents.Machine(tmp_path / "first", world)
    first.rounds()
    silent_for(world, 46)
    other = agents.Machine(tmp_path / "other", world, boot_id="another boot", devices=2)

    other.rounds(2)
    first.rounds(2)

    assert (first.is_accepted, other.is_accepted) == (False, True)
    assert len(addresses(world)) == 2


# --- other hardware, another name -------------------------------------------------------------


def test_a_host_without_a_card_that_a_server_holds_keeps_it_as_missing(
        tmp_path: pathlib.Path, placed: clouds.Cloud,
        placement: placement_fixture.Placement) -> None:
    machine = agents.Machine(tmp_path / "machine", placed, devices=3)
    machine.rounds()
    names = [address.partition(" ")[2] for address in addresses(placed)]
    rps = [provider(placed, f"node1_{name}") for name in names]
    arq = bind(placed, rps[2])
    in_order(placed)
    silent_for(placed, 3601)

    machine.with_devices(1)
    machine.rounds()
    in_order(placed)

    assert addresses(placed) == [f"node1 {names[0]}", f"node1 {names[2]}"]
    assert sorted(handle_states(placed)) == ["free", "free", "missing"]
    assert placed.client.get_arq(arq.uuid, None).state == states.BOUND
    assert [placement.provider(rp) is not None for rp in rps] == [True, False, True]
    assert placement.inventories(rps[2])["FPGA"]["total"] == 1
    [found] = placed.client.list_services(messages.ServiceQuery(binary="cyborg-lite-agent"))
    assert found.state == "up"

    placed.client.delete_arqs_of_instance(str(arq.instance_uuid))
    machine.rounds()
    in_order(placed)
    assert addresses(placed) == [f"node1 {names[0]}"]
    assert placement.provider(rps[2]) is None


def test_a_host_with_another_name_and_the_same_compute_node_clashes_with_nothing(
        tmp_path: pathlib.Path, placed: clouds.Cloud,
        placement: placement_fixture.Placement) -> None:
    machine = agents.Machine(tmp_path / "machine", placed)
    machine.rounds()
    old = provider(placed, "node1_FakeDevice")
    arq = bind(placed, old)
    in_order(placed)

    machine.settings = dataclasses.replace(machine.settings, host="node2")
    machine.started()
    machine.rounds()
    in_order(placed)
    new = provider(placed, "node2_FakeDevice")

    assert new != old
    assert placement.inventories(new)["FPGA"]["total"] == 2
    assert placement.inventories(old)["FPGA"]["total"] == 2
    assert placed.client.get_arq(arq.uuid, None).state == states.BOUND
    assert {each.host: each.id for each in placed.client.list_services(
        messages.ServiceQuery(binary="cyborg-lite-agent"))} == {
        host: heartbeats.service_uuid(host) for host in ("node1", "node2")}

    # what becomes of the rows of a host that is gone
    placed.client.delete_arqs_of_instance(str(arq.instance_uuid))
    forget(placed, "node1")
    mark_changed(placed, "node2")
    in_order(placed)
    assert placement.provider(old) is None
    assert placement.inventories(new)["FPGA"]["total"] == 2


def forget(world: clouds.Cloud, host: str) -> None:
    """No row tells of the host any more."""
    with world.conductor.database.writing() as connection:
        connection.execute(sa.delete(models.devices).where(models.devices.c.hostname == host))
        connection.execute(sa.delete(models.hosts).where(models.hosts.c.name == host))


def mark_changed(world: clouds.Cloud, host: str) -> None:
    with world.conductor.database.writing() as connection:
        connection.execute(sa.update(models.hosts).where(models.hosts.c.name == host).values(
            generation=models.hosts.c.generation + 1, sync_due_at=session.now()))


def in_order(world: clouds.Cloud) -> None:
    """Compare hosts with Placement until nothing is left to do."""
    deadline = session.now() + datetime.timedelta(seconds=30)
    while session.now() < deadline:
        world.conductor.placement_sync.run_once()
        if all(row["synced_generation"] == row["generation"] for row in databases.all_rows(
                world.conductor.database, models.hosts)):
            return
    raise AssertionError("Placement is not in order in time")


# --- what the host still has ------------------------------------------------------------------


class GpuMachine(agents.Machine):
    """A machine with a card on which mediated devices are made."""

    def __init__(self, folder: pathlib.Path, world: clouds.Cloud) -> None:
        self.kernel = vgpu_machines.Gpus(
            machines.tree(folder, vgpu_machines.on_card(GPU, 1)).root)
        super().__init__(folder, world)

    def started(self) -> service.Agent:
        self.settings = dataclasses.replace(
            self.settings, sysfs_root=self.kernel.root, enabled_drivers=("mdev_driver",),
            options={"mdev": {"enabled_types": ["T4-2B"]}})
        agent = super().started()
        agent.hardware = hardware.Hardware(
            self.settings.enabled_drivers, self.settings.options,
            hardware.Place(sysfs_root=self.kernel.root, state_path=self.settings.state_path),
            agents.CATALOGUE, host=self.kernel)
        return agent


@pytest.fixture
def gpus(tmp_path: pathlib.Path, world: clouds.Cloud) -> GpuMachine:
    machine = GpuMachine(tmp_path / "machine", world)
    machine.rounds()
    return machine


def bound_vgpu(world: clouds.Cloud) -> messages.Arq:
    arq = bind(world, provider(world, f"node1_{GPU}"), "VGPU")
    takeover.finish_binds(world.conductor.binder, 120)
    deadline = session.now() + datetime.timedelta(seconds=30)
    while world.client.get_arq(arq.uuid, None).state == states.BIND_STARTED:
        assert session.now() < deadline
    return world.client.get_arq(arq.uuid, None)


def test_a_host_that_was_gone_and_forgotten_comes_back_as_new_without_what_was_made_for_others(
        gpus: GpuMachine, world: clouds.Cloud) -> None:
    arq = bound_vgpu(world)
    made = gpus.kernel.mdevs()
    stranger = builders.new_uuid()
    gpus.kernel.create_mdev(GPU, "nvidia-227", stranger)
    before = provider(world, f"node1_{GPU}")
    gpus.agent.stop()
    world.client.delete_arqs_of_instance(str(arq.instance_uuid))
    forget(world, "node1")

    gpus.started()
    gpus.rounds(2)

    assert made == [arq.attach_handle_uuid]
    assert gpus.kernel.mdevs() == [stranger]
    assert provider(world, f"node1_{GPU}") == before
    assert set(handle_states(world)) == {"free"}
    bound_vgpu(world)


def test_what_was_deleted_while_the_host_was_gone_is_cleaned_when_it_is_back(
        gpus: GpuMachine, world: clouds.Cloud) -> None:
    kept, deleted = bound_vgpu(world), bound_vgpu(world)
    gpus.agent.stop()
    silent_for(world, 3601)
    world.client.delete_arqs_of_instance(str(deleted.instance_uuid))
    waiting = sorted(set(handle_states(world)))
    gpus.kernel.reboot()

    gpus.started()
    gpus.rounds(2)
    restored = gpus.kernel.mdevs()
    deadline = session.now() + datetime.timedelta(seconds=30)
    while "cleaning" in handle_states(world):
        takeover.clean_handles(world.conductor.binder)
        assert session.now() < deadline

    assert waiting == ["cleaning", "free", "in_use"]
    assert restored == [kept.attach_handle_uuid]
    assert sorted(set(handle_states(world))) == ["free", "in_use"]
    assert world.client.get_arq(kept.uuid, None).state == states.BOUND
