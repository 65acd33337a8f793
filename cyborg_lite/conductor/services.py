# SPDX-License-Identifier: Apache-2.0
"""Services: whether this conductor hears anything, what counts as silence, who is disabled.

No SQL, no HTTP; the rule itself is `db/liveness.py`.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from typing import Any

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.db import heartbeats
from cyborg_lite.db import liveness
from cyborg_lite.db import service_list
from cyborg_lite.db import session

LOG = logging.getLogger(__name__)

BEATS = 6
"""How many times a conductor beats within `service_down_time`."""

FOLLOWS_AFTER = 0.75
"""Part of `service_down_time`; agents beat several times in what is beyond `write_every_s`."""

STATUSES = (service_list.ENABLED, service_list.DISABLED)


def itself(conductor_id: str, host: str, version: str) -> messages.Service:
    """How a conductor is listed."""
    return messages.Service(
        id=conductor_id, binary=heartbeats.CONDUCTOR, host=host, version=version,
        state=liveness.UP, status=service_list.ENABLED)


class Watch:
    """Counts for how long hosts are silent, as long as this conductor can hear them.

    settings, reconcile: the options of these groups, read at each use. ping: has a call come back
    over the bus; raises Unavailable. What no conductor could hear, without broker or database or
    because none ran, is no silence.
    """

    def __init__(self, database: session.Database, conductor: messages.Service,
                 settings: Any, reconcile: Any, ping: Callable[[], None],
                 clock: Callable[[], datetime.datetime]) -> None:
        self._database = database
        self._conductor = conductor
        self._settings = settings
        self._reconcile = reconcile
        self._ping = ping
        self._clock = clock
        self._heard_at: datetime.datetime | None = None
        self._said_deaf = False

    @property
    def down_s(self) -> float:
        """Seconds of silence after which a host is down."""
        return float(self._settings.service_down_time)

    @property
    def beat_every_s(self) -> float:
        """Seconds between two beats of a conductor."""
        return self.down_s / BEATS

    def _seconds(self, seconds: float) -> datetime.timedelta:
        return datetime.timedelta(seconds=seconds)

    def horizon(self) -> liveness.Horizon:
        """What counts as silent too long at this moment.

        Time stands still where this conductor has not beaten itself: then it may be deaf.
        """
        if self._heard_at is None:
            return liveness.NOBODY_IS_DOWN
        return self._horizon_at(
            min(self._clock(), self._heard_at + self._seconds(2 * self.beat_every_s)))

    def _horizon_at(self, moment: datetime.datetime) -> liveness.Horizon:
        down_before = moment - self._seconds(self.down_s)
        return liveness.Horizon(down_before=down_before, gone_before=min(
            down_before, moment - self._seconds(self._reconcile.host_gone_after)))

    def begin(self) -> None:
        """Take part, before the first call is answered; does not raise."""
        try:
            self._note()
        except errors.Unavailable as error:
            LOG.warning("no host counts as down until this conductor can beat: %s", error.detail)

    def beat_if_due(self) -> None:
        """Beat when it is time; what keeps it from that is said once. Does not raise."""
        if self._heard_at is not None and (
                self._clock() < self._heard_at + self._seconds(self.beat_every_s)):
            return
        try:
            self.beat()
        except errors.Unavailable as error:
            if not self._said_deaf:
                LOG.warning("this conductor does not hear what is sent to it, and no host becomes "
                            "down until it does: %s", error.detail)
            self._said_deaf = True
            return
        if self._said_deaf:
            LOG.info("this conductor hears again what is sent to it")
        self._said_deaf = False

    def beat(self) -> None:
        """Write down that this conductor hears what is sent to it. Raises Unavailable."""
        self._ping()
        self._note()

    def _note(self) -> None:
        moment = self._clock()
        if not heartbeats.conductor_lives(
                self._database, self._conductor, moment,
                deaf_before=moment - self._seconds(2 * self.beat_every_s),
                horizon=self._horizon_at(moment)):
            LOG.info("no conductor has heard of hosts for a while; their silence counts from now")
        self._heard_at = moment

    def end(self) -> None:
        """Take part no more; does not raise."""
        try:
            heartbeats.conductor_stops(self._database, self._conductor.id, self._clock())
        except errors.Unavailable as error:
            LOG.info("the end of this conductor is not written down: %s", error.detail)

    def write_every_s(self) -> float:
        """How coarsely a host's signs of life are written down."""
        return self.down_s / 4

    def hearing(self) -> heartbeats.Hearing:
        """A sign of life is heard now.

        An agent may have beaten since that was last written down, and some of its beats have to be
        missing, before another machine's follows it.
        """
        moment = self._clock()
        return heartbeats.Hearing(
            moment=moment, silent_before=moment - self._seconds(FOLLOWS_AFTER * self.down_s))


def set_status(database: session.Database, service_uuid: str, status: str, reason: str | None,
               horizon: liveness.Horizon) -> tuple[messages.Service, bool]:
    """Enable or disable an agent; Placement follows by the sync. Returns whether it changed."""
    if status not in STATUSES:
        raise errors.Invalid(f"Service status {status!r} is none of {', '.join(STATUSES)}.")
    if status == service_list.ENABLED and reason is not None:
        raise errors.Invalid("disabled_reason is for status disabled; leave it out to enable.")
    service, changed = service_list.set_status(database, service_uuid, status, reason, horizon)
    if changed:
        LOG.info("service=%s host=%s %s %s %s", service.id, service.host, service.binary,
                 service.status, service.disabled_reason or "")
    return service, changed
