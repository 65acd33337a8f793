# SPDX-License-Identifier: Apache-2.0
"""Writes the archive that a kernel unpacks as its first file system (cpio, format newc).

Nothing is read from disk here, and nobody needs to be root for a device node.
"""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Iterable

_MAGIC = b"070701"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file, directory or character device."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str) -> Entry:
    return Entry(name, stat.S_IFDIR | 0o755)


def file(name: str, content: bytes) -> Entry:
    return Entry(name, stat.S_IFREG | 0o755, content)


def console() -> Entry:
    """The kernel opens it before the first program starts."""
    return Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive of entries, directories before what is in them."""
    parts = [_record(number, entry) for number, entry in enumerate(entries, 1)]
    return b"".join([*parts, _record(0, Entry("TRAILER!!!", 0))])


def _record(number: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *entry.device,
              len(name), 0)
    header = _MAGIC + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
