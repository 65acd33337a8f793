# SPDX-License-Identifier: Apache-2.0
"""What commands are made of, with plain data: patches, pages, refusals, columns, entry points."""

from __future__ import annotations

import argparse
import configparser
import importlib
import logging
import types

import pytest
from osc_lib import exceptions
from osc_lib.command import command

from cyborg_lite.api import microversions
from cyborg_lite.cli import arqs
from cyborg_lite.cli import attributes
from cyborg_lite.cli import client
from cyborg_lite.cli import columns
from cyborg_lite.cli import commands
from cyborg_lite.cli import deployables
from cyborg_lite.cli import device_profiles
from cyborg_lite.cli import devices
from cyborg_lite.cli import orphans
from cyborg_lite.cli import partition_pictures
from cyborg_lite.cli import partitions
from cyborg_lite.cli import plugin
from cyborg_lite.cli import profile_edits
from cyborg_lite.cli import services
from tests.fixtures import environments

NOUNS = {
    "arq": arqs.COLUMNS, "attribute": attributes.COLUMNS, "deployable": deployables.COLUMNS,
    "device": devices.COLUMNS, "device_profile": device_profiles.COLUMNS,
    "orphan": orphans.COLUMNS, "partitioning": partitions.COLUMNS,
    "partitioning_plan": partitions.PLAN_COLUMNS, "service": services.COLUMNS,
    "sweep": orphans.SWEEP_COLUMNS,
}

NOT_IN_THE_BODY = {"etag"}


# --- the service's table ----------------------------------------------------------------------


def test_what_the_commands_know_of_microversions_is_what_the_service_does():
    table = {row.slug: row.minor for row in microversions.TABLE}

    assert {slug: table[slug] for slug in client.SINCE} == client.SINCE
    assert client.NEWEST == max(client.SINCE.values()) <= microversions.MAXIMUM


@pytest.mark.parametrize("noun", NOUNS)
def test_every_column_is_a_field_of_its_microversion(noun):
    added = {name: row.minor for row in microversions.TABLE
             for part in (noun, f"{noun}_detail") for name in row.fields.get(part, ())}

    for column in NOUNS[noun]:
        if column.name not in NOT_IN_THE_BODY:
            assert column.since == added[column.name], column


@pytest.mark.parametrize("noun", NOUNS)
def test_no_field_that_the_service_shows_is_left_out(noun):
    shown = {name for part in (noun, f"{noun}_detail")
             for name in microversions.fields(part, client.NEWEST)}

    assert shown - {column.name for column in NOUNS[noun]} <= {"links"}


# --- entry points -----------------------------------------------------------------------------


def test_every_entry_point_is_a_command_with_help_and_an_example():
    parser = configparser.ConfigParser()
    parser.read(environments.CHECKOUT / "setup.cfg")
    points = parser["entry_points"]["openstack.extension"].strip().splitlines()

    assert points
    for point in points:
        module, _, name = point.partition(" = ")[2].partition(":")
        found = getattr(importlib.import_module(module), name)
        assert issubclass(found, command.Command)
        assert found.__doc__
        assert found.example


def test_only_the_warning_about_our_replacing_a_command_is_kept_quiet():
    hidden = plugin.DeliberateDuplicates()

    def record(*modules: str) -> logging.LogRecord:
        return logging.LogRecord("cliff.commandmanager", logging.WARNING, "", 1, "%(modules)s", (
            {"name": "accelerator device list", "modules": ", ".join(modules)},), None)

    assert not hidden.filter(record("openstackclient.x:List", "cyborg_lite.cli.devices:List"))
    assert hidden.filter(record("cyborg_lite.cli.devices:List", "openstackclient.x:List"))
    assert hidden.filter(record("a:List", "b:List"))
    assert hidden.filter(logging.LogRecord("cliff", logging.WARNING, "", 1, "text", (), None))


# --- device profile set and unset -------------------------------------------------------------


def test_tests_come_first_and_groups_as_a_whole_before_their_keys():
    patch = profile_edits.set_patch(
        tests=[profile_edits.test("/description=old")], name="new", description="",
        groups=[profile_edits.group("resources:FPGA=1, trait:CUSTOM_A = required")],
        added=[profile_edits.group("resources:VGPU=2")],
        entries=[profile_edits.group_entry("0:accel:a/b~c=x=y")])

    assert patch == [
        {"op": "test", "path": "/description", "value": "old"},
        {"op": "add", "path": "/groups",
         "value": [{"resources:FPGA": "1", "trait:CUSTOM_A": "required"}]},
        {"op": "add", "path": "/groups/-", "value": {"resources:VGPU": "2"}},
        {"op": "add", "path": "/groups/0/accel:a~1b~0c", "value": "x=y"},
        {"op": "add", "path": "/name", "value": "new"},
        {"op": "add", "path": "/description", "value": ""}]


