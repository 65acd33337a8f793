# SPDX-License-Identifier: Apache-2.0
"""A card is split anew: from the wish by way of Placement and the agent to new providers.

Placement and the conductor are real; the agent is played at its RPC endpoint.
"""

from __future__ import annotations

import collections
import logging
import pathlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite import states
from cyborg_lite.conductor import partitioning
from cyborg_lite.conductor import takeover
from cyborg_lite.db import models
from tests.fixtures import builders
from tests.fixtures import databases
from tests.fixtures import nova as nova_fixture
from tests.fixtures import placement as placement_fixture
from tests.fixtures import split_cards
from tests.fixtures import split_worlds

DEVICE = split_cards.uuid_of()
SMALL, LARGE = split_cards.rp_uuid("A100-1-5C"), split_cards.rp_uuid("A100-3-20C")
PAIR_ID = "9x2"


class World(split_worlds.World):
    """With one card, and its agent played."""

    def __init__(self, folder: pathlib.Path, placement: placement_fixture.Placement,
                 nova_url: str) -> None:
        super().__init__(folder, placement, nova_url)
        self.card = split_cards.Card()
        self.agent = split_cards.Agent([self.card])
        self.stop_agent = self.bus.serve(rpc.AGENT_TOPIC, builders.HOST, self.agent)

    def report(self) -> None:
        self.client.report(self.agent.report())

    def wish(self, layout: str = PAIR_ID) -> messages.PartitioningPlan:
        return self.client.set_partitioning(uuid=DEVICE, layout=layout, partitions=None,
                                            dry_run=False)

    def state(self) -> tuple[str, str | None]:
        shown = self.client.show_partitioning(uuid=DEVICE, every_layout=False)
        return shown.state, shown.fault


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[World]:
    """A host whose card is split into seven, all of it in Placement."""
    with placement_fixture.serving(tmp_path) as placement, nova_fixture.serving() as nova:
        made = World(tmp_path, placement, nova.url)
        made.card.split({"1g.5gb": 7})
        made.report()
        made.sync()
        yield made
        made.close()


# --- the ordinary way -------------------------------------------------------------------------


