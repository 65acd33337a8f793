# SPDX-License-Identifier: Apache-2.0
"""Finds what may be an orphan: our rows, and what Nova and Placement say of them. Only reads.

Raises keystone.Away when one of them gives no answer that can be relied on: then nothing is judged.
"""

from __future__ import annotations

import collections
import datetime
import logging
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from cyborg_lite.clients import keystone
from cyborg_lite.clients import nova_questions
from cyborg_lite.clients import placement
from cyborg_lite.conductor import orphan_judgement as judgement
from cyborg_lite.conductor import orphan_places
from cyborg_lite.conductor import orphan_witnesses as witnesses
from cyborg_lite.db import liveness
from cyborg_lite.db import orphan_candidates as candidates

LOG = logging.getLogger(__name__)

MOST_NEVER_BOUND = 1000

# --- host by host -----------------------------------------------------------------------------


def find_of_hosts(asker: witnesses.Asker,
                  hosts: Collection[str]) -> tuple[list[judgement.Finding], int]:
    """Return what is found on these hosts, and the number of ARQs that were looked at."""
    arqs = candidates.arqs_on(asker.database, hosts)
    servers: dict[str, nova_questions.Server] = {}
    if arqs:
        names = {name for arq in arqs for name in (arq.hostname, arq.resource_provider_name)
                 if name}
        asker.keep()
        servers = asker.nova.servers_on(names)
    places = witnesses.Places(asker)
    services = witnesses.Services(asker, places)
    silent = [_host_facts(asker, services, places, host) for host in
              candidates.silent_hosts(asker.database, hosts, asker.horizon)]
    facts = _arq_facts(asker, services, arqs, servers, {one.host.name: one for one in silent})
    findings = judgement.judge_arqs(facts)
    findings += judgement.judge_handles(candidates.loose_handles(asker.database, hosts))
    findings += orphan_places.judge_hosts(silent, findings)
    return findings, len(arqs)


def _arq_facts(asker: witnesses.Asker, services: witnesses.Services,
               arqs: Collection[candidates.BoundArq], servers: dict[str, nova_questions.Server],
               silent: Mapping[str, orphan_places.HostFacts]) -> judgement.ArqFacts:
    """Ask for each instance that is not where its ARQs are, and for its migrations."""
    gone = _ask_for(asker, {arq.instance_uuid for arq in arqs}, servers)
    doubted = [arq for arq in arqs if arq.instance_uuid in gone and not services.would_know(
        arq.hostname, arq.resource_provider_name, silent=silent)]
    if doubted:
        LOG.warning("host=%s Nova has no such compute service, or a cell of it is down: %d ARQs of "
                    "instances that it lacks are left alone",
                    ",".join(sorted({arq.hostname for arq in doubted})[:5]), len(doubted))
        gone -= {arq.instance_uuid for arq in doubted}
    moved = {arq.instance_uuid for arq in arqs if arq.instance_uuid in servers and (
        arq.migration_uuid or not judgement.is_home(
            servers[arq.instance_uuid], arq.hostname, arq.resource_provider_name))}
    return judgement.ArqFacts(
        arqs=list(arqs), servers=servers, gone=gone,
        **_migration_facts(asker, moved, {arq.migration_uuid for arq in arqs
                                          if arq.migration_uuid and arq.instance_uuid in moved}))


def _ask_for(asker: witnesses.Asker, instances: Collection[str],
             servers: dict[str, nova_questions.Server]) -> set[str]:
    """Ask for the instances that are not among the servers; returns those that Nova has not.

    One that Nova fails to show is neither.
    """
    gone = set()
    for instance in sorted(set(instances) - set(servers)):
        asker.keep()
        try:
            server = asker.nova.find_server(instance)
        except keystone.Stumbled as error:
            # one that Nova itself can't show keeps no other from being judged
            LOG.warning("instance=%s is not judged: %s", instance, error.detail)
            continue
        if server is None:
            gone.add(instance)
        else:
            servers[instance] = server
    return gone


def _migration_facts(asker: witnesses.Asker, instances: Collection[str],
                     migrations: Collection[str]) -> dict[str, Any]:
    statuses: dict[str, Mapping[str, str]] = {}
    for instance in sorted(instances):
        asker.keep()
        try:
            statuses[instance] = asker.nova.migrations_of(instance)
        except keystone.Stumbled as error:
            LOG.warning("instance=%s is not judged: %s", instance, error.detail)
    consumers = {one for one in sorted(migrations)
                 if asker.ask(asker.placement.has_allocations, one)}
    return {"open_migrations": candidates.migrations_of(asker.database, instances),
            "active_hosts": candidates.active_hosts(asker.database, instances),
            "migrations": statuses, "consumers": consumers}


def _host_facts(asker: witnesses.Asker, services: witnesses.Services, places: witnesses.Places,
                host: candidates.SilentHost) -> orphan_places.HostFacts:
    is_known: bool | None = services.know(host.name, host.resource_provider_name)
    if not (services.are_ours if is_known else services.has_deleted_others):
        is_known = None
    has_provider = any(
        asker.ask(asker.placement.list_tree, uuid) for uuid in host.rp_uuids[:1]) or any(
        asker.ask(asker.placement.find_provider, name)
        for name in (host.resource_provider_name, host.name))
    return orphan_places.HostFacts(
        host=host, is_known=is_known,
        has_provider=has_provider or (False if places.are_ours(host.name) else None))


