# SPDX-License-Identifier: Apache-2.0
"""What a device consists of, and having its failed handles cleaned again. Lists: `devices.py`."""

from __future__ import annotations

import collections

import sqlalchemy as sa

from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import models
from cyborg_lite.db import services
from cyborg_lite.db import session

A = models.attributes
D = models.deployables
H = models.attach_handles
V = models.devices


def parts(database: session.Database, device_uuid: str) -> list[messages.DeployablePart]:
    """The deployables of a device with their handles by state. Three statements."""
    of_device = sa.select(V.c.id).where(V.c.uuid == device_uuid).scalar_subquery()
    with database.reading() as connection:
        rows = connection.execute(
            sa.select(D.c.id, D.c.uuid, D.c.name, D.c.rp_uuid)
            .where(D.c.device_id == of_device).order_by(D.c.id)).all()
        ids = [row.id for row in rows]
        counts: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for deployable_id, state, number in connection.execute(
                sa.select(H.c.deployable_id, H.c.state, sa.func.count())
                .where(H.c.deployable_id.in_(ids)).group_by(H.c.deployable_id, H.c.state)):
            counts[deployable_id][state] = number
        attributes: dict[int, dict[str, str]] = collections.defaultdict(dict)
        for deployable_id, key, value in connection.execute(
                sa.select(A.c.deployable_id, A.c.key, A.c.value)
                .where(A.c.deployable_id.in_(ids))):
            attributes[deployable_id][key] = value
    return [messages.DeployablePart(
        uuid=row.uuid, name=row.name, rp_uuid=row.rp_uuid,
        resource_class=attributes[row.id].get("rc"),
        traits=sorted(value for key, value in attributes[row.id].items()
                      if key.startswith("trait")),
        attach_handles=messages.HandleCounts(
            total=counts[row.id].total(),
            **{state: counts[row.id][state] for state in states.HANDLE_STATES})) for row in rows]


@session.retrying
def clean_again(database: session.Database, device_uuid: str) -> int:
    """Put the failed handles of a device back to `cleaning`; returns how many there were."""
    move = states.handle_move("retry_clean")
    with database.writing() as connection:
        rows = connection.execute(
            sa.select(H.c.id).where(
                H.c.state.in_(move.sources), H.c.deployable_id.in_(
                    sa.select(D.c.id).join_from(D, V, V.c.id == D.c.device_id)
                    .where(V.c.uuid == device_uuid)))
            .order_by(H.c.id).with_for_update()).all()
        if not rows:
            return 0
        connection.execute(
            sa.update(H).where(H.c.id.in_([row.id for row in rows]))
            .values(state=move.target, state_reason=None, updated_at=session.now(),
                    lease_owner=None, lease_until=None))
        hostname = connection.scalar(sa.select(V.c.hostname).where(V.c.uuid == device_uuid))
        services.mark_hosts_changed(connection, {str(hostname)})
        return len(rows)
