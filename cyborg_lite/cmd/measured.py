# SPDX-License-Identifier: Apache-2.0
"""Puts beside a service of a process what answers Prometheus, where that is wished.

Which metrics there are is said in `metrics.py`; how they are sent, in `wsgi/scrapes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import Protocol

from oslo_config import cfg

from cyborg_lite import config
from cyborg_lite import metrics
from cyborg_lite.cmd import process

Collector = Any
"""What prometheus_client asks for gauges; no type of its own is public there."""


class Service(process.Service, Protocol):
    """What runs in a process and has gauges to show."""

    def collectors(self) -> Iterable[Collector]:
        """Those of its gauges."""


class Measured:
    """A service, and the port on which its process answers Prometheus."""

    def __init__(self, conf: cfg.ConfigOpts, names: Sequence[str], port_option: str,
                 processes: int, service: Service) -> None:
        from cyborg_lite.wsgi import scrapes

        options = conf.metrics
        try:
            listener = scrapes.listen(options.host_ip, options[port_option], processes)
        except OSError as error:
            raise process.CannotStart(
                f"[metrics] host_ip = {options.host_ip}, {port_option} = {options[port_option]}: "
                f"cannot listen there: {error.strerror or error}") from error
        self._service = service
        self._listener = scrapes.Listener(listener, metrics.registry_of(
            names, config.version(), service.collectors()))

    def start(self) -> None:
        self._service.start()
        self._listener.start()

    def stop(self) -> None:
        self._listener.stop()
        self._service.stop()

    def reload(self) -> None:
        self._service.reload()


def each(conf: cfg.ConfigOpts, names: Sequence[str], port_option: str, processes: int,
         make: Callable[[], Service]) -> tuple[Callable[[], process.Service], int]:
    """Return what makes the service of one process, and how many processes there are to be.

    names: of the services in it, as `metrics.SERVICES` has them.
    """
    if not conf.metrics.enabled:
        return make, processes
    return lambda: Measured(conf, names, port_option, processes, make()), processes
