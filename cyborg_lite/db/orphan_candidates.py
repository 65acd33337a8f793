# SPDX-License-Identifier: Apache-2.0
"""What may be an orphan, from our rows: questions in a fixed number of statements for many hosts.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
from collections.abc import Collection

import sqlalchemy as sa

from cyborg_lite import states
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import session

T = models.arqs
H = models.attach_handles
D = models.deployables
V = models.devices
N = models.hosts
A = models.attributes
M = models.migrations
P = models.device_partitions


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BoundArq:
    """An ARQ that is on a host. migration_uuid: empty for the active set."""

    uuid: str
    state: str
    instance_uuid: str
    migration_uuid: str
    hostname: str
    resource_provider_name: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LooseHandle:
    """An attach handle that counts as held, by an ARQ that does not exist."""

    uuid: str
    state: str
    hostname: str
    arq_uuid: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SilentHost:
    """A host that is down or gone. arqs: on it. rp_uuids: of its deployables, as far as known to
    Placement. wishes: what an operator set there that no report brings back."""

    name: str
    uuid: str | None
    resource_provider_name: str
    state: str
    last_seen: datetime.datetime | None
    arqs: frozenset[str]
    rp_uuids: tuple[str, ...]
    wishes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """A deployable as Placement should know it. free: handles of it that are; None when unknown."""

    uuid: str
    rp_uuid: str
    hostname: str
    host_state: str
    is_synced: bool
    resource_class: str | None
    free: int


@dataclasses.dataclass(frozen=True, slots=True)
class Migration:
    """An open migration."""

    instance_uuid: str
    migration_uuid: str


def arqs_on(database: session.Database, hosts: Collection[str]) -> list[BoundArq]:
    """The ARQs of these hosts that have an instance. One statement."""
    with database.reading() as connection:
        rows = connection.execute(
            sa.select(T.c.uuid, T.c.state, T.c.instance_uuid, T.c.migration_uuid, T.c.hostname,
                      N.c.resource_provider_name)
            .select_from(T.outerjoin(N, N.c.name == T.c.hostname))
            .where(T.c.hostname.in_(sorted(hosts)), T.c.instance_uuid.is_not(None))
            .order_by(T.c.id)).all()
    return [BoundArq(**row._mapping) for row in rows]


def loose_handles(database: session.Database, hosts: Collection[str]) -> list[LooseHandle]:
    """Held handles of these hosts without an ARQ. One statement."""
    with database.reading() as connection:
        rows = connection.execute(
            sa.select(H.c.uuid, H.c.state, H.c.arq_uuid, V.c.hostname)
            .select_from(H.join(D, D.c.id == H.c.deployable_id).join(V, V.c.id == D.c.device_id)
                         .outerjoin(T, T.c.uuid == H.c.arq_uuid))
            .where(V.c.hostname.in_(sorted(hosts)), H.c.state.in_(sorted(states.HELD_STATES)),
                   T.c.id.is_(None))
            .order_by(H.c.id)).all()
    return [LooseHandle(**row._mapping) for row in rows]


def migrations_of(database: session.Database,
                  instances: Collection[str]) -> dict[str, set[str]]:
    """The open migrations of these instances. One statement."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    if instances:
        with database.reading() as connection:
            for row in connection.execute(
                    sa.select(M.c.instance_uuid, M.c.migration_uuid)
                    .where(M.c.instance_uuid.in_(sorted(instances)))):
                found[row.instance_uuid].add(row.migration_uuid)
    return found


