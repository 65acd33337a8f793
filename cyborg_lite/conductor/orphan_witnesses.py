# SPDX-License-Identifier: Apache-2.0
"""Nova and Placement as witnesses: how they are asked, and what they can be believed about.

What is asked of them to find orphans is in `orphan_facts.py`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Mapping
from typing import ParamSpec
from typing import TypeVar

from cyborg_lite import errors
from cyborg_lite.clients import keystone
from cyborg_lite.clients import nova_questions
from cyborg_lite.clients import placement
from cyborg_lite.conductor import orphan_judgement as judgement
from cyborg_lite.conductor import orphan_places
from cyborg_lite.db import liveness
from cyborg_lite.db import orphan_candidates as candidates
from cyborg_lite.db import session

P = ParamSpec("P")
R = TypeVar("R")

MOST_NODES = 5
"""Compute nodes that Nova is asked for before it is taken for another cloud's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """What finding needs of its surroundings. keep: called between questions, keeps the lease.

    doubts: why something was not judged although everybody answered; who finds out adds it.
    """

    database: session.Database
    nova: nova_questions.Questions
    placement: placement.Placement
    horizon: liveness.Horizon
    keep: Callable[[], None]
    doubts: list[str] = dataclasses.field(default_factory=list)

    def ask(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Ask Placement; what is no answer of it is Away."""
        self.keep()
        try:
            return function(*arguments, **named)
        except keystone.Away:
            raise
        except (errors.Error, LookupError, TypeError) as error:
            raise keystone.Away(f"Placement's answer makes no sense: {error}") from error


class Services:
    """Nova's compute services, asked for once, when somebody needs them.

    A Nova that has none of our hosts is that of another region: what it lacks may well exist. So
    is one that has hosts of the same names, and none of the compute nodes that Placement has.
    """

    def __init__(self, asker: Asker, places: Places) -> None:
        self._asker = asker
        self._places = places

    @functools.cached_property
    def _found(self) -> nova_questions.ComputeServices:
        self._asker.keep()
        return self._asker.nova.compute_services()

    @functools.cached_property
    def _bare(self) -> frozenset[str]:
        return frozenset(name.partition(".")[0] for name in self._found.hosts)

    @functools.cached_property
    def are_ours(self) -> bool:
        """Whether every cell answers, and some host of ours is among them."""
        return self._found.complete and any(
            self.know(name) for name in candidates.known_hosts(self._asker.database)
        ) and self._shares_compute_nodes

    @functools.cached_property
    def _shares_compute_nodes(self) -> bool:
        """Whether Nova and Placement are of one cloud: some compute node is in both of them.

        Without a host of ours that both should have there is nothing to compare, and no doubt.
        """
        nodes: dict[str, str] = {}
        lacking = None
        for name, node_name, uuid in candidates.synced_providers(
                self._asker.database, self._asker.horizon):
            if self.know(name, node_name):
                node, lacking = self._places.root_of(uuid), name
                if node is not None:
                    nodes.setdefault(node, name)
        asked = list(nodes)[:MOST_NODES]
        for node in asked:
            self._asker.keep()
            # what does not say is no answer, and no reason to doubt
            if self._asker.nova.has_compute_node(node) is not False:
                return True
        if lacking is None:
            return True
        self._asker.doubts.append(
            (f"Nova has compute services that are called like hosts of ours, and not the compute "
             f"nodes that Placement has of them, such as {asked[0]} of {nodes[asked[0]]}."
             if asked else
             f"Placement has no provider of any host of ours that Nova has, such as {lacking}.")
            + " They may be of different clouds: see region_name in [nova] and in [placement]. "
              "Until they agree no instance counts as gone.")
        return False

    @functools.cached_property
    def has_deleted_others(self) -> bool:
        """Whether a host of ours that is not among them was deleted: more than half that are up
        are. Of another region's, some may have names like ours.
        """
        up = candidates.hosts_up(self._asker.database, self._asker.horizon)
        return self.are_ours and (not up or 2 * sum(self.know(*names) for names in up) > len(up))

    def know(self, *names: str | None) -> bool:
        """Whether a host that goes by one of these names is among them."""
        hosts = self._found.hosts
        return any(
            name.lower() in hosts or (name.lower().partition(".")[0] in self._bare and any(
                judgement.same_host(name, host) for host in hosts))
            for name in names if name)

    def names_of(self, host: str) -> set[str]:
        """How a host of ours may be called in Nova."""
        ours = {name for name, whose in candidates.known_hosts(self._asker.database).items()
                if whose == host}
        return {host} | {known for known in self._found.hosts
                         if any(judgement.same_host(known, name) for name in {host, *ours})}

    def would_know(self, host: str, *names: str | None,
                   silent: Mapping[str, orphan_places.HostFacts]) -> bool:
        """Whether Nova's word counts on instances of a host: it has it, or has deleted it.

        That it has deleted one is seen in Placement, where the compute node goes with it.
        """
        if host in silent and silent[host].is_without_provider:
            return self._found.complete and self._shares_compute_nodes
        if self.know(host, *names):
            return self.are_ours
        return host in silent and self.has_deleted_others


class Places:
    """The providers that are marked as ours, asked for once, when somebody needs them."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    @functools.cached_property
    def providers(self) -> Mapping[str, placement.Provider]:
        """All that are marked as ours, or another's with the same trait, by uuid. One request."""
        return {provider.uuid: provider for provider in self._asker.ask(
            self._asker.placement.list_with_trait, placement.OWNER_TRAIT)}

    def root_of(self, uuid: str) -> str | None:
        """The compute node of a provider, None when Placement lacks it."""
        return self.providers[uuid].root_uuid if uuid in self.providers else None

    def are_ours(self, host: str) -> bool:
        """Whether something of another host of ours is there: another region's has nothing."""
        others = candidates.providers_elsewhere(self._asker.database, host)
        return not others or not others.isdisjoint(self.providers)
