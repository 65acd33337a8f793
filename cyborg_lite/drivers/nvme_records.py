# SPDX-License-Identifier: Apache-2.0
"""What is known of each NVMe disk by its PCI address: identity, stage, layout before a tenant.

A file below `[agent] state_path`; no hardware is touched here. It is written before a disk is
given or erased, so that after any crash a disk whose stage is not `clean` is erased again.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping
from typing import Any

from cyborg_lite.drivers import state_file

NEW, GIVEN, ERASING, CLEAN = "new", "given", "erasing", "clean"
"""new: seen, neither given nor erased by us. given: a tenant has it, or had it. The last two:
being erased, and erased with nobody having had it since."""

_STAGES = (NEW, GIVEN, ERASING, CLEAN)


class Unusable(OSError):
    """The file can't be read or written: which disk is whose can't be told."""


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """One namespace as it is to be again after a tenant.

    extended: metadata is part of each block. protection: type and place of protection information.
    """

    nsid: int
    blocks: int
    block_bytes: int
    metadata_bytes: int
    attached: bool = True
    shared: bool = False
    extended: bool = False
    protection: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Which disk it is: what neither a reset nor an erase changes."""

    serial: str
    subnqn: str
    model: str


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """identity: None for a disk that was never seen on the host's driver.

    instance: whose it is or was, while it is given. spaces: None when the layout is not known.
    driver, override: what the function had before an erase that was not finished, and must have
    again; moved says that these two count.
    """

    identity: Identity | None = None
    stage: str = NEW
    instance: str | None = None
    firmware: str | None = None
    spaces: tuple[Space, ...] | None = None
    moved: bool = False
    driver: str | None = None
    override: str | None = None


class Records:
    """The records of this host, by address. Safe for several threads of one process.

    read_only: nothing is written, and what an ordinary user may not read is unknown, as the
        pre-flight wants it.
    """

    def __init__(self, state_path: str, *, read_only: bool = False) -> None:
        self.path = os.path.join(state_path, "nvme_ssd_driver.json")
        self._read_only = read_only
        self._lock = threading.Lock()

    def all(self) -> dict[str, Record]:
        """Return every record; raises Unusable."""
        with self._lock:
            return self._load()

    def of(self, address: str) -> Record:
        """Return the record of an address, an empty one when there is none. Raises Unusable."""
        return self.all().get(address, Record())

    def put(self, address: str, **changes: Any) -> Record:
        """Change fields of a record; when this returns it survives a loss of power.

        Raises Unusable. The pre-flight writes nothing, and gets the changed record all the same.
        """
        with self._lock:
            before = self._load()
            return self._change(before, address, dataclasses.replace(
                before.get(address, Record()), **changes))

    def replace(self, address: str, record: Record) -> Record:
        """Put a record in the place of what was known, as `put` does."""
        with self._lock:
            return self._change(self._load(), address, record)

    def _change(self, before: Mapping[str, Record], address: str, record: Record) -> Record:
        if before.get(address) != record and not self._read_only:
            self._store({**before, address: record})
        return record

    def _load(self) -> dict[str, Record]:
        try:
            disks = state_file.load(self.path) or {}
            return {address: _record(fields) for address, fields in disks.items()}
        except (state_file.Unusable, ValueError, TypeError, AttributeError) as error:
            if self._read_only and isinstance(error.__cause__, PermissionError):
                return {}
            raise Unusable(
                f"which disks hold a tenant's data can't be told: {self.path} is unusable "
                f"({error}); restore it, or remove it: every disk is erased before its next "
                "handle is free then") from error

    def _store(self, records: Mapping[str, Record]) -> None:
        try:
            state_file.store(self.path, {address: dataclasses.asdict(record)
                                         for address, record in records.items()})
        except state_file.Unusable as error:
            raise Unusable(f"{error}; no disk is given or erased that a crash would make us "
                           "forget") from error


def _record(fields: dict[str, Any]) -> Record:
    known = {field.name for field in dataclasses.fields(Record)}
    values = {name: value for name, value in fields.items() if name in known}
    identity, spaces = values.get("identity"), values.get("spaces")
    if values.get("stage", NEW) not in _STAGES:
        raise ValueError(f"stage is {values['stage']!r}; known are {', '.join(_STAGES)}")
    values["identity"] = None if identity is None else Identity(**identity)
    values["spaces"] = None if spaces is None else tuple(Space(**each) for each in spaces)
    return Record(**values)
