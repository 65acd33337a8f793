# SPDX-License-Identifier: Apache-2.0
"""Rows become resource providers in a real Placement, whatever happens on the way."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import datetime
import io
import logging
import pathlib
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from oslo_config import cfg
from oslo_context import context as oslo_context
from oslo_log import formatters
from oslo_log import log

from cyborg_lite.conductor import placement_sync
from cyborg_lite.db import devices
from cyborg_lite.db import leases
from cyborg_lite.db import models
from cyborg_lite.db import services
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases
from tests.fixtures import placement as placement_fixture

INTERVAL_S = 600
CONDUCTOR = "11111111-1111-1111-1111-111111111111"


@dataclasses.dataclass
class Settings:
    placement_sync_interval: int = INTERVAL_S
    placement_sync_concurrency: int = 8


class Clock:
    """Stands still until a test lets time pass; what is stored as of now is due for it."""

    def __init__(self) -> None:
        self._start = session.now() + datetime.timedelta(days=1)
        self.passed_s = 0.0

    def __call__(self) -> datetime.datetime:
        return self._start + datetime.timedelta(seconds=self.passed_s)


@pytest.fixture
def placement(tmp_path: pathlib.Path) -> Iterator[placement_fixture.Placement]:
    with placement_fixture.serving(tmp_path) as serving:
        yield serving


class World:
    """One conductor's sync between a database and a Placement."""

    def __init__(self, database: session.Database, placement: placement_fixture.Placement) -> None:
        self.database = database
        self.placement = placement
        self.clock = Clock()
        self.sync = self.another_sync(CONDUCTOR)

    def another_sync(self, conductor: str) -> placement_sync.PlacementSync:
        return placement_sync.PlacementSync(self.database, self.placement.client(), conductor,
                                            Settings(), self.clock)

    def report(self, devices: Any = 1, **more: Any) -> None:
        builders.store(self.database, builders.a_report(devices, **more))

    def disable(self, name: str = "Fake0", status: str = "maintaining") -> None:
        found = next(row for row in databases.all_rows(self.database, models.devices)
                     if row["address"] == name)
        devices.set_status(self.database, str(found["uuid"]), status)

    def set_handles(self, **counts: int) -> None:
        """Put handles into states, in the order given, and mark the host."""
        wanted = list(collections.Counter(counts).elements())
        with self.database.writing() as connection:
            ids = connection.scalars(sa.select(models.attach_handles.c.id)).all()
            assert len(ids) == len(wanted)
            for key, state in zip(ids, wanted, strict=True):
                connection.execute(sa.update(models.attach_handles).values(state=state)
                                   .where(models.attach_handles.c.id == key))
            services.mark_hosts_changed(connection, {builders.HOST})

    def host(self, name: str = builders.HOST) -> dict[str, Any]:
        return next(row for row in databases.all_rows(self.database, models.hosts)
                    if row["name"] == name)

    def is_dirty(self, name: str = builders.HOST) -> bool:
        row = self.host(name)
        return bool(row["synced_generation"] < row["generation"])

    def pause_s(self) -> float:
        """Seconds from now until the host is due."""
        due: datetime.datetime = self.host()["sync_due_at"]
        return (due - self.clock()).total_seconds()


@pytest.fixture
def world(sqlite: session.Database, placement: placement_fixture.Placement) -> World:
    return World(sqlite, placement)


RP = builders.rp_uuid()


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
    world.clock.passed_s += INTERVAL_S + 1

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
    world.placement.allocate(RP, "FPGA")
    world.clock.passed_s += INTERVAL_S + 1

    with world.placement.counted() as first:
        world.sync.run_once()
    world.clock.passed_s += INTERVAL_S + 1
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

    inventory = world.placement.inventories(RP)["FPGA"]
    assert (inventory["total"], inventory["reserved"], inventory["max_unit"]) == (5, 2, 5)


def test_a_provider_with_nothing_to_offer_has_no_inventory_until_it_has(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, handles=2)
    world.sync.run_once()

    world.set_handles(failed=2)
    world.sync.run_once()
    without = world.placement.inventories(RP)
    world.set_handles(free=2)
    world.sync.run_once()

    assert without == {}
    assert world.placement.inventories(RP)["FPGA"]["total"] == 2


def test_an_inventory_with_allocations_stays_reserved_when_nothing_is_offered(
        world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, handles=2)
    world.sync.run_once()
    world.placement.allocate(RP, "FPGA")

    world.set_handles(failed=2)
    world.sync.run_once()

    inventory = world.placement.inventories(RP)["FPGA"]
    assert (inventory["total"], inventory["reserved"]) == (2, 2)
    assert not world.is_dirty()


