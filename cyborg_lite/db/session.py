# SPDX-License-Identifier: Apache-2.0
"""Engine, transactions, retry on deadlock. No queries.

One `Database` a process. `reading()` is one connection without a transaction of its own worth
naming; `writing()` is one transaction that commits only while the caller's deadline has not
passed. `retrying` repeats a whole transaction that the database gave up (deadlock, lost
connection), so a decorated function must be safe to repeat from its start. After a connection lost
in COMMIT nobody knows whether it was done: what is made has its uuid and moment before the first
try, and what an earlier try saw and deleted was there.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import sqlite3
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import cast
from typing import TypeVar

import sqlalchemy as sa
from oslo_config import cfg
from oslo_db import api as db_api
from oslo_db import exception as db_exc
from oslo_db.sqlalchemy import enginefacade

from cyborg_lite import errors

F = TypeVar("F", bound=Callable[..., Any])


def url_with_driver(url: str) -> str:
    """Name the driver where an operator's plain URL leaves it to SQLAlchemy's taste."""
    if url.startswith("mysql://"):
        url = "mysql+pymysql://" + url.removeprefix("mysql://")
    if url.startswith("mysql+pymysql://") and "charset=" not in url:
        url += ("&" if "?" in url else "?") + "charset=utf8mb4"
    return url


class Database:
    """The engine of one process and the transactions on it."""

    def __init__(self, url: str, *, check_before_commit: Callable[[], None] = lambda: None,
                 **options: Any) -> None:
        facade = enginefacade.transaction_context()
        facade.configure(connection=url_with_driver(url), sqlite_fk=True, **options)
        self.engine: sa.Engine = facade.writer.get_engine()
        self.dialect: str = self.engine.dialect.name
        self._check_before_commit = check_before_commit
        if self.dialect == "mysql":
            _read_committed(self.engine)
        self._close: Callable[[], object] = lambda: None
        if self.dialect == "sqlite":
            _let_writers_wait(self.engine)
            if isinstance(self.engine.pool, sa.pool.NullPool):
                kept = _kept_open(self.engine)
                if kept is not None:
                    self._close = weakref.finalize(self, kept.close)

    @property
    def skips_locked(self) -> bool:
        """Whether SELECT ... FOR UPDATE SKIP LOCKED works; SQLite has one writer anyway."""
        return self.dialect != "sqlite"

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One connection for SELECTs."""
        with _unavailable_as_503(), self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction; rolled back when the block raises or the deadline has passed."""
        with _unavailable_as_503(), self.engine.connect() as connection:
            if self.dialect == "sqlite":
                # oslo.db's listener would say a plain BEGIN, which lets two readers both
                # become writers and fail; the mark keeps it silent
                connection.info["in_transaction"] = True
            with connection.begin():
                if self.dialect == "sqlite":
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                self._check_before_commit()

    def check(self) -> None:
        """Return when the database answers; Unavailable when it does not."""
        with self.reading() as connection:
            connection.execute(sa.text("SELECT 1"))

    def dispose(self) -> None:
        """Close the pool."""
        self.engine.dispose()
        self._close()


def from_conf(conf: cfg.ConfigOpts, check_before_commit: Callable[[], None]) -> Database:
    """Return the database of `[database] connection`, with oslo.db's options.

    Raises cfg.Error when the option's value leads to no kind of database that is installed.
    """
    database = conf.database
    options: dict[str, Any] = {
        "mysql_sql_mode": database.mysql_sql_mode,
        "connection_recycle_time": database.connection_recycle_time,
        "max_retries": database.max_retries, "retry_interval": database.retry_interval,
    }
    if not database.connection.startswith("sqlite"):
        options |= {"max_pool_size": database.max_pool_size,
                    "max_overflow": database.max_overflow, "pool_timeout": database.pool_timeout}
    try:
        return Database(database.connection, check_before_commit=check_before_commit, **options)
    except sa.exc.ArgumentError as error:
        raise cfg.Error(f"[database] connection: {error}; it must look like "
                        "mysql+pymysql://USER:PASSWORD@HOST/cyborg_lite") from error
    except ImportError as error:
        raise cfg.Error(f"[database] connection: {error}; PyMySQL comes with the extra mysql, "
                        "psycopg2 with postgresql: pip install cyborg-lite[mysql]") from error


def _read_committed(engine: sa.Engine) -> None:
    """Set the isolation level once a connection.

    Gap locks of REPEATABLE READ make concurrent binds deadlock, and nothing here needs them. As an
    execution option the level would be set and reset around every transaction: four round trips.
    """

    @sa.event.listens_for(engine, "connect")
    def connect(dbapi_connection: Any, record: Any) -> None:
        cursor = dbapi_connection.cursor()
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.close()

    # oslo.db has tried a connection already, before there was this listener
    engine.dispose()


def _let_writers_wait(engine: sa.Engine) -> None:
    """Make SQLite's connections wait for each other instead of failing."""

    @sa.event.listens_for(engine, "connect")
    def connect(dbapi_connection: Any, record: Any) -> None:
        cursor = dbapi_connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 30000")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()


