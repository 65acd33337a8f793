# SPDX-License-Identifier: Apache-2.0
"""Columns of what commands show: which, from which microversion on, and how in a table.

Which columns a noun has is said by the noun's module, in one tuple.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from cliff import columns as cliff_columns

SHORT = 0
"""Shown by a list, a list with --long, and by show."""

LONG = 1
"""Shown by a list with --long and by show."""

ALONE = 2
"""Shown by show."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One field of a noun.

    name: in the answer, and over the column. since: the minor version that brought it. shape:
    what writes a value that is not a text for a table; JSON and YAML get it as it is.
    """

    name: str
    level: int = SHORT
    since: int = 0
    shape: type[cliff_columns.FormattableColumn[Any]] | None = None

    def cell(self, entry: Mapping[str, Any]) -> Any:
        """Return the value as the formatters take it."""
        value = entry.get(self.name)
        return value if value is None or self.shape is None else self.shape(value)


Columns = tuple[Column, ...]
Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]


def select(columns: Columns, level: int, version: int) -> Columns:
    """Return the columns that are shown at a level to who speaks 2.`version`."""
    return tuple(each for each in columns if each.level <= level and each.since <= version)


def table(columns: Columns, level: int, version: int,
          entries: Iterable[Mapping[str, Any]]) -> Table:
    """Return headings and rows for a lister."""
    chosen = select(columns, level, version)
    return (tuple(each.name for each in chosen),
            [tuple(each.cell(entry) for each in chosen) for entry in entries])


def one(columns: Columns, version: int,
        entry: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Return names and values for a command that shows one."""
    names, (row,) = table(columns, ALONE, version, [entry])
    return names, row


# --- shapes -----------------------------------------------------------------------------------


def pairs(value: Mapping[str, Any]) -> str:
    """Write a map as `key=value, key=value`, in order of the keys."""
    return ", ".join(f"{key}={value[key]}" for key in sorted(value))


class Pairs(cliff_columns.FormattableColumn[dict[str, Any]]):
    """A map, on one line."""

    def human_readable(self) -> str:
        return pairs(self._value)


class PairLines(cliff_columns.FormattableColumn[dict[str, Any]]):
    """A map, a line an entry."""

    def human_readable(self) -> str:
        return "\n".join(f"{key}: {self._value[key]}" for key in sorted(self._value))


class Names(cliff_columns.FormattableColumn[list[str]]):
    """Some words, on one line."""

    def human_readable(self) -> str:
        return ", ".join(self._value)


class Groups(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """The groups of a device profile, a line each; the number is what `--key` counts by."""

    def human_readable(self) -> str:
        return "\n".join(f"{number}: {pairs(group)}"
                         for number, group in enumerate(self._value))


class Usage(cliff_columns.FormattableColumn[dict[str, Any]]):
    """What the cloud holds for each group of a device profile, a line each."""

    def human_readable(self) -> str:
        return "\n".join(["in use" if self._value["in_use"] else "not in use",
                          *(f"{number}: {self._group(group)}"
                            for number, group in enumerate(self._value["groups"]))])

    @staticmethod
    def _group(group: Mapping[str, Any]) -> str:
        amounts = ", ".join(f"{name} {group[name]}" for name in (
            "total", "free", "used", "reserved", "providers", "hosts")
            if group[name] is not None)
        return f"{amounts}; ARQs: {pairs(group['arqs']) or 'none'}"


class Deployables(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """The deployables of a device and what their handles do, a line each."""

    def human_readable(self) -> str:
        return "\n".join(self._line(each) for each in self._value)

    @staticmethod
    def _line(deployable: Mapping[str, Any]) -> str:
        handles = deployable["attach_handles"]
        states = ", ".join(f"{count} {state}" for state, count in handles.items()
                           if count and state != "total") or "none"
        return (f"{deployable['uuid']} {deployable['name']}: {deployable['resource_class']} "
                f"{','.join(deployable['traits'])}; {handles['total']} handles: {states}")
