# SPDX-License-Identifier: Apache-2.0
"""Each kind of orphan is made on purpose: found, cleaned after its time, and never what lives."""

from __future__ import annotations

import datetime
import pathlib
import uuid
from collections.abc import Iterator
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite.conductor import inventory_diff
from cyborg_lite.db import models
from cyborg_lite.db import orphan_deletions
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import orphanage
from tests.fixtures import split_cards

GONE = "arq_instance_gone"
ELSEWHERE = "arq_instance_elsewhere"


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


@pytest.fixture
def each_cloud(tmp_path: pathlib.Path,
               database: session.Database) -> Iterator[orphanage.Orphanage]:
    """One on each of the three databases, with a host."""
    with orphanage.running(tmp_path, database) as found:
        found.add_host()
        found.sync()
        yield found


# --- what Nova forgets ------------------------------------------------------------------------


def test_an_arq_whose_instance_is_gone_is_freed_after_the_grace_period_and_not_before(
        each_cloud: orphanage.Orphanage) -> None:
    arq, = each_cloud.bind()
    each_cloud.placement.deallocate(str(arq.instance_uuid))
    living = each_cloud.boot()

    first = each_cloud.sweep()
    each_cloud.pass_grace(orphanage.GRACE_S - 60)
    early = each_cloud.sweep()
    before = each_cloud.arq_uuids()
    each_cloud.pass_grace(60)
    late = each_cloud.sweep()

    assert [sweep.counts.get(state, 0) for sweep, state in (
        (first, "seen"), (early, "seen"), (late, "cleaned"))] == [1, 1, 1]
    assert before == {arq.uuid, living.uuid}
    assert each_cloud.arq_uuids() == {living.uuid}
    record, = each_cloud.orphans()
    assert (record.kind, record.object, record.host, record.state) == (
        GONE, arq.uuid, builders.HOST, "cleaned")
    assert record.evidence["nova"].startswith("404")
    assert record.evidence["cleaned_by"].endswith(
        "of test")
    assert each_cloud.sweep().counts == {"checked": 2}


def test_an_instance_that_is_shown_again_leaves_no_record(
        one_host: orphanage.Orphanage) -> None:
    arq, = one_host.bind()
    one_host.sweep()
    one_host.nova.cloud.add(arq.instance_uuid)
    one_host.pass_grace()

    one_host.sweep()

    assert one_host.orphans() == []
    assert one_host.arq_uuids() == {arq.uuid}


def test_an_arq_that_was_never_bound_is_deleted_with_a_record(
        each_cloud: orphanage.Orphanage) -> None:
    old, = builders.new_arqs(each_cloud.database)
    with each_cloud.database.writing() as connection:
        connection.execute(sa.update(models.arqs).values(
            updated_at=session.now() - datetime.timedelta(days=2)))
    young, = builders.new_arqs(each_cloud.database)

    each_cloud.sweep()

    assert each_cloud.arq_uuids() == {young.uuid}
    record, = each_cloud.orphans()
    assert (record.kind, record.object, record.state) == ("arq_never_bound", old.uuid, "cleaned")


# --- what lives and looks like it does not ----------------------------------------------------


def test_an_instance_that_nova_has_keeps_its_arqs_whatever_its_status(
        one_host: orphanage.Orphanage) -> None:
    kept = set()
    for status in ("BUILD", "ERROR", "SOFT_DELETED", "SHELVED_OFFLOADED", "VERIFY_RESIZE",
                   "RESIZE", "MIGRATING", "REBUILD", "ACTIVE", "SHUTOFF"):
        arq, = one_host.bind()
        placed = status not in ("BUILD", "SHELVED_OFFLOADED")
        # one that is unshelved is on no host either
        task = "unshelving" if status == "SHELVED_OFFLOADED" else None
        one_host.nova.cloud.add(arq.instance_uuid, builders.HOST if placed else None,
                                status=status, task_state=task)
        kept.add(arq.uuid)
        if status not in ("BUILD", "ACTIVE", "SHUTOFF", "SOFT_DELETED"):
            moving, = one_host.bind()
            one_host.nova.cloud.add(moving.instance_uuid, "node2" if placed else None,
                                    status=status, task_state=task)
            kept.add(moving.uuid)

    for _ in range(3):
        one_host.sweep()
        one_host.pass_grace()

    assert one_host.orphans() == []
    assert one_host.arq_uuids() == kept


