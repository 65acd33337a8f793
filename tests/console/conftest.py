# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the console's tests: one browser, one Keystone, one service for all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from cyborg_lite import buses
from cyborg_lite import rpc
from cyborg_lite.api import app
from cyborg_lite.wsgi import server
from tests.console import browser as browsers
from tests.console import proxies
from tests.console import scene as scenes
from tests.fixtures import cloud as clouds
from tests.fixtures import environments
from tests.fixtures import keystone as keystones

REQUIREMENTS = pathlib.Path(__file__).parents[1] / "contract" / "requirements" / "keystone.txt"

ACCOUNTS = (
    keystones.Account("admin", "admin", ("admin",)),
    keystones.Account("manager", "demo", ("manager",)),
    keystones.Account("member", "demo", ("member", "reader")),
    keystones.Account("reader", "demo", ("reader",)),
    keystones.Account("cyborg", "service", ("service",)),
)


@dataclasses.dataclass(frozen=True)
class World:
    """The service that the page belongs to, and the Keystone that knows its users."""

    scene: scenes.Scene
    keystone: keystones.Keystone
    tokens: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.scene.url}/console/"

    def token(self, user: str, project: str) -> str:
        """A new token of that user."""
        return str(self.keystone.session(user, project).get_token())

    def shared_token(self, user: str, project: str) -> str:
        """A token of that user for all tests, which none of them may revoke."""
        if (user, project) not in self.tokens:
            self.tokens[user, project] = self.token(user, project)
        return self.tokens[user, project]


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
    """Show a view, signed in as that user of that project.

    revocable: with a token of the test's own, which it may sign out with.
    """
    def visit(path: str = "", user: str = "admin", project: str = "admin",
              base: str | None = None, revocable: bool = False) -> browsers.Browser:
        token = world.token if revocable else world.shared_token
        browser.open(f"{base or world.url}#/{path}", json.dumps({
            "token": token(user, project), "user": user, "project": project,
            "byPassword": True, "roles": []}))
        browser.one("main:not([aria-busy]) h1")
        return browser
    return visit


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory,
            world: World) -> Iterator[tuple[str, clouds.Cloud]]:
    """A service without Keystone: its address, and the conductor behind it."""
    folder = tmp_path_factory.mktemp("service")
    placement = world.scene.placement.url
    conf = clouds.configuration(
        folder, f"sqlite:///{folder}/console.sqlite", placement=placement,
        more=f"{scenes.PLACEMENT.format(placement)}{scenes.SILENT}")
    with (clouds.running(conf, buses.LocalBus()) as cloud,
          scenes.http(conf, cloud, server.listen("127.0.0.1", 0)) as url):
        yield url, cloud


@pytest.fixture
def scene(tmp_path: pathlib.Path, world: World,
          service: tuple[str, clouds.Cloud]) -> scenes.Scene:
    """That service, with hosts of the test's own, which it does not know yet."""
    return scenes.Scene(*service, world.scene.placement, (
        f"a-{tmp_path.name}", f"b-{tmp_path.name}", f"c-{tmp_path.name}"))


@pytest.fixture
def proxy(scene: scenes.Scene) -> Iterator[tuple[proxies.Proxy, str]]:
    """A proxy before that service, and the address of its console."""
    listener = server.listen("127.0.0.1", 0)
    between = proxies.Proxy(
        app.make_app(scene.cloud.conf, rpc.ConductorClient(scene.cloud.bus, 30)))
    serving = server.Server(listener, between, threads=8)
    with contextlib.ExitStack() as stack:
        serving.start()
        stack.callback(serving.stop)
        stack.callback(between.may_answer.set)
        yield between, f"http://127.0.0.1:{listener.getsockname()[1]}/console/"
