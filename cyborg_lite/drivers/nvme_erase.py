# SPDX-License-Identifier: Apache-2.0
"""Erases one NVMe disk, proves it, and gives it back the namespaces that it had.

Which disk that is, and whether it may be erased, is decided elsewhere; nothing of the host is
touched here but the disk, through a `Drive`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Protocol

from cyborg_lite.drivers import nvme_admin
from cyborg_lite.drivers import nvme_records

LOG = logging.getLogger(__name__)

SENTINEL_BYTES = 4096
STALLED_S = 2 * 3600
LONGEST_POLL_S = 10.0

FORMAT, FORMAT_CRYPTO, SANITIZE = "format", "format-crypto", "sanitize"
"""Methods by the word of the device files, weakest first."""

_LISTED_AT_ONCE = 1024


class CannotErase(Exception):
    """The disk may still hold what its tenant wrote. The text says why, and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    """Time, as tests want to have it too."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Drive(Protocol):
    """One disk on the host's driver."""

    def admin(self, command: nvme_admin.Command) -> nvme_admin.Answer:
        """Send an admin command. OSError when it can't be sent, or the host uses the disk."""

    def has_block_device(self, nsid: int) -> bool:
        """Say whether the kernel has, or soon gets, a block device for an attached namespace."""

    def write(self, nsid: int, offset: int, data: bytes) -> None:
        """Write past every cache; OSError."""

    def read(self, nsid: int, offset: int, length: int) -> bytes:
        """Read past every cache; OSError."""


def choose(wish: str | None, controller: nvme_admin.Controller) -> str:
    """Return the method: the one wished for, else the strongest. Raises CannotErase."""
    able = {FORMAT: controller.can_format, FORMAT_CRYPTO: controller.can_format_crypto,
            SANITIZE: controller.sanitize_action is not None}
    supported = [method for method, possible in able.items() if possible]
    if wish is None and supported:
        return supported[-1]
    if wish in supported:
        return str(wish)
    raise CannotErase(
        f"its controller can't do {wish or 'any erase'} (oacs {controller.oacs:#x}, fna "
        f"{controller.fna:#x}, sanicap {controller.sanicap:#x}); it can do "
        f"{', '.join(supported) or 'nothing of format, format-crypto, sanitize'}")


def survey(drive: Drive, *, whole: bool = True) -> tuple[nvme_records.Space, ...]:
    """Return the namespaces as they are now. Raises CannotErase, OSError."""
    return Eraser(drive, Clock(), whole=whole).spaces()


def erase(drive: Drive, wish: str | None, wanted: Sequence[nvme_records.Space] | None,
          clock: Clock, *, whole: bool = True) -> tuple[str, tuple[nvme_records.Space, ...]]:
    """Erase all that a tenant could have written, wherever; return method and layout after.

    wanted: the namespaces to be there afterwards; None keeps those that are. whole: the subsystem
    is the tenant's; a virtual function has no more than the namespaces attached to it. May be
    repeated at any time, also after a loss of power. Raises CannotErase, OSError.
    """
    eraser = Eraser(drive, clock, whole=whole)
    method = choose(wish, eraser.controller)
    eraser.refuse_shared()
    eraser.await_sanitize()
    if method == SANITIZE:
        eraser.sanitize()
    else:
        eraser.format_all(method, wanted)
    return method, eraser.restore(wanted)