def _no_administrator(cloud: orphanage.Orphanage) -> None:
    cloud.nova.cloud.allows_all = False


def _another_region(cloud: orphanage.Orphanage) -> None:
    cloud.nova.cloud.servers.clear()
    cloud.nova.cloud.compute_hosts.remove(builders.HOST)


def _a_nova_without_hosts(cloud: orphanage.Orphanage) -> None:
    cloud.nova.cloud.servers.clear()
    cloud.nova.cloud.compute_hosts.clear()


def _another_region_while_the_host_is_down(cloud: orphanage.Orphanage) -> None:
    _another_region(cloud)
    cloud.silence(builders.HOST, 300)


def _a_cell_is_down(cloud: orphanage.Orphanage) -> None:
    cloud.nova.cloud.down_hosts.add(builders.HOST)


def _a_cell_is_down_and_its_servers_are_forgotten(cloud: orphanage.Orphanage) -> None:
    cloud.nova.cloud.down_hosts.add(builders.HOST)
    cloud.nova.cloud.servers.clear()


def _nova_fails(cloud: orphanage.Orphanage) -> None:
    cloud.nova.cloud.before = lambda address: 503


def _single_servers_are_hidden(cloud: orphanage.Orphanage) -> None:
    # as from a user who may list all projects and is no administrator
    cloud.nova.cloud.before = lambda address: (
        404 if "/servers/" in address and "detail" not in address else None)


def _servers_hide_their_hosts(cloud: orphanage.Orphanage) -> None:
    for server in cloud.nova.cloud.servers.values():
        server.host = server.node = "other"
        server.status = "UNKNOWN"


@pytest.mark.parametrize("trouble", [
    _no_administrator, _another_region, _a_nova_without_hosts,
    _another_region_while_the_host_is_down, _a_cell_is_down,
    _a_cell_is_down_and_its_servers_are_forgotten, _nova_fails, _single_servers_are_hidden,
    _servers_hide_their_hosts])
def test_nothing_is_gone_while_nova_can_not_say_so(
        one_host: orphanage.Orphanage, trouble: object) -> None:
    arq = one_host.boot()
    trouble(one_host)  # type: ignore[operator]

    for _ in range(3):
        one_host.sweep()
        one_host.pass_grace()

    assert one_host.orphans() == []
    assert one_host.arq_uuids() == {arq.uuid}


def test_nothing_is_judged_while_placement_does_not_answer(
        one_host: orphanage.Orphanage) -> None:
    one_host.placement.call(
        "DELETE", f"/resource_providers/{builders.rp_uuid()}")
    with one_host.placement.answering(503):
        sweep = one_host.sweep()

    assert sweep.state == "failed"
    assert "503" in str(sweep.fault)
    assert one_host.orphans() == []


@pytest.mark.parametrize("status", [200, 404])
def test_a_proxys_page_is_no_answer_of_placement(
        one_host: orphanage.Orphanage, status: int) -> None:
    with one_host.placement.answering(status):
        sweep = one_host.sweep()

    assert sweep.state == "failed"
    assert one_host.orphans() == []


# --- an instance that left --------------------------------------------------------------------


def test_an_arq_on_a_host_that_the_instance_left_is_freed(
        each_cloud: orphanage.Orphanage) -> None:
    arq = each_cloud.boot()
    server = each_cloud.nova.cloud.servers[str(arq.instance_uuid)]
    server.host = server.node = "node2"
    each_cloud.nova.cloud.migrate(server.uuid, "completed")

    each_cloud.sweep()
    each_cloud.pass_grace()
    each_cloud.sweep()

    assert each_cloud.arq_uuids() == set()
    record, = each_cloud.orphans()
    assert (record.kind, record.state) == (ELSEWHERE, "cleaned")
    assert "ACTIVE on node2" in record.evidence["nova"]


