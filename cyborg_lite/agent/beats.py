# SPDX-License-Identifier: Apache-2.0
"""What an agent tells conductors of its host: the digest at each beat, the rest when it is wanted.

When a beat is due, and what to beat of, is known to `service.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import metrics
from cyborg_lite import rpc
from cyborg_lite.agent import claims
from cyborg_lite.agent import hardware
from cyborg_lite.agent import settings

LOG = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0


def retry_after_s(failures: int, at_most_s: float) -> float:
    """Try again soon, then less and less soon, at last with the beat's own period."""
    return min(FIRST_RETRY_S * 2.0 ** min(failures, 10), at_most_s)


class Beats:
    """The beats of one agent. heard_at: when a conductor took one last, by the agent's clock."""

    def __init__(self, conductor: rpc.ConductorClient, claim: claims.Claim,
                 clock: Callable[[], float]) -> None:
        self.heard_at: float | None = None
        self._conductor = conductor
        self._claim = claim
        self._clock = clock
        self._failures = 0

    def send(self, wanted: settings.Settings, drivers: list[str],
             found: hardware.Discovery) -> float | None:
        """Tell the conductor the digest, and all the rest if it doesn't know that one.

        Returns the seconds after which to try again, None when the beat was taken. HostTaken.
        """
        try:
            reply = self._conductor.heartbeat(messages.Heartbeat(
                host=wanted.host, digest=found.digest,
                resource_provider_name=wanted.resource_provider_name,
                agent_id=self._claim.identity))
            self._claim.granted()
            if reply.report_wanted:
                self._conductor.report(self._report(wanted, drivers, found))
                LOG.info("host=%s reported %d devices", wanted.host, len(found.devices))
        except errors.HostTaken as error:
            self._claim.refused(error)
            raise
        except (errors.Error, TypeError) as error:
            return self._unheard(wanted, error)
        if self._failures:
            LOG.info("host=%s the conductor answers again", wanted.host)
        self._failures = 0
        self.heard_at = self._clock()
        metrics.HEARTBEATS.labels(wanted.host, "taken").inc()
        return None

    def _unheard(self, wanted: settings.Settings, error: Exception) -> float:
        if not self._failures:
            LOG.warning("host=%s the conductor does not take the heartbeat: %s; it is repeated "
                        "until it does", wanted.host, error)
        metrics.HEARTBEATS.labels(wanted.host, "unheard").inc()
        self._failures += 1
        return retry_after_s(self._failures - 1, wanted.report_interval_s)

    def _report(self, wanted: settings.Settings, drivers: list[str],
                found: hardware.Discovery) -> messages.HostReport:
        return messages.HostReport(
            host=wanted.host, digest=found.digest, devices=found.devices,
            resource_provider_name=wanted.resource_provider_name,
            failed_drivers=found.failed_drivers, drivers=drivers,
            version=config.version(), withheld=found.withheld, agent_id=self._claim.identity)
