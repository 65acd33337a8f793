# SPDX-License-Identifier: Apache-2.0
"""Sweeps: find, judge, act, in batches of hosts that one conductor has at a time.

What is found is in `orphan_facts.py`, what it means in `orphan_judgement.py`, what is done about it
in `orphan_cleaning.py`. Timer, API and manage command all come here.
"""

from __future__ import annotations

import collections
import datetime
import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Protocol

from cyborg_lite import auth
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.clients import keystone
from cyborg_lite.clients import nova_questions
from cyborg_lite.clients import placement
from cyborg_lite.conductor import arqs
from cyborg_lite.conductor import orphan_brake
from cyborg_lite.conductor import orphan_cleaning
from cyborg_lite.conductor import orphan_facts
from cyborg_lite.conductor import orphan_judgement as judgement
from cyborg_lite.conductor import orphan_witnesses
from cyborg_lite.db import leases
from cyborg_lite.db import liveness
from cyborg_lite.db import orphans
from cyborg_lite.db import session
from cyborg_lite.db import sweeps

LOG = logging.getLogger(__name__)

LEASE_S = 120
"""Longer than any one question may take; renewed between them."""

REST = 3
"""How much longer than it worked a conductor rests after each batch of a sweep."""

PAUSE_S = 60
"""After a sweep that failed, until something is looked at again."""

TIMER = "the timer"

HELD = ("cleans nothing of kind %s: %s. See that [nova] leads to the Nova of this cloud and that "
        "it knows its servers, then have each cleaned (openstack accelerator orphan clean), or "
        "raise the limits.")

Told = Callable[[Sequence[judgement.Verdict]], None]


class Settings(Protocol):
    """The options of `[reconcile]`."""

    enabled: bool
    interval: int
    grace_period: int
    dry_run: bool
    heal_allocations: bool
    batch_size: int
    brake_above: int
    brake_above_percent: int


class ConductorSettings(Protocol):
    """The options of `[conductor]` that are used."""

    unbound_arq_ttl: int


class Abandoned(Exception):
    """The batch in hand is left as it is: another conductor has it, or will have it."""