def test_what_a_shelved_server_left_on_its_host_is_freed(one_host: orphanage.Orphanage) -> None:
    arq = one_host.boot()
    server = one_host.nova.cloud.servers[str(arq.instance_uuid)]
    server.status, server.host, server.node = "SHELVED_OFFLOADED", None, None
    one_host.placement.deallocate(server.uuid)

    one_host.sweep()
    one_host.pass_grace()
    server.task_state = "unshelving"
    one_host.sweep()
    while_unshelving = one_host.states()
    server.task_state = None
    for _ in range(2):
        one_host.sweep()
        one_host.pass_grace()

    assert while_unshelving == {}
    assert one_host.states() == {arq.uuid: "cleaned"}
    assert one_host.arq_uuids() == set()
    assert one_host.orphans()[0].evidence["nova"] == "SHELVED_OFFLOADED on no host"


def test_an_instance_elsewhere_keeps_its_arqs_while_a_migration_is_open(
        one_host: orphanage.Orphanage) -> None:
    kept = set()
    for status in ("running", "finished", "post-migrating", "migrating", "accepted"):
        arq = one_host.boot()
        server = one_host.nova.cloud.servers[str(arq.instance_uuid)]
        server.host = server.node = "node2"
        one_host.nova.cloud.migrate(server.uuid, status)
        kept.add(arq.uuid)

    one_host.sweep()
    one_host.pass_grace()
    one_host.sweep()

    assert one_host.arq_uuids() == kept
    assert one_host.orphans() == []


def _migrated(cloud: orphanage.Orphanage, status: str) -> tuple[str, str, str]:
    """A server that was switched to node2; returns source ARQ, destination ARQ, migration."""
    cloud.add_host()
    cloud.add_host("node2")
    cloud.sync()
    source = cloud.boot()
    instance = str(source.instance_uuid)
    migration = cloud.nova.cloud.migrate(instance, status)
    destination, = cloud.bind(instance, "node2", migration=migration, allocates=False)
    cloud.conductor.endpoint.switch_migration(instance, migration, "destination")
    server = cloud.nova.cloud.servers[instance]
    server.host = server.node = "node2"
    return source.uuid, destination.uuid, migration


def test_the_inactive_set_of_a_migration_that_ended_is_freed(
        cloud: orphanage.Orphanage) -> None:
    _, destination, migration = _migrated(cloud, "confirmed")

    cloud.sweep()
    cloud.pass_grace()
    cloud.sweep()

    assert cloud.arq_uuids() == {destination}
    assert cloud.rows_of(models.migrations) == []
    assert cloud.orphans()[0].evidence["migration_uuid"] == migration


def test_the_inactive_set_stays_while_the_resize_waits_for_its_confirmation(
        cloud: orphanage.Orphanage) -> None:
    source, destination, _ = _migrated(cloud, "finished")
    cloud.nova.cloud.servers[next(iter(cloud.nova.cloud.servers))].status = "VERIFY_RESIZE"

    for _ in range(3):
        cloud.sweep()
        cloud.pass_grace()

    assert cloud.arq_uuids() == {source, destination}
    assert cloud.orphans() == []


def test_the_set_where_the_instance_is_stays_although_it_is_the_inactive_one(
        cloud: orphanage.Orphanage) -> None:
    source, destination, migration = _migrated(cloud, "completed")
    instance = next(iter(cloud.nova.cloud.servers))
    cloud.conductor.endpoint.switch_migration(instance, migration, "source")

    for _ in range(3):
        cloud.sweep()
        cloud.pass_grace()

    assert cloud.arq_uuids() == {source, destination}
    assert {record.state for record in cloud.orphans()} == {"kept"}


def test_a_migration_without_arqs_is_forgotten_when_it_is_over(
        one_host: orphanage.Orphanage) -> None:
    arq = one_host.boot()
    migration = one_host.nova.cloud.migrate(str(arq.instance_uuid), "confirmed")
    one_host.conductor.endpoint.begin_migration(arq.instance_uuid, migration, "cold")

    one_host.sweep()
    one_host.pass_grace()
    one_host.sweep()

    assert one_host.rows_of(models.migrations) == []
    assert one_host.arq_uuids() == {arq.uuid}


