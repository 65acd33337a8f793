# SPDX-License-Identifier: Apache-2.0
"""What could have a sweep take something that lives for dead, or keep it from seeing the dead."""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from cyborg_lite import messages
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import leases
from cyborg_lite.db import models
from cyborg_lite.db import session
from cyborg_lite.db import sweeps
from tests.fixtures import builders
from tests.fixtures import orphanage


@pytest.fixture
def cloud(tmp_path: pathlib.Path,
          sqlite: session.Database) -> Iterator[orphanage.Orphanage]:
    with orphanage.running(tmp_path, sqlite) as found:
        yield found


@pytest.fixture
def one_host(cloud: orphanage.Orphanage) -> orphanage.Orphanage:
    cloud.add_host()
    cloud.sync()
    return cloud


def sweep_often(cloud: orphanage.Orphanage) -> None:
    for _ in range(3):
        cloud.sweep()
        cloud.pass_grace()


# --- what lives -------------------------------------------------------------------------------


def test_an_arq_that_another_instance_gets_while_nova_is_asked_is_its(
        one_host: orphanage.Orphanage) -> None:
    arq, = one_host.bind()
    one_host.sweep()
    one_host.pass_grace()
    living = one_host.nova.cloud.add(host=builders.HOST)

    def bind_anew(address: str) -> None:
        if f"uuid={arq.instance_uuid}" in address:
            arqs.unbind(one_host.database, [arq.uuid])
            binds.start(one_host.database, [messages.BindRequest(
                arq_uuid=arq.uuid, hostname=builders.HOST, instance_uuid=living.uuid,
                device_rp_uuid=builders.rp_uuid())], builders.an_owner(), None)

    one_host.nova.cloud.before = bind_anew
    one_host.sweep()
    one_host.nova.cloud.before = None
    after = [(record.state, record.reason) for record in one_host.orphans()]
    one_host.sweep()

    assert after == [("failed", "It was bound anew or deleted meanwhile.")]
    assert [(one.uuid, one.instance_uuid, one.state) for one in arqs.list_arqs(
        one_host.database, messages.ArqQuery())] == [(arq.uuid, living.uuid, "Bound")]
    assert one_host.orphans() == []


def test_nova_and_placement_of_another_region_know_nothing_of_a_host_that_is_down(
        cloud: orphanage.Orphanage) -> None:
    for name in ("node1", "node2"):
        cloud.add_host(name)
    cloud.sync()
    kept = {cloud.boot("node1").uuid, cloud.boot("node2").uuid}
    cloud.silence("node1", 300)
    for server in list(cloud.nova.cloud.servers):
        cloud.placement.deallocate(server)
    cloud.nova.cloud.servers.clear()
    cloud.nova.cloud.compute_hosts[:] = ["elsewhere"]
    for name in ("node1", "node2"):
        for provider in (builders.rp_uuid(host=name), cloud.roots[name]):
            cloud.placement.call("DELETE", f"/resource_providers/{provider}")

    sweep_often(cloud)

    assert cloud.arq_uuids() == kept
    assert {row[1] for row in cloud.rows_of(models.hosts)} == {"node1", "node2"}


def test_a_nova_with_one_host_of_our_names_says_nothing_of_a_host_that_is_down(
        cloud: orphanage.Orphanage) -> None:
    for name in ("node1", "node2", "node3", "node4"):
        cloud.add_host(name)
    cloud.sync()
    living = cloud.boot("node1")
    cloud.silence("node1", 300)
    cloud.nova.cloud.servers.clear()
    cloud.nova.cloud.compute_hosts[:] = ["node2", "elsewhere"]

    sweep_often(cloud)

    assert cloud.arq_uuids() == {living.uuid}


def test_an_evacuated_server_keeps_what_it_gets_before_nova_shows_it_there(
        cloud: orphanage.Orphanage) -> None:
    for name in ("node1", "node2"):
        cloud.add_host(name)
    cloud.sync()
    new = cloud.boot("node2")
    server = cloud.nova.cloud.servers[str(new.instance_uuid)]
    server.host = server.node = "node1"
    server.status, server.task_state = "REBUILD", "rebuilding"
    cloud.nova.cloud.migrate(server.uuid, "pre-migrating")

    sweep_often(cloud)

    assert cloud.arq_uuids() == {new.uuid}


def test_a_confirmed_orphan_that_lives_after_all_is_not_cleaned_on_request(
        tmp_path: pathlib.Path, sqlite: session.Database) -> None:
    with orphanage.running(tmp_path, sqlite, "dry_run = True\n") as cloud:
        cloud.add_host()
        cloud.sync()
        arq, = cloud.bind()
        sweep_often(cloud)
        record = next(one for one in cloud.orphans() if one.object == arq.uuid)
        cloud.nova.cloud.add(arq.instance_uuid, builders.HOST)

        cloud.conductor.endpoint.clean_orphan(record.id)
        while cloud.conductor.reconciler.work_once():
            pass

        assert record.state == "confirmed"
        assert cloud.arq_uuids() == {arq.uuid}
        assert arq.uuid not in cloud.states()


@pytest.mark.parametrize(("ours", "novas"), [
    ("node1.example.org", "node1"), ("node1", "node1.example.org"), ("Node1", "node1")])