def _kept_open(engine: sa.Engine) -> sqlite3.Connection | None:
    """Return a connection that nobody uses, to a file that stays open as long as it does.

    oslo.db opens the file for each transaction. Whoever closes it last writes the log into it and
    deletes the log, which takes many times as long as the transaction. None for a file that can't
    be used now: whoever wants something of it is told why.
    """
    try:
        pooled = engine.raw_connection()
    except sqlite3.Error:
        return None
    connection = cast(sqlite3.Connection, pooled.driver_connection)
    pooled.detach()
    try:
        # only who has read has opened the log
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    except sqlite3.Error:
        connection.close()
        return None
    return connection


@contextlib.contextmanager
def _unavailable_as_503() -> Iterator[None]:
    try:
        yield
    except (db_exc.DBConnectionError, sa.exc.OperationalError, sa.exc.TimeoutError) as error:
        # oslo.db translates what a statement raises; opening a connection raises SQLAlchemy's own
        raise _Lost("The database does not answer.") from error


class _Lost(errors.Unavailable):
    """The connection was lost; `retrying` tries again before the caller hears of it."""


def retrying(function: F) -> F:
    """Repeat a transaction that was given up for a deadlock or a lost connection."""
    wrapped = db_api.wrap_db_retry(
        max_retries=10, retry_interval=0.05, inc_retry_interval=True, max_retry_interval=1,
        jitter=True, exception_checker=_worth_repeating)(function)
    return cast(F, functools.wraps(function)(wrapped))


def _worth_repeating(error: BaseException) -> bool:
    return isinstance(error, db_exc.DBDeadlock | db_exc.RetryRequest | _Lost)


# --- values -----------------------------------------------------------------------------------


def now() -> datetime.datetime:
    """The moment, in UTC and without a zone, as the tables store it."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def text(moment: datetime.datetime | None) -> str | None:
    """A stored moment as a message carries it."""
    return None if moment is None else moment.replace(microsecond=0).isoformat() + "+00:00"


def to_json(value: Any) -> str:
    """Canonical JSON: the same value is the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def bulk_update(connection: sa.Connection, table: sa.Table, key: str,
                rows: Sequence[Mapping[str, Any]]) -> None:
    """Update many rows, each with values of its own, in one statement.

    rows: mappings with the key column's value and the same other columns in each.
    """
    if not rows:
        return
    column = table.c[key]
    values: dict[str, Any] = {}
    for name in (name for name in rows[0] if name != key):
        if all(row[name] == rows[0][name] for row in rows):
            values[name] = rows[0][name]
        else:
            values[name] = sa.case(
                {row[key]: sa.bindparam(None, row[name], table.c[name].type) for row in rows},
                value=column, else_=table.c[name])
    connection.execute(
        sa.update(table).where(column.in_([row[key] for row in rows])).values(values))
