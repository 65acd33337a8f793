# SPDX-License-Identifier: Apache-2.0
"""What hosts, operators and proxies may do to the page: markup, long words, answers that are none.

The service asks nobody who he is; each test has hosts of its own in it. Placement is the one that
there is: a process has no more.
"""

from __future__ import annotations

import dataclasses
import urllib.request
from typing import Any

import pytest

from cyborg_lite import messages
from tests.console import browser as browsers
from tests.console import conftest
from tests.console import proxies
from tests.console import scene as scenes
from tests.fixtures import builders

MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
LONG = "w" * 255
HOST = "h" + "o" * 61 + "st"
OUR_DEVICES = f"devices?hostname={HOST}"

TOO_WIDE = """
return [...document.querySelectorAll('main *')].filter((node) =>
  node.getBoundingClientRect().right > innerWidth && !node.closest('.out-of-sight, thead'))
  .map((node) => node.outerHTML.slice(0, 80));
"""


def test_what_hosts_and_operators_write_stays_text_and_fits_a_narrow_screen(
        browser: browsers.Browser, scene: scenes.Scene) -> None:
    bad = builders.a_device("Fake0", model=MARKUP, deployables=[
        builders.a_deployable("Fake0", resource_class="CUSTOM_" + "R" * 200,
                              traits=["CUSTOM_" + "T" * 200])])
    long = builders.a_device("Fake1", model=LONG)
    scene.placement.make_compute_node(HOST)
    ask = scene.cloud.client
    ask.report(builders.a_report(
        [dataclasses.replace(bad, vendor="constructor"), long], host=HOST))
    ask.create_device_profile(messages.DeviceProfile(
        uuid=builders.new_uuid(), name="p" * 255, groups=[{"resources:FPGA": "1"}]))
    ask.create_arqs("p" * 255, "x")
    devices = ask.list_devices(messages.DeviceQuery(hostname=HOST))
    for one in devices:
        ask.set_device_status(one.uuid, "maintaining", f"{MARKUP}{LONG}"[:255])

    told = {path: browser.look(f"{scene.url}/console/#/{path}") for path in (
        "hosts", OUR_DEVICES, "arqs", *(f"devices/{one.uuid}" for one in devices))}

    assert MARKUP in told[OUR_DEVICES]
    assert "function" not in told[OUR_DEVICES]
    for path in told:
        browser.look(f"{scene.url}/console/#/{path}")
        assert browser.all("main img, main script") == []
        assert "owned" not in browser.driver.title or MARKUP in browser.driver.title
        with browser.narrow(320):
            assert browser.script(TOO_WIDE) == [], path


def test_a_page_that_is_asked_for_twice_comes_once(
        browser: browsers.Browser, scene: scenes.Scene, proxy: tuple[proxies.Proxy, str]) -> None:
    scene.start(scene.store)
    between, url = proxy
    browser.look(f"{url}#/devices?hostname={scene.store.name}")
    between.may_answer.clear()

    browser.script("const more = document.querySelector('.foot button');"
                   "more.click(); more.click();")
    between.may_answer.set()

    browser.sees("60 devices", ".count")
    assert sum("marker=" in asked for asked in between.asked) == 1
    assert len(browser.all("tbody tr")) == 60


@pytest.mark.parametrize("status", ["502 Bad Gateway", "504 Gateway Timeout"])
def test_a_proxy_whose_service_is_away_is_waited_for_while_a_layout_is_applied(
        browser: browsers.Browser, scene: scenes.Scene, proxy: tuple[proxies.Proxy, str],
        status: str) -> None:
    scene.start(scene.node2)
    between, url = proxy
    uuid = scene.device(scenes.H100)
    scene.node2.may_split.clear()
    try:
        scene.cloud.client.set_partitioning(uuid, "19x7", None, False)
        with browser.in_a_hurry():
            browser.look(f"{url}#/devices/{uuid}")
        browser.sees("0 of 7 partitions are there")

        between.answer = status, b"<h1>oh</h1>"
        browser.sees("This page goes on asking.", ".partitions")
        between.answer = None
        scene.node2.may_split.set()

        browser.hears("Applied: 7\xa0\xd7\xa01g.10gb")
        assert browser.all(".partitions [role=alert]") == []
    finally:
        scene.node2.may_split.set()


def test_what_does_not_change_while_a_layout_is_applied_is_not_drawn_again(
        browser: browsers.Browser, scene: scenes.Scene, proxy: tuple[proxies.Proxy, str]) -> None:
    scene.start(scene.node2)
    between, url = proxy
    uuid = scene.device(scenes.H100)
    scene.node2.may_split.clear()
    try:
        scene.cloud.client.set_partitioning(uuid, "19x7", None, False)
        with browser.in_a_hurry():
            browser.look(f"{url}#/devices/{uuid}")
        browser.sees("0 of 7 partitions are there")
        # one answer from here on: what is waited for may change meanwhile
        address = f"{url.removesuffix('/console/')}/v2/devices/{uuid}/partitioning"
        with urllib.request.urlopen(urllib.request.Request(address, headers={
                "OpenStack-API-Version": "accelerator 2.10"}), timeout=30) as reply:
            between.answer = "200 OK", reply.read()
        between.await_questions(browser, 3)
        browser.script("window.was = document.querySelector('.now .state');")

        between.await_questions(browser, 3)

        assert browser.script("return document.contains(window.was)")
    finally:
        scene.node2.may_split.set()
    between.answer = None
    browser.hears("Applied: 7\xa0\xd7\xa01g.10gb")


