# SPDX-License-Identifier: Apache-2.0
"""Sweeps of a large cloud: every orphan and nothing else, bounded questions, several conductors."""

from __future__ import annotations

import collections
import concurrent.futures
import datetime
import itertools
import json
import pathlib
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from cyborg_lite import states
from cyborg_lite.conductor import inventory_diff
from cyborg_lite.conductor import orphans
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases
from tests.fixtures import orphanage

T = models.arqs
H = models.attach_handles


@pytest.fixture
def cloud(tmp_path: pathlib.Path,
          sqlite: session.Database) -> Iterator[orphanage.Orphanage]:
    with orphanage.running(tmp_path, sqlite, "heal_allocations = True\n") as found:
        yield found


class Died(BaseException):
    """The process is gone at this very point."""


class Crowd:
    """Many hosts with handles, made in bulk: the rows that reports, binds and the sync make."""

    def __init__(self, cloud: orphanage.Orphanage, hosts: int, handles: int) -> None:
        self.cloud = cloud
        self.hosts = [f"gpu-{number:03}" for number in range(hosts)]
        self.free: dict[str, list[Any]] = {}
        profile = builders.a_profile(cloud.database, "crowd")
        with cloud.database.reading() as connection:
            self.profile_id = connection.scalar(sa.select(models.device_profiles.c.id).where(
                models.device_profiles.c.uuid == profile.uuid))
        moment = cloud.clock()
        rows: dict[sa.Table, list[dict[str, Any]]] = collections.defaultdict(list)
        for key, host in enumerate(self.hosts, 1):
            rows[models.hosts].append({
                "id": key, "name": host, "uuid": str(uuid.uuid4()), "resource_provider_name": host,
                "last_seen": moment, "generation": 1, "synced_generation": 1, "sync_attempts": 0,
                "sync_due_at": moment, "status": "enabled", "created_at": moment})
            rows[models.devices].append({
                "id": key, "uuid": str(uuid.uuid4()), "hostname": host, "address": "Fake0",
                "type": "FPGA", "vendor": "v", "model": "m", "driver": "fake_driver",
                "status": "enabled", "created_at": moment})
            rows[models.deployables].append({
                "id": key, "uuid": builders.rp_uuid(host=host), "device_id": key,
                "name": f"{host}_Fake0", "rp_uuid": builders.rp_uuid(host=host), "synced": "{}",
                "num_accelerators": handles, "prepares": False, "cleans": False,
                "created_at": moment})
            rows[models.attributes].append({
                "uuid": str(uuid.uuid4()), "deployable_id": key, "key": "rc", "value": "FPGA",
                "origin": "agent", "created_at": moment})
            self.free[host] = [{
                "id": key * 1000 + number, "uuid": str(uuid.uuid4()), "deployable_id": key,
                "type": "PCI", "info": json.dumps({"n": number}), "state": states.FREE,
                "arq_uuid": None, "created_at": moment} for number in range(handles)]
            rows[H] += self.free[host]
            self.free[host] = list(self.free[host])
        self.rows = rows
        self.numbers = itertools.count(1)

    def bind(self, host: str, instance: str | None = None, **values: Any) -> dict[str, Any]:
        """One ARQ, Bound, with a handle of the host."""
        handle = self.free[host].pop()
        row = {"id": next(self.numbers), "uuid": str(uuid.uuid4()), "project_id": "p",
               "state": states.BOUND, "device_profile_id": self.profile_id,
               "device_profile_name": "crowd", "device_profile_group_id": 0,
               "device_profile_group": "{}",
               "instance_uuid": instance or str(uuid.uuid4()), "migration_uuid": "",
               "set_position": 0, "hostname": host,
               "device_rp_uuid": builders.rp_uuid(host=host), "resumes": False,
               "created_at": self.cloud.clock(), "updated_at": self.cloud.clock(), **values}
        handle |= {"state": states.IN_USE, "arq_uuid": row["uuid"]}
        self.rows[T].append(row)
        return row

    def add_unbound(self, state: str, since: datetime.datetime) -> dict[str, Any]:
        """One that is bound to nothing."""
        host = self.hosts[-1]
        row = self.bind(host, None, instance_uuid=None, hostname=None, device_rp_uuid=None,
                        set_position=None, state=state, updated_at=since)
        handle = next(one for one in reversed(self.rows[H]) if one["arq_uuid"] == row["uuid"])
        handle |= {"state": states.FREE, "arq_uuid": None}
        self.free[host].append(handle)
        return row

    def boot(self, host: str, **more: Any) -> dict[str, Any]:
        """One with a server that lives on that host."""
        row = self.bind(host)
        self.cloud.nova.cloud.add(row["instance_uuid"], host, **more)
        return row

    def store(self) -> None:
        """Write the rows, and what Placement has of them."""
        with self.cloud.database.writing() as connection:
            for table in (models.hosts, models.devices, models.deployables, models.attributes, T,
                          H):
                if self.rows[table]:
                    connection.execute(sa.insert(table), self.rows[table])
        self.cloud.nova.cloud.compute_hosts += self.hosts
        for host in self.hosts:
            self.cloud.roots[host] = self.cloud.placement.make_compute_node(host)
            self.cloud.nova.cloud.has_compute_node(self.cloud.roots[host])
            # what is bound is left out on both sides
            self.make_provider(builders.rp_uuid(host=host), host, len(self.free[host]))

    def make_provider(self, rp_uuid: str, host: str, total: int) -> None:
        """One of ours below a compute node."""
        call = self.cloud.placement.call
        call("POST", "/resource_providers", {
            "name": f"{host}_{rp_uuid}", "uuid": rp_uuid,
            "parent_provider_uuid": self.cloud.roots[host]})
        call("PUT", f"/resource_providers/{rp_uuid}/traits", {
            "resource_provider_generation": 0, "traits": ["OWNER_CYBORG"]})
        if total:
            call("PUT", f"/resource_providers/{rp_uuid}/inventories", {
                "resource_provider_generation": 1, "inventories": {"FPGA": {"total": total}}})

    def allocate(self, host: str, rp_uuid: str | None = None) -> str:
        """Room that somebody has."""
        consumer = str(uuid.uuid4())
        self.cloud.placement.call("PUT", f"/allocations/{consumer}", {
            "allocations": {rp_uuid or builders.rp_uuid(host=host): {"resources": {"FPGA": 1}}},
            "consumer_generation": None, "project_id": "p", "user_id": "u"})
        return consumer


