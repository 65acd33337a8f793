# SPDX-License-Identifier: Apache-2.0
"""Answers Prometheus: GET /metrics of one process, on a port of its own. What is shown, is given.

Processes of one program share no counters, so each has a port: the first free one of its range.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import prometheus_client
from oslo_config import cfg

from cyborg_lite import config
from cyborg_lite import metrics
from cyborg_lite.wsgi import server

LOG = logging.getLogger(__name__)

PATH = "/metrics"
THREADS = 2

AGAIN_AFTER_S = 10.0
"""How long a process without a port waits before it looks for one again."""

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def application(registry: prometheus_client.CollectorRegistry) -> Application:
    """Return what answers /metrics, in text or, if asked so, OpenMetrics; 404 and 405 else."""
    exposition: Application = prometheus_client.make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            return _refuse(start_response, "404 Not Found", f"The metrics are at {PATH}.")
        if environ["REQUEST_METHOD"] != "GET":
            return _refuse(start_response, "405 Method Not Allowed", "Only GET is understood.",
                           ("Allow", "GET"))
        return exposition(environ, start_response)

    return answer


def _refuse(start_response: Callable[..., Any], status: str, text: str,
            *headers: tuple[str, str]) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"),
                            ("Content-Length", str(len(body))), *headers])
    return [body]


class Listener:
    """One port on which one process answers."""

    def __init__(self, listener: socket.socket,
                 registry: prometheus_client.CollectorRegistry) -> None:
        self._listener = listener
        self._server = server.Server(listener, application(registry), THREADS)

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._listener.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"

    def start(self) -> None:
        """Answer from now on."""
        self._server.start()
        LOG.info("metrics are at %s pid=%d", self.url, os.getpid())

    def stop(self) -> None:
        """Answer what is in hand and give the port back."""
        self._server.stop()


def listen(host: str, first_port: int, processes: int) -> socket.socket:
    """Return a socket on the first free port of as many as there are processes; OSError.

    0 is any port that is free.
    """
    for port in range(first_port, first_port + processes - 1):
        try:
            return server.listen(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return server.listen(host, first_port and first_port + processes - 1)


class AtFirstRequest:
    """An application whose process answers Prometheus from its first request on.

    Other WSGI servers load an application once and then fork: no thread that was there before is
    there afterwards. Where one starts new processes before it ends old ones, those have the ports
    for a while yet: who finds none looks again.
    """

    def __init__(self, wrapped: Application, conf: cfg.ConfigOpts,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._wrapped = wrapped
        self._conf = conf
        self._clock = clock
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._again_at: float | None = None
        self.listener: Listener | None = None

    def __call__(self, environ: dict[str, Any],
                 start_response: Callable[..., Any]) -> Iterable[bytes]:
        if self._is_due():
            with self._lock:
                if self._is_due():
                    is_first = self._pid != os.getpid()
                    self._pid, self._again_at = os.getpid(), None
                    self._start(is_first)
        return self._wrapped(environ, start_response)

    def _is_due(self) -> bool:
        again_at = self._again_at
        return self._pid != os.getpid() or (again_at is not None and self._clock() >= again_at)

    def _start(self, is_first: bool) -> None:
        options = self._conf.metrics
        try:
            found = listen(options.host_ip, options.api_port, self._conf.api.api_workers)
        except OSError as error:
            self._again_at = self._clock() + AGAIN_AFTER_S
            LOG.log(logging.ERROR if is_first else logging.DEBUG,
                    "[metrics] api_port = %d: this process shows no metrics yet, no port of %d is "
                    "free: %s. [api] api_workers has to be the number of its processes.",
                    options.api_port, self._conf.api.api_workers, error.strerror or error)
            return
        self.listener = Listener(found, metrics.registry_of([metrics.API], config.version()))
        self.listener.start()
