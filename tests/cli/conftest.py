# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the commands' tests: one service for all of them, and the client beside it."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures import command_line
from tests.fixtures import environments
from tests.fixtures import processes

REQUIREMENTS = environments.CHECKOUT / "tests" / "contract" / "requirements"
READY_WITHIN_S = 60
PAGE = 2
"""The most that the service puts on one page, so that short lists have several."""

CONFIGURATION = """
[DEFAULT]
host = here
[api]
port = 0
max_limit = {page}
[database]
connection = sqlite:///{folder}/test.sqlite
[agent]
state_path = {folder}
device_config_dir = {folder}
[fake]
num_devices = 3
num_handles = 2
"""


class Service:
    """cyborg-lite-standalone, as plain HTTP sees it."""

    def __init__(self, process: processes.Process) -> None:
        found = process.wait_until(
            lambda: re.search(r"is ready: (http://\S+)", process.log.read_text()),
            READY_WITHIN_S, "be ready")
        self.url = f"{found[1]}/v2"
        process.wait_until(lambda: self.get("/devices")["devices"], READY_WITHIN_S,
                           "store its devices")

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Return the JSON of an answer, None for an empty one."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, method=method, data=data,
            headers={"OpenStack-API-Version": "accelerator 2.7",
                     "Content-Type": "application/json", **headers})
        with urllib.request.urlopen(request, timeout=READY_WITHIN_S) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def get(self, path: str) -> Any:
        """Return the JSON of a GET."""
        return self.ask("GET", path)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that believes everybody, with three devices of two handles each."""
    folder = tmp_path_factory.mktemp("service")
    configuration = folder / "test.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, page=PAGE))
    process = processes.Process(
        "cyborg-lite-standalone",
        [processes.console_script("cyborg-lite-standalone"), "--config-file", configuration],
        folder / "log")
    with processes.stopping(process):
        yield Service(process)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory,
            say: Callable[[str], None]) -> Iterator[Callable[..., command_line.OpenStack]]:
    """Return a function: today's client with our plugin, for the service at an address."""
    environment = environments.prepare(REQUIREMENTS / "openstackclient.txt", say)
    site = command_line.install(tmp_path_factory.mktemp("site"))
    warm = command_line.Warm(environment, site)
    yield lambda url: command_line.OpenStack(
        environment, site, {"OS_AUTH_TYPE": "none", "OS_ENDPOINT": url}, warm)
    warm.stop()


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line past pytest's capture: an installation takes a while."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say_now(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\ncli: {line}", end="", flush=True)

    return say_now


@pytest.fixture(scope="session")
def openstack(program: Callable[..., command_line.OpenStack],
              service: Service) -> command_line.OpenStack:
    """The client, for the service that runs."""
    return program(service.url)


@pytest.fixture
def profile(service: Service, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """A device profile for two accelerators; its accelerator requests go with it."""
    name = re.sub("[^a-zA-Z0-9]+", "-", request.node.name)[:200]
    made = service.ask("POST", "/device_profiles", [{
        "name": name, "description": "as-made",
        "groups": [{"resources:FPGA": "2", "trait:CUSTOM_FAKE_DEVICE": "required"}]}])
    yield made
    left = service.get(f"/accelerator_requests?device_profile_name={name}")["arqs"]
    while left:
        service.ask("DELETE", "/accelerator_requests?arqs=" + ",".join(
            arq["uuid"] for arq in left))
        left = service.get(f"/accelerator_requests?device_profile_name={name}")["arqs"]
    service.ask("DELETE", f"/device_profiles/{made['uuid']}")
