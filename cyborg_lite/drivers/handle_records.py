# SPDX-License-Identifier: Apache-2.0
"""What a driver made on its host and for which handle: a file below `[agent] state_path`.

No hardware is touched here. A line is written before the thing is made and goes after the thing
is gone, so that after any crash a thing without a line is somebody else's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Mapping
from typing import Any

VERSION = 1

# one for all: a driver made anew by a reload shares its file with the one before it
_LOCK = threading.Lock()


class Unusable(OSError):
    """The file can't be read or written; what is ours can't be told."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One handle's thing: a mediated device, or the vGPU type of a virtual function.

    card: what shares one capacity: address of the physical function, or name of the parent.
    parent: the function, or the parent device, on which it is.
    type_id: of this driver version; name: what lasts when ids change.
    info: the handle's, word for word. made: by us; False where another makes it for the handle.
    total_mib: memory of the card, where that was known.
    """

    card: str
    parent: str
    type_id: str
    name: str
    info: Mapping[str, str]
    made: bool = True
    total_mib: int = 0


class HandleRecords:
    """The records of one driver, by handle uuid. Safe for several threads of one process.

    read_only: nothing is known and nothing is written, as the pre-flight wants it.
    """

    def __init__(self, state_path: str, driver: str, *, read_only: bool = False) -> None:
        self.path = os.path.join(state_path, f"{driver}.json")
        self._read_only = read_only

    def all(self) -> dict[str, Record]:
        """Return every record; raises Unusable."""
        if self._read_only:
            return {}
        with _LOCK:
            return self._load()

    def put(self, uuid: str, record: Record) -> None:
        """Write a record; when this returns it survives a loss of power. Raises Unusable."""
        self._change({uuid: record}, ())

    def drop(self, uuid: str) -> None:
        """Forget a record, if there is one. Raises Unusable."""
        self._change({}, (uuid,))

    def _change(self, new: Mapping[str, Record], gone: tuple[str, ...]) -> None:
        if self._read_only:
            raise Unusable(f"{self.path} is not written by the pre-flight")
        with _LOCK:
            before = self._load()
            after = {uuid: record for uuid, record in {**before, **new}.items() if uuid not in gone}
            if after != before:
                self._store(after)

    def _load(self) -> dict[str, Record]:
        try:
            with open(self.path, encoding="utf-8") as stream:
                data = json.load(stream)
            if data["version"] != VERSION:
                raise ValueError(f"its version is {data['version']!r}, not {VERSION}")
            return {uuid: _record(fields) for uuid, fields in data["handles"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise Unusable(
                f"{self.path} can't be read ({error}), so what belongs to this service can't be "
                "told; restore it, or remove it when no server uses a device of this host"
            ) from error

    def _store(self, records: Mapping[str, Record]) -> None:
        data = {"version": VERSION,
                "handles": {uuid: dataclasses.asdict(records[uuid]) for uuid in sorted(records)}}
        new = f"{self.path}.new"
        folder = os.path.dirname(self.path)
        try:
            os.makedirs(folder, mode=0o750, exist_ok=True)
            with open(new, "w", encoding="utf-8") as stream:
                json.dump(data, stream, indent=1, sort_keys=True)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(new, self.path)
            with contextlib.closing(_Directory(folder)) as directory:
                os.fsync(directory.descriptor)
        except OSError as error:
            raise Unusable(f"{self.path} can't be written ({error.strerror}); nothing is made "
                           "that could not be told ours after a crash") from error


class _Directory:
    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        os.close(self.descriptor)


def _record(fields: dict[str, Any]) -> Record:
    known = {field.name for field in dataclasses.fields(Record)}
    record = Record(**{name: value for name, value in fields.items() if name in known})
    if not isinstance(record.info, dict):
        raise ValueError(f"info of {record.parent} is no object")
    return record
