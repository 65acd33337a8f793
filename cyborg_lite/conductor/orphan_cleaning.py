# SPDX-License-Identifier: Apache-2.0
"""Cleans what is confirmed to be an orphan, with the functions that everything else uses.

Each is safe to repeat. In the order ARQ, handle, allocation, provider, rows. Judges nothing.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Callable
from collections.abc import Sequence

from cyborg_lite import errors
from cyborg_lite.clients import keystone
from cyborg_lite.clients import placement
from cyborg_lite.conductor import arqs
from cyborg_lite.conductor import instance_operations
from cyborg_lite.conductor import orphan_judgement as judgement
from cyborg_lite.conductor import providers
from cyborg_lite.db import liveness
from cyborg_lite.db import orphan_deletions
from cyborg_lite.db import orphans
from cyborg_lite.db import services

LOG = logging.getLogger(__name__)

Finding = judgement.Finding
Outcome = tuple[str, str]
"""State of the record, and what stands in the way."""

CLEANED: Outcome = (orphans.CLEANED, "")
CHANGED: Outcome = (orphans.FAILED, "It was bound anew or deleted meanwhile.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cleaner:
    """What cleaning needs of its surroundings. keep: called in between, keeps the lease."""

    binder: arqs.Binder
    placement: placement.Placement
    horizon: liveness.Horizon
    keep: Callable[[], None]

    def clean(self, findings: Sequence[Finding]) -> dict[str, Outcome]:
        """Clean these; returns what became of each by its key. Raises Away, then some are done."""
        found: dict[str, Outcome] = {}
        for kind in judgement.KINDS:
            some = [finding for finding in findings if finding.kind == kind]
            if some:
                self.keep()
                found |= _CLEANERS[kind](self, some)
        return found


def _arqs(cleaner: Cleaner, findings: Sequence[Finding]) -> dict[str, Outcome]:
    single = [finding for finding in findings if not finding.subject]
    found = _each(cleaner, _migration, [one for one in findings if one.subject])
    if single:
        stay, to_clean = orphan_deletions.delete_left_behind(cleaner.binder.database, {
            one.object: (one.evidence["instance_uuid"], str(one.host)) for one in single})
        arqs.after_delete(cleaner.binder, to_clean)
        found |= {one.key: CHANGED if one.object in stay else CLEANED for one in single}
    return found


def _migration(cleaner: Cleaner, finding: Finding) -> Outcome:
    instance, migration = finding.subject
    instance_operations.end(cleaner.binder, instance, migration)
    return CLEANED


def _never_bound(cleaner: Cleaner, findings: Sequence[Finding]) -> dict[str, Outcome]:
    since = {finding.object: datetime.datetime.fromisoformat(finding.subject[0])
             for finding in findings}
    gone = orphan_deletions.delete_never_bound(
        cleaner.binder.database, since, [], cleaner.binder.clock(), "")
    return {finding.key: CLEANED if finding.object in gone else CHANGED for finding in findings}


def _handles(cleaner: Cleaner, findings: Sequence[Finding]) -> dict[str, Outcome]:
    orphan_deletions.release_loose(cleaner.binder.database, [one.object for one in findings])
    cleaner.binder.wake_cleaning()
    cleaner.binder.wake_sync()
    return {finding.key: CLEANED for finding in findings}


def _allocation(cleaner: Cleaner, finding: Finding) -> Outcome:
    cleaner.placement.take_from(finding.object, finding.subject)
    return CLEANED


def _provider(cleaner: Cleaner, finding: Finding) -> Outcome:
    if services.known_providers(cleaner.binder.database, [finding.object]):
        return orphans.KEPT, "Its host has reported it again."
    if not providers.remove(cleaner.placement, finding.object):
        return orphans.KEPT, "It has allocations now."
    return CLEANED


def _deployables(cleaner: Cleaner, findings: Sequence[Finding]) -> dict[str, Outcome]:
    orphan_deletions.compare_again(cleaner.binder.database,
                             {finding.host for finding in findings if finding.host})
    cleaner.binder.wake_sync()
    return {finding.key: CLEANED for finding in findings}


def _host(cleaner: Cleaner, finding: Finding) -> Outcome:
    """Delete the providers of a host, then its rows; nobody makes them again in between."""
    binder, client = cleaner.binder, cleaner.placement
    host, owner = str(finding.host), binder.owner()
    moment = binder.clock()
    if not orphan_deletions.mark_gone(binder.database, host, moment, cleaner.horizon):
        return orphans.KEPT, "Its agent has been heard of again."
    if not orphan_deletions.take_host(binder.database, host, owner, moment):
        return orphans.FAILED, "It is being compared with Placement; next time."
    try:
        for rp_uuid in finding.subject:
            consumers = _consumers(client, rp_uuid)
            if consumers:
                return (orphans.FAILED, f"Resource provider {rp_uuid} has allocations of "
                                        f"{', '.join(sorted(consumers)[:3])}.")
        for rp_uuid in finding.subject:
            cleaner.keep()
            if not providers.remove(client, rp_uuid):
                return orphans.FAILED, f"Resource provider {rp_uuid} has allocations."
        gone = orphan_deletions.drop_host(binder.database, host, owner)
        if gone is None:
            return orphans.FAILED, "It has accelerator requests or held handles."
        LOG.info("host=%s is gone: dropped %d devices, %d handles, %d of them not cleaned",
                 host, gone["devices"], gone["handles"], gone["to_clean"])
    finally:
        orphan_deletions.give_host_back(binder.database, host, owner)
    return CLEANED


def _consumers(client: placement.Placement, rp_uuid: str) -> set[str]:
    try:
        return client.consumers_of(rp_uuid)
    except errors.NotFound:
        return set()


def _each(cleaner: Cleaner, function: Callable[[Cleaner, Finding], Outcome],
          findings: Sequence[Finding]) -> dict[str, Outcome]:
    found = {}
    for finding in findings:
        cleaner.keep()
        try:
            found[finding.key] = function(cleaner, finding)
        except keystone.Away:
            raise
        except errors.Error as error:
            found[finding.key] = (orphans.FAILED, error.detail)
    return found


def _one_by_one(function: Callable[[Cleaner, Finding], Outcome],
                ) -> Callable[[Cleaner, Sequence[Finding]], dict[str, Outcome]]:
    return lambda cleaner, findings: _each(cleaner, function, findings)


_CLEANERS: dict[str, Callable[[Cleaner, Sequence[Finding]], dict[str, Outcome]]] = {
    judgement.ARQ_INSTANCE_GONE: _arqs,
    judgement.ARQ_INSTANCE_ELSEWHERE: _arqs,
    judgement.ARQ_NEVER_BOUND: _never_bound,
    judgement.HANDLE_WITHOUT_ARQ: _handles,
    judgement.ALLOCATION_WITHOUT_CONSUMER: _one_by_one(_allocation),
    judgement.PROVIDER_WITHOUT_DEPLOYABLE: _one_by_one(_provider),
    judgement.DEPLOYABLE_WITHOUT_PROVIDER: _deployables,
    judgement.HOST_GONE: _one_by_one(_host),
}
