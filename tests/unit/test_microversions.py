# SPDX-License-Identifier: Apache-2.0
"""The table of microversions, and what is derived from it."""

from __future__ import annotations

import dataclasses
import re

import pytest

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.api import microversions

MESSAGES = {"arq": messages.Arq, "device": messages.Device, "deployable": messages.Deployable,
            "device_profile": messages.DeviceProfile, "attribute": messages.Attribute,
            "device_profile_detail": messages.DeviceProfile, "device_detail": messages.Device,
            "partitioning": messages.Partitioning, "partitioning_plan": messages.PartitioningPlan,
            "service": messages.Service, "orphan": messages.Orphan, "sweep": messages.Sweep}
COMPUTED = {"active", "links", "attributes_list", "usage"}


def test_the_versions_follow_each_other_without_a_gap() -> None:
    assert [row.minor for row in microversions.TABLE] == list(
        range(microversions.MINIMUM, microversions.MAXIMUM + 1))


def test_each_version_has_a_slug_of_its_own_and_one_sentence() -> None:
    assert len({row.slug for row in microversions.TABLE}) == len(microversions.TABLE)
    for row in microversions.TABLE:
        assert re.fullmatch(r"[a-z_]+", row.slug)
        assert row.sentence.endswith(".")
        assert row.sentence.count(". ") == 0


def test_nothing_is_added_twice() -> None:
    added = [(kind, noun, name) for row in microversions.TABLE
             for kind, by_noun in (("query", row.query), ("body", row.body),
                                   ("fields", row.fields))
             for noun, names in by_noun.items() for name in names]
    added += [("patch", "arq", path) for row in microversions.TABLE for path in row.patch]
    assert len(added) == len(set(added))


@pytest.mark.parametrize("noun", MESSAGES)
def test_each_shown_field_is_one_of_the_message_or_computed(noun: str) -> None:
    known = {field.name for field in dataclasses.fields(MESSAGES[noun])} | COMPUTED
    assert set(microversions.fields(noun, microversions.MAXIMUM)) <= known


@pytest.mark.parametrize("noun", MESSAGES)
def test_a_later_version_shows_what_an_earlier_one_does_and_more(noun: str) -> None:
    for minor in range(microversions.MAXIMUM):
        now, later = microversions.fields(noun, minor), microversions.fields(noun, minor + 1)
        assert later[:len(now)] == now


def a_device() -> messages.Device:
    return messages.Device(uuid="u", type="FPGA", vendor="v", model="m", std_board_info=None,
                           vendor_board_info=None, hostname="node1", status="enabled")


def test_a_reply_shows_a_field_from_its_version_on() -> None:
    assert "status" not in microversions.render("device", a_device(), 2, links=[])
    assert microversions.render("device", a_device(), 3, links=[])["status"] == "enabled"


def test_what_the_table_lacks_stays_inside() -> None:
    arq = messages.Arq(uuid="u", state="Bound", device_profile_name="p",
                       device_profile_group_id=0, state_reason="a secret of the service")

    shown = microversions.render(
        "arq", arq, microversions.MAXIMUM, links=[], active=True, secret="another")

    assert "state_reason" not in shown
    assert "secret" not in shown


@pytest.mark.parametrize(("header", "minor"), [
    (None, 0), ("", 0), (" ", 0), ("accelerator 2.0", 0), ("accelerator 2.3", 3), ("2.1", 1),
    ("ACCELERATOR 2.2", 2), ("accelerator latest", microversions.MAXIMUM),
    ("Latest", microversions.MAXIMUM), ("compute 2.82", 0), ("compute 2.82, accelerator 2.1", 1),
    ("accelerator 2.1, compute 2.82", 1), ("2.3, accelerator 2.1", 1), ("  accelerator   2.2 ", 2),
])
def test_a_header_is_understood(header: str | None, minor: int) -> None:
    assert microversions.negotiate(header) == minor


@pytest.mark.parametrize("header", [
    "accelerator 2.999", "accelerator 3.0", "accelerator 1.0", "2", "two", "accelerator two",
    "accelerator 2.00", "accelerator 2.03", "accelerator -2.0", "accelerator 2.3 2.3",
    "accelerator 2.\u0663", "accelerator 2.99999999999999999999"])
def test_a_header_that_is_not_understood_tells_the_range(header: str) -> None:
    with pytest.raises(errors.VersionNotAcceptable, match=rf"2\.0 to 2\.{microversions.MAXIMUM}\b"):
        microversions.negotiate(header)


def test_a_feature_is_there_from_its_version_on() -> None:
    assert not microversions.supports(1, "device_profile_by_name")
    assert microversions.supports(2, "device_profile_by_name")
    assert microversions.supports(3, "device_profile_by_name")


def test_the_owner_may_be_patched_from_2_1_on_and_the_migration_from_2_9_on() -> None:
    assert microversions.patch_since() == {
        "/hostname": 0, "/device_rp_uuid": 0, "/instance_uuid": 0, "/project_id": 1,
        "/migration_uuid": 9, "/migration_type": 9}