def test_a_card_is_split_anew_and_its_providers_follow(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cyborg_lite.conductor")
    before = world.offered()

    world.wish()
    asked_at_once = world.apply()
    world.sync()
    while_waiting = world.offered()
    world.apply()
    world.report()
    world.sync()

    assert (before, asked_at_once) == ({SMALL: (7, 0)}, 0)
    assert while_waiting == {SMALL: (7, 7)}
    assert [[(one.device_address, one.generation, one.held, [
        (part.profile, part.count, part.vgpu_type) for part in one.partitions])
        for one in wishes] for wishes in world.agent.asked] == [
            [(split_cards.ADDRESS, 1, False, [("3g.20gb", 2, "A100-3-20C")])]]
    assert world.offered() == {LARGE: (2, 0)}
    assert world.placement.traits(LARGE) == {"OWNER_CYBORG", "CUSTOM_NVIDIA_A100_3_20C"}
    assert world.state() == ("applied", None)
    assert world.bind(LARGE).state == states.BOUND
    assert len([text for text in caplog.messages if f"device={DEVICE}" in text]) == 2


def test_at_no_moment_is_capacity_offered_that_does_not_exist(world: World) -> None:
    """After each request to Placement, what it offers is what the card has by then."""
    offers: list[dict[str, tuple[int, int]]] = []
    exist: list[dict[str, int]] = []

    def look(method: str, path: str) -> None:
        world.placement.before = lambda method, path: None
        offers.append(world.offered())
        exist.append({split_cards.rp_uuid(str(one.vgpu_type)): sum(
            other.vgpu_type == one.vgpu_type for other in world.card.partitions)
            for one in world.card.partitions})
        world.placement.before = look

    world.placement.before = look
    world.wish("9-14-19x2")
    world.sync()
    world.apply()
    look("", "")
    world.report()
    world.sync()
    look("", "")
    world.placement.before = lambda method, path: None

    too_much = [(offered, there) for offered, there in zip(offers, exist, strict=True)
                if any(total - reserved > there.get(provider, 0)
                       for provider, (total, reserved) in offered.items())]
    assert too_much == []
    assert len(offers) >= 10
    assert world.offered() == {LARGE: (1, 0), split_cards.rp_uuid("A100-2-10C"): (1, 0),
                               SMALL: (2, 0)}


@pytest.mark.parametrize("nth", [1, 3, 5])
def test_also_not_when_placement_takes_no_write_from_one_on(world: World, nth: int) -> None:
    """Until the host has reported what it has by then, and a while longer."""
    too_much: list[object] = []
    writes: list[str] = []

    def there() -> dict[str, int]:
        return collections.Counter(split_cards.rp_uuid(str(one.vgpu_type))
                                   for one in world.card.partitions)

    def look(method: str, path: str) -> int | None:
        world.placement.before = lambda method, path: None
        too_much.extend((provider, total, reserved, there())
                        for provider, (total, reserved) in world.offered().items()
                        if total - reserved > there().get(provider, 0))
        world.placement.before = look
        if method == "GET":
            return None
        writes.append(path)
        return 503 if nth <= len(writes) and is_refusing else None

    world.placement.before = look
    is_refusing = True
    world.wish("9-14-19x2")
    for _ in range(3):
        for _ in range(2):
            world.sync()
            world.apply()
            world.report()
        world.passed_s += 60
        is_refusing = False
    world.placement.before = lambda method, path: None

    assert too_much == []
    assert world.state() == ("applied", None)
    assert world.offered() == {provider: (number, 0) for provider, number in there().items()}


def test_a_profile_that_stays_keeps_its_provider(world: World) -> None:
    world.wish("9-19x4")
    world.sync()
    world.apply()
    world.report()
    world.sync()

    assert world.offered() == {SMALL: (4, 0), LARGE: (1, 0)}
    assert world.placement.inventories(SMALL)["VGPU"]["max_unit"] == 4


def test_nothing_is_bound_between_the_wish_and_its_report(world: World) -> None:
    world.wish()
    refused = [world.bind(SMALL)]
    world.sync()
    refused.append(world.bind(SMALL))
    world.apply()
    refused.append(world.bind(SMALL))
    world.report()

    assert [(arq.state, "is being split anew" in str(arq.state_reason)) for arq in refused] == [
        (states.BIND_FAILED, True)] * 3
    assert world.bind(LARGE).state == states.BOUND


def test_a_card_with_a_server_is_left_alone_until_the_server_is_gone(world: World) -> None:
    arq = world.bind(SMALL)

    with pytest.raises(errors.InUse, match="1 of its attach handles are held"):
        world.wish()
    world.client.delete_arqs_of_instance(str(arq.instance_uuid))
    world.wish()

    assert world.state()[0] == "applying"


def test_a_provider_with_an_allocation_waits_wholly_reserved(world: World) -> None:
    consumer = world.placement.allocate(SMALL, "VGPU")
    world.wish()
    world.sync()
    world.apply()
    world.report()
    world.sync()
    before = world.offered()

    world.placement.deallocate(consumer)
    world.passed_s += 120
    world.sync()

    assert before == {SMALL: (7, 7), LARGE: (2, 0)}
    assert world.offered() == {LARGE: (2, 0)}


def test_two_cards_of_a_host_are_split_by_one_call(world: World) -> None:
    other = split_cards.Card(address="0000:42:00.0")
    world.agent.cards.append(other)
    world.report()
    world.wish()
    world.client.set_partitioning(uuid=split_cards.uuid_of(other.address), layout="0",
                                  partitions=None, dry_run=False)
    world.sync()

    assert world.apply() == 2
    world.report()
    world.sync()

    assert [[one.device_address for one in wishes] for wishes in world.agent.asked] == [
        [split_cards.ADDRESS, other.address]]
    assert world.offered() == {
        LARGE: (2, 0), split_cards.rp_uuid("A100-7-40C", other.address): (1, 0)}


def test_what_could_not_be_cleaned_offers_nothing_and_goes_once_it_is_clean(world: World) -> None:
    with world.database.writing() as connection:
        first = connection.scalar(sa.select(sa.func.min(models.attach_handles.c.id)))
        connection.execute(sa.update(models.attach_handles).values(state=states.FAILED)
                           .where(models.attach_handles.c.id == first))
    world.wish()
    world.sync()
    world.apply()
    world.report()
    world.sync()
    before = world.offered()

    world.client.clean_device(uuid=DEVICE)
    takeover.clean_handles(world.conductors[0].binder)
    world.background.run()
    world.report()
    world.sync()

    assert before == {SMALL: (0, 0), LARGE: (2, 0)}
    assert world.offered() == {LARGE: (2, 0)}


def test_a_device_that_is_disabled_may_be_split_and_stays_disabled(world: World) -> None:
    world.client.set_device_status(uuid=DEVICE, status="maintaining", reason="new layout")

    world.wish()
    world.sync()
    world.apply()
    world.report()
    world.sync()

    assert world.state() == ("applied", None)
    assert world.offered() == {LARGE: (2, 2)}


def test_a_wish_costs_a_bounded_number_of_statements(world: World) -> None:
    with databases.counted(world.database) as seen:
        world.wish()
    wished = len(seen)
    world.sync()
    with databases.counted(world.database) as seen:
        world.apply()
    with databases.counted(world.database) as idle:
        partitioning.apply_due(world.conductors[0].binder)

    assert (wished <= 9, len(seen) <= 9, len(idle)) == (True, True, 1)


# --- when something is away -------------------------------------------------------------------


def test_without_placement_a_card_waits_as_it_is(world: World) -> None:
    with world.placement.answering(503):
        world.wish()
        world.sync()
        world.passed_s += 60
        asked = world.apply()
        state, fault = world.state()

    assert (asked, world.agent.asked) == (0, [])
    assert (state, "waits for Placement" in str(fault)) == ("applying", True)
    world.passed_s += 60
    world.sync()
    assert world.apply() == 1


def test_a_silent_agent_is_asked_again(world: World) -> None:
    world.stop_agent()
    world.wish()
    world.sync()
    world.apply()
    at_once = world.apply()
    waiting = world.state()

    world.bus.serve(rpc.AGENT_TOPIC, builders.HOST, world.agent)
    world.passed_s += partitioning.ASK_AGAIN_S
    world.apply()
    world.report()

    assert (at_once, waiting) == (0, (
        "applying", f"The agent of host {builders.HOST} has not said yet that it is done; it is "
        "asked every 15 s."))
    assert world.state() == ("applied", None)


def test_what_a_conductor_left_that_died_is_done_by_another(world: World) -> None:
    world.wish()
    world.sync()
    partitioning.apply_due(world.conductors[0].binder)
    world.background.forget()
    other = world.another_conductor().binder
    too_early = partitioning.apply_due(other)

    world.passed_s += other.lease_s + 1
    taken = partitioning.apply_due(other)
    world.background.run()

    assert (too_early, taken, len(world.agent.asked)) == (0, 1, 1)


def test_an_agent_that_knows_no_partitions_is_a_fault_and_has_changed_nothing(world: World) -> None:
    world.stop_agent()
    world.bus.serve(rpc.AGENT_TOPIC, builders.HOST, split_cards.OldAgent())
    world.wish()
    world.sync()

    world.apply()

    state, fault = world.state()
    assert (state, "too old to split devices; upgrade it" in str(fault)) == ("failed", True)
    world.sync()
    assert world.offered() == {SMALL: (7, 0)}


# --- when it goes wrong -----------------------------------------------------------------------


def test_a_fault_is_shown_and_the_card_stays_closed_until_somebody_decides(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.card.breaks = "creating a partition (insufficient resources) failed"
    world.wish()
    world.sync()

    world.apply()
    world.report()
    world.sync()

    assert world.state() == ("failed", f"{world.card.breaks} {partitioning.UNTIL_SET_AGAIN}")
    assert world.offered() == {SMALL: (7, 7)}
    assert world.apply() == 0
    [line] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert DEVICE in line.getMessage()
    world.card.breaks = None
    world.wish("19x7")
    world.sync()
    assert world.offered() == {SMALL: (7, 7)}
    world.apply()
    world.sync()
    assert world.state() == ("applied", None)
    assert world.offered() == {SMALL: (7, 0)}


def test_a_card_that_is_as_before_goes_on_with_what_it_has(world: World) -> None:
    world.card.breaks, world.card.tells_so = "a process uses a partition", True
    world.wish()
    world.sync()
    while_waiting = world.offered()
    world.apply()
    world.sync()
    offered = world.offered()
    world.report()
    world.sync()

    shown = world.client.show_partitioning(uuid=DEVICE, every_layout=False)
    assert (while_waiting, offered) == ({SMALL: (7, 7)}, {SMALL: (7, 0)})
    assert world.offered() == offered
    assert (shown.state, shown.fault) == (
        "failed", f"{world.card.breaks} {partitioning.AS_BEFORE}")
    assert [(one.profile, one.count) for one in shown.desired] == [("3g.20gb", 2)]
    assert world.bind(SMALL).state == states.BOUND
    assert world.apply() == 0


def test_what_a_card_went_on_with_is_made_again_after_a_reboot(world: World) -> None:
    world.card.breaks, world.card.tells_so = "a process uses a partition", True
    world.wish()
    world.sync()
    world.apply()
    world.report()
    arq = world.bind(SMALL)
    [intent] = world.client.host_intent(host=builders.HOST).layouts
    world.card.breaks, world.card.partitions = None, []
    world.report()
    world.sync()
    lost = world.state()

    world.apply()
    world.report()

    assert [(one.profile, one.count) for one in intent.partitions] == [("1g.5gb", 7)]
    assert (lost, world.state()) == (("applying", None), ("applied", None))
    assert world.agent.asked[-1][0].held
    assert len(world.card.partitions) == 7
    assert world.client.get_arq(arq.uuid, None).state == states.BOUND


@pytest.mark.parametrize("layout", [PAIR_ID, "19x7"])
def test_a_wish_that_was_given_up_may_be_made_again_or_the_layout_that_is_there(
        world: World, layout: str) -> None:
    world.card.breaks, world.card.tells_so = "a process uses a partition", True
    world.wish()
    world.sync()
    world.apply()
    world.report()
    world.sync()
    world.card.breaks = None

    world.wish(layout)
    world.sync()
    world.apply()
    world.report()
    world.sync()

    assert world.state() == ("applied", None)
    assert world.offered() == ({LARGE: (2, 0)} if layout == PAIR_ID else {SMALL: (7, 0)})


def test_a_wish_for_what_servers_lost_is_not_given_up(world: World) -> None:
    world.wish("19x7")
    world.bind(SMALL)
    world.card.split({"1g.5gb": 3})
    world.card.breaks, world.card.tells_so = "no room", True
    world.report()
    world.sync()

    world.apply()
    world.report()

    shown = world.client.show_partitioning(uuid=DEVICE, every_layout=False)
    assert (shown.state, [one.count for one in shown.desired]) == ("failed", [7])
    assert all(total == reserved for total, reserved in world.offered().values())


def test_a_card_of_which_a_report_tells_otherwise_meanwhile_stays_closed(world: World) -> None:
    def meanwhile(wishes: list[messages.LayoutWish]) -> None:
        world.card.split({"1g.5gb": 2})
        world.report()

    world.card.breaks, world.card.tells_so = "a process uses a partition", True
    world.agent.before = meanwhile
    world.wish()
    world.sync()
    world.apply()
    world.sync()

    assert world.offered() == {SMALL: (2, 2)}
    assert world.state() == ("failed", f"{world.card.breaks} {partitioning.UNTIL_SET_AGAIN}")


def test_a_report_from_before_a_failure_opens_nothing_that_went_since(world: World) -> None:
    before = world.agent.report()
    world.agent.before = lambda wishes: world.card.split({"7g.40gb": 1})
    world.card.breaks = "creating a partition failed; so did going back"
    world.wish()
    world.sync()
    world.apply()
    world.agent.before, world.card.breaks = lambda wishes: None, None

    world.wish("19x7")
    world.client.report(before)
    world.sync()
    late = (world.state()[0], world.offered())
    world.apply()
    world.report()
    world.sync()

    assert late == ("applying", {SMALL: (7, 7)})
    assert len(world.agent.asked) == 2
    assert world.state() == ("applied", None)
    assert world.offered() == {SMALL: (7, 0)}


def test_what_an_agent_did_while_it_was_silent_is_not_as_before_until_it_is_reported(
        world: World) -> None:
    def changes_it_and_is_not_heard(wishes: list[messages.LayoutWish]) -> None:
        world.card.split({"7g.40gb": 1})
        raise errors.Unavailable("It took too long.")

    world.agent.before = changes_it_and_is_not_heard
    world.wish()
    world.sync()
    world.apply()

    world.agent.before = lambda wishes: None
    world.card.breaks, world.card.tells_so = "a process uses a partition", True
    world.passed_s += partitioning.ASK_AGAIN_S
    world.apply()
    world.sync()

    assert len(world.agent.asked) == 2
    assert world.offered() == {SMALL: (7, 7)}
    assert world.state() == ("failed", f"{world.card.breaks} {partitioning.UNTIL_SET_AGAIN}")


def test_what_a_silent_agent_has_reported_since_is_as_before_again(world: World) -> None:
    world.stop_agent()
    world.wish()
    world.sync()
    world.apply()

    world.bus.serve(rpc.AGENT_TOPIC, builders.HOST, world.agent)
    world.card.breaks, world.card.tells_so = "a process uses a partition", True
    world.report()
    world.passed_s += partitioning.ASK_AGAIN_S
    world.apply()
    world.sync()

    assert world.offered() == {SMALL: (7, 0)}
    assert world.state() == ("failed", f"{world.card.breaks} {partitioning.AS_BEFORE}")


def test_what_was_asked_by_a_conductor_that_died_is_not_as_before(world: World) -> None:
    world.wish()
    world.sync()
    partitioning.apply_due(world.conductors[0].binder)
    world.background.forget()
    world.card.split({"7g.40gb": 1})
    world.card.breaks, world.card.tells_so = "a process uses a partition", True
    other = world.another_conductor().binder

    world.passed_s += other.lease_s + 1
    partitioning.apply_due(other)
    world.background.run()
    world.sync()

    assert world.offered() == {SMALL: (7, 7)}


def test_the_same_wish_is_tried_again_after_it_failed(world: World) -> None:
    world.card.breaks = "MIG mode waits for a reset"
    world.wish()
    world.sync()
    world.apply()

    world.card.breaks = None
    world.wish()
    world.sync()
    world.apply()
    world.report()

    assert [wishes[0].generation for wishes in world.agent.asked] == [1, 2]
    assert world.state() == ("applied", None)


def test_an_agent_that_says_done_and_is_not_is_found_out(world: World) -> None:
    there = list(world.card.partitions)
    world.wish()
    world.sync()
    world.apply()
    world.card.partitions = there

    world.report()
    world.sync()
    world.passed_s += partitioning.LOOK_AFTER_S
    world.apply()

    state, fault = world.state()
    assert (state, "reports another layout" in str(fault)) == ("failed", True)
    assert len(world.agent.asked) == 1


def test_what_the_driver_waits_for_is_shown(world: World) -> None:
    [device] = [card.device() for card in world.agent.cards]
    assert device.partitioning is not None
    waiting = messages.ReportedPartitioning(
        scheme="mig", profiles=device.partitioning.profiles, fault="MIG mode waits for a reset")

    world.client.report(builders.a_report([messages.ReportedDevice(
        address=device.address, type="GPU", vendor="10de", model="x", driver=device.driver,
        deployables=[], partitioning=waiting)]))

    assert world.state() == ("applied", "MIG mode waits for a reset")


# --- restarts ---------------------------------------------------------------------------------


def test_an_agent_that_starts_learns_the_layout_and_what_a_reboot_took_is_made_again(
        world: World) -> None:
    world.wish()
    world.sync()
    world.apply()
    world.report()
    world.sync()
    world.card.partitions = []

    [wish] = world.client.host_intent(host=builders.HOST).layouts
    world.agent.apply_layouts([wish])
    world.report()

    assert (wish.generation, [(one.profile, one.count) for one in wish.partitions]) == (
        1, [("3g.20gb", 2)])
    assert world.state() == ("applied", None)


def test_an_agent_that_did_not_make_it_again_is_asked_to(world: World) -> None:
    world.wish()
    world.sync()
    world.apply()
    world.report()
    world.card.partitions = []
    world.report()
    world.sync()
    after_reboot = world.offered()

    world.apply()
    world.report()
    world.sync()

    assert after_reboot == {}
    assert world.offered() == {LARGE: (2, 0)}


def test_a_wish_that_placement_does_not_know_is_no_intent_yet(world: World) -> None:
    world.wish()
    before = world.client.host_intent(host=builders.HOST).layouts

    world.sync()

    assert before == []
    assert len(world.client.host_intent(host=builders.HOST).layouts) == 1


def test_what_a_reboot_took_from_a_server_is_made_again_and_the_server_gets_it_back(
        world: World) -> None:
    world.wish("19x7")
    arq = world.bind(SMALL)
    world.card.partitions = []
    world.report()
    world.sync()

    world.apply()
    world.report()

    [[wish]] = world.agent.asked
    assert wish.held
    [handle] = [row for row in databases.all_rows(world.database, models.attach_handles)
                if row["arq_uuid"] == arq.uuid]
    assert (handle["state"], handle["uuid"]) == (states.IN_USE, arq.attach_handle_uuid)
    assert world.state() == ("applied", None)


def test_what_somebody_split_by_hand_under_a_server_is_not_taken_away(world: World) -> None:
    world.wish("19x7")
    world.bind(SMALL)
    world.card.split({"3g.20gb": 1, "1g.5gb": 3})
    world.report()
    world.sync()

    world.apply()

    assert world.agent.asked == []
    assert world.client.host_intent(host=builders.HOST).layouts == []
    state, fault = world.state()
    assert (state, "attach handles of the device are in use" in str(fault)) == ("applying", True)
    with world.database.writing() as connection:
        connection.execute(sa.update(models.attach_handles).values(
            state=states.FREE, arq_uuid=None))
    world.passed_s += partitioning.ASK_AGAIN_S
    assert world.apply() == 1
    assert len(world.agent.asked) == 1
