# SPDX-License-Identifier: Apache-2.0
"""Hands the counts of the database to Prometheus, and keeps scrapes from becoming a load."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator

from prometheus_client import core

from cyborg_lite import errors
from cyborg_lite import metrics
from cyborg_lite.db import figures
from cyborg_lite.db import liveness
from cyborg_lite.db import session

LOG = logging.getLogger(__name__)

KEPT_S = 10.0
"""Who scrapes more often, or from several places, is told the same again."""


class Collector:
    """What Prometheus is told of the rows. horizon: what counts as silent too long now."""

    def __init__(self, database: session.Database, horizon: Callable[[], liveness.Horizon],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._horizon = horizon
        self._clock = clock
        self._reading = threading.Lock()
        self._known: figures.Figures | None = None
        self._read_at: float | None = None

    def collect(self) -> Iterator[core.GaugeMetricFamily]:
        """Return every gauge; without an answer of the database, only that there is none."""
        known = self._current()
        yield metrics.family(metrics.DATABASE_UP, [((), known is not None)])
        if known is not None:
            yield from _families(known)

    def _current(self) -> figures.Figures | None:
        """Return the counts, at most `KEPT_S` old: several scrapes at one time read them once."""
        with self._reading:
            if self._read_at is None or self._clock() >= self._read_at + KEPT_S:
                self._known = self._read()
                self._read_at = self._clock()
            return self._known

    def _read(self) -> figures.Figures | None:
        try:
            return figures.read(self._database, session.now(), self._horizon())
        except errors.Unavailable as error:
            LOG.warning("metrics of the database are left out: %s", error.detail)
        except Exception:
            LOG.exception("metrics of the database are left out")
        return None


def _families(known: figures.Figures) -> Iterator[core.GaugeMetricFamily]:
    family = metrics.family
    for metric, by_two in ((metrics.DEVICES, known.devices), (metrics.ORPHANS, known.orphans)):
        yield family(metric, sorted(by_two.items()))
    for metric, by_state in ((metrics.HANDLES, known.handles), (metrics.ARQS, known.arqs),
                             (metrics.HOSTS, known.hosts), (metrics.CONDUCTORS, known.conductors),
                             (metrics.LAYOUT_WISHES, known.layout_wishes)):
        yield family(metric, [((state,), number) for state, number in by_state.items()])
    for metric, value in ((metrics.DEVICES_WITHHELD, known.devices_withheld),
                          (metrics.OLDEST_BIND, known.oldest_bind_s),
                          (metrics.MIGRATIONS, known.migrations),
                          (metrics.HOSTS_DISABLED, known.hosts_disabled),
                          (metrics.HOSTS_UNSYNCED, known.hosts_unsynced),
                          (metrics.HOSTS_SYNC_FAILING, known.hosts_sync_failing),
                          (metrics.SYNC_LAG, known.sync_lag_s),
                          (metrics.EVENTS_WAITING, known.events_waiting),
                          (metrics.OLDEST_EVENT, known.oldest_event_s),
                          (metrics.SWEEP_AGE, known.sweep_age_s)):
        yield family(metric, [((), value)] if value is not None else [])
