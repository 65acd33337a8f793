# SPDX-License-Identifier: Apache-2.0
"""Counts requests and their time, around the whole application. What becomes of them is its own.

A label is a route of ours, never a path that a client made up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from cyborg_lite import metrics
from cyborg_lite.api import expose
from cyborg_lite.api import faults

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Measured:
    """An application, and the time that each of its requests takes."""

    def __init__(self, application: faults.Application) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any],
                 start_response: faults.StartResponse) -> Iterable[bytes]:
        answered = "5xx"

        def start(status: str, headers: Any, *rest: Any) -> Any:
            nonlocal answered
            answered = f"{status[0]}xx"
            return start_response(status, headers, *rest)

        began = time.perf_counter()
        with metrics.API_IN_PROGRESS.track_inprogress():
            try:
                return self._application(environ, start)
            finally:
                took_s = time.perf_counter() - began
                method = environ["REQUEST_METHOD"]
                labels = (method if method in METHODS else metrics.OTHER, _route(environ))
                metrics.API_SECONDS.labels(*labels).observe(took_s)
                metrics.API_REQUESTS.labels(*labels, answered).inc()


def _route(environ: dict[str, Any]) -> str:
    """Return the path of the route that served it; documents and what leads nowhere are one."""
    name: str = environ.get(expose.ROUTE, "")
    return name.partition(" ")[2] or metrics.OTHER