def test_a_host_may_have_its_domain_or_not_in_nova(
        tmp_path: pathlib.Path, sqlite: session.Database, ours: str, novas: str) -> None:
    with orphanage.running(tmp_path, sqlite, "heal_allocations = True\n") as cloud:
        cloud.add_host(ours)
        cloud.sync()
        cloud.nova.cloud.compute_hosts[:] = [novas]
        arq = cloud.boot(ours)
        server = cloud.nova.cloud.servers[str(arq.instance_uuid)]
        server.host = server.node = novas
        resized = cloud.nova.cloud.add(host="node2", status="VERIFY_RESIZE")
        consumer = cloud.placement.allocate(builders.rp_uuid(host=ours), "FPGA")
        cloud.nova.cloud.migrate(resized.uuid, "finished", source=novas)
        cloud.nova.cloud.migrations[-1]["uuid"] = consumer

        sweep_often(cloud)

        assert cloud.orphans() == []
        assert cloud.arq_uuids() == {arq.uuid}


def test_servers_beyond_the_first_page_are_seen(one_host: orphanage.Orphanage) -> None:
    one_host.nova.cloud.page = 2
    kept = {one_host.boot().uuid for _ in range(7)}

    sweep_often(one_host)

    assert one_host.arq_uuids() == kept


def test_a_page_that_fails_is_no_end_of_the_list(one_host: orphanage.Orphanage) -> None:
    one_host.nova.cloud.page = 2
    kept = {one_host.boot().uuid for _ in range(5)}
    dead, = one_host.bind()
    one_host.nova.cloud.before = lambda address: 500 if "marker=" in address else None

    sweep_often(one_host)

    assert one_host.conductor.endpoint.last_sweep().state == "failed"
    assert one_host.arq_uuids() == {*kept, dead.uuid}


def test_an_older_database_of_ours_comes_back_and_harms_nothing(
        one_host: orphanage.Orphanage) -> None:
    """The rows of a device and of an ARQ are lost, Placement and Nova have theirs."""
    arq = one_host.boot()
    with one_host.database.writing() as connection:
        connection.execute(sa.delete(models.arqs))
        connection.execute(sa.update(models.attach_handles).values(arq_uuid=None, state="free"))
        connection.execute(sa.delete(models.devices))
    allocations = one_host.placement.call(
        "GET", f"/allocations/{arq.instance_uuid}")["allocations"]

    sweep_often(one_host)
    kept = [(record.kind, record.state) for record in one_host.orphans()]
    one_host.report()
    one_host.sync()
    one_host.sweep()

    assert kept == [("provider_without_deployable", "kept")]
    assert one_host.orphans() == []
    assert one_host.placement.call(
        "GET", f"/allocations/{arq.instance_uuid}")["allocations"].keys() == allocations.keys()


# --- what is dead -----------------------------------------------------------------------------


def test_a_server_that_nova_fails_to_show_keeps_no_other_orphan_alive(
        one_host: orphanage.Orphanage) -> None:
    dead, = one_host.bind(allocates=False)
    broken, = one_host.bind()
    one_host.nova.cloud.before = lambda address: (
        500 if str(broken.instance_uuid) in address else None)

    sweep_often(one_host)

    assert one_host.arq_uuids() == {broken.uuid}
    assert one_host.states() == {dead.uuid: "cleaned"}


def test_a_host_of_which_nova_fails_to_speak_keeps_no_orphan_of_others(
        cloud: orphanage.Orphanage) -> None:
    cloud.conf.set_override("batch_size", 1, "reconcile")
    for name in ("node1", "node2"):
        cloud.add_host(name)
    cloud.sync()
    broken, = cloud.bind(host="node1", allocates=False)
    dead, = cloud.bind(host="node2", allocates=False)
    cloud.nova.cloud.before = lambda address: 500 if "node1" in address else None

    sweep_often(cloud)

    assert cloud.arq_uuids() == {broken.uuid}
    assert cloud.states() == {dead.uuid: "cleaned"}
    sweep = cloud.conductor.endpoint.last_sweep()
    assert sweep.state == "failed"
    assert "Nova answered 500" in str(sweep.fault)


def test_a_conductor_that_died_with_its_clock_ahead_stops_no_sweep(
        one_host: orphanage.Orphanage) -> None:
    arq, = one_host.bind()
    sweeps.start(one_host.database, mode=sweeps.CLEAN, asked_by="test", moment=one_host.clock(),
                 owner=leases.Owner(builders.new_uuid(),
                                    one_host.clock() + datetime.timedelta(days=700)))

    for _ in range(2):
        assert one_host.sweep().state == "done"
        one_host.pass_grace()

    assert one_host.states()[arq.uuid] == "cleaned"


def test_a_clock_that_was_ahead_delays_no_orphan_once_it_is_right_again(
        one_host: orphanage.Orphanage) -> None:
    arq, = one_host.bind()
    ahead_s = datetime.timedelta(days=700).total_seconds()
    one_host.clock.passed_s += ahead_s
    one_host.pass_grace(0)
    one_host.conductor.reconciler.run_once()
    seen = one_host.states()
    one_host.clock.passed_s -= ahead_s
    one_host.pass_grace(0)

    one_host.conductor.reconciler.run_once()
    before = one_host.arq_uuids()
    one_host.pass_grace()
    one_host.conductor.reconciler.run_once()

    assert seen == {arq.uuid: "seen"}
    assert before == {arq.uuid}
    assert one_host.arq_uuids() == set()
