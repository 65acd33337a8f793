# SPDX-License-Identifier: Apache-2.0
"""What drivers made and nobody has: looked for now and then, removed when it is seen twice.

What is left when the agent starts is removed by `restoring.py`, and told to the conductor here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping

from cyborg_lite import errors
from cyborg_lite import rpc
from cyborg_lite.drivers import base

LOG = logging.getLogger(__name__)

EVERY_S = 600.0
"""Between two looks; what is removed was there, and nobody's, in both."""


class Leftovers:
    """Of one agent. Not safe to use from several threads."""

    def __init__(self, host: str, conductor: rpc.ConductorClient,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._conductor = conductor
        self._clock = clock
        self._look_at = clock() + EVERY_S
        self._seen: dict[str, set[str]] = {}
        self._untold: dict[str, str] = {}

    def look(self, keepers: Mapping[str, base.RestoresHandles]) -> None:
        """Look, when it is time. Raises what the conductor answers; then nothing is removed.

        What was made is listed before the conductor is asked, as at the start.
        """
        if not keepers or self._clock() < self._look_at:
            return
        self._look_at = self._clock() + EVERY_S
        made = {name: set(driver.made()) for name, driver in keepers.items()}
        if any(made.values()):
            intent = self._conductor.host_intent(self._host)
            wanted = {task.handle_uuid for task in [*intent.prepare, *intent.clean]}
            for name, driver in keepers.items():
                unwanted = made[name] - wanted
                again = unwanted & self._seen.get(name, set())
                self._seen[name] = unwanted - again
                if again:
                    driver.remove_unneeded(again)
                    self.removed(name, again)
        self._tell()

    def removed(self, driver: str, handles: Collection[str]) -> None:
        """Note what was removed; the conductor is told, later if it does not answer now."""
        for handle in sorted(handles):
            LOG.warning("handle=%s host=%s %s had made something that nobody has; removed",
                        handle, self._host, driver)
            self._untold[handle] = driver
        self._tell()

    def _tell(self) -> None:
        if not self._untold:
            return
        try:
            self._conductor.note_leftovers(self._host, self._untold)
        except errors.Error as error:
            LOG.info("the conductor was not told what was removed, and is told later: %s",
                     error.detail)
            return
        self._untold = {}
