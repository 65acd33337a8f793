# SPDX-License-Identifier: Apache-2.0
"""Layouts as pictures, and setting one: what the page shows is what service and host really do."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import pytest

from cyborg_lite import layouts
from tests.console import browser as browsers
from tests.console import conftest
from tests.console import scene
from tests.nvml import stand_in

Keys = browsers.Keys


def cards(browser: browsers.Browser) -> dict[str, str]:
    """The layouts on offer: id, and the name that a screen reader says."""
    return {str(key): str(name) for key, name in browser.script(
        "return [...document.querySelectorAll('.layout')].map((label) => ["
        " label.dataset.layout, label.querySelector('.name').textContent + '; '"
        " + label.querySelector('svg').getAttribute('aria-label')])")}


def choose(browser: browsers.Browser, layout: str) -> None:
    """Choose a layout with the keyboard: one Tab to the group, arrows within it."""
    browser.tab_to(".layout input")
    steps = list(cards(browser)).index(layout)
    # an arrow chooses what it leads to
    browser.press(*[Keys.ARROW_DOWN] * steps or [Keys.SPACE])
    assert browser.script("return [document.activeElement.value, document.activeElement.checked]"
                          ) == [layout, True]


def is_seen(browser: browsers.Browser) -> bool:
    """Whether what has the keyboard is in sight, and nothing lies over it."""
    return bool(browser.script("""
        const one = document.activeElement.closest('label') ?? document.activeElement;
        const box = one.getBoundingClientRect();
        const top = document.elementFromPoint(box.left + 4, box.top + box.height / 2);
        return box.top >= 0 && box.bottom <= innerHeight && one.contains(top);"""))


def state(browser: browsers.Browser) -> str:
    return browser.attribute(".state", "data-state")


def pictured(browser: browsers.Browser, title: str) -> str:
    """What the picture of that title says."""
    return browser.attribute(f"svg[aria-label^='{title}:']", "aria-label")


@pytest.fixture
def node1(world: conftest.World) -> Iterator[Any]:
    """The host, put back to how it was: it splits at once, and its card as at the beginning."""
    yield world.scene.node1
    world.scene.node1.fault = None
    world.scene.node1.may_split.set()


# --- looking ----------------------------------------------------------------------------------


def test_a_card_is_pictured_as_it_is_split(visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit(f"devices/{world.scene.device(scene.HELD)}")

    assert state(browser) == "applied"
    assert pictured(browser, "Now") == (
        "Now: 1g.5gb at unit 0, 1g.5gb at unit 1, 1g.5gb at unit 2, 1g.5gb at unit 3, 1g.5gb at "
        "unit 4, 1g.5gb at unit 5, 1g.5gb at unit 6, nothing at unit 7.")
    boxes = browser.script(
        "return [...document.querySelectorAll('figure .block rect')].map((rect) => ["
        "rect.x.baseVal.value, rect.width.baseVal.value].map(Math.round))")
    assert [left for left, _ in boxes] == [2, 82, 162, 242, 322, 402, 482]
    assert {width for _, width in boxes} == {77}


def test_every_layout_is_offered_once_with_a_picture_and_its_words(
        visit: conftest.Visit, world: conftest.World) -> None:
    uuid = world.scene.device(scene.H100)
    full = world.scene.cloud.client.show_partitioning(uuid, False).layouts
    every = world.scene.cloud.client.show_partitioning(uuid, True).layouts
    browser = visit(f"devices/{uuid}")

    assert list(cards(browser)) == [one.id for one in full]
    browser.tab_to("input[name=every]")
    browser.press(Keys.SPACE)
    browser.hears(f"{len(every)} layouts")

    found = cards(browser)
    assert list(found) == [one.id for one in every]
    assert found["9-14-19x2"] == (
        "3g.40gb + 2g.20gb + 2\xa0\xd7\xa01g.10gb; One way to lay it out: 2g.20gb at units 0 to 1, "
        "1g.10gb at unit 2, 1g.10gb at unit 3, 3g.40gb at units 4 to 7.")
    assert found["empty"].startswith("no partitions;")
    assert len(set(found.values())) == len(every)


def test_layouts_are_narrowed_by_what_they_are_made_of(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit(f"devices/{world.scene.device(scene.H100)}")
    plain = stand_in.mig_cards()["A100-40GB"]["layouts"]["maximal"]

    for name in ("1g.10gb+me", "1g.20gb"):
        browser.tab_to(f"input[value='{name}']")
        browser.press(Keys.SPACE)
    browser.hears(f"{len(plain)} layouts")
    assert len(cards(browser)) == len(plain)
    browser.tab_to("select[name=profile]")
    browser.press("4g")

    browser.hears("3 layouts")
    assert set(cards(browser)) == {"5-9", "5-14-19", "5-19x3"}


def test_pictures_put_partitions_where_every_published_card_has_room_for_them(
        visit: conftest.Visit) -> None:
    browser = visit("hosts")
    for model, facts in stand_in.mig_cards().items():
        profiles = [layouts.Profile(
            one["id"], one["name"], one["slices"], one["memory_mib"], one["max"],
            tuple(layouts.Placement(start, one["size"]) for start in one["starts"]))
            for one in facts["profiles"]]
        every = [[{"profile": count.profile, "count": count.count} for count in one.counts]
                 for one in layouts.all_layouts(profiles)]
        shown = [{"name": one.name, "placements": [
            {"start": place.start, "size": place.size} for place in one.placements]}
            for one in profiles]

        found = browser.in_page(
            "const { place } = await import('./places.js');"
            "return given[1].map((partitions) => place(given[0], partitions));", shown, every)

        allowed = {(one.name, place.start, place.size)
                   for one in profiles for place in one.placements}
        for wanted, placed in zip(every, found, strict=True):
            assert placed is not None, (model, wanted)
            assert collections.Counter(one["profile"] for one in placed) == {
                one["profile"]: one["count"] for one in wanted}, model
            assert {(one["profile"], one["start"], one["size"]) for one in placed} <= allowed
            units = [unit for one in placed
                     for unit in range(one["start"], one["start"] + one["size"])]
            assert len(units) == len(set(units)), (model, placed)


def test_time_sliced_vgpus_are_pictured_side_by_side(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit(f"devices/{world.scene.device(scene.T4)}")

    assert pictured(browser, "Now") == "Now: 4\xa0\xd7\xa0T4-4Q."
    assert cards(browser)["T4-2Qx8"] == (
        "8\xa0\xd7\xa0T4-2Q; Side by side: 8\xa0\xd7\xa0T4-2Q.")
    browser.picture("vgpu")


def test_a_device_without_partitions_says_so(visit: conftest.Visit, world: conftest.World) -> None:
    disk = next(one.uuid for one in world.scene.cloud.client.list_devices(
        scene.messages.DeviceQuery(hostname="store-3")))
    browser = visit(f"devices/{disk}")

    browser.sees("This device has no partitions.", ".partitions")
    assert browser.all(".chooser") == []


# --- setting ----------------------------------------------------------------------------------


def test_a_layout_is_looked_at_set_and_watched_with_the_keyboard_alone(
        visit: conftest.Visit, browser: browsers.Browser, world: conftest.World,
        node1: Any) -> None:
    uuid = world.scene.device(scene.A100)
    node1.may_split.clear()
    with browser.in_a_hurry():
        visit(f"devices/{uuid}")
    assert pictured(browser, "Now") == (
        "Now: 2g.10gb at units 0 to 1, 1g.5gb at unit 2, 3g.20gb at units 4 to 7, nothing at "
        "unit 3.")

    choose(browser, "14x3-19")
    assert is_seen(browser)
    browser.tab_to(".actions button:not(.main)")
    assert is_seen(browser)
    browser.press(Keys.ENTER)
    browser.sees("What it would do", ".plan h3")
    assert browser.script("return document.activeElement.textContent") == "What it would do"
    steps = [item.text for item in browser.all(".steps li")]
    assert steps == ["Destroy 1g.5gb at unit 2", "Destroy 3g.20gb at units 4 to 7",
                     "Create 2g.10gb at units 2 to 3", "Create 2g.10gb at units 4 to 5",
                     "Create 1g.5gb at unit 6"]
    assert pictured(browser, "Afterwards").count("2g.10gb") == 3
    assert world.scene.cloud.client.show_partitioning(uuid, False).desired == []
    browser.picture("what-it-would-do")

    browser.tab_to(".actions .main")
    browser.press(Keys.ENTER)
    browser.hears("The wish is stored and is being applied")
    browser.until(lambda: state(browser) == "applying", "applying")
    assert "2 of 4 partitions are there" in browser.text(".now")
    assert browser.attribute("progress", "value") == "2"
    assert pictured(browser, "Wished").count("2g.10gb") == 3
    browser.picture("applying")
    node1.may_split.set()

    browser.hears("Applied: 3\xa0\xd7\xa02g.10gb + 1g.5gb")
    assert state(browser) == "applied"
    assert pictured(browser, "Now") == (
        "Now: 2g.10gb at units 0 to 1, 2g.10gb at units 2 to 3, 2g.10gb at units 4 to 5, 1g.5gb "
        "at unit 6, nothing at unit 7.")
    assert "as it is now" in browser.text("[data-layout='14x3-19']")
    browser.until(lambda: "CUSTOM_MIG_3G_20GB" not in browser.text(), "the new deployables")
    browser.picture("applied")


def test_the_vgpu_type_of_a_partition_is_chosen_too(
        visit: conftest.Visit, browser: browsers.Browser, world: conftest.World) -> None:
    with browser.in_a_hurry():
        visit(f"devices/{world.scene.device(scene.RTX)}")
    layout = next(key for key, name in cards(browser).items()
                  if name.startswith("4\xa0\xd7\xa01g.24gb+gfx;"))

    choose(browser, layout)
    browser.tab_to(".types select")
    browser.press("DC-1-8Q")
    browser.picture("vgpu-types")
    browser.tab_to(".actions .main")
    browser.press(Keys.ENTER)

    browser.hears("Applied: 4\xa0\xd7\xa01g.24gb+gfx as DC-1-8Q")
    assert "1g.24gb+gfx as DC-1-8Q at units 0 to 2" in pictured(browser, "Now")
    assert "as it is now" in browser.text(f"[data-layout='{layout}']")


def test_what_the_host_could_not_do_is_shown_in_its_words(
        visit: conftest.Visit, browser: browsers.Browser, world: conftest.World,
        node1: Any) -> None:
    node1.fault = "GPU instance 3: insufficient resources"
    with browser.in_a_hurry():
        visit(f"devices/{world.scene.device(scene.A100)}")

    choose(browser, "0")
    browser.tab_to(".actions .main")
    browser.press(Keys.ENTER)

    browser.until(lambda: state(browser) == "failed", "failed")
    assert browser.text(".fault").startswith("GPU instance 3: insufficient resources")
    browser.hears("Failed. GPU instance 3: insufficient resources")
    assert "7g.40gb" in pictured(browser, "Wished")
    browser.picture("failed")


def test_a_card_in_use_is_not_split_and_the_service_says_why(
        visit: conftest.Visit, world: conftest.World) -> None:
    uuid = world.scene.device(scene.HELD)
    browser = visit(f"devices/{uuid}")

    choose(browser, "14x3-19")
    browser.tab_to(".actions .main")
    browser.press(Keys.ENTER)

    said = browser.sees("This is not possible at the moment", ".plan [role=alert]")
    assert f"Device {uuid} on host node1 can't be split anew: 4 of its attach handles" in said
    assert state(browser) == "applied"
    browser.picture("in-use")


def test_a_manager_reads_layouts_and_sets_none(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit(f"devices/{world.scene.device(scene.H100)}", "manager", "demo")

    choose(browser, "0")
    browser.tab_to(".actions button:not(.main)")
    browser.press(Keys.ENTER)

    browser.sees("Policy does not allow cyborg:device:set_partitioning to be performed with the "
                 "roles manager, member, reader.", ".plan [role=alert]")
    browser.picture("manager")


def test_nothing_is_sent_before_a_layout_is_chosen(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit(f"devices/{world.scene.device(scene.H100)}")

    browser.one(".actions .main").send_keys(Keys.ENTER)

    browser.sees("Choose a layout first.", ".plan [role=alert]")
    assert browser.script("return document.activeElement.type") == "radio"
