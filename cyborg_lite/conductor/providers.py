# SPDX-License-Identifier: Apache-2.0
"""Makes one provider in Placement agree with what is wanted, whatever it finds there.

What is wanted comes from `provider_tree.py`; which providers, and when, from `placement_sync.py`.
"""

from __future__ import annotations

import logging

from cyborg_lite import errors
from cyborg_lite.clients import placement
from cyborg_lite.conductor import provider_tree

LOG = logging.getLogger(__name__)

ATTEMPTS = 5
"""Readings after generation conflicts, before the host is tried again later."""


def make_so(client: placement.Placement, root_uuid: str, wanted: provider_tree.Wanted,
            found: placement.Provider | None, actual: provider_tree.Actual | None,
            ours: provider_tree.Ours) -> provider_tree.Actual:
    """Write what differs; returns what the provider has then. A new one costs three requests.

    found: the provider as its tree shows it, None when it is not there. actual: what it has, when
    that is known. Traits come before inventory, so that nobody is placed on a provider that is
    not yet what it claims to be.
    Raises GenerationConflict when others keep writing, Refused, Away.
    """
    in_use = False
    for _ in range(ATTEMPTS):
        try:
            if found is None:
                found, actual = _create(client, root_uuid, wanted)
            if provider_tree.differs_in_place(found, wanted, root_uuid):
                found, actual = _move(client, root_uuid, wanted), None
            if actual is None:
                actual = _read(client, wanted.uuid)
            difference = provider_tree.change(wanted, actual, ours, in_use=in_use)
            return _write(client, wanted.uuid, actual, difference)
        except placement.GenerationConflict:
            actual = None
        except errors.InUse:
            in_use, actual = True, None
        except errors.NotFound:
            found = actual = None
    raise placement.GenerationConflict(
        f"Resource provider {wanted.uuid} ({wanted.name}) changed {ATTEMPTS} times while it was "
        "written; it is tried again later.")


def _create(client: placement.Placement, root_uuid: str, wanted: provider_tree.Wanted,
            ) -> tuple[placement.Provider, provider_tree.Actual | None]:
    try:
        made = client.create_provider(wanted.uuid, wanted.name, root_uuid)
    except errors.Duplicate:
        try:
            # it exists in another tree: below a compute node that had another name, say
            return client.get_provider(wanted.uuid), None
        except errors.NotFound:
            # the name is somebody else's
            name = provider_tree.unique_name(wanted.name, wanted.uuid)
            made = client.create_provider(wanted.uuid, name, root_uuid)
    return made, provider_tree.Actual(made.generation, {}, frozenset())


def _move(client: placement.Placement, root_uuid: str,
          wanted: provider_tree.Wanted) -> placement.Provider:
    try:
        return client.move_provider(wanted.uuid, wanted.name, root_uuid)
    except errors.Duplicate:
        name = provider_tree.unique_name(wanted.name, wanted.uuid)
        return client.move_provider(wanted.uuid, name, root_uuid)


def _read(client: placement.Placement, uuid: str) -> provider_tree.Actual:
    inventories = client.get_inventories(uuid)
    traits = client.get_traits(uuid)
    # the older of the two: a change between the readings then shows as a conflict
    return provider_tree.Actual(min(inventories.generation, traits.generation),
                                inventories.by_class, traits.names)


def _write(client: placement.Placement, uuid: str, actual: provider_tree.Actual,
           difference: provider_tree.Change) -> provider_tree.Actual:
    generation, inventories, traits = actual.generation, actual.inventories, actual.traits
    if difference.traits is not None:
        answer = client.set_traits(uuid, generation, difference.traits)
        generation, traits = answer.generation, answer.names
    if difference.inventories is not None:
        now_there = client.set_inventories(uuid, generation, difference.inventories)
        generation, inventories = now_there.generation, now_there.by_class
    return provider_tree.Actual(generation, inventories, traits)


def remove(client: placement.Placement, uuid: str) -> bool:
    """Delete a provider whose deployable is gone; True when it is.

    One with allocations is wholly reserved, so that nobody gets more of it, and stays for now.
    """
    try:
        client.delete_provider(uuid)
    except errors.InUse:
        try:
            found = client.get_inventories(uuid)
            reserved = provider_tree.wholly_reserved(found.by_class)
            if reserved != found.by_class:
                client.set_inventories(uuid, found.generation, reserved)
                LOG.info("provider=%s has no deployable any more but allocations; reserved", uuid)
        except placement.GenerationConflict:
            LOG.debug("provider=%s changed while it was reserved; next time", uuid)
        except errors.NotFound:
            return True
        return False
    except errors.NotFound:
        pass
    return True
