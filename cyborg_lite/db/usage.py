# SPDX-License-Identifier: Apache-2.0
"""What the cloud holds for each group of a device profile, from our own rows.

Four statements, however many groups, hosts and ARQs. What belongs to a group is decided here as
Placement decides it: the class, every required trait, no forbidden one.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping

import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import closed_devices
from cyborg_lite.db import inventory
from cyborg_lite.db import models
from cyborg_lite.db import session

A = models.attributes
D = models.deployables
H = models.attach_handles
N = models.hosts
P = models.device_profiles
R = models.arqs
V = models.devices

RESOURCE, TRAIT = "resources:", "trait:"


@dataclasses.dataclass(frozen=True, slots=True)
class _Offer:
    """Handles of one deployable in one state."""

    deployable_id: int
    resource_class: str
    hostname: str
    enabled: bool
    handle_state: str | None
    number: int


def of_profile(database: session.Database, profile: messages.DeviceProfile,
               project_id: str | None, *, active_only: bool = False) -> list[messages.GroupUsage]:
    """One entry a group; ARQs of `project_id` alone are counted when it is given. NotFound.

    active_only: ARQs of inactive sets are left out; their handles are used nevertheless.
    """
    classes = {key.removeprefix(RESOURCE) for group in profile.groups for key in group
               if key.startswith(RESOURCE)}
    named = {key.removeprefix(TRAIT) for group in profile.groups for key in group
             if key.startswith(TRAIT)}
    with database.reading() as connection:
        arqs = _arqs(connection, profile.uuid, project_id, active_only=active_only)
        offers = _offers(connection, classes)
        traits = _traits(connection, named)
    return [_usage(group, arqs[number], offers, traits)
            for number, group in enumerate(profile.groups)]


def _arqs(connection: sa.Connection, profile_uuid: str, project_id: str | None, *,
          active_only: bool) -> dict[int, dict[str, int]]:
    profile_id = connection.scalar(sa.select(P.c.id).where(P.c.uuid == profile_uuid))
    if profile_id is None:
        raise errors.NotFound(f"Device profile {profile_uuid} does not exist.")
    query = (sa.select(R.c.device_profile_group_id, R.c.state, sa.func.count())
             .where(R.c.device_profile_id == profile_id)
             .group_by(R.c.device_profile_group_id, R.c.state))
    if project_id is not None:
        query = query.where(R.c.project_id == project_id)
    if active_only:
        query = query.where(R.c.migration_uuid == "")
    counts: dict[int, dict[str, int]] = collections.defaultdict(dict)
    for group, state, number in connection.execute(query):
        counts[group][state] = number
    return counts


def _offers(connection: sa.Connection, classes: set[str]) -> list[_Offer]:
    return [_Offer(row[0], row[1], row[2],
                   row[3] == inventory.ENABLED and row[6] in (inventory.ENABLED, None)
                   and not row[7],
                   row[4], row[5])
            for row in connection.execute(
                sa.select(D.c.id, A.c.value, V.c.hostname, V.c.status, H.c.state,
                          sa.func.count(H.c.id), N.c.status,
                          sa.func.max(sa.case((closed_devices.CLOSED, 1), else_=0)))
                .join_from(A, D, D.c.id == A.c.deployable_id)
                .join(V, V.c.id == D.c.device_id)
                .outerjoin(N, N.c.name == V.c.hostname)
                .outerjoin(closed_devices.P, closed_devices.P.c.device_uuid == V.c.uuid)
                .outerjoin(H, H.c.deployable_id == D.c.id)
                .where(A.c.key == "rc", A.c.value.in_(classes))
                .group_by(D.c.id, A.c.value, V.c.hostname, V.c.status, H.c.state,
                          N.c.status))]


def _traits(connection: sa.Connection, named: set[str]) -> Mapping[int, set[str]]:
    traits: dict[int, set[str]] = collections.defaultdict(set)
    if named:
        for deployable_id, trait in connection.execute(
                sa.select(A.c.deployable_id, A.c.value)
                .where(A.c.key.startswith("trait"), A.c.value.in_(named))):
            traits[deployable_id].add(trait)
    return traits


def _usage(group: dict[str, str], arqs: dict[str, int], offers: list[_Offer],
           traits: Mapping[int, set[str]]) -> messages.GroupUsage:
    fitting = [offer for offer in offers if _fits(group, offer, traits.get(
        offer.deployable_id, set()))]
    used = sum(offer.number for offer in fitting if offer.handle_state in states.HELD_STATES)
    free = sum(offer.number for offer in fitting
               if offer.handle_state == states.FREE and offer.enabled)
    total = sum(offer.number for offer in fitting)
    return messages.GroupUsage(
        arqs=arqs, providers=len({offer.deployable_id for offer in fitting}),
        hosts=len({offer.hostname for offer in fitting}), total=total, used=used, free=free,
        reserved=total - used - free)


def _fits(group: dict[str, str], offer: _Offer, traits: set[str]) -> bool:
    return f"{RESOURCE}{offer.resource_class}" in group and all(
        (key.removeprefix(TRAIT) in traits or key == f"{TRAIT}OWNER_CYBORG")
        == (value == "required")
        for key, value in group.items() if key.startswith(TRAIT))
