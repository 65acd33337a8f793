# SPDX-License-Identifier: Apache-2.0
"""Pure: facts -> what is an orphan, with its evidence, and what to do with it. No input or output.

Whatever is not certain is no orphan. What is, is seen twice, a grace period apart, before anything
happens to it. ARQs and handles are here, hosts and what Placement has in `orphan_places.py`.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from cyborg_lite.clients import nova_questions
from cyborg_lite.db import orphan_candidates
from cyborg_lite.db import orphans

ARQ_INSTANCE_GONE = "arq_instance_gone"
ARQ_INSTANCE_ELSEWHERE = "arq_instance_elsewhere"
ARQ_NEVER_BOUND = "arq_never_bound"
HANDLE_WITHOUT_ARQ = "handle_without_arq"
MDEV_WITHOUT_ARQ = "mdev_without_arq"
PROVIDER_WITHOUT_DEPLOYABLE = "provider_without_deployable"
DEPLOYABLE_WITHOUT_PROVIDER = "deployable_without_provider"
HOST_GONE = "host_gone"
ALLOCATION_WITHOUT_CONSUMER = "allocation_without_consumer"

OF_HOSTS = (ARQ_INSTANCE_GONE, ARQ_INSTANCE_ELSEWHERE, HANDLE_WITHOUT_ARQ, HOST_GONE)
"""Kinds that are looked for host by host, in the order of their cleaning."""

OF_NO_HOST = (ARQ_NEVER_BOUND, ALLOCATION_WITHOUT_CONSUMER, PROVIDER_WITHOUT_DEPLOYABLE,
              DEPLOYABLE_WITHOUT_PROVIDER)
"""Kinds that are looked for everywhere at once, in the order of their cleaning."""

KINDS = (ARQ_INSTANCE_GONE, ARQ_INSTANCE_ELSEWHERE, ARQ_NEVER_BOUND, HANDLE_WITHOUT_ARQ,
         MDEV_WITHOUT_ARQ, ALLOCATION_WITHOUT_CONSUMER, PROVIDER_WITHOUT_DEPLOYABLE,
         DEPLOYABLE_WITHOUT_PROVIDER, HOST_GONE)

SETTLED = frozenset({"ACTIVE", "SHUTOFF", "PAUSED", "SUSPENDED", "RESCUE", "SHELVED"})
"""Statuses of a server in which Nova says truly where it is. Not among them: one that is built,
resized, migrated, evacuated, in error, or without a host."""

OFFLOADED = "SHELVED_OFFLOADED"
"""Status of a server that has no host, and needs nothing before it is unshelved."""

ENDED = frozenset({"completed", "done", "confirmed", "reverted", "failed", "error", "cancelled"})
"""Statuses in which a migration is over. `finished` waits for its confirmation."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something whose owner is gone. mark: what was seen; another one is another sighting.

    keeps: it is told and nothing is done. at_once: it has waited long enough already.
    subject: what its cleaning needs to know.
    """

    kind: str
    object: str
    host: str | None
    mark: str
    reason: str
    evidence: Mapping[str, str]
    action: str
    keeps: bool = False
    at_once: bool = False
    subject: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What no two findings share."""
        return orphans.open_key(self.kind, self.object)


# --- ARQs, and handles ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArqFacts:
    """ARQs, and what Nova says of their instances.

    servers: those that exist. gone: instances that certainly don't. open_migrations: ours, by
    instance. migrations: Nova's, their statuses by uuid, by instance. consumers: migrations that
    have allocations. active_hosts: where the active sets are.
    """

    arqs: Sequence[orphan_candidates.BoundArq]
    servers: Mapping[str, nova_questions.Server]
    gone: Collection[str]
    open_migrations: Mapping[str, Collection[str]]
    migrations: Mapping[str, Mapping[str, str]]
    consumers: Collection[str]
    active_hosts: Mapping[str, Collection[str]]


def judge_arqs(facts: ArqFacts) -> list[Finding]:
    """Say which ARQs have an instance that is gone, or that left their host."""
    found = (_judge_arq(arq, facts) for arq in facts.arqs)
    return [finding for finding in found if finding is not None]


