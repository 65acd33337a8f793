# SPDX-License-Identifier: Apache-2.0
"""What is an orphan, from plain facts, and when it is confirmed."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from cyborg_lite.api import orphans as api_orphans
from cyborg_lite.clients import nova_questions
from cyborg_lite.conductor import orphan_cleaning
from cyborg_lite.conductor import orphan_judgement as judgement
from cyborg_lite.conductor import orphan_places
from cyborg_lite.db import orphan_candidates
from cyborg_lite.db import orphans

NOW = datetime.datetime(2026, 1, 15, 12, 0)
INSTANCE, MIGRATION, ARQ = "instance", "migration", "arq"


def an_arq(**more: Any) -> orphan_candidates.BoundArq:
    return orphan_candidates.BoundArq(**{
        "uuid": ARQ, "state": "Bound", "instance_uuid": INSTANCE, "migration_uuid": "",
        "hostname": "node1", "resource_provider_name": "node1.example.org", **more})


def a_server(**more: Any) -> nova_questions.Server:
    return nova_questions.Server(**{
        "uuid": INSTANCE, "status": "ACTIVE", "host": "node2", "node": "node2.example.org",
        "task_state": None, **more})


def facts(arq: orphan_candidates.BoundArq, server: nova_questions.Server | None = None,
          **more: Any) -> judgement.ArqFacts:
    return judgement.ArqFacts(**{
        "arqs": [arq], "servers": {INSTANCE: server} if server else {}, "gone": set(),
        "open_migrations": {}, "migrations": {INSTANCE: {}}, "consumers": set(),
        "active_hosts": {}, **more})


def kinds(found: list[judgement.Finding]) -> list[tuple[str, bool]]:
    return [(finding.kind, finding.keeps) for finding in found]


def test_an_instance_that_is_neither_there_nor_surely_gone_keeps_its_arqs() -> None:
    assert judgement.judge_arqs(facts(an_arq())) == []
    assert kinds(judgement.judge_arqs(facts(an_arq(), gone={INSTANCE}))) == [
        (judgement.ARQ_INSTANCE_GONE, False)]


@pytest.mark.parametrize(("server", "more", "left"), [
    ({}, {}, True),
    ({"host": "node1"}, {}, False),
    ({"host": "NODE1"}, {}, False),
    ({"host": "other", "node": "node1.example.org"}, {}, False),
    ({"host": "node1.elsewhere.org", "node": None}, {}, False),
    ({"host": None, "node": None}, {}, False),
    ({"task_state": "unshelving"}, {}, False),
    ({"status": "ERROR"}, {}, False),
    ({"status": "UNKNOWN"}, {}, False),
    ({"status": "SHELVED_OFFLOADED"}, {}, False),
    ({"status": "SHELVED_OFFLOADED", "host": None, "node": None}, {}, True),
    ({"status": "SHELVED_OFFLOADED", "host": None, "node": None, "task_state": "unshelving"}, {},
     False),
    ({"status": "SHELVED_OFFLOADED", "host": None, "node": None, "task_state": "spawning"}, {},
     False),
    ({"status": "SHELVED_OFFLOADED", "host": None, "node": None},
     {"open_migrations": {INSTANCE: {MIGRATION}}}, False),
    ({"status": "SHELVED_OFFLOADED", "host": None, "node": None}, {"migrations": {}}, False),
    ({"status": "SHUTOFF"}, {}, True),
    ({}, {"migrations": {}}, False),
    ({}, {"migrations": {INSTANCE: {"m": "confirmed", "n": "completed"}}}, True),
    ({}, {"migrations": {INSTANCE: {"m": "confirmed", "n": "post-migrating"}}}, False),
    ({}, {"migrations": {INSTANCE: {"m": "a status of tomorrow"}}}, False),
    ({}, {"open_migrations": {INSTANCE: {MIGRATION}}}, False),
])
def test_an_instance_has_left_only_when_nothing_speaks_against_it(
        server: dict[str, Any], more: dict[str, Any], left: bool) -> None:
    found = judgement.judge_arqs(facts(an_arq(), a_server(**server), **more))

    assert kinds(found) == [(judgement.ARQ_INSTANCE_ELSEWHERE, False)] * left


@pytest.mark.parametrize(("statuses", "consumers", "over"), [
    ({MIGRATION: "confirmed"}, set(), True),
    ({MIGRATION: "reverted"}, set(), True),
    ({MIGRATION: "finished"}, set(), False),
    ({MIGRATION: "running"}, set(), False),
    ({}, set(), True),
    ({}, {MIGRATION}, False),
    ({MIGRATION: "confirmed"}, {MIGRATION}, False),
])
def test_an_inactive_set_is_over_when_its_migration_is(
        statuses: dict[str, str], consumers: set[str], over: bool) -> None:
    found = judgement.judge_arqs(facts(
        an_arq(migration_uuid=MIGRATION), a_server(), migrations={INSTANCE: statuses},
        consumers=consumers, active_hosts={INSTANCE: {"node2"}},
        open_migrations={INSTANCE: {MIGRATION}}))

    assert kinds(found) == [(judgement.ARQ_INSTANCE_ELSEWHERE, False)] * over


@pytest.mark.parametrize(("active", "keeps"), [
    ({"node2"}, False), ({"node3"}, True), ({"node2", "node3"}, True), (set(), False)])
def test_the_inactive_set_goes_only_when_the_active_one_is_where_the_instance_is(
        active: set[str], keeps: bool) -> None:
    found = judgement.judge_arqs(facts(
        an_arq(migration_uuid=MIGRATION), a_server(),
        migrations={INSTANCE: {MIGRATION: "completed"}}, active_hosts={INSTANCE: active}))

    assert kinds(found) == [(judgement.ARQ_INSTANCE_ELSEWHERE, keeps)]


def test_an_inactive_set_that_is_over_goes_when_its_instance_is_shelved() -> None:
    found = judgement.judge_arqs(facts(
        an_arq(migration_uuid=MIGRATION),
        a_server(status="SHELVED_OFFLOADED", host=None, node=None),
        migrations={INSTANCE: {MIGRATION: "confirmed"}}, active_hosts={INSTANCE: {"node2"}}))

    assert kinds(found) == [(judgement.ARQ_INSTANCE_ELSEWHERE, False)]


def a_host(**more: Any) -> orphan_candidates.SilentHost:
    return orphan_candidates.SilentHost(**{
        "name": "node1", "uuid": "u", "resource_provider_name": "node1", "state": "down",
        "last_seen": NOW, "arqs": frozenset(), "rp_uuids": ("rp",), "wishes": (), **more})


@pytest.mark.parametrize(("host", "is_known", "has_provider", "expected"), [
    ({}, True, True, None),
    ({}, None, True, None),
    ({}, False, True, False),
    ({}, True, False, False),
    ({"rp_uuids": ()}, True, False, None),
    ({"state": "gone"}, True, True, False),
    ({"state": "gone", "arqs": frozenset({ARQ})}, True, True, True),
    ({"state": "gone", "arqs": frozenset({"going"})}, True, True, False),
    ({"state": "gone", "wishes": ("attribute rack",)}, True, True, True),
    ({"state": "gone", "wishes": ("attribute rack",)}, None, True, True),
    ({"state": "gone", "wishes": ("attribute rack",)}, False, True, False),
])
def test_a_silent_host_is_gone_with_a_reason_and_stays_for_one(
        host: dict[str, Any], is_known: bool | None, has_provider: bool,
        expected: bool | None) -> None:
    going = judgement.judge_arqs(facts(an_arq(uuid="going"), gone={INSTANCE}))

    found = orphan_places.judge_hosts([orphan_places.HostFacts(
        host=a_host(**host), is_known=is_known, has_provider=has_provider)], going)

    assert kinds(found) == ([] if expected is None else [(judgement.HOST_GONE, expected)])


# --- twice seen -------------------------------------------------------------------------------


def a_finding(**more: Any) -> judgement.Finding:
    return judgement.Finding(**{
        "kind": judgement.ARQ_INSTANCE_GONE, "object": ARQ, "host": "node1", "mark": INSTANCE,
        "reason": "r", "evidence": {}, "action": "a", **more})


def a_record(seconds_ago: float, mark: str = INSTANCE) -> dict[str, orphans.Record]:
    key = orphans.open_key(judgement.ARQ_INSTANCE_GONE, ARQ)
    return {key: orphans.Record(
        id=1, uuid="u", key=key, mark=mark, state=orphans.SEEN, acting=False,
        first_seen=NOW - datetime.timedelta(seconds=seconds_ago))}


@pytest.mark.parametrize(("finding", "records", "grace_s", "state"), [
    ({}, {}, 600, "seen"),
    ({}, {}, 0, "seen"),
    ({}, a_record(599), 600, "seen"),
    ({}, a_record(600), 600, "confirmed"),
    ({}, a_record(1), 0, "confirmed"),
    ({}, a_record(9999, "another"), 600, "seen"),
    ({"keeps": True}, a_record(9999), 600, "kept"),
    ({}, a_record(9999, f"stays {INSTANCE}"), 600, "seen"),
    ({"at_once": True}, {}, 600, "confirmed"),
])
def test_what_was_seen_before_in_the_same_way_long_ago_is_confirmed(
        finding: dict[str, Any], records: dict[str, orphans.Record], grace_s: float,
        state: str) -> None:
    verdict, = judgement.decide([a_finding(**finding)], records, NOW, grace_s)

    assert verdict.sighting.state == state
    assert verdict.is_confirmed == (state == "confirmed")


def test_every_kind_is_looked_for_and_cleaned_and_known_to_the_api() -> None:
    assert set(judgement.KINDS) == set(api_orphans.KINDS)
    assert {*judgement.OF_HOSTS, *judgement.OF_NO_HOST} == set(orphan_cleaning._CLEANERS)
    assert set(judgement.KINDS) - set(orphan_cleaning._CLEANERS) == {judgement.MDEV_WITHOUT_ARQ}
    assert api_orphans.STATES == orphans.STATES
