# SPDX-License-Identifier: Apache-2.0
"""What a driver made and nobody has goes after two looks, and the conductor hears of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import pytest

from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.agent import leftovers
from cyborg_lite.drivers import base


class Conductor:
    """Knows what should exist, and hears what was removed."""

    def __init__(self) -> None:
        self.intent = messages.HostIntent()
        self.heard: list[dict[str, str]] = []
        self.is_away = False

    @buses.exposed
    def host_intent(self, host: str) -> messages.HostIntent:
        if self.is_away:
            raise errors.Unavailable("away")
        return self.intent

    @buses.exposed
    def note_leftovers(self, host: str, leftovers: dict[str, str]) -> None:
        if self.is_away:
            raise errors.Unavailable("away")
        self.heard.append(leftovers)


class Keeper(base.RestoresHandles):
    """Has made something for these handles."""

    def __init__(self, *handles: str) -> None:
        self.handles = set(handles)

    def prepare(self, task: messages.HandleTask) -> None:
        raise NotImplementedError

    clean = prepare

    def made(self) -> Collection[str]:
        return sorted(self.handles)

    def remove_unneeded(self, handles: Collection[str]) -> None:
        self.handles -= set(handles)


@dataclasses.dataclass
class World:
    conductor: Conductor
    keeper: Keeper
    found: leftovers.Leftovers
    passed_s: list[float]

    def look(self, after_s: float = leftovers.EVERY_S) -> set[str]:
        self.passed_s[0] += after_s
        self.found.look({"mdev_driver": self.keeper})
        return self.keeper.handles


@pytest.fixture
def world() -> World:
    conductor, bus, passed_s = Conductor(), buses.LocalBus(), [0.0]
    bus.serve(rpc.CONDUCTOR_TOPIC, "controller", conductor)
    found = leftovers.Leftovers("node1", rpc.ConductorClient(bus, 10), lambda: passed_s[0])
    return World(conductor, Keeper("held", "waiting", "left"), found, passed_s)


def task(handle: str) -> messages.HandleTask:
    return messages.HandleTask(handle_uuid=handle, deployable_name="d", device_address="a",
                               driver="mdev_driver", type="MDEV", info={})


def test_what_nobody_has_in_two_looks_is_removed_and_told(world: World) -> None:
    world.conductor.intent = messages.HostIntent(prepare=[task("held")], clean=[task("waiting")])

    seen = set(world.look())
    early = set(world.look(leftovers.EVERY_S - 1))
    late = set(world.look(1))

    assert seen == early == {"held", "waiting", "left"}
    assert late == {"held", "waiting"}
    assert world.conductor.heard == [{"left": "mdev_driver"}]


def test_what_is_held_at_the_second_look_stays(world: World) -> None:
    world.look()
    world.conductor.intent = messages.HostIntent(
        prepare=[task(handle) for handle in ("held", "waiting", "left")])

    assert world.look() == {"held", "waiting", "left"}


def test_nothing_is_removed_while_the_conductor_does_not_answer(world: World) -> None:
    world.look()
    world.conductor.is_away = True

    with pytest.raises(errors.Unavailable):
        world.look()

    assert world.keeper.handles == {"held", "waiting", "left"}


def test_a_conductor_that_did_not_hear_is_told_later(world: World) -> None:
    world.conductor.is_away = True
    world.found.removed("mdev_driver", {"left"})
    world.conductor.is_away = False
    world.keeper.handles.clear()

    world.look()

    assert world.conductor.heard == [{"left": "mdev_driver"}]