def _judge_arq(arq: orphan_candidates.BoundArq, facts: ArqFacts) -> Finding | None:
    server = facts.servers.get(arq.instance_uuid)
    if arq.instance_uuid in facts.gone:
        return Finding(
            kind=ARQ_INSTANCE_GONE, object=arq.uuid, host=arq.hostname,
            mark=f"{arq.instance_uuid} {arq.migration_uuid}".strip(),
            reason=f"Nova knows no instance {arq.instance_uuid}.",
            evidence={"instance_uuid": arq.instance_uuid, "state": arq.state,
                      "nova": "404 for the server, and the list of all projects lacks it"},
            action="delete the accelerator request and give its handle back")
    if server is None or not (_is_settled(server) or _is_offloaded(server)):
        return None
    if arq.migration_uuid:
        return _judge_inactive(arq, server, facts)
    if is_home(server, arq.hostname, arq.resource_provider_name):
        return None
    statuses = facts.migrations.get(arq.instance_uuid)
    if statuses is None or facts.open_migrations.get(arq.instance_uuid) or any(
            status not in ENDED for status in statuses.values()):
        return None
    return Finding(
        kind=ARQ_INSTANCE_ELSEWHERE, object=arq.uuid, host=arq.hostname,
        mark=f"{arq.instance_uuid} {server.host}"[:255],
        reason=f"Instance {arq.instance_uuid} is {_place(server)}, and no migration is open.",
        evidence={"instance_uuid": arq.instance_uuid, "state": arq.state,
                  "nova": f"{server.status} {_place(server)}",
                  "migrations": _statuses(statuses)},
        action="delete the accelerator request and give its handle back")


def _judge_inactive(arq: orphan_candidates.BoundArq, server: nova_questions.Server,
                    facts: ArqFacts) -> Finding | None:
    over = _why_over(arq.instance_uuid, arq.migration_uuid, facts.migrations, facts.consumers)
    if over is None:
        return None
    active = facts.active_hosts.get(arq.instance_uuid, ())
    in_place = _is_offloaded(server) or (
        all(is_home(server, host, None) for host in active) if active
        else not is_home(server, arq.hostname, arq.resource_provider_name))
    return Finding(
        kind=ARQ_INSTANCE_ELSEWHERE, object=arq.uuid, host=arq.hostname,
        mark=f"{arq.instance_uuid} {arq.migration_uuid}", keeps=not in_place,
        reason=f"Migration {arq.migration_uuid} of instance {arq.instance_uuid} is over"
               + ("." if in_place else f", but the instance is on {server.host}, where its active "
                                       "set is not: switch the migration."),
        evidence={"instance_uuid": arq.instance_uuid, "migration_uuid": arq.migration_uuid,
                  "state": arq.state, "nova": f"{server.status} {_place(server)}",
                  "migration": over},
        action="end the migration and give the handles of its inactive set back",
        subject=(arq.instance_uuid, arq.migration_uuid))


def judge_empty_migrations(migrations: Iterable[orphan_candidates.Migration],
                           facts: ArqFacts) -> list[Finding]:
    """Say which migrations without ARQs are over."""
    found = []
    for one in migrations:
        server = facts.servers.get(one.instance_uuid)
        over = "its instance is gone" if one.instance_uuid in facts.gone else None
        if server is not None and _is_settled(server):
            over = _why_over(one.instance_uuid, one.migration_uuid, facts.migrations,
                             facts.consumers)
        if over is not None:
            found.append(Finding(
                kind=ARQ_INSTANCE_ELSEWHERE, object=one.migration_uuid, host=None,
                mark=f"{one.instance_uuid} {one.migration_uuid}",
                reason=f"Migration {one.migration_uuid} of instance {one.instance_uuid} is over.",
                evidence={"instance_uuid": one.instance_uuid,
                          "migration_uuid": one.migration_uuid, "migration": over},
                action="forget the migration",
                subject=(one.instance_uuid, one.migration_uuid)))
    return found


def _why_over(instance: str, migration: str, statuses: Mapping[str, Mapping[str, str]],
              consumers: Collection[str]) -> str | None:
    """Why a migration is over, or None: it is not, or nobody knows."""
    known = statuses.get(instance)
    if known is None or migration in consumers:
        return None
    status = known.get(migration)
    if status is None:
        return "unknown to Nova, and without allocations in Placement"
    return f"{status} in Nova" if status in ENDED else None