class Eraser:
    """One erase of one drive."""

    def __init__(self, drive: Drive, clock: Clock, *, whole: bool) -> None:
        self._drive = drive
        self._clock = clock
        controller = nvme_admin.parse_controller(
            self._do("identify controller", nvme_admin.identify_controller()).data)
        self.controller = controller if whole else controller.with_own_namespaces_alone()

    def _do(self, what: str, command: nvme_admin.Command) -> nvme_admin.Answer:
        answer = self._drive.admin(command)
        if answer.trouble:
            raise CannotErase(f"it refuses {what}: {answer.trouble}")
        return answer

    # --- namespaces -----------------------------------------------------------------------

    def _listed(self, what: str,
                ask: Callable[[int], nvme_admin.Command]) -> list[int]:
        found: list[int] = []
        while True:
            part = nvme_admin.parse_namespaces(self._do(what, ask(found[-1] if found else 0)).data)
            found += part
            if len(part) < _LISTED_AT_ONCE:
                return found

    def _active(self) -> list[int]:
        return self._listed("list active namespaces", nvme_admin.list_active)

    def _allocated(self) -> list[int]:
        if not self.controller.can_manage_namespaces:
            return self._active()
        return self._listed("list allocated namespaces", nvme_admin.list_allocated)

    def _namespace(self, nsid: int, *, attached: bool) -> nvme_admin.Namespace:
        answer = self._do(f"identify namespace {nsid}",
                          nvme_admin.identify_namespace(nsid, attached=attached))
        return nvme_admin.parse_namespace(nsid, answer.data)

    def spaces(self) -> tuple[nvme_records.Space, ...]:
        """Return every namespace of the subsystem as it is now."""
        active = self._active()
        found = (self._namespace(nsid, attached=nsid in active) for nsid in self._allocated())
        return tuple(nvme_records.Space(
            nsid=each.nsid, blocks=each.blocks, block_bytes=each.block_bytes,
            metadata_bytes=each.metadata_bytes, attached=each.nsid in active, shared=each.shared,
            extended=each.extended, protection=each.protection)
            for each in found)

    def refuse_shared(self) -> None:
        """Raise when another controller, thus somebody else, has one of the namespaces."""
        if not self.controller.several:
            return
        for space in self.spaces():
            answer = self._drive.admin(nvme_admin.list_attached(space.nsid))
            if answer.trouble and not space.shared:
                continue
            others = ["whichever"] if answer.trouble else [
                str(each) for each in nvme_admin.parse_controllers(answer.data)
                if each != self.controller.controller_id]
            if others:
                raise CannotErase(
                    f"its namespace {space.nsid} is, or may be, attached to controller "
                    f"{', '.join(others)} too, whose data would be erased; detach it there")

    # --- sanitize -------------------------------------------------------------------------

    def _log(self) -> nvme_admin.SanitizeLog:
        return nvme_admin.parse_sanitize_log(
            self._do("the sanitize log", nvme_admin.read_sanitize_log()).data)

    def await_sanitize(self) -> None:
        """Wait for a sanitize that is under way: ours before a crash, or a tenant's."""
        if self.controller.sanitize_action is not None:
            self._finished(self._log())

    def sanitize(self) -> None:
        """Sanitize the whole subsystem; returns when the log says that it was done."""
        action = self.controller.sanitize_action
        if action is None:
            raise CannotErase("its controller can't sanitize")
        self._do("sanitize", nvme_admin.sanitize(action))
        log = self._finished(self._log())
        if not log.has_succeeded:
            raise CannotErase(f"its sanitize log says status {log.status} and not that the "
                              "sanitize was done; clean the device again, or replace the disk")

    def _finished(self, log: nvme_admin.SanitizeLog) -> nvme_admin.SanitizeLog:
        pause, moved_at = 0.1, self._clock.now()
        while log.is_running:
            if self._clock.now() - moved_at > STALLED_S:
                raise CannotErase(f"its sanitize stands at {log.progress * 100 // 65536} % for "
                                  f"{STALLED_S // 3600} hours")
            self._clock.sleep(pause)
            pause = min(pause * 2, LONGEST_POLL_S)
            before, log = log, self._log()
            if log.progress != before.progress:
                moved_at = self._clock.now()
        return log

    # --- format ---------------------------------------------------------------------------

    def format_all(self, method: str, wanted: Sequence[nvme_records.Space] | None) -> None:
        """Format every namespace of the subsystem with secure erase, those that are hidden too."""
        if self.controller.sanitize_action is not None and self._log().has_failed:
            # a drive in this mode takes no format
            self._do("to leave the failed sanitize", nvme_admin.leave_failure())
        known = {space.nsid: space for space in wanted or ()}
        settings = (nvme_admin.CRYPTOGRAPHIC if method == FORMAT_CRYPTO
                    else nvme_admin.USER_DATA)
        active = self._active()
        for nsid in self._allocated():
            if nsid not in active:
                self._attach(nsid)
            self._format(nsid, settings, known.get(nsid))
            if nsid not in active:
                self._detach(nsid)

    def _format(self, nsid: int, settings: int, space: nvme_records.Space | None) -> None:
        namespace = self._namespace(nsid, attached=True)
        like = space or namespace
        index = namespace.format_like(like.block_bytes, like.metadata_bytes)
        if index is None:
            raise CannotErase(f"its namespace {nsid} has no format with {like.block_bytes} bytes "
                              f"of data and {like.metadata_bytes} of metadata any more; it has "
                              f"{namespace.formats}")
        command = nvme_admin.format_namespace(nsid, settings, index, extended=like.extended,
                                              protection=like.protection)
        written = self._write_sentinels(namespace)
        self._do(f"format of namespace {nsid}", command)
        if not written:
            # as a tenant left it nothing could be written; as it is now, something can
            written = self._write_sentinels(self._namespace(nsid, attached=True))
            self._do(f"format of namespace {nsid}", command)
        if not written:
            raise CannotErase(f"nothing can be written to its namespace {nsid}, so that it was "
                              "erased can't be proved")
        self._look_for_sentinels(nsid, written)

    def _write_sentinels(self, namespace: nvme_admin.Namespace) -> Mapping[int, bytes]:
        """Write what must be gone after the erase: at the start, in the middle, at the end."""
        if not self._drive.has_block_device(namespace.nsid):
            return {}
        written: dict[int, bytes] = {}
        for offset in _places(namespace.blocks * namespace.block_bytes):
            data = os.urandom(SENTINEL_BYTES)
            try:
                self._drive.write(namespace.nsid, offset, data)
                if self._drive.read(namespace.nsid, offset, SENTINEL_BYTES) != data:
                    return {}
            except OSError as error:
                LOG.debug("namespace %d takes no sentinel at %d: %s", namespace.nsid, offset,
                          error)
                return {}
            written[offset] = data
        return written

    def _look_for_sentinels(self, nsid: int, written: Mapping[int, bytes]) -> None:
        for offset, data in written.items():
            if self._drive.read(nsid, offset, SENTINEL_BYTES) == data:
                raise CannotErase(
                    f"its controller says that namespace {nsid} was formatted, but what was "
                    f"written at byte {offset} before can still be read; replace the disk, or "
                    "choose another clean: in its device file")

    # --- namespaces again -----------------------------------------------------------------

    def _attach(self, nsid: int) -> None:
        self._do(f"to attach namespace {nsid}",
                 nvme_admin.attach_namespace(nsid, [self.controller.controller_id]))

    def _detach(self, nsid: int) -> None:
        self._do(f"to detach namespace {nsid}",
                 nvme_admin.detach_namespace(nsid, [self.controller.controller_id]))

    def restore(self, wanted: Sequence[nvme_records.Space] | None) -> tuple[
            nvme_records.Space, ...]:
        """Delete what a tenant made, make what he deleted, attach and detach as it was."""
        found = self.spaces()
        if wanted is None or _shapes(found) == _shapes(wanted):
            return found
        kept = {space.nsid: space for space in wanted}
        for space in found:
            if _shape(space) != _shape(kept.get(space.nsid)):
                self._do(f"to delete namespace {space.nsid}",
                         nvme_admin.delete_namespace(space.nsid))
            elif space.attached != kept[space.nsid].attached:
                (self._detach if space.attached else self._attach)(space.nsid)
        left = self._allocated()
        for space in wanted:
            if space.nsid not in left:
                self._create(space)
        found = self.spaces()
        if sorted(map(_shape, found)) != sorted(map(_shape, wanted)):
            raise CannotErase(f"its namespaces are {_told(found)} and can't be made as they were: "
                              f"{_told(wanted)}")
        return found

    def _create(self, space: nvme_records.Space) -> None:
        """Make a namespace on erased media."""
        answer = self._do("identify the formats of namespaces",
                          nvme_admin.identify_namespace(nvme_admin.ALL_NAMESPACES))
        formats = nvme_admin.parse_namespace(nvme_admin.ALL_NAMESPACES, answer.data).formats
        sizes = (space.metadata_bytes, space.block_bytes)
        if sizes not in formats:
            raise CannotErase(f"it has no format with {space.block_bytes} bytes a block any more")
        nsid = self._do("to create a namespace", nvme_admin.create_namespace(
            space.blocks, formats.index(sizes), extended=space.extended,
            protection=space.protection, shared=space.shared)).result
        if space.attached:
            self._attach(nsid)


def _places(length: int) -> tuple[int, ...]:
    last = (length - SENTINEL_BYTES) // SENTINEL_BYTES * SENTINEL_BYTES
    middle = last // 2 // SENTINEL_BYTES * SENTINEL_BYTES
    return tuple(sorted({0, middle, last})) if last >= 0 else ()


def _shape(space: nvme_records.Space | None) -> tuple[int, ...]:
    return () if space is None else (space.blocks, space.block_bytes, space.metadata_bytes,
                                     space.extended, space.protection)


def _shapes(spaces: Iterable[nvme_records.Space]) -> set[tuple[int, bool, tuple[int, ...]]]:
    return {(space.nsid, space.attached, _shape(space)) for space in spaces}


def _told(spaces: Iterable[nvme_records.Space]) -> str:
    return ", ".join(f"{space.nsid}: {space.blocks} blocks of {space.block_bytes} bytes"
                     f"{'' if space.attached else ', detached'}" for space in spaces) or "none"
