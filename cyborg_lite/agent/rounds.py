# SPDX-License-Identifier: Apache-2.0
"""A thread that does one thing again and again, and rests in between for as long as that says.

What is done, and when it is due, is known to `service.py` alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

LOG = logging.getLogger(__name__)


class Rounds:
    """The thread; it begins at once.

    work: does what is due; returns the seconds to rest. after_failure_s: the rest when it raises.
    """

    def __init__(self, name: str, work: Callable[[], float],
                 after_failure_s: Callable[[], float]) -> None:
        self._name = name
        self._work = work
        self._after_failure_s = after_failure_s
        self._ended = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"agent-{name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended:
            self._woken.clear()
            try:
                wait_s = self._work()
            except Exception:
                LOG.exception("%s failed; it is repeated", self._name)
                wait_s = self._after_failure_s()
            if not self._ended:
                self._woken.wait(wait_s)

    def wake(self) -> None:
        """End the rest, or have none after what is done now."""
        self._woken.set()

    def end(self, wait_s: float) -> None:
        """Let the thread end after what it does now, and wait so long for that."""
        self._ended = True
        self._woken.set()
        if wait_s:
            self._thread.join(wait_s)
