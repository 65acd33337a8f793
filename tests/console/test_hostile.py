# SPDX-License-Identifier: Apache-2.0
"""What hosts, operators and proxies may do to the page: markup, long words, answers that are none.

Each test has a service of its own, which asks nobody who he is. Placement is the one that there is:
a process has no more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import threading
import urllib.request
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import pytest

from cyborg_lite import buses
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.api import app
from cyborg_lite.api import faults
from cyborg_lite.wsgi import server
from tests.console import browser as browsers
from tests.console import conftest
from tests.console import scene as scenes
from tests.fixtures import builders
from tests.fixtures import cloud as clouds

MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
LONG = "w" * 255
HOST = "h" + "o" * 61 + "st"

TOO_WIDE = """
return [...document.querySelectorAll('main *')].filter((node) =>
  node.getBoundingClientRect().right > innerWidth && !node.closest('.out-of-sight, thead'))
  .map((node) => node.outerHTML.slice(0, 80));
"""


class Proxy:
    """An application between browser and service, which answers by itself while it is told to."""

    def __init__(self, application: faults.Application) -> None:
        self._application = application
        self.answer: tuple[str, bytes] | None = None
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def await_questions(self, browser: browsers.Browser, number: int) -> None:
        """Wait until the page has asked so many more; it asks when it has drawn the answer."""
        wanted = len(self.asked) + number
        browser.until(lambda: len(self.asked) >= wanted, f"{number} more questions")

    def __call__(self, environ: dict[str, Any],
                 start_response: faults.StartResponse) -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith("/v2"):
            return self._application(environ, start_response)
        self.asked.append(environ["PATH_INFO"] + "?" + environ["QUERY_STRING"])
        self.may_answer.wait(browsers.WITHIN_S)
        if self.answer is None:
            return self._application(environ, start_response)
        status, body = self.answer
        start_response(status, [("Content-Type", "text/html"),
                                ("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture
def scene(tmp_path: pathlib.Path, world: conftest.World) -> Iterator[scenes.Scene]:
    """A service that knows no host yet, and has other ones than the session's."""
    placement = world.scene.placement
    hosts = f"a-{tmp_path.name}", f"b-{tmp_path.name}", f"c-{tmp_path.name}"
    conf = clouds.configuration(
        tmp_path, f"sqlite:///{tmp_path}/console.sqlite", placement=placement.url,
        more=f"{scenes.PLACEMENT.format(placement.url)}{scenes.SILENT}")
    with (clouds.running(conf, buses.LocalBus()) as cloud,
          scenes.http(conf, cloud, server.listen("127.0.0.1", 0)) as url):
        yield scenes.Scene(url, cloud, placement, hosts)


@pytest.fixture
def proxy(scene: scenes.Scene) -> Iterator[tuple[Proxy, str]]:
    """A proxy before that service, and the address of its console."""
    listener = server.listen("127.0.0.1", 0)
    between = Proxy(app.make_app(scene.cloud.conf, rpc.ConductorClient(scene.cloud.bus, 30)))
    serving = server.Server(listener, between, threads=8)
    with contextlib.ExitStack() as stack:
        serving.start()
        stack.callback(serving.stop)
        stack.callback(between.may_answer.set)
        yield between, f"http://127.0.0.1:{listener.getsockname()[1]}/console/"


def start(scene: scenes.Scene, host: Any) -> None:
    scene.placement.make_compute_node(host.name)
    host.start(scene.cloud.bus, scene.cloud.client)


def look(browser: browsers.Browser, url: str) -> str:
    browser.driver.get("about:blank")
    browser.driver.get(url)
    browser.one("main:not([aria-busy]) h1")
    return browser.text()


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

    told = {path: look(browser, f"{scene.url}/console/#/{path}") for path in (
        "hosts", "devices", "arqs", *(f"devices/{one.uuid}" for one in devices))}

    assert MARKUP in told["devices"]
    assert "function" not in told["devices"]
    for path in told:
        look(browser, f"{scene.url}/console/#/{path}")
        assert browser.all("main img, main script") == []
        assert "owned" not in browser.driver.title or MARKUP in browser.driver.title
        with browser.narrow(320):
            assert browser.script(TOO_WIDE) == [], path