def make_arqs(crowd: Crowd, hosts: Iterator[str], orphans: dict[str, str],
              alive: set[str]) -> None:
    """ARQs of instances that are gone or elsewhere, and never bound ones; beside each, one that
    looks similar and lives."""
    nova = crowd.cloud.nova.cloud
    for number in range(600):
        orphans[crowd.bind(next(hosts))["uuid"]] = "arq_instance_gone"
        status = ("ACTIVE", "ERROR", "VERIFY_RESIZE")[number % 3]
        alive.add(crowd.boot(next(hosts), status=status)["uuid"])
    for number in range(150):
        left, moving = crowd.boot(next(hosts)), crowd.boot(next(hosts))
        orphans[left["uuid"]] = "arq_instance_elsewhere"
        alive.add(moving["uuid"])
        for one in (left, moving):
            server = nova.servers[one["instance_uuid"]]
            server.host = server.node = "cpu-001"
        nova.migrate(moving["instance_uuid"], "finished" if number % 2 else "running")
    long_ago = session.now() - datetime.timedelta(days=3)
    for _ in range(100):
        orphans[crowd.add_unbound(states.UNBOUND, long_ago)["uuid"]] = "arq_never_bound"
        alive.add(crowd.add_unbound(states.INITIAL, session.now())["uuid"])
    for number in range(100):
        loose = crowd.free[next(hosts)].pop()
        loose |= {"state": (states.IN_USE, states.RESERVED)[number % 2],
                  "arq_uuid": None if number % 4 else str(uuid.uuid4())}
        orphans[loose["uuid"]] = "handle_without_arq"
        alive.add(crowd.boot(next(hosts), status="SHUTOFF")["uuid"])


