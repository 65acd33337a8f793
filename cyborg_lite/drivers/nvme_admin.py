# SPDX-License-Identifier: Apache-2.0
"""NVMe admin commands as bytes, and what controllers answer as values.

Pure: nothing is sent here, and nothing is decided. Numbers: NVM Express Base Specification 2.0.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable

IDENTIFY = 0x06
GET_LOG_PAGE = 0x02
NAMESPACE_MANAGEMENT = 0x0d
NAMESPACE_ATTACHMENT = 0x15
FORMAT = 0x80
SANITIZE = 0x84

ALL_NAMESPACES = 0xffffffff
PAGE = 4096
SANITIZE_LOG_BYTES = 512

_CURRENT_NAMESPACE, _CONTROLLER, _ACTIVE, _ALLOCATED, _ALLOCATED_NAMESPACE, _ATTACHED = (
    0x00, 0x01, 0x02, 0x10, 0x11, 0x12)

_SHORT_S = 60
_FORMAT_S = 6 * 3600

BLOCK_ERASE, OVERWRITE, CRYPTO_ERASE = 2, 3, 4
"""Actions of Sanitize. Of Format the secure erase settings are:"""

USER_DATA, CRYPTOGRAPHIC = 1, 2

_STATUS_TEXTS = {
    0x001: "invalid opcode", 0x002: "invalid field", 0x006: "internal error",
    0x00b: "invalid namespace", 0x00c: "command sequence error", 0x01c: "sanitize failed",
    0x01d: "sanitize in progress", 0x020: "namespace write protected", 0x10a: "invalid format",
    0x10b: "reset required", 0x115: "no capacity left", 0x116: "no namespace id left",
    0x118: "already attached", 0x119: "private namespace", 0x11a: "not attached",
    0x286: "access denied: it is locked",
}


class BadAnswer(ValueError):
    """What the controller answered is too short, or can't be."""


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One admin command. words: command dwords 10 to 15; data: goes to the device.

    length: bytes wanted from the device.
    """

    opcode: int
    nsid: int = 0
    words: tuple[int, ...] = ()
    data: bytes = b""
    length: int = 0
    timeout_s: int = _SHORT_S


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """status: 0 when it was done, else status code type and status code, as the kernel gives."""

    status: int
    result: int = 0
    data: bytes = b""

    @property
    def code(self) -> int:
        """Status without the bits that say whether to retry."""
        return self.status & 0x7ff

    @property
    def trouble(self) -> str | None:
        """What went wrong, in words; None when nothing did."""
        if not self.code:
            return None
        return f"status {self.code:#05x}, {_STATUS_TEXTS.get(self.code, 'see the specification')}"


# --- identify ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Controller:
    """Of Identify Controller what an erase needs to know.

    several: the subsystem may have more than one controller.
    """

    serial: str
    model: str
    controller_id: int
    several: bool
    oacs: int
    fna: int
    sanicap: int

    @property
    def can_format(self) -> bool:
        return bool(self.oacs & 1 << 1)

    @property
    def can_format_crypto(self) -> bool:
        return self.can_format and bool(self.fna & 1 << 2)

    @property
    def can_manage_namespaces(self) -> bool:
        return bool(self.oacs & 1 << 3)

    @property
    def erases_all_namespaces(self) -> bool:
        """A format of one namespace reaches all of them."""
        return bool(self.fna & 0b11)

    def with_own_namespaces_alone(self) -> Controller:
        """Return it without what reaches the namespaces of other controllers."""
        reaching = 1 << 3 | (1 << 1 if self.erases_all_namespaces else 0)
        return dataclasses.replace(self, sanicap=0, oacs=self.oacs & ~reaching)

    @property
    def sanitize_action(self) -> int | None:
        """The action of Sanitize to use: block erase, else crypto, else overwrite (hours)."""
        for bit, action in ((1, BLOCK_ERASE), (0, CRYPTO_ERASE), (2, OVERWRITE)):
            if self.sanicap & 1 << bit:
                return action
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class Namespace:
    """blocks: its size. block_bytes and metadata_bytes: of the format that it has now.

    formats: (metadata bytes, block bytes) by index; protection: bits of DPS; shared: NMIC.
    """

    nsid: int
    blocks: int
    format_index: int
    formats: tuple[tuple[int, int], ...]
    extended: bool
    protection: int
    shared: bool

    @property
    def block_bytes(self) -> int:
        return self.formats[self.format_index][1]

    @property
    def metadata_bytes(self) -> int:
        return self.formats[self.format_index][0]

    def format_like(self, block_bytes: int, metadata_bytes: int) -> int | None:
        """Return the index of the format with these sizes; None when there is none."""
        wanted = (metadata_bytes, block_bytes)
        if self.formats[self.format_index] == wanted:
            return self.format_index
        return self.formats.index(wanted) if wanted in self.formats else None


def identify_controller() -> Command:
    return Command(IDENTIFY, words=(_CONTROLLER,), length=PAGE)


def identify_namespace(nsid: int, *, attached: bool = True) -> Command:
    """attached: as this controller has it; else any that is allocated in the subsystem."""
    return Command(IDENTIFY, nsid, (_CURRENT_NAMESPACE if attached else _ALLOCATED_NAMESPACE,),
                   length=PAGE)


def list_active(after: int = 0) -> Command:
    """Namespaces that are attached to this controller, 1024 at most."""
    return Command(IDENTIFY, after, (_ACTIVE,), length=PAGE)


def list_allocated(after: int = 0) -> Command:
    """Namespaces of the subsystem, attached or not."""
    return Command(IDENTIFY, after, (_ALLOCATED,), length=PAGE)


def list_attached(nsid: int) -> Command:
    """Controllers that a namespace is attached to."""
    return Command(IDENTIFY, nsid, (_ATTACHED,), length=PAGE)


def parse_controller(data: bytes) -> Controller:
    """Read Identify Controller; raises BadAnswer."""
    _need(data, PAGE)
    return Controller(
        serial=_text(data[4:24]), model=_text(data[24:64]), several=bool(data[76] & 0b10),
        controller_id=_number(data, 78, 2), oacs=_number(data, 256, 2), fna=data[524],
        sanicap=_number(data, 328, 4))


def parse_namespace(nsid: int, data: bytes) -> Namespace:
    """Read Identify Namespace; raises BadAnswer."""
    _need(data, PAGE)
    index = data[26] & 0xf | (data[26] & 0x60) >> 1
    count = min(data[25] + 1, 64)
    formats = tuple((_number(data, 128 + 4 * each, 2), 1 << min(data[130 + 4 * each], 31))
                    for each in range(count))
    if index >= count:
        raise BadAnswer(f"namespace {nsid} says that it has format {index} of {count}")
    return Namespace(nsid=nsid, blocks=_number(data, 0, 8), format_index=index, formats=formats,
                     extended=bool(data[26] & 0x10), protection=data[29] & 0xf,
                     shared=bool(data[30] & 1))


def parse_namespaces(data: bytes) -> list[int]:
    """Read a list of namespace ids, which ends with a zero; raises BadAnswer."""
    _need(data, PAGE)
    found: list[int] = []
    for nsid, in struct.iter_unpack("<I", data[:PAGE]):
        if not nsid:
            break
        if found and nsid <= found[-1]:
            raise BadAnswer(f"namespace {nsid} is listed after {found[-1]}")
        found.append(nsid)
    return found


def parse_controllers(data: bytes) -> list[int]:
    """Read a list of controller ids, which begins with their number; raises BadAnswer."""
    _need(data, PAGE)
    count = _number(data, 0, 2)
    if count > PAGE // 2 - 1:
        raise BadAnswer(f"a list of {count} controllers is too long")
    return list(struct.unpack_from(f"<{count}H", data, 2))


# --- erase ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class SanitizeLog:
    """How far the last sanitize is. progress: of 65536, while it is under way."""

    progress: int
    status: int

    @property
    def is_running(self) -> bool:
        return self.status == 2

    @property
    def has_failed(self) -> bool:
        return self.status == 3

    @property
    def has_succeeded(self) -> bool:
        return self.status in (1, 4)


def format_namespace(nsid: int, settings: int, index: int, *, extended: bool,
                     protection: int) -> Command:
    """Format with secure erase, to the format of this index."""
    word = (index & 0xf | extended << 4 | (protection & 0b111) << 5 | (protection >> 3) << 8
            | settings << 9 | (index >> 4) << 12)
    return Command(FORMAT, nsid, (word,), timeout_s=_FORMAT_S)


def sanitize(action: int) -> Command:
    """Begin a sanitize; the log tells how it goes. Overwrite: one pass of zeros."""
    passes = 1 << 4 if action == OVERWRITE else 0
    return Command(SANITIZE, words=(action | passes, 0))


def leave_failure() -> Command:
    """Leave the mode in which a sanitize that failed leaves the drive, where it is allowed."""
    return Command(SANITIZE, words=(1, 0))


def read_sanitize_log() -> Command:
    words = (0x81 | (SANITIZE_LOG_BYTES // 4 - 1) << 16, 0)
    return Command(GET_LOG_PAGE, ALL_NAMESPACES, words, length=SANITIZE_LOG_BYTES)


def parse_sanitize_log(data: bytes) -> SanitizeLog:
    """Read the sanitize status log page; raises BadAnswer."""
    _need(data, 20)
    return SanitizeLog(progress=_number(data, 0, 2), status=_number(data, 2, 2) & 0b111)


# --- namespaces -------------------------------------------------------------------------------


def delete_namespace(nsid: int) -> Command:
    return Command(NAMESPACE_MANAGEMENT, nsid, (1,))


def create_namespace(blocks: int, index: int, *, extended: bool, protection: int,
                     shared: bool) -> Command:
    """Its id is the result. index: of the format, in Identify Namespace."""
    data = bytearray(PAGE)
    struct.pack_into("<QQ", data, 0, blocks, blocks)
    data[26] = index & 0xf | extended << 4 | (index & 0x30) << 1
    data[29] = protection
    data[30] = int(shared)
    return Command(NAMESPACE_MANAGEMENT, 0, (0,), bytes(data))


def attach_namespace(nsid: int, controllers: Iterable[int]) -> Command:
    return Command(NAMESPACE_ATTACHMENT, nsid, (0,), _controller_list(controllers))


def detach_namespace(nsid: int, controllers: Iterable[int]) -> Command:
    return Command(NAMESPACE_ATTACHMENT, nsid, (1,), _controller_list(controllers))


def _controller_list(controllers: Iterable[int]) -> bytes:
    chosen = list(controllers)
    return struct.pack(f"<H{len(chosen)}H", len(chosen), *chosen).ljust(PAGE, b"\0")


def _need(data: bytes, length: int) -> None:
    if len(data) < length:
        raise BadAnswer(f"{len(data)} bytes were answered, {length} are needed")


def _number(data: bytes, offset: int, length: int) -> int:
    return int.from_bytes(data[offset:offset + length], "little")


def _text(data: bytes) -> str:
    return data.decode("ascii", "replace").strip("\0 ")
