# SPDX-License-Identifier: Apache-2.0
"""The agent of one host: discovers, beats, reports when asked, and answers the conductor.

No vendor names here, and no decision about devices: `hardware.py` asks the drivers.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
import threading
import time
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.agent import hardware
from cyborg_lite.drivers import base

LOG = logging.getLogger(__name__)

CONDUCTOR_TIMEOUT_S = 30.0
FIRST_RETRY_S = 1.0
STOP_WAIT_S = 60.0

_NO_DRIVERS_GROUP = frozenset({"api", "conductor", "agent"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the agent takes from the configuration, at one moment.

    options: the drivers' groups with their values.
    """

    host: str
    resource_provider_name: str
    report_interval_s: float = 10.0
    discover_interval_s: float = 60.0
    enabled_drivers: tuple[str, ...] = ("fake_driver",)
    sysfs_root: str = "/sys"
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def settings_from(conf: cfg.ConfigOpts,
                  full_name: Callable[[], str] = socket.getfqdn) -> Settings:
    """Read the settings.

    The provider's name is only where the conductor begins to look: it asks Placement for the
    host's name too, since a short name and a full one often differ.
    """
    name = conf.agent.resource_provider_name or full_name() or conf.host
    options = {group: {option.dest: conf[group][option.dest] for option in group_options}
               for group, group_options in config.OWN_OPTIONS.items()
               if group is not None and group not in _NO_DRIVERS_GROUP}
    return Settings(
        host=conf.host, resource_provider_name=name,
        report_interval_s=conf.agent.report_interval,
        discover_interval_s=conf.agent.discover_interval,
        enabled_drivers=tuple(conf.agent.enabled_drivers), sysfs_root=conf.agent.sysfs_root,
        options=options)


