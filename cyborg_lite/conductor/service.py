# SPDX-License-Identifier: Apache-2.0
"""A conductor: its endpoint, its timers, start and stop. No decisions.

Every timer calls a function that looks for due work in the database, so that it does not matter
which of several conductors has the timer that runs out first.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import logging
import threading
import uuid
from collections.abc import Callable

from oslo_config import cfg

from cyborg_lite import auth
from cyborg_lite import buses
from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite import rpc
from cyborg_lite.clients import keystone
from cyborg_lite.clients import nova
from cyborg_lite.clients import nova_questions
from cyborg_lite.clients import placement
from cyborg_lite.conductor import arqs
from cyborg_lite.conductor import endpoint
from cyborg_lite.conductor import figures
from cyborg_lite.conductor import nova_events
from cyborg_lite.conductor import orphans
from cyborg_lite.conductor import partitioning
from cyborg_lite.conductor import placement_sync
from cyborg_lite.conductor import services
from cyborg_lite.conductor import takeover
from cyborg_lite.db import session

LOG = logging.getLogger(__name__)

BACKGROUND_THREADS = 16
CLEANING_THREADS = 8
LEASE_MARGIN_S = 10
PING_TIMEOUT_S = 5.0
LOOK_FOR_LEFTOVERS_EVERY_S = 5.0
LOOK_FOR_DUE_EVERY_S = 1.0
EXPIRE_EVERY_S = 60.0


class Timer:
    """Calls a function every so often, and at once when woken; an error never ends it."""

    def __init__(self, name: str, interval_s: float, function: Callable[[], object]) -> None:
        self._name, self._interval_s, self._function = name, interval_s, function
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first call comes at once."""
        self._woken.set()
        self._thread.start()

    def wake(self) -> None:
        """Have the next call now; waking it many times is one call."""
        self._woken.set()

    def stop(self) -> None:
        """Return when the call under way is over."""
        self._stopping = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._woken.wait(self._interval_s)
            self._woken.clear()
            if self._stopping:
                return
            self.call()

    def call(self) -> None:
        """Call the function now, in this thread."""
        try:
            with auth.call_context({}):
                self._function()
        except errors.Unavailable as error:
            LOG.warning("%s: %s", self._name, error.detail)
        except Exception:
            LOG.exception("%s failed; it is tried again in %g s", self._name, self._interval_s)


class Conductor:
    """One conductor of any number. `conductor_id` marks its leases.

    pool: runs what goes on behind a call; threads of its own unless given. clock: says what is due.
    """

    def __init__(self, conf: cfg.ConfigOpts, bus: buses.LocalBus | buses.MessagingBus, *,
                 pool: concurrent.futures.Executor | None = None,
                 clock: Callable[[], datetime.datetime] = session.now) -> None:
        options = conf.conductor
        self.conductor_id = str(uuid.uuid4())
        self._bus = bus
        self._host = conf.host
        self.database = session.from_conf(conf, buses.check_deadline)
        self._pool = pool or concurrent.futures.ThreadPoolExecutor(
            BACKGROUND_THREADS, thread_name_prefix="background")
        self._cleaning_pool = pool or concurrent.futures.ThreadPoolExecutor(
            CLEANING_THREADS, thread_name_prefix="cleaning")
        # one session each, and one login
        placement_client = placement.from_conf(conf)
        nova_service = keystone.service_from(conf, "nova", "Nova")
        self.placement_sync = placement_sync.PlacementSync(
            self.database, placement_client, self.conductor_id, options, clock)
        self.nova_events = nova_events.NovaEvents(
            self.database, nova.Nova(nova_service), self.conductor_id, options, clock)
        self.watch = services.Watch(
            self.database, services.itself(self.conductor_id, conf.host, config.version()),
            options, conf.reconcile, self._ping, clock)
        self._sync_timer = Timer("placement sync", LOOK_FOR_DUE_EVERY_S,
                                 self.placement_sync.run_once)
        self._cleaning_timer = Timer("cleaning", LOOK_FOR_LEFTOVERS_EVERY_S, self._clean)
        self.binder = arqs.Binder(
            database=self.database,
            agents=rpc.AgentClient(bus, options.agent_rpc_timeout),
            pool=self._pool, cleaning_pool=self._cleaning_pool, deliver=self.nova_events.deliver,
            wake_cleaning=self._cleaning_timer.wake, wake_sync=self._sync_timer.wake,
            conductor_id=self.conductor_id, horizon=self.watch.horizon,
            lease_s=options.agent_rpc_timeout + LEASE_MARGIN_S, clock=clock)
        self._sweep_timer = Timer("orphans", LOOK_FOR_LEFTOVERS_EVERY_S, self._sweep)
        self.reconciler = orphans.Reconciler(
            binder=self.binder, nova=nova_questions.Questions(nova_service),
            client=placement_client, settings=conf.reconcile, conductor=options,
            wake=self._sweep_timer.wake)
        self.endpoint = endpoint.Endpoint(
            self.database, self.binder, self._sync_timer.wake, self.watch, self.reconciler)
        self._timers = (
            Timer("signs of life", LOOK_FOR_DUE_EVERY_S, self.watch.beat_if_due),
            self._sync_timer, self._cleaning_timer, self._sweep_timer,
            Timer("nova events", LOOK_FOR_DUE_EVERY_S, self.nova_events.run_once),
            Timer("partitioning", LOOK_FOR_DUE_EVERY_S,
                  lambda: partitioning.apply_due(self.binder)),
            Timer("unfinished binds", LOOK_FOR_LEFTOVERS_EVERY_S,
                  lambda: takeover.finish_binds(self.binder, options.bind_timeout)),
            Timer("expiry", EXPIRE_EVERY_S,
                  lambda: takeover.expire_unbound(self.binder, options.unbound_arq_ttl)))
        self._stop_serving: Callable[[], None] | None = None

    def collectors(self) -> list[figures.Collector]:
        """The gauges of the database."""
        return [figures.Collector(self.database, self.watch.horizon)]

    def _ping(self) -> None:
        """Have a call come back over the bus, as a heartbeat of an agent comes."""
        timeout_s = min(PING_TIMEOUT_S, self.watch.beat_every_s)
        self._bus.call(rpc.CONDUCTOR_TOPIC, self._host, "ping", auth.current_call(), {}, timeout_s)

    def _sweep(self) -> None:
        self.reconciler.run_once()

    def _clean(self) -> None:
        takeover.clean_handles(self.binder)

    def start(self) -> None:
        """Answer calls and look for work; returns once it answers."""
        # before the first bind: what a host was silent while no conductor ran is not its fault
        self.watch.begin()
        self._stop_serving = self._bus.serve(rpc.CONDUCTOR_TOPIC, self._host, self.endpoint)
        for timer in self._timers:
            timer.start()

    def work_once(self) -> None:
        """Do once, in this thread, what every timer does; for a conductor that was not started."""
        for timer in self._timers:
            timer.call()

    def stop(self) -> None:
        """Take no new calls, finish the work in hand, close the database."""
        if self._stop_serving is not None:
            self._stop_serving()
        self.placement_sync.stop()
        self.reconciler.stop()
        for timer in self._timers:
            timer.stop()
        for pool in (self._cleaning_pool, self._pool):
            pool.shutdown(wait=True)
        self.watch.end()
        self.database.dispose()

    def reload(self) -> None:
        """The options of the group conductor are read at each use; nothing else is to be done."""
