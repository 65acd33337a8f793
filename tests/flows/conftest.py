# SPDX-License-Identifier: Apache-2.0
"""A cloud of three hosts, and a Nova that plays operations on it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from tests.fixtures import nova as nova_fixture
from tests.fixtures import nova_invariants
from tests.fixtures import nova_moves
from tests.fixtures import placement as placement_fixture
from tests.fixtures import played_cloud
from tests.fixtures import played_hosts

PLAIN = played_hosts.Card("Plain")
SLICE = played_hosts.Card("Slice", prepares=True, cleans=True, resource_class="VGPU")
DISK = played_hosts.Card("Disk", cleans=True, resource_class="CUSTOM_DISK")
OTHER_SLICE = played_hosts.Card("Slice", prepares=True, cleans=True, resource_class="VGPU",
                                mdev_type="played-2")

LONGER_THAN_GRACE_S = 700
"""What a sweep has found twice, so long apart, is cleaned."""

PROFILES = {"plain": [PLAIN.group], "vgpu": [SLICE.group], "disk": [DISK.group],
            "both": [PLAIN.group, SLICE.group]}


@pytest.fixture
def placement(tmp_path: pathlib.Path) -> Iterator[placement_fixture.Placement]:
    """A real Placement with nothing in it."""
    with placement_fixture.serving(tmp_path) as serving:
        yield serving


@contextlib.contextmanager
def playing(folder: pathlib.Path) -> Iterator[nova_moves.Nova]:
    """Three hosts with the same three cards of two handles each, and nothing on them.

    The fourth has one kind of card that shows a guest something else. An old client looks on at
    each call, and at the end everything must come to rest.
    """
    hosts = [played_hosts.PlayedHost(f"node{number}", (PLAIN, SLICE, DISK))
             for number in (1, 2, 3)]
    hosts.append(played_hosts.PlayedHost("node4", (OTHER_SLICE,)))
    with placement_fixture.serving(folder) as placement, nova_fixture.serving() as events:
        cloud = played_cloud.PlayedCloud(folder, hosts, placement, events)
        nova = nova_moves.Nova(cloud, PROFILES)

        def look() -> None:
            for server in nova.servers.values():
                if server.profile and server.state not in nova_invariants.GONE:
                    nova.wrongs += nova_invariants.as_old_client(nova, server.uuid)

        nova.calls.looks = look
        try:
            yield nova
        finally:
            cloud.close()


class Shared:
    """One cloud for many tests, as long as none of them fails."""

    def __init__(self, folder: Callable[[], pathlib.Path]) -> None:
        self._folder = folder
        self._open = contextlib.ExitStack()
        self.nova: nova_moves.Nova | None = None

    def get(self) -> nova_moves.Nova:
        """A cloud on which nothing is."""
        if self.nova is None:
            self._open.close()
            self.nova = self._open.enter_context(playing(self._folder()))
        return self.nova

    def close(self) -> None:
        self._open.close()


@pytest.fixture(scope="module")
def shared_cloud_in_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    shared = Shared(lambda: tmp_path_factory.mktemp("played"))
    yield shared
    shared.close()


@pytest.fixture
def played(shared_cloud_in_time: Shared) -> Iterator[nova_moves.Nova]:
    """`playing`, with nothing on it; what is wrong at its end fails the test."""
    nova = shared_cloud_in_time.get()
    # given back only by a test that ends well
    shared_cloud_in_time.nova = None
    yield nova
    come_to_rest(nova)
    shared_cloud_in_time.nova = nova


def come_to_rest(nova: nova_moves.Nova) -> None:
    """Fail unless all is well, now and at rest; then remove everything."""
    assert nova_invariants.always(nova) == []
    nova.cloud.settle()
    assert nova_invariants.at_rest(nova) == []
    if nova.forgotten or nova.lost:
        for _ in range(3):
            nova.cloud.let_pass(LONGER_THAN_GRACE_S)
        assert nova_invariants.always(nova) == []
        assert nova_invariants.kept_for_nobody(nova) == []
    nova.remove_everything()
    nova.cloud.settle()
    assert nova_invariants.left_over(nova) == []
