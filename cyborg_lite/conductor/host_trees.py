# SPDX-License-Identifier: Apache-2.0
"""Finds a host's compute node in Placement, by the names it may have, and reads its providers.

Nothing is written here; `provider_tree.py` tells the names, `placement_sync.py` what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from cyborg_lite.clients import placement
from cyborg_lite.conductor import provider_tree
from cyborg_lite.db import services
from cyborg_lite.db import session

Tree = tuple[placement.Provider, dict[str, placement.Provider]]
"""The root, and every provider by its uuid."""


def read(client: placement.Placement, database: session.Database, host: services.DirtyHost,
         offers: Sequence[services.Offer]) -> Tree | None:
    """Return the providers of a host; None as long as Nova has made no compute node for it."""
    given, short = provider_tree.compute_names(host.resource_provider_name, host.name)
    # a provider that we made leads to the whole tree in one request
    ours = next((offer.rp_uuid for offer in offers if offer.synced), None)
    found = client.list_tree(ours) if ours else []
    root = provider_tree.root_of(found)
    if root is None or root.name != given[0]:
        root = _find_compute_node(client, database, host, given, short)
        if root is None:
            return None
        if not any(provider.uuid == root.uuid for provider in found):
            found = client.list_tree(root.uuid)
    return root, {provider.uuid: provider for provider in found}


def _find_compute_node(client: placement.Placement, database: session.Database,
                       host: services.DirtyHost, given: Sequence[str], short: Sequence[str],
                       ) -> placement.Provider | None:
    for name in given:
        found = client.find_provider(name)
        if found is not None and found.parent_uuid is None:
            return found
    if short:
        taken = services.names_of_other_hosts(database, host, short)
        for name in short:
            found = None if name in taken else client.find_provider(name)
            if found is not None and found.parent_uuid is None:
                return found
    return None
