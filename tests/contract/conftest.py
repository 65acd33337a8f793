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
          tmp_path_factory: pytest.TempPathFactory,
          say: Callable[[str], None]) -> Iterator[clouds.Cloud]:
    """Run the cloud for the whole session."""
    with contextlib.ExitStack() as at_end:
        running = clouds.Cloud(
            client_environments["keystone"], tmp_path_factory.mktemp("cloud"),
            lambda name: at_end.enter_context(_database(name)),
            at_end.enter_context(_virtual_host()), say)
        at_end.callback(running.stop)
        yield running


@contextlib.contextmanager
def _database(name: str) -> Iterator[str]:
    import pymysql
    name = f"cyborg_lite_contract_{name}_{uuid.uuid4().hex[:8]}"

    def execute(statement: str) -> None:
        connection = pymysql.connect(host="127.0.0.1", user="root")
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield f"mysql+pymysql://root@127.0.0.1/{name}?charset=utf8mb4"
    execute(f"DROP DATABASE {name}")


@contextlib.contextmanager
def _virtual_host() -> Iterator[str]:
    import subprocess
    name = f"cyborg_lite_contract_{uuid.uuid4().hex[:8]}"
    subprocess.run(["rabbitmqctl", "add_vhost", name], check=True, capture_output=True)
    subprocess.run(["rabbitmqctl", "set_permissions", "-p", name, "guest", ".*", ".*", ".*"],
                   check=True, capture_output=True)
    yield f"rabbit://guest:guest@127.0.0.1:5672/{name}"
    subprocess.run(["rabbitmqctl", "delete_vhost", name], check=True, capture_output=True)


@pytest.fixture
def instance() -> str:
    """Return the uuid of a new instance."""
    return str(uuid.uuid4())
