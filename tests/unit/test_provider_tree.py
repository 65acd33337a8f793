# SPDX-License-Identifier: Apache-2.0
"""What Placement should have, from plain data. No Placement and no database here."""

from __future__ import annotations

from typing import Any

import pytest

from cyborg_lite.clients import placement
from cyborg_lite.conductor import provider_tree
from cyborg_lite.db import services

UUID = "6f1f3f0e-6c6e-5a7e-8f57-0e8a5b5f3c11"
NOTHING = provider_tree.Ours()


def an_offer(**more: Any) -> services.Offer:
    values: dict[str, Any] = {
        "deployable_id": 1, "rp_uuid": UUID, "name": "node1_card", "device_status": "enabled",
        "resource_class": "FPGA", "traits": frozenset({"CUSTOM_A"}), "handles": {"free": 4},
        "synced": {}}
    return services.Offer(**{**values, **more})


def wanted(**more: Any) -> provider_tree.Wanted:
    return provider_tree.wanted_of(an_offer(**more))


def actual(traits: set[str] | None = None, **inventories: dict[str, Any]) -> provider_tree.Actual:
    return provider_tree.Actual(7, inventories, frozenset(traits or ()))


def an_inventory(total: int = 4, **more: Any) -> dict[str, Any]:
    return {"total": total, "reserved": 0, "min_unit": 1, "max_unit": total, "step_size": 1,
            "allocation_ratio": 1.0, **more}


@pytest.mark.parametrize(("handles", "status", "total", "reserved"), [
    ({"free": 4}, "enabled", 4, 0),
    ({"free": 1, "reserved": 1, "in_use": 2}, "enabled", 4, 0),
    ({"free": 2, "cleaning": 2}, "enabled", 4, 2),
    ({"free": 2, "failed": 2}, "enabled", 2, 0),
    ({"in_use": 3, "missing": 1}, "enabled", 4, 0),
    ({"free": 2, "in_use": 2}, "maintaining", 4, 4),
    ({"free": 1, "cleaning": 1, "failed": 1}, "maintaining", 2, 2),
    ({"failed": 2}, "enabled", 0, 0),
    ({}, "enabled", 0, 0),
])
def test_handles_and_status_say_how_much_is_offered(
        handles: dict[str, int], status: str, total: int, reserved: int) -> None:
    found = wanted(handles=handles, device_status=status)

    assert (found.total, found.reserved) == (total, reserved)


@pytest.mark.parametrize("resource_class", [None, "", "fpga", "CUSTOM FPGA"])
def test_without_a_legal_class_nothing_is_offered(resource_class: str | None) -> None:
    found = wanted(resource_class=resource_class)

    assert found.resource_class is None
    assert provider_tree.change(found, actual({"OWNER_CYBORG", "CUSTOM_A"}), NOTHING) \
        == provider_tree.Change()


def test_every_provider_is_marked_as_ours() -> None:
    assert wanted(traits=frozenset()).traits == {placement.OWNER_TRAIT}


def test_a_new_provider_gets_traits_and_inventory() -> None:
    change = provider_tree.change(wanted(), actual(), NOTHING)

    assert change.traits == {"OWNER_CYBORG", "CUSTOM_A"}
    assert change.inventories == {"FPGA": an_inventory()}


def test_what_is_right_already_changes_nothing() -> None:
    found = actual({"OWNER_CYBORG", "CUSTOM_A", "CUSTOM_THEIRS"}, FPGA=an_inventory(),
                   CUSTOM_THEIRS=an_inventory(2))

    assert not provider_tree.change(wanted(), found, NOTHING)


def test_only_traits_of_ours_are_taken_away() -> None:
    found = actual({"OWNER_CYBORG", "CUSTOM_A", "CUSTOM_OLD", "CUSTOM_THEIRS"}, FPGA=an_inventory())
    ours = provider_tree.Ours(frozenset({"OWNER_CYBORG", "CUSTOM_A", "CUSTOM_OLD"}))

    change = provider_tree.change(wanted(), found, ours)

    assert change.traits == {"OWNER_CYBORG", "CUSTOM_A", "CUSTOM_THEIRS"}
    assert change.inventories is None


