# SPDX-License-Identifier: Apache-2.0
"""The agent of one host: discovers, beats, reports when asked, and answers the conductor.

When it does so is here. `hardware.py` asks the drivers, `beats.py` tells the conductor.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from oslo_config import cfg

from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite import metrics
from cyborg_lite import rpc
from cyborg_lite.agent import beats
from cyborg_lite.agent import claims
from cyborg_lite.agent import endpoint
from cyborg_lite.agent import figures
from cyborg_lite.agent import hardware
from cyborg_lite.agent import installed
from cyborg_lite.agent import layouts
from cyborg_lite.agent import reloading
from cyborg_lite.agent import reports
from cyborg_lite.agent import restoring
from cyborg_lite.agent import rounds
from cyborg_lite.agent import settings
from cyborg_lite.agent import uevents

LOG = logging.getLogger(__name__)

CONDUCTOR_TIMEOUT_S = 30.0
STOP_WAIT_S = 60.0
STOP_DISCOVERY_WAIT_S = 5.0

SLOW_S = 30.0
"""A discovery that takes longer is said to hang."""


class Agent:
    """Discovers in one thread and beats in another, so that a driver that hangs costs no beat.

    read_settings: what the configuration holds, asked at the start and in `reload`; may raise.
    listener: made with what it is to call when the kernel announces a change. serve: begins to
    answer calls, once the host is this agent's, and returns what ends that.
    Raises base.ConfigurationError when the drivers can't be had as configured.
    """

    def __init__(self, read_settings: Callable[[], settings.Settings],
                 conductor: rpc.ConductorClient, *,
                 catalogue: installed.Catalogue | None = None,
                 clock: Callable[[], float] = time.monotonic,
                 listener: Callable[[Callable[[], None]], uevents.Listener] | None = None,
                 serve: Callable[[endpoint.Endpoint], Callable[[], None]] = lambda _: lambda: None,
                 ) -> None:
        self._read_settings = read_settings
        self._catalogue = catalogue
        self._clock = clock
        self._listener = listener(self.discover_soon) if listener else None
        self.settings = read_settings()
        for bad in self.settings.files.bad:
            LOG.error("device file not used: %s", bad.text)
        self.hardware = settings.hardware_for(self.settings, catalogue)
        self.claim = claims.Claim(
            self.settings.host, claims.agent_id(self.settings.proc_root, self.settings.host),
            conductor, lambda: serve(self.endpoint))
        self._beats = beats.Beats(conductor, self.claim, clock)
        self.layouts = layouts.Layouts(self.settings.host)
        self.restoration = restoring.Restoration(
            self.settings.host, conductor, self.claim, self.layouts)
        self.endpoint = endpoint.Endpoint(
            self.restoration, self.layouts, lambda: self.hardware, self.discover_soon)
        self._state = threading.RLock()
        """Guards what follows; never held while a driver or the conductor is asked."""
        self._discovery: hardware.Discovery | None = None
        self._asked_since: float | None = None
        self._discovered_at: float | None = None
        self._began_at = clock()
        self._said_slow = False
        self._discover_at = clock()
        self._beat_at = clock()
        self._unrestored = 0
        self._discoveries: rounds.Rounds | None = None
        self._heartbeats: rounds.Rounds | None = None

    # --- the threads --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to discover and to beat; returns at once."""
        LOG.info("agent of host %s starts: drivers %s, provider name %s, sysfs %s",
                 self.settings.host, ", ".join(self.hardware.drivers) or "none",
                 self.settings.resource_provider_name, self.settings.sysfs_root)
        self._began_at = self._clock()
        # what there is, is known in a moment; a driver that hangs is not waited for longer
        self._beat_at = self._clock() + self.settings.report_interval_s
        if self._listener:
            self._listener.start()
        self._discoveries = self._discovering(self.hardware)
        self._heartbeats = rounds.Rounds("heartbeat", self._beat_if_due,
                                         lambda: self.settings.report_interval_s)

    def stop(self) -> None:
        """Finish the beat in hand, then end the threads; a discovery that hangs is left behind."""
        with self._state:
            heartbeats, self._heartbeats = self._heartbeats, None
            discoveries, self._discoveries = self._discoveries, None
        if heartbeats is not None:
            heartbeats.end(0)
        self.claim.end()
        if self._listener:
            self._listener.stop()
        if discoveries is not None:
            discoveries.end(STOP_DISCOVERY_WAIT_S)
        if heartbeats is not None:
            heartbeats.end(STOP_WAIT_S)

    def discover_soon(self) -> None:
        """Discover at once and not at the next period: something announced a change."""
        with self._state:
            self._discover_at = self._clock()
            if self._discoveries is not None:
                self._discoveries.wake()

    def beat_soon(self) -> None:
        """Beat at once and not at the next period."""
        with self._state:
            self._beat_at = self._clock()
            if self._heartbeats is not None:
                self._heartbeats.wake()

    def _discovering(self, drivers: hardware.Hardware) -> rounds.Rounds:
        return rounds.Rounds("discovery", lambda: self.discover_if_due(drivers),
                             lambda: self.settings.report_interval_s)

    def run_once(self) -> float:
        """Do what is due; return the seconds until something is due again."""
        return min(self.discover_if_due(self.hardware), self._beat_if_due())

    # --- discovery ----------------------------------------------------------------------------

    def discover_if_due(self, drivers: hardware.Hardware) -> float:
        """Ask these drivers when it is time; return the seconds until it is time again."""
        with self._state:
            now = self._clock()
            if now < self._discover_at:
                return self._discover_at - now
            # from here on an announced change leads to one more discovery
            self._discover_at = now + self.settings.discover_interval_s
            self._asked_since, self._said_slow = now, False
        found: hardware.Discovery | None = None
        try:
            self.restoration.restore(drivers)
            self._unrestored = 0
            with metrics.DISCOVERY_SECONDS.labels(self.settings.host).time():
                found = self.layouts.shown(drivers.discover())
        except errors.Error as error:
            self._restore_later(error)
        finally:
            with self._state:
                if drivers is self.hardware:
                    self._asked_since = None
                    self._take(found)
        return max(0.0, self._discover_at - self._clock())

    def _restore_later(self, error: errors.Error) -> None:
        """Offer nothing before the host has what it should have; only a conductor knows that."""
        if not self._unrestored and not isinstance(error, errors.HostTaken):
            LOG.warning("host=%s no conductor says what should exist: %s; nothing is discovered "
                        "until one does", self.settings.host, error)
        with self._state:
            self._discover_at = self._clock() + beats.retry_after_s(
                self._unrestored, self.settings.report_interval_s)
        self._unrestored += 1

    def _take(self, found: hardware.Discovery | None) -> None:
        if found is None:
            return
        if self._discovery is None or found.digest != self._discovery.digest:
            LOG.info("host=%s discovered %d devices, failed drivers: %s", self.settings.host,
                     len(found.devices), ", ".join(found.failed_drivers) or "none")
            self.beat_soon()
        self._discovery = found
        self._discovered_at = self._clock()

    def state_now(self) -> figures.State:
        """What it knows now, for those who watch it."""
        with self._state:
            now = self._clock()
            discovered_at, heard_at = (self._began_at if moment is None else moment
                                       for moment in (self._discovered_at, self._beats.heard_at))
            return figures.State(
                host=self.settings.host, drivers=self.hardware.drivers, discovery=self._discovery,
                discovery_age_s=now - discovered_at, heartbeat_age_s=now - heard_at)

    def _known(self) -> hardware.Discovery:
        """Return what was discovered last; before that, that nothing is known of any driver."""
        with self._state:
            if self._asked_since is not None and not self._said_slow:
                waited_s = self._clock() - self._asked_since
                if waited_s >= SLOW_S:
                    LOG.error("driver %s has not answered for %.0f s; what was reported last "
                              "stays, and a change of any device is not seen until it answers",
                              self.hardware.asked, waited_s)
                    self._said_slow = True
            if self._discovery is not None:
                return self._discovery
            drivers = sorted(self.hardware.drivers)
            return hardware.Discovery([], drivers, reports.digest_of([], drivers))

    # --- beats --------------------------------------------------------------------------------

    def _beat_if_due(self) -> float:
        with self._state:
            now = self._clock()
            if now < self._beat_at:
                return self._beat_at - now
            # before looking at what is known: a change that is found from here on sets it anew
            self._beat_at = now + self.settings.report_interval_s
            if self.claim.was_refused:
                return self.settings.report_interval_s  # whose host it is, is asked meanwhile
            found = self._known()
        self._beat(found)
        return max(0.0, self._beat_at - self._clock())

    def _beat(self, found: hardware.Discovery) -> None:
        try:
            retry_s = self._beats.send(self.settings, self.hardware.drivers, found)
        except errors.HostTaken as error:
            self._restore_later(error)
            return
        if retry_s is not None:
            self._beat_at = self._clock() + retry_s

    # --- configuration ------------------------------------------------------------------------

    def reload(self) -> None:
        """Take the configuration as it is now, or keep the old one and say what is wrong."""
        again = reloading.read_again(
            self._read_settings, self.settings, self.hardware, self._catalogue)
        if again is None:
            return
        wanted, drivers = again
        drivers.replace(self.hardware)
        with self._state:
            self.settings, self.hardware = wanted, drivers
            self._asked_since = None
            self.beat_soon()
            if self._discoveries is not None:
                # one that hangs in a driver of the old configuration is not waited for
                self._discoveries.end(0)
                self._discoveries = self._discovering(drivers)
        self.discover_soon()


def agent_from(conf: cfg.ConfigOpts, bus: buses.LocalBus | buses.MessagingBus) -> Agent:
    """Return the agent that the configuration describes, speaking over `bus`.

    Its endpoint is served on `rpc.AGENT_TOPIC` under the host's name. `reload` takes what
    `conf` holds by then; reading the files anew is the process's business.
    """
    # nothing is announced of a recorded tree
    is_this_host = os.path.realpath(conf.agent.sysfs_root) == "/sys"
    return Agent(lambda: settings.read(conf), rpc.ConductorClient(bus, CONDUCTOR_TIMEOUT_S),
                 listener=uevents.Listener if is_this_host else None,
                 serve=lambda endpoint: bus.serve(rpc.AGENT_TOPIC, conf.host, endpoint))
