# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the console's tests: one browser, one Keystone, one service for all of them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from cyborg_lite.wsgi import server
from tests.console import browser as browsers
from tests.console import scene as scenes
from tests.fixtures import environments
from tests.fixtures import keystone as keystones

REQUIREMENTS = pathlib.Path(__file__).parents[1] / "contract" / "requirements" / "keystone.txt"

ACCOUNTS = (
    keystones.Account("admin", "admin", ("admin",)),
    keystones.Account("manager", "demo", ("manager",)),
    keystones.Account("member", "demo", ("member", "reader")),
    keystones.Account("cyborg", "service", ("service",)),
)


@dataclasses.dataclass(frozen=True)
class World:
    """The service that the page belongs to, and the Keystone that knows its users."""

    scene: scenes.Scene
    keystone: keystones.Keystone

    @property
    def url(self) -> str:
        return f"{self.scene.url}/console/"

    def token(self, user: str, project: str) -> str:
        """A new token of that user."""
        return str(self.keystone.session(user, project).get_token())


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browsers.Browser]:
    """One Chromium for all tests of the page."""
    running = browsers.Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield running
    running.quit()


@pytest.fixture(scope="package")
def world(browser: browsers.Browser,
          tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The service for all tests of the page; what a test changes in it, it says."""
    del browser  # first, so that a machine without one does no work in vain
    listener = server.listen("127.0.0.1", 0)
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    keystone = keystones.Keystone(environments.prepare(REQUIREMENTS, print),
                                  tmp_path_factory.mktemp("keystone"), allowed_origin=origin)
    try:
        keystone.create_accounts(ACCOUNTS)
        service_user = "\n".join(f"{key} = {value}" for key, value in keystone.auth_options(
            "cyborg", "service").items())
        more = (f"[api]\nauth_strategy = keystone\n[keystone_authtoken]\nauth_type = password\n"
                f"www_authenticate_uri = {keystone.url}\n{service_user}\n")
        with scenes.serving(tmp_path_factory.mktemp("scene"), listener, more) as scene:
            demo = keystone.session("member", "demo").get_project_id()
            assert demo is not None
            scene.populate(demo)
            yield World(scene, keystone)
    finally:
        keystone.stop()


@pytest.fixture(autouse=True)
def nothing_to_complain(browser: browsers.Browser) -> Iterator[None]:
    """The browser has nothing against the page: no error, nothing that its policy forbids.

    A test that wants complaints has read them by then.
    """
    yield
    assert browser.complaints() == []


Visit = Callable[..., browsers.Browser]


@pytest.fixture
def visit(browser: browsers.Browser, world: World) -> Visit:
    """Show a view, signed in as that user of that project."""
    def visit(path: str = "", user: str = "admin", project: str = "admin",
              base: str | None = None) -> browsers.Browser:
        browser.open(base or world.url)
        browser.one("h1")
        browser.script("sessionStorage.setItem('accelerator-console', arguments[0])", json.dumps({
            "token": world.token(user, project), "user": user, "project": project,
            "byPassword": True, "roles": []}))
        browser.driver.get("about:blank")
        browser.driver.get(f"{base or world.url}#/{path}")
        browser.one("main:not([aria-busy]) h1")
        return browser
    return visit
