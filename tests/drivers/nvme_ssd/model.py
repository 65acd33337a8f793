# SPDX-License-Identifier: Apache-2.0
"""An NVMe subsystem in memory: answers admin commands as bytes, and keeps what is written.

It stands behind the ioctl; nothing of cyborg_lite is used, so that bytes are read by other eyes.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable

PAGE = 4096

OK, INVALID_OPCODE, INVALID_FIELD, INVALID_NAMESPACE = 0, 0x4001, 0x4002, 0x400b
SANITIZE_FAILED, SANITIZING, WRITE_PROTECTED = 0x1c, 0x1d, 0x4020
ALREADY_ATTACHED, NOT_ATTACHED = 0x4118, 0x411a

FORMATS = [(0, 9), (8, 9), (0, 12)]
"""Metadata bytes, and block bytes as a power of two."""


@dataclasses.dataclass
class Namespace:
    """data: by offset, what was written and not erased."""

    blocks: int
    format_index: int = 0
    attached: set[int] = dataclasses.field(default_factory=lambda: {1})
    shared: bool = False
    protected: bool = False
    extended: bool = False
    data: dict[int, bytes] = dataclasses.field(default_factory=dict)

    @property
    def bytes_long(self) -> int:
        return self.blocks << FORMATS[self.format_index][1]


@dataclasses.dataclass
class Model:
    """One controller of a subsystem.

    formats_really: whether a format erases. sanitize_polls: how often the log must be read until
    a sanitize is done; sanitize_fails: how many of them fail. at_opcode: called when one arrives.
    """

    serial: str = "INSPUR0001"
    name: str = "INSPUR NVMe"
    firmware: str = "1.0"
    controller_id: int = 1
    several: bool = False
    oacs: int = 0b1010
    fna: int = 0b100
    sanicap: int = 0
    namespaces: dict[int, Namespace] = dataclasses.field(
        default_factory=lambda: {1: Namespace(1 << 16)})
    formats_really: bool = True
    sanitize_polls: int = 3
    sanitize_fails: int = 0
    at_opcode: dict[int, Callable[[], None]] = dataclasses.field(default_factory=dict)
    sent: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    _status: int = 0
    _left: int = 0

    def admin(self, opcode: int, nsid: int, words: list[int], data: bytes,
              length: int) -> tuple[int, int, bytes]:
        """Answer one command: status, result, data."""
        self.sent.append((opcode, nsid))
        self.at_opcode.get(opcode, lambda: None)()
        words = [*words, *[0] * 6]
        if self._status == 2 and opcode not in (0x02, 0x06):
            return SANITIZING, 0, b""
        if self._status == 3 and opcode == 0x80:
            return SANITIZE_FAILED, 0, b""
        handler = {0x06: self._identify, 0x02: self._log, 0x80: self._format,
                   0x84: self._sanitize, 0x0d: self._manage, 0x15: self._attach}.get(opcode)
        if handler is None:
            return INVALID_OPCODE, 0, b""
        status, result, answer = handler(nsid, words, data)
        return status, result, answer.ljust(length, b"\0")[:length]

    def write(self, nsid: int, offset: int, data: bytes) -> None:
        namespace = self.namespaces[nsid]
        if self._status in (2, 3) or namespace.protected or namespace.extended:
            raise OSError(5, "Input/output error")
        namespace.data[offset] = data

    def read(self, nsid: int, offset: int, length: int) -> bytes:
        if self._status in (2, 3):
            raise OSError(5, "Input/output error")
        return self.namespaces[nsid].data.get(offset, bytes(length))

    def holds(self, secret: bytes) -> bool:
        """Say whether anything is left of what was written, wherever."""
        return any(secret in data for each in self.namespaces.values()
                   for data in each.data.values())

    # --- commands ---------------------------------------------------------------------------

    def _identify(self, nsid: int, words: list[int], _: bytes) -> tuple[int, int, bytes]:
        kind = words[0] & 0xff
        if kind == 0x01:
            return OK, 0, self._controller()
        if kind in (0x02, 0x10):
            listed = [each for each, namespace in sorted(self.namespaces.items())
                      if each > nsid and (kind == 0x10 or self.controller_id in namespace.attached)]
            return OK, 0, struct.pack(f"<{len(listed)}I", *listed)
        if kind == 0x12:
            attached = sorted(self.namespaces[nsid].attached)
            return OK, 0, struct.pack(f"<H{len(attached)}H", len(attached), *attached)
        if kind not in (0x00, 0x11):
            return INVALID_FIELD, 0, b""
        if nsid == 0xffffffff:
            return OK, 0, self._namespace(Namespace(0))
        if nsid not in self.namespaces:
            return INVALID_NAMESPACE, 0, b""
        namespace = self.namespaces[nsid]
        if kind == 0x00 and self.controller_id not in namespace.attached:
            return OK, 0, b""
        return OK, 0, self._namespace(namespace)

    def _controller(self) -> bytes:
        data = bytearray(PAGE)
        data[4:24] = self.serial.ljust(20).encode()
        data[24:64] = self.name.ljust(40).encode()
        data[64:72] = self.firmware.ljust(8).encode()
        data[76] = self.several << 1
        struct.pack_into("<H", data, 78, self.controller_id)
        struct.pack_into("<H", data, 256, self.oacs)
        struct.pack_into("<I", data, 328, self.sanicap)
        data[524] = self.fna
        return bytes(data)

    @staticmethod
    def _namespace(namespace: Namespace) -> bytes:
        data = bytearray(PAGE)
        struct.pack_into("<QQ", data, 0, namespace.blocks, namespace.blocks)
        data[25] = len(FORMATS) - 1
        data[26] = namespace.format_index | namespace.extended << 4
        data[30] = namespace.shared
        for index, (metadata, power) in enumerate(FORMATS):
            struct.pack_into("<HBB", data, 128 + 4 * index, metadata, power, 0)
        return bytes(data)

    def _log(self, nsid: int, words: list[int], _: bytes) -> tuple[int, int, bytes]:
        if words[0] & 0xff != 0x81 or not self.sanicap:
            return INVALID_FIELD, 0, b""
        if self._status == 2:
            self._left -= 1
            if self._left <= 0:
                self._finish_sanitize()
        progress = 0xffff if self._status != 2 else (
            0xffff - 0xffff * self._left // max(self.sanitize_polls, 1))
        return OK, 0, struct.pack("<HHI", progress, self._status, 0)

    def _finish_sanitize(self) -> None:
        if self.sanitize_fails:
            self.sanitize_fails -= 1
            self._status = 3
            return
        self._status = 1
        for namespace in self.namespaces.values():
            namespace.data.clear()

    def _sanitize(self, nsid: int, words: list[int], _: bytes) -> tuple[int, int, bytes]:
        action = words[0] & 0b111
        if action == 1:
            self._status = 0
            return OK, 0, b""
        if not self.sanicap & {2: 0b10, 3: 0b100, 4: 0b1}[action]:
            return INVALID_FIELD, 0, b""
        self._status, self._left = 2, self.sanitize_polls
        return OK, 0, b""

    def _format(self, nsid: int, words: list[int], _: bytes) -> tuple[int, int, bytes]:
        namespace = self.namespaces.get(nsid)
        settings = words[0] >> 9 & 0b111
        if not self.oacs & 0b10:
            return INVALID_OPCODE, 0, b""
        if namespace is None or self.controller_id not in namespace.attached:
            return INVALID_NAMESPACE, 0, b""
        if settings == 2 and not self.fna & 0b100:
            return INVALID_FIELD, 0, b""
        if namespace.protected:
            return WRITE_PROTECTED, 0, b""
        size = namespace.bytes_long
        namespace.format_index = words[0] & 0xf
        namespace.extended = bool(words[0] & 0x10)
        namespace.blocks = size >> FORMATS[namespace.format_index][1]
        if self.formats_really:
            namespace.data.clear()
        return OK, 0, b""

    def _manage(self, nsid: int, words: list[int], data: bytes) -> tuple[int, int, bytes]:
        if not self.oacs & 0b1000:
            return INVALID_OPCODE, 0, b""
        if words[0] & 0xf == 1:
            if self.namespaces.pop(nsid, None) is None:
                return INVALID_NAMESPACE, 0, b""
            return OK, 0, b""
        new = next(each for each in range(1, 64) if each not in self.namespaces)
        self.namespaces[new] = Namespace(struct.unpack_from("<Q", data)[0], data[26] & 0xf,
                                         attached=set(), shared=bool(data[30] & 1))
        return OK, new, b""

    def _attach(self, nsid: int, words: list[int], data: bytes) -> tuple[int, int, bytes]:
        count, = struct.unpack_from("<H", data)
        controllers = set(struct.unpack_from(f"<{count}H", data, 2))
        attached = self.namespaces[nsid].attached
        if words[0] & 0xf == 1:
            if not controllers <= attached:
                return NOT_ATTACHED, 0, b""
            attached -= controllers
        else:
            if controllers & attached:
                return ALREADY_ATTACHED, 0, b""
            attached |= controllers
        return OK, 0, b""
