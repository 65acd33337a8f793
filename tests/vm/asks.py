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

PLUGGED = {"plugged": "nvme,id=plugged,serial=LAB0002,drive=nd4,bus=rp2"}
"""Devices that can be pulled and plugged: their id and QEMU's argument."""


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
            monitor = stack.enter_context(_connect(self._folder / "qmp", process))
            _exchange(monitor, {"execute": "qmp_capabilities"})
            guest = stack.enter_context(_connect(self._folder / "asked", process))
            for line in guest:
                answer = self._answer(json.loads(line), monitor)
                guest.write(json.dumps(answer).encode() + b"\n")
                guest.flush()

    def _answer(self, asked: dict[str, Any], monitor: IO[bytes]) -> dict[str, Any]:
        match asked:
            case {"pull": str(name)} if name in PLUGGED:
                return _exchange(monitor, {"execute": "device_del", "arguments": {"id": name}})
            case {"plug": str(name)} if name in PLUGGED:
                driver, *rest = PLUGGED[name].split(",")
                arguments = dict(part.split("=", 1) for part in rest)
                return _exchange(monitor, {"execute": "device_add",
                                           "arguments": {"driver": driver, **arguments}})
            case {"read": str(name), "offset": int(offset), "length": int(length)}:
                with (self._folder / f"{pathlib.Path(name).name}.raw").open("rb") as stream:
                    stream.seek(offset)
                    return {"return": stream.read(length).hex()}
        return {"error": {"desc": f"{asked} is nothing that can be asked"}}


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


def _exchange(monitor: IO[bytes], command: dict[str, Any]) -> dict[str, Any]:
    """Give QEMU one command; what it tells unasked is passed over."""
    monitor.write(json.dumps(command).encode() + b"\n")
    monitor.flush()
    for line in monitor:
        answer: dict[str, Any] = json.loads(line)
        if "return" in answer or "error" in answer:
            return answer
    raise OSError("QEMU has gone")
