# SPDX-License-Identifier: Apache-2.0
"""A cloud of three hosts, and a Nova that plays operations on it."""

from __future__ import annotations

import contextlib
import pathlib
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

PROFILES = {"plain": [PLAIN.group], "vgpu": [SLICE.group], "disk": [DISK.group],
            "both": [PLAIN.group, SLICE.group]}


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


@pytest.fixture
def played(tmp_path: pathlib.Path) -> Iterator[nova_moves.Nova]:
    """`playing`; what is wrong at its end fails the test."""
    with playing(tmp_path) as nova:
        yield nova
        assert nova_invariants.always(nova) == []
        nova.cloud.settle()
        assert nova_invariants.at_rest(nova) == []
