# SPDX-License-Identifier: Apache-2.0
"""Finishes what a dead conductor, or a silent agent, left undone. Starts no new kind of work.

Unfinished work has a lease in its row; when the lease runs out, whichever conductor looks next
takes it. So nobody watches who is alive.
"""

from __future__ import annotations

import datetime
import logging
import time

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.conductor import arqs
from cyborg_lite.conductor import orphan_judgement
from cyborg_lite.db import binds
from cyborg_lite.db import handles
from cyborg_lite.db import leases
from cyborg_lite.db import orphan_candidates
from cyborg_lite.db import orphan_deletions

LOG = logging.getLogger(__name__)

BATCH = 100


def finish_binds(binder: arqs.Binder, bind_timeout_s: float) -> int:
    """Repeat the host work of binds that nobody works on; fail those that took too long."""
    lease = binder.owner()
    tasks, too_old = binds.take_unfinished(
        binder.database, lease, binder.clock(), bind_timeout_s, BATCH)
    if too_old:
        arqs.finish(binder, lease, [messages.HandleResult(
            handle_uuid=handle, error=f"The host did not finish within {bind_timeout_s:g} s.")
            for handle in too_old], time.monotonic())
    for hostname, host_tasks in tasks.items():
        LOG.info("host=%s %d unfinished binds taken over", hostname, len(host_tasks))
        binder.in_background(arqs.host_work, binder, lease, hostname, host_tasks)
    return len(too_old) + sum(map(len, tasks.values()))


def clean_handles(binder: arqs.Binder) -> int:
    """Have agents clean the handles that wait for it; a silent agent is asked again later."""
    lease = binder.owner()
    tasks = handles.take_to_clean(
        binder.database, lease, binder.clock(), BATCH, binder.horizon())
    for hostname, host_tasks in tasks.items():
        binder.in_background(_clean_on_host, binder, lease, hostname, host_tasks,
                             pool=binder.cleaning_pool)
    return sum(map(len, tasks.values()))


def _clean_on_host(binder: arqs.Binder, lease: leases.Owner, hostname: str,
                   tasks: list[messages.HandleTask]) -> None:
    agents = binder.agents_by(lease)
    if agents is None:
        return  # it waited for a thread so long that it is somebody else's
    try:
        results = agents.clean(agent_host=hostname, tasks=tasks)
    except errors.Unavailable as error:
        LOG.info("host=%s does not answer; %d handles stay in cleaning: %s",
                 hostname, len(tasks), error.detail)
        return
    for result in results:
        if result.gone:
            LOG.warning("handle=%s host=%s is forgotten, as the host has it no more, and cleaned "
                        "should it come back: %s", result.handle_uuid, hostname, result.error)
        elif result.error:
            LOG.error("handle=%s host=%s could not be cleaned and is not given out again: %s",
                      result.handle_uuid, hostname, result.error)
    handles.finish_clean(binder.database, hostname, results, lease)
    binder.wake_sync()


def expire_unbound(binder: arqs.Binder, ttl_s: float) -> int:
    """Delete ARQs that were never bound, or were unbound, longer than `ttl_s` ago."""
    moment = binder.clock()
    found = orphan_candidates.never_bound(
        binder.database, moment - datetime.timedelta(seconds=ttl_s), BATCH)
    if not found:
        return 0
    verdicts = orphan_judgement.decide(
        orphan_judgement.judge_never_bound(found, ttl_s), {}, moment, 0)
    expired = orphan_deletions.delete_never_bound(
        binder.database, found, [verdict.sighting for verdict in verdicts], moment, "expiry")
    for arq in expired:
        LOG.info("arq=%s expired: bound to nothing for more than %g s", arq, ttl_s)
    return len(expired)