def active_hosts(database: session.Database, instances: Collection[str]) -> dict[str, set[str]]:
    """Where the ARQs of the active sets of these instances are. One statement."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    if instances:
        with database.reading() as connection:
            for row in connection.execute(
                    sa.select(T.c.instance_uuid, T.c.hostname).distinct()
                    .where(T.c.instance_uuid.in_(sorted(instances)), T.c.migration_uuid == "")):
                found[row.instance_uuid].add(row.hostname)
    return found


def empty_migrations(database: session.Database) -> list[Migration]:
    """Open migrations whose inactive set has no ARQ. One statement."""
    with database.reading() as connection:
        rows = connection.execute(
            sa.select(M.c.instance_uuid, M.c.migration_uuid)
            .select_from(M.outerjoin(T, sa.and_(
                T.c.instance_uuid == M.c.instance_uuid,
                T.c.migration_uuid == M.c.migration_uuid)))
            .where(T.c.id.is_(None)).order_by(M.c.id)).all()
    return [Migration(row.instance_uuid, row.migration_uuid) for row in rows]


def known_consumers(database: session.Database, consumers: Collection[str]) -> set[str]:
    """Of these consumers of allocations, those that have ARQs or an open migration."""
    wanted = sorted(consumers)
    if not wanted:
        return set()
    with database.reading() as connection:
        return {*connection.scalars(
                    sa.select(T.c.instance_uuid).where(T.c.instance_uuid.in_(wanted))),
                *connection.scalars(
                    sa.select(M.c.migration_uuid).where(M.c.migration_uuid.in_(wanted)))}


def never_bound(database: session.Database, before: datetime.datetime,
                at_most: int) -> dict[str, datetime.datetime]:
    """ARQs that have been bound to nothing since before then, with the moment since when."""
    with database.reading() as connection:
        rows = connection.execute(
            sa.select(T.c.uuid, T.c.updated_at)
            .where(T.c.state.in_((states.INITIAL, states.UNBOUND)), T.c.updated_at < before)
            .order_by(T.c.id).limit(at_most)).all()
    return {row.uuid: row.updated_at for row in rows}


def silent_hosts(database: session.Database, hosts: Collection[str],
                 horizon: liveness.Horizon) -> list[SilentHost]:
    """Of these hosts, those that are not up. Seven statements, or one when all are up."""
    state = liveness.host_state(horizon).label("state")
    with database.reading() as connection:
        rows = connection.execute(
            sa.select(N.c.name, N.c.uuid, N.c.resource_provider_name, N.c.last_seen, state)
            .where(N.c.name.in_(sorted(hosts)), state != liveness.UP).order_by(N.c.id)).all()
        if not rows:
            return []
        names = [row.name for row in rows]
        bound = _by_host(connection.execute(
            sa.select(T.c.hostname, T.c.uuid).where(T.c.hostname.in_(names))))
        providers = _by_host(connection.execute(
            sa.select(V.c.hostname, D.c.rp_uuid).join_from(D, V, V.c.id == D.c.device_id)
            .where(V.c.hostname.in_(names), D.c.synced.is_not(None)).order_by(D.c.id)))
        wishes = _by_host([
            *connection.execute(
                sa.select(N.c.name, sa.literal("its agent is disabled"))
                .where(N.c.name.in_(names), N.c.status != "enabled")),
            *connection.execute(
                sa.select(V.c.hostname, sa.literal("device ") + V.c.address + " is disabled")
                .where(V.c.hostname.in_(names), V.c.status != "enabled")),
            *connection.execute(
                sa.select(P.c.hostname, sa.literal("a layout was set for device ") + P.c.address)
                .where(P.c.hostname.in_(names), P.c.wished_key.is_not(None))),
            *connection.execute(
                sa.select(V.c.hostname, sa.literal("attribute ") + A.c.key)
                .select_from(A.join(D, D.c.id == A.c.deployable_id)
                             .join(V, V.c.id == D.c.device_id))
                .where(V.c.hostname.in_(names), A.c.origin == "operator"))])
    return [SilentHost(
        name=row.name, uuid=row.uuid, resource_provider_name=row.resource_provider_name,
        state=row.state, last_seen=row.last_seen, arqs=frozenset(bound[row.name]),
        rp_uuids=tuple(providers[row.name]), wishes=tuple(sorted(wishes[row.name])))
        for row in rows]


def _by_host(rows: Collection[sa.Row[tuple[str, str]]] | sa.CursorResult[tuple[str, str]],
             ) -> dict[str, list[str]]:
    found: dict[str, list[str]] = collections.defaultdict(list)
    for host, value in rows:
        found[host].append(value)
    return found


def offered(database: session.Database, horizon: liveness.Horizon) -> list[Offered]:
    """Every deployable of the cloud with the number of its free handles. Two statements."""
    state = sa.func.coalesce(liveness.host_state(horizon), liveness.DOWN)
    free = (sa.select(H.c.deployable_id, sa.func.count().label("free"))
            .where(H.c.state == states.FREE).group_by(H.c.deployable_id).subquery())
    with database.reading() as connection:
        rows = connection.execute(
            sa.select(D.c.uuid, D.c.rp_uuid, V.c.hostname, state.label("host_state"), V.c.status,
                      (D.c.synced.is_not(None)).label("written"), N.c.generation,
                      N.c.synced_generation, A.c.value.label("resource_class"), free.c.free)
            .select_from(D.join(V, V.c.id == D.c.device_id)
                         .outerjoin(N, N.c.name == V.c.hostname)
                         .outerjoin(free, free.c.deployable_id == D.c.id)
                         .outerjoin(A, sa.and_(A.c.deployable_id == D.c.id, A.c.key == "rc")))
            .order_by(D.c.id)).all()
    return [Offered(
        uuid=row.uuid, rp_uuid=row.rp_uuid, hostname=row.hostname, host_state=row.host_state,
        is_synced=bool(row.written) and row.generation == row.synced_generation,
        resource_class=row.resource_class if row.status == "enabled" else None,
        free=row.free or 0) for row in rows]


def providers_elsewhere(database: session.Database, hostname: str) -> set[str]:
    """The resource providers of all other hosts that Placement was given. One statement."""
    with database.reading() as connection:
        return set(connection.scalars(
            sa.select(D.c.rp_uuid).join_from(D, V, V.c.id == D.c.device_id)
            .where(V.c.hostname != hostname, D.c.synced.is_not(None))))


def synced_providers(database: session.Database,
                     horizon: liveness.Horizon) -> list[tuple[str, str, str]]:
    """The resource providers that Placement was given, those of hosts that are up first: name of
    the host, name of its compute node, uuid. One statement.
    """
    is_up = sa.case((liveness.host_state(horizon) == liveness.UP, 0), else_=1)
    with database.reading() as connection:
        return [(row.name, row.resource_provider_name, row.rp_uuid) for row in connection.execute(
            sa.select(N.c.name, N.c.resource_provider_name, D.c.rp_uuid)
            .select_from(D.join(V, V.c.id == D.c.device_id).join(N, N.c.name == V.c.hostname))
            .where(D.c.synced.is_not(None)).order_by(is_up, D.c.id))]


def known_hosts(database: session.Database) -> dict[str, str]:
    """Names of hosts by the names of compute nodes that they go by, in lower case."""
    with database.reading() as connection:
        rows = connection.execute(sa.select(N.c.name, N.c.resource_provider_name)).all()
    return {name.lower(): row.name for row in rows
            for name in (row.resource_provider_name, row.name)}


def hosts_up(database: session.Database, horizon: liveness.Horizon) -> list[tuple[str, str]]:
    """The hosts that are up: name, and name of the compute node. One statement."""
    with database.reading() as connection:
        return [(row.name, row.resource_provider_name) for row in connection.execute(
            sa.select(N.c.name, N.c.resource_provider_name)
            .where(liveness.host_state(horizon) == liveness.UP))]


def dropped_hosts(database: session.Database, names: Collection[str]) -> dict[str, str]:
    """Of these names of compute nodes, those of hosts that were dropped: the hosts' names."""
    orphans = models.orphans
    wanted = sorted({name.lower() for name in names})
    if not wanted:
        return {}
    with database.reading() as connection:
        rows = connection.execute(
            sa.select(orphans.c.host, orphans.c.mark).distinct()
            .where(orphans.c.kind == "host_gone", orphans.c.state == "cleaned",
                   sa.or_(sa.func.lower(orphans.c.host).in_(wanted),
                          sa.func.lower(orphans.c.mark).in_(wanted)))).all()
    return {name.lower(): row.host for row in rows for name in (row.host, row.mark)}


def last_heard(database: session.Database) -> datetime.datetime | None:
    """When a conductor that runs was last heard of."""
    conductors = models.conductors
    with database.reading() as connection:
        found: datetime.datetime | None = connection.scalar(
            sa.select(sa.func.max(conductors.c.last_seen))
            .where(conductors.c.stopped_at.is_(None)))
        return found
