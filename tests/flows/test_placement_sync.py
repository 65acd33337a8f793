# SPDX-License-Identifier: Apache-2.0
"""Rows become resource providers in a real Placement, and what changes in rows changes there."""

from __future__ import annotations

import collections
import logging
import threading

import pytest
from oslo_context import context as oslo_context

from cyborg_lite.conductor import placement_sync
from cyborg_lite.db import devices
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases
from tests.fixtures import placement as placement_fixture
from tests.fixtures import synced
from tests.fixtures.synced import World


@pytest.fixture
def world(sqlite: session.Database, placement: placement_fixture.Placement) -> World:
    return World(sqlite, placement)


# --- the ordinary way -------------------------------------------------------------------------


def test_each_deployable_becomes_a_provider_below_the_compute_node(world: World) -> None:
    compute = world.placement.make_compute_node(builders.HOST)
    world.report(2, handles=4)

    assert world.sync.run_once() == 1

    for name in ("Fake0", "Fake1"):
        rp = builders.rp_uuid(name)
        provider = world.placement.provider(rp)
        assert provider is not None
        assert provider["parent_provider_uuid"] == compute
        assert provider["name"] == f"{builders.HOST}_{name}"
        assert world.placement.traits(rp) == {"OWNER_CYBORG", "CUSTOM_FAKE_DEVICE"}
        assert world.placement.inventories(rp) == {"FPGA": {
            "total": 4, "reserved": 0, "min_unit": 1, "max_unit": 4, "step_size": 1,
            "allocation_ratio": 1.0}}
    assert not world.is_dirty()


