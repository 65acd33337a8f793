# SPDX-License-Identifier: Apache-2.0
"""What is gone, moved or was deleted behind our back, in rows or in a real Placement."""

from __future__ import annotations

import dataclasses
import uuid

import pytest

from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import placement as placement_fixture
from tests.fixtures import synced
from tests.fixtures.synced import World


@pytest.fixture
def world(sqlite: session.Database, placement: placement_fixture.Placement) -> World:
    return World(sqlite, placement)


def test_the_provider_of_a_device_that_is_gone_is_deleted(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(2)
    world.sync.run_once()

    world.report(1)
    world.sync.run_once()

    assert world.placement.provider(builders.rp_uuid("Fake1")) is None
    assert world.placement.provider(builders.rp_uuid("Fake0")) is not None


def test_a_gone_provider_with_allocations_is_reserved_and_deleted_once_they_are_gone(
        world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()
    consumer = world.placement.allocate(synced.RP, "FPGA")

    world.report(0)
    world.sync.run_once()
    reserved = world.placement.inventories(synced.RP)["FPGA"]
    soon_s = world.pause_s()
    world.placement.deallocate(consumer)
    world.clock.passed_s += soon_s + 1
    world.sync.run_once()

    assert reserved["reserved"] == reserved["total"] == 16
    assert soon_s <= 60
    assert world.placement.provider(synced.RP) is None


def test_providers_of_others_below_the_compute_node_stay(world: World) -> None:
    compute = world.placement.make_compute_node(builders.HOST)
    theirs = world.placement.call("POST", "/resource_providers", {
        "name": "numa0", "parent_provider_uuid": compute})["uuid"]
    world.report(1)
    world.sync.run_once()

    world.report(0)
    world.sync.run_once()

    assert world.placement.provider(theirs) is not None
    assert world.placement.provider(synced.RP) is None


def test_a_provider_of_cyborg_below_the_compute_node_stays_as_it_is(world: World) -> None:
    compute = world.placement.make_compute_node(builders.HOST)
    theirs = str(uuid.uuid3(uuid.NAMESPACE_DNS, "node1_FakeDevice"))
    world.placement.call("POST", "/resource_providers", {
        "name": "node1_FakeDevice", "uuid": theirs, "parent_provider_uuid": compute})
    world.placement.add_trait(theirs, "OWNER_CYBORG")
    world.placement.change_inventory(theirs, "FPGA", total=16)
    world.placement.allocate(theirs, "FPGA")
    before = world.placement.inventories(theirs)

    world.report(1)
    world.sync.run_once()

    assert world.placement.inventories(theirs) == before
    assert world.placement.provider(synced.RP) is not None


def test_two_hosts_below_one_compute_node_leave_each_other_alone(world: World) -> None:
    world.placement.make_compute_node("shared")
    for host in ("node1", "node2"):
        report = dataclasses.replace(builders.a_report(1, host), resource_provider_name="shared")
        builders.store(world.database, report)

    assert world.sync.run_once() == 2
    world.clock.passed_s += synced.INTERVAL_S + 1
    assert world.sync.run_once() == 2

    for host in ("node1", "node2"):
        assert world.placement.provider(builders.rp_uuid(host=host)) is not None


def test_a_provider_deleted_behind_our_back_is_made_again_within_a_period(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(2)
    world.sync.run_once()
    world.placement.call("DELETE", f"/resource_providers/{synced.RP}")

    world.clock.passed_s += synced.INTERVAL_S + 1
    world.sync.run_once()

    assert world.placement.inventories(synced.RP)["FPGA"]["total"] == 16
    assert world.placement.traits(synced.RP) == {"OWNER_CYBORG", "CUSTOM_FAKE_DEVICE"}


def test_traits_and_inventory_changed_behind_our_back_are_put_right_within_a_period(
        world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()
    world.placement.change_inventory(synced.RP, "FPGA", total=99, max_unit=99)
    generation = world.placement.provider(synced.RP)["generation"]  # type: ignore[index]
    world.placement.call("PUT", f"/resource_providers/{synced.RP}/traits", {
        "resource_provider_generation": generation, "traits": []})

    world.clock.passed_s += synced.INTERVAL_S + 1
    world.sync.run_once()

    assert world.placement.inventories(synced.RP)["FPGA"]["total"] == 16
    assert world.placement.traits(synced.RP) == {"OWNER_CYBORG", "CUSTOM_FAKE_DEVICE"}