def test_another_resource_class_replaces_the_old_inventory(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, resource_class="FPGA")
    world.sync.run_once()

    world.report(1, resource_class="CUSTOM_SMARTNIC")
    world.sync.run_once()

    assert set(world.placement.inventories(RP)) == {"CUSTOM_SMARTNIC"}


def test_a_resource_class_and_a_trait_may_have_the_same_name(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, resource_class="CUSTOM_SMARTNIC", traits=["CUSTOM_SMARTNIC"])
    world.sync.run_once()

    assert set(world.placement.inventories(RP)) == {"CUSTOM_SMARTNIC"}
    assert "CUSTOM_SMARTNIC" in world.placement.traits(RP)


def test_what_others_put_on_our_provider_stays_and_our_old_traits_go(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, traits=("CUSTOM_OLD", "CUSTOM_BOTH"))
    world.sync.run_once()
    world.placement.add_trait(RP, "CUSTOM_OF_AN_OPERATOR")
    world.placement.change_inventory(RP, "CUSTOM_LICENSE", total=3)

    world.report(1, traits=("CUSTOM_NEW", "CUSTOM_BOTH"), handles=5)
    world.sync.run_once()

    assert world.placement.traits(RP) == {
        "OWNER_CYBORG", "CUSTOM_NEW", "CUSTOM_BOTH", "CUSTOM_OF_AN_OPERATOR"}
    inventories = world.placement.inventories(RP)
    assert inventories["FPGA"]["total"] == 5
    assert inventories["CUSTOM_LICENSE"]["total"] == 3


def test_a_trait_written_just_before_a_failure_is_still_known_as_ours(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, traits=("CUSTOM_SHORT_LIVED",))
    world.placement.before = lambda method, path: 500 if path.endswith("/inventories") else None
    world.sync.run_once()
    assert "CUSTOM_SHORT_LIVED" in world.placement.traits(RP)

    world.placement.before = lambda method, path: None
    world.report(1, traits=())
    world.sync.run_once()

    assert world.placement.traits(RP) == {"OWNER_CYBORG"}