def test_a_new_provider_costs_three_requests_and_a_host_a_constant_number(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    others = []
    for number in (2, 12):
        world.report(number)
        with world.placement.counted() as requests:
            world.sync.run_once()
        new = number if number == 2 else 10
        by_provider = collections.Counter(
            path.split("/")[2] for method, path in requests
            if method == "PUT" and path.startswith("/resource_providers/"))
        assert set(by_provider.values()) == {2}
        assert sum(method == "POST" for method, _ in requests) == new
        others.append(len(requests) - 3 * new)
    assert others[0] <= 5
    assert others[1] <= 1


def test_providers_are_written_at_the_same_time(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(4)
    together = threading.Barrier(4)

    def wait_for_the_others(method: str, path: str) -> None:
        if method == "POST":
            # breaks, and fails the request, unless four are under way
            together.wait(timeout=20)

    world.placement.before = wait_for_the_others

    assert world.sync.run_once() == 1


def test_an_unchanged_host_costs_no_request_and_one_statement(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(3)
    world.sync.run_once()

    with world.placement.counted() as requests, databases.counted(world.database) as statements:
        assert world.sync.run_once() == 0

    assert requests == []
    assert len(statements) == 1
    assert statements.writes == []


def test_a_comparison_that_finds_nothing_reads_once_and_writes_nothing(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(16)
    world.sync.run_once()
    world.clock.passed_s += synced.INTERVAL_S + 1

    with world.placement.counted() as requests:
        assert world.sync.run_once() == 1

    assert [method for method, _ in requests] == ["GET"]


def test_one_changed_deployable_of_many_costs_two_requests(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(64)
    world.sync.run_once()
    world.disable("Fake17")

    with world.placement.counted() as requests:
        assert world.sync.run_once() == 1

    assert requests == [
        ("GET", f"/resource_providers?in_tree={builders.rp_uuid('Fake0')}"),
        ("PUT", f"/resource_providers/{builders.rp_uuid('Fake17')}/inventories")]


def test_a_provider_that_got_an_allocation_is_read_again_and_not_written(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(3)
    world.sync.run_once()
    world.placement.allocate(synced.RP, "FPGA")
    world.clock.passed_s += synced.INTERVAL_S + 1

    with world.placement.counted() as first:
        world.sync.run_once()
    world.clock.passed_s += synced.INTERVAL_S + 1
    with world.placement.counted() as second:
        world.sync.run_once()

    assert [method for method, _ in first] == ["GET"] * 3
    assert [method for method, _ in second] == ["GET"]


def test_requests_of_a_host_carry_one_request_id_and_so_do_its_lines(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=placement_sync.__name__)
    shown: set[str] = set()
    for host in ("node1", "node2"):
        world.placement.make_compute_node(host)
        world.report(2, host=host)

    with caplog.filtering(lambda _: shown.add(oslo_context.get_current().request_id) is None):
        world.sync.run_once()

    assert len(shown) == 2
    assert shown == set(world.placement.request_ids)


# --- what changes -----------------------------------------------------------------------------


def test_disable_reserves_all_and_leaves_the_other_fields_and_enable_undoes_it(
        world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    card = builders.a_device("Card", deployables=[
        builders.a_deployable("one", 4), builders.a_deployable("two", 2)])
    world.report([card])
    world.sync.run_once()
    one, two = (builders.rp_uuid(name, device="Card") for name in ("one", "two"))
    world.placement.change_inventory(one, "FPGA", allocation_ratio=2.0, max_unit=1)
    before = world.placement.inventories(one)["FPGA"]

    world.disable("Card")
    world.sync.run_once()
    disabled = world.placement.inventories(one)["FPGA"]
    disabled_too = world.placement.inventories(two)["FPGA"]
    world.disable("Card", "enabled")
    world.sync.run_once()

    assert disabled == {**before, "reserved": 4}
    assert disabled_too["reserved"] == disabled_too["total"] == 2
    assert world.placement.inventories(one)["FPGA"] == before
    assert world.placement.inventories(two)["FPGA"]["reserved"] == 0


def test_failed_handles_are_not_offered_and_those_to_clean_are_reserved(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, handles=6)
    world.sync.run_once()

    world.set_handles(failed=1, cleaning=2, free=3)
    world.sync.run_once()

    inventory = world.placement.inventories(synced.RP)["FPGA"]
    assert (inventory["total"], inventory["reserved"], inventory["max_unit"]) == (5, 2, 5)


def test_a_provider_with_nothing_to_offer_has_no_inventory_until_it_has(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, handles=2)
    world.sync.run_once()

    world.set_handles(failed=2)
    world.sync.run_once()
    without = world.placement.inventories(synced.RP)
    world.set_handles(free=2)
    world.sync.run_once()

    assert without == {}
    assert world.placement.inventories(synced.RP)["FPGA"]["total"] == 2


def test_an_inventory_with_allocations_stays_reserved_when_nothing_is_offered(
        world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, handles=2)
    world.sync.run_once()
    world.placement.allocate(synced.RP, "FPGA")

    world.set_handles(failed=2)
    world.sync.run_once()

    inventory = world.placement.inventories(synced.RP)["FPGA"]
    assert (inventory["total"], inventory["reserved"]) == (2, 2)
    assert not world.is_dirty()


def test_another_resource_class_replaces_the_old_inventory(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, resource_class="FPGA")
    world.sync.run_once()

    world.report(1, resource_class="CUSTOM_SMARTNIC")
    world.sync.run_once()

    assert set(world.placement.inventories(synced.RP)) == {"CUSTOM_SMARTNIC"}


def test_a_resource_class_and_a_trait_may_have_the_same_name(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, resource_class="CUSTOM_SMARTNIC", traits=["CUSTOM_SMARTNIC"])
    world.sync.run_once()

    assert set(world.placement.inventories(synced.RP)) == {"CUSTOM_SMARTNIC"}
    assert "CUSTOM_SMARTNIC" in world.placement.traits(synced.RP)


def test_what_others_put_on_our_provider_stays_and_our_old_traits_go(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, traits=("CUSTOM_OLD", "CUSTOM_BOTH"))
    world.sync.run_once()
    world.placement.add_trait(synced.RP, "CUSTOM_OF_AN_OPERATOR")
    world.placement.change_inventory(synced.RP, "CUSTOM_LICENSE", total=3)

    world.report(1, traits=("CUSTOM_NEW", "CUSTOM_BOTH"), handles=5)
    world.sync.run_once()

    assert world.placement.traits(synced.RP) == {
        "OWNER_CYBORG", "CUSTOM_NEW", "CUSTOM_BOTH", "CUSTOM_OF_AN_OPERATOR"}
    inventories = world.placement.inventories(synced.RP)
    assert inventories["FPGA"]["total"] == 5
    assert inventories["CUSTOM_LICENSE"]["total"] == 3


def test_a_trait_written_just_before_a_failure_is_still_known_as_ours(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, traits=("CUSTOM_SHORT_LIVED",))
    world.placement.before = lambda method, path: 500 if path.endswith("/inventories") else None
    world.sync.run_once()
    assert "CUSTOM_SHORT_LIVED" in world.placement.traits(synced.RP)

    world.placement.before = lambda method, path: None
    world.report(1, traits=())
    world.sync.run_once()

    assert world.placement.traits(synced.RP) == {"OWNER_CYBORG"}


def test_an_operators_trait_attribute_comes_and_goes(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()

    made = devices.create_attribute(world.database, 1, "trait_rack", "CUSTOM_RACK_7")
    world.sync.run_once()
    with_it = world.placement.traits(synced.RP)
    devices.delete_attribute(world.database, made.uuid)
    world.sync.run_once()

    assert "CUSTOM_RACK_7" in with_it
    assert "CUSTOM_RACK_7" not in world.placement.traits(synced.RP)


def test_a_trait_that_cannot_exist_is_left_out_and_named(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, traits=("CUSTOM_GOOD", "HW_NOBODY_KNOWS_IT", "custom bad"))

    assert world.sync.run_once() == 1

    assert world.placement.traits(synced.RP) == {"OWNER_CYBORG", "CUSTOM_GOOD"}
    assert "HW_NOBODY_KNOWS_IT" in caplog.text
    assert "custom bad" in caplog.text


def test_a_class_that_placement_refuses_costs_its_own_provider_only(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report([
        builders.a_device("Bad", deployables=[
            builders.a_deployable("Bad", resource_class="NO_SUCH_CLASS")]),
        builders.a_device("Good")])

    assert world.sync.run_once() == 0

    good = builders.rp_uuid("Good")
    assert set(world.placement.inventories(good)) == {"FPGA"}
    assert world.is_dirty()
