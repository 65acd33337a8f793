# SPDX-License-Identifier: Apache-2.0
"""Layouts of cards that vGPUs share in time: of which type, and how many, as administrators wish.

Remembers wishes in a file below `[agent] state_path`; nothing is made or counted here.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Collection
from collections.abc import Iterable
from typing import Any

from cyborg_lite import messages
from cyborg_lite import vgpu_layouts
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import state_file
from cyborg_lite.drivers import vgpu_types

SCHEME = "vgpu"

# one for all: a driver made anew by a reload shares its file with the one before it
_LOCK = threading.Lock()


class Fault(Exception):
    """The card can't be used so; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What was wished of a card: so many vGPUs of a type; none of any for an empty name.

    model: of the card; empty where that was not kept.
    """

    name: str
    count: int
    model: str = ""

    def is_for(self, model: str) -> bool:
        """Whether it was wished of such a card, and not of one that was in its place before."""
        return self.model in ("", model)


class Choices:
    """The wishes of a host. read_only: nothing is written, for the pre-flight.

    Raises state_file.Unusable when the file can't be read or written.
    """

    def __init__(self, state_path: str, driver: str, *, read_only: bool = False) -> None:
        self._path = os.path.join(state_path, f"{driver}.types.json")
        self._read_only = read_only

    def all(self) -> dict[str, Choice]:
        """Return the wish for each card that has one, by its address."""
        with _LOCK:
            return {address: Choice(str(name), int(count), *map(str, model))
                    for address, (name, count, *model) in self._load().items()}

    def note(self, address: str, choice: Choice) -> None:
        """Remember what is wished from now on."""
        wanted = [choice.name, choice.count, choice.model]
        with _LOCK:
            known = self._load()
            if known.get(address) != wanted and not self._read_only:
                state_file.store(self._path, {**known, address: wanted})

    def _load(self) -> dict[str, Any]:
        found = state_file.load(self._path)
        return found if isinstance(found, dict) else {}


def judged(address: str, model: str, types: Iterable[vgpu_layouts.VgpuType],
           partitions: Iterable[messages.PartitionCount]) -> Choice:
    """Return what a wish means; for time-sliced vGPUs a profile is a type. Raises Fault."""
    wish: dict[str, int] = {}
    for each in partitions:
        name = vgpu_types.short_name(each.vgpu_type or each.profile)
        wish[name] = wish.get(name, 0) + max(each.count, 0)
    verdict = vgpu_layouts.check(types, wish)
    if verdict.layout is None:
        raise Fault(f"GPU {address}: {verdict.reason}")
    if not verdict.layout.counts:
        return Choice("", 0, model)
    [count] = verdict.layout.counts
    return Choice(count.profile, count.count, model)


def partitioning(types: Collection[vgpu_layouts.VgpuType],
                 offer: handle_slots.Offer | None) -> messages.ReportedPartitioning | None:
    """Return the report of a card; None where NVML names no type that shares it."""
    name = vgpu_types.short_name(offer.type_name) if offer else ""
    known = {each.short_name: each for each in types}
    if not known or (offer is not None and name not in known):
        return None
    return messages.ReportedPartitioning(
        scheme=SCHEME,
        vgpu_types=[messages.PartitionVgpuType(
            name=each.short_name, id=each.id, memory_mib=each.memory_mib,
            max_instances=each.max_instances) for each in types],
        partitions=[messages.Partition(
            profile=name, profile_id=known[name].id, vgpu_type=name)
            for _ in (offer.handles if offer else [])])
