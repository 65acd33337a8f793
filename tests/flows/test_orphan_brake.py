# SPDX-License-Identifier: Apache-2.0
"""A Nova that is wrong about much: of another region with hosts of our names, or from a backup."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Iterator

import pytest

from cyborg_lite.conductor import orphan_brake
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import orphanage

HOSTS = ("node1", "node2")
FEW = "brake_above = 2\n"


@pytest.fixture
def cloud(tmp_path: pathlib.Path, sqlite: session.Database) -> Iterator[orphanage.Orphanage]:
    """One in which two orphans are few, and more are many where they are half of all."""
    with orphanage.running(tmp_path, sqlite, FEW) as found:
        for host in HOSTS:
            found.add_host(host)
        found.sync()
        yield found


def sweep_twice(cloud: orphanage.Orphanage) -> None:
    for _ in range(2):
        cloud.sweep()
        cloud.pass_grace()


# --- many at once -----------------------------------------------------------------------------


def test_sweeps_free_nothing_when_nova_lacks_most_of_what_runs(
        tmp_path: pathlib.Path, database: session.Database) -> None:
    with orphanage.running(tmp_path, database, FEW) as cloud:
        for host in HOSTS:
            cloud.add_host(host)
        cloud.sync()
        running = {cloud.boot(host).uuid for host in HOSTS * 3}
        cloud.nova.cloud.servers.clear()

        sweep_twice(cloud)
        third = cloud.sweep()

        assert cloud.arq_uuids() == running
        assert set(cloud.states().values()) == {"confirmed"}
        assert (third.state, third.counts["confirmed"]) == ("done", 6)
        assert "6 orphans of this kind at once, beside 6 accelerator requests on hosts, are more " \
               "than the 3" in cloud.orphans()[0].reason


def test_all_batches_of_a_sweep_count_together(cloud: orphanage.Orphanage) -> None:
    cloud.conf.set_override("batch_size", 1, "reconcile")
    running = {cloud.boot(host).uuid for host in HOSTS * 2}
    cloud.nova.cloud.servers.clear()

    sweep_twice(cloud)

    assert cloud.arq_uuids() == running


def test_whoever_holds_the_brake_says_once_a_sweep_what_to_do(
        cloud: orphanage.Orphanage, caplog: pytest.LogCaptureFixture) -> None:
    cloud.conf.set_override("batch_size", 1, "reconcile")
    for host in HOSTS * 2:
        cloud.boot(host)
    cloud.nova.cloud.servers.clear()

    sweep_twice(cloud)

    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1
    assert "orphan clean" in said[0]


def test_an_administrator_has_what_is_held_cleaned_one_by_one(
        cloud: orphanage.Orphanage) -> None:
    running = {cloud.boot().uuid for _ in range(4)}
    cloud.nova.cloud.servers.clear()
    sweep_twice(cloud)
    held = cloud.orphans()[0]

    cloud.conductor.endpoint.clean_orphan(held.id)
    while cloud.conductor.reconciler.work_once():
        pass

    assert cloud.arq_uuids() == running - {held.object}
    assert cloud.states()[held.object] == "cleaned"


def test_what_is_held_is_cleaned_by_the_next_sweep_once_the_limits_allow_it(
        cloud: orphanage.Orphanage) -> None:
    for _ in range(4):
        cloud.boot()
    cloud.nova.cloud.servers.clear()
    sweep_twice(cloud)

    cloud.conf.set_override("brake_above_percent", 100, "reconcile")
    cloud.sweep()

    assert cloud.arq_uuids() == set()


def test_what_is_held_leaves_no_record_when_nova_is_right_again(
        cloud: orphanage.Orphanage) -> None:
    running = {cloud.boot().uuid for _ in range(4)}
    servers = dict(cloud.nova.cloud.servers)
    cloud.nova.cloud.servers.clear()
    sweep_twice(cloud)

    cloud.nova.cloud.servers |= servers
    cloud.sweep()

    assert cloud.orphans() == []
    assert cloud.arq_uuids() == running


def test_few_are_cleaned_although_they_are_all(cloud: orphanage.Orphanage) -> None:
    for host in HOSTS:
        cloud.boot(host)
    cloud.nova.cloud.servers.clear()

    sweep_twice(cloud)

    assert cloud.arq_uuids() == set()


def test_many_are_cleaned_while_more_lives(cloud: orphanage.Orphanage) -> None:
    dead = [cloud.boot() for _ in range(4)]
    living = {cloud.boot("node2").uuid for _ in range(4)}
    for arq in dead:
        del cloud.nova.cloud.servers[str(arq.instance_uuid)]

    sweep_twice(cloud)

    assert cloud.arq_uuids() == living


def test_a_kind_that_is_held_holds_no_other_kind(cloud: orphanage.Orphanage) -> None:
    for _ in range(4):
        cloud.boot()
    cloud.nova.cloud.servers.clear()
    left = cloud.boot()
    server = cloud.nova.cloud.servers[str(left.instance_uuid)]
    server.host = server.node = "node2"

    sweep_twice(cloud)

    assert cloud.states()[left.uuid] == "cleaned"
    assert len(cloud.orphans(state="confirmed")) == 4


def test_allocations_are_left_alone_when_nova_lacks_the_consumers_of_most(
        tmp_path: pathlib.Path, sqlite: session.Database) -> None:
    with orphanage.running(tmp_path, sqlite, FEW + "heal_allocations = True\n") as cloud:
        cloud.add_host()
        cloud.sync()
        consumers = {cloud.placement.allocate(builders.rp_uuid(), "FPGA") for _ in range(3)}

        sweep_twice(cloud)

        assert cloud.states() == dict.fromkeys(consumers, "confirmed")
        assert all(cloud.placement.call("GET", f"/allocations/{one}")["allocations"]
                   for one in consumers)


class Limits:
    """The defaults."""

    brake_above = 100
    brake_above_percent = 50


@pytest.mark.parametrize(("orphans", "arqs", "held"), [
    (100, 100, False), (101, 101, True), (101, 202, False), (600, 1600, False), (801, 1600, True)])
def test_what_is_too_many(orphans: int, arqs: int, held: bool) -> None:
    assert bool(orphan_brake.too_many({"kind": orphans}, arqs, Limits())) == held


# --- the Nova of another cloud ----------------------------------------------------------------


def _of_another_region(cloud: orphanage.Orphanage) -> None:
    """Its hosts have the same names."""
    cloud.nova.cloud.servers.clear()
    cloud.nova.cloud.compute_nodes = {builders.new_uuid() for _ in HOSTS}


def test_a_nova_that_has_our_names_and_other_compute_nodes_is_not_believed(
        cloud: orphanage.Orphanage, caplog: pytest.LogCaptureFixture) -> None:
    arq = cloud.boot()
    _of_another_region(cloud)

    sweep_twice(cloud)
    sweep = cloud.sweep()

    assert cloud.arq_uuids() == {arq.uuid}
    assert cloud.orphans() == []
    assert sweep.state == "failed"
    assert cloud.roots["node1"] in str(sweep.fault)
    assert "region_name" in str(sweep.fault)
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 3


def test_what_such_a_nova_has_not_to_be_asked_about_is_done_nevertheless(
        cloud: orphanage.Orphanage) -> None:
    cloud.boot()
    _of_another_region(cloud)
    provider = builders.rp_uuid(host="node2")
    cloud.placement.call("DELETE", f"/resource_providers/{provider}")

    sweep_twice(cloud)
    cloud.sync()

    assert cloud.placement.provider(provider) is not None


def test_one_compute_node_that_both_have_is_enough(cloud: orphanage.Orphanage) -> None:
    arq = cloud.boot()
    cloud.nova.cloud.servers.clear()
    cloud.nova.cloud.compute_nodes = {cloud.roots["node2"]}

    sweep_twice(cloud)

    assert cloud.states()[arq.uuid] == "cleaned"


def test_a_placement_that_has_none_of_ours_makes_nova_doubted(
        cloud: orphanage.Orphanage) -> None:
    arq, = cloud.bind(allocates=False)
    for host in HOSTS:
        cloud.placement.call("DELETE", f"/resource_providers/{builders.rp_uuid(host=host)}")

    first = cloud.sweep()

    assert cloud.arq_uuids() == {arq.uuid}
    assert arq.uuid not in cloud.states()
    assert "Placement has no provider of any host of ours" in str(first.fault)


def test_such_a_nova_has_no_say_in_whether_a_host_is_gone(cloud: orphanage.Orphanage) -> None:
    arq = cloud.boot()
    _of_another_region(cloud)
    cloud.nova.cloud.compute_hosts.remove("node1")
    cloud.silence("node1", 300)

    sweep_twice(cloud)

    assert cloud.arq_uuids() == {arq.uuid}


def test_a_nova_that_answers_no_such_question_is_believed_by_the_names(
        cloud: orphanage.Orphanage) -> None:
    arq = cloud.boot()
    cloud.nova.cloud.servers.clear()
    cloud.nova.cloud.compute_nodes = None

    sweep_twice(cloud)

    assert cloud.states()[arq.uuid] == "cleaned"
