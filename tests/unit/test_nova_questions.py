# SPDX-License-Identifier: Apache-2.0
"""What is asked of Nova about servers: how many requests, and which answers are believed."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from cyborg_lite.clients import keystone
from cyborg_lite.clients import nova_questions
from tests.fixtures import builders
from tests.fixtures import nova as nova_fixture
from tests.fixtures import placement as placement_fixture


@pytest.fixture
def nova() -> Iterator[nova_fixture.Nova]:
    with nova_fixture.serving() as found:
        yield found


@pytest.fixture
def questions(nova: nova_fixture.Nova) -> nova_questions.Questions:
    return nova_questions.from_conf(placement_fixture.configured("nova", nova.root))


@pytest.mark.parametrize("names", [
    ["node1"], ["gpu-01", "gpu-02", "gpu-10"], ["a.example.org", "b.example.org"],
    ["10.0.0.5", "10.0.0.6"], ["node", "node1", "node12"], ["a_b", "a-b"]])
def test_a_filter_finds_each_host_by_its_name_and_with_a_domain(names: list[str]) -> None:
    patterns = [re.compile(pattern) for pattern in nova_questions.node_filters(names)]

    assert len(patterns) == 1
    for name in names:
        assert patterns[0].search(name)
        if not name.startswith("10."):
            assert patterns[0].search(f"{name.partition('.')[0]}.example.org")
    assert not patterns[0].search("another")
    assert "|" not in patterns[0].pattern


def test_filters_are_short_enough_for_a_line_of_a_request() -> None:
    names = [f"rack{number % 7}-gpu{number}-of-a-long-name" for number in range(500)]

    patterns = list(nova_questions.node_filters(names))

    assert max(len(urllib.parse.quote(pattern)) for pattern in patterns) <= (
        nova_questions.MAX_FILTER)
    assert len(patterns) < 10
    assert all(any(re.search(pattern, name) for pattern in patterns) for name in names)


def test_servers_of_many_hosts_take_one_request_and_one_more_a_page(
        nova: nova_fixture.Nova, questions: nova_questions.Questions) -> None:
    hosts = [f"gpu-{number:02}" for number in range(50)]
    mine = {nova.cloud.add(host=host, node=f"{host}.example.org").uuid for host in hosts}
    nova.cloud.add(host="cpu-01")
    nova.cloud.page = 20

    found = questions.servers_on(hosts)

    assert set(found) == mine
    assert len(nova.cloud.asked) == 3


def test_a_server_is_gone_when_nova_says_so_in_both_ways(
        nova: nova_fixture.Nova, questions: nova_questions.Questions) -> None:
    server = nova.cloud.add(status="SOFT_DELETED")

    assert questions.find_server(builders.new_uuid()) is None
    assert questions.find_server(server.uuid) == nova_questions.Server(
        uuid=server.uuid, status="SOFT_DELETED", host="node1", node="node1", task_state=None)


def test_a_server_in_a_cell_that_is_down_exists(
        nova: nova_fixture.Nova, questions: nova_questions.Questions) -> None:
    server = nova.cloud.add()
    nova.cloud.compute_hosts.append("node1")
    nova.cloud.down_hosts.add("node1")

    found = questions.find_server(server.uuid)

    assert found is not None
    assert (found.status, found.host) == ("UNKNOWN", None)
    assert not questions.compute_services().complete


@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_what_is_no_answer_of_nova_is_none(
        nova: nova_fixture.Nova, questions: nova_questions.Questions, status: int) -> None:
    nova.cloud.before = lambda address: status

    for ask in (lambda: questions.find_server(builders.new_uuid()),
                lambda: questions.servers_on(["node1"]), questions.compute_services,
                lambda: questions.migrations_of(builders.new_uuid())):
        with pytest.raises(keystone.Away):
            ask()


def test_a_user_who_is_no_administrator_learns_nothing(
        nova: nova_fixture.Nova, questions: nova_questions.Questions) -> None:
    server = nova.cloud.add()
    nova.cloud.allows_all = False

    with pytest.raises(keystone.Away, match="403"):
        questions.find_server(server.uuid)


def test_a_filter_that_nova_ignores_is_noticed(
        nova: nova_fixture.Nova, questions: nova_questions.Questions) -> None:
    nova.cloud.add()
    nova.cloud.ignores_filters = True

    with pytest.raises(keystone.Away, match="filter the servers"):
        questions.find_server(builders.new_uuid())


@pytest.mark.parametrize(("status", "text", "known"), [
    (200, '{"hypervisor": {"id": "NODE"}}', True),
    (404, '{"itemNotFound": {"code": 404, "message": "Hypervisor with ID NODE"}}', False),
    (404, '{"itemNotFound": {"code": 404, "message": "The resource could not be found."}}', None),
    (404, "<html>Not found</html>", None), (404, "[]", None), (400, "{}", None),
    (200, '{"hypervisors": []}', None),
])
def test_a_compute_node_is_unknown_only_where_nova_says_so(
        requests_mock: Any, status: int, text: str, known: bool | None) -> None:
    node = builders.new_uuid()
    requests_mock.get(f"http://nova.test/v2.1/os-hypervisors/{node}", status_code=status,
                      text=text.replace("NODE", node))
    questions = nova_questions.from_conf(
        placement_fixture.configured("nova", "http://nova.test/v2.1"))

    assert questions.has_compute_node(node) is known
