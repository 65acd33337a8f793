# SPDX-License-Identifier: Apache-2.0
"""Counters that are read before and after a case: statements, log lines, CPU, memory.

Reads only; the difference and its division by the work done is `figures.per_unit`.
"""

from __future__ import annotations

import os
import pathlib
import resource
from typing import Any
from urllib import parse

from tests.bench import targets

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Meters:
    """All meters of one target, ready to be read many times."""

    def __init__(self, target: targets.Target) -> None:
        self._target = target
        self._statements = (StatementMeter(target.statements, target.statements_user)
                            if target.statements else None)
        self._logs = {name: LogMeter(one["path"], one.get("match", ""))
                      for name, one in target.access_logs.items()}

    def read(self) -> dict[str, float]:
        """Return the present value of each meter; names tell the unit where it is no count."""
        values: dict[str, float] = {}
        if self._statements:
            values.update(self._statements.read())
        for name, log in self._logs.items():
            values[name] = log.read()
        for name, pids in self._target.pids.items():
            values[f"cpu_ms.{name}"] = cpu_ms(pids)
        values["cpu_ms.generator"] = own_cpu_ms()
        return values

    def resident(self) -> dict[str, list[float]]:
        """Return the resident MiB of each process of each named service, children included."""
        return {name: resident_mib(pids) for name, pids in self._target.pids.items()}


class StatementMeter:
    """Statements that a MariaDB ran for one account, or for everybody."""

    def __init__(self, url: str, user: str | None) -> None:
        self._connection = connect(url)
        self._user = user

    def read(self) -> dict[str, float]:
        """Return `sql` (reads and writes of rows) and `sql_other` (COMMIT, BEGIN, SET ...)."""
        if self._user is None:
            return self._of_everybody()
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT select_commands, update_commands, other_commands "
                "FROM information_schema.user_statistics WHERE user = %s", (self._user,))
            row = cursor.fetchone() or (0, 0, 0)
        return {"sql": float(row[0] + row[1]), "sql_other": float(row[2])}

    def _of_everybody(self) -> dict[str, float]:
        with self._connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Com\\_%'")
            counts = {name.lower()[4:]: int(value) for name, value in cursor.fetchall()}
        rows = sum(counts.get(name, 0) for name in (
            "select", "insert", "insert_select", "update", "update_multi", "delete",
            "delete_multi", "replace", "replace_select"))
        other = sum(counts.get(name, 0) for name in (
            "begin", "commit", "rollback", "set_option", "savepoint", "release_savepoint"))
        return {"sql": float(rows), "sql_other": float(other)}


class LogMeter:
    """Lines of an access log that contain a text; reads only what is new."""

    def __init__(self, path: str, match: str) -> None:
        self._path = pathlib.Path(path)
        self._match = match.encode()
        self._offset = 0
        self._count = 0

    def read(self) -> float:
        """Return how many such lines the file has."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        data = data[:data.rfind(b"\n") + 1]
        self._offset += len(data)
        self._count += sum(1 for line in data.splitlines() if self._match in line)
        return float(self._count)


def own_cpu_ms() -> float:
    """Return the CPU time of this process in ms."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1000


def cpu_ms(pids: list[int]) -> float:
    """Return the CPU time in ms of the processes and their children, ended ones included."""
    total = 0
    for pid in with_children(pids):
        fields = _stat(pid)
        if fields:
            total += int(fields[11]) + int(fields[12])
            # of children that ended; those that live are counted by themselves
            total += int(fields[13]) + int(fields[14])
    return total * 1000 / TICKS_PER_S


def resident_mib(pids: list[int]) -> list[float]:
    """Return the resident MiB of each process and each of its children."""
    found = []
    for pid in with_children(pids):
        try:
            text = pathlib.Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith("VmRSS:"):
                found.append(round(int(line.split()[1]) / 1024, 1))
    return found


def with_children(pids: list[int]) -> list[int]:
    """Return the process ids and those of all their descendants, each once."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop(0)
        if pid not in found:
            found.append(pid)
            waiting += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat after the name: state, parent, ..."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None


def connect(url: str) -> Any:
    """Open a DB-API connection to mysql://, postgresql:// or sqlite:///path, autocommit off.

    SQLAlchemy's names for drivers (mysql+pymysql) are accepted.
    """
    parts = parse.urlsplit(url)
    kind = parts.scheme.partition("+")[0]
    if kind == "sqlite":
        import sqlite3
        return sqlite3.connect(parts.path[1:], timeout=60)
    name = parts.path.lstrip("/") or None
    user, password = (parse.unquote(part or "") for part in (parts.username, parts.password))
    if kind in ("mysql", "mariadb"):
        import pymysql
        return pymysql.connect(host=parts.hostname or "127.0.0.1", port=parts.port or 3306,
                               user=user, password=password, database=name, charset="utf8mb4",
                               autocommit=name is None)
    if kind == "postgresql":
        import psycopg2
        return psycopg2.connect(host=parts.hostname or "127.0.0.1", port=parts.port or 5432,
                                user=user or None, password=password or None, dbname=name)
    raise targets.BadTarget(f"{url!r}: use mysql://, postgresql:// or sqlite:///path")
