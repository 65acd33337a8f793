# SPDX-License-Identifier: Apache-2.0
"""cyborg-lite-manage and cyborg-lite-status on a database of their own."""

from __future__ import annotations

import datetime
import pathlib
import subprocess
from collections.abc import Callable
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from cyborg_lite.db import migrate
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import processes

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    """Run a command of one of the two programs on an SQLite file."""
    path = tmp_path / "test.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/test.sqlite\n")

    def run_command(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return processes.run([processes.console_script(f"cyborg-lite-{program}"),
                              f"--config-file={path}", *arguments], within_s=60)
    return run_command


@pytest.fixture
def database(tmp_path: pathlib.Path) -> Iterator[session.Database]:
    """The file that the commands work on, with the tables as the migrations make them."""
    opened = session.Database(f"sqlite:///{tmp_path}/test.sqlite")
    migrate.upgrade(opened.engine)
    yield opened
    opened.dispose()


def test_db_upgrade_makes_the_schema_and_says_what_it_did(run: Run) -> None:
    before = run("manage", "db", "version")
    first = run("manage", "db", "upgrade")
    second = run("manage", "db", "upgrade")

    assert (before.returncode, before.stdout) == (0, "empty\n")
    assert (first.returncode, first.stdout) == (0, f"empty -> {migrate.head()}\n")
    assert (second.returncode, second.stdout) == (0, f"{migrate.head()}: nothing to do\n")


def test_the_upgrade_check_fails_before_the_upgrade_and_passes_after_it(run: Run) -> None:
    before = run("status", "upgrade", "check")
    run("manage", "db", "upgrade")
    after = run("status", "upgrade", "check")

    assert before.returncode == 2
    assert "cyborg-lite-manage db" in before.stdout
    assert after.returncode == 0


def test_the_upgrade_check_reads_a_directory_of_files_too(run: Run, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "more.conf").write_text("[conductor]\nbind_timeout = soon\n")
    run("manage", "db", "upgrade")

    done = run("status", f"--config-dir={folder}", "upgrade", "check")

    assert done.returncode == 2
    assert "[conductor] bind_timeout = soon" in done.stdout


def test_check_finds_nothing_in_an_order_that_is_right(run: Run,
                                                       database: session.Database) -> None:
    builders.store(database, builders.a_report())

    done = run("manage", "check")

    assert (done.returncode, done.stdout) == (0, "0 findings\n")


def test_check_names_a_handle_that_nobody_holds_and_ends_with_1(
        run: Run, database: session.Database) -> None:
    builders.store(database, builders.a_report())
    with database.writing() as connection:
        handle = connection.scalar(sa.select(models.attach_handles.c.uuid).limit(1))
        connection.execute(sa.update(models.attach_handles)
                           .where(models.attach_handles.c.uuid == handle)
                           .values(state="in_use"))

    done = run("manage", "check")

    assert done.returncode == 1
    assert f"invariant 1: handle {handle} is in_use and belongs to no ARQ" in done.stdout
    assert done.stdout.endswith("1 findings\n")


@pytest.mark.parametrize(("revision", "complaint"), [
    (None, "The database is empty"), ("0001", "The schema is at 0001, this release needs ")])
@pytest.mark.parametrize("words", [("manage", "check"), ("manage", "db", "purge"),
                                   ("manage", "sweep"), ("conductor",)], ids=" ".join)
def test_whoever_needs_the_schema_says_in_one_line_what_to_run(
        run: Run, words: tuple[str, ...], revision: str | None, complaint: str) -> None:
    if revision:
        run("manage", "db", "upgrade", revision)

    done = run(*words)

    assert done.returncode == 1
    assert done.stderr.startswith(f"cyborg-lite-{words[0]}: {complaint}")
    assert done.stderr.endswith("; run: cyborg-lite-manage db upgrade\n")
    assert done.stderr.count("\n") == 1


def test_a_schema_that_a_newer_release_has_brought_further_is_worked_with(
        run: Run, database: session.Database) -> None:
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9998'"))

    assert run("manage", "check").returncode == 0
    assert run("status", "upgrade", "check").returncode == 0


def test_purge_deletes_hosts_that_are_silent_and_empty_and_no_others(
        run: Run, database: session.Database) -> None:
    long_ago = session.now() - datetime.timedelta(days=60)
    builders.store(database, builders.a_report(host="with-devices"))
    builders.store(database, builders.a_report(host="silent", devices=[]))
    builders.store(database, builders.a_report(host="alive", devices=[]))
    with database.writing() as connection:
        connection.execute(sa.update(models.hosts).values(
            synced_generation=models.hosts.c.generation))
        connection.execute(sa.update(models.hosts).where(models.hosts.c.name != "alive").values(
            last_seen=long_ago, updated_at=long_ago, created_at=long_ago))

    dry = run("manage", "db", "purge", "--dry-run")
    wet = run("manage", "db", "purge")

    assert (dry.returncode, dry.stdout) == (0, "silent\n1 hosts would be deleted\n")
    assert (wet.returncode, wet.stdout) == (0, "silent\n1 hosts deleted\n")
    with database.reading() as connection:
        assert sorted(connection.scalars(sa.select(models.hosts.c.name))) == [
            "alive", "with-devices"]


def test_a_database_that_is_away_is_said_in_one_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "test.conf"
    path.write_text("[database]\nconnection = mysql://nobody@127.0.0.1:1/none\nmax_retries = 0\n")

    done = processes.run([processes.console_script("cyborg-lite-manage"),
                          f"--config-file={path}", "db", "version"], within_s=60)

    assert done.returncode == 1
    assert done.stderr.startswith("cyborg-lite-manage: ")
    assert done.stderr.count("\n") == 1


def test_a_revision_that_this_release_has_not_is_said_in_one_line(
        run: Run, database: session.Database) -> None:
    asked_for = run("manage", "db", "upgrade", "9999")
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9998'"))
    found = run("manage", "db", "upgrade")

    for done, revision in ((asked_for, "9999"), (found, "9998")):
        assert done.returncode == 1
        assert done.stderr.startswith("cyborg-lite-manage: The schema is at ")
        assert revision in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("days", ["0", "-1", "nan", "many", "1e300"])
def test_purge_says_what_is_wrong_with_its_days(run: Run, days: str) -> None:
    done = run("manage", "db", "purge", f"--older-than={days}")

    assert done.returncode == 2
    assert f"{days!r} is not a number of days above 0" in done.stderr


@pytest.mark.parametrize("rows", ["-5", "many", "1.5", ""])
def test_purge_says_what_is_wrong_with_its_rows(run: Run, rows: str) -> None:
    done = run("manage", "db", "purge", f"--max-rows={rows}")

    assert done.returncode == 2
    assert f"{rows!r} is not a number of rows" in done.stderr


def test_an_import_from_cyborg_says_what_to_do_instead() -> None:
    done = processes.run([processes.console_script("cyborg-lite-manage"), "--config-file",
                          "/dev/null", "import-cyborg"], within_s=60)

    assert done.returncode == 1
    assert done.stderr.startswith("cyborg-lite-manage: This release imports nothing from ")
    assert "device profile list" in done.stderr
    assert done.stderr.count("\n") == 1
