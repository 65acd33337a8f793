# SPDX-License-Identifier: Apache-2.0
"""The page where there is no Keystone for it: noauth, tokens alone, a service that goes away."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from cyborg_lite.wsgi import server
from tests.console import browser as browsers
from tests.console import conftest
from tests.console import scene
from tests.fixtures import cloud as clouds

Serve = Callable[[str, int], contextlib.AbstractContextManager[str]]


@pytest.fixture
def serve(tmp_path: pathlib.Path, world: conftest.World) -> Serve:
    """Another API before the same conductor, with more lines of configuration; its console."""
    @contextlib.contextmanager
    def serve(more: str, port: int) -> Iterator[str]:
        conf = clouds.configuration(tmp_path, "sqlite://", more=more)
        with scene.http(conf, world.scene.cloud, server.listen("127.0.0.1", port)) as url:
            yield f"{url}/console/"
    return serve


def test_a_service_that_asks_nobody_is_open_at_once_and_says_so(
        browser: browsers.Browser, serve: Serve) -> None:
    with serve("", 0) as url:
        browser.open(url)

        browser.sees("Hosts", "h1")
        assert browser.text(".who") == "Open to anybody (noauth)"


def test_without_an_address_of_keystone_only_tokens_are_asked_for(
        browser: browsers.Browser, serve: Serve) -> None:
    with serve("[api]\nauth_strategy = keystone\n[console]\nkeystone_url =\n"
               "[keystone_authtoken]\nauth_type = none\n", 0) as url:
        browser.open(url)

        browser.sees("This service names no Keystone for browsers")
        assert browser.one("input[name=token]").is_displayed()
        assert browser.all("input[name=password]") == []


def test_a_service_that_goes_away_is_said_to_be_away(
        browser: browsers.Browser, serve: Serve) -> None:
    with serve("", 0) as url:
        browser.open(url)
        browser.sees("Hosts", "h1")

    browser.one(".head button").click()

    browser.sees("The service can't be reached", "[role=alert]")
    assert [line for line in browser.complaints() if "ERR_CONNECTION_REFUSED" not in line] == []


def test_a_service_that_is_restarted_while_a_layout_is_applied_is_waited_for(
        browser: browsers.Browser, serve: Serve, world: conftest.World) -> None:
    uuid = world.scene.device(scene.H100)
    world.scene.node2.may_split.clear()
    try:
        world.scene.cloud.client.set_partitioning(uuid, "19x7", None, False)
        with serve("", 0) as url:
            with browser.in_a_hurry():
                browser.open(f"{url}#/devices/{uuid}")
            browser.sees("0 of 7 partitions are there")
        browser.sees("The service can't be reached", ".partitions [role=alert]")
        port = int(url.split(":")[2].partition("/")[0])

        with serve("", port):
            browser.until(lambda: not browser.all(".partitions [role=alert]"), "it is back")
            world.scene.node2.may_split.set()
            browser.hears("Applied: 7\xa0\xd7\xa01g.10gb")
    finally:
        world.scene.node2.may_split.set()
    assert [line for line in browser.complaints() if "ERR_CONNECTION_REFUSED" not in line] == []