class Reconciler:
    """The worker of one conductor process. `run_once` may be called from one thread at a time.

    wake: has `run_once` called soon. horizon: which hosts count as silent; the binder's at first.
    """

    def __init__(self, *, binder: arqs.Binder, nova: nova_questions.Questions,
                 client: placement.Placement, settings: Settings, conductor: ConductorSettings,
                 wake: Callable[[], None] = lambda: None) -> None:
        self._binder = binder
        self._database = binder.database
        self._nova = nova
        self._placement = client
        self._settings = settings
        self._conductor = conductor
        self._clock = binder.clock
        self._wake = wake
        self.horizon: Callable[[], liveness.Horizon] = binder.horizon
        self._stopping = threading.Event()
        self._said: str | None = None
        self._left_out: str | None = None
        self._warned: set[tuple[str, str]] = set()

    def stop(self) -> None:
        """Let `run_once` return soon; what is left of the batch in hand is another conductor's."""
        self._stopping.set()

    # --- beginning ---------------------------------------------------------------------------

    def start(self, host: str | None, dry_run: bool, asked_by: str | None = None,
              ) -> messages.Sweep:
        """Begin a sweep; whichever conductor comes first works on it. NotFound for the host."""
        sweep = sweeps.start(
            self._database, mode=sweeps.DRY_RUN if dry_run else self._mode(), host=host,
            asked_by=asked_by or _caller(), moment=self._clock())
        self._wake()
        return sweep

    def sweep_here(self, host: str | None, dry_run: bool, asked_by: str,
                   told: Told) -> messages.Sweep:
        """Begin a sweep and do all of it in this thread; returns it. NotFound for the host.

        told: gets what is found, batch by batch. Other conductors take it over should this die.
        """
        sweep = sweeps.start(
            self._database, mode=sweeps.DRY_RUN if dry_run else self._mode(), host=host,
            asked_by=asked_by, moment=self._clock(), owner=self._owner())
        while self.work_once(told, sweep.id):
            pass
        return sweeps.get(self._database, sweep.id)

    def clean(self, orphan_uuid: str, asked_by: str | None = None) -> None:
        """Have one confirmed orphan cleaned, if it still is one; NotFound, StateConflict."""
        orphan = orphans.get(self._database, orphan_uuid)
        if orphan.state != orphans.CONFIRMED:
            raise errors.StateConflict(
                f"Orphan {orphan_uuid} is {orphan.state}; only one that is confirmed can be "
                f"cleaned. {orphan.reason}")
        host = orphan.host if orphan.kind in judgement.OF_HOSTS else None
        sweeps.start(self._database, mode=sweeps.CLEAN, host=host, only=orphan_uuid,
                     hosts=() if host is None else None, asked_by=asked_by or _caller(),
                     moment=self._clock())
        self._wake()

    def _mode(self) -> str:
        return sweeps.RECORD if self._settings.dry_run else sweeps.CLEAN

    def _start_due(self) -> None:
        """Begin a sweep when it is time, or when something seen once has to be looked at again."""
        if not self._settings.enabled:
            return
        moment = self._clock()
        last = sweeps.last_of_all_hosts(self._database)
        # also when that was said by a clock that was far ahead
        if last is None or abs(moment - last) >= datetime.timedelta(
                seconds=self._settings.interval):
            sweeps.start(self._database, mode=self._mode(), asked_by=TIMER, moment=moment)
            return
        if sweeps.failed_since(self._database, moment - datetime.timedelta(seconds=PAUSE_S)):
            return
        seen = orphans.due_hosts(
            self._database, moment - datetime.timedelta(seconds=self._settings.grace_period))
        if seen:
            sweeps.start(self._database, mode=self._mode(), asked_by=TIMER, moment=moment,
                         hosts={host for host in seen if host})

    # --- working -----------------------------------------------------------------------------

    def run_once(self) -> int:
        """Begin what is due, and work until nothing is left; returns the number of batches.

        It rests after each batch: binds have the processor of this conductor meanwhile.
        """
        self._start_due()
        done = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            if not self.work_once():
                break
            done += 1
            self._stopping.wait(REST * (time.monotonic() - began))
        return done

    def work_once(self, told: Told = lambda verdicts: None, only: str | None = None) -> bool:
        """Do one batch of the oldest sweep, or of that one; False when there is none.

        told: gets what is found.
        """
        work = sweeps.take(self._database, self._owner(), self._clock(),
                           self._settings.batch_size, only)
        if work is None:
            return False
        fault: str | None = None
        try:
            self._do(work, told)
        except Abandoned:
            LOG.info("sweep=%s another conductor takes %d hosts over", work.uuid, len(work.hosts))
        except keystone.Stumbled as error:
            self._leave_out(work, error.detail)
            return True
        except errors.Error as error:
            fault = error.detail
        except Exception as error:
            LOG.exception("sweep=%s failed", work.uuid)
            self._leave_out(work, f"{type(error).__name__}; the log has more.")
            return True
        if fault is None:
            if self._said is not None:
                LOG.info("sweep=%s Nova and Placement answer again", work.uuid)
            self._said = None
        else:
            sweeps.fail(self._database, work, fault, self._clock())
            LOG.log(logging.DEBUG if self._said == fault else logging.WARNING,
                    "sweep=%s judges nothing and ends: %s", work.uuid, fault)
            self._said = fault
        return True

    def _leave_out(self, work: sweeps.Work, fault: str) -> None:
        """End a batch that can't be judged, whose trouble need not be that of the others."""
        LOG.log(logging.DEBUG if self._left_out == work.uuid else logging.WARNING,
                "sweep=%s host=%s nothing more of them is judged: %s", work.uuid,
                ",".join(work.hosts[:5]), fault)
        self._left_out = work.uuid
        self._end(work, {}, fault)

    def _end(self, work: sweeps.Work, counts: Mapping[str, int], fault: str | None) -> None:
        sweep = sweeps.finish(self._database, work, self._owner(), counts, self._clock(), fault)
        if sweep is not None:
            LOG.info("sweep=%s over: %s", sweep.id, " ".join(
                f"{name}={number}" for name, number in sorted(sweep.counts.items())))

    def _warn(self, work: sweeps.Work, about: str, text: str) -> None:
        """Say once a sweep that somebody must act."""
        self._warned = {one for one in self._warned if one[0] == work.uuid}
        LOG.log(logging.DEBUG if (work.uuid, about) in self._warned else logging.ERROR,
                "sweep=%s %s", work.uuid, text)
        self._warned.add((work.uuid, about))

    def _owner(self) -> leases.Owner:
        return leases.Owner(self._binder.conductor_id,
                            self._clock() + datetime.timedelta(seconds=LEASE_S))

    def _do(self, work: sweeps.Work, told: Told) -> None:
        request_id = auth.id_for_others()
        keeper = _Keeper(self, work)
        moment = self._clock()
        horizon = self.horizon()
        asker = orphan_witnesses.Asker(
            database=self._database, nova=self._nova.for_request(request_id),
            placement=self._placement.for_request(request_id), horizon=horizon,
            keep=keeper.keep)
        findings, checked = self._find(asker, work, moment)
        verdicts, over = self._judge(work, findings, moment)
        told(verdicts)
        counts = collections.Counter(checked=checked)
        keeper.keep(at_once=True)
        if work.mode == sweeps.DRY_RUN:
            counts.update(verdict.sighting.state for verdict in verdicts)
        else:
            cleaner = orphan_cleaning.Cleaner(
                binder=self._binder, placement=self._placement.for_request(request_id),
                horizon=horizon, keep=keeper.keep)
            counts.update(self._act(work, cleaner, verdicts, over, moment))
        counts.update(verdict.finding.kind for verdict in verdicts)
        for doubt in asker.doubts:
            self._warn(work, "Nova", doubt)
        self._end(work, counts, next(iter(asker.doubts), None))

    def _find(self, asker: orphan_witnesses.Asker, work: sweeps.Work,
              moment: datetime.datetime) -> tuple[list[judgement.Finding], int]:
        if not work.is_last:
            return orphan_facts.find_of_hosts(asker, work.hosts)
        ttl_s = self._conductor.unbound_arq_ttl
        return orphan_facts.find_of_no_host(
            asker, work.host, never_bound_before=moment - datetime.timedelta(seconds=ttl_s),
            ttl_s=ttl_s, heals=self._settings.heal_allocations)

    def _judge(self, work: sweeps.Work, findings: Sequence[judgement.Finding],
               moment: datetime.datetime,
               ) -> tuple[list[judgement.Verdict], list[orphans.Record]]:
        """Compare with what was seen before; returns also what is there no more."""
        condition = (orphans.of_no_host(judgement.OF_NO_HOST, work.host) if work.is_last
                     else orphans.of_hosts(work.hosts, judgement.OF_HOSTS))
        records = orphans.find(self._database, condition, [one.key for one in findings])
        found = {finding.key for finding in findings}
        over = [record for key, record in records.items() if key not in found]
        verdicts = judgement.decide(findings, records, moment, self._settings.grace_period)
        if work.only is not None:
            verdicts = [verdict for verdict in verdicts if verdict.sighting.record is not None
                        and verdict.sighting.record.uuid == work.only]
            over = [record for record in over if record.uuid == work.only]
        return verdicts, over

    def _act(self, work: sweeps.Work, cleaner: orphan_cleaning.Cleaner,
             verdicts: Sequence[judgement.Verdict], over: Sequence[orphans.Record],
             moment: datetime.datetime) -> collections.Counter[str]:
        by = f"sweep {work.uuid} of {work.asked_by}"[:255]
        if work.mode == sweeps.CLEAN and work.only is None:
            verdicts, held = orphan_brake.hold(self._database, verdicts, over, self._settings)
            for kind, why in held.items():
                self._warn(work, kind, HELD % (kind, why))
        ids = orphans.store(self._database, [verdict.sighting for verdict in verdicts], over,
                            moment, by) if verdicts or over else {}
        # without those that somebody has cleaned meanwhile
        going = [verdict for verdict in verdicts if verdict.is_confirmed
                 and work.mode == sweeps.CLEAN and verdict.finding.key in ids]
        states = {verdict.finding.key: verdict.sighting.state for verdict in verdicts}
        if going:
            orphans.begin_acting(self._database, [ids[one.finding.key] for one in going], moment)
            outcomes = cleaner.clean([verdict.finding for verdict in going])
            cleaned = [key for key, outcome in outcomes.items()
                       if outcome == orphan_cleaning.CLEANED]
            orphans.finish_acting(
                self._database, [ids[key] for key in cleaned],
                {ids[key]: outcome for key, outcome in outcomes.items()
                 if outcome != orphan_cleaning.CLEANED}, self._clock(), by)
            states |= {key: state for key, (state, _) in outcomes.items()}
            for verdict in going:
                _log_one(verdict.finding, outcomes[verdict.finding.key], by)
        return collections.Counter(states.values())