def test_a_page_that_is_asked_for_twice_comes_once(
        browser: browsers.Browser, scene: scenes.Scene, proxy: tuple[Proxy, str]) -> None:
    start(scene, scene.store)
    between, url = proxy
    look(browser, f"{url}#/devices")
    between.may_answer.clear()

    browser.script("const more = document.querySelector('.foot button');"
                   "more.click(); more.click();")
    between.may_answer.set()

    browser.sees("60 devices", ".count")
    assert sum("marker=" in asked for asked in between.asked) == 1
    assert len(browser.all("tbody tr")) == 60


@pytest.mark.parametrize("status", ["502 Bad Gateway", "504 Gateway Timeout"])
def test_a_proxy_whose_service_is_away_is_waited_for_while_a_layout_is_applied(
        browser: browsers.Browser, scene: scenes.Scene, proxy: tuple[Proxy, str],
        status: str) -> None:
    start(scene, scene.node2)
    between, url = proxy
    uuid = scene.device(scenes.H100)
    scene.node2.may_split.clear()
    try:
        scene.cloud.client.set_partitioning(uuid, "19x7", None, False)
        look(browser, f"{url}#/devices/{uuid}")
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
        browser: browsers.Browser, scene: scenes.Scene, proxy: tuple[Proxy, str]) -> None:
    start(scene, scene.node2)
    between, url = proxy
    uuid = scene.device(scenes.H100)
    scene.node2.may_split.clear()
    try:
        scene.cloud.client.set_partitioning(uuid, "19x7", None, False)
        look(browser, f"{url}#/devices/{uuid}")
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
    start(scene, scene.node2)
    uuid = scene.device(scenes.H100)
    scene.node2.may_split.clear()
    try:
        scene.cloud.client.set_partitioning(uuid, "19x7", None, False)
        look(browser, f"{scene.url}/console/#/devices/{uuid}")
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
        browser: browsers.Browser, proxy: tuple[Proxy, str], body: bytes) -> None:
    between, url = proxy
    between.answer = "200 OK", body

    look(browser, f"{url}#/hosts")

    browser.sees("The service can't be reached", "[role=alert]")


def test_a_service_that_never_answers_is_not_waited_for_without_end(
        browser: browsers.Browser, proxy: tuple[Proxy, str]) -> None:
    between, url = proxy
    between.may_answer.clear()
    sooner = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {
        "source": "const real = AbortSignal.timeout.bind(AbortSignal);"
                  "AbortSignal.timeout = (ms) => real(ms / 1000);"})
    try:
        look(browser, f"{url}#/hosts")

        browser.sees("The service can't be reached", "[role=alert]")
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", sooner)


def test_an_older_service_behind_the_page_is_said_to_be_the_reason(
        browser: browsers.Browser, proxy: tuple[Proxy, str]) -> None:
    between, url = proxy
    between.answer = "406 Not Acceptable", b'{"error_message": {"faultstring": "2.0 to 2.7"}}'

    look(browser, f"{url}#/hosts")

    browser.sees("The service speaks another version than this page 2.0 to 2.7", "[role=alert]")


@pytest.mark.parametrize(("wished", "current", "missing"), [
    ([("1g", 4, None)], [("1g", 4, "DC-1-8Q")], 0),
    ([("1g", 4, None)], [("1g", 1, "DC-1-8Q"), ("1g", 2, "DC-1-24Q")], 1),
    ([("1g", 2, None), ("1g", 2, "A")], [("1g", 2, "A"), ("1g", 2, "B")], 0),
    ([("1g", 2, "A")], [("1g", 2, "B")], 2),
    ([("1g", 1, None)], [("2g", 1, None)], 1), ([], [("1g", 1, None)], 0)])
def test_a_wish_that_names_no_type_is_met_by_every_type(
        browser: browsers.Browser, world: conftest.World, wished: list[Any], current: list[Any],
        missing: int) -> None:
    look(browser, world.url)

    found = browser.in_page(
        "const { without } = await import('./places.js'); return without(...given);",
        *([{"profile": name, "count": count, "vgpu_type": kind} for name, count, kind in groups]
          for groups in (wished, current)))

    assert found == missing
