# SPDX-License-Identifier: Apache-2.0
"""ARQs on the three databases, except how they are bound."""

from __future__ import annotations

import datetime
import time

import pytest

from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import models
from cyborg_lite.db import orphan_candidates
from cyborg_lite.db import orphan_deletions
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases


def test_a_profile_yields_one_arq_per_accelerator_with_the_number_of_its_group(
        database: session.Database) -> None:
    builders.a_profile(database, "mixed", [
        {"resources:FPGA": "2", "trait:CUSTOM_A": "required"},
        {"resources:PGPU": "1", "accel:x": "y"}])

    found = arqs.create(database, "mixed", "project1")

    assert [arq.device_profile_group_id for arq in found] == [0, 0, 1]
    assert {(arq.state, arq.project_id) for arq in found} == {(states.INITIAL, "project1")}
    assert arqs.list_arqs(database, messages.ArqQuery()) == found


def test_a_profile_that_does_not_exist_makes_no_arqs(database: session.Database) -> None:
    with pytest.raises(errors.NotFound, match="'nothing' does not exist"):
        arqs.create(database, "nothing", "project1")


def test_a_create_whose_caller_was_told_that_it_failed_stores_nothing(
        database: session.Database) -> None:
    builders.a_profile(database)

    with buses._deadline(time.time() - 1), pytest.raises(errors.DeadlinePassed):
        arqs.create(database, "fpga", "project1")

    assert databases.all_rows(database, models.arqs) == []


def test_a_project_sees_its_own_arqs_alone(database: session.Database) -> None:
    [mine] = builders.new_arqs(database, project_id="mine")
    [other] = builders.new_arqs(database, project_id="other")

    listed = arqs.list_arqs(database, messages.ArqQuery(project_id="mine"))

    assert [arq.uuid for arq in listed] == [mine.uuid]
    with pytest.raises(errors.NotFound):
        arqs.get(database, other.uuid, "mine")


def test_a_project_deletes_its_own_arqs_and_is_told_that_others_do_not_exist(
        database: session.Database) -> None:
    [mine] = builders.new_arqs(database, project_id="mine")
    [other] = builders.new_arqs(database, project_id="other")

    missing, _ = arqs.delete(database, [mine.uuid, other.uuid], "mine", bound_too=False)

    assert missing == [other.uuid]
    assert [arq.uuid for arq in arqs.list_arqs(database, messages.ArqQuery())] == [other.uuid]


def test_a_user_cannot_delete_what_an_instance_has_and_then_nothing_is_deleted(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [bound] = builders.bound_arqs(database)
    [free] = builders.new_arqs(database)

    with pytest.raises(errors.ServiceTokenMissing, match="Use the Compute API"):
        arqs.delete(database, [free.uuid, bound.uuid], "project1", bound_too=False)

    assert len(arqs.list_arqs(database, messages.ArqQuery())) == 2


def test_deleting_by_instance_frees_its_handles_and_may_be_repeated(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    instance = builders.new_uuid()
    builders.bound_arqs(database, 4, instance)

    for _ in range(2):
        arqs.delete_of_instance(database, instance)

    assert arqs.list_arqs(database, messages.ArqQuery()) == []
    assert {row["state"] for row in databases.all_rows(database, models.attach_handles)} == {
        states.FREE}
    assert databases.all_rows(database, models.events) == []


def test_an_unbound_arq_gives_its_handle_back_and_can_be_bound_again(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(handles=1))
    [arq] = builders.bound_arqs(database)

    for _ in range(2):
        arqs.unbind(database, [arq.uuid])

    unbound = arqs.get(database, arq.uuid, None)
    assert (unbound.state, unbound.instance_uuid, unbound.attach_handle_uuid) == (
        states.UNBOUND, None, None)
    binds.start(database, builders.bind_requests([arq]), builders.an_owner(), None)
    assert arqs.get(database, arq.uuid, None).state == states.BOUND


def test_one_unknown_arq_keeps_all_from_being_unbound(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [arq] = builders.bound_arqs(database)

    with pytest.raises(errors.NotFound):
        arqs.unbind(database, [arq.uuid, builders.new_uuid()])

    assert arqs.get(database, arq.uuid, None).state == states.BOUND


def test_a_handle_with_a_clean_step_waits_for_it(database: session.Database) -> None:
    builders.store(database, builders.a_report(handles=1, cleans=True))
    [arq] = builders.bound_arqs(database)

    to_clean = arqs.unbind(database, [arq.uuid])

    assert to_clean
    [handle] = databases.all_rows(database, models.attach_handles)
    assert (handle["state"], handle["arq_uuid"]) == (states.CLEANING, None)


def test_arqs_that_were_never_bound_are_found_and_deleted_unless_they_are_bound_meanwhile(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    builders.bound_arqs(database)
    never, binding = builders.new_arqs(database, 2)
    now = session.now()

    early = orphan_candidates.never_bound(database, now - datetime.timedelta(hours=1), 100)
    found = orphan_candidates.never_bound(database, now + datetime.timedelta(hours=1), 100)
    binds.start(database, builders.bind_requests([binding]), builders.an_owner(), None)
    gone = orphan_deletions.delete_never_bound(database, found, [], now, "test")

    assert early == {}
    assert set(found) == {never.uuid, binding.uuid}
    assert gone == [never.uuid]