def test_groups_are_removed_from_the_last_on_so_that_their_numbers_hold():
    patch = profile_edits.unset_patch(groups=[0, 2, 0], entries=[(1, "trait:CUSTOM_A")],
                                      description=True)

    assert patch == [
        {"op": "remove", "path": "/groups/1/trait:CUSTOM_A"},
        {"op": "remove", "path": "/groups/2"},
        {"op": "remove", "path": "/groups/0"},
        {"op": "add", "path": "/description", "value": None}]


def test_a_patch_of_tests_alone_changes_nothing():
    tests = [profile_edits.test("/name=a")]

    assert not profile_edits.changes(profile_edits.set_patch(tests=tests))
    assert not profile_edits.changes(profile_edits.unset_patch(tests=tests))
    assert profile_edits.changes(profile_edits.set_patch(tests=tests, description=""))


@pytest.mark.parametrize(("text", "value"), [
    ("/name=5", "5"), ("/description=null", None), ("/description=", ""),
    ('/groups/0={"resources:FPGA": "1"}', {"resources:FPGA": "1"}), ("/groups=[]", [])])
def test_a_value_to_test_is_a_text_unless_it_looks_like_json(text, value):
    assert profile_edits.test(text)["value"] == value


@pytest.mark.parametrize(("parse", "text"), [
    (profile_edits.group, "resources:FPGA"), (profile_edits.group, "a=1,a=2"),
    (profile_edits.group, "=1"), (profile_edits.position, "-1"), (profile_edits.position, "a"),
    (profile_edits.group_key, "trait:CUSTOM_A"), (profile_edits.group_key, "0:"),
    (profile_edits.group_entry, "0:resources:FPGA"), (profile_edits.test, "name=a"),
    (profile_edits.test, "/name"), (profile_edits.test, "/groups=[1"),
    (attributes.key_and_value, "room"), (attributes.key_and_value, "=north"),
    (partitions.partition, "=2"), (partitions.partition, "1g.5gb=two"), (commands.positive, "0")])
def test_a_malformed_option_is_refused_with_its_text(parse, text):
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        parse(text)

    assert text.split(",")[0].split("=")[0] in str(refused.value)


@pytest.mark.parametrize(("given", "sent"), [
    ("uuid-3", '"uuid-3"'), ('"uuid-3"', '"uuid-3"'), ('W/"a"', 'W/"a"'), ("*", "*")])
def test_an_etag_may_be_given_without_its_quotation_marks(given, sent):
    assert profile_edits.quoted_tag(given) == sent


# --- requests ---------------------------------------------------------------------------------


def test_the_link_to_the_next_page_gives_parameters_and_not_an_address():
    links = [{"rel": "self", "href": "http://inside/v2/devices"},
             {"rel": "next", "href": "http://inside/v2/devices?type=FPGA&limit=2&marker=u"}]

    assert client.next_page(links) == [("type", "FPGA"), ("limit", "2"), ("marker", "u")]
    assert client.next_page([]) is None
    assert client.next_page(None) is None


@pytest.mark.parametrize(("body", "line"), [
    ({"errors": [{"detail": "not\n here"}], "error_message": {"faultstring": "x"}}, "not here"),
    ({"error_message": {"faultstring": "as Cyborg says it"}}, "as Cyborg says it"),
    ({"error_message": "a text"}, "a text"),
    ({"error": {"message": "as Keystone says it"}}, "as Keystone says it"),
    ({}, "Not Found"), ([], "Not Found"), (ValueError(), "Not Found")])
def test_a_refusal_is_told_in_one_line(body, line):
    def answer_json() -> object:
        if isinstance(body, ValueError):
            raise body
        return body

    assert client.refusal(types.SimpleNamespace(json=answer_json, reason="Not Found")) == line


def test_a_thing_that_refuses_does_not_keep_others_from_being_tried():
    tried = []

    def refuse_b(thing: str) -> None:
        tried.append(thing)
        if thing == "b":
            raise client.Refused(409, "b is in use")

    with pytest.raises(exceptions.CommandError) as refused:
        commands.each(["a", "b", "c"], refuse_b)

    assert tried == ["a", "b", "c"]
    assert str(refused.value) == "1 of 3 failed: b is in use (HTTP 409)"


def test_a_service_that_is_restarted_is_waited_for_and_a_refusal_is_not():
    answers = [client.Refused(503, "No conductor."), client.Refused(502, "Bad Gateway"), "there"]
    refusals = [client.Refused(404, "Gone.")]

    def look(source: list[object]) -> object:
        answer = source.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert commands.wait(lambda: look(answers), 30, "Not there") == "there"
    with pytest.raises(client.Refused, match="Gone"):
        commands.wait(lambda: look(refusals), 30, "Not there")
    with pytest.raises(client.Refused, match="No conductor"):
        commands.wait(lambda: look([client.Refused(503, "No conductor.")]), -1, "Not there")


