# SPDX-License-Identifier: Apache-2.0
"""A device that comes, goes or dies is noticed in under two seconds, by the kernel's events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from cyborg_lite.agent import uevents
from tests.vm.inside import disks
from tests.vm.inside import host
from tests.vm.inside import kernel
from tests.vm.inside import lab

AT_MOST_S = 2.0
DEADLINE_S = 30.0


class Noticed:
    """Looks, at each announcement, for what a test waits for; a driver would discover then."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._met: Callable[[], bool] | None = None
        self._time = 0.0

    def __call__(self) -> None:
        with self._changed:
            if self._met is not None and self._met():
                self._met, self._time = None, time.monotonic()
                self._changed.notify_all()

    def expect(self, met: Callable[[], bool]) -> None:
        """Say what the change that is about to happen will make true."""
        with self._changed:
            self._met = met

    def time(self) -> float:
        """Return when an announcement came at which that was so (monotonic)."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._met is None, DEADLINE_S), \
                "it was not announced"
            return self._time


@pytest.fixture
def noticed():
    found = Noticed()
    listener = uevents.Listener(found)
    listener.start()
    yield found
    listener.stop()


def test_a_device_that_goes_and_comes_back_is_noticed(noticed):
    place = kernel.place(lab.OTHER_CARD)
    noticed.expect(lambda: not place.exists())
    kernel.write(place / "remove", "1")
    gone = time.monotonic()
    try:
        assert noticed.time() - gone < AT_MOST_S
        noticed.expect(lambda: kernel.driver_of(lab.OTHER_CARD) == "nvidia")
    finally:
        kernel.write(kernel.PCI / "rescan", "1")
    came = time.monotonic()
    assert noticed.time() - came < AT_MOST_S


def test_a_disk_that_is_pulled_and_plugged_is_noticed(noticed, events):
    place = kernel.place(lab.PLUGGED)
    noticed.expect(lambda: not place.exists())
    host.pull("plugged")
    gone = events.wait("remove", lab.PLUGGED)
    assert noticed.time() - gone < AT_MOST_S
    noticed.expect(lambda: kernel.driver_of(lab.PLUGGED) == "nvme")
    host.plug("plugged")
    came = events.wait("bind", lab.PLUGGED)
    assert noticed.time() - came < AT_MOST_S
    kernel.until(lambda: disks.disk(lab.PLUGGED, 1).exists())


def test_virtual_functions_are_noticed(noticed):
    noticed.expect(lambda: len(kernel.vfs_of(lab.NIC)) == 2)
    with kernel.vfs(lab.NIC, 2, probe=False):
        came = time.monotonic()
        assert noticed.time() - came < AT_MOST_S


def test_a_mediated_device_is_noticed(noticed):
    before = kernel.mdevs()
    noticed.expect(lambda: kernel.mdevs() != before)
    with kernel.mdev("mtty", "mtty-1"):
        came = time.monotonic()
        assert noticed.time() - came < AT_MOST_S
