# SPDX-License-Identifier: Apache-2.0
"""What an agent does before it offers anything: makes again what should exist, removes the rest.

Asks the conductor once; no vendor names here, and nothing is done for drivers that keep nothing.
"""

from __future__ import annotations

import logging
import threading

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.agent import claims
from cyborg_lite.agent import hardware
from cyborg_lite.agent import layouts
from cyborg_lite.agent import leftovers
from cyborg_lite.drivers import base

LOG = logging.getLogger(__name__)

WAIT_S = 15.0
"""How long a call about a handle waits for the restoration, before its caller is sent away."""


class Restoration:
    """Done once for each start of the agent; what failed is tried again at each discovery."""

    def __init__(self, host: str, conductor: rpc.ConductorClient,
                 claim: claims.Claim | None = None,
                 splitting: layouts.Layouts | None = None) -> None:
        self._host = host
        self._conductor = conductor
        self._claim = claim
        self._layouts = splitting or layouts.Layouts(host)
        self._done = threading.Event()
        self._failed: set[str] = set()
        self._leftovers = leftovers.Leftovers(host, conductor)

    def wait(self, drivers: hardware.Hardware, wait_s: float = WAIT_S) -> None:
        """Hold back a call about a handle, so that both don't work on the same one.

        Raises Unavailable: the conductor asks again.
        """
        if self._claim:
            self._claim.check()
        if _has_work(drivers) and not self._done.wait(wait_s):
            raise errors.Unavailable(
                f"The agent of {self._host} has just started and makes first what should exist.")

    def restore(self, drivers: hardware.Hardware) -> None:
        """Claim the host, prepare what is held, clean and remove what is not.

        Raises what the conductor answers; nothing is touched before it does. What a driver made
        is listed before the conductor is asked what is held: what is made for a handle that is
        bound from then on is never taken for a leftover.
        """
        if self._claim:
            if self._claim.was_refused:
                self._done.clear()  # what should exist may have changed meanwhile
            self._claim.make()
        if self._done.is_set():
            if self._failed:
                self._try_again(drivers)
            self._leftovers.look(_keepers(drivers))
            return
        if _has_work(drivers):
            keepers = _keepers(drivers)
            made = {name: set(driver.made()) for name, driver in keepers.items()}
            intent = self._conductor.host_intent(self._host)
            # what is held may be on virtual functions that have to be made first
            drivers.arrange()
            # handles are in partitions: what can't be split is said, and offers what it has
            self._layouts.apply(drivers, intent.layouts)
            results = drivers.handles.prepare(intent.prepare)
            self._failed = {each.handle_uuid for each in results if each.error}
            # a clean step of other drivers may take hours; the conductor asks for those itself
            drivers.handles.clean(task for task in intent.clean if task.driver in keepers)
            held = {task.handle_uuid for task in intent.prepare}
            for name, driver in keepers.items():
                driver.remove_unneeded(made[name] - held)
                self._leftovers.removed(name, made[name] - held)
            LOG.info("host=%s restored %d handles that are held, %d failed, %d to clean",
                     self._host, len(results), len(self._failed), len(intent.clean))
        self._done.set()

    def _try_again(self, drivers: hardware.Hardware) -> None:
        intent = self._conductor.host_intent(self._host)
        tasks: list[messages.HandleTask] = [
            task for task in intent.prepare if task.handle_uuid in self._failed]
        results = drivers.handles.prepare(tasks)
        self._failed = {each.handle_uuid for each in results if each.error}


def _has_work(drivers: hardware.Hardware) -> bool:
    return layouts.has_any(drivers) or any(
        isinstance(slot.driver, base.PreparesAgain) and slot.driver.has_work()
        for slot in drivers.slots)


def _keepers(drivers: hardware.Hardware) -> dict[str, base.RestoresHandles]:
    found: dict[str, base.RestoresHandles] = {}
    for slot in drivers.slots:
        if isinstance(slot.driver, base.RestoresHandles):
            found[slot.name] = slot.driver
    return found