@pytest.mark.parametrize(("text", "is_id"), [
    ("11111111-1111-4111-8111-111111111111", True), ("11111111111141118111111111111111", True),
    ("my-server", False), ("11111111", False), ("", False)])
def test_a_name_is_told_from_an_id(text, is_id):
    assert client.looks_like_id(text) is is_id


def test_the_number_of_a_deployable_below_another_is_not_guessed():
    below = types.SimpleNamespace(deployable=lambda name: {"parent_id": 3, "root_id": 1})
    root = types.SimpleNamespace(deployable=lambda name: {"parent_id": None, "root_id": 7})

    assert attributes.number_of(root, "node7_FPGA") == "7"
    assert attributes.number_of(below, "12") == "12"
    with pytest.raises(exceptions.CommandError, match="below another"):
        attributes.number_of(below, "node7_FPGA")


# --- tables -----------------------------------------------------------------------------------


def test_columns_are_those_of_the_level_and_of_the_microversion():
    some = (columns.Column("uuid"), columns.Column("status", since=3),
            columns.Column("model", columns.LONG), columns.Column("parts", columns.ALONE))
    entry = {"uuid": "u", "status": "enabled", "model": None, "parts": []}

    assert columns.table(some, columns.SHORT, 2, [entry]) == (("uuid",), [("u",)])
    assert columns.table(some, columns.LONG, 3, [entry]) == (
        ("uuid", "status", "model"), [("u", "enabled", None)])
    assert columns.one(some, 7, entry)[0] == ("uuid", "status", "model", "parts")


def test_what_is_no_text_is_written_for_reading_in_tables_and_untouched_elsewhere():
    usage = {"in_use": True, "groups": [{
        "arqs": {"Bound": 2, "Initial": 1}, "providers": None, "hosts": None, "total": 4,
        "reserved": 1, "used": 2, "free": 1}]}
    part = {"uuid": "u", "name": "n", "resource_class": "FPGA", "traits": ["CUSTOM_A", "CUSTOM_B"],
            "rp_uuid": "u", "attach_handles": {"total": 4, "free": 3, "in_use": 1, "failed": 0}}

    assert columns.Usage(usage).machine_readable() is usage
    assert columns.Usage(usage).human_readable() == (
        "in use\n0: total 4, free 1, used 2, reserved 1; ARQs: Bound=2, Initial=1")
    assert columns.Deployables([part]).human_readable() == (
        "u n: FPGA CUSTOM_A,CUSTOM_B; 4 handles: 3 free, 1 in_use")
    assert columns.Groups([{"b": "2", "a": "1"}, {"c": "3"}]).human_readable() == (
        "0: a=1, b=2\n1: c=3")
    assert columns.Pairs({"bus": "0c", "device": "01"}).human_readable() == "bus=0c, device=01"


def test_a_bind_names_the_project_only_when_one_is_given():
    paths = [operation["path"] for operation in arqs.bind_patch("node7", "i", "r")]

    assert paths == ["/hostname", "/instance_uuid", "/device_rp_uuid"]
    assert arqs.bind_patch("node7", "i", "r", "p")[-1] == {
        "op": "add", "path": "/project_id", "value": "p"}


# --- partitions -------------------------------------------------------------------------------


def place(start: int, size: int) -> dict[str, int]:
    return {"start": start, "size": size}


def a_group(profile: str, *places: dict[str, int], kind: str | None = None) -> dict[str, object]:
    return {"profile": profile, "count": len(places), "vgpu_type": kind,
            "placements": list(places)}


def test_partitions_are_drawn_where_they_lie_and_what_is_free_is_dashed():
    groups = [a_group("3g.20gb", place(4, 4), kind="A100-3-20C"),
              a_group("1g.5gb", place(0, 1), place(1, 1))]

    drawn = partition_pictures.picture(partition_pictures.boxes_of(groups), 8)

    assert drawn.splitlines() == [
        " 0        1        2        3        4        5        6        7",
        "┌────────┬────────┬╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌┬───────────────────────────────────┐",
        "│ 1g.5gb │ 1g.5gb │                 │ 3g.20gb                           │",
        "│        │        │                 │ A100-3-20C                        │",
        "└────────┴────────┴╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌┴───────────────────────────────────┘"]


@pytest.mark.parametrize(("boxes", "units"), [
    ([], 4), ([(0, 8, "7g.40gb")], 8), ([(0, 3, "1g.24gb"), (6, 6, "2g.48gb")], 12),
    ([(start, 1, "1g.5gb") for start in range(7)], 8), ([(11, 1, "a-rather-long-name")], 12)])
