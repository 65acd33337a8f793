# SPDX-License-Identifier: Apache-2.0
"""Hosts, devices and accelerator requests as the page shows them, to each who may see them."""

from __future__ import annotations

import pytest

from tests.console import browser as browsers
from tests.console import conftest
from tests.console import scene

Keys = browsers.Keys


def rows(browser: browsers.Browser, table: str = "Devices") -> list[str]:
    return list(browser.script(
        "return [...document.querySelectorAll(`[aria-label='${arguments[0]}'] tbody tr`)]"
        ".map((row) => row.innerText.replace(/\\s+/g, ' '))", table))


def test_hosts_are_shown_with_their_state_and_lead_to_their_devices(visit: conftest.Visit) -> None:
    browser = visit("hosts")

    assert [line.split()[:3] for line in rows(browser, "Hosts")] == [
        ["node1", "up", "enabled"], ["node2", "up", "enabled"], ["store-3", "up", "enabled"]]
    assert "nvidia_gpu_driver" in rows(browser, "Hosts")[0]
    assert rows(browser, "Conductors")[0].split()[:2] == ["node1", "up"]
    browser.picture("hosts")
    browser.tab_to("tbody a")
    browser.press(Keys.ENTER)

    browser.sees("Devices of node1", "h1")
    assert len(rows(browser)) == 3
    assert browser.driver.title == "Devices \u2013 Accelerators"


def test_hosts_are_filtered_by_name_and_state(visit: conftest.Visit) -> None:
    browser = visit("hosts")

    browser.tab_to("input[name=host]")
    browser.press("node2", Keys.ENTER)

    browser.until(lambda: [line.split()[0] for line in rows(browser, "Hosts")] == ["node2"],
                  "one host")
    assert len(rows(browser, "Conductors")) == 1
    browser = visit("hosts?state=gone")
    browser.sees("There is no such host.")


