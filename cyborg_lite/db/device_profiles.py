# SPDX-License-Identifier: Apache-2.0
"""Device profiles: one function is one question or one transaction. No policy, no rendering."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.db import models
from cyborg_lite.db import paging
from cyborg_lite.db import session

T = models.device_profiles


def create(database: session.Database, profile: messages.DeviceProfile) -> messages.DeviceProfile:
    """Store a new profile; Duplicate when its name or uuid is taken."""
    return _create(database, profile, session.now())


@session.retrying
def _create(database: session.Database, profile: messages.DeviceProfile,
            moment: datetime.datetime) -> messages.DeviceProfile:
    values = {"uuid": profile.uuid, "name": profile.name, "description": profile.description,
              "groups": session.to_json(profile.groups), "generation": 0, "created_at": moment,
              "updated_at": None}
    try:
        with database.writing() as connection:
            connection.execute(sa.insert(T), values)
    except db_exc.DBDuplicateEntry as error:
        if not _is_stored(database, values):
            raise _taken(profile) from error
    return _message(values)


def _is_stored(database: session.Database, values: Mapping[str, Any]) -> bool:
    """Whether an earlier try stored this very row, before the connection broke."""
    with database.reading() as connection:
        row = connection.execute(
            sa.select(T).where(T.c.uuid == values["uuid"])).mappings().first()
    return row is not None and all(row[name] == value for name, value in values.items())


def update(database: session.Database, profile: messages.DeviceProfile) -> messages.DeviceProfile:
    """Store name, description and groups over the generation that the caller has read.

    NotFound; ChangedMeanwhile for another generation; InUse for a new name while ARQs refer to
    the profile; Duplicate for a name that is taken. ARQs that exist keep their group.
    """
    return _update(database, profile, session.now())


@session.retrying
def _update(database: session.Database, profile: messages.DeviceProfile,
            moment: datetime.datetime) -> messages.DeviceProfile:
    values = {"name": profile.name, "description": profile.description,
              "groups": session.to_json(profile.groups), "updated_at": moment,
              "generation": profile.generation + 1}
    try:
        with database.writing() as connection:
            row = connection.execute(
                sa.select(T).where(T.c.uuid == profile.uuid).with_for_update()).mappings().first()
            if row is None:
                raise errors.NotFound(f"Device profile {profile.uuid} does not exist.")
            if all(row[name] == value for name, value in values.items()):
                return _message(row)  # stored by an earlier try, before the connection broke
            if row["generation"] != profile.generation:
                raise errors.ChangedMeanwhile(
                    f"Device profile {profile.uuid} was changed since it was read; read it again "
                    "and repeat what is still wanted.")
            if row["name"] != profile.name and connection.scalar(
                    sa.select(models.arqs.c.id)
                    .where(models.arqs.c.device_profile_id == row["id"]).limit(1)):
                raise errors.InUse(
                    f"Device profile {row['name']} can't be renamed while accelerator requests "
                    "refer to it; other changes are possible.")
            connection.execute(sa.update(T).where(T.c.id == row["id"]).values(values))
    except db_exc.DBDuplicateEntry as error:
        raise _taken(profile) from error
    return _message(dict(row) | values)


def _taken(profile: messages.DeviceProfile) -> errors.Duplicate:
    return errors.Duplicate(
        f"A device profile with name {profile.name} or uuid {profile.uuid} exists already; "
        "choose another, or delete that one first.")


ORDER = paging.Order(T, {"uuid": T.c.uuid, "name": T.c.name})


def list_profiles(database: session.Database, names: Sequence[str] | None,
                  page: messages.Page | None = None) -> list[messages.DeviceProfile]:
    """All profiles, or those with one of the names, oldest first unless the page says otherwise."""
    query = sa.select(T)
    if names is not None:
        query = query.where(T.c.name.in_(names))
    with database.reading() as connection:
        found = connection.execute(paging.paged(connection, query, ORDER, page))
        return [_message(row) for row in found.mappings()]


def get(database: session.Database, uuid: str | None, name: str | None) -> messages.DeviceProfile:
    """The profile with that uuid, or else with that name; NotFound."""
    condition = T.c.uuid == uuid if uuid is not None else T.c.name == name
    with database.reading() as connection:
        row = connection.execute(sa.select(T).where(condition)).first()
    if row is None:
        raise errors.NotFound(f"Device profile {uuid or name} does not exist.")
    return _message(row._mapping)


def delete(database: session.Database, uuids: Sequence[str],
           names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Delete those that no ARQ refers to; returns what was asked for but is (missing, in use)."""
    deleted: set[str] = set()
    missing, used = _delete(database, uuids, names, deleted)
    return [key for key in missing if key not in deleted], used


@session.retrying
def _delete(database: session.Database, uuids: Sequence[str], names: Sequence[str],
            deleted: set[str]) -> tuple[list[str], list[str]]:
    """As `delete`; deleted: takes uuids and names, also of a try before the connection broke."""
    with database.writing() as connection:
        found = connection.execute(
            sa.select(T.c.id, T.c.uuid, T.c.name)
            .where(sa.or_(T.c.uuid.in_(uuids), T.c.name.in_(names))).with_for_update()).all()
        used = set(connection.scalars(
            sa.select(models.arqs.c.device_profile_id).distinct()
            .where(models.arqs.c.device_profile_id.in_([row.id for row in found]))))
        connection.execute(sa.delete(T).where(
            T.c.id.in_([row.id for row in found if row.id not in used])))
        deleted.update(key for row in found if row.id not in used for key in (row.uuid, row.name))
    by_key = {row.uuid: row for row in found} | {row.name: row for row in found}
    asked = [*uuids, *names]
    return ([key for key in asked if key not in by_key],
            [key for key in asked if key in by_key and by_key[key].id in used])


def _message(row: Any) -> messages.DeviceProfile:
    return messages.DeviceProfile(
        uuid=row["uuid"], name=row["name"], description=row["description"],
        groups=json.loads(row["groups"]), generation=row["generation"],
        created_at=session.text(row["created_at"]), updated_at=session.text(row["updated_at"]))