def test_an_operators_trait_attribute_comes_and_goes(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()

    made = devices.create_attribute(world.database, 1, "trait_rack", "CUSTOM_RACK_7")
    world.sync.run_once()
    with_it = world.placement.traits(RP)
    devices.delete_attribute(world.database, made.uuid)
    world.sync.run_once()

    assert "CUSTOM_RACK_7" in with_it
    assert "CUSTOM_RACK_7" not in world.placement.traits(RP)


def test_a_trait_that_cannot_exist_is_left_out_and_named(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, traits=("CUSTOM_GOOD", "HW_NOBODY_KNOWS_IT", "custom bad"))

    assert world.sync.run_once() == 1

    assert world.placement.traits(RP) == {"OWNER_CYBORG", "CUSTOM_GOOD"}
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


# --- what is gone -----------------------------------------------------------------------------


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
    consumer = world.placement.allocate(RP, "FPGA")

    world.report(0)
    world.sync.run_once()
    reserved = world.placement.inventories(RP)["FPGA"]
    soon_s = world.pause_s()
    world.placement.deallocate(consumer)
    world.clock.passed_s += soon_s + 1
    world.sync.run_once()

    assert reserved["reserved"] == reserved["total"] == 16
    assert soon_s <= 60
    assert world.placement.provider(RP) is None


def test_providers_of_others_below_the_compute_node_stay(world: World) -> None:
    compute = world.placement.make_compute_node(builders.HOST)
    theirs = world.placement.call("POST", "/resource_providers", {
        "name": "numa0", "parent_provider_uuid": compute})["uuid"]
    world.report(1)
    world.sync.run_once()

    world.report(0)
    world.sync.run_once()

    assert world.placement.provider(theirs) is not None
    assert world.placement.provider(RP) is None


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
    assert world.placement.provider(RP) is not None


def test_two_hosts_below_one_compute_node_leave_each_other_alone(world: World) -> None:
    world.placement.make_compute_node("shared")
    for host in ("node1", "node2"):
        report = dataclasses.replace(builders.a_report(1, host), resource_provider_name="shared")
        builders.store(world.database, report)

    assert world.sync.run_once() == 2
    world.clock.passed_s += INTERVAL_S + 1
    assert world.sync.run_once() == 2

    for host in ("node1", "node2"):
        assert world.placement.provider(builders.rp_uuid(host=host)) is not None


def test_a_provider_deleted_behind_our_back_is_made_again_within_a_period(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(2)
    world.sync.run_once()
    world.placement.call("DELETE", f"/resource_providers/{RP}")

    world.clock.passed_s += INTERVAL_S + 1
    world.sync.run_once()

    assert world.placement.inventories(RP)["FPGA"]["total"] == 16
    assert world.placement.traits(RP) == {"OWNER_CYBORG", "CUSTOM_FAKE_DEVICE"}


def test_traits_and_inventory_changed_behind_our_back_are_put_right_within_a_period(
        world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()
    world.placement.change_inventory(RP, "FPGA", total=99, max_unit=99)
    generation = world.placement.provider(RP)["generation"]  # type: ignore[index]
    world.placement.call("PUT", f"/resource_providers/{RP}/traits", {
        "resource_provider_generation": generation, "traits": []})

    world.clock.passed_s += INTERVAL_S + 1
    world.sync.run_once()

    assert world.placement.inventories(RP)["FPGA"]["total"] == 16
    assert world.placement.traits(RP) == {"OWNER_CYBORG", "CUSTOM_FAKE_DEVICE"}


# --- others write at the same time ------------------------------------------------------------


@pytest.mark.parametrize("step", ["traits", "inventories"])
def test_a_generation_conflict_is_read_again_and_nothing_is_lost(world: World, step: str) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()
    todo = ["once"]

    def write_meanwhile(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(step) and todo:
            todo.clear()
            world.placement.add_trait(RP, "CUSTOM_MEANWHILE")

    world.placement.before = write_meanwhile
    world.report(1, traits=("CUSTOM_NEW",), handles=3)

    assert world.sync.run_once() == 1

    assert not todo
    assert world.placement.traits(RP) == {"OWNER_CYBORG", "CUSTOM_NEW", "CUSTOM_MEANWHILE"}
    assert world.placement.inventories(RP)["FPGA"]["total"] == 3


def test_what_is_written_between_our_two_readings_is_not_lost(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()
    world.placement.allocate(RP, "FPGA")
    todo = ["once"]

    def write_meanwhile(method: str, path: str) -> None:
        if method == "GET" and path.endswith("/traits") and todo:
            todo.clear()
            world.placement.change_inventory(RP, "CUSTOM_LICENSE", total=3)

    world.placement.before = write_meanwhile
    world.disable()

    assert world.sync.run_once() == 1

    assert not todo
    inventories = world.placement.inventories(RP)
    assert inventories["CUSTOM_LICENSE"]["total"] == 3
    assert inventories["FPGA"]["reserved"] == 16


def test_a_writer_that_never_rests_leaves_the_host_dirty_and_bounded(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()
    numbers = iter(range(100))

    def write_always(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("inventories"):
            world.placement.add_trait(RP, f"CUSTOM_NUMBER_{next(numbers)}")

    world.placement.before = write_always
    world.disable()

    assert world.sync.run_once() == 0

    assert world.is_dirty()
    world.placement.before = lambda method, path: None
    world.clock.passed_s += 61
    assert world.sync.run_once() == 1
    assert world.placement.inventories(RP)["FPGA"]["reserved"] == 16


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
    assert world.placement.inventories(RP)["FPGA"]["reserved"] == 16
    assert not world.is_dirty()


def test_a_provider_deleted_while_it_is_written_is_made_again(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    world.sync.run_once()
    todo = ["once"]

    def delete_meanwhile(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("inventories") and todo:
            todo.clear()
            world.placement.call("DELETE", f"/resource_providers/{RP}")

    world.placement.before = delete_meanwhile
    world.disable()

    assert world.sync.run_once() == 1

    assert world.placement.inventories(RP)["FPGA"]["reserved"] == 16


def test_a_name_that_another_provider_has_is_made_unique(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.placement.make_compute_node(f"{builders.HOST}_Fake0")
    world.report(1)

    assert world.sync.run_once() == 1
    world.clock.passed_s += INTERVAL_S + 1
    with world.placement.counted() as requests:
        assert world.sync.run_once() == 1

    provider = world.placement.provider(RP)
    assert provider is not None
    assert provider["name"] == f"{builders.HOST}_Fake0_{RP}"
    assert [method for method, _ in requests] == ["GET"]


# --- the compute node -------------------------------------------------------------------------


def test_a_compute_node_made_late_is_waited_for_and_said_once(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.report(1)
    pauses = []
    for _ in range(9):
        assert world.sync.run_once() == 0
        pauses.append(world.pause_s())
        world.clock.passed_s += pauses[-1] + 1
    waiting = [record for record in caplog.records if "compute node" in record.getMessage()]

    world.placement.make_compute_node(builders.HOST)
    assert world.sync.run_once() == 1

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert [record.levelno for record in waiting] == [logging.INFO]
    assert world.placement.provider(RP) is not None
    assert not world.is_dirty()
    assert world.pause_s() == INTERVAL_S


def test_no_compute_node_is_ever_made_by_us(world: World) -> None:
    world.report(1)

    world.sync.run_once()

    assert not [method for method, _ in world.placement.requests if method != "GET"]


@pytest.mark.parametrize(("resource_provider_name", "host", "made"), [
    ("gpu1.example.org", "gpu1", "gpu1.example.org"),
    ("gpu1.example.org", "gpu1", "gpu1"),
    ("gpu1.example.org", "gpu1.example.org", "gpu1"),
    ("localhost", "gpu_1", "gpu_1"),
])
def test_the_compute_node_is_found_by_host_name_or_full_name(
        world: World, resource_provider_name: str, host: str, made: str) -> None:
    compute = world.placement.make_compute_node(made)
    builders.store(world.database, dataclasses.replace(
        builders.a_report(1, host), resource_provider_name=resource_provider_name))

    assert world.sync.run_once() == 1

    provider = world.placement.provider(builders.rp_uuid(host=host))
    assert provider is not None
    assert provider["parent_provider_uuid"] == compute


def test_the_short_name_of_another_host_is_not_taken_for_ours(world: World) -> None:
    world.placement.make_compute_node("gpu1")
    for host in ("gpu1", "gpu1.other.example.org"):
        builders.store(world.database, builders.a_report(1, host))

    world.sync.run_once()

    assert world.placement.provider(builders.rp_uuid(host="gpu1")) is not None
    assert world.placement.provider(builders.rp_uuid(host="gpu1.other.example.org")) is None


def test_providers_move_to_the_compute_node_that_has_the_hosts_name_now(world: World) -> None:
    world.placement.make_compute_node("old-name")
    report = builders.a_report(2)
    builders.store(world.database,
                   dataclasses.replace(report, resource_provider_name="old-name"))
    world.sync.run_once()
    world.placement.allocate(RP, "FPGA")

    new = world.placement.make_compute_node("new-name")
    builders.store(world.database, dataclasses.replace(
        report, resource_provider_name="new-name", digest="another"))
    with world.database.writing() as connection:
        services.mark_hosts_changed(connection, {builders.HOST})
    assert world.sync.run_once() == 1

    for name in ("Fake0", "Fake1"):
        provider = world.placement.provider(builders.rp_uuid(name))
        assert provider is not None
        assert provider["parent_provider_uuid"] == new


# --- outages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["refused", 500, 503, 401])
def test_an_outage_leaves_hosts_dirty_and_is_survived(
        world: World, how: str | int, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("node1", "node2"):
        world.placement.make_compute_node(name)
        world.report(2, host=name)
    outage = (world.placement.refusing_connections() if how == "refused"
              else world.placement.answering(int(how)))

    with outage:
        for _ in range(3):
            assert world.sync.run_once() == 0
        said = [record for record in caplog.records if "Placement" in record.getMessage()]
        assert world.is_dirty("node1")
        assert world.is_dirty("node2")
    world.clock.passed_s += 61

    assert world.sync.run_once() == 2
    assert len(said) == 1
    assert not world.is_dirty("node1")
    assert not world.is_dirty("node2")
    for host in ("node1", "node2"):
        assert world.placement.provider(builders.rp_uuid("Fake1", host)) is not None


def test_the_log_says_once_what_the_trouble_is(world: World) -> None:
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf([])
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatters.ContextFormatter(config=conf))
    world.report(2)

    placement_sync.LOG.addHandler(handler)
    try:
        with world.placement.refusing_connections():
            world.sync.run_once()
    finally:
        placement_sync.LOG.removeHandler(handler)

    assert written.getvalue().count("Placement gave no answer") == 1


def test_an_outage_in_the_middle_is_gone_on_with_from_there(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(6)
    left = iter(range(9))
    world.placement.before = lambda method, path: (
        500 if method != "GET" and next(left, None) is None else None)

    assert world.sync.run_once() == 0
    world.placement.before = lambda method, path: None
    world.clock.passed_s += 61
    assert world.sync.run_once() == 1

    for number in range(6):
        rp = builders.rp_uuid(f"Fake{number}")
        assert world.placement.inventories(rp)["FPGA"]["total"] == 16
        assert world.placement.traits(rp) == {"OWNER_CYBORG", "CUSTOM_FAKE_DEVICE"}


def test_a_trait_deleted_from_placement_is_made_again(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1, traits=("CUSTOM_A",))
    world.sync.run_once()
    generation = world.placement.provider(RP)["generation"]  # type: ignore[index]
    world.placement.call("PUT", f"/resource_providers/{RP}/traits", {
        "resource_provider_generation": generation, "traits": ["OWNER_CYBORG"]})
    world.placement.call("DELETE", "/traits/CUSTOM_A")

    world.clock.passed_s += INTERVAL_S + 1
    world.sync.run_once()
    world.clock.passed_s += 61
    world.sync.run_once()

    assert world.placement.traits(RP) == {"OWNER_CYBORG", "CUSTOM_A"}


# --- several conductors -----------------------------------------------------------------------


def test_fifty_hosts_with_the_same_new_trait_at_once_come_right(
        server_database: session.Database, placement: placement_fixture.Placement) -> None:
    world = World(server_database, placement)
    hosts = [f"node{number}" for number in range(50)]
    for host in hosts:
        placement.make_compute_node(host)
        world.report(1, host=host, traits=("CUSTOM_BRAND_NEW",), handles=2,
                     resource_class="CUSTOM_BRAND_NEW_CLASS")
    syncs = [world.another_sync(f"conductor-{number}") for number in range(4)]

    with concurrent.futures.ThreadPoolExecutor(len(syncs)) as pool:
        done = [future.result() for future in [pool.submit(sync.run_once) for sync in syncs]]

    assert sum(done) == 50
    for host in hosts:
        assert not world.is_dirty(host)
        rp = builders.rp_uuid(host=host)
        assert placement.traits(rp) == {"OWNER_CYBORG", "CUSTOM_BRAND_NEW"}
        assert set(placement.inventories(rp)) == {"CUSTOM_BRAND_NEW_CLASS"}


def test_conductors_that_ask_at_once_never_get_the_same_host(
        server_database: session.Database) -> None:
    for number in range(24):
        builders.store(server_database, builders.a_report(1, f"node{number}"))
    start = threading.Barrier(4)
    moment = session.now()

    def take_all(conductor: str) -> list[str]:
        start.wait(timeout=20)
        owner = leases.Owner(conductor, moment + datetime.timedelta(seconds=60))
        taken = []
        while host := services.take_due_host(server_database, owner, moment):
            taken.append(host.name)
        return taken

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        taken = [name for names in pool.map(take_all, ["a", "b", "c", "d"]) for name in names]

    assert len(taken) == len(set(taken))
    # the sixteen that one looks at may all be taken by others at that moment: the rest is next
    rest = take_all_alone(server_database, moment)
    assert sorted([*taken, *rest]) == sorted(f"node{number}" for number in range(24))


def take_all_alone(database: session.Database, moment: datetime.datetime) -> list[str]:
    owner = leases.Owner("e", moment + datetime.timedelta(seconds=60))
    taken = []
    while host := services.take_due_host(database, owner, moment):
        taken.append(host.name)
    return taken


def test_a_host_of_a_dead_conductor_is_taken_over_when_its_lease_ends(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(1))
    moment = session.now()
    later = moment + datetime.timedelta(seconds=60)
    dead = leases.Owner("dead", later)
    alive = leases.Owner("alive", later + datetime.timedelta(seconds=60))
    host = services.take_due_host(database, dead, moment)
    assert host is not None

    early = services.take_due_host(database, alive, later - datetime.timedelta(seconds=1))
    late = services.take_due_host(database, alive, later + datetime.timedelta(seconds=1))

    assert early is None
    assert late == host
    assert not services.keep_host(database, host.id, dead)
    assert not services.store_synced(database, host, dead, {1: {}})
    services.finish_host(database, host, dead, moment=later, due_at=later, done=True)
    assert databases.all_rows(database, models.hosts)[0]["lease_owner"] == "alive"


def test_a_conductor_that_lost_its_lease_writes_no_records(world: World) -> None:
    world.placement.make_compute_node(builders.HOST)
    world.report(1)
    todo = ["once"]

    def lose_the_lease(method: str, path: str) -> None:
        if path.endswith("inventories") and todo:
            todo.clear()
            with world.database.writing() as connection:
                connection.execute(sa.update(models.hosts).values(
                    lease_owner="another", lease_until=session.now()))

    world.placement.before = lose_the_lease

    assert world.sync.run_once() == 1

    # the first try was lost, the host was still due and the lease had run out: taken anew
    assert not todo
    assert not world.is_dirty()
    assert world.placement.inventories(RP)["FPGA"]["total"] == 16
