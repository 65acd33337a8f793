# SPDX-License-Identifier: Apache-2.0
"""As which vGPU type each partition of a card is offered: in use, wished for, or sensible.

Remembers the wished ones in a file below `[agent] state_path`; touches no hardware.
"""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from cyborg_lite import vgpu_layouts
from cyborg_lite.drivers import handle_records
from cyborg_lite.drivers import nvidia_mig_cards
from cyborg_lite.drivers import state_file
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import vgpu_types

Choice = tuple[int, str]
"""Id of a profile, short name of the vGPU type that a partition of it is offered as."""

# one for all: a driver made anew by a reload shares its file with the one before it
_LOCK = threading.Lock()


class Choices:
    """The types that were wished for, by card. read_only: nothing is written, for the pre-flight.

    What is kept raises state_file.Unusable when it can't be.
    """

    def __init__(self, state_path: str, driver: str, *, read_only: bool = False) -> None:
        self._path = os.path.join(state_path, f"{driver}.types.json")
        self._read_only = read_only

    def of(self, address: str) -> list[Choice]:
        """Return what was wished for the partitions of a card, as often as it was."""
        with _LOCK:
            return [(int(profile_id), str(name)) for profile_id, name in
                    self._load().get(address, ())]

    def note(self, address: str, choices: Iterable[Choice]) -> None:
        """Remember what is wished from now on."""
        wanted = sorted([profile_id, name] for profile_id, name in choices)
        with _LOCK:
            known = self._load()
            if known.get(address, []) != wanted and not self._read_only:
                state_file.store(self._path, {**known, address: wanted})

    def _load(self) -> dict[str, Any]:
        found = state_file.load(self._path)
        return found if isinstance(found, dict) else {}


def offered(card: nvidia_mig_cards.Card, used: Iterable[str], wished: Iterable[Choice],
            words: Sequence[str]) -> list[str | None]:
    """Return the short name of each partition's type, in their order; None has nothing to offer.

    used: types of the vGPUs that we made, each as often as it is there; they come before all
    wishes. words: types that the operator prefers where no wish was made.
    """
    waiting: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    by_name = {each.short_name: each for each in card.types or ()}
    for name, number in collections.Counter(used).items():
        kind = by_name.get(name)
        if kind is not None and kind.partition_profile_id is not None:
            waiting[kind.partition_profile_id][name] = -(-number // max(kind.max_per_partition, 1))
    asked: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for profile_id, name in wished:
        if name in by_name:
            asked[profile_id][name] += 1
    found: dict[int, list[str]] = {}
    for profile_id, number in card.counts.items():
        # what is in use and was wished for is there once
        names = list((waiting[profile_id] | asked[profile_id]).elements())
        names.sort(key=lambda name: waiting[profile_id][name] == 0)
        kind = default(card, profile_id, words)
        names += [kind.short_name] * number if kind else []
        found[profile_id] = sorted(names[:number])
    given = {profile_id: iter(names) for profile_id, names in found.items()}
    return [next(given[each.instance.profile_id], None) for each in card.partitions]


def room(card: nvidia_mig_cards.Card, offered_as: Iterable[str | None]) -> dict[str, int]:
    """Return how many vGPUs of each type the partitions of a card hold."""
    kinds = {each.short_name: each for each in card.types or ()}
    partitions = collections.Counter(name for name in offered_as if name is not None)
    return {name: min(number * kinds[name].max_per_partition, kinds[name].max_instances)
            for name, number in partitions.items()}


def in_use(card: nvidia_mig_cards.Card,
           records: Iterable[handle_records.Record]) -> list[str]:
    """Return the types of the vGPUs that we made on a card, each as often as it is there."""
    return [vgpu_types.short_name(record.name) for record in records
            if record.card == card.address]


def default(card: nvidia_mig_cards.Card, profile_id: int,
            words: Sequence[str] = ()) -> vgpu_layouts.VgpuType | None:
    """Return the type to take when nobody says which: a word's, else one for all of the partition.

    Of several, the series that can do most.
    """
    known = card.types_of(profile_id)
    for word in words:
        for each in known:
            if vgpu_types.is_meant(word, f"nvidia-{each.id}", each.name):
                return each
    return min(known, key=_order, default=None)


def ranked(card: nvidia_mig_cards.Card, words: Sequence[str]) -> dict[int, list[str]]:
    """Short names of the types that live in each profile's partitions, the default first."""
    found: dict[int, list[str]] = {}
    for profile in card.profiles:
        first = default(card, profile.id, words)
        kinds = sorted(card.types_of(profile.id), key=lambda kind: (kind != first, _order(kind)))
        found[profile.id] = [kind.short_name for kind in kinds]
    return found


def _order(kind: vgpu_layouts.VgpuType) -> tuple[int, int, str]:
    parts = vgpu_types.parse_name(kind.name)
    return (-kind.memory_mib,
            vgpu_types.SERIES.index(parts.series) if parts else len(vgpu_types.SERIES), kind.name)


def words(group: Mapping[str, Any], function: sysfs.PciFunction, own: str | None) -> list[str]:
    """Return which types the operator prefers on a card, the first first.

    own: what its device file says. group: the options `gpu_devices`.
    """
    enabled = group.get("enabled_vgpu_types") or ()
    addresses = {word: [each.strip().lower() for each in
                        ((group.get("types") or {}).get(word) or {}).get("device_addresses") or ()]
                 for word in enabled}
    return [*([own] if own else []),
            *(word for word in enabled if function.address in addresses[word]),
            *(word for word in enabled if not addresses[word])]
