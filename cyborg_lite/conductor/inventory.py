# SPDX-License-Identifier: Apache-2.0
"""Takes a host's heartbeats and reports, stores the difference. Knows no driver by name."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable

from cyborg_lite import messages
from cyborg_lite.conductor import inventory_diff
from cyborg_lite.db import heartbeats
from cyborg_lite.db import inventory
from cyborg_lite.db import session

LOG = logging.getLogger(__name__)


def heartbeat(database: session.Database, beat: messages.Heartbeat, write_every_s: float,
              hearing: heartbeats.Hearing | None = None) -> messages.HeartbeatReply:
    """Ask for a report unless the host's digest is known; one SELECT when it is. HostTaken.

    write_every_s: how coarsely the host's last sign of life is written down.
    """
    return messages.HeartbeatReply(report_wanted=not _is_known(
        database, beat, write_every_s, hearing or heartbeats.Hearing()))


def report(database: session.Database, host_report: messages.HostReport,
           wake_sync: Callable[[], None], write_every_s: float,
           hearing: heartbeats.Hearing | None = None) -> None:
    """Store what the host has, in one transaction; Placement follows by the sync. HostTaken.

    A report that is stored already costs what a heartbeat does.
    """
    began = time.monotonic()
    hearing = hearing or heartbeats.Hearing()
    if _is_known(database, messages.Heartbeat(
            host=host_report.host, digest=host_report.digest,
            resource_provider_name=host_report.resource_provider_name,
            agent_id=host_report.agent_id), write_every_s, hearing):
        return
    changes = inventory.store(database, host_report, inventory_diff.diff, hearing)
    if changes:
        LOG.info(
            "host=%s report stored: devices %d new %d changed %d gone, handles %d new %d gone "
            "%d missing, %.0f ms", host_report.host, len(changes.devices.new),
            len(changes.devices.changed), len(changes.devices.gone), len(changes.new_handles),
            len(changes.gone_handles), len(changes.lost_handles),
            (time.monotonic() - began) * 1000)
    for device in changes.as_wished:
        LOG.info("device=%s host=%s is split as was wished for", device, host_report.host)
    for device in changes.replaced:
        LOG.warning("device=%s host=%s is of another model now; the layout that was wished for of "
                    "the one before it is forgotten", device, host_report.host)
    wake_sync()


def _is_known(database: session.Database, beat: messages.Heartbeat, write_every_s: float,
              hearing: heartbeats.Hearing) -> bool:
    seen_before = hearing.moment - datetime.timedelta(seconds=write_every_s)
    return heartbeats.is_current(database, beat, seen_before, hearing)
