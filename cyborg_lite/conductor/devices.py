# SPDX-License-Identifier: Apache-2.0
"""Devices and deployables: one function per use case. No SQL, no HTTP."""

from __future__ import annotations

import logging

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.db import device_detail
from cyborg_lite.db import devices
from cyborg_lite.db import session

LOG = logging.getLogger(__name__)

STATUSES = ("enabled", "maintaining")


def set_status(database: session.Database, uuid: str, status: str,
               reason: str | None = None) -> bool:
    """Enable or disable; Placement follows by the sync. Returns whether anything changed."""
    if status not in STATUSES:
        raise errors.Invalid(f"Device status {status!r} is none of {', '.join(STATUSES)}.")
    changed = devices.set_status(database, uuid, status, reason)
    if changed:
        LOG.info("device=%s %s%s", uuid, status, f": {reason}" if reason else "")
    return changed


def clean_again(database: session.Database, uuid: str) -> int:
    """Have failed handles cleaned again; returns how many. NotFound."""
    devices.get_device(database, uuid)
    number = device_detail.clean_again(database, uuid)
    LOG.info("device=%s %d failed handles are cleaned again", uuid, number)
    return number


def program(database: session.Database, uuid: str, image_uuid: str) -> messages.Deployable:
    """Program a deployable with a bitstream; NotProgrammable when its driver can't."""
    deployable = devices.get_deployable(database, uuid)
    raise errors.NotProgrammable(
        f"Deployable {uuid} ({deployable.name}, driver {deployable.driver_name}) cannot be "
        f"programmed with image {image_uuid}: its driver has no such ability.")
