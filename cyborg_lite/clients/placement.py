# SPDX-License-Identifier: Apache-2.0
"""Placement as typed calls: providers, inventories, traits, with generations.

Which providers and traits we want is decided in `conductor/`.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

import requests
from oslo_config import cfg

from cyborg_lite import errors
from cyborg_lite.clients import keystone

MICROVERSION = "1.36"
"""Nested providers, reserved = total, error codes: the Ussuri release and later."""

MICROVERSION_MOVE = "1.37"
"""A provider may get another parent: the Xena release and later."""

OWNER_TRAIT = "OWNER_CYBORG"
NAMES_A_REQUEST = 20

_NAME = re.compile(r"[A-Z0-9_]{1,255}")
_CUSTOM = re.compile(r"CUSTOM_[A-Z0-9_]{1,248}")

Inventory = Mapping[str, Any]
"""total, reserved, min_unit, max_unit, step_size, allocation_ratio."""


class GenerationConflict(errors.Conflict):
    """Somebody changed the provider since it was read: read again."""

    slug, title = "generation-conflict", "The resource provider was changed meanwhile"


class Refused(errors.Error):
    """Placement finds the request wrong; the text is its own."""

    slug, title = "placement-refused", "Placement refused a request"


@dataclasses.dataclass(frozen=True, slots=True)
class Provider:
    """One resource provider, without what it offers."""

    uuid: str
    name: str
    generation: int
    parent_uuid: str | None
    root_uuid: str


@dataclasses.dataclass(frozen=True, slots=True)
class Inventories:
    """What a provider offers, by resource class."""

    generation: int
    by_class: Mapping[str, Inventory]


@dataclasses.dataclass(frozen=True, slots=True)
class Traits:
    """What a provider is."""

    generation: int
    names: frozenset[str]


class Placement:
    """Every call may raise keystone.Away. Safe to use from several threads."""

    def __init__(self, service: keystone.Service, request_id: str | None = None,
                 existing: set[str] | None = None) -> None:
        self._service = service
        self._request_id = request_id
        # traits by name, and custom classes by path, that Placement had when we looked: a trait and
        # a class may have the same name
        self._existing: set[str] = set() if existing is None else existing

    def for_request(self, request_id: str) -> Placement:
        """Return the same client, whose requests carry this request id."""
        return Placement(self._service, request_id, self._existing)

    # --- providers ---------------------------------------------------------------------------

    def find_provider(self, name: str) -> Provider | None:
        """The provider of that name."""
        return next(iter(self._providers(name=name)), None)

    def get_provider(self, uuid: str) -> Provider:
        """NotFound."""
        return _provider(self._call("GET", f"/resource_providers/{uuid}"))

    def list_tree(self, uuid: str) -> list[Provider]:
        """All providers of the tree that this one is in; empty when it does not exist."""
        return self._providers(in_tree=uuid)

    def list_tree_with_trait(self, uuid: str, trait: str) -> list[Provider]:
        """Those of the tree that have a trait."""
        return self._providers(in_tree=uuid, required=trait)

    def list_with_trait(self, trait: str) -> list[Provider]:
        """All that have a trait, wherever they are. One request."""
        return self._providers(required=trait)

    def list_with_room(self, trait: str, resource_class: str, amount: int) -> set[str]:
        """The uuids of those with a trait on which so many are left of a class. One request."""
        return {provider.uuid for provider in self._providers(
            required=trait, resources=f"{resource_class}:{amount}")}

    def create_provider(self, uuid: str, name: str, parent_uuid: str) -> Provider:
        """Duplicate when the uuid or the name is taken; Refused without the parent."""
        return _provider(self._call("POST", "/resource_providers", {
            "uuid": uuid, "name": name, "parent_provider_uuid": parent_uuid}))

    def move_provider(self, uuid: str, name: str, parent_uuid: str) -> Provider:
        """Give it another name or parent; NotFound, Duplicate for the name."""
        return _provider(self._call(
            "PUT", f"/resource_providers/{uuid}",
            {"name": name, "parent_provider_uuid": parent_uuid},
            microversion=MICROVERSION_MOVE))

    def delete_provider(self, uuid: str) -> None:
        """InUse while it has allocations or children; NotFound."""
        self._call("DELETE", f"/resource_providers/{uuid}")

    def _providers(self, **query: str) -> list[Provider]:
        answer = self._call("GET", f"/resource_providers?{urllib.parse.urlencode(query)}")
        return [_provider(entry) for entry in answer["resource_providers"]]

    # --- what a provider has -----------------------------------------------------------------

    def get_inventories(self, uuid: str) -> Inventories:
        """NotFound for the provider."""
        return _inventories(self._call("GET", f"/resource_providers/{uuid}/inventories"))

    def set_inventories(self, uuid: str, generation: int,
                        by_class: Mapping[str, Inventory]) -> Inventories:
        """Replace all; InUse when one that goes has allocations, GenerationConflict, NotFound."""
        return _inventories(self._call("PUT", f"/resource_providers/{uuid}/inventories", {
            "resource_provider_generation": generation, "inventories": by_class}))

    def get_traits(self, uuid: str) -> Traits:
        """NotFound for the provider."""
        return _traits(self._call("GET", f"/resource_providers/{uuid}/traits"))

    def set_traits(self, uuid: str, generation: int, names: Collection[str]) -> Traits:
        """Replace all; Refused when one does not exist, GenerationConflict, NotFound."""
        return _traits(self._call("PUT", f"/resource_providers/{uuid}/traits", {
            "resource_provider_generation": generation, "traits": sorted(names)}))

    # --- allocations -------------------------------------------------------------------------

    def consumers_of(self, uuid: str) -> set[str]:
        """Who has allocations on a provider; NotFound for the provider."""
        return set(self._call("GET", f"/resource_providers/{uuid}/allocations")["allocations"])

    def has_allocations(self, consumer: str) -> bool:
        """Whether a consumer has any, of any provider."""
        return bool(self._call("GET", f"/allocations/{consumer}")["allocations"])

    def take_from(self, consumer: str, provider_uuids: Collection[str]) -> None:
        """Delete a consumer's allocations on these providers and leave the others as they are.

        GenerationConflict when somebody changed them meanwhile.
        """
        found = self._call("GET", f"/allocations/{consumer}")
        kept = {uuid: {"resources": entry["resources"]}
                for uuid, entry in found["allocations"].items() if uuid not in provider_uuids}
        if len(kept) < len(found["allocations"]):
            self._call("PUT", f"/allocations/{consumer}", {
                "allocations": kept, "consumer_generation": found["consumer_generation"],
                "project_id": found["project_id"], "user_id": found["user_id"]})

    # --- names -------------------------------------------------------------------------------

    def ensure_traits(self, names: Collection[str]) -> frozenset[str]:
        """Make custom traits that don't exist; returns those of `names` that exist then.

        Left out is what can't be made: a name that is not legal, or a standard trait that this
        Placement does not know. Asks for each name once, however often it is called.
        """
        legal = {name for name in names if _NAME.fullmatch(name)}
        unknown = sorted(legal - self._existing)
        for start in range(0, len(unknown), NAMES_A_REQUEST):
            some = ",".join(unknown[start:start + NAMES_A_REQUEST])
            self._existing.update(self._call("GET", f"/traits?name=in:{some}")["traits"])
        for name in unknown:
            if name not in self._existing and _CUSTOM.fullmatch(name):
                # 201, or 204 when somebody else made it a moment ago
                self._call("PUT", f"/traits/{name}")
                self._existing.add(name)
        return frozenset(legal & self._existing)

    def ensure_class(self, name: str) -> None:
        """Make a custom resource class; Refused for an illegal name."""
        path = f"/resource_classes/{urllib.parse.quote(name, safe='')}"
        if name.startswith("CUSTOM_") and path not in self._existing:
            self._call("PUT", path)
            self._existing.add(path)

    def forget_names(self) -> None:
        """Ask again for traits and classes: one that was there is gone."""
        self._existing.clear()

    def _call(self, method: str, path: str, body: Any = None, *,
              microversion: str = MICROVERSION) -> dict[str, Any]:
        response = self._service.request(method, path, microversion, body=body,
                                         request_id=self._request_id)
        if response.status_code >= 400:
            raise _error(method, path, response)
        if not response.content:
            return {}
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:
            raise keystone.Away(
                f"What answers {method} {path} is no Placement: no JSON.") from error
        return answer


def from_conf(conf: cfg.ConfigOpts) -> Placement:
    """Return the client for `[placement]`; nothing is sent yet. Raises cfg.Error."""
    return Placement(keystone.service_from(
        conf, "placement", "Placement", conf.conductor.placement_sync_concurrency))


_CONFLICTS: dict[str, type[errors.Error]] = {
    "placement.concurrent_update": GenerationConflict,
    "placement.duplicate_name": errors.Duplicate,
    "placement.inventory.inuse": errors.InUse,
    "placement.resource_provider.inuse": errors.InUse,
    "placement.resource_provider.cannot_delete_parent": errors.InUse,
}


def _error(method: str, path: str, response: requests.Response) -> errors.Error:
    try:
        first = response.json()["errors"][0]
        code, detail = str(first.get("code")), str(first.get("detail"))
    except (ValueError, LookupError, TypeError, AttributeError):
        code, detail = "", response.text[:500]
    text = f"Placement answered {response.status_code} to {method} {path}: {detail}"
    if response.status_code == 404:
        return errors.NotFound(text)
    if response.status_code == 409:
        return _CONFLICTS.get(code, GenerationConflict)(text)
    return Refused(text)


def _provider(entry: Mapping[str, Any]) -> Provider:
    return Provider(uuid=entry["uuid"], name=entry["name"], generation=entry["generation"],
                    parent_uuid=entry["parent_provider_uuid"],
                    root_uuid=entry["root_provider_uuid"])


def _inventories(answer: Mapping[str, Any]) -> Inventories:
    return Inventories(answer["resource_provider_generation"], answer["inventories"])


def _traits(answer: Mapping[str, Any]) -> Traits:
    return Traits(answer["resource_provider_generation"], frozenset(answer["traits"]))
