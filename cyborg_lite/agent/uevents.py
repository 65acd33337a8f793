# SPDX-License-Identifier: Apache-2.0
"""Hears from the kernel that a device came, went or changed, and has the host looked at.

An announcement is a hint and nothing more: what is there is read from sysfs, also each period.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import Protocol

LOG = logging.getLogger(__name__)

PAUSE_S = 0.5
"""Announcements come in hundreds, one for each virtual function: so long they are gathered."""

REOPEN_S = 30.0
MOST_AT_ONCE = 4096

_ALWAYS = frozenset({"pci", "mdev", "nvme", "nvme-subsystem", "vfio", "vfio-dev"})
_BEHIND_PCI = frozenset({"net", "block", "drm", "accel", "infiniband", "scsi"})


class Event(Protocol):
    """One announcement, as pyudev has it."""

    @property
    def subsystem(self) -> str | None: ...

    @property
    def device_path(self) -> str: ...

    @property
    def properties(self) -> Mapping[str, str]: ...


class Monitor(Protocol):
    """The kernel's announcements, as pyudev has them."""

    def fileno(self) -> int: ...

    def poll(self, timeout: float) -> Event | None:
        """Return the next one, or None; OSError with ENOBUFS when some were lost."""


def open_monitor() -> Monitor | None:
    """Return the kernel's announcements; None, with a line in the log, when they can't be had."""
    try:
        import pyudev
        context = pyudev.Context()  # an ImportError too, where libudev is missing
    except ImportError as error:
        LOG.info("kernel events are not heard, devices are looked at each discover_interval "
                 "alone: %s; install pyudev and libudev to hear them", error)
        return None
    try:
        # not udev's own: a container may have none, and nothing that udev adds is needed
        monitor = pyudev.Monitor.from_netlink(context, source="kernel")
        monitor.start()
    except OSError as error:
        LOG.warning("kernel events are not heard, devices are looked at each discover_interval "
                    "alone: %s", error)
        return None
    return _Netlink(monitor)


class _Netlink:
    """pyudev's monitor, that tells an overrun from other errors: it can't itself."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor
        self._socket = socket.socket(fileno=os.dup(monitor.fileno()))

    def fileno(self) -> int:
        return self._socket.fileno()

    def poll(self, timeout: float) -> Event | None:
        # reading the error takes it away; otherwise nothing more could be received
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        event: Event | None = self._monitor.poll(timeout)
        return event


class Listener:
    """Calls `announce` soon after the kernel announced something that may concern a driver.

    pause_s: how long it is deaf after each call; what comes meanwhile leads to one more.
    """

    def __init__(self, announce: Callable[[], None],
                 monitors: Callable[[], Monitor | None] = open_monitor, *,
                 pause_s: float = PAUSE_S, reopen_s: float = REOPEN_S) -> None:
        self._announce = announce
        self._monitors = monitors
        self._pause_s = pause_s
        self._reopen_s = reopen_s
        self._woken, self._waker = socket.socketpair()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to listen; without announcements nothing is done."""
        monitor = self._monitors()
        if monitor is not None:
            self._thread = threading.Thread(target=self._run, args=(monitor,), name="uevents",
                                            daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._waker.send(b"x")
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._waker.close()
        self._woken.close()

    def _run(self, first: Monitor) -> None:
        monitor: Monitor | None = first
        while monitor is not None:
            try:
                self._listen(monitor)
                return
            except OSError as error:
                LOG.warning("kernel events broke off, they are listened to again in %.0f s: %s",
                            self._reopen_s, error)
            if self._is_stopped(self._reopen_s):
                return
            monitor = self._monitors()
            # what was announced meanwhile is lost
            self._announce()

    def _listen(self, monitor: Monitor) -> None:
        """Listen until stopped; OSError when there is nothing to hear any more."""
        while True:
            ready, _, _ = select.select([monitor.fileno(), self._woken.fileno()], [], [])
            if self._woken.fileno() in ready:
                return
            if _concerns_us(monitor):
                self._announce()
                if self._is_stopped(self._pause_s):
                    return

    def _is_stopped(self, wait_s: float) -> bool:
        return bool(select.select([self._woken], [], [], wait_s)[0])


def _concerns_us(monitor: Monitor) -> bool:
    """Take what has been announced; say whether any of it may concern a driver."""
    found = False
    for _ in range(MOST_AT_ONCE):
        try:
            event = monitor.poll(0)
        except OSError as error:
            if error.errno not in (errno.ENOBUFS, None):
                raise
            LOG.info("the kernel announced more than could be heard")
            found = True
            continue
        if event is None:
            break
        found = found or concerns_us(event)
    return found


def concerns_us(event: Event) -> bool:
    """Say whether an announcement may be about a device that some driver offers.

    Virtual interfaces and disks come and go with every instance; they are nobody's accelerator.
    """
    if event.subsystem in _ALWAYS or "MDEV_STATE" in event.properties:
        return True
    return event.subsystem in _BEHIND_PCI and "/pci" in event.device_path
