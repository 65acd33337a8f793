# SPDX-License-Identifier: Apache-2.0
"""Device profiles: one function per use case. No SQL, no HTTP."""

from __future__ import annotations

import dataclasses
import logging
import uuid

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.db import device_profiles
from cyborg_lite.db import session

LOG = logging.getLogger(__name__)


def create(database: session.Database, profile: messages.DeviceProfile) -> messages.DeviceProfile:
    """Store a profile; without a uuid it gets one."""
    stored = device_profiles.create(
        database, dataclasses.replace(profile, uuid=profile.uuid or str(uuid.uuid4())))
    LOG.info("device_profile=%s name=%s created", stored.uuid, stored.name)
    return stored


def update(database: session.Database, profile: messages.DeviceProfile) -> messages.DeviceProfile:
    """Store a profile over the generation that was read; running instances keep their group."""
    stored = device_profiles.update(database, profile)
    LOG.info("device_profile=%s name=%s updated to generation %d", stored.uuid, stored.name,
             stored.generation)
    return stored


def delete(database: session.Database, uuids: list[str], names: list[str]) -> None:
    """Delete those that can go; InUse or NotFound names the rest."""
    missing, used = device_profiles.delete(database, uuids, names)
    gone = [key for key in [*uuids, *names] if key not in missing and key not in used]
    if gone:
        LOG.info("device_profile=%s deleted", ",".join(gone))
    kept = f" Deleted: {', '.join(gone)}." if gone else ""
    if used:
        absent = f" Not found: {', '.join(missing)}." if missing else ""
        raise errors.InUse(
            f"Device profile {', '.join(used)} is in use by accelerator requests; delete those "
            f"first.{absent}{kept}")
    if missing:
        raise errors.NotFound(f"Device profile {', '.join(missing)} does not exist.{kept}")
