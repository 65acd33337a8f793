# SPDX-License-Identifier: Apache-2.0
"""Delivers stored events until Nova took them. Which events there are is the binds' business."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Protocol

from cyborg_lite import errors
from cyborg_lite import metrics
from cyborg_lite.clients import keystone
from cyborg_lite.clients import nova
from cyborg_lite.db import leases
from cyborg_lite.db import services
from cyborg_lite.db import session

LOG = logging.getLogger(__name__)

LEASE_S = 60
"""How long a conductor has for a batch, before another one delivers it too."""

BATCH = 100
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
AWAY_PATIENCE = 10
"""An event that Nova could not be given is kept so many times as long as one that it refuses."""

AWAY = 0
"""Stands for no answer, where Nova's own statuses stand."""

NOT_TRIED = -1


class Settings(Protocol):
    """The options that are used, of `[conductor]`. event_give_up: seconds."""

    event_give_up: int


class NovaEvents:
    """The worker of one conductor process; `deliver` may run beside `run_once`."""

    def __init__(self, database: session.Database, client: nova.Nova, conductor_id: str,
                 settings: Settings,
                 clock: Callable[[], datetime.datetime] = session.now) -> None:
        self._database = database
        self._client = client
        self._conductor_id = conductor_id
        self._settings = settings
        self._clock = clock
        self._nova_is_away = False

    def deliver(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Deliver events that `insert_events` has just stored and this conductor holds.

        One request an instance; one statement for all that Nova took, one more when it did not take
        all. Raises nothing for Nova or the database: `run_once` tries again what is left.
        """
        if not rows:
            return
        statuses = self._send(rows)
        _count(statuses)
        taken = [row for row, status in zip(rows, statuses, strict=True)
                 if status == nova.DELIVERED]
        rest = [row for row, status in zip(rows, statuses, strict=True)
                if status != nova.DELIVERED]
        try:
            if taken:
                services.delete_events(self._database, services.events_just_stored(taken))
            if rest:
                services.postpone_events(
                    self._database, services.events_just_stored(rest), 1,
                    self._clock() + datetime.timedelta(seconds=FIRST_PAUSE_S))
        except errors.Unavailable as error:
            LOG.warning("%d events are sent again when their lease ends: %s", len(rows),
                        error.detail)

    def run_once(self) -> int:
        """Deliver a batch of events that are due; returns how many Nova took."""
        started = self._clock()
        owner = leases.Owner(self._conductor_id, started + datetime.timedelta(seconds=LEASE_S))
        due = services.take_due_events(self._database, owner, started, BATCH)
        if not due:
            return 0
        statuses = self._send([_as_row(event) for event in due],
                              until=started + datetime.timedelta(seconds=LEASE_S / 2))
        _count(statuses)
        finished, again = [], []
        for event, status in zip(due, statuses, strict=True):
            if status == nova.DELIVERED or self._is_too_old(event, status):
                finished.append(event)
            else:
                again.append((event, status))
        if finished:
            services.delete_events(
                self._database, services.events_with_ids([event.id for event in finished]))
        self._postpone(again)
        return sum(status == nova.DELIVERED for status in statuses)

    def _is_too_old(self, event: services.Event, status: int) -> bool:
        if status == NOT_TRIED:
            return False
        patience_s = self._settings.event_give_up * (
            AWAY_PATIENCE if status == AWAY or status >= 500 else 1)
        age_s = (self._clock() - event.created_at).total_seconds()
        if age_s < patience_s:
            return False
        LOG.log(logging.ERROR if status == 400 else logging.WARNING,
                "arq=%s event dropped: instance=%s status=%s; after %d s and %d tries Nova %s",
                event.arq_uuid, event.instance_uuid, event.status, age_s, event.attempts + 1,
                "did not answer" if status == AWAY else f"answers {status}")
        metrics.NOVA_EVENTS.labels("dropped").inc()
        return True

    def _postpone(self, again: Iterable[tuple[services.Event, int]]) -> None:
        groups: dict[tuple[int, float], list[int]] = {}
        for event, status in again:
            attempts = event.attempts + (status != NOT_TRIED)
            pause_s = 0.0 if status == NOT_TRIED else min(
                LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(event.attempts, 10))
            groups.setdefault((attempts, pause_s), []).append(event.id)
        for (attempts, pause_s), ids in sorted(groups.items()):
            services.postpone_events(
                self._database, services.events_with_ids(ids), attempts,
                self._clock() + datetime.timedelta(seconds=pause_s))

    def _send(self, rows: Sequence[Mapping[str, Any]],
              until: datetime.datetime | None = None) -> list[int]:
        """Send one request an instance; returns Nova's status for each row."""
        by_instance: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            by_instance.setdefault(row["instance_uuid"], []).append(index)
        statuses = [NOT_TRIED] * len(rows)
        for indexes in by_instance.values():
            if until is not None and self._clock() > until:
                break
            answers = self._send_of_instance([rows[index] for index in indexes])
            for index, status in zip(indexes, answers, strict=True):
                statuses[index] = status
            if AWAY in answers:
                # the next instance would wait for the same nothing
                return [AWAY if status == NOT_TRIED else status for status in statuses]
        return statuses

    def _send_of_instance(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[int]:
        try:
            statuses = self._client.send_bound(
                [nova.Bound(row["instance_uuid"], row["arq_uuid"], row["status"]) for row in rows],
                rows[0]["request_id"])
        except keystone.Away as error:
            LOG.log(logging.DEBUG if self._nova_is_away else logging.WARNING,
                    "instance=%s events wait until Nova answers: %s", rows[0]["instance_uuid"],
                    error.detail)
            self._nova_is_away = True
            return [AWAY] * len(rows)
        except errors.Error as error:
            LOG.error("instance=%s events refused: %s", rows[0]["instance_uuid"],
                      error.detail)
            return [400] * len(rows)
        if self._nova_is_away:
            self._nova_is_away = False
            LOG.info("Nova takes events again")
        for row, status in zip(rows, statuses, strict=True):
            LOG.log(logging.INFO if status == nova.DELIVERED else logging.DEBUG,
                    "arq=%s event %s instance=%s Nova answers %d", row["arq_uuid"], row["status"],
                    row["instance_uuid"], status)
        return statuses


def _count(statuses: Sequence[int]) -> None:
    taken = sum(status == nova.DELIVERED for status in statuses)
    tried = sum(status != NOT_TRIED for status in statuses)
    metrics.NOVA_EVENTS.labels("taken").inc(taken)
    metrics.NOVA_EVENTS.labels("refused").inc(tried - taken)


def _as_row(event: services.Event) -> dict[str, Any]:
    return {"instance_uuid": event.instance_uuid, "arq_uuid": event.arq_uuid,
            "status": event.status, "request_id": event.request_id}
