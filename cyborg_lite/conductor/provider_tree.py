# SPDX-License-Identifier: Apache-2.0
"""What Placement should have of a deployable, and what has to change. Pure: plain data in and out.

No requests and no queries: `providers.py` and `placement_sync.py` make them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from cyborg_lite import states
from cyborg_lite.clients import placement
from cyborg_lite.db import services

NAME_LENGTH = 200
"""Longest name of a resource provider."""

MAINTAINING = "maintaining"
DISABLED = "disabled"

_ILLEGAL = re.compile(r"[^\x21-\x7e]")
_CLASS = re.compile(r"[A-Z0-9_]{1,255}")

Inventories = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One provider as our rows want it. total 0: it offers nothing now."""

    deployable_id: int
    uuid: str
    name: str
    resource_class: str | None
    total: int
    reserved: int
    traits: frozenset[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Actual:
    """What a provider has at one generation, ours and other people's."""

    generation: int
    inventories: Mapping[str, Mapping[str, Any]]
    traits: frozenset[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Ours:
    """What of a provider we put there: only this may we take away again."""

    traits: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()

    def with_wanted(self, wanted: Wanted) -> Ours:
        """What is ours once `wanted` may have been written."""
        classes = {wanted.resource_class} if wanted.resource_class else set()
        return Ours(self.traits | wanted.traits, self.classes | classes)

    def only_wanted(self, wanted: Wanted, actual: Actual) -> Ours:
        """What is ours once `wanted` has been written and `actual` came of it."""
        everything = self.with_wanted(wanted)
        return Ours(wanted.traits & actual.traits, everything.classes & set(actual.inventories))


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """The whole of what to write; None for what is right already."""

    traits: frozenset[str] | None = None
    inventories: Inventories | None = None

    def __bool__(self) -> bool:
        return self.traits is not None or self.inventories is not None


def wanted_of(offer: services.Offer) -> Wanted:
    """Return the provider of one deployable.

    Handles that failed can't serve; those that wait to be cleaned can't serve yet.
    """
    total = sum(offer.handles.values()) - offer.handles.get(states.FAILED, 0)
    reserved = (total if offer.device_status == MAINTAINING or offer.agent_status == DISABLED
                or offer.is_closed
                else offer.handles.get(states.CLEANING, 0))
    resource_class = offer.resource_class
    if resource_class is None or not _CLASS.fullmatch(resource_class):
        resource_class, total, reserved = None, 0, 0
    return Wanted(
        deployable_id=offer.deployable_id, uuid=offer.rp_uuid,
        name=legal_name(offer.name, offer.rp_uuid), resource_class=resource_class, total=total,
        reserved=reserved, traits=offer.traits | {placement.OWNER_TRAIT})


def change(wanted: Wanted, actual: Actual, ours: Ours, *, in_use: bool = False) -> Change:
    """Return what makes `actual` agree with `wanted` and leaves what others put there.

    in_use: an inventory that should go has allocations; it stays, wholly reserved.
    """
    traits = (actual.traits - ours.traits) | wanted.traits
    inventories: Inventories = {}
    for name, found in actual.inventories.items():
        goes = (name in ours.classes or name == wanted.resource_class) and not (
            name == wanted.resource_class and wanted.total)
        if not goes:
            inventories[name] = dict(found)
        elif in_use:
            inventories[name] = {**found, "reserved": found["total"]}
    if wanted.resource_class and wanted.total:
        inventories[wanted.resource_class] = _inventory(
            actual.inventories.get(wanted.resource_class), wanted)
    return Change(traits=None if traits == actual.traits else traits,
                  inventories=None if inventories == actual.inventories else inventories)


def _inventory(found: Mapping[str, Any] | None, wanted: Wanted) -> dict[str, Any]:
    if found is None:
        return {"total": wanted.total, "reserved": wanted.reserved, "min_unit": 1,
                "max_unit": wanted.total, "step_size": 1, "allocation_ratio": 1.0}
    # what an operator changed stays; max_unit is the operator's once it differs from total
    max_unit = wanted.total if found["max_unit"] == found["total"] else found["max_unit"]
    return {**found, "total": wanted.total, "reserved": wanted.reserved, "max_unit": max_unit}


def wholly_reserved(found: Mapping[str, Mapping[str, Any]]) -> Inventories:
    """The same inventories, of which nobody gets anything more."""
    return {name: {**inventory, "reserved": inventory["total"]}
            for name, inventory in found.items()}


# --- names ------------------------------------------------------------------------------------


def legal_name(name: str, uuid: str) -> str:
    """Return a name that Placement takes; one that had to be altered stays unique by the uuid."""
    legal = _ILLEGAL.sub("_", name)
    return legal if legal == name and len(legal) <= NAME_LENGTH else unique_name(name, uuid)


def unique_name(name: str, uuid: str) -> str:
    """Return a legal name that no other provider has: it ends with the uuid."""
    legal = _ILLEGAL.sub("_", name)
    return f"{legal[:NAME_LENGTH - len(uuid) - 1]}_{uuid}"


def compute_names(resource_provider_name: str, host: str) -> tuple[list[str], list[str]]:
    """Return the names by which to look for a host's compute node provider.

    The first list holds the names that were given, best first; the second their short forms, which
    may belong to another host of another domain.
    """
    given = list(dict.fromkeys([resource_provider_name, host]))
    short = dict.fromkeys(name.partition(".")[0] for name in given if not _is_address(name))
    return given, [name for name in short if name and name not in given]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# --- what is remembered of a provider ---------------------------------------------------------


def to_record(actual: Actual | None, ours: Ours) -> dict[str, Any]:
    """Return what to store of a provider, as JSON values. actual: None while it is being written.
    """
    record: dict[str, Any] = {"our_traits": sorted(ours.traits),
                              "our_classes": sorted(ours.classes)}
    if actual is not None:
        record |= {"generation": actual.generation, "traits": sorted(actual.traits),
                   "inventories": {name: dict(inventory)
                                   for name, inventory in actual.inventories.items()}}
    return record


def from_record(record: Mapping[str, Any]) -> tuple[Actual | None, Ours]:
    """Read what `to_record` made, or an empty mapping."""
    ours = Ours(frozenset(record.get("our_traits", ())), frozenset(record.get("our_classes", ())))
    if "generation" not in record:
        return None, ours
    return Actual(record["generation"], record["inventories"], frozenset(record["traits"])), ours


def differs_in_place(found: placement.Provider, wanted: Wanted, root_uuid: str) -> bool:
    """Say whether a provider hangs below another parent or has neither of its two names."""
    names = (wanted.name, unique_name(wanted.name, wanted.uuid))
    return found.parent_uuid != root_uuid or found.name not in names


def root_of(found: Iterable[placement.Provider]) -> placement.Provider | None:
    """Return the root among the providers of one tree."""
    return next((provider for provider in found if provider.uuid == provider.root_uuid), None)
