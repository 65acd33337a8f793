# SPDX-License-Identifier: Apache-2.0
"""A card is split by the real agent with the real driver: wish, servers, reboot, another wish.

Only the kernel, NVIDIA's library and Nova are played.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite import states
from cyborg_lite.agent import hardware
from cyborg_lite.agent import service
from cyborg_lite.agent import settings
from cyborg_lite.conductor import inventory_diff
from cyborg_lite.conductor import takeover
from cyborg_lite.db import models
from tests.drivers.nvidia_mig import lab
from tests.fixtures import builders
from tests.fixtures import nova as nova_fixture
from tests.fixtures import placement as placement_fixture
from tests.fixtures import split_worlds

DEVICE = inventory_diff.stable_uuid(builders.HOST, lab.CARD)
DRIVER = "nvidia_mig_driver"


def provider(vgpu_type: str) -> str:
    return inventory_diff.stable_uuid(builders.HOST, lab.CARD, f"{lab.CARD}_{vgpu_type}")


SMALL, LARGE = provider("A100-1-5C"), provider("A100-3-20C")


class Node:
    """The host's agent, without threads."""

    def __init__(self, there: lab.Lab, world: split_worlds.World) -> None:
        self.there, self.world = there, world
        self.now = 1000.0
        self.start()

    def start(self) -> None:
        wanted = settings.Settings(
            host=builders.HOST, resource_provider_name=builders.HOST,
            sysfs_root=self.there.root, enabled_drivers=(DRIVER,),
            state_path=str(self.there.folder / "state"), options=self.there.options)
        self.agent = service.Agent(
            lambda: wanted, self.world.client, clock=lambda: self.now)
        self.agent.hardware = hardware.Hardware(
            [DRIVER], self.there.options,
            hardware.Place(sysfs_root=self.there.root, state_path=wanted.state_path),
            host=self.there.kernel)
        self.world.bus.serve(rpc.AGENT_TOPIC, builders.HOST, self.agent.endpoint)
        self.run()

    def run(self) -> None:
        """Discover and beat."""
        self.now += 100
        self.agent.run_once()
        self.world.sync()

    def partitions(self) -> list[str]:
        return sorted(profile for profile, _ in self.there.partitions())

    def vgpus(self) -> list[str]:
        return sorted([*self.there.kernel.mdevs(), *self.there.kernel.types_set()])


@pytest.fixture
def host(nvml_library: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Callable[..., lab.Lab]]:
    """Start a host with such cards; this process sees its NVML."""
    with contextlib.ExitStack() as stack:
        def start(*cards: str, way: str) -> lab.Lab:
            made = lab.Lab(nvml_library, tmp_path, *cards, way=way)
            stack.enter_context(made.nvml.here())
            return made.boot()
        yield start


@pytest.fixture(params=["mdev", "vendor"])
def node(request: pytest.FixtureRequest, host: Callable[..., lab.Lab],
         tmp_path: pathlib.Path) -> Iterator[Node]:
    """A host with one card that is not split, in each of the two ways in turn."""
    with placement_fixture.serving(tmp_path) as placement, nova_fixture.serving() as nova:
        world = split_worlds.World(tmp_path, placement, nova.url)
        yield Node(host(lab.A100, way=request.param), world)
        world.close()


def split(node: Node, layout: str) -> None:
    node.world.client.set_partitioning(uuid=DEVICE, layout=layout, partitions=None, dry_run=False)
    node.world.sync()
    node.world.apply()
    node.run()


def state(node: Node) -> messages.Partitioning:
    return node.world.client.show_partitioning(uuid=DEVICE, every_layout=False)


def test_a_card_is_split_serves_survives_a_reboot_and_is_split_anew(node: Node) -> None:
    world = node.world
    unsplit = (state(node).state, world.offered())
    split(node, "9-19x3")
    first = (state(node).state, world.offered(), node.partitions())

    arq = world.bind(LARGE)
    made = node.vgpus()
    node.there.reboot()
    after_reboot = (node.partitions(), node.vgpus())
    node.start()
    restored = (state(node).state, node.partitions(), node.vgpus())

    with pytest.raises(errors.InUse):
        split(node, "9x2")
    world.client.delete_arqs_of_instance(str(arq.instance_uuid))
    takeover.clean_handles(world.conductors[0].binder)
    world.background.run()
    node.run()
    split(node, "9x2")

    assert unsplit == ("applied", {})
    assert first == ("applied", {LARGE: (1, 0), SMALL: (3, 0)}, [*["1g.5gb"] * 3, "3g.20gb"])
    assert (arq.state, len(made)) == (states.BOUND, 1)
    assert after_reboot == ([], [])
    assert restored == ("applied", first[2], made)
    assert state(node).state == "applied"
    assert world.offered() == {LARGE: (2, 0)}
    assert node.vgpus() == []


def test_a_split_that_fails_leaves_the_old_layout_and_gives_that_out(node: Node) -> None:
    split(node, "9-19x3")
    with node.there.nvml.failing("nvmlDeviceCreateGpuInstanceWithPlacement:1=999"):
        split(node, "9x2")

    found = state(node)
    assert (found.state, "creating a partition" in str(found.fault)) == ("failed", True)
    assert node.partitions() == [*["1g.5gb"] * 3, "3g.20gb"]
    assert node.world.offered() == {LARGE: (1, 0), SMALL: (3, 0)}
    arq = node.world.bind(LARGE)
    node.there.reboot()
    node.start()
    assert (state(node).state, node.partitions()) == ("failed", [*["1g.5gb"] * 3, "3g.20gb"])
    split(node, "9-19x3")
    node.run()
    assert (state(node).state, state(node).fault) == ("applied", None)
    node.world.client.delete_arqs_of_instance(str(arq.instance_uuid))
    takeover.clean_handles(node.world.conductors[0].binder)
    node.world.background.run()
    node.run()
    split(node, "9x2")
    assert (state(node).state, node.world.offered()) == ("applied", {LARGE: (2, 0)})


def test_a_failure_is_forgotten_when_the_layout_that_is_there_is_set(node: Node) -> None:
    split(node, "9-19x3")
    with node.there.nvml.failing("nvmlDeviceCreateGpuInstanceWithPlacement:1=999"):
        split(node, "9x2")

    split(node, "9-19x3")

    assert (state(node).state, state(node).fault) == ("applied", None)
    with node.world.database.writing() as connection:
        connection.execute(sa.update(models.hosts).values(digest=None))
    node.run()
    assert (state(node).state, state(node).fault) == ("applied", None)


def test_what_could_not_be_made_again_after_a_reboot_is_tried_again_under_servers(
        node: Node) -> None:
    world = node.world
    split(node, "9-19x3")
    world.bind(LARGE)
    made = node.vgpus()
    node.there.reboot()
    failing = ";".join(f"nvmlDeviceCreateGpuInstanceWithPlacement:{nth}=999"
                       for nth in range(1, 9))
    with node.there.nvml.failing(failing):
        node.start()
        world.apply()
        node.run()
    failed = (state(node).state, node.partitions(), node.vgpus())
    with pytest.raises(errors.InUse):
        split(node, "9x2")

    split(node, "9-19x3")
    node.run()

    assert failed == ("failed", [], [])
    assert (state(node).state, node.vgpus()) == ("applied", made)
    assert world.offered() == {LARGE: (1, 0), SMALL: (3, 0)}
