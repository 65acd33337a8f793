# SPDX-License-Identifier: Apache-2.0
"""Devices that are being split: nothing of them is given out. Who splits them: `partitioning.py`.

A condition that is computed from wish and report, so that no crash leaves a device closed.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from cyborg_lite.db import models

D = models.deployables
P = models.device_partitions
V = models.devices

CLOSED = sa.and_(P.c.wished_key.is_not(None), P.c.reported_key.is_not(None),
                 P.c.wished_key != P.c.reported_key)
"""A layout is wished for, and the device is split in another way. False without a row too."""

UNCERTAIN = "?"
"""Stands for what is reported of a device that its agent may have changed since, until the agent
has looked at it: reports may be older than that."""

IS_GIVEN_UP = sa.and_(P.c.wish_generation > 0,
                      P.c.fault_generation == P.c.wish_generation,
                      P.c.answered_generation == P.c.wish_generation)
"""The agent says that a wish can't be met and that the device is as before: it goes on with that,
which has become the wish, and is open. Any other failed wish leaves the device closed."""


def deployables_of(connection: sa.Connection, deployable_ids: Collection[int]) -> set[int]:
    """Of these deployables, those whose device is being split."""
    return set(connection.scalars(
        sa.select(D.c.id).join_from(D, V, V.c.id == D.c.device_id)
        .join(P, P.c.device_uuid == V.c.uuid)
        .where(D.c.id.in_(sorted(deployable_ids)), CLOSED)))
