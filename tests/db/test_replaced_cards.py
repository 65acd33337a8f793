# SPDX-License-Identifier: Apache-2.0
"""A card of another model is in the place of one that a layout was wished for of.

Wishes of a card that stays are in `test_partitioning.py`.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
import sqlalchemy as sa

from cyborg_lite.conductor import partitioning
from cyborg_lite.db import models
from cyborg_lite.db import partitioning as rows
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases
from tests.fixtures import split_cards

DEVICE = split_cards.uuid_of()
H200 = "H200-141GB"
PAIR_ID = "9x2"
"""Two of 3g: a layout of every card with seven slices."""


def store(database: session.Database, *cards: split_cards.Card) -> None:
    builders.store(database, split_cards.Agent(list(cards)).report())


def sync(database: session.Database) -> None:
    with database.writing() as connection:
        connection.execute(sa.update(models.hosts).values(
            synced_generation=models.hosts.c.generation))


def row(database: session.Database) -> dict[str, Any]:
    [found] = databases.all_rows(database, models.device_partitions)
    return found


def is_dirty(database: session.Database) -> bool:
    [host] = databases.all_rows(database, models.hosts)
    return bool(host["generation"] != host["synced_generation"])


@pytest.fixture
def wished(database: session.Database) -> session.Database:
    """A host with an A100 for which a pair was wished; Placement knows, and nobody was asked."""
    store(database, split_cards.Card())
    sync(database)
    partitioning.set_layout(database, DEVICE, PAIR_ID, None, False)
    sync(database)
    return database


def take(database: session.Database) -> list[rows.Split]:
    moment = session.now() + datetime.timedelta(seconds=1)
    return rows.take_due(database, builders.an_owner(), moment, 10)


def other_card() -> split_cards.Card:
    return split_cards.Card(card=H200, scheme="mig")


def test_a_card_of_another_model_has_no_wish_and_is_open(wished: session.Database) -> None:
    store(wished, other_card())

    shown = partitioning.show(wished, DEVICE, every_layout=False)
    assert (shown.state, shown.desired, shown.fault) == ("applied", [], None)
    assert partitioning.wishes_of(wished, builders.HOST) == []
    assert is_dirty(wished)
    sync(wished)
    assert take(wished) == []


def test_another_card_of_the_same_model_gets_the_layout(wished: session.Database) -> None:
    store(wished)
    store(wished, split_cards.Card())
    sync(wished)

    [wish] = partitioning.wishes_of(wished, builders.HOST)
    assert (wish.model, wish.partitions[0].count) == (split_cards.A100, 2)


def test_the_wish_that_an_agent_is_told_names_the_model(wished: session.Database) -> None:
    [wish] = partitioning.wishes_of(wished, builders.HOST)

    assert wish.model == split_cards.A100


@pytest.mark.parametrize("between", [[], [split_cards.Card(scheme="none")]],
                         ids=["none there", "not split"])
def test_a_wish_ends_although_the_place_was_empty_meanwhile(
        wished: session.Database, between: list[split_cards.Card]) -> None:
    store(wished, *between)
    store(wished, other_card())

    assert row(wished)["wish"] is None
    assert partitioning.show(wished, DEVICE, every_layout=False).state == "applied"


def test_a_row_that_was_stored_without_a_model_is_judged_by_its_device(
        wished: session.Database) -> None:
    reported = json.loads(row(wished)["reported"])
    del reported[rows.MODEL]
    with wished.writing() as connection:
        connection.execute(sa.update(models.device_partitions).values(
            reported=json.dumps(reported)))

    kept = partitioning.wishes_of(wished, builders.HOST)
    store(wished, other_card())

    assert [each.model for each in kept] == [None]
    assert row(wished)["wish"] is None


def test_an_answer_that_comes_late_says_nothing_of_the_other_card(
        wished: session.Database) -> None:
    owner = builders.an_owner()
    [split] = rows.take_due(wished, owner, session.now() + datetime.timedelta(seconds=1), 10)

    store(wished, other_card())
    ours = rows.finish(wished, builders.HOST, {split.id: "it broke"}, owner, session.now())

    assert ours == []
    assert partitioning.show(wished, DEVICE, every_layout=False).fault is None


def test_a_layout_of_its_own_can_be_wished_for_of_the_other_card(
        wished: session.Database) -> None:
    store(wished, other_card())

    partitioning.set_layout(wished, DEVICE, "0", None, False)
    sync(wished)

    [wish] = partitioning.wishes_of(wished, builders.HOST)
    assert (wish.model, wish.partitions[0].profile) == (H200, "7g.141gb")


def test_of_another_card_it_is_certain_how_it_is_split(wished: session.Database) -> None:
    owner = builders.an_owner()
    [split] = rows.take_due(wished, owner, session.now() + datetime.timedelta(seconds=1), 10)
    rows.finish(wished, builders.HOST, {split.id: "it broke"}, owner, session.now())
    partitioning.set_layout(wished, DEVICE, "0", None, False)
    uncertain = row(wished)["reported_key"]

    for _ in range(2):
        store(wished, other_card())

    found = rows.get(wished, DEVICE)
    assert (uncertain, found is not None and found.is_certain) == (rows.UNCERTAIN, True)
    assert row(wished)["reported_key"] == "[]"


def test_a_device_whose_model_was_not_known_keeps_its_wish(wished: session.Database) -> None:
    reported = {**json.loads(row(wished)["reported"]), rows.MODEL: ""}
    with wished.writing() as connection:
        connection.execute(sa.update(models.device_partitions).values(
            reported=json.dumps(reported)))
        connection.execute(sa.update(models.devices).values(model=""))

    store(wished, split_cards.Card())

    assert row(wished)["wish"] is not None
