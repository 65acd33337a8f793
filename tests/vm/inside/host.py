# SPDX-License-Identifier: Apache-2.0
"""Asks the host of the virtual machine for what only it can do; `asks.py` answers.

No judgement here: what comes back is what QEMU or the file said.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
from typing import Any

PORT = "lab.host"


class Refused(Exception):
    """The host did not do it."""


def pull(name: str) -> None:
    """Begin to pull a device; the kernel takes some seconds to let it go."""
    _ask({"pull": name})


def plug(name: str) -> None:
    """Plug a device that was pulled."""
    _ask({"plug": name})


def backing(drive: str, offset: int, length: int) -> bytes:
    """Return bytes of a disk as the host sees them, past every cache of the guest."""
    return bytes.fromhex(_ask({"read": drive, "offset": offset, "length": length}))


def _ask(question: dict[str, Any]) -> Any:
    port = _port()
    os.write(port, json.dumps(question).encode() + b"\n")
    text = b""
    while not text.endswith(b"\n"):
        text += os.read(port, 65536)
    answer = json.loads(text)
    if "error" in answer:
        raise Refused(f"{question}: {answer['error']}")
    return answer["return"]


@functools.cache
def _port() -> int:
    for place in pathlib.Path("/sys/class/virtio-ports").iterdir():
        if (place / "name").read_text().strip() == PORT:
            return os.open(f"/dev/{place.name}", os.O_RDWR)
    raise Refused(f"there is no serial port {PORT}")