def note_leftovers(database: session.Database, host: str, leftovers: Mapping[str, str],
                   moment: datetime.datetime) -> None:
    """Keep an account of what an agent removed."""
    verdicts = judgement.decide(judgement.judge_leftovers(host, leftovers), {}, moment, 0)
    orphans.account(database, [verdict.sighting for verdict in verdicts], moment,
                    f"the agent of {host}"[:255])


class _Keeper:
    """Lengthens the lease of a batch now and then while it is worked on."""

    def __init__(self, reconciler: Reconciler, work: sweeps.Work) -> None:
        self._reconciler = reconciler
        self._work = work
        self._again_at = reconciler._clock() + datetime.timedelta(seconds=LEASE_S / 4)

    def keep(self, *, at_once: bool = False) -> None:
        """Raises Abandoned when somebody else has it, or this conductor stops."""
        reconciler = self._reconciler
        if reconciler._stopping.is_set():
            raise Abandoned
        if at_once or reconciler._clock() > self._again_at:
            self._again_at = reconciler._clock() + datetime.timedelta(seconds=LEASE_S / 4)
            if not sweeps.keep(reconciler._database, self._work, reconciler._owner()):
                raise Abandoned


def _caller() -> str:
    return f"user {auth.current_call().get('user_id') or 'unknown'}"


def _log_one(finding: judgement.Finding, outcome: orphan_cleaning.Outcome, by: str) -> None:
    state, why = outcome
    LOG.log(logging.INFO if state == orphans.CLEANED else logging.WARNING,
            "%s=%s host=%s %s by %s: %s %s", finding.kind, finding.object, finding.host, state, by,
            finding.reason, why or "; ".join(
                f"{name}: {text}" for name, text in sorted(finding.evidence.items())))
