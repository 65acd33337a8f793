# SPDX-License-Identifier: Apache-2.0
"""What stays where it is: the keyboard, and the place in a long list, whatever is drawn anew."""

from __future__ import annotations

from tests.console import browser as browsers
from tests.console import conftest
from tests.console import proxies
from tests.console import scene as scenes

Keys = browsers.Keys
Proxied = tuple[proxies.Proxy, str]


def test_looking_again_leaves_the_keyboard_where_it_is_and_says_what_there_is(
        visit: conftest.Visit) -> None:
    browser = visit("devices?hostname=node1")
    browser.tab_to(".head button")
    browser.script("window.was = document.querySelector('h1')")

    browser.press(Keys.ENTER)

    browser.until(lambda: browser.script("return !document.contains(window.was)"), "a new view")
    browser.hears("3 devices")
    assert browser.has_keyboard(".head button")


def test_looking_again_keeps_the_layout_that_is_chosen(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit(f"devices/{world.scene.device(scenes.H100)}")
    browser.script("document.querySelector('[data-layout=\"5-9\"] input').click();"
                   "window.was = document.querySelector('h1');"
                   "document.querySelector('.head button').click()")

    browser.until(lambda: browser.script("return !document.contains(window.was)"), "a new view")

    assert browser.text(".chosen") == "Chosen: 4g.40gb + 3g.40gb"
    assert browser.attribute(".layout:has(:checked)", "data-layout") == "5-9"


def test_a_filter_leaves_the_keyboard_where_it_is_and_says_what_it_found(
        visit: conftest.Visit) -> None:
    browser = visit("hosts")
    browser.tab_to("input[name=host]")

    browser.press("node2", Keys.ENTER)
    browser.hears("1 host, 1 conductor")
    assert browser.has_keyboard("input[name=host]")
    browser.tab_to(".filters a")
    browser.press(Keys.ENTER)

    browser.hears("3 hosts, 1 conductor")
    assert browser.has_keyboard(".filters button")


def test_a_view_that_is_loaded_takes_the_keyboard_from_nobody(
        browser: browsers.Browser, proxy: Proxied) -> None:
    between, url = proxy
    browser.look(f"{url}#/hosts")
    between.may_answer.clear()
    browser.tab_to("nav a[href='#/arqs']")

    browser.press(Keys.ENTER)

    browser.one("main[aria-busy]")
    assert browser.has_keyboard("nav a[href='#/arqs'][aria-current=page]")
    browser.hears("Loading")
    between.may_answer.set()
    browser.sees("Accelerator requests", "h1")
    assert browser.has_keyboard("h1")


def test_who_waits_for_the_first_view_sees_that_it_is_loaded(
        browser: browsers.Browser, proxy: Proxied) -> None:
    between, url = proxy
    between.may_answer.clear()
    browser.driver.get(f"{url}#/devices")

    browser.sees("Loading", "main")

    between.may_answer.set()
    browser.sees("Devices", "h1")


def test_who_comes_back_to_a_list_finds_its_pages_the_scroll_and_the_link(
        browser: browsers.Browser, scene: scenes.Scene, proxy: Proxied) -> None:
    scene.start(scene.store)
    between, url = proxy
    browser.look(f"{url}#/devices?hostname={scene.store.name}")
    browser.one(".foot button").click()
    browser.sees("60 devices", ".count")
    at = browser.script(
        "const link = document.querySelectorAll('tbody a')[54];"
        "link.scrollIntoView(); link.focus(); return [scrollY, link.hash]")
    browser.press(Keys.ENTER)
    browser.sees("a disk", "h1")
    asked = len(between.asked)

    browser.driver.back()

    browser.sees(f"Devices of {scene.store.name}", "h1")
    assert browser.text(".count") == "60 devices"
    assert browser.script("return [scrollY, document.activeElement.hash]") == at
    assert len(between.asked) == asked + 1


def test_a_link_keeps_the_keyboard_when_a_layout_has_been_applied(
        browser: browsers.Browser, scene: scenes.Scene) -> None:
    scene.start(scene.node1)
    scene.node1.may_split.clear()
    try:
        uuid = scene.device(scenes.A100)
        scene.cloud.client.set_partitioning(uuid, "14x3-19", None, False)
        with browser.in_a_hurry():
            browser.look(f"{scene.url}/console/#/devices/{uuid}")
        browser.sees("2 of 4 partitions are there")
        link = browser.tab_to("td a", at_most=20)
        assert link.accessible_name.endswith("1g.5gb")

        scene.node1.may_split.set()
        browser.until(lambda: "3G_20GB" not in browser.text(), "the new deployables")

        assert browser.focused().accessible_name.endswith("1g.5gb")
    finally:
        scene.node1.may_split.set()


def test_what_has_the_keyboard_is_never_below_the_chosen_layout(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit(f"devices/{world.scene.device(scenes.H100)}")
    with browser.narrow(390):
        browser.tab_to(".layout input")
        for _ in range(8):
            browser.press(Keys.ARROW_DOWN)

            assert browser.script("""
                const card = document.activeElement.closest('.layout').getBoundingClientRect();
                const choice = document.querySelector('.choice').getBoundingClientRect();
                return card.bottom <= choice.top && card.top >= 0""")


def test_no_view_asks_once_for_each_entry(
        browser: browsers.Browser, scene: scenes.Scene, proxy: Proxied) -> None:
    for host in (scene.node1, scene.node2, scene.store):
        scene.start(host)
    between, url = proxy

    for path, questions in (("hosts", 2), ("devices", 1), ("arqs", 1),
                            (f"devices/{scene.device(scenes.HELD)}", 2)):
        between.asked.clear()
        browser.look(f"{url}#/{path}")
        assert len(between.asked) == questions, between.asked
