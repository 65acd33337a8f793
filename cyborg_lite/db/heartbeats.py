# SPDX-License-Identifier: Apache-2.0
"""Signs of life in the database: of the agent that speaks for a host, and of conductors.

What they mean is in `liveness.py`; what a report brings besides is in `inventory.py`.
"""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from typing import Any

import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import session

N = models.hosts
C = models.conductors

SERVICES = uuid.UUID("3c07e9ed-c49e-4022-a080-429c2b529f8c")
"""Namespace of the ids of services; they stay what they are across releases."""

AGENT = "cyborg-lite-agent"
CONDUCTOR = "cyborg-lite-conductor"


def service_uuid(host: str) -> str:
    """The id of the agent of a host, as a service."""
    return str(uuid.uuid5(SERVICES, f"{AGENT} {host}"))


# --- hosts ------------------------------------------------------------------------------------

HEARD: tuple[sa.Column[Any], ...] = (N.c.id, N.c.uuid, N.c.agent_id, N.c.last_seen, N.c.gone_at)
"""What `is_heard` and `refuse_another` look at."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """When a sign of life is heard.

    silent_before: an agent that was last heard of before may be followed by another machine's;
    when it is None, at once.
    """

    moment: datetime.datetime = dataclasses.field(default_factory=session.now)
    silent_before: datetime.datetime | None = None


@session.retrying
def is_current(database: session.Database, beat: messages.Heartbeat,
               seen_before: datetime.datetime, hearing: Hearing | None = None) -> bool:
    """Say whether the host's last stored report had this digest. HostTaken.

    That the host lives is written down only when it was last written before `seen_before`, so
    that an unchanged host costs one SELECT.
    """
    hearing = hearing or Hearing()
    with database.reading() as connection:
        row = connection.execute(
            sa.select(*HEARD, N.c.digest, N.c.resource_provider_name)
            .where(N.c.name == beat.host)).first()
    if row is None:
        return False
    refuse_another(row, beat.host, beat.agent_id, hearing)
    if _is_news(row, beat.agent_id, seen_before):
        with database.writing() as connection:
            # of two agents that both follow a silent one, the first has it
            taken = connection.execute(
                sa.update(N).where(N.c.id == row.id, _spoken_for_by(row.agent_id))
                .values(**signs_of_life(beat.host, beat.agent_id, hearing))).rowcount
        if not taken:
            return is_current(database, beat, seen_before, hearing)
    return (row.digest, row.resource_provider_name) == (beat.digest, beat.resource_provider_name)


@session.retrying
def claim(database: session.Database, host: str, agent_id: str | None,
          hearing: Hearing | None = None) -> None:
    """Let an agent speak for a host from now on; a host that is not known is its first reporter's.

    HostTaken.
    """
    hearing = hearing or Hearing()
    with database.writing() as connection:
        row = connection.execute(
            sa.select(*HEARD).where(N.c.name == host).with_for_update()).first()
        if row is not None:
            refuse_another(row, host, agent_id, hearing)
            connection.execute(sa.update(N).where(N.c.id == row.id)
                               .values(**signs_of_life(host, agent_id, hearing)))


def _is_news(row: sa.Row[Any], agent_id: str | None, seen_before: datetime.datetime) -> bool:
    return (row.last_seen is None or row.last_seen < seen_before or row.gone_at is not None
            or row.uuid is None or (agent_id is not None and agent_id != row.agent_id))


def _spoken_for_by(agent_id: str | None) -> sa.ColumnElement[bool]:
    return N.c.agent_id.is_(None) if agent_id is None else N.c.agent_id == agent_id


def signs_of_life(host: str, agent_id: str | None, hearing: Hearing) -> dict[str, Any]:
    """What a heartbeat or a report changes in a host's row, besides what it tells."""
    values = {"uuid": service_uuid(host), "last_seen": hearing.moment, "gone_at": None}
    return values if agent_id is None else {**values, "agent_id": agent_id}


def refuse_another(row: sa.Row[Any], host: str, agent_id: str | None,
                   hearing: Hearing) -> None:
    """Raise HostTaken when another agent speaks for the host and was heard of lately.

    An agent of an earlier release does not say who it is, and is believed.
    """
    if (agent_id is None or row.agent_id in (None, agent_id)
            or row.last_seen is None or hearing.silent_before is None
            or row.last_seen < hearing.silent_before):
        return
    raise errors.HostTaken(
        f"The agent of another machine speaks for host {host}; it was heard of at "
        f"{session.text(row.last_seen)}. Give one of the two machines another [DEFAULT] host, or "
        "stop the agent that should not run: this one is taken once the other is silent.")


# --- conductors -------------------------------------------------------------------------------


@session.retrying
def conductor_lives(database: session.Database, conductor: messages.Service,
                    moment: datetime.datetime, *, deaf_before: datetime.datetime,
                    horizon: liveness.Horizon) -> bool:
    """Write down that a conductor can hear; returns False where none could for a while.

    deaf_before: no conductor has been heard of since then means that no host could be heard
    either. What a host was silent meanwhile is then not counted: one that was down before stays
    so, and counts as gone later; any other has all of its time again.
    """
    with database.writing() as connection:
        last_heard = _last_heard(connection)
        if last_heard is None or last_heard < deaf_before:
            # one conductor after the other, and each looks at what the one before it wrote
            connection.execute(sa.select(C.c.id).order_by(C.c.id).with_for_update()).all()
            last_heard = _last_heard(connection)
        was_deaf = last_heard is None or last_heard < deaf_before
        if was_deaf:
            _count_silence_anew(connection, moment, last_heard, horizon)
        values = {"host": conductor.host, "version": conductor.version, "last_seen": moment,
                  "stopped_at": None, "updated_at": moment}
        known = connection.execute(
            sa.update(C).where(C.c.uuid == conductor.id).values(**values)).rowcount
        if not known:
            connection.execute(sa.insert(C).values(
                uuid=conductor.id, created_at=moment, **values))
        connection.execute(sa.delete(C).where(
            C.c.uuid != conductor.id,
            sa.or_(C.c.stopped_at.is_not(None), C.c.last_seen < horizon.gone_before)))
    return not was_deaf


def _last_heard(connection: sa.Connection) -> datetime.datetime | None:
    found: datetime.datetime | None = connection.scalar(sa.select(sa.func.max(C.c.last_seen)))
    return found


def _count_silence_anew(connection: sa.Connection, moment: datetime.datetime,
                        last_heard: datetime.datetime | None,
                        horizon: liveness.Horizon) -> None:
    """Begin to count now what hosts are silent; last_heard: when conductors heard last."""
    if last_heard is None:
        connection.execute(sa.update(N).values(silence_counts_from=moment))
        return
    away = moment - last_heard
    was_down, was_gone = horizon.down_before - away, horizon.gone_before - away
    just_down = horizon.down_before - datetime.timedelta(microseconds=1)
    connection.execute(sa.update(N).where(_heard_since(was_gone)).values(
        silence_counts_from=sa.case((_heard_since(was_down), moment), else_=just_down)))


def _heard_since(before: datetime.datetime) -> sa.ColumnElement[bool]:
    return sa.or_(N.c.last_seen >= before, N.c.silence_counts_from >= before)


@session.retrying
def conductor_stops(database: session.Database, conductor_uuid: str,
                    moment: datetime.datetime) -> None:
    """Note that a conductor ended as told; its row goes with the next conductor's beat."""
    with database.writing() as connection:
        connection.execute(sa.update(C).where(C.c.uuid == conductor_uuid)
                           .values(last_seen=moment, stopped_at=moment, updated_at=moment))