# --- handles ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cleans", [True, False])
def test_a_held_handle_without_an_arq_is_given_back(
        cloud: orphanage.Orphanage, cleans: bool) -> None:
    cloud.add_host(cleans=cleans)
    cloud.sync()
    living = cloud.boot()
    handles = models.attach_handles
    with cloud.database.writing() as connection:
        free = connection.scalars(sa.select(handles.c.id).where(handles.c.state == "free")).all()
        connection.execute(sa.update(handles).where(handles.c.id == free[0]).values(
            state="in_use", arq_uuid=None))
        connection.execute(sa.update(handles).where(handles.c.id == free[1]).values(
            state="reserved", arq_uuid=builders.new_uuid()))

    cloud.sweep()
    cloud.pass_grace()
    cloud.sweep()

    with cloud.database.reading() as connection:
        left = connection.execute(sa.select(handles.c.id, handles.c.state, handles.c.arq_uuid)
                                  .where(handles.c.state != "free")).all()
    assert living.uuid in {row.arq_uuid for row in left}
    assert len(left) == (3 if cleans else 1)
    assert {row.state for row in left if row.id in free[:2]} == ({"cleaning"} if cleans else set())


# --- Placement --------------------------------------------------------------------------------


def _stranger(cloud: orphanage.Orphanage, root: str, made: str | None = None) -> str:
    made = made or inventory_diff.stable_uuid(builders.new_uuid())
    cloud.placement.call("POST", "/resource_providers", {
        "name": f"stranger-{made}", "uuid": made, "parent_provider_uuid": root})
    cloud.placement.add_trait(made, "OWNER_CYBORG")
    cloud.placement.change_inventory(made, "FPGA", total=1)
    return made


def test_a_provider_of_ours_without_a_row_is_deleted_once_nobody_has_it(
        each_cloud: orphanage.Orphanage) -> None:
    free = _stranger(each_cloud, each_cloud.roots[builders.HOST])
    used = _stranger(each_cloud, each_cloud.roots[builders.HOST])
    consumer = each_cloud.placement.allocate(used, "FPGA")
    unknown = _stranger(each_cloud, each_cloud.placement.make_compute_node("of-another-cloud"))

    each_cloud.sweep()
    each_cloud.pass_grace()
    each_cloud.sweep()
    states = each_cloud.states()
    each_cloud.placement.deallocate(consumer)
    each_cloud.sweep()
    each_cloud.pass_grace()
    each_cloud.sweep()

    assert states == {free: "cleaned", used: "kept", unknown: "kept"}
    assert each_cloud.states() == {free: "cleaned", used: "cleaned", unknown: "kept"}
    assert each_cloud.placement.provider(free) is None
    assert each_cloud.placement.provider(used) is None
    assert each_cloud.placement.provider(unknown) is not None


def test_a_provider_that_the_sync_deletes_before_the_next_sweep_leaves_a_record(
        each_cloud: orphanage.Orphanage) -> None:
    """The host is compared with Placement as often as it is swept, and needs no second look."""
    stranger = _stranger(each_cloud, each_cloud.roots[builders.HOST])
    each_cloud.sweep()
    seen = each_cloud.states()

    orphan_deletions.compare_again(each_cloud.database, {builders.HOST})
    each_cloud.sync()
    each_cloud.pass_grace()
    each_cloud.sweep()

    assert each_cloud.placement.provider(stranger) is None
    assert seen == {stranger: "seen"}
    assert each_cloud.states() == {stranger: "cleaned"}
    assert each_cloud.orphans()[0].evidence["cleaned_by"] == (
        f"the comparison of {builders.HOST} with Placement")


@pytest.mark.parametrize("passed_s", [1, orphanage.GRACE_S + 1], ids=["seen", "confirmed"])
def test_a_provider_that_the_sync_deletes_during_a_sweep_leaves_one_record(
        each_cloud: orphanage.Orphanage, passed_s: float) -> None:
    stranger = _stranger(each_cloud, each_cloud.roots[builders.HOST])
    each_cloud.sweep()
    each_cloud.pass_grace(passed_s)

    def compare(verdicts: Sequence[object]) -> None:
        if verdicts:
            orphan_deletions.compare_again(each_cloud.database, {builders.HOST})
            each_cloud.sync()

    reconciler = each_cloud.conductor.reconciler
    reconciler.start(None, False, "test")
    while reconciler.work_once(told=compare):
        pass
    at_once = (each_cloud.states(), each_cloud.conductor.endpoint.last_sweep().state)
    each_cloud.sweep()

    assert at_once == ({stranger: "cleaned"}, "done")
    assert each_cloud.states() == {stranger: "cleaned"}
    assert len(each_cloud.orphans()) == 1


