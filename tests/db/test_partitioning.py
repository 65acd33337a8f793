# SPDX-License-Identifier: Apache-2.0
"""Wishes for layouts on the three databases: who wins, what is closed, who has it done.

What Placement learns, and the agent's side, are in flows/; what a layout is, in unit/.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.conductor import partition_wishes
from cyborg_lite.conductor import partitioning
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import handles
from cyborg_lite.db import leases
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import partitioning as rows
from cyborg_lite.db import purge
from cyborg_lite.db import services
from cyborg_lite.db import session
from cyborg_lite.db import usage
from tests.fixtures import builders
from tests.fixtures import databases
from tests.fixtures import split_cards

DEVICE = split_cards.uuid_of()
SEVEN = {"1g.5gb": 7}
SEVEN_ID, PAIR_ID, WHOLE_ID = "19x7", "9x2", "0"
PROVIDER = split_cards.rp_uuid("A100-1-5C")


def store(database: session.Database, *cards: split_cards.Card, host: str = builders.HOST) -> None:
    """Report a host that has these cards and no other."""
    builders.store(database, split_cards.Agent(list(cards), host).report())


def a_host(database: session.Database, wish: dict[str, int] | None = None) -> split_cards.Card:
    """A host with one card, split into seven unless told otherwise, that Placement knows."""
    card = split_cards.Card()
    card.split(SEVEN if wish is None else wish)
    store(database, card)
    sync(database)
    return card


def sync(database: session.Database) -> None:
    """Let Placement know what the rows say."""
    with database.writing() as connection:
        connection.execute(sa.update(models.hosts).values(
            synced_generation=models.hosts.c.generation))


def wish(database: session.Database, layout: str, *,
         dry_run: bool = False) -> messages.PartitioningPlan:
    return partitioning.set_layout(database, DEVICE, layout, None, dry_run)[0]


def shown(database: session.Database) -> messages.Partitioning:
    return partitioning.show(database, DEVICE, every_layout=False)


def row(database: session.Database) -> dict[str, Any]:
    [found] = databases.all_rows(database, models.device_partitions)
    return found


def take(database: session.Database, owner: leases.Owner | None = None,
         ahead_s: float = 1) -> list[rows.Split]:
    moment = session.now() + datetime.timedelta(seconds=ahead_s)
    return rows.take_due(database, owner or builders.an_owner(), moment, 10)


def has_answered(database: session.Database) -> None:
    """The agent of the one wish says that it is met."""
    sync(database)
    owner = builders.an_owner(lease_s=600)
    [task] = take(database, owner, ahead_s=100)
    rows.finish(database, builders.HOST, {task.id: None}, owner, later(),
                is_met=partition_wishes.is_met)


def later(seconds: float = 90) -> datetime.datetime:
    return session.now() + datetime.timedelta(seconds=seconds)


def bind(database: session.Database, provider: str = PROVIDER) -> binds.Outcome:
    return binds.start(
        database, builders.bind_requests(builders.new_arqs(database), provider=provider),
        builders.an_owner(), None)


def put_handle(database: session.Database, state: str) -> None:
    with database.writing() as connection:
        first = connection.scalar(sa.select(sa.func.min(models.attach_handles.c.id)))
        connection.execute(sa.update(models.attach_handles).values(state=state)
                           .where(models.attach_handles.c.id == first))


def both(*calls: Callable[[], object]) -> list[object]:
    """What each of these came to, an error too, all begun at one moment."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        gate.wait()
        try:
            return call()
        except errors.Error as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


# --- reports ----------------------------------------------------------------------------------


def test_a_report_tells_how_a_device_is_split_and_can_be_split(database: session.Database) -> None:
    a_host(database)

    found = shown(database)

    assert (found.scheme, found.state, found.fault, found.desired) == (
        "mig-vgpu", "applied", None, [])
    assert [(one.profile, one.count, one.vgpu_type) for one in found.current] == [
        ("1g.5gb", 7, "A100-1-5C")]
    assert len(found.layouts) == 64
    assert len(partitioning.show(database, DEVICE, every_layout=True).layouts) == 128


