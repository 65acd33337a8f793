# SPDX-License-Identifier: Apache-2.0
"""What the guest may ask the host for: pull a device, plug it again, read a disk's backing file.

One JSON object per line, in both directions, through a serial port of the guest. The guest's half
is `inside/host.py`.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any
from typing import IO

PORT = "lab.host"
CONNECT_S = 30

PLUGGED = {"plugged": "nvme,id=plugged,serial=LAB0002,drive=nd4,bus=rp2",
           "impostor": "nvme,id=impostor,serial=LAB0003,drive=nd5,bus=rp2"}
"""Devices that can be pulled and plugged, one at a time: their id and QEMU's argument."""


class Answering:
    """A thread that does what the guest asks, until the machine ends."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._thread: threading.Thread | None = None

    def start(self, process: subprocess.Popen[str]) -> None:
        self._thread = threading.Thread(target=self._serve, args=(process,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _serve(self, process: subprocess.Popen[str]) -> None:
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as stack:
            monitor = _Monitor(stack.enter_context(_connect(self._folder / "qmp", process)))
            monitor.execute("qmp_capabilities")
            guest = stack.enter_context(_connect(self._folder / "asked", process))
            for line in guest:
                answer = self._answer(json.loads(line), monitor)
                guest.write(json.dumps(answer).encode() + b"\n")
                guest.flush()

    def _answer(self, asked: dict[str, Any], monitor: _Monitor) -> dict[str, Any]:
        match asked:
            case {"pull": str(name)} if name in PLUGGED:
                return monitor.pull(name)
            case {"plug": str(name)} if name in PLUGGED:
                monitor.wait_until_gone()
                driver, *rest = PLUGGED[name].split(",")
                return monitor.execute("device_add", driver=driver,
                                       **dict(part.split("=", 1) for part in rest))
            case {"read": str(name), "offset": int(offset), "length": int(length)}:
                with (self._folder / f"{pathlib.Path(name).name}.raw").open("rb") as stream:
                    stream.seek(offset)
                    return {"return": stream.read(length).hex()}
        return {"error": {"desc": f"{asked} is nothing that can be asked"}}


class _Monitor:
    """QEMU's control socket, and the devices that it has not let go yet."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._leaving: set[str] = set()

    def execute(self, command: str, **arguments: str) -> dict[str, Any]:
        """Give one command; returns its answer, which says `return` or `error`."""
        asked = {"execute": command, "arguments": arguments}
        self._stream.write(json.dumps(asked).encode() + b"\n")
        self._stream.flush()
        while not {"return", "error"} & (answer := self._next()).keys():
            pass
        return answer

    def pull(self, name: str) -> dict[str, Any]:
        """Begin to pull a device; the guest decides when it is gone."""
        self._leaving.add(name)
        return self.execute("device_del", id=name)

    def wait_until_gone(self) -> None:
        """Wait for what is being pulled: the guest may know of it before QEMU has done it."""
        while self._leaving:
            self._next()

    def _next(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line:
            raise OSError("QEMU has gone")
        told: dict[str, Any] = json.loads(line)
        if told.get("event") == "DEVICE_DELETED":
            self._leaving.discard(told["data"].get("device", ""))
        return told


@contextlib.contextmanager
def answering(folder: pathlib.Path) -> Iterator[Answering]:
    """Yield what answers the guest; at the end the machine must have ended."""
    found = Answering(folder)
    for name in ("qmp", "asked"):
        (folder / name).unlink(missing_ok=True)
    try:
        yield found
    finally:
        found.stop()


def _connect(path: pathlib.Path, process: subprocess.Popen[str]) -> IO[bytes]:
    deadline = time.monotonic() + CONNECT_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            return connection.makefile("rwb")
        except OSError:
            connection.close()
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