def test_a_provider_of_cyborg_on_our_host_is_shown_and_left_alone(
        one_host: orphanage.Orphanage) -> None:
    theirs = _stranger(one_host, one_host.roots[builders.HOST],
                       str(uuid.uuid3(uuid.NAMESPACE_DNS, "node1_FakeDevice")))

    for _ in range(3):
        one_host.sweep()
        one_host.pass_grace()

    assert one_host.placement.provider(theirs) is not None
    assert [(one.object, one.state) for one in one_host.orphans()] == [(theirs, "kept")]
    assert "another service made it" in one_host.orphans()[0].reason


def test_a_provider_that_placement_lost_is_made_again(
        one_host: orphanage.Orphanage) -> None:
    one_host.placement.call("DELETE", f"/resource_providers/{builders.rp_uuid()}")

    one_host.sweep()
    one_host.pass_grace()
    one_host.sweep()
    one_host.sync()

    assert one_host.placement.provider(builders.rp_uuid()) is not None
    assert [record.state for record in one_host.orphans()] == ["cleaned"]


@pytest.mark.parametrize("heals", [True, False])
def test_an_allocation_without_a_consumer_is_shown_and_deleted_only_on_request(
        tmp_path: pathlib.Path, sqlite: session.Database, heals: bool) -> None:
    with orphanage.running(tmp_path, sqlite, f"heal_allocations = {heals}\n") as cloud:
        cloud.add_host()
        cloud.sync()
        root = cloud.roots[builders.HOST]
        cloud.placement.change_inventory(root, "VCPU", total=8)
        living = cloud.boot()
        leaked = builders.new_uuid()
        cloud.placement.call("PUT", f"/allocations/{leaked}", {
            "allocations": {builders.rp_uuid(): {"resources": {"FPGA": 2}},
                            root: {"resources": {"VCPU": 1}}},
            "consumer_generation": None, "project_id": "p", "user_id": "u"})
        building = cloud.placement.allocate(builders.rp_uuid(), "FPGA")
        cloud.nova.cloud.add(building, None, status="BUILD")
        moving = cloud.placement.allocate(builders.rp_uuid(), "FPGA")
        cloud.nova.cloud.migrate(str(living.instance_uuid), "finished", moving)

        cloud.sweep()
        cloud.pass_grace()
        cloud.sweep()

        assert cloud.states() == {leaked: "cleaned" if heals else "kept"}
        consumers = set(cloud.placement.call(
            "GET", f"/resource_providers/{builders.rp_uuid()}/allocations")["allocations"])
        assert consumers == {living.instance_uuid, building, moving} | (
            set() if heals else {leaked})
        assert leaked in cloud.placement.call(
            "GET", f"/resource_providers/{root}/allocations")["allocations"]


# --- hosts ------------------------------------------------------------------------------------


def test_a_host_that_nova_forgot_is_dropped_with_all_it_had(
        cloud: orphanage.Orphanage) -> None:
    for name in ("node1", "node2"):
        cloud.add_host(name)
    cloud.sync()
    living = cloud.boot("node2")
    dead = cloud.boot()
    cloud.nova.cloud.servers.pop(str(dead.instance_uuid))
    cloud.placement.deallocate(str(dead.instance_uuid))
    cloud.nova.cloud.compute_hosts.remove("node1")
    cloud.silence("node1", 300)

    cloud.sweep()
    cloud.pass_grace()
    cloud.sweep()

    assert {row[1] for row in cloud.rows_of(models.hosts)} == {"node2"}
    assert cloud.arq_uuids() == {living.uuid}
    assert cloud.placement.provider(builders.rp_uuid()) is None
    cloud.placement.call("DELETE", f"/resource_providers/{cloud.roots['node1']}")
    assert {record.kind for record in cloud.orphans()} == {GONE, "host_gone"}


def test_a_host_whose_compute_service_was_deleted_is_dropped(
        cloud: orphanage.Orphanage) -> None:
    for name in ("node1", "node2"):
        cloud.add_host(name)
    cloud.sync()
    cloud.silence("node1", 300)
    cloud.nova.cloud.compute_hosts.remove("node1")
    # as Nova does it: the tree from its leaves on
    for provider in (builders.rp_uuid(), cloud.roots["node1"]):
        cloud.placement.call("DELETE", f"/resource_providers/{provider}")

    cloud.sweep()
    cloud.pass_grace()
    cloud.sweep()

    assert {row[1] for row in cloud.rows_of(models.hosts)} == {"node2"}
    record, = cloud.orphans()
    assert record.evidence["compute_service"] == "unknown to Nova"


