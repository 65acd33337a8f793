# SPDX-License-Identifier: Apache-2.0
"""What may be an orphan, from our rows: questions in a fixed number of statements for many hosts.

Also the two deletions that nothing else does: a handle that nobody holds, a host that is gone.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence

import sqlalchemy as sa

from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import leases
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import orphans
from cyborg_lite.db import services
from cyborg_lite.db import session
from cyborg_lite.db import uncleaned

T = models.arqs
H = models.attach_handles
D = models.deployables
V = models.devices
N = models.hosts
A = models.attributes
M = models.migrations


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
    """Of these hosts, those that are not up. Six statements, or one when all are up."""
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


def known_hosts(database: session.Database) -> dict[str, str]:
    """Names of hosts by the names of compute nodes that they go by, in lower case."""
    with database.reading() as connection:
        rows = connection.execute(sa.select(N.c.name, N.c.resource_provider_name)).all()
    return {name.lower(): row.name for row in rows
            for name in (row.resource_provider_name, row.name)}


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


@session.retrying
def compare_again(database: session.Database, hosts: Collection[str]) -> None:
    """Have these hosts compared with Placement at once."""
    with database.writing() as connection:
        services.mark_hosts_changed(connection, hosts)


# --- deletions --------------------------------------------------------------------------------


@session.retrying
def delete_never_bound(database: session.Database, found: Mapping[str, datetime.datetime],
                       records: Sequence[orphans.Sighting], moment: datetime.datetime,
                       by: str) -> list[str]:
    """Delete ARQs that `never_bound` found, if they are so still, with the account of it.

    records: what to note of each. Returns the uuids of those that went.
    """
    with database.writing() as connection:
        rows = arqs.locked(connection, sa.and_(
            T.c.uuid.in_(sorted(found)), T.c.state.in_((states.INITIAL, states.UNBOUND)),
            T.c.updated_at <= max(found.values())))
        arqs.delete_rows(connection, rows)
        gone = [row.uuid for row in rows]
        orphans.settle(connection, [one for one in records if one.object in gone], moment, by)
        return gone


@session.retrying
def release_loose(database: session.Database, handle_uuids: Sequence[str]) -> dict[str, str]:
    """Give back held handles that have no ARQ; returns the state of each that was one."""
    cleans = (sa.select(D.c.cleans).where(D.c.id == H.c.deployable_id)
              .scalar_subquery().label("cleans"))
    host = (sa.select(V.c.hostname).join_from(D, V, V.c.id == D.c.device_id)
            .where(D.c.id == H.c.deployable_id).scalar_subquery().label("host"))
    held = ~sa.exists().where(T.c.uuid == H.c.arq_uuid)
    release, give_back, forget = (states.handle_move(event)
                                  for event in ("release", "give_back", "forget"))
    with database.writing() as connection:
        rows = connection.execute(
            sa.select(H.c.id, H.c.uuid, H.c.state, cleans, host)
            .where(H.c.uuid.in_(handle_uuids), H.c.state.in_(sorted(states.HELD_STATES)), held)
            .order_by(H.c.id).with_for_update()).all()
        kept = [row for row in rows
                if states.allows(release if row.cleans else give_back, row.state)]
        lost = [row for row in rows if row not in kept and states.allows(forget, row.state)]
        moment = session.now()
        session.bulk_update(connection, H, "id", [
            {"id": row.id, "state": (release if row.cleans else give_back).target,
             "arq_uuid": None, "lease_owner": None, "lease_until": None, "updated_at": moment}
            for row in kept])
        if lost:
            connection.execute(sa.delete(H).where(H.c.id.in_([row.id for row in lost])))
            services.ask_for_report(connection, {row.host for row in lost})
        if rows:
            services.mark_hosts_changed(connection, {row.host for row in rows})
        return {row.uuid: (release if row.cleans else give_back).target if row in kept
                else states.GONE for row in rows}


@session.retrying
def take_host(database: session.Database, hostname: str, owner: leases.Owner,
              moment: datetime.datetime) -> bool:
    """Lease a host, so that nobody makes its providers again meanwhile; False when it is taken."""
    with database.writing() as connection:
        return bool(connection.execute(
            sa.update(N).where(N.c.name == hostname, sa.or_(
                N.c.lease_until.is_(None), N.c.lease_until < moment,
                N.c.lease_owner == owner.conductor))
            .values(lease_owner=owner.conductor, lease_until=owner.lease_until)).rowcount)


@session.retrying
def give_host_back(database: session.Database, hostname: str, owner: leases.Owner) -> None:
    """End the lease of a host that stays."""
    with database.writing() as connection:
        connection.execute(
            sa.update(N).where(N.c.name == hostname, N.c.lease_owner == owner.conductor)
            .values(lease_owner=None, lease_until=None))


@session.retrying
def mark_gone(database: session.Database, hostname: str, moment: datetime.datetime,
              horizon: liveness.Horizon) -> bool:
    """Note that a silent host is gone for good; False when it has been heard of."""
    with database.writing() as connection:
        return bool(connection.execute(
            sa.update(N).where(N.c.name == hostname, liveness.host_state(horizon) != liveness.UP)
            .values(gone_at=sa.func.coalesce(N.c.gone_at, moment))).rowcount)


@session.retrying
def drop_host(database: session.Database, hostname: str,
              owner: leases.Owner) -> Mapping[str, int] | None:
    """Delete the rows of a host that is gone; None when it must stay after all.

    It must have the mark and our lease, and neither ARQs nor held handles. What its agent had
    still to clean is noted: should the host come back, that is cleaned before anybody gets it.
    """
    of_host = sa.select(D.c.id).join_from(D, V, V.c.id == D.c.device_id).where(
        V.c.hostname == hostname)
    with database.writing() as connection:
        host = connection.execute(
            sa.select(N.c.id).where(N.c.name == hostname, N.c.gone_at.is_not(None),
                                    N.c.lease_owner == owner.conductor).with_for_update()).first()
        if host is None or connection.scalar(
                sa.select(sa.func.count()).where(T.c.hostname == hostname)):
            return None
        handles = connection.execute(
            sa.select(H.c.id, H.c.uuid, H.c.state).where(H.c.deployable_id.in_(of_host))
            .order_by(H.c.id).with_for_update()).all()
        if any(row.state in states.HELD_STATES for row in handles):
            return None
        unclean = [row.uuid for row in handles if row.state != states.FREE]
        if unclean:
            uncleaned.take(connection, hostname, unclean)
            uncleaned.note(connection, hostname, unclean)
        devices = connection.execute(sa.delete(V).where(V.c.hostname == hostname)).rowcount
        connection.execute(sa.delete(N).where(N.c.id == host.id))
        return {"devices": devices, "handles": len(handles), "to_clean": len(unclean)}
