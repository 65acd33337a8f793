# SPDX-License-Identifier: Apache-2.0
"""Several conductors bring hosts in order at one time, and each host belongs to one of them."""

from __future__ import annotations

import concurrent.futures
import datetime
import threading

import pytest
import sqlalchemy as sa

from cyborg_lite.db import leases
from cyborg_lite.db import models
from cyborg_lite.db import services
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases
from tests.fixtures import placement as placement_fixture
from tests.fixtures import synced
from tests.fixtures.synced import World


@pytest.fixture
def world(sqlite: session.Database, placement: placement_fixture.Placement) -> World:
    return World(sqlite, placement)


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
    assert world.placement.inventories(synced.RP)["FPGA"]["total"] == 16