def _is_settled(server: nova_questions.Server) -> bool:
    return server.status in SETTLED and server.task_state is None and bool(server.host)


def _is_offloaded(server: nova_questions.Server) -> bool:
    return server.status == OFFLOADED and server.task_state is None and not server.host


def _place(server: nova_questions.Server) -> str:
    return f"on {server.host} ({server.node})" if server.host else "on no host"


def is_home(server: nova_questions.Server, *names: str | None) -> bool:
    """Whether a server is on the host that goes by one of these names."""
    return any(same_host(one, other) for one in (server.host, server.node) for other in names
               if one and other)


def same_host(one: str, other: str) -> bool:
    """Whether two names may be of the same host, one of them without its domain."""
    one, other = one.lower(), other.lower()
    return one == other or (("." in one) != ("." in other)
                            and one.partition(".")[0] == other.partition(".")[0])


def _statuses(found: Mapping[str, str]) -> str:
    return ", ".join(f"{uuid} {status}" for uuid, status in sorted(found.items())) or "none"


def judge_handles(handles: Iterable[orphan_candidates.LooseHandle]) -> list[Finding]:
    """Say of handles that nobody holds what they are."""
    return [Finding(
        kind=HANDLE_WITHOUT_ARQ, object=handle.uuid, host=handle.hostname,
        mark=handle.arq_uuid or "none",
        reason=f"The handle is {handle.state}, and no accelerator request has it.",
        evidence={"state": handle.state, "arq_uuid": handle.arq_uuid or "none"},
        action="give the handle back, cleaned") for handle in handles]


def judge_never_bound(found: Mapping[str, datetime.datetime], ttl_s: float) -> list[Finding]:
    """Say of ARQs that were bound to nothing for longer than `ttl_s` what they are."""
    return [Finding(
        kind=ARQ_NEVER_BOUND, object=arq, host=None, mark=since.isoformat(), at_once=True,
        reason=f"Bound to nothing for more than {ttl_s:g} s.",
        evidence={"bound_to_nothing_since": f"{since.replace(microsecond=0).isoformat()}+00:00"},
        action="delete the accelerator request", subject=(since.isoformat(),))
        for arq, since in found.items()]


def judge_leftovers(host: str, leftovers: Mapping[str, str]) -> list[Finding]:
    """Say what an agent removed: handles for which a driver had made something, with its name."""
    return [Finding(
        kind=MDEV_WITHOUT_ARQ, object=handle, host=host, mark=driver, at_once=True,
        reason=f"{driver} had made something for this handle, and nobody holds it.",
        evidence={"driver": driver, "agent": "it was there, and the conductor named no holder"},
        action="remove it from the host") for handle, driver in sorted(leftovers.items())]


# --- twice seen -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What to write of a finding, and whether to clean it now.

    is_held: an administrator has to decide first.
    """

    finding: Finding
    sighting: orphans.Sighting
    is_held: bool = False

    @property
    def is_confirmed(self) -> bool:
        """Whether it may be cleaned."""
        return self.sighting.state == orphans.CONFIRMED and not self.is_held


def decide(findings: Iterable[Finding], records: Mapping[str, orphans.Record],
           moment: datetime.datetime, grace_s: float) -> list[Verdict]:
    """Say of each finding whether it is confirmed: an earlier sweep saw the same, long ago."""
    verdicts = []
    for finding in findings:
        record = records.get(finding.key)
        mark = f"{'stays ' if finding.keeps else ''}{finding.mark}"[:255]
        again = record is not None and record.mark == mark
        # a clock that was ahead must not put it off until then
        first_seen = min(record.first_seen, moment) if record is not None and again else moment
        waited = again and moment - first_seen >= datetime.timedelta(seconds=grace_s)
        state = (orphans.KEPT if finding.keeps
                 else orphans.CONFIRMED if waited or finding.at_once else orphans.SEEN)
        verdicts.append(Verdict(finding, orphans.Sighting(
            record=record, key=finding.key, kind=finding.kind, object=finding.object,
            host=finding.host, mark=mark, reason=finding.reason, evidence=finding.evidence,
            action=finding.action, state=state, first_seen=first_seen)))
    return verdicts