def test_the_only_host_that_was_deleted_in_nova_leaves_nothing(
        one_host: orphanage.Orphanage) -> None:
    arq, = one_host.bind()
    one_host.placement.deallocate(str(arq.instance_uuid))
    one_host.silence(builders.HOST, 300)
    one_host.nova.cloud.compute_hosts.clear()
    for provider in (builders.rp_uuid(), one_host.roots[builders.HOST]):
        one_host.placement.call("DELETE", f"/resource_providers/{provider}")

    one_host.sweep()
    one_host.pass_grace()
    one_host.sweep()

    assert one_host.arq_uuids() == set()
    assert one_host.rows_of(models.hosts, models.devices, models.attach_handles) == []


def test_a_host_is_not_dropped_while_its_agent_lives(one_host: orphanage.Orphanage) -> None:
    one_host.nova.cloud.compute_hosts.remove(builders.HOST)

    for _ in range(3):
        one_host.sweep()
        one_host.pass_grace()

    assert one_host.orphans() == []
    assert len(one_host.rows_of(models.hosts)) == 1


def test_a_host_that_was_silent_too_long_stays_while_something_is_bound_there(
        one_host: orphanage.Orphanage) -> None:
    arq = one_host.boot()
    one_host.silence(builders.HOST, 4000)

    for _ in range(3):
        one_host.sweep()
        one_host.pass_grace()

    record, = one_host.orphans()
    assert (record.kind, record.state) == ("host_gone", "kept")
    assert arq.uuid in record.reason
    assert one_host.arq_uuids() == {arq.uuid}


@pytest.mark.parametrize(("table", "values"), [
    (models.devices, {"status": "maintaining"}), (models.hosts, {"status": "disabled"})])
def test_an_operators_wish_for_a_silent_host_is_not_lost(
        one_host: orphanage.Orphanage, table: sa.Table, values: dict[str, str]) -> None:
    with one_host.database.writing() as connection:
        connection.execute(sa.update(table).values(values))
    one_host.silence(builders.HOST, 4000)

    one_host.sweep()
    one_host.pass_grace()
    one_host.sweep()

    assert [record.state for record in one_host.orphans()] == ["kept"]
    assert len(one_host.rows_of(models.devices)) == 1


@pytest.mark.parametrize("nova_knows_it", [True, False])
def test_the_layout_that_was_set_for_a_silent_host_goes_when_nova_forgets_the_host(
        one_host: orphanage.Orphanage, nova_knows_it: bool) -> None:
    builders.store(one_host.database, split_cards.Agent([split_cards.Card()]).report())
    one_host.conductor.endpoint.set_partitioning(split_cards.uuid_of(), "9x2", None, False)
    one_host.sync()
    one_host.silence(builders.HOST, 4000)
    one_host.add_host("node2")
    if not nova_knows_it:
        one_host.nova.cloud.compute_hosts.remove(builders.HOST)

    one_host.sweep()
    one_host.pass_grace()
    one_host.sweep()

    record, = one_host.orphans(kind="host_gone")
    assert record.state == ("kept" if nova_knows_it else "cleaned")
    assert ("a layout was set for device 0000:41:00.0" in record.reason) == nova_knows_it
    assert len(one_host.rows_of(models.device_partitions)) == nova_knows_it


def test_a_host_with_allocations_stays(one_host: orphanage.Orphanage) -> None:
    one_host.placement.allocate(builders.rp_uuid(), "FPGA")
    one_host.silence(builders.HOST, 4000)

    one_host.sweep()
    one_host.pass_grace()
    one_host.sweep()

    host = next(record for record in one_host.orphans() if record.kind == "host_gone")
    assert host.state == "failed"
    assert "allocations" in host.reason
    assert one_host.placement.inventories(builders.rp_uuid())["FPGA"]["reserved"] == 0


