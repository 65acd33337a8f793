# SPDX-License-Identifier: Apache-2.0
"""Device profiles: one function is one question or one transaction. No policy, no rendering."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.db import models
from cyborg_lite.db import session

T = models.device_profiles


@session.retrying
def create(database: session.Database, profile: messages.DeviceProfile) -> messages.DeviceProfile:
    """Store a new profile; Duplicate when its name or uuid is taken."""
    moment = session.now()
    values = {"uuid": profile.uuid, "name": profile.name, "description": profile.description,
              "groups": session.to_json(profile.groups), "created_at": moment, "updated_at": None}
    try:
        with database.writing() as connection:
            connection.execute(sa.insert(T), values)
    except db_exc.DBDuplicateEntry as error:
        raise errors.Duplicate(
            f"A device profile with name {profile.name} or uuid {profile.uuid} exists already; "
            "choose another, or delete that one first.") from error
    return _message(values)


def list_profiles(database: session.Database,
                  names: Sequence[str] | None) -> list[messages.DeviceProfile]:
    """All profiles, or those with one of the names, oldest first."""
    query = sa.select(T).order_by(T.c.id)
    if names is not None:
        query = query.where(T.c.name.in_(names))
    with database.reading() as connection:
        return [_message(row._mapping) for row in connection.execute(query)]


def get(database: session.Database, uuid: str | None, name: str | None) -> messages.DeviceProfile:
    """The profile with that uuid, or else with that name; NotFound."""
    condition = T.c.uuid == uuid if uuid is not None else T.c.name == name
    with database.reading() as connection:
        row = connection.execute(sa.select(T).where(condition)).first()
    if row is None:
        raise errors.NotFound(f"Device profile {uuid or name} does not exist.")
    return _message(row._mapping)


@session.retrying
def delete(database: session.Database, uuids: Sequence[str],
           names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Delete those that no ARQ refers to; returns what was asked for but is (missing, in use)."""
    with database.writing() as connection:
        found = connection.execute(
            sa.select(T.c.id, T.c.uuid, T.c.name)
            .where(sa.or_(T.c.uuid.in_(uuids), T.c.name.in_(names))).with_for_update()).all()
        used = set(connection.scalars(
            sa.select(models.arqs.c.device_profile_id).distinct()
            .where(models.arqs.c.device_profile_id.in_([row.id for row in found]))))
        connection.execute(sa.delete(T).where(
            T.c.id.in_([row.id for row in found if row.id not in used])))
    by_key = {row.uuid: row for row in found} | {row.name: row for row in found}
    asked = [*uuids, *names]
    return ([key for key in asked if key not in by_key],
            [key for key in asked if key in by_key and by_key[key].id in used])


def _message(row: Any) -> messages.DeviceProfile:
    return messages.DeviceProfile(
        uuid=row["uuid"], name=row["name"], description=row["description"],
        groups=json.loads(row["groups"]), created_at=session.text(row["created_at"]),
        updated_at=session.text(row["updated_at"]))
