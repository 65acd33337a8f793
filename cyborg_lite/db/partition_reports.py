# SPDX-License-Identifier: Apache-2.0
"""What hosts report of how their devices are split, as rows; wishes are in `partitioning.py`.

All in the transaction of a report, or of what drops a host.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cyborg_lite.db import closed_devices
from cyborg_lite.db import models
from cyborg_lite.db import partitioning
from cyborg_lite.db import session

N = models.hosts
P = models.device_partitions


def known(connection: sa.Connection, hostname: str) -> dict[str, Mapping[str, Any]]:
    """What is stored of a host's devices, by device uuid. One statement."""
    is_uncertain = sa.and_(P.c.reported_key == closed_devices.UNCERTAIN,
                           P.c.wish_generation != P.c.answered_generation,
                           P.c.wish_generation != P.c.fault_generation)
    found = connection.execute(
        sa.select(P.c.id, P.c.device_uuid, P.c.address, P.c.driver, P.c.reported,
                  P.c.reported_key, P.c.wish, P.c.wished_key, is_uncertain.label("is_uncertain"))
        .where(P.c.hostname == hostname)).mappings()
    return {row["device_uuid"]: {**row, "wish": partitioning.wish_of(row["wish"])}
            for row in found}


def store_reported(connection: sa.Connection, hostname: str, new: Iterable[Mapping[str, Any]],
                   changed: Sequence[Mapping[str, Any]]) -> None:
    """Write what a report says of partitions, in its transaction.

    A wish that is met now is settled; one that is not any more, after a reboot say, is due. So is
    what a device went on with when a wish was given up.
    """
    moment = session.now()
    rows = [{**row, "hostname": hostname, "wish_generation": 0, "answered_generation": 0,
             "fault_generation": 0, "created_at": moment, "updated_at": None} for row in new]
    if rows:
        connection.execute(sa.insert(P), rows)
    if not changed:
        return
    session.bulk_update(connection, P, "id", [{**row, "updated_at": moment} for row in changed])
    ids = [row["id"] for row in changed]
    connection.execute(
        sa.update(P).where(P.c.id.in_(ids), P.c.wished_key == P.c.reported_key,
                           sa.not_(closed_devices.IS_GIVEN_UP))
        # MariaDB sets one after the other: a failure that was settled keeps its text
        .ordered_values((P.c.fault, sa.case((P.c.fault_generation == 0, P.c.fault))),
                        (P.c.fault_generation, 0), (P.c.answered_generation, 0),
                        (P.c.due_at, None), (P.c.lease_owner, None)))
    connection.execute(
        sa.update(P).where(P.c.id.in_(ids), closed_devices.CLOSED, P.c.due_at.is_(None),
                           sa.or_(P.c.fault_generation != P.c.wish_generation,
                                  closed_devices.IS_GIVEN_UP))
        .values(due_at=moment, fault=None, fault_generation=0, answered_generation=0))


def forget_wishes(connection: sa.Connection, device_uuids: Collection[str]) -> None:
    """Drop the wishes of devices in whose places others are; a late answer meets none of them."""
    if device_uuids:
        connection.execute(
            sa.update(P).where(P.c.device_uuid.in_(sorted(device_uuids))).values(
                wish=None, wished_key=None, wished_by=None, wished_at=None,
                wish_generation=P.c.wish_generation + 1, answered_generation=0, fault=None,
                fault_generation=0, due_at=None, lease_owner=None, updated_at=session.now()))


def forget_hosts(connection: sa.Connection, hostnames: Collection[str]) -> None:
    """Drop what is known of the devices of those of these hosts that have no row any more.

    A host for which a layout was set is not dropped while Nova knows it: what it had is made again.
    """
    connection.execute(sa.delete(P).where(
        P.c.hostname.in_(sorted(hostnames)), ~sa.exists().where(N.c.name == P.c.hostname)))