def test_lists_come_in_the_order_that_people_look_in(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit("devices")
    hosts = [line.split()[1] for line in rows(browser)]
    assert hosts == sorted(hosts)

    browser = visit("arqs")

    newest = {arq.uuid for arq in world.scene.waiting}
    assert {line.split()[0] for line in rows(browser, "Accelerator requests")[:2]} == newest


def test_the_names_of_hosts_are_offered_to_whoever_filters_by_them(visit: conftest.Visit) -> None:
    browser = visit("devices")

    browser.tab_to("input[name=hostname]")

    browser.until(lambda: browser.script(
        "return [...document.activeElement.list.options].map((one) => one.value).join()")
        == "node1,node2,store-3", "the names")


def test_the_way_back_leads_through_the_views_and_never_past_the_sign_in(
        visit: conftest.Visit) -> None:
    browser = visit("hosts", revocable=True)
    browser.one("tbody a").click()
    browser.sees("Devices of node1", "h1")
    assert browser.script("return document.activeElement.tagName") == "H1"

    browser.driver.back()
    browser.sees("Hosts", "h1")
    assert browser.text(":focus") == "node1"
    browser.driver.forward()
    browser.sees("Devices of node1", "h1")

    browser.one(".who button").click()
    browser.sees("Sign in", "h1")
    browser.driver.back()
    browser.one("h1")
    assert browser.text("h1") == "Sign in"
    assert browser.all("tbody") == []


def test_a_list_grows_by_pages_and_the_keyboard_goes_on_where_it_was(
        visit: conftest.Visit) -> None:
    browser = visit("devices")
    assert len(rows(browser)) == 50
    assert browser.text(".count") == "50 devices, and there are more"
    browser.picture("devices")

    browser.tab_to(".foot button", at_most=80)
    browser.press(Keys.ENTER)

    browser.sees("66 devices", ".count")
    browser.hears("66 devices")
    assert len(set(rows(browser))) == 66
    assert browser.script("return [...document.querySelectorAll('tbody a')].indexOf("
                          "document.activeElement)") == 50


def test_devices_are_filtered_and_the_address_can_be_kept(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit("devices")

    browser.tab_to("input[name=hostname]")
    browser.press("node2", Keys.TAB, "G", Keys.TAB, Keys.ENTER)

    browser.sees("Devices of node2", "h1")
    line, *others = rows(browser)
    assert len(others) == 2
    assert line.startswith(f"{scene.H100} node2 up GPU NVIDIA (10de) NVIDIA H100-80GB enabled")
    assert browser.driver.current_url == f"{world.url}#/devices?hostname=node2&type=GPU"
    assert browser.one("select[name=type]").get_attribute("value") == "GPU"


def test_a_disabled_device_shows_its_reason(visit: conftest.Visit, world: conftest.World) -> None:
    uuid = world.scene.device(scene.H100)
    world.scene.cloud.client.set_device_status(uuid, "maintaining", "fan fails")
    try:
        browser = visit(f"devices/{uuid}")

        assert "maintaining fan fails" in browser.text(".facts")
        assert "Disabled since" in browser.text(".facts")
    finally:
        world.scene.cloud.client.set_device_status(uuid, "enabled")


def test_a_device_shows_its_handles_by_state_in_numbers_and_as_a_picture(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit(f"devices/{world.scene.device(scene.HELD)}")

    picture = browser.one(".handles-picture")
    assert picture.get_attribute("aria-label") == "Attach handles: 4 in use, 3 free."
    (line,) = rows(browser, "Deployables and attach handles")
    assert line.endswith("7 3 4")
    assert "CUSTOM_MIG_1G_5GB" in line


def test_a_device_leads_to_the_requests_that_hold_its_handles(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit(f"devices/{world.scene.device(scene.HELD)}")
    link = browser.tab_to("td a[href^='#/arqs']", at_most=120)
    assert browser.script("return arguments[0].textContent", link) == (
        f"Requests of node1_{scene.HELD} 1g.5gb")

    browser.press(Keys.ENTER)

    browser.sees("Accelerator requests", "h1")
    assert {line.split()[0] for line in rows(browser, "Accelerator requests")} == {
        arq.uuid for arq in (*world.scene.arqs, *world.scene.moving)}


def test_what_is_not_there_is_told_in_the_words_of_the_service(visit: conftest.Visit) -> None:
    browser = visit("devices/00000000-0000-0000-0000-000000000000")

    said = browser.sees("There is no such thing", "[role=alert]")
    assert "00000000-0000-0000-0000-000000000000" in said
    assert "Request req-" in said


@pytest.mark.parametrize("user", ["member", "reader"])
def test_who_may_see_requests_alone_is_led_to_them_and_to_nothing_else(
        visit: conftest.Visit, user: str) -> None:
    browser = visit("", user, "demo")

    browser.sees("Accelerator requests", "h1")
    assert browser.text("nav") == "Requests"
    assert browser.all("[role=alert]") == []
    assert len(rows(browser, "Accelerator requests")) == 4
    browser.tab_to("input[name=hostname]")
    browser.press("node2", Keys.ENTER)
    browser.hears("There is no such accelerator request.")


def test_a_manager_is_led_to_hosts_and_may_go_everywhere(visit: conftest.Visit) -> None:
    browser = visit("", "manager", "demo")

    browser.sees("Hosts", "h1")
    assert browser.text("nav") == "Hosts Devices Requests"


def test_a_member_sees_the_requests_of_the_project_and_nothing_else(
        visit: conftest.Visit, world: conftest.World) -> None:
    for path, rule in (("hosts", "service:get_all"), ("devices", "device:get_all"),
                       (f"devices/{world.scene.device(scene.A100)}", "device:get_one")):
        browser = visit(path, "member", "demo")
        assert (f"Policy does not allow cyborg:{rule} to be performed with the roles member, "
                "reader.") in browser.text("[role=alert]")
    browser.picture("refused")

    browser.one("main a[href='#/arqs']").click()

    browser.sees("Accelerator requests", "h1")
    found = {line.split()[0]: line for line in rows(browser, "Accelerator requests")}
    assert found.keys() == {arq.uuid for arq in (*world.scene.arqs, *world.scene.moving)}
    for arq in world.scene.arqs:
        assert f"Bound slice {world.scene.instance} node1 MDEV 0000:42:" in found[arq.uuid]
    for arq in world.scene.moving:
        assert f"for migration {world.scene.migration}" in found[arq.uuid]


def test_requests_are_filtered_by_instance_state_and_host(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit("arqs")
    assert len(rows(browser, "Accelerator requests")) == 6
    browser.picture("requests")

    browser.tab_to("select[name=state]")
    browser.press("I", Keys.ENTER)
    browser.tab_to("[role=search] button")
    browser.press(Keys.ENTER)

    browser.until(lambda: {line.split()[0] for line in rows(browser, "Accelerator requests")}
                  == {arq.uuid for arq in world.scene.waiting}, "those that wait")
    browser = visit(f"arqs?instance={world.scene.instance}&hostname=node1")
    assert len(rows(browser, "Accelerator requests")) == 4
    browser = visit("arqs?hostname=node2")
    browser.sees("There is no such accelerator request.")
    browser = visit("arqs?instance=nonsense")
    assert "nonsense" in browser.sees(
        "The service can't make sense of this", "[role=alert]")
    assert browser.one("input[name=instance]").get_attribute("value") == "nonsense"


def test_the_page_works_below_the_prefix_of_a_proxy(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit("devices", base=f"{world.scene.url}{scene.PREFIX}/console/")
    assert len(rows(browser)) == 50

    browser.one(".foot button").click()

    browser.sees("66 devices", ".count")
    asked = browser.script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert all(name.startswith(f"{world.scene.url}{scene.PREFIX}/") for name in asked)


def test_an_address_without_its_slash_is_completed(
        browser: browsers.Browser, world: conftest.World) -> None:
    browser.driver.get(f"{world.scene.url}{scene.PREFIX}/console")

    browser.one("h1")
    assert browser.driver.current_url.startswith(f"{world.scene.url}{scene.PREFIX}/console/")
