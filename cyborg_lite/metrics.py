# SPDX-License-Identifier: Apache-2.0
"""Every metric: its name, kind, labels and meaning. Where it is counted is said where it happens.

Counters and histograms belong to one process; gauges are asked for when somebody scrapes. No label
takes a value that a client chooses, and none tells of a tenant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from collections.abc import Sequence
from typing import TYPE_CHECKING

import prometheus_client
from prometheus_client import core
from prometheus_client import process_collector

if TYPE_CHECKING:
    from prometheus_client import registry as registries

# a time for each series at which it began: as many gauges again, which nobody asks for
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

API, CONDUCTOR, AGENT = "api", "conductor", "agent"
SERVICES = (API, CONDUCTOR, AGENT)

PREFIX = "cyborg_lite_"

QUICK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds for what takes milliseconds as a rule."""

SLOW_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Bounds for what waits for hardware."""

OTHER = "other"
"""Stands for every value that nobody has listed: what a client sends must not make series."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is exposed under one name. services: those that expose it."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    services: tuple[str, ...]

    @property
    def exposed(self) -> str:
        """The name in queries; a histogram has `_bucket`, `_count` and `_sum` behind it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


TABLE: list[Metric] = []
"""All metrics of ours, in the order of the page that describes them."""

_INSTRUMENTS: list[tuple[Metric, registries.Collector]] = []


def _listed(kind: str, name: str, text: str, labels: Sequence[str],
            services: tuple[str, ...]) -> Metric:
    metric = Metric(name=PREFIX + name, kind=kind, help=text, labels=tuple(labels),
                    services=services)
    TABLE.append(metric)
    return metric


def _counter(name: str, text: str, labels: Sequence[str],
             *services: str) -> prometheus_client.Counter:
    metric = _listed("counter", name, text, labels, services)
    made = prometheus_client.Counter(metric.name, text, labels, registry=None)
    _INSTRUMENTS.append((metric, made))
    return made


def _histogram(name: str, text: str, labels: Sequence[str], *services: str,
               bounds_s: Sequence[float] = QUICK_S) -> prometheus_client.Histogram:
    metric = _listed("histogram", name, text, labels, services)
    made = prometheus_client.Histogram(metric.name, text, labels, registry=None, buckets=bounds_s)
    _INSTRUMENTS.append((metric, made))
    return made


def _gauge(name: str, text: str, labels: Sequence[str] = (), *services: str) -> Metric:
    return _listed("gauge", name, text, labels, services)


# --- API --------------------------------------------------------------------------------------

API_REQUESTS = _counter(
    "api_requests", "Requests answered, by the class of their status (2xx, 4xx, 5xx).",
    ("method", "route", "status"), API)
API_SECONDS = _histogram(
    "api_request_seconds", "Time from a request to its answer.", ("method", "route"), API)
API_IN_PROGRESS = prometheus_client.Gauge(
    f"{PREFIX}api_requests_in_progress", "Requests being worked on now.", registry=None)
_INSTRUMENTS.append((_listed("gauge", "api_requests_in_progress", "Requests being worked on now.",
                             (), (API,)), API_IN_PROGRESS))

# --- calls between services -------------------------------------------------------------------

RPC_SECONDS = _histogram(
    "rpc_seconds", "Time that this service worked on a call of another one.", ("method",),
    CONDUCTOR, AGENT, bounds_s=SLOW_S)
RPC_ERRORS = _counter(
    "rpc_errors", "Calls answered with an error; internal is one that was not foreseen.",
    ("method", "error"), CONDUCTOR, AGENT)

# --- conductor: work of this process ----------------------------------------------------------

BIND_SECONDS = _histogram(
    "bind_seconds", "Binds that this process ended (bound, failed), and how long it worked on "
    "each.", ("outcome",), CONDUCTOR, bounds_s=SLOW_S)
for _outcome in ("bound", "failed"):
    # a rate is of what was there before: the first failure has to be a step from 0
    BIND_SECONDS.labels(_outcome)
PLACEMENT_SYNCS = _counter(
    "placement_syncs", "Comparisons of a host with Placement: done, waiting for something to go, "
    "failed, or lost to another conductor.", ("outcome",), CONDUCTOR)
NOVA_EVENTS = _counter(
    "nova_events", "Tries to give Nova an event: taken, or refused (no answer counts as such); "
    "and events dropped for good.",
    ("outcome",), CONDUCTOR)
OUTGOING_SECONDS = _histogram(
    "outgoing_request_seconds", "Requests to Placement and Nova, by the class of the status; none "
    "when there was no answer.", ("service", "method", "status"), CONDUCTOR)

# --- conductor: what the database says, the same in every process ------------------------------

DATABASE_UP = _gauge("database_up", "1 when the figures below could be read, else 0, and they are "
                     "absent.", (), CONDUCTOR)
DEVICES = _gauge("devices", "Devices, by type and status (enabled, maintaining).",
                 ("type", "status"), CONDUCTOR)
DEVICES_WITHHELD = _gauge(
    "devices_withheld", "Devices that their driver does not offer now.", (), CONDUCTOR)
HANDLES = _gauge("attach_handles", "Attach handles, by state.", ("state",), CONDUCTOR)
ARQS = _gauge("arqs", "Accelerator requests, by state.", ("state",), CONDUCTOR)
OLDEST_BIND = _gauge("oldest_bind_seconds", "Age of the bind that is under way longest; 0 "
                     "when none is.", (), CONDUCTOR)
MIGRATIONS = _gauge("migrations", "Migrations that are open.", (), CONDUCTOR)
LAYOUT_WISHES = _gauge("layout_wishes", "Devices that are not split as wished: open, which is "
                       "being worked on, or failed.", ("state",), CONDUCTOR)
HOSTS = _gauge("hosts", "Hosts, by whether their agent was heard of: up, down, gone.", ("state",),
               CONDUCTOR)
HOSTS_DISABLED = _gauge("hosts_disabled", "Hosts that an operator lets take no new binds.", (),
                        CONDUCTOR)
CONDUCTORS = _gauge("conductors", "Conductor processes, by whether they write that they live.",
                    ("state",), CONDUCTOR)
HOSTS_UNSYNCED = _gauge("hosts_unsynced", "Hosts with a change that Placement has not learnt of.",
                        (), CONDUCTOR)
HOSTS_SYNC_FAILING = _gauge(
    "hosts_sync_failing", "Hosts whose last comparison with Placement did not succeed.", (),
    CONDUCTOR)
SYNC_LAG = _gauge("placement_sync_lag_seconds", "How long the host that waits longest is overdue "
                  "for its comparison with Placement; 0 when none is.", (), CONDUCTOR)
EVENTS_WAITING = _gauge("nova_events_waiting", "Events that Nova has not taken yet.", (),
                        CONDUCTOR)
OLDEST_EVENT = _gauge("oldest_nova_event_seconds", "Age of the oldest of them; 0 without any.", (),
                      CONDUCTOR)

ORPHANS = _gauge("orphans", "Orphans that the sweeps found, by kind and state.", ("kind", "state"),
                 CONDUCTOR)

SWEEP_AGE = _gauge("sweep_age_seconds", "Time since orphans were last looked for on all hosts with "
                   "success; absent before the first time.", (), CONDUCTOR)

# --- agent ------------------------------------------------------------------------------------

DISCOVERY_SECONDS = _histogram(
    "agent_discovery_seconds", "Time that all drivers together took to look at the host.",
    ("host",), AGENT, bounds_s=SLOW_S)
HEARTBEATS = _counter("agent_heartbeats", "Heartbeats: taken by a conductor, or unheard.",
                      ("host", "outcome"), AGENT)
DISCOVERY_AGE = _gauge("agent_discovery_age_seconds", "Time since the last discovery ended; before "
                       "the first, since the agent began.", ("host",), AGENT)
HEARTBEAT_AGE = _gauge("agent_heartbeat_age_seconds", "Time since a conductor last took a "
                       "heartbeat; before the first, since the agent began.", ("host",), AGENT)
AGENT_DEVICES = _gauge("agent_devices", "Devices that a driver found and offers.",
                       ("host", "driver"), AGENT)
AGENT_WITHHELD = _gauge("agent_withheld_functions", "Functions that a driver does not offer.",
                        ("host", "driver"), AGENT)
DRIVER_FAILED = _gauge("agent_driver_failed", "1 when the driver's last discovery failed.",
                       ("host", "driver"), AGENT)

# --- all --------------------------------------------------------------------------------------

BUILD_INFO = _gauge("build_info", "Always 1; its labels say what runs.", ("service", "version"),
                    *SERVICES)


Values = Iterable[tuple[Sequence[str], float]]


def family(metric: Metric, values: Values) -> core.GaugeMetricFamily:
    """Return a gauge as a collector hands it out; values: those of the labels, and the number."""
    made = core.GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values:
        made.add_metric(labels, value)
    return made


class _Build:
    """What runs here."""

    def __init__(self, services: Sequence[str], version: str) -> None:
        self._services = services
        self._version = version

    def collect(self) -> Iterable[core.GaugeMetricFamily]:
        yield family(BUILD_INFO, [((name, self._version), 1) for name in self._services])


def registry_of(services: Sequence[str], version: str,
                collectors: Iterable[registries.Collector] = ()) -> (
                    prometheus_client.CollectorRegistry):
    """Return what a process of these services exposes, with the collectors of its gauges."""
    made = prometheus_client.CollectorRegistry()
    for metric, instrument in _INSTRUMENTS:
        if not set(services).isdisjoint(metric.services):
            made.register(instrument)
    made.register(_Build(services, version))
    process_collector.ProcessCollector(registry=made)
    for collector in collectors:
        made.register(collector)
    return made
