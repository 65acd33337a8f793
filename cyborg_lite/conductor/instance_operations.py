# SPDX-License-Identifier: Apache-2.0
"""Migrations, suspend and resume: one function per use case. No SQL, no HTTP.

The second set of a migration is bound as any other: `arqs.bind`.
"""

from __future__ import annotations

import logging

from cyborg_lite import auth
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.conductor import arqs
from cyborg_lite.db import leases
from cyborg_lite.db import migration_sets
from cyborg_lite.db import suspensions

LOG = logging.getLogger(__name__)


def begin(binder: arqs.Binder, instance_uuid: str, migration_uuid: str,
          kind: str | None) -> list[messages.Arq]:
    """Open a migration without ARQs; a bind that names it opens one too."""
    found = migration_sets.begin(binder.database, instance_uuid, migration_uuid, kind)
    LOG.info("instance=%s migration=%s is open", instance_uuid, migration_uuid)
    return found


def switch(binder: arqs.Binder, instance_uuid: str, migration_uuid: str,
           to: str) -> list[messages.Arq]:
    """Make the set of the destination, or of the source, the active one."""
    found = migration_sets.switch(binder.database, instance_uuid, migration_uuid, to)
    LOG.info("instance=%s migration=%s the set of the %s is active", instance_uuid,
             migration_uuid, to)
    return found


def end(binder: arqs.Binder, instance_uuid: str, migration_uuid: str) -> list[messages.Arq]:
    """Free the inactive set and forget the migration; never waits for a host."""
    found, to_clean = migration_sets.end(binder.database, instance_uuid, migration_uuid)
    arqs.after_delete(binder, to_clean)
    LOG.info("instance=%s migration=%s is over", instance_uuid, migration_uuid)
    return found


def suspend(binder: arqs.Binder, instance_uuid: str) -> list[messages.Arq]:
    """Suspend the active set; hosts take their side down afterwards, and may be away."""
    lease = binder.owner()
    outcome = suspensions.suspend(binder.database, instance_uuid, lease)
    for hostname, tasks in outcome.tasks.items():
        binder.in_background(_take_down, binder, lease, hostname, tasks,
                             pool=binder.cleaning_pool)
    LOG.info("instance=%s is suspended", instance_uuid)
    return outcome.arqs


def _take_down(binder: arqs.Binder, lease: leases.Owner, hostname: str,
               tasks: list[messages.HandleTask]) -> None:
    """Have the agent remove its side. What it can't, it keeps: the handle is the instance's."""
    agents = binder.agents_by(lease)
    if agents is None:
        return
    results: list[messages.HandleResult] = []
    try:
        results = agents.take_down(agent_host=hostname, tasks=tasks)
    except errors.TooOld as error:
        LOG.warning("host=%s the host side of %d handles stays while they are suspended: %s",
                    hostname, len(tasks), error.detail)
    except errors.Unavailable as error:
        # it may still be doing it: the lease keeps a resumption away until that is over
        LOG.warning("host=%s did not say that it took down the host side of %d handles: %s",
                    hostname, len(tasks), error.detail)
        return
    for result in results:
        if result.error:
            LOG.warning("handle=%s host=%s its host side stays while it is suspended: %s",
                        result.handle_uuid, hostname, result.error)
    again = binder.owner()
    resumed = suspensions.taken_down(
        binder.database, [task.handle_uuid for task in tasks], lease, again)
    binder.wake_cleaning()
    for host, resumed_tasks in resumed.items():
        binder.in_background(arqs.host_work, binder, again, host, resumed_tasks)


def resume(binder: arqs.Binder, instance_uuid: str) -> list[messages.Arq]:
    """Have the host side made again; each ARQ ends with the event of a bind."""
    lease = binder.owner()
    outcome = suspensions.resume(binder.database, instance_uuid, lease,
                                 auth.id_for_others())
    if outcome.events:
        binder.in_background(binder.deliver, outcome.events)
    for hostname, tasks in outcome.tasks.items():
        binder.in_background(arqs.host_work, binder, lease, hostname, tasks)
    LOG.info("instance=%s is being resumed", instance_uuid)
    return outcome.arqs
