# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests: databases on three servers. What a test needs of them it says itself."""

from __future__ import annotations

import itertools
import pathlib
import signal
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from cyborg_lite import buses
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import databases
from tests.fixtures import servers
from tests.fixtures import workers
from tests.nvml import stand_in


def _end_tidily(*_: object) -> None:
    raise KeyboardInterrupt


# a run that is stopped still drops its databases and virtual hosts
signal.signal(signal.SIGTERM, _end_tidily)

# the same cases in every run, and no judgement of speed on a loaded machine
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("steady")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> workers.FilesAndFolders:
    return workers.FilesAndFolders(config, log)


@pytest.fixture(scope="session")
def folder() -> Iterator[Callable[[str], pathlib.Path]]:
    """Make a folder for a server, which may run as another user and is large.

    Not below pytest's own folder, which each run that starts closes for other users.
    """
    numbers = itertools.count(1)
    with tempfile.TemporaryDirectory(prefix="cyborg-lite-tests-",
                                     ignore_cleanup_errors=True) as home:
        def make(name: str) -> pathlib.Path:
            path = pathlib.Path(home) / f"{name}-{next(numbers)}"
            path.mkdir()
            return path
        yield make


@pytest.fixture(scope="session")
def mariadb_server(folder: Callable[[str], pathlib.Path]) -> Iterator[str]:
    """URL of a MariaDB without a database's name."""
    with servers.mariadb(folder) as url:
        yield url


@pytest.fixture(scope="session")
def postgresql_server(folder: Callable[[str], pathlib.Path]) -> Iterator[str]:
    """URL of a PostgreSQL without a database's name."""
    with servers.postgresql(folder) as url:
        yield url


@pytest.fixture(scope="session")
def nvml_library(folder: Callable[[str], pathlib.Path]) -> pathlib.Path:
    """The stand-in for libnvidia-ml.so.1, built once."""
    return stand_in.build(folder("nvml"))


def _with_tables(url: str) -> session.Database:
    database = session.Database(url, check_before_commit=buses.check_deadline,
                                max_pool_size=20, max_overflow=20) \
        if not url.startswith("sqlite") else session.Database(
            url, check_before_commit=buses.check_deadline)
    models.metadata.create_all(database.engine)
    databases.stamp(database)
    return database


@pytest.fixture(scope="session")
def mariadb_tables(mariadb_server: str) -> Iterator[session.Database]:
    """A MariaDB database with the tables of this version."""
    with servers.own_database(mariadb_server) as url:
        database = _with_tables(url)
        yield database
        database.dispose()


@pytest.fixture(scope="session")
def postgresql_tables(postgresql_server: str) -> Iterator[session.Database]:
    """A PostgreSQL database with the tables of this version."""
    with servers.own_database(postgresql_server) as url:
        database = _with_tables(url)
        yield database
        database.dispose()


@pytest.fixture(scope="session")
def sqlite_tables(folder: Callable[[str], pathlib.Path]) -> Iterator[session.Database]:
    """An SQLite database with the tables of this version."""
    database = _with_tables(f"sqlite:///{folder('sqlite')}/test.sqlite")
    yield database
    database.dispose()


@pytest.fixture
def sqlite(sqlite_tables: session.Database) -> session.Database:
    """The SQLite database with empty tables."""
    databases.empty(sqlite_tables)
    return sqlite_tables


@pytest.fixture
def mariadb(mariadb_tables: session.Database) -> session.Database:
    """The MariaDB database with empty tables."""
    databases.empty(mariadb_tables)
    return mariadb_tables


@pytest.fixture
def postgresql(postgresql_tables: session.Database) -> session.Database:
    """The PostgreSQL database with empty tables."""
    databases.empty(postgresql_tables)
    return postgresql_tables


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def database(request: pytest.FixtureRequest) -> session.Database:
    """Each of the three databases in turn, with empty tables."""
    found: session.Database = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["mariadb", "postgresql"])
def server_database(request: pytest.FixtureRequest) -> session.Database:
    """Each of the two databases that several conductors can share."""
    found: session.Database = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def rabbitmq(folder: Callable[[str], pathlib.Path]) -> Iterator[str]:
    """A `rabbit://` URL with a virtual host of this session's own."""
    with servers.rabbitmq_vhost(folder) as url:
        yield url
