# SPDX-License-Identifier: Apache-2.0
"""Makes Placement agree with our rows, host by host, whatever made them differ.

Does not read reports: who changes rows marks the host, and the timer compares each now and then.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import logging
import threading
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Protocol

from cyborg_lite import auth
from cyborg_lite import errors
from cyborg_lite import metrics
from cyborg_lite.clients import keystone
from cyborg_lite.clients import placement
from cyborg_lite.conductor import host_trees
from cyborg_lite.conductor import inventory_diff
from cyborg_lite.conductor import orphan_judgement
from cyborg_lite.conductor import provider_tree
from cyborg_lite.conductor import providers
from cyborg_lite.db import leases
from cyborg_lite.db import orphans
from cyborg_lite.db import services
from cyborg_lite.db import session

LOG = logging.getLogger(__name__)

LEASE_S = 60
BACKOFF_S = 60
"""Longest pause between two tries of a host; the first is 1 s, then each is twice the last."""

EVERY_HOST = "*"


class Settings(Protocol):
    """The options that are used, of `[conductor]`."""

    placement_sync_interval: int
    placement_sync_concurrency: int


class NotYet(errors.Error):
    """The host can't be brought in order now; the text says what is missing."""


class LeaseLost(errors.Error):
    """Another conductor has the host."""

    title = "Another conductor took the host over"


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """One provider that differs, or may."""

    wanted: provider_tree.Wanted
    found: placement.Provider | None
    actual: provider_tree.Actual | None
    ours: provider_tree.Ours


