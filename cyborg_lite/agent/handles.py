# SPDX-License-Identifier: Apache-2.0
"""Has drivers prepare, clean and take down attach handles; a failure is the text of a result.

No discovery here, no vendor names, no RPC.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

from cyborg_lite import messages
from cyborg_lite.agent import reports
from cyborg_lite.agent import slots
from cyborg_lite.drivers import base
from cyborg_lite.drivers import sysfs

LOG = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often a call that waits for another looks whether its caller still waits for it."""


class HandleWork:
    """The work of the enabled drivers of one host on attach handles.

    check_deadline: raises when the caller of the work in hand has been told that it failed.
    """

    def __init__(self, drivers: Sequence[slots.Slot], files: sysfs.Sysfs,
                 check_deadline: Callable[[], None]) -> None:
        self._slots = drivers
        self._sysfs = files
        self._check_deadline = check_deadline
        self._busy: set[str] = set()
        self._idle = threading.Condition()

    def prepare(self, tasks: Iterable[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make each handle attachable; one result a task, an error as its text."""
        return [self._run("prepare", task) for task in tasks]

    def clean(self, tasks: Iterable[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make each handle fit for somebody else; one result a task, an error as its text.

        Those that an earlier call still works on come last: behind one long erase the others
        would never begin.
        """
        with self._idle:
            under_way = frozenset(self._busy)
        return [self._run("clean", task) for task in
                sorted(tasks, key=lambda task: task.handle_uuid in under_way)]

    def take_down(self, tasks: Iterable[messages.HandleTask]) -> list[messages.HandleResult]:
        """Remove what was made for each handle, which stays its ARQ's; one result a task."""
        return [self._run("take_down", task) for task in tasks]

    def _run(self, work: str, task: messages.HandleTask) -> messages.HandleResult:
        with self._alone(task.handle_uuid):
            # while it waited, the caller may have been told that it failed
            self._check_deadline()
            error = self._try(work, task)
        return messages.HandleResult(
            handle_uuid=task.handle_uuid, error=error,
            gone=work == "clean" and error is not None and self._is_gone(task))

    def _is_gone(self, task: messages.HandleTask) -> bool:
        address = reports.handle_address(
            messages.ReportedHandle(type=task.type, info=task.info))
        return address is not None and self._sysfs.fresh().pci_function(address) is None

    def _try(self, work: str, task: messages.HandleTask) -> str | None:
        slot = next((slot for slot in self._slots if slot.name == task.driver), None)
        if slot is None:
            return (f"driver {task.driver} is not at work on this host; enabled are "
                    f"{', '.join(slot.name for slot in self._slots) or 'none'}")
        driver = slot.driver
        if driver is None:
            return f"driver {task.driver} is not at work on this host: {slot.error}"
        ability = base.TakesDownHandles if work == "take_down" else base.PreparesHandles
        if not isinstance(driver, ability):
            return None
        try:
            getattr(driver, work)(task)
        except Exception as error:
            LOG.exception("handle=%s %s by driver %s failed", task.handle_uuid, work, task.driver)
            return str(error) or type(error).__name__
        LOG.info("handle=%s %s done device=%s driver=%s", task.handle_uuid, work,
                 task.device_address, task.driver)
        return None

    @contextlib.contextmanager
    def _alone(self, handle_uuid: str) -> Iterator[None]:
        """Two calls about one handle, of which one is a repetition, come after each other.

        An erase may take hours and be asked for each minute: a repetition that nobody waits for
        any more must not keep a thread.
        """
        with self._idle:
            while not self._idle.wait_for(lambda: handle_uuid not in self._busy, LOOK_S):
                self._check_deadline()
            self._busy.add(handle_uuid)
        try:
            yield
        finally:
            with self._idle:
                self._busy.discard(handle_uuid)
                self._idle.notify_all()