# --- sweeps -----------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing_but_its_own_record(each_cloud: orphanage.Orphanage) -> None:
    each_cloud.bind()
    each_cloud.placement.call("DELETE", f"/allocations/{each_cloud.bind()[0].instance_uuid}")
    tables = [table for name, table in models.metadata.tables.items()
              if name not in ("sweeps", "conductors")]
    each_cloud.sweep()
    each_cloud.pass_grace()
    before = each_cloud.rows_of(*tables)

    with each_cloud.placement.counted() as requests:
        sweep = each_cloud.sweep(dry_run=True)

    assert each_cloud.rows_of(*tables) == before
    assert (sweep.dry_run, sweep.counts["confirmed"], sweep.counts[GONE]) == (True, 2, 2)
    assert {method for method, _ in requests} == {"GET"}


def test_only_a_confirmed_orphan_can_be_cleaned_by_hand(
        tmp_path: pathlib.Path, sqlite: session.Database) -> None:
    with orphanage.running(tmp_path, sqlite, "dry_run = True\n") as cloud:
        cloud.add_host()
        cloud.sync()
        first, = cloud.bind()
        second, = cloud.bind()
        cloud.sweep()
        record = next(one for one in cloud.orphans() if one.object == first.uuid)
        with pytest.raises(errors.StateConflict, match="is seen"):
            cloud.conductor.endpoint.clean_orphan(record.id)
        cloud.pass_grace()
        cloud.sweep()
        shown = cloud.states()

        cloud.conductor.endpoint.clean_orphan(record.id)
        while cloud.conductor.reconciler.work_once():
            pass

        assert shown == {first.uuid: "confirmed", second.uuid: "confirmed"}
        assert cloud.states() == {first.uuid: "cleaned", second.uuid: "confirmed"}
        assert cloud.arq_uuids() == {second.uuid}


def test_the_timer_looks_again_as_soon_as_the_grace_period_is_over(
        tmp_path: pathlib.Path, sqlite: session.Database) -> None:
    with orphanage.running(tmp_path, sqlite) as cloud:
        cloud.conf.set_override("interval", 6000, "reconcile")
        cloud.add_host()
        cloud.sync()
        arq, = cloud.bind()
        done = cloud.conductor.reconciler.run_once()
        idle = cloud.conductor.reconciler.run_once()
        before = cloud.arq_uuids()
        cloud.pass_grace()

        cloud.conductor.reconciler.run_once()

        assert (done, idle, before) == (2, 0, {arq.uuid})
        assert cloud.arq_uuids() == set()


def test_without_the_clock_a_sweep_on_request_works(
        tmp_path: pathlib.Path, sqlite: session.Database) -> None:
    with orphanage.running(tmp_path, sqlite, "enabled = False\n") as cloud:
        cloud.add_host()
        idle = cloud.conductor.reconciler.run_once()

        sweep = cloud.sweep(host=builders.HOST)

        assert idle == 0
        assert (sweep.state, sweep.host) == ("done", builders.HOST)
        with pytest.raises(errors.NotFound, match="'nowhere'"):
            cloud.sweep(host="nowhere")


def test_what_an_agent_removed_is_in_the_list(one_host: orphanage.Orphanage) -> None:
    handle = builders.new_uuid()

    one_host.conductor.endpoint.note_leftovers(builders.HOST, {handle: "mdev_driver"})

    record, = one_host.orphans()
    assert (record.kind, record.object, record.state) == ("mdev_without_arq", handle, "cleaned")
    assert record.evidence["cleaned_by"] == "the agent of node1"


def test_what_was_not_clean_when_its_host_was_dropped_is_cleaned_when_it_returns(
        cloud: orphanage.Orphanage) -> None:
    cloud.add_host(handles=2, cleans=True)
    cloud.sync()
    arq, = cloud.bind()
    cloud.conductor.endpoint.delete_arqs_of_instance(arq.instance_uuid)
    cloud.placement.deallocate(str(arq.instance_uuid))
    cloud.silence(builders.HOST, 4000)
    cloud.sweep()
    cloud.pass_grace()
    cloud.sweep()
    dropped = cloud.rows_of(models.attach_handles)

    cloud.report(handles=2, cleans=True)

    assert dropped == []
    with cloud.database.reading() as connection:
        assert set(connection.scalars(sa.select(models.attach_handles.c.state))) == {
            "free", "cleaning"}
