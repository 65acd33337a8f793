# SPDX-License-Identifier: Apache-2.0
"""Pure: which silent hosts are gone, and what in Placement has no owner. No input or output.

What a finding is, and when it is confirmed, is in `orphan_judgement.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from collections.abc import Iterable

from cyborg_lite.conductor import inventory_diff
from cyborg_lite.conductor import orphan_judgement as judgement
from cyborg_lite.db import orphan_candidates

# --- hosts ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """A host that is silent. is_known: to Nova as a compute service, None when nobody can say.

    has_provider: whether Placement has its compute node, or anything below it; None when it has
    nothing of any host of ours.
    """

    host: orphan_candidates.SilentHost
    is_known: bool | None
    has_provider: bool | None

    @property
    def is_without_provider(self) -> bool:
        """Whether Placement had the compute node and has it no more."""
        return bool(self.host.rp_uuids) and self.has_provider is False


_KNOWN = {True: "known to Nova", False: "unknown to Nova",
          None: "too few hosts of ours are known to Nova"}
_PROVIDER = {True: "there", False: "not there", None: "nothing of any host of ours is there"}


def judge_hosts(facts: Iterable[HostFacts],
                findings: Iterable[judgement.Finding]) -> list[judgement.Finding]:
    """Say which silent hosts are gone; findings: what else is an orphan there."""
    going = {finding.object for finding in findings
             if not finding.keeps and finding.kind in (
                 judgement.ARQ_INSTANCE_GONE, judgement.ARQ_INSTANCE_ELSEWHERE)}
    found = []
    for one in facts:
        why = _why_gone(one)
        if why:
            stays = _why_host_stays(one, going)
            found.append(judgement.Finding(
                kind=judgement.HOST_GONE, object=one.host.uuid or one.host.name, host=one.host.name,
                mark=one.host.resource_provider_name, keeps=stays is not None,
                reason="; ".join(why) + (f". It stays: {stays}." if stays else "."),
                evidence={"last_seen": str(one.host.last_seen), "state": one.host.state,
                          "compute_service": _KNOWN[one.is_known],
                          "provider": _PROVIDER[one.has_provider]},
                action="delete its resource providers, then its rows",
                subject=one.host.rp_uuids))
    return found


def _why_gone(one: HostFacts) -> list[str]:
    why = []
    if one.host.state == "gone":
        why.append(f"The agent was last heard of at {one.host.last_seen}")
    if one.is_known is False:
        why.append("Nova knows no such compute service, and the agent is silent")
    if one.is_without_provider:
        why.append("Placement has no provider of it, and the agent is silent")
    return why


def _why_host_stays(one: HostFacts, going: Collection[str]) -> str | None:
    stay = one.host.arqs - set(going)
    if stay:
        return f"{len(stay)} accelerator requests are on it, such as {min(stay)}"
    if one.host.wishes and one.is_known is not False:
        return ("an operator's settings would be lost while Nova knows the compute service: "
                + ", ".join(one.host.wishes[:3]))
    return None


# --- what Placement has -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """A provider of ours without a row. host: whose it is, None when it is nobody's we knew.

    consumers: of its allocations.
    """

    uuid: str
    name: str
    root_name: str
    host: str | None
    consumers: Collection[str]


def judge_providers(facts: Iterable[ProviderFacts]) -> list[judgement.Finding]:
    """Say of providers without a row what they are."""
    found = []
    for one in facts:
        stays = None
        if not inventory_diff.may_be_ours(one.uuid):
            stays = "another service made it, whose uuids are unlike ours"
        elif one.host is None:
            stays = f"no host of ours is or was called {one.root_name}"
        elif one.consumers:
            stays = f"it has allocations of {', '.join(sorted(one.consumers)[:3])}"
        found.append(judgement.Finding(
            kind=judgement.PROVIDER_WITHOUT_DEPLOYABLE, object=one.uuid, host=one.host,
            mark=one.root_name, keeps=stays is not None,
            reason=f"Resource provider {one.name} of {one.root_name} has no deployable."
                   + (f" It stays: {stays}." if stays else ""),
            evidence={"name": one.name, "compute_node": one.root_name,
                      "trait": "OWNER_CYBORG",
                      "consumers": ", ".join(sorted(one.consumers)) or "none"},
            action="delete the resource provider"))
    return found


def judge_deployables(facts: Iterable[orphan_candidates.Offered]) -> list[judgement.Finding]:
    """Say of deployables without a provider what they are; all of a host that is up."""
    return [judgement.Finding(
        kind=judgement.DEPLOYABLE_WITHOUT_PROVIDER, object=one.uuid, host=one.hostname,
        mark=one.rp_uuid,
        reason=f"Placement lacks resource provider {one.rp_uuid}, which it had.",
        evidence={"rp_uuid": one.rp_uuid, "host_state": one.host_state},
        action="make the resource provider again") for one in facts]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AllocationFacts:
    """Allocations of a consumer that neither Nova nor we know."""

    consumer: str
    host: str
    rp_uuids: tuple[str, ...]


def judge_allocations(facts: Iterable[AllocationFacts], *, heals: bool) -> list[judgement.Finding]:
    """Say of allocations without a consumer what they are."""
    return [judgement.Finding(
        kind=judgement.ALLOCATION_WITHOUT_CONSUMER, object=one.consumer, host=one.host,
        mark=" ".join(one.rp_uuids)[:255], keeps=not heals,
        reason=f"Nova knows neither an instance nor a migration {one.consumer}, which has "
               "allocations of our providers."
               + ("" if heals else " It stays: [reconcile] heal_allocations is off."),
        evidence={"providers": ", ".join(one.rp_uuids),
                  "nova": "404 for the server, and no such migration of the host"},
        action="delete its allocations of our providers", subject=one.rp_uuids) for one in facts]
