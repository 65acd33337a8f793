# SPDX-License-Identifier: Apache-2.0
"""Agents and conductors in one list, and an operator's word on an agent. Beats: `heartbeats.py`."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.db import heartbeats
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import paging
from cyborg_lite.db import services
from cyborg_lite.db import session

N = models.hosts
C = models.conductors

ENABLED = "enabled"
DISABLED = "disabled"

FILTERS = ("binary", "host", "state", "status")

AFTER_EVERY_HOST = 1 << 40
"""In the order of age the conductors, which come and go, stand behind the agents."""


def _services(horizon: liveness.Horizon) -> sa.Subquery:
    """One row a service, in columns that both kinds have."""
    nothing = sa.cast(sa.null(), models.Name)
    return sa.union_all(
        sa.select(
            sa.cast(N.c.id, sa.BigInteger).label("id"), N.c.uuid, N.c.name.label("host"),
            sa.literal(heartbeats.AGENT, models.Name).label("binary"),
            liveness.host_state(horizon).label("state"), N.c.status, N.c.disabled_reason,
            N.c.last_seen, N.c.agent_version.label("version"), N.c.drivers)
        .where(N.c.uuid.is_not(None)),
        sa.select(
            sa.cast(C.c.id, sa.BigInteger) + AFTER_EVERY_HOST, C.c.uuid, C.c.host,
            sa.literal(heartbeats.CONDUCTOR, models.Name), liveness.conductor_state(horizon),
            sa.literal(ENABLED, models.Name), nothing, C.c.last_seen, C.c.version, nothing)
        .where(C.c.stopped_at.is_(None)),
    ).subquery("services")


def list_services(database: session.Database, query: messages.ServiceQuery,
                  horizon: liveness.Horizon) -> list[messages.Service]:
    """The services that fit; agents before conductors, each oldest first, unless the page says
    otherwise. One statement, and one for a marker."""
    table = _services(horizon)
    order = paging.Order(table, {"id": table.c.uuid, **{name: table.c[name] for name in FILTERS}})
    statement = sa.select(table)
    for name in FILTERS:
        wanted = getattr(query, name)
        if wanted is not None:
            statement = statement.where(table.c[name] == wanted)
    with database.reading() as connection:
        found = connection.execute(paging.paged(connection, statement, order, query.page))
        return [_service(row) for row in found.mappings()]


def _service(row: Any) -> messages.Service:
    return messages.Service(
        id=row["uuid"], binary=row["binary"], host=row["host"], state=row["state"],
        status=row["status"], disabled_reason=row["disabled_reason"], version=row["version"],
        last_seen=session.text(row["last_seen"]),
        drivers=json.loads(row["drivers"]) if row["drivers"] else [])


@session.retrying
def set_status(database: session.Database, service_uuid: str, status: str, reason: str | None,
               horizon: liveness.Horizon) -> tuple[messages.Service, bool]:
    """Enable or disable an agent; returns it, and whether its status changed.

    A reason that is given replaces the old one; one that is not given stays while it is disabled.
    NotFound; StateConflict for a conductor.
    """
    table = _services(horizon)
    with database.writing() as connection:
        row = connection.execute(
            sa.select(N.c.id, N.c.name, N.c.status, N.c.disabled_reason)
            .where(N.c.uuid == service_uuid).with_for_update()).first()
        if row is None:
            raise _no_agent(connection, service_uuid)
        kept = None if status == ENABLED else reason or row.disabled_reason
        if (status, kept) != (row.status, row.disabled_reason):
            connection.execute(sa.update(N).where(N.c.id == row.id).values(
                status=status, disabled_reason=kept, updated_at=session.now()))
        if status != row.status:
            services.mark_hosts_changed(connection, {row.name})
        found = connection.execute(
            sa.select(table).where(table.c.uuid == service_uuid)).mappings().one()
        return _service(found), status != row.status


def _no_agent(connection: sa.Connection, service_uuid: str) -> errors.Error:
    is_conductor = connection.scalar(
        sa.select(C.c.id).where(C.c.uuid == service_uuid, C.c.stopped_at.is_(None)))
    if is_conductor:
        return errors.StateConflict(
            f"Service {service_uuid} is a conductor; only agents can be disabled. Stop the "
            "process instead: the others do its work.")
    return errors.NotFound(f"Service {service_uuid} does not exist; GET /v2/services lists those "
                           "that do.")
