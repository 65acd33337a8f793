# SPDX-License-Identifier: Apache-2.0
"""/healthcheck: oslo.middleware's, and 503 while no conductor or no database answers.

Nothing else is served here, and nobody has to say who asks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import oslo_middleware
from oslo_config import cfg

from cyborg_lite import errors
from cyborg_lite.api import faults

PATH = "/healthcheck"
FRESH_S = 2.0
"""How long one answer of the conductor serves all who ask."""


class Probe:
    """Whether the conductor answers: asked by one thread at a time, at most every FRESH_S."""

    def __init__(self, ping: Callable[[], None],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._ping = ping
        self._clock = clock
        self._asking = threading.Lock()
        self._trouble: errors.Error | None = None
        self._asked_at = -FRESH_S

    def trouble(self) -> errors.Error | None:
        """Return why the API can't serve, or None.

        While another thread waits for an answer that is overdue, that is the trouble: a broker
        that is away never holds more than one thread for the whole time-out of a call.
        """
        if self._is_fresh():
            return self._trouble
        if not self._asking.acquire(timeout=FRESH_S):
            return errors.Unavailable("The conductor has not answered yet.")
        try:
            if not self._is_fresh():
                self._trouble = self._ask()
                self._asked_at = self._clock()
            return self._trouble
        finally:
            self._asking.release()

    def _is_fresh(self) -> bool:
        return self._clock() - self._asked_at < FRESH_S

    def _ask(self) -> errors.Error | None:
        try:
            self._ping()
        except errors.Error as error:
            return errors.Unavailable(error.detail)
        return None


class Healthcheck:
    """Serves PATH, passes everything else on."""

    def __init__(self, app: faults.Application, conf: cfg.ConfigOpts, probe: Probe) -> None:
        self._app = app
        self._probe = probe
        self._oslo = oslo_middleware.Healthcheck(None, conf)

    def __call__(self, environ: dict[str, Any],
                 start_response: faults.StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != PATH:
            return self._app(environ, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return faults.Fault(errors.MethodNotAllowed(
                f"{PATH} takes GET and HEAD.", allowed=("GET", "HEAD")))(environ, start_response)
        trouble = self._probe.trouble()
        served = faults.Fault(trouble) if trouble else self._oslo.process_request
        reply: Iterable[bytes] = served(environ, start_response)
        return reply