def test_every_line_of_a_picture_is_as_long_and_each_box_has_its_name(boxes, units):
    drawn = partition_pictures.picture(
        [partition_pictures.Box(start, size, (name,)) for start, size, name in boxes], units)

    ruler, *lines = drawn.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert ruler.split() == [str(unit) for unit in range(units)]
    for _, _, name in boxes:
        assert drawn.count(name) == sum(each[2] == name for each in boxes)
    # each box begins right under the number of its first unit
    for start, _, _ in boxes:
        assert lines[0][ruler.index(f" {start}")] in "┌┬"


def test_steps_turn_what_is_into_what_will_be():
    boxes = partition_pictures.boxes_of([a_group("1g.5gb", place(0, 1), place(6, 1))])

    after = partition_pictures.boxes_after(boxes, {
        "layout": {"partitions": [{"profile": "2g.10gb", "count": 1, "vgpu_type": "A100-2-10C"}]},
        "steps": [{"action": "destroy", "profile": "1g.5gb", "placement": place(0, 1)},
                  {"action": "create", "profile": "2g.10gb", "placement": place(0, 2)}]})

    assert [(box.start, box.size, box.lines) for box in after] == [
        (0, 2, ("2g.10gb", "A100-2-10C", "new")), (6, 1, ("1g.5gb",))]


def test_of_several_types_in_one_profile_none_is_guessed():
    after = partition_pictures.boxes_after([], {
        "layout": {"partitions": [{"profile": "1g.24gb", "count": 1, "vgpu_type": kind}
                                  for kind in ("DC-1-8Q", "DC-1-24Q")]},
        "steps": [{"action": "create", "profile": "1g.24gb", "placement": place(start, 3)}
                  for start in (0, 3)]})

    assert [box.lines for box in after] == [("1g.24gb", "new")] * 2


def test_a_device_that_shares_its_memory_by_time_has_lines_and_no_picture():
    groups = [{"profile": "A100-4C", "count": 10, "vgpu_type": "A100-4C", "placements": []}]

    assert partition_pictures.Places(groups, 0).human_readable() == "10 x A100-4C"
    assert partition_pictures.Places(groups, 0).machine_readable() is groups
    assert partition_pictures.Places([], 0).human_readable() == "none"
    assert partition_pictures.Places([], 2).human_readable().count("╌")


def test_layouts_steps_and_profiles_are_written_on_a_line_each():
    assert partition_pictures.layout([
        {"profile": "3g.20gb", "count": 1, "vgpu_type": None},
        {"profile": "1g.5gb", "count": 2, "vgpu_type": "A100-1-5C"}]) == (
            "3g.20gb + 2 x 1g.5gb (A100-1-5C)")
    assert partition_pictures.layout([]) == "none"
    assert partition_pictures.Steps([
        {"action": "destroy", "profile": "1g.5gb", "placement": place(6, 1)},
        {"action": "create", "profile": "2g.10gb", "placement": place(0, 2)},
        {"action": "create", "profile": "A100-40C", "placement": None},
        *[{"action": "create", "profile": "A100-4C", "placement": None}] * 3]).human_readable() == (
            "destroy 1g.5gb in 6\ncreate 2g.10gb in 0-1\ncreate A100-40C\n"
            "create 3 x A100-4C")
    assert partition_pictures.Profiles([{
        "name": "3g.20gb", "id": 9, "slices": 3, "memory_mib": 20096, "max_instances": 2,
        "placements": [place(0, 4), place(4, 4)], "vgpu_types": ["A100-3-20C"]}]
    ).human_readable() == "3g.20gb: 20096 MiB, at most 2, 4 units from 0, 4; A100-3-20C"
    assert partition_pictures.Profiles([{
        "name": "A100-4C", "id": 468, "slices": 0, "memory_mib": 4096, "max_instances": 10,
        "placements": [], "vgpu_types": ["A100-4C"]}]
    ).human_readable() == "A100-4C: 4096 MiB, at most 10"
    assert partition_pictures.Profiles([]).human_readable() == "none"
    assert partition_pictures.Choice([]).human_readable() == "none"


@pytest.mark.parametrize(("text", "said"), [
    ("3g.20gb", {"profile": "3g.20gb", "count": 1}),
    ("1g.5gb+me=2", {"profile": "1g.5gb+me", "count": 2}),
    ("1g.5gb=2,A100-1-5C", {"profile": "1g.5gb", "count": 2, "vgpu_type": "A100-1-5C"}),
    ("1g.5gb,A100-1-5C", {"profile": "1g.5gb", "count": 1, "vgpu_type": "A100-1-5C"})])
def test_a_partition_is_a_profile_a_count_and_a_type(text, said):
    assert partitions.partition(text) == said
