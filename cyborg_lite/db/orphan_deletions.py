# SPDX-License-Identifier: Apache-2.0
"""What is done to orphans and nothing else does: to handles that nobody holds, and to gone hosts.

Which these are is said by `orphan_candidates.py` and by `conductor/`.
"""

from __future__ import annotations

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
from cyborg_lite.db import partition_reports
from cyborg_lite.db import services
from cyborg_lite.db import session
from cyborg_lite.db import uncleaned

T = models.arqs
H = models.attach_handles
D = models.deployables
V = models.devices
N = models.hosts


@session.retrying
def compare_again(database: session.Database, hosts: Collection[str]) -> None:
    """Have these hosts compared with Placement at once."""
    with database.writing() as connection:
        services.mark_hosts_changed(connection, hosts)


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
def delete_left_behind(database: session.Database,
                       found: Mapping[str, tuple[str, str]]) -> tuple[set[str], bool]:
    """Delete ARQs that are still of that instance, on that host: `{arq: (instance, host)}`.

    Returns which stay, because they are somebody else's by now, and whether handles may need
    cleaning.
    """
    with database.writing() as connection:
        rows = arqs.locked(connection, T.c.uuid.in_(sorted(found)))
        going = [row for row in rows if (row.instance_uuid, row.hostname) == found[row.uuid]]
        to_clean = arqs.delete_rows(connection, going)
        # what is not there may have gone in an earlier try, which had no answer
        return ({row.uuid for row in rows} - {row.uuid for row in going},
                to_clean or len(rows) < len(found))


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
        partition_reports.forget_hosts(connection, [hostname])
        return {"devices": devices, "handles": len(handles), "to_clean": len(unclean)}
