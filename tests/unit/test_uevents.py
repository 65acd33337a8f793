# SPDX-License-Identifier: Apache-2.0
"""Kernel events: heard soon, gathered, an overrun heard too; the kernel itself is in tests/vm."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from cyborg_lite.agent import uevents

DEADLINE_S = 20


@dataclasses.dataclass
class Event:
    """What pyudev says of one announcement."""

    subsystem: str | None = "pci"
    device_path: str = "/devices/pci0000:40/0000:41:00.0"
    properties: dict[str, str] = dataclasses.field(default_factory=dict)


class Kernel:
    """Stands in for the netlink socket: one datagram is one event, or an error by its number."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ours.setblocking(False)
        self.polls = 0

    def announce(self, event: Event) -> None:
        self.theirs.send(json.dumps(dataclasses.asdict(event)).encode())

    def fail(self, number: int) -> None:
        self.theirs.send(json.dumps(number).encode())

    def fileno(self) -> int:
        return self.ours.fileno()

    def poll(self, timeout: float) -> Event | None:
        self.polls += 1
        try:
            data = json.loads(self.ours.recv(65536))
        except BlockingIOError:
            return None
        if isinstance(data, int):
            raise OSError(data, os.strerror(data))
        return Event(**data)


class Ear:
    """Counts the calls, and lets a test wait for one."""

    def __init__(self) -> None:
        self.calls = 0
        self.called = threading.Semaphore(0)

    def __call__(self) -> None:
        self.calls += 1
        self.called.release()

    def wait(self) -> bool:
        return self.called.acquire(timeout=DEADLINE_S)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def listener(kernel: Kernel, ear: Ear) -> Iterator[uevents.Listener]:
    listening = uevents.Listener(ear, lambda: kernel, pause_s=0.01, reopen_s=0.01)
    listening.start()
    yield listening
    listening.stop()


def test_an_announced_device_is_looked_at(kernel: Kernel, ear: Ear,
                                          listener: uevents.Listener) -> None:
    kernel.announce(Event())

    assert ear.wait()


def test_what_was_announced_together_is_looked_at_once(kernel: Kernel, ear: Ear) -> None:
    for number in range(48):
        kernel.announce(Event(device_path=f"/devices/pci0000:40/0000:41:00.{number % 8}"))
    listening = uevents.Listener(ear, lambda: kernel, pause_s=DEADLINE_S)

    listening.start()
    assert ear.wait()
    # it ends although it pauses
    listening.stop()

    assert ear.calls == 1


def test_what_comes_in_the_pause_is_looked_at_after_it(kernel: Kernel, ear: Ear,
                                                       listener: uevents.Listener) -> None:
    for _ in range(3):
        kernel.announce(Event())
        assert ear.wait()


def test_lost_events_are_a_reason_to_look(kernel: Kernel, ear: Ear,
                                          listener: uevents.Listener) -> None:
    kernel.fail(errno.ENOBUFS)
    assert ear.wait()

    kernel.announce(Event())
    assert ear.wait()


def test_a_broken_connection_is_opened_again_and_what_was_missed_looked_at(
        kernel: Kernel, ear: Ear, listener: uevents.Listener,
        caplog: pytest.LogCaptureFixture) -> None:
    kernel.fail(errno.EBADF)

    assert ear.wait()
    kernel.announce(Event())
    assert ear.wait()
    assert "kernel events broke off" in caplog.text


def test_silence_costs_nothing(kernel: Kernel, ear: Ear) -> None:
    listening = uevents.Listener(ear, lambda: kernel, pause_s=0)
    listening.start()
    kernel.announce(Event())
    assert ear.wait()
    listening.stop()

    # one event, and the look whether there is another
    assert kernel.polls == 2


def test_without_announcements_there_is_no_thread(ear: Ear) -> None:
    listening = uevents.Listener(ear, lambda: None)

    listening.start()
    threads = [thread.name for thread in threading.enumerate()]
    listening.stop()

    assert "uevents" not in threads


@pytest.mark.parametrize(("event", "ours"), [
    (Event(), True),
    (Event("mdev", "/devices/virtual/mtty/mtty/5a1b6b2f"), True),
    (Event("nvme", "/devices/pci0000:00/0000:01:00.0/nvme/nvme0"), True),
    (Event("mtty", "/devices/virtual/mtty/mtty", {"MDEV_STATE": "registered"}), True),
    (Event("net", "/devices/pci0000:00/0000:01:00.0/net/eth0"), True),
    (Event("net", "/devices/virtual/net/tap0"), False),
    (Event("block", "/devices/virtual/block/loop0"), False),
    (Event("usb", "/devices/pci0000:00/0000:00:14.0/usb1"), False),
    (Event(None, "/module/x"), False)])
def test_only_what_may_be_an_accelerator_counts(event: Event, ours: bool) -> None:
    assert uevents.concerns_us(event) is ours


def test_without_the_library_the_agent_goes_on_and_says_so_once() -> None:
    program = (
        "import logging, sys\n"
        "logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stdout)\n"
        "sys.modules['pyudev'] = None\n"
        "from cyborg_lite.agent import uevents\n"
        "listener = uevents.Listener(print)\n"
        "listener.start()\n"
        "listener.stop()\n")

    output = subprocess.run([sys.executable, "-c", program], check=True, text=True,
                            capture_output=True, env={
                                **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).stdout

    assert output.count("kernel events are not heard") == 1
    assert "install pyudev" in output


def test_the_real_kernel_is_listened_to_where_that_is_possible(
        caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    monitor = uevents.open_monitor()

    if monitor is None:
        assert "kernel events are not heard" in caplog.text
    else:
        assert monitor.fileno() >= 0