def make_hosts_and_providers(crowd: Crowd, dying: list[str], living: list[str],
                             orphans: dict[str, str]) -> None:
    """Hosts that Nova forgot, providers without a row, allocations that nobody has."""
    cloud = crowd.cloud
    for row in crowd.rows[models.hosts]:
        if row["name"] in dying:
            orphans[row["uuid"]] = "host_gone"
            cloud.nova.cloud.compute_hosts.remove(row["name"])
            cloud.silence(row["name"], 300)
    for host in living[:20]:
        stranger = inventory_diff.stable_uuid(str(uuid.uuid4()))
        crowd.make_provider(stranger, host, 0)
        orphans[stranger] = "provider_without_deployable"
        orphans[crowd.allocate(host)] = "allocation_without_consumer"
        cloud.nova.cloud.add(crowd.allocate(host), None, status="BUILD")


def test_a_thousand_orphans_are_found_among_a_thousand_that_live_and_nothing_else(
        cloud: orphanage.Orphanage) -> None:
    crowd = Crowd(cloud, hosts=200, handles=25)
    dying, living = crowd.hosts[:10], crowd.hosts[10:]
    orphans: dict[str, str] = {}
    alive: set[str] = set()
    make_arqs(crowd, itertools.cycle(living), orphans, alive)
    crowd.store()
    make_hosts_and_providers(crowd, dying, living, orphans)
    kept = _fingerprint(cloud, alive)

    first = cloud.sweep()
    cloud.pass_grace()
    second = cloud.sweep()
    third = cloud.sweep()

    assert (len(orphans), len(alive)) == (1000, 950)
    assert {one.object: one.kind for one in cloud.orphans(state="cleaned")} == orphans
    assert [first.counts[state] for state in ("seen", "cleaned")] == [900, 100]
    assert second.counts["cleaned"] == 900
    assert set(third.counts) == {"checked"}
    assert _fingerprint(cloud, alive) == kept
    assert len(cloud.orphans()) == 1000


def _fingerprint(cloud: orphanage.Orphanage, arqs: set[str]) -> set[Any]:
    with cloud.database.reading() as connection:
        rows = connection.execute(
            sa.select(T.c.uuid, T.c.state, T.c.hostname, H.c.uuid, H.c.state)
            .select_from(T.outerjoin(H, H.c.arq_uuid == T.c.uuid)))
        return {tuple(row) for row in rows if row[0] in arqs}


def test_a_healthy_cloud_costs_a_hundredth_of_its_handles_in_questions(
        cloud: orphanage.Orphanage) -> None:
    crowd = Crowd(cloud, hosts=100, handles=101)
    for host in crowd.hosts:
        for _ in range(100):
            crowd.boot(host)
    crowd.store()
    cloud.placement.requests.clear()
    statements = []

    with databases.counted(cloud.database) as seen:
        cloud.conductor.reconciler.start(None, False, "test")
        while True:
            before = len(seen)
            if not cloud.conductor.reconciler.work_once():
                break
            statements.append(len(seen) - before)

    sweep = cloud.conductor.endpoint.last_sweep()
    assert (sweep.state, sweep.counts) == ("done", {"checked": 10100})
    assert len(cloud.nova.cloud.asked) <= 100
    assert len(cloud.placement.requests) <= 100
    assert len(statements) == 101
    assert len(set(statements[:100])) == 1
    assert statements[0] <= 12


# --- several conductors -----------------------------------------------------------------------


