# SPDX-License-Identifier: Apache-2.0
"""Placement that has no compute node yet, or is away: hosts wait, and come right later."""

from __future__ import annotations

import dataclasses
import io
import logging

import pytest
from oslo_config import cfg
from oslo_log import formatters
from oslo_log import log

from cyborg_lite.conductor import placement_sync
from cyborg_lite.db import services
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import placement as placement_fixture
from tests.fixtures import synced
from tests.fixtures.synced import World


@pytest.fixture
def world(sqlite: session.Database, placement: placement_fixture.Placement) -> World:
    return World(sqlite, placement)


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
    assert world.placement.provider(synced.RP) is not None
    assert not world.is_dirty()
    assert world.pause_s() == synced.INTERVAL_S


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
    world.placement.allocate(synced.RP, "FPGA")

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
    generation = world.placement.provider(synced.RP)["generation"]  # type: ignore[index]
    world.placement.call("PUT", f"/resource_providers/{synced.RP}/traits", {
        "resource_provider_generation": generation, "traits": ["OWNER_CYBORG"]})
    world.placement.call("DELETE", "/traits/CUSTOM_A")

    world.clock.passed_s += synced.INTERVAL_S + 1
    world.sync.run_once()
    world.clock.passed_s += 61
    world.sync.run_once()

    assert world.placement.traits(synced.RP) == {"OWNER_CYBORG", "CUSTOM_A"}
