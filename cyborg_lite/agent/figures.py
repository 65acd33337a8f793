# SPDX-License-Identifier: Apache-2.0
"""Hands what an agent knows of its host to Prometheus. Nothing is asked of a driver for it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from prometheus_client import core

from cyborg_lite import metrics
from cyborg_lite.agent import hardware


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """An agent at one moment. Ages in seconds, since it began for what has not happened yet."""

    host: str
    drivers: Sequence[str]
    discovery: hardware.Discovery | None
    discovery_age_s: float
    heartbeat_age_s: float


class Collector:
    """What Prometheus is told of the agents of a process, as each says when it is asked."""

    def __init__(self, agents: Sequence[Callable[[], State]]) -> None:
        self._agents = agents

    def collect(self) -> Iterator[core.GaugeMetricFamily]:
        """Return every gauge, each with all hosts."""
        states = [ask() for ask in self._agents]
        for metric, ages in (
                (metrics.DISCOVERY_AGE, {each.host: each.discovery_age_s for each in states}),
                (metrics.HEARTBEAT_AGE, {each.host: each.heartbeat_age_s for each in states})):
            yield metrics.family(metric, [((host,), age) for host, age in ages.items()])
        found = [(state, state.discovery) for state in states if state.discovery is not None]
        for metric, count in ((metrics.AGENT_DEVICES, _devices),
                              (metrics.AGENT_WITHHELD, _withheld),
                              (metrics.DRIVER_FAILED, _failed)):
            yield metrics.family(metric, [
                ((state.host, driver), number) for state, discovery in found
                for driver, number in sorted(_complete(state, count(discovery)).items())])


def _complete(state: State, counts: collections.Counter[str]) -> dict[str, int]:
    return {driver: counts[driver] for driver in {*state.drivers, *counts}}


def _devices(found: hardware.Discovery) -> collections.Counter[str]:
    return collections.Counter(device.driver for device in found.devices)


def _withheld(found: hardware.Discovery) -> collections.Counter[str]:
    return collections.Counter(each.driver for each in found.withheld)


def _failed(found: hardware.Discovery) -> collections.Counter[str]:
    return collections.Counter(found.failed_drivers)
