# SPDX-License-Identifier: Apache-2.0
"""`openstack accelerator device partition ...`, with a host that splits cards and a Placement."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from cyborg_lite import buses
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.api import app
from cyborg_lite.wsgi import server
from tests.fixtures import builders
from tests.fixtures import cloud as clouds
from tests.fixtures import command_line
from tests.fixtures import placement as placements
from tests.fixtures import split_cards

DEVICE = split_cards.uuid_of()
SPLIT = {"3g.20gb": 1, "1g.5gb": 2}
MISSING = "11111111-1111-4111-8111-111111111111"


class Reporting(split_cards.Agent):
    """An agent that reports what it has made, as a real one does."""

    client: rpc.ConductorClient

    @buses.exposed
    def apply_layouts(self, wishes: list[messages.LayoutWish]) -> list[messages.LayoutResult]:
        results = super().apply_layouts(wishes)
        self.client.report(self.report())
        return results


@pytest.fixture(scope="module")
def card() -> split_cards.Card:
    found = split_cards.Card()
    found.split(SPLIT)
    return found


@pytest.fixture(scope="module")
def openstack(tmp_path_factory: pytest.TempPathFactory, card: split_cards.Card,
              program: Callable[[str], command_line.OpenStack],
              ) -> Iterator[command_line.OpenStack]:
    """The client, for a service whose one host has an A100."""
    folder: pathlib.Path = tmp_path_factory.mktemp("split")
    with contextlib.ExitStack() as stack:
        placement = stack.enter_context(placements.serving(folder))
        placement.make_compute_node(builders.HOST)
        conf = clouds.configuration(
            folder, f"sqlite:///{folder}/test.sqlite", placement=placement.url,
            more=f"[placement]\nauth_type = admin_token\nendpoint = {placement.url}\n"
                 "token = admin\n")
        cloud = stack.enter_context(clouds.running(conf))
        agent = Reporting([card])
        agent.client = cloud.client
        stack.callback(cloud.bus.serve(rpc.AGENT_TOPIC, builders.HOST, agent))
        cloud.client.report(agent.report())
        listener = server.listen("127.0.0.1", 0)
        serving = server.Server(listener, app.make_app(conf, cloud.client), threads=4)
        serving.start()
        stack.callback(serving.stop)
        yield program(f"http://127.0.0.1:{listener.getsockname()[1]}/v2")


def test_a_device_is_shown_in_a_picture_and_as_data(openstack):
    table = openstack("device partition show", DEVICE)
    data = openstack("device partition show", DEVICE, "-f", "json").data

    assert (table.status, table.errors) == (0, "")
    drawn = [[name for name in line.replace("│", " ").replace("|", " ").split()
              if name != "current"] for line in table.out.splitlines() if "│" in line]
    assert drawn == [["1g.5gb", "1g.5gb", "3g.20gb"], ["A100-1-5C", "A100-1-5C", "A100-3-20C"]]
    assert (data["scheme"], data["state"], data["fault"]) == ("mig-vgpu", "applied", None)
    assert data["current"][0]["placements"] == [{"start": 4, "size": 4}]
    assert f"{len(data['layouts'])} that are maximal" in table.out


def test_there_are_pictures_in_tables_and_data_in_every_other_form(openstack):
    forms = ("csv", "yaml", "value", "json")
    listed = openstack.several(*(
        f"device partition list {DEVICE} -f {form} -c id -c partitions" for form in forms))
    shown = openstack.several(*(
        f"device partition show {DEVICE} -f {form} -c state -c current"
        for form in ("shell", "yaml", "value", "json")))

    assert (listed.errors, shown.errors) == ("", "")
    assert listed.out.count("9-14-19x2") == len(forms)
    assert shown.out.count("placements") == 2 * len(forms)
    assert "│" not in shown.out


def test_a_terminal_without_lines_or_with_few_columns_has_its_picture_too(openstack):
    plain = openstack("device partition show", DEVICE, PYTHONIOENCODING="ascii")
    narrow = openstack("device partition show", DEVICE, "--max-width", "60")
    planned = openstack("device partition plan", DEVICE, "--partition", "2g.10gb=2",
                        "--max-width", "60", PYTHONIOENCODING="ascii")

    for shown in (plain, narrow, planned):
        assert (shown.status, shown.errors) == (0, "")
    assert "| 1g.5gb    | 1g.5gb    |  " in plain.out
    assert all(len(line) <= 60 for line in narrow.out.splitlines())
    assert "│ a │ a │       │ b             │" in narrow.out
    assert "a: 1g.5gb A100-1-5C " in narrow.out
    assert "b: 3g.20gb A100-3-20C " in narrow.out
    assert "c: 2g.10gb A100-2-10C new" in planned.out
    planned.out.encode("ascii")


def test_two_pictures_of_few_columns_have_one_key(openstack):
    planned = openstack("device partition plan", DEVICE, "--partition", "3g.20gb", "--partition",
                        "2g.10gb=2", "--max-width", "60")

    before, after = planned.out.split("after")
    assert "│ a │ a │       │ b             │" in before
    assert "│ c     │ c     │ b             │" in after
    assert "a: 1g.5gb A100-1-5C" in before
    assert "b: 3g.20gb A100-3-20C" in before
    assert "b: 3g.20gb A100-3-20C" in after
    assert "c: 2g.10gb A100-2-10C new" in after


@pytest.mark.parametrize(("columns", "lines"), [
    (40, ["│a│a│   │ b     │", "a: 1g.5gb A100-1-5C", "b: 3g.20gb A100-3-20C"]),
    (30, ["0: 1g.5gb", "2-3: free", "4-7: 3g.20gb"])])
def test_very_few_columns_have_small_pictures_or_words(openstack, columns, lines):
    shown = openstack("device partition show", DEVICE, "--max-width", str(columns),
                      "-c", "current")

    assert [line for line in lines if line not in shown.out] == []
    assert all(len(line) <= columns for line in shown.out.splitlines())


def test_layouts_that_the_device_accepts_are_listed(openstack):
    listed = openstack.several(f"device partition list {DEVICE} -f json",
                               f"device partition list {DEVICE} --all -f json")

    maximal, every = listed.documents
    assert listed.errors == ""
    assert {layout["maximal"] for layout in maximal} == {True}
    assert {layout["id"] for layout in maximal} < {layout["id"] for layout in every}
    assert every[-1]["id"] == "empty"
    now, = (layout for layout in every if layout["is_now"])
    assert now["is_now"] == "current"
    assert {part["profile"]: part["count"] for part in now["partitions"]} == SPLIT


def test_a_plan_shows_what_goes_where_and_changes_nothing(openstack, card):
    before = list(card.partitions)

    drawn = openstack("device partition plan", DEVICE, "--partition", "3g.20gb",
                      "--partition", "2g.10gb=2")
    data = openstack("device partition plan", DEVICE, "--partition", "3g.20gb",
                     "--partition", "2g.10gb=2", "-f", "json").data

    assert drawn.status == 0
    assert "destroy 1g.5gb in 0" in drawn.out
    assert "create 2g.10gb in 0-1" in drawn.out
    assert drawn.out.count("│ new ") == 2
    assert data["kept"] == 1
    assert data["layout"]["partitions"][0]["profile"] == "3g.20gb"
    assert [(part["profile"], part["start"]) for part in data["after"]] == [
        ("2g.10gb", 0), ("2g.10gb", 2), ("3g.20gb", 4)]
    assert card.partitions == before


def test_a_device_is_split_and_waited_for(openstack, card):
    changed = openstack("device partition set", DEVICE, "--partition", "7g.40gb", "--wait",
                        "-f", "json").data
    again = openstack("device partition set", DEVICE, "--layout", "9-19x2", "--wait", "-f",
                      "json").data

    assert changed["state"] == "applied"
    assert [group["profile"] for group in changed["current"]] == ["7g.40gb"]
    assert {group["profile"]: group["count"] for group in again["current"]} == SPLIT
    assert [part.profile for part in card.partitions].count("1g.5gb") == 2


def test_without_waiting_the_plan_is_shown(openstack):
    started = openstack("device partition set", DEVICE, "--layout", "9-19x2", "-f", "json").data

    assert (started["kept"], started["steps"]) == (3, [])


def test_a_split_that_fails_is_told_in_one_line_with_its_fault(openstack, card):
    card.breaks = "The card is stuck."
    failed = openstack("device partition set", DEVICE, "--layout", "empty", "--wait")
    card.breaks = None
    mended = openstack("device partition set", DEVICE, "--layout", "9-19x2", "--wait", "-f",
                       "value", "-c", "state")

    assert failed.refusal.startswith(f"Device {DEVICE} could not be split: The card is stuck.")
    assert mended.out.strip() == "applied"


def test_what_the_card_does_not_accept_is_refused_in_one_line(openstack):
    refused = openstack.several(
        f"device partition plan {DEVICE} --partition 4g.20gb=2",
        f"device partition set {DEVICE} --layout 5-5",
        f"device partition show {MISSING}")
    malformed = openstack("device partition set", DEVICE, "--partition", "3g.20gb=many")

    impossible, unknown, missing = refused.errors.splitlines()
    assert "(HTTP 400)" in impossible
    assert "(HTTP 400)" in unknown
    assert missing == f"Device {MISSING} does not exist. (HTTP 404)"
    assert malformed.status == 2
    assert "'3g.20gb=many' is not <profile>[=<count>][,<vgpu-type>]" in malformed.errors
