# SPDX-License-Identifier: Apache-2.0
"""Brings the schema of a database to a revision by running alembic/. No knowledge of the schema."""

from __future__ import annotations

import pathlib
import site
import sys
import sysconfig

import alembic.command
import alembic.config
import alembic.migration
import alembic.script
import alembic.util
import sqlalchemy as sa

VERSION_TABLE = "alembic_version"
HEAD = "head"


class NotInstalled(Exception):
    """The migrations are neither beside the package nor where a wheel puts them."""


class UnknownRevision(Exception):
    """The migrations of this release have no revision of that name, or lead to none."""


def scripts() -> pathlib.Path:
    """Return the folder of the migrations: the checkout's, else the installed one.

    Raises NotInstalled, naming the places.
    """
    top = pathlib.Path(__file__).resolve().parents[2]
    # pip puts data of a wheel below the prefix, the folder of --target, or that of --user
    prefixes = (top, sysconfig.get_path("data"), sys.prefix, site.getuserbase())
    places = [top / "alembic", *(pathlib.Path(prefix) / "share" / "cyborg-lite" / "alembic"
                                 for prefix in dict.fromkeys(map(str, prefixes)))]
    for place in places:
        if (place / "env.py").is_file() and (place / "versions").is_dir():
            return place
    raise NotInstalled("No migrations in " + ", ".join(map(str, places))
                       + "; install the package again.")


def upgrade(engine: sa.Engine, revision: str = HEAD) -> tuple[str | None, str | None]:
    """Run what is missing up to `revision`; returns the revisions before and after.

    Several processes may call this at one time: they wait for each other where the database has
    locks of that kind (MariaDB, MySQL, PostgreSQL). Raises UnknownRevision for a revision that
    this release has not, whether it is asked for or found in the database.
    """
    configuration = _configuration()
    with engine.connect() as connection:
        with _Alone(connection):
            before = _current(connection)
            configuration.attributes["connection"] = connection
            try:
                alembic.command.upgrade(configuration, revision)
            except alembic.util.CommandError as error:
                raise UnknownRevision(
                    f"The schema is at {before or 'empty'} and can't be brought to {revision}: "
                    f"{error}. This release ends with {head()}.") from error
            if connection.in_transaction():
                connection.commit()
            after = _current(connection)
        return before, after


def version(engine: sa.Engine) -> str | None:
    """Return the revision of the database; None for an empty one."""
    with engine.connect() as connection:
        return _current(connection)


def head() -> str | None:
    """Return the newest revision that this code knows."""
    return alembic.script.ScriptDirectory.from_config(_configuration()).get_current_head()


def complaint(engine: sa.Engine) -> str | None:
    """Say why this release can't work with the schema as it is; None when it can.

    That another release has brought it further is no reason: migrations only add.
    """
    # loading the migrations to ask them would cost each conductor ten MiB for good
    known = sorted(file.name.partition("_")[0]
                   for file in (scripts() / "versions").glob("[0-9]*_*.py"))
    found, newest = version(engine), known[-1]
    if found is None:
        return "The database is empty; run: cyborg-lite-manage db upgrade"
    if found == newest or found not in known:
        return None
    return (f"The schema is at {found}, this release needs {newest}; run: cyborg-lite-manage db "
            "upgrade")


def _configuration() -> alembic.config.Config:
    configuration = alembic.config.Config()
    configuration.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    return configuration


def _current(connection: sa.Connection) -> str | None:
    revision = alembic.migration.MigrationContext.configure(connection).get_current_revision()
    if connection.in_transaction():
        connection.commit()
    return revision


_LOCKS = {
    "mysql": ("SELECT GET_LOCK(CONCAT('cyborg_lite_migrate.', DATABASE()), 300)",
              "SELECT RELEASE_LOCK(CONCAT('cyborg_lite_migrate.', DATABASE()))"),
    "postgresql": ("SELECT pg_advisory_lock(1668899436)",
                   "SELECT pg_advisory_unlock(1668899436)"),
}


class _Alone:
    """Hold a lock that other migrations of this database wait for, while the block runs."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._lock, self._unlock = _LOCKS.get(connection.dialect.name, ("", ""))

    def __enter__(self) -> None:
        self._run(self._lock)

    def __exit__(self, *exc_info: object) -> None:
        if self._connection.in_transaction():
            self._connection.rollback()
        self._run(self._unlock)

    def _run(self, statement: str) -> None:
        if statement:
            self._connection.exec_driver_sql(statement)
            self._connection.commit()