# --- everywhere at once -----------------------------------------------------------------------


def find_of_no_host(asker: witnesses.Asker, host: str | None, *,
                    never_bound_before: datetime.datetime, ttl_s: float, heals: bool,
                    ) -> tuple[list[judgement.Finding], int]:
    """Return what is found in Placement, and among what has no host; of one host, if named.

    For Placement it is one request, and one for each number of free handles of each class; more
    where something is wrong.
    """
    findings: list[judgement.Finding] = []
    offered = candidates.offered(asker.database, asker.horizon)
    places = witnesses.Places(asker)
    providers = places.providers
    findings += orphan_places.judge_providers(_strangers(asker, host, offered, providers))
    here = [one for one in offered if host in (None, one.hostname)]
    findings += orphan_places.judge_deployables([
        one for one in here if one.is_synced and one.host_state == liveness.UP
        and one.rp_uuid not in providers
        and not asker.ask(asker.placement.list_tree, one.rp_uuid)])
    services = witnesses.Services(asker, places)
    leaks = _leaks(asker, services, [one for one in here if one.rp_uuid in providers])
    findings += orphan_places.judge_allocations(leaks, heals=heals)
    if host is None:
        findings += judgement.judge_never_bound(
            candidates.never_bound(asker.database, never_bound_before, MOST_NEVER_BOUND), ttl_s)
        findings += _empty_migrations(asker, services)
    return findings, len(here)


def _strangers(asker: witnesses.Asker, host: str | None, offered: Iterable[candidates.Offered],
               providers: Mapping[str, placement.Provider]) -> list[orphan_places.ProviderFacts]:
    known = {one.rp_uuid for one in offered}
    strangers = [provider for uuid, provider in sorted(providers.items())
                 if uuid not in known and provider.uuid != provider.root_uuid]
    if not strangers:
        return []
    roots = {}
    for uuid in sorted({provider.root_uuid for provider in strangers}):
        roots[uuid] = asker.ask(asker.placement.get_provider, uuid).name
    names = {name.lower() for name in roots.values()}
    hosts = {**candidates.dropped_hosts(asker.database, names),
             **candidates.known_hosts(asker.database)}
    found = []
    for provider in strangers:
        root_name = roots[provider.root_uuid]
        whose = _host_of(root_name, hosts)
        if host in (None, whose):
            consumers = asker.ask(asker.placement.consumers_of, provider.uuid)
            found.append(orphan_places.ProviderFacts(
                uuid=provider.uuid, name=provider.name, root_name=root_name, host=whose,
                consumers=consumers))
    return found


def _host_of(root_name: str, hosts: Mapping[str, str]) -> str | None:
    if root_name.lower() in hosts:
        return hosts[root_name.lower()]
    return next((host for name, host in sorted(hosts.items())
                 if judgement.same_host(name, root_name)), None)


def _leaks(asker: witnesses.Asker, services: witnesses.Services,
           offered: Iterable[candidates.Offered]) -> list[orphan_places.AllocationFacts]:
    """Find consumers that nobody knows, where Placement has less room than we have handles."""
    groups: dict[tuple[str, int], list[candidates.Offered]] = collections.defaultdict(list)
    for one in offered:
        if one.resource_class and one.free:
            groups[one.resource_class, one.free].append(one)
    rooms: dict[str, tuple[str, list[str]]] = {}
    for (resource_class, free), members in sorted(groups.items()):
        room = asker.ask(asker.placement.list_with_room, placement.OWNER_TRAIT, resource_class,
                         free)
        for one in members:
            if one.rp_uuid in room:
                continue
            consumers = asker.ask(asker.placement.consumers_of, one.rp_uuid)
            for consumer in consumers:
                rooms.setdefault(consumer, (one.hostname, []))[1].append(one.rp_uuid)
    known = candidates.known_consumers(asker.database, rooms)
    servers: dict[str, nova_questions.Server] = {}
    gone = {consumer for consumer in _ask_for(asker, set(rooms) - known, servers)
            if services.would_know(rooms[consumer][0], silent={})}
    on_host: dict[str, set[str]] = {}
    found = []
    for consumer in sorted(gone):
        host, rp_uuids = rooms[consumer]
        if host not in on_host:
            asker.keep()
            on_host[host] = {migration for name in sorted(services.names_of(host))
                             for migration in asker.nova.migrations_on(name)}
        if consumer not in on_host[host]:
            found.append(orphan_places.AllocationFacts(
                consumer=consumer, host=host, rp_uuids=tuple(sorted(rp_uuids))))
    return found


def _empty_migrations(asker: witnesses.Asker,
                      services: witnesses.Services) -> list[judgement.Finding]:
    migrations = candidates.empty_migrations(asker.database)
    if not migrations:
        return []
    instances = {one.instance_uuid for one in migrations}
    servers: dict[str, nova_questions.Server] = {}
    gone = _ask_for(asker, instances, servers)
    if gone and not services.are_ours:
        gone = set()
    facts = judgement.ArqFacts(
        arqs=[], servers=servers, gone=gone,
        **_migration_facts(asker, set(servers), {one.migration_uuid for one in migrations}))
    return judgement.judge_empty_migrations(migrations, facts)
