# SPDX-License-Identifier: Apache-2.0
"""The migrations against the tables in code, on the three databases, from empty."""

from __future__ import annotations

import concurrent.futures
import pathlib
from collections.abc import Iterator
from typing import Any

import alembic.autogenerate
import alembic.migration
import alembic.script
import pytest
import sqlalchemy as sa

from cyborg_lite import messages
from cyborg_lite.db import heartbeats
from cyborg_lite.db import liveness
from cyborg_lite.db import migrate
from cyborg_lite.db import models
from cyborg_lite.db import service_list
from cyborg_lite.db import session
from tests.fixtures import servers


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def empty_database(request: pytest.FixtureRequest,
                   tmp_path: pathlib.Path) -> Iterator[session.Database]:
    """Each of the three databases in turn, without a table."""
    if request.param == "sqlite":
        database = session.Database(f"sqlite:///{tmp_path}/empty.sqlite")
        yield database
        database.dispose()
        return
    with servers.own_database(request.getfixturevalue(f"{request.param}_server")) as url:
        database = session.Database(url)
        yield database
        database.dispose()


def differences(database: session.Database) -> list[Any]:
    with database.engine.connect() as connection:
        context = alembic.migration.MigrationContext.configure(
            connection, opts={"compare_type": True})
        return alembic.autogenerate.compare_metadata(context, models.metadata)


def test_the_migrations_make_the_tables_that_the_code_expects(
        empty_database: session.Database) -> None:
    migrate.upgrade(empty_database.engine)

    assert differences(empty_database) == []


def test_a_migration_is_called_by_its_revision_and_the_last_is_the_head() -> None:
    """Who asks whether the schema is old reads the names of the files alone."""
    files = sorted(file.name for file in (migrate.scripts() / "versions").glob("*.py"))
    known = alembic.script.ScriptDirectory(str(migrate.scripts()))

    revisions = {pathlib.Path(one.path).name: one.revision for one in known.walk_revisions()}

    assert sorted(revisions) == files
    assert all(name.startswith(f"{revision}_") for name, revision in revisions.items())
    assert revisions[files[-1]] == migrate.head()


def test_a_column_that_the_migrations_lack_would_be_noticed(
        empty_database: session.Database) -> None:
    migrate.upgrade(empty_database.engine)

    with empty_database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE arqs DROP COLUMN state_reason"))

    assert [entry[0] for entry in differences(empty_database)] == ["add_column"]


def test_an_upgrade_goes_from_empty_to_the_head_and_a_second_one_does_nothing(
        empty_database: session.Database) -> None:
    assert migrate.version(empty_database.engine) is None

    first = migrate.upgrade(empty_database.engine)
    second = migrate.upgrade(empty_database.engine)

    assert first == (None, migrate.head())
    assert second == (migrate.head(), migrate.head())
    assert migrate.version(empty_database.engine) == migrate.head()


@pytest.mark.parametrize("empty_database", ["mariadb", "postgresql"], indirect=True)
def test_two_upgrades_at_one_time_wait_for_each_other(empty_database: session.Database) -> None:
    url = empty_database.engine.url
    engines = [sa.create_engine(url) for _ in range(3)]

    with concurrent.futures.ThreadPoolExecutor(len(engines)) as pool:
        results = list(pool.map(migrate.upgrade, engines))

    assert sorted(before or "" for before, _ in results) == ["", migrate.head(), migrate.head()]
    for engine in engines:
        engine.dispose()


@pytest.mark.parametrize("empty_database", ["mariadb", "postgresql"], indirect=True)
def test_names_compare_by_their_bytes(empty_database: session.Database) -> None:
    migrate.upgrade(empty_database.engine)
    table = models.device_profiles

    with empty_database.writing() as connection:
        for number, name in enumerate(("gpu", "GPU", "gpü")):
            connection.execute(sa.insert(table).values(
                uuid=str(number), name=name, groups="[]", created_at=session.now()))
        found = connection.scalars(sa.select(table.c.name).where(table.c.name == "gpu")).all()

    assert found == ["gpu"]


def test_hosts_of_the_first_release_become_services_that_are_enabled(
        empty_database: session.Database) -> None:
    """Their ids are those that a conductor gives to hosts that are new."""
    migrate.upgrade(empty_database.engine, "0001")
    moment = session.now().replace(microsecond=0)
    with empty_database.writing() as connection:
        for name in ("node7", "node_8.example.org"):
            connection.execute(sa.text(
                "INSERT INTO hosts (name, resource_provider_name, last_seen, generation, "
                "synced_generation, sync_attempts, sync_due_at, created_at) "
                "VALUES (:name, :name, :moment, 1, 1, 0, :moment, :moment)"),
                {"name": name, "moment": moment})

    migrate.upgrade(empty_database.engine)

    found = service_list.list_services(
        empty_database, messages.ServiceQuery(), liveness.NOBODY_IS_DOWN)
    assert [(each.id, each.host, each.status, each.state, each.drivers) for each in found] == [
        (heartbeats.service_uuid(name), name, "enabled", "up", [])
        for name in ("node7", "node_8.example.org")]
    # a conductor of the first release, while the others are upgraded
    with empty_database.writing() as connection:
        connection.execute(sa.text(
            "INSERT INTO hosts (name, resource_provider_name, last_seen, generation, "
            "synced_generation, sync_attempts, sync_due_at, created_at) "
            "VALUES ('node9', 'node9', :moment, 1, 1, 0, :moment, :moment)"), {"moment": moment})
    heartbeats.claim(empty_database, "node9", None)
    assert heartbeats.service_uuid("node9") in {each.id for each in service_list.list_services(
        empty_database, messages.ServiceQuery(), liveness.NOBODY_IS_DOWN)}
