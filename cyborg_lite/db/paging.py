# SPDX-License-Identifier: Apache-2.0
"""One page of any list: by the values of the entry before it, never by counting rows.

So a page costs the same wherever it is. Which keys a list may be sorted by is said by the list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages

DIRECTIONS = ("asc", "desc")


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """How entries of a table, or of a question that stands for one, can be sorted.

    columns: by key, none of them nullable, so that every database sorts them alike. The table's
    id makes the order total; `created_at` is that order.
    """

    table: sa.FromClause
    columns: Mapping[str, sa.ColumnElement[Any]]

    def keys(self) -> list[str]:
        """Every key that a client may name."""
        return sorted([*self.columns, "created_at"])


def paged(connection: sa.Connection, statement: sa.Select[Any], order: Order,
          page: messages.Page | None, *visible: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Return the statement with order, start and limit; one more statement for a marker.

    Invalid for a key, a direction or a marker that does not exist. visible: what the caller may
    know of; a marker beyond that does not exist either.
    """
    page = page or messages.Page()
    sort = _sort(order, page)
    statement = ordered(statement, order, page)
    if page.limit is not None:
        statement = statement.limit(page.limit)
    if page.marker is None:
        return statement
    before = connection.execute(
        sa.select(*(column for column, _ in sort))
        .where(order.table.c.uuid == page.marker, *visible)).first()
    if before is None:
        raise errors.Invalid(f"marker {page.marker!r} is no entry of this list; take the uuid of "
                             "the last entry of the page before.")
    return statement.where(_after(sort, list(before)))


def ordered(statement: sa.Select[Any], order: Order,
            page: messages.Page | None) -> sa.Select[Any]:
    """Return the statement in the order of the page, wherever it begins and ends."""
    return statement.order_by(*(
        column.desc() if descending else column
        for column, descending in _sort(order, page or messages.Page())))


def _sort(order: Order, page: messages.Page) -> list[tuple[sa.ColumnElement[Any], bool]]:
    allowed = order.keys()
    for key, direction in page.sort:
        if direction not in DIRECTIONS:
            raise errors.Invalid(f"sort_dir {direction!r} is none of {', '.join(DIRECTIONS)}.")
        if key not in allowed:
            raise errors.Invalid(f"sort_key {key!r} is none of {', '.join(allowed)}.")
    sort: list[tuple[sa.ColumnElement[Any], bool]] = []
    for key, direction in page.sort:
        if key == "created_at":
            return [*sort, (order.table.c.id, direction == "desc")]
        column = order.columns[key]
        sort.append((column, direction == "desc"))
        if isinstance(column, sa.Column) and column.unique:
            return sort
    return [*sort, (order.table.c.id, bool(sort) and sort[-1][1])]


def _after(sort: list[tuple[sa.ColumnElement[Any], bool]],
           values: list[Any]) -> sa.ColumnElement[bool]:
    """Every row that comes after one with these values, in that order.

    Said twice where it can be: PostgreSQL and SQLite begin in an index where a comparison of
    tuples says so, MySQL where a chain of alternatives does.
    """
    chain = _chain(sort, values)
    directions = {descending for _, descending in sort}
    if len(sort) == 1 or len(directions) > 1:
        return chain
    columns, before = sa.tuple_(*(column for column, _ in sort)), sa.tuple_(*values)
    return sa.and_(columns < before if True in directions else columns > before, chain)


def _chain(sort: list[tuple[sa.ColumnElement[Any], bool]],
           values: list[Any]) -> sa.ColumnElement[bool]:
    (column, descending), value = sort[0], values[0]
    later: sa.ColumnElement[bool] = column < value if descending else column > value
    if len(sort) == 1:
        return later
    return sa.or_(later, sa.and_(column == value, _chain(sort[1:], values[1:])))
