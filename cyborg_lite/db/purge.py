# SPDX-License-Identifier: Apache-2.0
"""Rows that nothing needs any more, and their bounded deletion.

ARQs, handles and devices are never purged here: their owners delete them.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import sqlalchemy as sa

from cyborg_lite.db import models
from cyborg_lite.db import partition_reports
from cyborg_lite.db import session

N = models.hosts
V = models.devices
A = models.arqs


def _silent(before: datetime.datetime) -> sa.ColumnElement[bool]:
    last_sign = sa.func.coalesce(N.c.last_seen, N.c.updated_at, N.c.created_at)
    return sa.and_(
        last_sign < before,
        N.c.generation == N.c.synced_generation,
        ~sa.exists().where(V.c.hostname == N.c.name),
        ~sa.exists().where(A.c.hostname == N.c.name))


def silent_hosts(database: session.Database, before: datetime.datetime,
                 at_most: int) -> list[str]:
    """Hosts without a sign since `before`, without devices and ARQs, equal in Placement."""
    with database.reading() as connection:
        return list(connection.scalars(
            sa.select(N.c.name).where(_silent(before)).order_by(N.c.id).limit(at_most)))


@session.retrying
def delete_hosts(database: session.Database, names: Sequence[str],
                 before: datetime.datetime) -> int:
    """Delete those of them that are still so; returns how many."""
    with database.writing() as connection:
        number = connection.execute(
            sa.delete(N).where(N.c.name.in_(names), _silent(before))).rowcount
        partition_reports.forget_hosts(connection, names)
        return number
