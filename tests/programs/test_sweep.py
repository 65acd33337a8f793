# SPDX-License-Identifier: Apache-2.0
"""cyborg-lite-manage sweep: what it prints, what it does, how it ends."""

from __future__ import annotations

import datetime
import pathlib
import subprocess
from collections.abc import Callable
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import orphanage
from tests.fixtures import processes

Sweep = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cloud(tmp_path: pathlib.Path,
          sqlite: session.Database) -> Iterator[orphanage.Orphanage]:
    with orphanage.running(tmp_path, sqlite) as found:
        found.conf.set_override("grace_period", 0, "reconcile")
        path = tmp_path / "cyborg-lite.conf"
        path.write_text(path.read_text().replace("grace_period = 600", "grace_period = 0"))
        found.add_host()
        found.sync()
        yield found


def printed(done: subprocess.CompletedProcess[str]) -> tuple[int, list[str]]:
    """The exit status and what is not log."""
    return done.returncode, [line for line in done.stdout.splitlines()
                             if not line.startswith("20")]


@pytest.fixture
def sweep(tmp_path: pathlib.Path) -> Sweep:
    """Run the command."""
    return lambda *arguments: processes.run(
        [processes.console_script("cyborg-lite-manage"),
         f"--config-file={tmp_path}/cyborg-lite.conf", "sweep", *arguments], within_s=60)


def test_a_sweep_prints_what_it_finds_and_cleans_it_the_second_time(
        cloud: orphanage.Orphanage, sweep: Sweep) -> None:
    arq, = cloud.bind()
    cloud.placement.deallocate(str(arq.instance_uuid))
    line = (f"arq_instance_gone {arq.uuid} host=node1: "
            f"Nova knows no instance {arq.instance_uuid}.")

    shown = sweep("--dry-run", "--host", builders.HOST)
    seen = sweep()
    cleaned = sweep()
    nothing = sweep()

    counts = "arq_instance_gone 1, checked 2, {} 1"
    assert printed(shown) == (3, [f"seen {line}", counts.format("seen")])
    assert printed(seen) == (3, [f"seen {line}", counts.format("seen")])
    assert printed(cleaned) == (0, [f"confirmed {line}", counts.format("cleaned")])
    assert printed(nothing) == (0, ["checked 1"])
    assert cloud.arq_uuids() == set()
    assert "with cyborg-lite-manage" in cloud.orphans()[0].evidence["cleaned_by"]


def test_what_a_sweep_asks_carries_the_request_id_of_its_lines(
        cloud: orphanage.Orphanage, sweep: Sweep) -> None:
    before = len(cloud.placement.request_ids)

    done = sweep()

    [asked] = set(cloud.placement.request_ids[before:]) - {None}
    assert f"[None {asked} " in done.stdout + done.stderr


def test_a_dry_run_waits_for_no_other_sweep_and_does_nothing_for_it(
        cloud: orphanage.Orphanage, sweep: Sweep) -> None:
    arq, = cloud.bind(allocates=False)
    cloud.sweep()
    waiting = cloud.conductor.reconciler.start(None, False, "test")

    done = sweep("--dry-run")

    assert printed(done)[0] == 3
    assert printed(done)[1][0].startswith(f"confirmed arq_instance_gone {arq.uuid} ")
    assert cloud.arq_uuids() == {arq.uuid}
    assert cloud.conductor.reconciler.start(None, False, "test").id == waiting.id


def test_a_sweep_that_can_not_ask_nova_says_so_and_cleans_nothing(
        cloud: orphanage.Orphanage, sweep: Sweep) -> None:
    arq, = cloud.bind()
    cloud.nova.cloud.before = lambda address: 503

    done = sweep()

    assert printed(done) == (1, [])
    assert "Nova answered 503" in done.stderr
    assert cloud.arq_uuids() == {arq.uuid}


def test_a_sweep_of_a_host_that_nobody_knows_says_so(
        cloud: orphanage.Orphanage, sweep: Sweep) -> None:
    done = sweep("--host", "nowhere")

    assert done.returncode == 1
    assert "Host 'nowhere' is not known" in done.stderr


def test_old_accounts_are_purged_and_open_records_are_not(
        cloud: orphanage.Orphanage, tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        cloud.bind()
    cloud.sweep()
    with cloud.database.writing() as connection:
        first = connection.scalar(sa.select(sa.func.min(models.orphans.c.id)))
        connection.execute(sa.update(models.orphans).where(models.orphans.c.id == first).values(
            state="cleaned", open_key=None,
            cleaned_at=session.now() - datetime.timedelta(days=31)))

    done = processes.run([processes.console_script("cyborg-lite-manage"),
                          f"--config-file={tmp_path}/cyborg-lite.conf", "db", "purge"],
                         within_s=60)

    assert printed(done) == (0, ["0 hosts deleted", "1 records of cleaned orphans deleted"])
    assert [one.state for one in cloud.orphans()] == ["seen"]
