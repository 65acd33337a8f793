# SPDX-License-Identifier: Apache-2.0
"""How long SQLite's file is open: as long as its `Database`, whatever transactions come and go."""

from __future__ import annotations

import gc
import pathlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from oslo_db import exception as db_exc

from cyborg_lite.db import session


@pytest.fixture
def opened(tmp_path: pathlib.Path) -> Iterator[session.Database]:
    database = session.Database(f"sqlite:///{tmp_path}/own.sqlite")
    yield database
    database.dispose()


def write(database: session.Database) -> None:
    with database.writing() as connection:
        connection.execute(sa.text("CREATE TABLE IF NOT EXISTS own (number INTEGER)"))
        connection.execute(sa.text("INSERT INTO own VALUES (1)"))


def log_of(folder: pathlib.Path) -> pathlib.Path:
    return folder / "own.sqlite-wal"


def test_a_transaction_leaves_the_log_for_the_next_one(opened: session.Database,
                                                       tmp_path: pathlib.Path) -> None:
    write(opened)

    first = log_of(tmp_path).stat()
    write(opened)

    assert log_of(tmp_path).stat().st_ino == first.st_ino
    assert log_of(tmp_path).stat().st_size > first.st_size > 0


def test_a_database_that_is_closed_is_one_file_with_all_that_was_written(
        opened: session.Database, tmp_path: pathlib.Path) -> None:
    write(opened)

    opened.dispose()

    assert [path.name for path in tmp_path.iterdir()] == ["own.sqlite"]
    with opened.reading() as connection:
        assert connection.execute(sa.text("SELECT number FROM own")).all() == [(1,)]


def test_one_that_is_forgotten_is_closed_too(tmp_path: pathlib.Path) -> None:
    write(session.Database(f"sqlite:///{tmp_path}/own.sqlite"))

    gc.collect()

    assert not log_of(tmp_path).exists()


def test_a_file_whose_log_can_not_be_written_is_told_to_who_asks(tmp_path: pathlib.Path) -> None:
    # a folder in the place of the log keeps also root from writing
    write(session.Database(f"sqlite:///{tmp_path}/own.sqlite"))
    gc.collect()
    log_of(tmp_path).mkdir()

    database = session.Database(f"sqlite:///{tmp_path}/own.sqlite")

    with pytest.raises(db_exc.DBError, match="unable to open"):
        database.check()
    log_of(tmp_path).rmdir()
    database.check()


def test_a_file_that_is_no_database_is_told_to_who_asks(tmp_path: pathlib.Path) -> None:
    (tmp_path / "own.sqlite").write_text("no database " * 100)

    database = session.Database(f"sqlite:///{tmp_path}/own.sqlite")

    with pytest.raises(db_exc.DBError, match="not a database"):
        database.check()
