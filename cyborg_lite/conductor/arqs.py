# SPDX-License-Identifier: Apache-2.0
"""ARQs: one function per use case, and the host work of a bind. No SQL, no HTTP.

A bind without host work is over when `bind` returns. One with host work goes on in a thread of
the pool; what a crash leaves of it, `takeover.py` finishes with the same `host_work`.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import logging
import time
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from cyborg_lite import auth
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import metrics
from cyborg_lite import rpc
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import leases
from cyborg_lite.db import liveness
from cyborg_lite.db import session

LOG = logging.getLogger(__name__)

Events = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Binder:
    """What a bind needs of its surroundings.

    deliver: tells Nova of event rows that were just stored. wake_cleaning: called when a handle
    went to `cleaning`. horizon: which hosts count as down. lease_s: how long others leave
    unfinished work alone. cleaning_pool: of its own, because silent hosts hold its threads, and
    binds and events must not wait for them.
    """

    database: session.Database
    agents: rpc.AgentClient
    pool: concurrent.futures.Executor
    cleaning_pool: concurrent.futures.Executor
    deliver: Callable[[Events], None]
    wake_cleaning: Callable[[], None]
    wake_sync: Callable[[], None]
    conductor_id: str
    lease_s: float
    clock: Callable[[], datetime.datetime] = session.now
    horizon: Callable[[], liveness.Horizon] = lambda: liveness.NOBODY_IS_DOWN

    def owner(self) -> leases.Owner:
        """This conductor, with a lease that starts now."""
        return leases.Owner(self.conductor_id,
                            self.clock() + datetime.timedelta(seconds=self.lease_s))

    def agents_by(self, lease: leases.Owner) -> rpc.AgentClient | None:
        """Who asks agents by this lease; None when it is over.

        No agent begins what it is asked after that: by then it may be somebody else's.
        """
        left_s = (lease.lease_until - self.clock()).total_seconds()
        return self.agents.within(left_s) if left_s > 0 else None

    def in_background(self, function: Callable[..., None], *args: Any,
                      pool: concurrent.futures.Executor | None = None) -> None:
        """Run it in the pool, with the request id of who asked."""
        call = auth.current_call()

        def run() -> None:
            with auth.call_context(call):
                try:
                    function(*args)
                except Exception:
                    LOG.exception("background work failed; it is taken up again later")
        (pool or self.pool).submit(run)


def bind(binder: Binder, requests: list[messages.BindRequest]) -> None:
    """Reserve handles, and finish at once what needs no host work.

    Errors that change nothing come from the database layer; BindFailed says that the ARQs are
    BindFailed now, with the reason.
    """
    began = time.monotonic()
    request_id = auth.id_for_others()
    lease = binder.owner()
    outcome = binds.start(binder.database, requests, lease, request_id, binder.horizon())
    asked = {request.arq_uuid: request for request in requests}
    _log_outcome(outcome, asked, began)
    if outcome.events:
        binder.in_background(binder.deliver, outcome.events)
    for hostname, tasks in outcome.tasks.items():
        binder.in_background(host_work, binder, lease, hostname, tasks)
    if outcome.failed:
        raise errors.BindFailed("; ".join(
            f"accelerator request {arq}: {reason}" for arq, reason in outcome.failed.items()))


def host_work(binder: Binder, lease: leases.Owner, hostname: str,
              tasks: list[messages.HandleTask]) -> None:
    """Have the agent prepare reserved handles, and write what became of them.

    An agent that does not answer is asked again by whoever takes the bind over, until
    `bind_timeout`.
    """
    began = time.monotonic()
    agents = binder.agents_by(lease)
    if agents is None:
        return
    try:
        results = agents.prepare(agent_host=hostname, tasks=tasks)
    except errors.Unavailable as error:
        LOG.warning("host=%s does not answer; %d handles wait for their preparation: %s",
                    hostname, len(tasks), error.detail)
        return
    finish(binder, lease, results, began)


def finish(binder: Binder, lease: leases.Owner, results: list[messages.HandleResult],
           began: float) -> None:
    """Write the outcome of host work, tell Nova, and have cleaned what failed."""
    outcome = binds.finish(binder.database, results, lease, binder.owner(),
                           auth.id_for_others())
    _log_outcome(outcome, {}, began)
    if len(outcome.bound) < len(results):
        # given back, or was deleted meanwhile
        binder.wake_cleaning()
    if outcome.events:
        binder.deliver(outcome.events)


def unbind(binder: Binder, uuids: list[str]) -> None:
    """Take handles back; never waits for a host."""
    if arqs.unbind(binder.database, uuids):
        binder.wake_cleaning()
        binder.wake_sync()
    LOG.info("arq=%s unbound", ",".join(uuids))


def delete(binder: Binder, uuids: list[str], project_id: str | None, bound_too: bool) -> None:
    """Delete ARQs; NotFound names those that don't exist, after the others were deleted."""
    missing, to_clean = arqs.delete(binder.database, uuids, project_id, bound_too)
    after_delete(binder, to_clean)
    gone = [one for one in uuids if one not in missing]
    if gone:
        LOG.info("arq=%s deleted", ",".join(gone))
    if missing:
        raise arqs.not_found(missing)


def delete_of_instance(binder: Binder, instance_uuid: str) -> None:
    """Delete all ARQs of an instance, of every set; without any it is a success too."""
    after_delete(binder, arqs.delete_of_instance(binder.database, instance_uuid))
    LOG.info("instance=%s its accelerator requests are deleted", instance_uuid)


def after_delete(binder: Binder, to_clean: bool) -> None:
    """Have cleaned what was given back."""
    if to_clean:
        binder.wake_cleaning()
        binder.wake_sync()


def _log_outcome(outcome: binds.Outcome, asked: Mapping[str, messages.BindRequest],
                 began: float) -> None:
    took_s = time.monotonic() - began
    for arq in outcome.bound:
        request = asked.get(arq)
        where = (f"instance={request.instance_uuid} host={request.hostname} " if request else "")
        LOG.info("arq=%s Bound %s%.0f ms", arq, where, took_s * 1000)
        metrics.BIND_SECONDS.labels("bound").observe(took_s)
    for arq, reason in outcome.failed.items():
        LOG.warning("arq=%s could not be bound or resumed: %s", arq, reason)
        metrics.BIND_SECONDS.labels("failed").observe(took_s)
