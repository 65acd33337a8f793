# SPDX-License-Identifier: Apache-2.0
"""Which handles a bind gets, or why none: looks, locks and judges, stores nothing.

What is asked for is in `bind_wishes.py`, what is stored in `binds.py`.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import bind_wishes
from cyborg_lite.db import closed_devices
from cyborg_lite.db import liveness
from cyborg_lite.db import migration_sets
from cyborg_lite.db import models
from cyborg_lite.db import session

H = models.attach_handles

ENABLED = "enabled"


@dataclasses.dataclass(frozen=True, slots=True)
class Provider:
    """What a bind has to know of a deployable, its device and its host."""

    deployable_id: int
    deployable_name: str
    hostname: str
    prepares: bool
    guest_sees: tuple[str, ...]
    device_status: str
    device_address: str
    driver: str
    host_state: str
    last_seen: datetime.datetime | None
    host_status: str | None
    disabled_reason: str | None
    is_split: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """The handle that an ARQ gets, and where it is."""

    provider: Provider
    handle: sa.Row[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """By ARQ: what it gets, or why it fails. Of a set, all or none."""

    given: dict[str, Given]
    failed: dict[str, str]


def choose(connection: sa.Connection, database: session.Database, todo: bind_wishes.Todo,
           live: Mapping[bind_wishes.Set, str], horizon: liveness.Horizon) -> Choice:
    """Choose and lock a handle for each ARQ.

    live: the sets that a running guest is migrated to. horizon: which hosts count as down.
    """
    providers = _providers(connection, {asked.device_rp_uuid for _, asked in todo}, horizon)
    failed = bind_wishes.fail_whole_sets(todo, {
        asked.arq_uuid: reason for _, asked in todo
        if (reason := _refusal(asked, providers.get(asked.device_rp_uuid)))})
    wanted = collections.Counter(
        providers[asked.device_rp_uuid].deployable_id for _, asked in todo
        if asked.arq_uuid not in failed)
    free = {deployable: _free_handles(connection, database, deployable, number)
            for deployable, number in sorted(wanted.items())}
    failed |= bind_wishes.fail_whole_sets(todo, _closed(connection, todo, failed, providers))
    given, short = _hand_out(todo, failed, providers, free, wanted)
    failed |= bind_wishes.fail_whole_sets(todo, short)
    if live:
        failed |= bind_wishes.fail_whole_sets(
            todo, _differences(connection, todo, live, failed, given))
    return Choice({arq: each for arq, each in given.items() if arq not in failed}, failed)


def _providers(connection: sa.Connection, rp_uuids: Iterable[str],
               horizon: liveness.Horizon) -> dict[str, Provider]:
    D, V, N = models.deployables, models.devices, models.hosts
    P = models.device_partitions
    return {row.rp_uuid: Provider(row.id, row.name, row.hostname, row.prepares,
                                   migration_sets.kind_of(row), row.status,
                                   row.address, row.driver, row.host_state, row.last_seen,
                                   row.host_status, row.disabled_reason,
                                   row.split_id is not None)
            for row in connection.execute(
                sa.select(D.c.rp_uuid, D.c.id, D.c.name, D.c.prepares, V.c.hostname, V.c.status,
                          V.c.address, V.c.driver, *migration_sets.KIND,
                          liveness.host_state(horizon).label("host_state"), N.c.last_seen,
                          N.c.status.label("host_status"), N.c.disabled_reason,
                          P.c.id.label("split_id"))
                .join_from(D, V, V.c.id == D.c.device_id)
                .outerjoin(N, N.c.name == V.c.hostname)
                .outerjoin(P, P.c.device_uuid == V.c.uuid)
                .where(D.c.rp_uuid.in_(rp_uuids)))}


def _refusal(request: messages.BindRequest, provider: Provider | None) -> str | None:
    if provider is None:
        return f"Resource provider {request.device_rp_uuid} is not a deployable of this service."
    if provider.hostname != request.hostname:
        return (f"Resource provider {request.device_rp_uuid} is not on host {request.hostname}; "
                "bind to the host that it belongs to.")
    if provider.device_status != ENABLED:
        return (f"The device of resource provider {request.device_rp_uuid} is disabled; "
                "enable it or choose another provider.")
    if provider.host_status not in (ENABLED, None):
        why = f" ({provider.disabled_reason})" if provider.disabled_reason else ""
        return (f"The agent of host {provider.hostname} is disabled{why}; enable it or choose "
                "another host.")
    if provider.last_seen is not None and provider.host_state != liveness.UP:
        return (f"Host {provider.hostname} is {provider.host_state}: its agent was last heard of "
                f"at {session.text(provider.last_seen)}; choose another host.")
    return None


def _free_handles(connection: sa.Connection, database: session.Database, deployable_id: int,
                  number: int) -> list[sa.Row[Any]]:
    """Lock `number` free handles of a deployable, or all there are."""
    query = (sa.select(H.c.id, H.c.uuid, H.c.type, H.c.info)
             .where(H.c.deployable_id == deployable_id, H.c.state == states.FREE)
             .order_by(H.c.id))
    if not database.skips_locked:
        return list(connection.execute(query.limit(number)))
    found = connection.execute(
        query.limit(number).with_for_update(skip_locked=True)).all()
    if len(found) < number:
        # what was skipped may come free again: wait for those who hold it, then be sure
        found = connection.execute(query.with_for_update()).all()
    return list(found[:number])


def _closed(connection: sa.Connection, todo: bind_wishes.Todo, failures: Mapping[str, str],
            providers: Mapping[str, Provider]) -> dict[str, str]:
    """Why none of a device that is being split is given out.

    Looked at while the handles are locked, as a wish locks them too: none comes between.
    """
    asked = [request for _, request in todo if request.arq_uuid not in failures
             and providers[request.device_rp_uuid].is_split]
    split = closed_devices.deployables_of(
        connection, {providers[request.device_rp_uuid].deployable_id for request in asked}
    ) if asked else set()
    return {request.arq_uuid:
            f"The device of resource provider {request.device_rp_uuid} is being split anew; wait "
            "until its layout is applied, or choose another provider."
            for request in asked
            if providers[request.device_rp_uuid].deployable_id in split}


def _hand_out(todo: bind_wishes.Todo, failed: Mapping[str, str],
              providers: Mapping[str, Provider], free: Mapping[int, Sequence[sa.Row[Any]]],
              wanted: Mapping[int, int]) -> tuple[dict[str, Given], dict[str, str]]:
    """Return what each ARQ gets, and why those for which nothing is left get nothing."""
    given, short = {}, {}
    left = {deployable: iter(handles) for deployable, handles in free.items()}
    for _, asked in todo:
        if asked.arq_uuid in failed:
            continue
        provider = providers[asked.device_rp_uuid]
        handle = next(left[provider.deployable_id], None)
        if handle is not None:
            given[asked.arq_uuid] = Given(provider, handle)
        else:
            short[asked.arq_uuid] = (
                f"Resource provider {asked.device_rp_uuid} on host {asked.hostname} has "
                f"{len(free[provider.deployable_id])} free attach handles; "
                f"{wanted[provider.deployable_id]} are needed.")
    return given, short


def _differences(connection: sa.Connection, todo: bind_wishes.Todo,
                 live: Mapping[bind_wishes.Set, str], failed: Mapping[str, str],
                 given: Mapping[str, Given]) -> dict[str, str]:
    """What a running guest would see change: a live migration can't exchange its devices."""
    seen: dict[bind_wishes.Set, dict[str, migration_sets.Seen]] = collections.defaultdict(dict)
    for _, asked in todo:
        own = bind_wishes.set_of(asked)
        if own in live and asked.arq_uuid not in failed:
            got = given[asked.arq_uuid]
            seen[own][asked.arq_uuid] = migration_sets.guest_sees(
                got.handle.type, got.handle.info, got.provider.guest_sees)
    different: dict[str, str] = {}
    for (instance, _), after in seen.items():
        reason = migration_sets.difference(
            migration_sets.seen_by_guest(connection, instance), list(after.values()))
        if reason:
            different |= dict.fromkeys(after, reason)
    return different
