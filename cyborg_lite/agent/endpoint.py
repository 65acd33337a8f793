# SPDX-License-Identifier: Apache-2.0
"""What a conductor may ask of a host, once its agent has made there what should exist.

No work here: handles are in `handles.py`, layouts in `layouts.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from cyborg_lite import buses
from cyborg_lite import messages
from cyborg_lite.agent import hardware
from cyborg_lite.agent import layouts
from cyborg_lite.agent import restoring


class Endpoint:
    """The calls. drivers: those of the configuration in force. changed: devices look otherwise."""

    def __init__(self, restoration: restoring.Restoration, splitting: layouts.Layouts,
                 drivers: Callable[[], hardware.Hardware], changed: Callable[[], None]) -> None:
        self._restoration = restoration
        self._layouts = splitting
        self._drivers = drivers
        self._changed = changed

    @buses.exposed
    def prepare(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make the handles attachable; one result a task."""
        return self._ready().handles.prepare(tasks)

    @buses.exposed
    def clean(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make the handles ready for somebody else; one result a task."""
        return self._ready().handles.clean(tasks)

    @buses.exposed
    def take_down(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        """Remove what the host has made for handles that are kept; one result a task."""
        return self._ready().handles.take_down(tasks)

    @buses.exposed
    def apply_layouts(self, wishes: list[messages.LayoutWish]) -> list[messages.LayoutResult]:
        """Split devices as wished; one result a wish. A discovery follows, and its report."""
        drivers = self._ready()
        try:
            return self._layouts.apply(drivers, wishes)
        finally:
            self._changed()

    def _ready(self) -> hardware.Hardware:
        """Raises Unavailable while the host is being made as it should be."""
        drivers = self._drivers()
        self._restoration.wait(drivers)
        return drivers
