# SPDX-License-Identifier: Apache-2.0
"""The real application in process, before a real conductor with a database of its own."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import pytest

from cyborg_lite.api import app
from cyborg_lite.api import faults
from tests.fixtures import builders
from tests.fixtures import cloud as clouds

NO_SWEEPS = "[reconcile]\nenabled = false\n"
CORS = "[cors]\nallowed_origin = https://horizon.example.org\n"


@contextlib.contextmanager
def two_cards(folder: pathlib.Path) -> Iterator[clouds.Cloud]:
    """A conductor that knows one host with two cards of 16 handles each, and one orphan."""
    conf = clouds.configuration(folder, f"sqlite:///{folder}/test.sqlite", more=CORS + NO_SWEEPS)
    with clouds.running(conf) as running:
        running.client.report(builders.a_report(2))
        builders.an_orphan(running.conductor.database)
        yield running


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Iterator[clouds.Cloud]:
    """`two_cards`, for one test."""
    with two_cards(tmp_path) as running:
        yield running


@pytest.fixture
def application(cloud: clouds.Cloud) -> faults.Application:
    """The whole stack with noauth, before `cloud`."""
    return app.make_app(cloud.conf, cloud.client)


@pytest.fixture(scope="module")
def shared_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clouds.Cloud]:
    """`two_cards`, for all tests of a module, which must not mind what others left."""
    with two_cards(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture(scope="module")
def shared_application(shared_cloud: clouds.Cloud) -> faults.Application:
    """The whole stack with noauth, before `shared_cloud`."""
    return app.make_app(shared_cloud.conf, shared_cloud.client)
