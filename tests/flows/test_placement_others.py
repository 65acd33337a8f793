# SPDX-License-Identifier: Apache-2.0
"""Others write in Placement while we do: nothing of theirs or ours is lost."""

from __future__ import annotations

import pytest

from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import placement as placement_fixture
from tests.fixtures import synced
from tests.fixtures.synced import World


@pytest.fixture
def world(sqlite: session.Database, placement: placement_fixture.Placement) -> World:
    return World(sqlite, placement)


@pytest.mark.parametrize("step", ["traits", "inventories"])
def test_a_generation_conflict_is_read_again_and_nothing_is_lost(world: World, step: str) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()
    todo = ["once"]

    def write_meanwhile(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(step) and todo:
            todo.clear()
            world.placement.add_trait(synced.RP, "CUSTOM_MEANWHILE")

    world.placement.before = write_meanwhile
    world.report(1, traits=("CUSTOM_NEW",), handles=3)

    assert world.sync.run_once() == 1

    assert not todo
    assert world.placement.traits(synced.RP) == {"OWNER_CYBORG", "CUSTOM_NEW", "CUSTOM_MEANWHILE"}
    assert world.placement.inventories(synced.RP)["FPGA"]["total"] == 3


def test_what_is_written_between_our_two_readings_is_not_lost(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()
    world.placement.allocate(synced.RP, "FPGA")
    todo = ["once"]

    def write_meanwhile(method: str, path: str) -> None:
        if method == "GET" and path.endswith("/traits") and todo:
            todo.clear()
            world.placement.change_inventory(synced.RP, "CUSTOM_LICENSE", total=3)

    world.placement.before = write_meanwhile
    world.disable()

    assert world.sync.run_once() == 1

    assert not todo
    inventories = world.placement.inventories(synced.RP)
    assert inventories["CUSTOM_LICENSE"]["total"] == 3
    assert inventories["FPGA"]["reserved"] == 16


def test_a_writer_that_never_rests_leaves_the_host_dirty_and_bounded(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()
    numbers = iter(range(100))

    def write_always(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("inventories"):
            world.placement.add_trait(synced.RP, f"CUSTOM_NUMBER_{next(numbers)}")

    world.placement.before = write_always
    world.disable()

    assert world.sync.run_once() == 0

    assert world.is_dirty()
    world.placement.before = lambda method, path: None
    world.clock.passed_s += 61
    assert world.sync.run_once() == 1
    assert world.placement.inventories(synced.RP)["FPGA"]["reserved"] == 16


def test_a_change_that_comes_during_a_sync_is_not_lost(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    todo = ["once"]

    def disable_meanwhile(method: str, path: str) -> None:
        if path.endswith("inventories") and todo:
            todo.clear()
            world.disable()

    world.placement.before = disable_meanwhile

    world.sync.run_once()

    assert not todo
    assert world.placement.inventories(synced.RP)["FPGA"]["reserved"] == 16
    assert not world.is_dirty()


def test_a_provider_deleted_while_it_is_written_is_made_again(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()
    todo = ["once"]

    def delete_meanwhile(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("inventories") and todo:
            todo.clear()
            world.placement.call("DELETE", f"/resource_providers/{synced.RP}")

    world.placement.before = delete_meanwhile
    world.disable()

    assert world.sync.run_once() == 1

    assert world.placement.inventories(synced.RP)["FPGA"]["reserved"] == 16


def test_a_name_that_another_provider_has_is_made_unique(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.placement.make_compute_node(f"{builders.HOST}_Fake0")
    world.report(1)

    assert world.sync.run_once() == 1
    world.clock.passed_s += synced.INTERVAL_S + 1
    with world.placement.counted() as requests:
        assert world.sync.run_once() == 1

    provider = world.placement.provider(synced.RP)
    assert provider is not None
    assert provider["name"] == f"{builders.HOST}_Fake0_{synced.RP}"
    assert [method for method, _ in requests] == ["GET"]