def test_the_keyboard_stays_where_it_is_when_a_layout_has_been_applied(
        browser: browsers.Browser, scene: scenes.Scene) -> None:
    scene.start(scene.node2)
    uuid = scene.device(scenes.H100)
    scene.node2.may_split.clear()
    try:
        scene.cloud.client.set_partitioning(uuid, "19x7", None, False)
        with browser.in_a_hurry():
            browser.look(f"{scene.url}/console/#/devices/{uuid}")
        browser.tab_to(".layout input")
        browser.press(browsers.Keys.ARROW_DOWN)
        chosen = browser.focused().get_attribute("value")

        scene.node2.may_split.set()
        browser.hears("Applied: 7\xa0\xd7\xa01g.10gb")

        assert browser.focused().get_attribute("value") == chosen
    finally:
        scene.node2.may_split.set()


@pytest.mark.parametrize("body", [b"<h1>Please sign in to the network</h1>", b'{"services": [{"id'])
def test_an_answer_that_is_none_is_said_to_be_none(
        browser: browsers.Browser, proxy: tuple[proxies.Proxy, str], body: bytes) -> None:
    between, url = proxy
    between.answer = "200 OK", body

    browser.look(f"{url}#/hosts")

    browser.sees("The service can't be reached", "[role=alert]")


def test_a_service_that_never_answers_is_not_waited_for_without_end(
        browser: browsers.Browser, proxy: tuple[proxies.Proxy, str]) -> None:
    between, url = proxy
    between.may_answer.clear()
    with browser.before_each_page("const real = AbortSignal.timeout.bind(AbortSignal);"
                                  "AbortSignal.timeout = (ms) => real(ms / 1000);"):
        browser.look(f"{url}#/hosts")

        browser.sees("The service can't be reached", "[role=alert]")


def test_an_older_service_behind_the_page_is_said_to_be_the_reason(
        browser: browsers.Browser, proxy: tuple[proxies.Proxy, str]) -> None:
    between, url = proxy
    between.answer = "406 Not Acceptable", b'{"error_message": {"faultstring": "2.0 to 2.7"}}'

    browser.look(f"{url}#/hosts")

    browser.sees("The service speaks another version than this page 2.0 to 2.7", "[role=alert]")


@pytest.mark.parametrize(("start", "size"), [(0, 10**9), (10**9, 1), (-4, 2), (0, 200)])
def test_a_host_that_reports_places_no_card_has_stops_nobody_s_browser(
        browser: browsers.Browser, world: conftest.World, start: int, size: int) -> None:
    if not browser.driver.current_url.startswith(world.url):
        browser.look(world.url)
    places = [{"start": start + index, "size": size} for index in range(40)]
    profiles = [{"name": f"{number}g", "placements": places} for number in range(8)]

    found = browser.in_page(
        "const pictures = await import('./pictures.js');"
        "const places = await import('./places.js');"
        "const [profiles, wished, current] = given;"
        "const blocks = places.existing(current);"
        "const drawn = pictures.layout(profiles, wished, () => 'tone-0');"
        "return [blocks, drawn.querySelectorAll('rect').length];",
        profiles, [{"profile": f"{number}g", "count": 7} for number in range(8)],
        [{"profile": "0g", "count": 1, "placements": [{"start": start, "size": size}]}])

    assert found[0] is None or size == 200
    assert found[1] == 56


@pytest.mark.parametrize(("wished", "current", "missing"), [
    ([("1g", 4, None)], [("1g", 4, "DC-1-8Q")], 0),
    ([("1g", 4, None)], [("1g", 1, "DC-1-8Q"), ("1g", 2, "DC-1-24Q")], 1),
    ([("1g", 2, None), ("1g", 2, "A")], [("1g", 2, "A"), ("1g", 2, "B")], 0),
    ([("1g", 2, "A")], [("1g", 2, "B")], 2),
    ([("1g", 1, None)], [("2g", 1, None)], 1), ([], [("1g", 1, None)], 0)])
def test_a_wish_that_names_no_type_is_met_by_every_type(
        browser: browsers.Browser, world: conftest.World, wished: list[Any], current: list[Any],
        missing: int) -> None:
    if not browser.driver.current_url.startswith(world.url):
        browser.look(world.url)

    found = browser.in_page(
        "const { without } = await import('./places.js'); return without(...given);",
        *([{"profile": name, "count": count, "vgpu_type": kind} for name, count, kind in groups]
          for groups in (wished, current)))

    assert found == missing