class PlacementSync:
    """The worker of one conductor process. `run_once` may be called from one thread at a time."""

    def __init__(self, database: session.Database, client: placement.Placement, conductor_id: str,
                 settings: Settings,
                 clock: Callable[[], datetime.datetime] = session.now) -> None:
        self._database = database
        self._client = client
        self._conductor_id = conductor_id
        self._settings = settings
        self._clock = clock
        self._stopping = threading.Event()
        self._said: set[tuple[str, str]] = set()

    def stop(self) -> None:
        """Let `run_once` return after the host in hand."""
        self._stopping.set()

    def run_once(self) -> int:
        """Bring every host that is due in order, one after the other; returns how many are.

        Ends early when Placement is away: the next call tries again.
        """
        done = 0
        while not self._stopping.is_set():
            host = services.take_due_host(self._database, self._owner(), self._clock())
            if host is None:
                break
            # an id of its own for each host, in our log as in Placement's
            with auth.call_context({}):
                trouble: errors.Error | None = None
                try:
                    done += self._sync_under_lease(host)
                except errors.Error as error:
                    trouble = error
                # not in the handler, where oslo.log would add the same text again
                if trouble is not None:
                    self._put_off(host, trouble)
                    if isinstance(trouble, keystone.Away):
                        break
        return done

    def _owner(self) -> leases.Owner:
        until = self._clock() + datetime.timedelta(seconds=LEASE_S)
        return leases.Owner(self._conductor_id, until)

    def _sync_under_lease(self, host: services.DirtyHost) -> bool:
        try:
            settled = self.sync_host(host)
        except LeaseLost:
            LOG.info("host=%s another conductor took the Placement sync over", host.name)
            metrics.PLACEMENT_SYNCS.labels("lost").inc()
            return False
        metrics.PLACEMENT_SYNCS.labels("done" if settled else "waiting").inc()
        interval = self._settings.placement_sync_interval
        self._finish(host, min(interval, BACKOFF_S) if not settled else interval, done=True)
        for said in [entry for entry in self._said if entry[0] in (host.name, EVERY_HOST)]:
            self._said.discard(said)
            LOG.info("host=%s is in order in Placement again", host.name)
        return True

    def _put_off(self, host: services.DirtyHost, error: errors.Error) -> None:
        metrics.PLACEMENT_SYNCS.labels("failed").inc()
        pause_s = min(BACKOFF_S, 2 ** min(host.attempts, 10))
        # one line for each trouble, not one for each try; an outage is every host's trouble
        whose = EVERY_HOST if isinstance(error, keystone.Away) else host.name
        level = (logging.DEBUG if not self._is_news(whose, type(error).__name__) else
                 logging.INFO if isinstance(error, NotYet) else logging.WARNING)
        LOG.log(level, "host=%s is not in order in Placement and is tried again: %s",
                host.name, error.detail)
        self._finish(host, pause_s, done=False)

    def _finish(self, host: services.DirtyHost, pause_s: float, *, done: bool) -> None:
        moment = self._clock()
        services.finish_host(
            self._database, host, self._owner(), moment=moment,
            due_at=moment + datetime.timedelta(seconds=pause_s), done=done)

    def _is_news(self, whose: str, what: str) -> bool:
        if (whose, what) in self._said:
            return False
        self._said.add((whose, what))
        return True

    # --- one host ----------------------------------------------------------------------------

    def sync_host(self, host: services.DirtyHost) -> bool:
        """Make the host's providers what its rows say; False when one waits to be deleted.

        Nothing is written, and little read, where nothing differs. Raises NotYet, Away, LeaseLost,
        or what kept one of the providers from being right; the others are right then.
        """
        client = self._client.for_request(auth.id_for_others())
        offers = services.list_offers(self._database, host.name)
        tree = host_trees.read(client, self._database, host, offers)
        if tree is None:
            if not offers:
                return True
            names = provider_tree.compute_names(host.resource_provider_name, host.name)
            raise NotYet(f"Its compute node has no resource provider yet (looked for "
                         f"{', '.join([*names[0], *names[1]])}); Nova makes it.")
        root, found = tree
        removed, kept = self._remove_strangers(client, host, root, found, offers)
        jobs = self._jobs(client, host, root, found, offers)
        written = self._write(client, host, root, jobs) if jobs else 0
        if written or removed:
            LOG.info("host=%s placement in order: providers=%d written=%d removed=%d waiting=%d",
                     host.name, len(offers), written, removed, kept)
        return not kept

    def _remove_strangers(self, client: placement.Placement, host: services.DirtyHost,
                          root: placement.Provider, found: Mapping[str, placement.Provider],
                          offers: Sequence[services.Offer]) -> tuple[int, int]:
        """Delete providers of ours without a row; returns how many went and how many stay."""
        strangers = set(filter(inventory_diff.may_be_ours, found))
        strangers -= {offer.rp_uuid for offer in offers} | {root.uuid}
        if strangers:
            marked = client.list_tree_with_trait(root.uuid, placement.OWNER_TRAIT)
            strangers &= {provider.uuid for provider in marked}
        if strangers:
            # several hosts may share one compute node
            strangers -= services.known_providers(self._database, strangers)
        gone = [uuid for uuid in sorted(strangers) if providers.remove(client, uuid)]
        for uuid in gone:
            LOG.info("host=%s provider=%s %s deleted: it has no deployable",
                     host.name, uuid, found[uuid].name)
        if gone:
            # what a sweep has shown must not vanish without an account
            orphans.account_open(
                self._database, orphan_judgement.PROVIDER_WITHOUT_DEPLOYABLE, gone, self._clock(),
                f"the comparison of {host.name} with Placement"[:255])
        return len(gone), len(strangers) - len(gone)

    def _jobs(self, client: placement.Placement, host: services.DirtyHost,
              root: placement.Provider, found: Mapping[str, placement.Provider],
              offers: Sequence[services.Offer]) -> list[_Job]:
        wishes = [provider_tree.wanted_of(offer) for offer in offers]
        every_trait = frozenset[str]().union(*(wanted.traits for wanted in wishes))
        usable = client.ensure_traits(every_trait)
        for name in sorted(every_trait - usable):
            if self._is_news("trait", name):
                LOG.warning("host=%s trait %s is left out: Placement does not have it and it can't "
                            "be made. Traits are of capital letters, digits and underscores, and "
                            "new ones start with CUSTOM_", host.name, name)
        jobs = []
        for offer, wish in zip(offers, wishes, strict=True):
            wanted = dataclasses.replace(wish, traits=wish.traits & usable)
            provider = found.get(wanted.uuid)
            actual, ours = provider_tree.from_record(offer.synced)
            if provider is None or actual is None or actual.generation != provider.generation:
                actual = None
            elif not (provider_tree.differs_in_place(provider, wanted, root.uuid)
                      or provider_tree.change(wanted, actual, ours)):
                continue
            jobs.append(_Job(wanted, provider, actual, ours))
        return jobs

    def _write(self, client: placement.Placement, host: services.DirtyHost,
               root: placement.Provider, jobs: Sequence[_Job]) -> int:
        # first what will be ours, then Placement: after a crash nothing of ours looks foreign
        self._store(host, {
            job.wanted.deployable_id: provider_tree.to_record(
                None, job.ours.with_wanted(job.wanted))
            for job in jobs if job.ours != job.ours.with_wanted(job.wanted)})
        records: dict[int, dict[str, object]] = {}
        failures: list[errors.Error] = []
        written = 0
        try:
            for name in sorted({job.wanted.resource_class for job in jobs
                                if job.wanted.resource_class}):
                client.ensure_class(name)
            for job, result in self._each(client, host, root, jobs):
                if isinstance(result, errors.Error):
                    failures.append(result)
                    continue
                written += job.found is None or job.found.generation != result.generation
                records[job.wanted.deployable_id] = provider_tree.to_record(
                    result, job.ours.only_wanted(job.wanted, result))
        finally:
            if records:
                self._store(host, records)
        if failures:
            # a trait or class that was there may be gone: look again next time
            client.forget_names()
            raise next((error for error in failures if isinstance(error, keystone.Away)),
                       failures[0])
        return written

    def _each(self, client: placement.Placement, host: services.DirtyHost,
              root: placement.Provider, jobs: Sequence[_Job],
              ) -> list[tuple[_Job, provider_tree.Actual | errors.Error]]:
        """Do the jobs at the same time; keeps the lease meanwhile."""
        away = threading.Event()

        def do(job: _Job) -> provider_tree.Actual | errors.Error:
            if away.is_set():
                return keystone.Away("Placement gave no answer to the requests before.")
            try:
                return providers.make_so(client, root.uuid, job.wanted, job.found, job.actual,
                                         job.ours)
            except keystone.Away as error:
                away.set()
                return error
            except errors.Error as error:
                return error

        if len(jobs) == 1:
            return [(jobs[0], do(jobs[0]))]
        results = []
        renew_at = self._clock() + datetime.timedelta(seconds=LEASE_S / 3)
        with concurrent.futures.ThreadPoolExecutor(
                min(len(jobs), self._settings.placement_sync_concurrency),
                thread_name_prefix="placement") as pool:
            futures = {pool.submit(do, job): job for job in jobs}
            for future in concurrent.futures.as_completed(futures):
                results.append((futures[future], future.result()))
                if self._clock() > renew_at:
                    renew_at = self._clock() + datetime.timedelta(seconds=LEASE_S / 3)
                    if not services.keep_host(self._database, host.id, self._owner()):
                        pool.shutdown(cancel_futures=True)
                        raise LeaseLost()
        return results

    def _store(self, host: services.DirtyHost, records: Mapping[int, Mapping[str, object]]) -> None:
        if records and not services.store_synced(self._database, host, self._owner(), records):
            raise LeaseLost()