def test_only_inventories_of_ours_are_taken_away() -> None:
    found = actual({"OWNER_CYBORG", "CUSTOM_A"}, PGPU=an_inventory(1), VGPU=an_inventory(9))
    ours = provider_tree.Ours(classes=frozenset({"PGPU"}))

    change = provider_tree.change(wanted(), found, ours)

    assert change.inventories == {"FPGA": an_inventory(), "VGPU": an_inventory(9)}


def test_what_an_operator_changed_in_our_inventory_stays() -> None:
    found = actual({"OWNER_CYBORG", "CUSTOM_A"}, FPGA=an_inventory(
        allocation_ratio=2.0, min_unit=2, step_size=2, max_unit=2))

    change = provider_tree.change(wanted(device_status="maintaining", handles={"free": 6}), found,
                                  NOTHING)

    assert change.inventories == {"FPGA": an_inventory(
        6, reserved=6, allocation_ratio=2.0, min_unit=2, step_size=2, max_unit=2)}


def test_max_unit_follows_total_while_nobody_changed_it() -> None:
    found = actual({"OWNER_CYBORG", "CUSTOM_A"}, FPGA=an_inventory(2))

    change = provider_tree.change(wanted(), found, NOTHING)

    assert change.inventories == {"FPGA": an_inventory(4)}


def test_an_inventory_in_use_that_should_go_is_wholly_reserved() -> None:
    found = actual({"OWNER_CYBORG", "CUSTOM_A"}, FPGA=an_inventory(4))

    change = provider_tree.change(wanted(handles={"failed": 4}), found, NOTHING, in_use=True)

    assert change.inventories == {"FPGA": an_inventory(4, reserved=4)}


def test_a_record_reads_back_as_it_was_written() -> None:
    found = actual({"OWNER_CYBORG", "CUSTOM_THEIRS"}, FPGA=an_inventory())
    ours = provider_tree.Ours(frozenset({"OWNER_CYBORG"}), frozenset({"FPGA"}))

    assert provider_tree.from_record(provider_tree.to_record(found, ours)) == (found, ours)
    assert provider_tree.from_record(provider_tree.to_record(None, ours)) == (None, ours)
    assert provider_tree.from_record({}) == (None, NOTHING)


@pytest.mark.parametrize("name", ["node1_card", "node_1.example.org_0000:41:00.0"])
def test_a_legal_name_stays_as_it_is(name: str) -> None:
    assert provider_tree.legal_name(name, UUID) == name


@pytest.mark.parametrize("name", ["n" * 201, "node1_\N{GRINNING FACE}", "node1_a b", "node1_\n"])
def test_an_illegal_name_is_made_legal_and_unique(name: str) -> None:
    one = provider_tree.legal_name(name, UUID)
    other = provider_tree.legal_name(name, UUID[:-1] + "2")

    assert one != other
    assert all(len(legal) <= 200 and legal.isascii() and legal.isprintable() and " " not in legal
               for legal in (one, other))


@pytest.mark.parametrize(("resource_provider_name", "host", "given", "short"), [
    ("node7.example.org", "node7", ["node7.example.org", "node7"], []),
    ("node7.example.org", "node7.example.org", ["node7.example.org"], ["node7"]),
    ("node7", "node7", ["node7"], []),
    ("10.0.0.7", "10.0.0.7", ["10.0.0.7"], []),
    ("a.example.org", "b.example.org", ["a.example.org", "b.example.org"], ["a", "b"]),
])
def test_a_compute_node_is_looked_for_by_its_given_names_first(
        resource_provider_name: str, host: str, given: list[str], short: list[str]) -> None:
    assert provider_tree.compute_names(resource_provider_name, host) == (given, short)
