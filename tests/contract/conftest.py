# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the contract tests: the environments of the clients and one cloud for all of them.

What a client must get is said by the tests.
"""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from tests.contract import cloud as clouds
from tests.fixtures import environments
from tests.fixtures import servers

REQUIREMENTS = pathlib.Path(__file__).with_name("requirements")


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line past pytest's capture, so that nobody waits in silence."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say_now(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\ncontract: {line}", end="", flush=True)

    return say_now


@pytest.fixture(scope="session")
def client_environments(say: Callable[[str], None]) -> dict[str, environments.Environment]:
    """Return every client's environment, by the name of its requirements file."""
    return environments.prepare_all(sorted(REQUIREMENTS.glob("*.txt")), say)


@pytest.fixture(scope="session")
def cloud(client_environments: dict[str, environments.Environment],
          tmp_path_factory: pytest.TempPathFactory, mariadb_server: str,
          folder: Callable[[str], pathlib.Path],
          say: Callable[[str], None]) -> Iterator[clouds.Cloud]:
    """Run the cloud for the whole session; at its end the invariants must hold."""
    with contextlib.ExitStack() as at_end:
        running = clouds.Cloud(
            client_environments["keystone"], tmp_path_factory.mktemp("cloud"),
            lambda: at_end.enter_context(servers.own_database(mariadb_server)),
            at_end.enter_context(servers.rabbitmq_vhost(folder)), say)
        at_end.callback(running.stop)
        yield running
        checked = running.check()
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def instance() -> str:
    """Return the uuid of a new instance."""
    return str(uuid.uuid4())