class Endpoint:
    """What a conductor may ask of this host."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    @rpc.exposed
    def prepare(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make the handles attachable; one result a task."""
        return self._agent.hardware.prepare(tasks)

    @rpc.exposed
    def clean(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make the handles ready for somebody else; one result a task."""
        return self._agent.hardware.clean(tasks)


class Agent:
    """Runs in one thread of its own; `run_once` is what that thread repeats.

    read_settings: what the configuration holds, asked at the start and in `reload`; may raise.
    Raises base.ConfigurationError when the drivers can't be had as configured.
    """

    def __init__(self, read_settings: Callable[[], Settings], conductor: rpc.ConductorClient, *,
                 catalogue: hardware.Catalogue | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._read_settings = read_settings
        self._conductor = conductor
        self._catalogue = catalogue
        self._clock = clock
        self.settings = read_settings()
        self.hardware = self._hardware_for(self.settings)
        self.endpoint = Endpoint(self)
        self._discovery: hardware.Discovery | None = None
        self._discover_at = clock()
        self._beat_at = clock()
        self._failures = 0
        self._wake = threading.Event()
        self._stopping = False
        self._running = threading.Lock()
        self._thread: threading.Thread | None = None

    def _hardware_for(self, settings: Settings) -> hardware.Hardware:
        return hardware.Hardware(settings.enabled_drivers, settings.options, settings.sysfs_root,
                                 self._catalogue)

    # --- the thread ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to discover and to beat; returns at once."""
        LOG.info("agent of host %s starts: drivers %s, provider name %s, sysfs %s",
                 self.settings.host, ", ".join(self.hardware.drivers) or "none",
                 self.settings.resource_provider_name, self.settings.sysfs_root)
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="agent", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the round in hand, then end the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(STOP_WAIT_S)
            self._thread = None

    def discover_soon(self) -> None:
        """Discover at once and not at the next period: something announced a change."""
        self._discover_at = self._clock()
        self._wake.set()

    def _loop(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                wait_s = self.run_once()
            except Exception:
                LOG.exception("agent round failed; it is repeated")
                wait_s = self.settings.report_interval_s
            if not self._stopping:
                self._wake.wait(wait_s)

    def run_once(self) -> float:
        """Do what is due; return the seconds until something is due again."""
        with self._running:
            if self._clock() >= self._discover_at:
                self._discover()
            if self._clock() >= self._beat_at:
                self._beat()
            return max(0.0, min(self._discover_at, self._beat_at) - self._clock())

    # --- discovery and beats ------------------------------------------------------------------

    def _discover(self) -> None:
        self._discover_at = self._clock() + self.settings.discover_interval_s
        found = self.hardware.discover()
        if self._discovery is None or found.digest != self._discovery.digest:
            LOG.info("host=%s discovered %d devices, failed drivers: %s", self.settings.host,
                     len(found.devices), ", ".join(found.failed_drivers) or "none")
            self._beat_at = self._clock()
        self._discovery = found

    def _beat(self) -> None:
        """Tell the conductor the digest, and all the rest if it doesn't know that one."""
        if self._discovery is None:
            return
        try:
            reply = self._conductor.heartbeat(messages.Heartbeat(
                host=self.settings.host, digest=self._discovery.digest,
                resource_provider_name=self.settings.resource_provider_name))
            if reply.report_wanted:
                self._conductor.report(self._report(self._discovery))
                LOG.info("host=%s reported %d devices", self.settings.host,
                         len(self._discovery.devices))
        except (errors.Error, TypeError) as error:
            self._unheard(error)
            return
        if self._failures:
            LOG.info("host=%s the conductor answers again", self.settings.host)
        self._failures = 0
        self._beat_at = self._clock() + self.settings.report_interval_s

    def _unheard(self, error: Exception) -> None:
        """Try again soon, then less and less soon, at last with the beat's own period."""
        if not self._failures:
            LOG.warning("host=%s the conductor does not take the heartbeat: %s; it is repeated "
                        "until it does", self.settings.host, error)
        retry_s = FIRST_RETRY_S * 2 ** min(self._failures, 10)
        self._failures += 1
        self._beat_at = self._clock() + min(retry_s, self.settings.report_interval_s)

    def _report(self, found: hardware.Discovery) -> messages.HostReport:
        return messages.HostReport(
            host=self.settings.host, digest=found.digest, devices=found.devices,
            resource_provider_name=self.settings.resource_provider_name,
            failed_drivers=found.failed_drivers, drivers=self.hardware.drivers,
            version=config.version())

    # --- configuration ------------------------------------------------------------------------

    def reload(self) -> None:
        """Take the configuration as it is now, or keep the old one and say what is wrong.

        The host's name stays: it is this agent's identity.
        """
        try:
            settings = dataclasses.replace(self._read_settings(), host=self.settings.host)
            drivers = self._hardware_for(settings)
        except (base.ConfigurationError, cfg.Error, ValueError) as error:
            LOG.error("configuration not taken, the old one stays in force: %s", error)
            return
        changes = _changes(self.settings, settings)
        if not changes:
            LOG.info("configuration read again: nothing changed")
            return
        for change in changes:
            LOG.info("configuration changed: %s", change)
        with self._running:
            self.settings, self.hardware = settings, drivers
            self._beat_at = self._clock()
        self.discover_soon()


def _changes(old: Settings, new: Settings) -> list[str]:
    """Say in words, one line an option, what is different."""
    lines = [f"[agent] {field.name.removesuffix('_s')} {getattr(old, field.name)!r} -> "
             f"{getattr(new, field.name)!r}"
             for field in dataclasses.fields(Settings)
             if field.name != "options" and getattr(old, field.name) != getattr(new, field.name)]
    for group in sorted(old.options.keys() | new.options.keys()):
        before, after = old.options.get(group, {}), new.options.get(group, {})
        lines += [f"[{group}] {name} {before.get(name)!r} -> {after.get(name)!r}"
                  for name in sorted(before.keys() | after.keys())
                  if before.get(name) != after.get(name)]
    return lines


def agent_from(conf: cfg.ConfigOpts, bus: rpc.Bus) -> Agent:
    """Return the agent that the configuration describes, speaking over `bus`.

    Its endpoint is to be served on `rpc.AGENT_TOPIC` under the host's name. `reload` takes what
    `conf` holds by then; reading the files anew is the process's business.
    """
    return Agent(lambda: settings_from(conf), rpc.ConductorClient(bus, CONDUCTOR_TIMEOUT_S))
