# SPDX-License-Identifier: Apache-2.0
"""A connection that breaks after COMMIT: what was done is not told as refused. Three databases."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator
from typing import Any

import pytest

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.conductor import partitioning
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import device_profiles
from cyborg_lite.db import devices
from cyborg_lite.db import models
from cyborg_lite.db import session
from cyborg_lite.db import suspensions
from tests.fixtures import builders
from tests.fixtures import databases
from tests.fixtures import split_cards

LOST = {"sqlite": ("disk I/O error",), "mysql": (2013, "Lost connection to MySQL server"),
        "postgresql": ("server closed the connection unexpectedly",)}


@contextlib.contextmanager
def answer_of_commit_lost(database: session.Database) -> Iterator[list[str]]:
    """The database does the next COMMIT, and its answer does not arrive."""
    dialect = database.engine.dialect
    lost: list[str] = []

    def commit(connection: Any) -> None:
        connection.commit()
        if not lost:
            lost.append("COMMIT")
            raise dialect.loaded_dbapi.OperationalError(*LOST[database.dialect])

    dialect.do_commit = commit  # type: ignore[method-assign]
    try:
        yield lost
    finally:
        del dialect.do_commit  # type: ignore[attr-defined]
    assert lost


def arq_uuids(database: session.Database) -> list[object]:
    return [row["uuid"] for row in databases.all_rows(database, models.arqs)]


def test_arqs_are_made_once(database: session.Database) -> None:
    builders.a_profile(database, "three", [{"resources:FPGA": "2"}, {"resources:GPU": "1"}])

    with answer_of_commit_lost(database):
        found = arqs.create(database, "three", "project1")

    assert arq_uuids(database) == [arq.uuid for arq in found]
    assert [arq.device_profile_group_id for arq in found] == [0, 0, 1]


@pytest.mark.parametrize("bound", [False, True])
def test_an_arq_that_was_deleted_existed(database: session.Database, bound: bool) -> None:
    builders.store(database, builders.a_report(cleans=True))
    [arq] = builders.bound_arqs(database) if bound else builders.new_arqs(database)
    nobody = builders.new_uuid()

    with answer_of_commit_lost(database):
        missing, to_clean = arqs.delete(database, [arq.uuid, nobody], None, bound_too=True)

    assert arq_uuids(database) == []
    assert missing == [nobody]
    assert to_clean or not bound


def a_profile() -> messages.DeviceProfile:
    return messages.DeviceProfile(uuid=builders.new_uuid(), name="fpga",
                                  groups=[builders.FPGA_GROUP])


def test_a_profile_that_was_made_is_no_duplicate_of_itself(database: session.Database) -> None:
    profile = a_profile()

    with answer_of_commit_lost(database):
        made = device_profiles.create(database, profile)

    assert device_profiles.list_profiles(database, None) == [made]
    with pytest.raises(errors.Duplicate):
        device_profiles.create(database, profile)


def test_a_profile_that_was_changed_was_not_changed_meanwhile(database: session.Database) -> None:
    made = dataclasses.replace(device_profiles.create(database, a_profile()), name="other")

    with answer_of_commit_lost(database):
        changed = device_profiles.update(database, made)

    assert device_profiles.list_profiles(database, None) == [changed]
    assert (changed.name, changed.generation) == ("other", 1)
    with pytest.raises(errors.ChangedMeanwhile):
        device_profiles.update(database, made)


@pytest.mark.parametrize("by", ["uuid", "name"])
def test_a_profile_that_was_deleted_existed(database: session.Database, by: str) -> None:
    made = device_profiles.create(database, a_profile())
    nobody = builders.new_uuid()

    with answer_of_commit_lost(database):
        result = device_profiles.delete(
            database, [made.uuid, nobody] if by == "uuid" else [nobody],
            [made.name] if by == "name" else [])

    assert result == ([nobody], [])
    assert device_profiles.list_profiles(database, None) == []


def test_an_attribute_that_was_made_and_deleted_is_told_so(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [deployable] = devices.list_deployables(database, messages.DeployableQuery())

    with answer_of_commit_lost(database):
        made = devices.create_attribute(database, deployable.id, "rack", "7")

    assert devices.get_attribute(database, made.uuid) == made
    with pytest.raises(errors.Duplicate):
        devices.create_attribute(database, deployable.id, "rack", "7")
    with answer_of_commit_lost(database):
        devices.delete_attribute(database, made.uuid)
    with pytest.raises(errors.NotFound):
        devices.get_attribute(database, made.uuid)


def test_a_bind_that_was_stored_is_finished_by_whoever_comes_when_its_lease_ends(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(prepares=True))
    found = builders.new_arqs(database)
    lease = builders.an_owner()

    with answer_of_commit_lost(database):
        outcome = binds.start(database, builders.bind_requests(found), lease, None)
    tasks, _ = binds.take_unfinished(
        database, builders.an_owner(lease_s=200),
        lease.lease_until + datetime.timedelta(seconds=1), bind_timeout_s=120, at_most=9)

    assert outcome == binds.Outcome()
    assert arqs.get(database, found[0].uuid, None).state == states.BIND_STARTED
    assert len(tasks[builders.HOST]) == 1


def bound_with_host_work(database: session.Database) -> messages.Arq:
    builders.store(database, builders.a_report(prepares=True))
    owner = builders.an_owner()
    [arq] = builders.new_arqs(database)
    outcome = binds.start(database, builders.bind_requests([arq]), owner, None)
    binds.finish(database, [messages.HandleResult(handle_uuid=task.handle_uuid)
                            for task in outcome.tasks[builders.HOST]], owner, owner, None)
    return arqs.get(database, arq.uuid, None)


def test_an_instance_that_was_suspended_has_its_host_side_taken_down(
        database: session.Database) -> None:
    arq = bound_with_host_work(database)
    lease = builders.an_owner()

    with answer_of_commit_lost(database):
        outcome = suspensions.suspend(database, str(arq.instance_uuid), lease)

    assert [one.state for one in outcome.arqs] == [states.SUSPENDED]
    assert [task.handle_uuid for task in outcome.tasks[builders.HOST]] == [arq.attach_handle_uuid]
    assert suspensions.taken_down(
        database, [str(arq.attach_handle_uuid)], lease, lease) == {}


def test_an_instance_that_was_resumed_is_finished_by_whoever_comes_when_the_lease_ends(
        database: session.Database) -> None:
    arq = bound_with_host_work(database)
    lease = builders.an_owner()
    suspensions.suspend(database, str(arq.instance_uuid), lease)
    suspensions.taken_down(database, [str(arq.attach_handle_uuid)], lease, lease)

    with answer_of_commit_lost(database):
        outcome = suspensions.resume(database, str(arq.instance_uuid), lease, None)
    tasks, _ = binds.take_unfinished(
        database, builders.an_owner(lease_s=200),
        lease.lease_until + datetime.timedelta(seconds=1), bind_timeout_s=120, at_most=9)

    assert [one.state for one in outcome.arqs] == [states.BIND_STARTED]
    assert [task.handle_uuid for task in tasks[builders.HOST]] == [arq.attach_handle_uuid]


def test_a_layout_that_was_wished_for_was_not_changed_meanwhile(
        database: session.Database) -> None:
    card = split_cards.Card()
    card.split({"1g.5gb": 7})
    builders.store(database, split_cards.Agent([card]).report())

    with answer_of_commit_lost(database):
        plan, stored = partitioning.set_layout(
            database, split_cards.uuid_of(), "9x2", None, dry_run=False)

    [row] = databases.all_rows(database, models.device_partitions)
    assert (plan.layout.id, stored, row["wish_generation"]) == ("9x2", True, 1)
    with pytest.raises(errors.ChangedMeanwhile):
        partitioning.set_layout(database, split_cards.uuid_of(), "0", None, dry_run=False)