def test_of_three_conductors_one_dies_and_no_host_is_swept_twice_at_once_or_forgotten(
        tmp_path: pathlib.Path, server_database: session.Database) -> None:
    with orphanage.running(tmp_path, server_database) as cloud:
        crowd = Crowd(cloud, hosts=30, handles=4)
        gone = {crowd.bind(host)["uuid"] for host in crowd.hosts}
        crowd.store()
        cloud.conf.set_override("batch_size", 2, "reconcile")
        conductors = [cloud.conductor, cloud.another_conductor(), cloud.another_conductor()]
        swept: list[tuple[str, ...]] = []
        cloud.conductor.reconciler.start(None, False, "test")

        def told(verdicts: Any) -> None:
            swept.append(tuple(sorted({one.finding.host for one in verdicts})))

        def die(verdicts: Any) -> None:
            died.extend({one.finding.host for one in verdicts})
            raise Died

        def work(conductor: Any) -> None:
            while conductor.reconciler.work_once(told):
                pass

        died: list[str] = []
        conductors[0].reconciler.work_once(told)
        with pytest.raises(Died):
            conductors[0].reconciler.work_once(die)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(work, conductors[1:]))
        before = cloud.conductor.endpoint.last_sweep()
        hosts_before = sorted(itertools.chain(*swept))
        cloud.pass_grace(orphans.LEASE_S + 1)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(work, conductors[1:]))
        after = cloud.conductor.endpoint.last_sweep()

        assert before.state == "running"
        assert hosts_before == sorted(set(crowd.hosts) - set(died))
        assert sorted(filter(None, itertools.chain(*swept))) == crowd.hosts
        assert (after.state, after.counts["seen"]) == ("done", 30)
        assert {one.object for one in cloud.orphans(state="seen")} == gone


def test_a_sweep_that_ended_between_deletion_and_account_is_accounted_for_by_the_next(
        cloud: orphanage.Orphanage) -> None:
    cloud.add_host()
    cloud.sync()
    arq, = cloud.bind()
    cloud.placement.deallocate(str(arq.instance_uuid))
    cloud.sweep()
    cloud.pass_grace()
    reconciler = cloud.conductor.reconciler
    reconciler.start(None, False, "test")
    engine = cloud.conductor.database.engine

    @sa.event.listens_for(engine, "before_cursor_execute")
    def die_at_the_account(connection: Any, cursor: Any, statement: str, parameters: Any,
                           *rest: Any) -> None:
        if statement.startswith("UPDATE orphans") and "cleaned" in str(parameters):
            raise Died

    with pytest.raises(Died):
        reconciler.work_once()
    sa.event.remove(engine, "before_cursor_execute", die_at_the_account)
    gone, state = cloud.arq_uuids(), cloud.states()
    cloud.pass_grace(orphanage.GRACE_S)
    while reconciler.work_once():
        pass

    assert (gone, state) == (set(), {arq.uuid: "confirmed"})
    assert cloud.states() == {arq.uuid: "cleaned"}


def test_a_bind_goes_on_while_a_sweep_waits_for_nova(
        tmp_path: pathlib.Path, server_database: session.Database) -> None:
    with orphanage.running(tmp_path, server_database) as cloud:
        cloud.add_host()
        cloud.sync()
        cloud.bind()
        asked, goes_on = threading.Event(), threading.Event()

        def hold(address: str) -> None:
            asked.set()
            assert goes_on.wait(20)

        cloud.nova.cloud.before = hold
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            sweep = pool.submit(cloud.sweep)
            assert asked.wait(20)
            with databases.counted(cloud.database) as beside:
                during = cloud.bind()
            goes_on.set()
            sweep.result()
        with databases.counted(cloud.database) as alone:
            after = cloud.bind()

        assert [one.state for one in (*during, *after)] == [states.BOUND, states.BOUND]
        assert len(beside) == len(alone)


def test_a_conductor_that_stops_leaves_its_batch_to_another(cloud: orphanage.Orphanage) -> None:
    cloud.add_host()
    cloud.sync()
    gone = {cloud.bind()[0].uuid for _ in range(3)}
    stopping, other = cloud.conductor.reconciler, cloud.another_conductor().reconciler
    stopping.start(None, False, "test")

    def stop(address: str) -> None:
        if "/servers/" in address and "detail" not in address:
            stopping.stop()

    cloud.nova.cloud.before = stop
    stopping.work_once()
    asked = len(cloud.nova.cloud.asked)
    cloud.nova.cloud.before = None
    cloud.pass_grace(orphans.LEASE_S + 1)
    while other.work_once():
        pass

    assert asked == 3
    assert {one.object for one in cloud.orphans(state="seen")} == gone