def test_a_device_whose_driver_tells_nothing_has_no_partitions(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    device = str(databases.all_rows(database, models.devices)[0]["uuid"])

    found = partitioning.show(database, device, every_layout=True)

    assert found == messages.Partitioning(scheme="none", state="unsupported")
    with pytest.raises(errors.StateConflict, match="has no partitions"):
        partitioning.set_layout(database, device, "empty", None, False)


def test_a_device_whose_host_is_dropped_meanwhile_is_not_found(database: session.Database) -> None:
    a_host(database)
    split = rows.get(database, DEVICE)
    assert split is not None
    with database.writing() as connection:
        connection.execute(sa.delete(models.device_partitions))

    with pytest.raises(errors.NotFound, match=DEVICE):
        rows.set_wish(database, split, [], "[]", "?", None, must_be_free=True)


def test_a_device_that_does_not_exist_is_not_found(database: session.Database) -> None:
    for ask in (lambda: shown(database), lambda: wish(database, SEVEN_ID)):
        with pytest.raises(errors.NotFound, match=DEVICE):
            ask()


def test_the_same_report_again_writes_no_row_of_it(database: session.Database) -> None:
    card = a_host(database)
    before = row(database)

    with databases.counted(database) as seen:
        store(database, card)

    assert row(database) == before
    assert [text for text in seen.writes if "device_partitions" in text
            and not text.startswith("SELECT")] == []


def test_what_is_merely_said_of_partitions_gives_placement_nothing_to_do(
        database: session.Database) -> None:
    card = a_host(database)
    card.partitions[0] = dataclasses.replace(card.partitions[0], in_use=True)
    store(database, card)
    [said] = databases.all_rows(database, models.hosts)
    stored = row(database)["reported"]

    card.split({"3g.20gb": 2})
    store(database, card)
    [split_anew] = databases.all_rows(database, models.hosts)

    assert '"in_use":true' in stored.replace(" ", "")
    assert said["generation"] == said["synced_generation"]
    assert split_anew["generation"] == said["generation"] + 1


def test_statements_of_a_report_do_not_grow_with_split_devices(database: session.Database) -> None:
    counts = {}
    for number in (2, 16):
        databases.empty(database)
        cards = [split_cards.Card(address=f"0000:{index:02x}:00.0") for index in range(number)]
        for card in cards:
            card.split(SEVEN)
        with databases.counted(database) as first:
            store(database, *cards)
        for card in cards:
            card.split({"3g.20gb": 2})
        with databases.counted(database) as change:
            store(database, *cards)
        counts[number] = (len(first), len(change))

    assert counts[2] == counts[16]
    assert max(counts[16]) <= 20


def test_a_device_that_was_away_for_a_while_keeps_its_wish(database: session.Database) -> None:
    card = a_host(database)
    wish(database, SEVEN_ID)
    store(database)
    with pytest.raises(errors.NotFound):
        shown(database)

    store(database, split_cards.Card())

    assert [(one.profile, one.count) for one in shown(database).desired] == [("1g.5gb", 7)]
    assert shown(database).state == "applying"
    store(database, card)
    assert shown(database).state == "applied"


def test_a_device_that_is_withheld_says_that_it_may_be_split_otherwise(
        database: session.Database) -> None:
    card = a_host(database)
    before = shown(database)
    builders.store(database, dataclasses.replace(
        split_cards.Agent([card]).report(), devices=[], digest="withheld", withheld=[
            messages.WithheldFunction(address=card.address, driver="nvidia_mig_driver",
                                      reason="NVML does not answer", type="GPU")]))
    withheld = shown(database)
    store(database, card)

    assert (withheld.state, withheld.current) == ("applied", before.current)
    assert "withholds the device: NVML does not answer" in str(withheld.fault)
    assert shown(database) == before


def test_a_driver_that_no_longer_tells_leaves_the_device_open(database: session.Database) -> None:
    card = a_host(database)
    wish(database, PAIR_ID)

    builders.store(database, builders.a_report([dataclasses.replace(
        card.device(), partitioning=None)]))

    assert (shown(database).scheme, shown(database).state) == ("none", "unsupported")
    assert bind(database).failed == {}


# --- a wish -----------------------------------------------------------------------------------


def test_a_wish_is_open_until_a_report_meets_it(database: session.Database) -> None:
    card = a_host(database)

    plan = wish(database, PAIR_ID)
    sync(database)

    assert (plan.layout.id, plan.kept, len(plan.steps)) == (PAIR_ID, 0, 9)
    assert shown(database).state == "applying"
    card.split({"3g.20gb": 2})
    store(database, card)
    assert shown(database).state == "applied"
    assert [(one.profile, one.count) for one in shown(database).current] == [("3g.20gb", 2)]


def test_a_dry_run_tells_the_same_and_changes_nothing(database: session.Database) -> None:
    a_host(database)
    before = row(database)

    tried = wish(database, PAIR_ID, dry_run=True)

    assert row(database) == before
    assert tried == wish(database, PAIR_ID)


def test_a_layout_that_is_there_already_is_kept_for_reboots_at_once(
        database: session.Database) -> None:
    card = a_host(database)
    bind(database)

    wish(database, SEVEN_ID)

    assert shown(database).state == "applied"
    assert take(database) == []
    assert [one.generation for one in partitioning.wishes_of(database, builders.HOST)] == [1]
    assert card.partitions


@pytest.mark.parametrize(("state", "words"), [
    (states.RESERVED, "1 of its attach handles are held"),
    (states.IN_USE, "1 of its attach handles are held"),
    (states.MISSING, "1 of its attach handles are held"),
    (states.CLEANING, "1 wait to be cleaned")])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_device_of_which_a_handle_is_not_free_is_not_split(
        database: session.Database, state: str, words: str, dry_run: bool) -> None:
    a_host(database)
    put_handle(database, state)

    with pytest.raises(errors.InUse, match=words):
        wish(database, PAIR_ID, dry_run=dry_run)

    assert row(database)["wish"] is None


def test_a_wish_that_is_no_layout_is_refused_and_not_stored(database: session.Database) -> None:
    a_host(database)

    with pytest.raises(errors.Invalid, match=f"Device {DEVICE} can't be split so"):
        partitioning.set_layout(database, DEVICE, None, split_cards.counts(g4_20gb=2), False)

    assert row(database)["wish"] is None


def test_the_same_wish_again_changes_nothing(database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)
    before = row(database)

    again = wish(database, PAIR_ID)

    assert again.layout.id == PAIR_ID
    assert row(database) == before


def test_another_wish_waits_until_the_first_is_met_or_has_failed(
        database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)

    with pytest.raises(errors.ChangedMeanwhile, match=r"is being split in another way, 2x3g\.20gb"):
        wish(database, WHOLE_ID)

    assert [(one.profile, one.count) for one in shown(database).desired] == [("3g.20gb", 2)]


def test_a_wish_that_has_waited_for_long_may_be_taken_back_unless_an_agent_is_asked(
        database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)
    sync(database)
    with database.writing() as connection:
        connection.execute(sa.update(models.device_partitions).values(
            wished_at=session.now() - datetime.timedelta(seconds=partitioning.GIVE_UP_S + 1)))
    owner = builders.an_owner()
    [task] = take(database, owner)
    with pytest.raises(errors.ChangedMeanwhile):
        wish(database, SEVEN_ID)
    rows.postpone(database, [task.id], owner, later())

    wish(database, SEVEN_ID)

    assert shown(database).state == "applying"
    assert bind(database).failed
    has_answered(database)
    assert shown(database).state == "applied"
    assert bind(database).failed == {}


def test_a_wish_of_which_no_agent_heard_is_taken_back_at_once(database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)
    with database.writing() as connection:
        long_ago = session.now() - datetime.timedelta(seconds=partitioning.GIVE_UP_S + 1)
        connection.execute(sa.update(models.device_partitions).values(
            wished_at=long_ago, due_at=long_ago))

    wish(database, SEVEN_ID)

    assert shown(database).state == "applied"
    assert bind(database).failed == {}


def test_of_two_different_wishes_at_once_one_wins(database: session.Database) -> None:
    for _ in range(5):
        databases.empty(database)
        a_host(database)

        came = both(lambda: wish(database, PAIR_ID), lambda: wish(database, WHOLE_ID))

        refused = [one for one in came if isinstance(one, errors.Error)]
        assert [type(one) for one in refused] == [errors.ChangedMeanwhile]
        [won] = [one for one in came if isinstance(one, messages.PartitioningPlan)]
        assert [(one.profile, one.count) for one in shown(database).desired] == [
            (one.profile, one.count) for one in won.layout.partitions]
        assert row(database)["wish_generation"] == 1


def test_of_two_equal_wishes_at_once_both_succeed_and_one_is_stored(
        database: session.Database) -> None:
    a_host(database)

    came = both(lambda: wish(database, PAIR_ID), lambda: wish(database, PAIR_ID))

    assert [type(one) for one in came] == [messages.PartitioningPlan] * 2
    assert row(database)["wish_generation"] == 1


def test_of_a_bind_and_a_wish_at_once_only_one_is_done(database: session.Database) -> None:
    done = set()
    for _ in range(8):
        databases.empty(database)
        a_host(database)
        came = both(lambda: bind(database), lambda: wish(database, PAIR_ID))

        [arq] = arqs.list_arqs(database, messages.ArqQuery())
        bound, wished = arq.state == states.BOUND, row(database)["wish"] is not None
        assert bound != wished, came
        done.add(bound)
    assert done


def test_a_wish_between_two_steps_of_a_bind_is_seen_by_it(
        server_database: session.Database) -> None:
    """The bind has looked at the provider already, and not yet locked a handle."""
    a_host(server_database)
    wished: list[object] = []

    def before(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if "FROM attach_handles" in statement and "FOR UPDATE" in statement and not wished:
            wished.append(None)
            wished[0] = both(lambda: wish(server_database, PAIR_ID))[0]

    sa.event.listen(server_database.engine, "before_cursor_execute", before)
    try:
        outcome = bind(server_database)
    finally:
        sa.event.remove(server_database.engine, "before_cursor_execute", before)

    assert isinstance(wished[0], messages.PartitioningPlan)
    assert ["is being split anew" in reason for reason in outcome.failed.values()] == [True]


# --- what is closed ---------------------------------------------------------------------------


def test_nothing_of_a_device_that_is_being_split_is_given_out(database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)

    outcome = bind(database)

    assert ["is being split anew" in reason for reason in outcome.failed.values()] == [True]
    assert [offer.is_closed for offer in services.list_offers(database, builders.HOST)] == [True]
    profile = builders.a_profile(database, "vgpu", [{"resources:VGPU": "1"}])
    [group] = usage.of_profile(database, profile, None)
    assert (group.total, group.free, group.reserved) == (7, 0, 7)


def test_other_devices_of_the_host_stay_open(database: session.Database) -> None:
    card, other = split_cards.Card(), split_cards.Card(address="0000:42:00.0")
    for each in (card, other):
        each.split(SEVEN)
    store(database, card, other)

    wish(database, PAIR_ID)

    assert bind(database, split_cards.rp_uuid("A100-1-5C", other.address)).failed == {}
    assert len(bind(database).failed) == 1


def test_a_bind_to_a_device_that_is_not_split_asks_no_more_than_ever(
        database: session.Database) -> None:
    a_host(database)
    builders.store(database, builders.a_report(host="node2"))
    counts = []
    for host, provider in (("node2", builders.rp_uuid(host="node2")), (builders.HOST, PROVIDER)):
        found = builders.new_arqs(database)
        requests = builders.bind_requests(found, provider=provider, host=host)
        with databases.counted(database) as seen:
            assert binds.start(database, requests, builders.an_owner(), None).failed == {}
        counts.append(len(seen))

    assert counts[1] == counts[0] + 1


# --- having it done ---------------------------------------------------------------------------


def test_an_agent_is_asked_only_once_placement_knows(database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)
    before = (take(database), partitioning.wishes_of(database, builders.HOST),
              shown(database).fault)

    sync(database)

    assert before[:2] == ([], [])
    assert "waits for Placement" in str(before[2])
    assert shown(database).fault is None
    [task] = take(database)
    assert (task.device_uuid, task.address, task.driver, task.generation, task.answered) == (
        DEVICE, split_cards.ADDRESS, "nvidia_mig_driver", 1, False)


def test_what_waits_for_a_host_that_is_down_says_so(database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)
    sync(database)
    soon = session.now() + datetime.timedelta(seconds=60)
    horizon = liveness.Horizon(down_before=soon)

    down = partitioning.show(database, DEVICE, False, horizon)

    assert (down.state, shown(database).fault) == ("applying", None)
    assert str(down.fault).startswith(f"Host {builders.HOST} is down: its agent was last heard of")


def test_of_several_conductors_one_takes_a_wish_until_its_lease_is_over(
        database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)
    sync(database)
    owners = [builders.an_owner(f"{number}1111111-1111-1111-1111-111111111111")
              for number in range(3)]

    taken = both(*(lambda owner=owner: take(database, owner) for owner in owners))

    assert sorted(len(one) for one in taken if isinstance(one, list)) == [0, 0, 1]
    assert take(database, owners[0], ahead_s=59) == []
    assert len(take(database, owners[1], ahead_s=61)) == 1


def test_a_fault_is_kept_and_shown_until_the_wish_is_made_again(
        database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)
    sync(database)
    owner = builders.an_owner()
    [task] = take(database, owner)

    rows.finish(database, builders.HOST, {task.id: "creating a partition failed"}, owner, later())

    found = shown(database)
    assert found.state == "failed"
    assert str(found.fault).startswith("creating a partition failed (None of its attach handles")
    assert take(database, ahead_s=3600) == []
    assert bind(database).failed
    wish(database, PAIR_ID)
    assert (shown(database).state, row(database)["wish_generation"]) == ("applying", 2)


def test_what_is_there_as_before_is_given_out_again_and_kept(database: session.Database) -> None:
    card = a_host(database)
    wish(database, PAIR_ID)
    sync(database)
    owner = builders.an_owner()
    [task] = take(database, owner)
    generation = databases.all_rows(database, models.hosts)[0]["generation"]

    rows.finish(database, builders.HOST, {task.id: "no"}, owner, later(), {
        task.id: partitioning.stand_of(task)})

    [host] = databases.all_rows(database, models.hosts)
    assert (host["generation"], host["digest"]) == (generation + 1, None)
    assert (shown(database).state, [one.profile for one in shown(database).desired]) == (
        "failed", ["3g.20gb"])
    assert bind(database).failed == {}
    assert [(one.profile, one.count) for one in
            partitioning.wishes_of(database, builders.HOST)[0].partitions] == [("1g.5gb", 7)]
    card.partitions[0] = dataclasses.replace(card.partitions[0], in_use=True)
    store(database, card)
    assert shown(database).state == "failed"
    with pytest.raises(errors.InUse):
        wish(database, PAIR_ID)
    wish(database, SEVEN_ID)
    assert (shown(database).state, shown(database).fault) == ("applied", None)


def test_what_was_given_up_is_no_wish_for_who_does_not_know_that_it_can_be(
        database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)
    sync(database)
    owner = builders.an_owner()
    [task] = take(database, owner)

    rows.finish(database, builders.HOST, {task.id: "no"}, owner, later(), {
        task.id: partitioning.stand_of(task)})

    # as a conductor of an earlier release reads it
    assert {one["profile"]: one["count"] for one in json.loads(row(database)["wish"])} == {
        "1g.5gb": 7, "3g.20gb": 0}
    assert [one.count for one in shown(database).desired] == [2]


def test_after_a_failure_another_layout_may_be_wished_for_also_the_old_one(
        database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)
    sync(database)
    owner = builders.an_owner()
    [task] = take(database, owner)
    rows.finish(database, builders.HOST, {task.id: "no"}, owner, later())

    wish(database, SEVEN_ID)

    assert shown(database).state == "applying"
    has_answered(database)
    assert (shown(database).state, shown(database).fault) == ("applied", None)
    assert bind(database).failed == {}


def test_an_answer_whose_lease_is_lost_is_not_written(database: session.Database) -> None:
    a_host(database)
    wish(database, PAIR_ID)
    sync(database)
    late, next_one = builders.an_owner(), builders.an_owner(
        "21111111-1111-1111-1111-111111111111", 120)
    [task] = take(database, late)
    take(database, next_one, ahead_s=61)

    written = rows.finish(database, builders.HOST, {task.id: "no"}, late, later())

    assert written == []
    assert shown(database).state == "applying"


def test_a_device_that_is_split_as_wished_has_no_fault_any_more(
        database: session.Database) -> None:
    card = a_host(database)
    wish(database, PAIR_ID)
    sync(database)
    owner = builders.an_owner()
    [task] = take(database, owner)
    rows.finish(database, builders.HOST, {task.id: "a reset is needed"}, owner, later())

    card.split({"3g.20gb": 2})
    store(database, card)

    found = row(database)
    assert (shown(database).state, shown(database).fault) == ("applied", None)
    assert (found["fault"], found["due_at"]) == (None, None)


def test_an_agent_that_says_done_is_believed_when_a_report_confirms_it(
        database: session.Database) -> None:
    card = a_host(database)
    wish(database, PAIR_ID)
    sync(database)
    owner = builders.an_owner()
    [task] = take(database, owner)
    rows.finish(database, builders.HOST, {task.id: None}, owner, later(90))
    sync(database)
    too_early, before_a_report = take(database, ahead_s=80), take(database, ahead_s=91)

    store(database, card)
    sync(database)
    [again] = take(database, ahead_s=500)

    assert too_early == []
    assert [one.answered for one in before_a_report] == [False]
    assert again.answered


def test_partitions_that_a_reboot_took_are_due_again(database: session.Database) -> None:
    card = a_host(database)
    wish(database, SEVEN_ID)
    assert take(database, ahead_s=3600) == []

    card.partitions = []
    store(database, card)
    sync(database)

    assert shown(database).state == "applying"
    [task] = take(database)
    assert task.generation == 1


def test_what_a_reboot_took_from_servers_and_failed_may_be_tried_again(
        database: session.Database) -> None:
    card = a_host(database)
    wish(database, SEVEN_ID)
    bind(database)
    there, card.partitions = card.partitions, []
    store(database, card)
    sync(database)
    owner = builders.an_owner()
    [task] = take(database, owner)
    rows.finish(database, builders.HOST, {task.id: "processes use the GPU"}, owner, later())
    with pytest.raises(errors.InUse):
        wish(database, PAIR_ID)

    failed = shown(database).state
    planned = wish(database, SEVEN_ID, dry_run=True)
    wish(database, SEVEN_ID)
    sync(database)

    [again] = take(database)
    assert (failed, shown(database).state) == ("failed", "applying")
    assert {step.action for step in planned.steps} == {"create"}
    assert (again.generation, sum(again.busy.values())) == (2, 1)
    card.partitions = there
    store(database, card)
    assert shown(database).state == "applying"
    has_answered(database)
    assert shown(database).state == "applied"


def test_what_somebody_made_by_hand_under_a_server_is_not_tried_away(
        database: session.Database) -> None:
    card = a_host(database)
    wish(database, SEVEN_ID)
    bind(database)
    card.split({"7g.40gb": 1})
    store(database, card)
    sync(database)
    owner = builders.an_owner()
    [task] = take(database, owner)
    rows.finish(database, builders.HOST, {task.id: "no"}, owner, later())

    with pytest.raises(errors.InUse):
        wish(database, SEVEN_ID)


@pytest.mark.parametrize("state", sorted(rows.BUSY_STATES))
def test_an_agent_learns_that_nothing_may_go_while_a_handle_is_not_free(
        database: session.Database, state: str) -> None:
    a_host(database)
    wish(database, SEVEN_ID)
    free = partitioning.wishes_of(database, builders.HOST)

    put_handle(database, state)

    assert [one.held for one in free] == [False]
    assert partitioning.wishes_of(database, builders.HOST) == [messages.LayoutWish(
        device_address=split_cards.ADDRESS, driver="nvidia_mig_driver", generation=1, held=True,
        model=split_cards.A100, partitions=[
            messages.PartitionCount(profile="1g.5gb", count=7, vgpu_type="A100-1-5C")])]


def test_a_host_that_starts_without_wishes_asks_one_statement_more(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())

    with databases.counted(database) as seen:
        assert partitioning.wishes_of(database, builders.HOST) == []
        assert handles.intent_of(database, builders.HOST).prepare == []

    assert len(seen) == 2


def test_what_the_api_asks_costs_the_same_beside_many_devices(database: session.Database) -> None:
    counts = []
    for number in (1, 64):
        databases.empty(database)
        cards = [split_cards.Card(address=f"0000:{0x41 + index:02x}:00.0")
                 for index in range(number)]
        for card in cards:
            card.split(SEVEN)
        store(database, *cards)
        with databases.counted(database) as seen:
            shown(database)
            wish(database, PAIR_ID)
        sync(database)
        with databases.counted(database) as due:
            take(database)
        counts.append((len(seen), len(due)))

    assert counts[0] == counts[1]
    assert counts[1] <= (10, 5)


def test_a_host_that_is_purged_takes_its_wishes_along(database: session.Database) -> None:
    store(database, host="node2")
    a_host(database)
    wish(database, SEVEN_ID)
    store(database)
    sync(database)
    soon = session.now() + datetime.timedelta(seconds=60)
    before = len(databases.all_rows(database, models.device_partitions))

    assert purge.delete_hosts(database, ["node2"], soon) == 1
    kept = len(databases.all_rows(database, models.device_partitions))
    assert purge.delete_hosts(database, [builders.HOST], soon) == 1

    assert (before, kept) == (1, 1)
    assert databases.all_rows(database, models.device_partitions) == []


def test_a_host_whose_rows_were_lost_learns_its_layout_when_it_comes_back(
        database: session.Database) -> None:
    a_host(database)
    wish(database, SEVEN_ID)
    with database.writing() as connection:
        for table in (models.devices, models.hosts):
            connection.execute(sa.delete(table))

    [wanted] = partitioning.wishes_of(database, builders.HOST)

    assert [(one.profile, one.count) for one in wanted.partitions] == [("1g.5gb", 7)]
