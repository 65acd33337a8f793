# SPDX-License-Identifier: Apache-2.0
"""The codec, the local bus, deadlines and errors across RPC. RabbitMQ is tested in flows/."""

from __future__ import annotations

import dataclasses
import json
import time
import typing

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from cyborg_lite import buses
from cyborg_lite import codec
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from tests.fixtures import builders

MESSAGES = [found for found in vars(messages).values()
            if dataclasses.is_dataclass(found) and isinstance(found, type)]


def round_trip(value: typing.Any) -> typing.Any:
    return codec.decode(type(value), json.loads(json.dumps(codec.encode(value))))


# a report holds most of the others, which are tried by themselves too
@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_every_message_survives_the_wire(kind: type, data: st.DataObject) -> None:
    value = data.draw(st.from_type(kind))

    assert round_trip(value) == value


def test_a_field_that_we_do_not_know_is_ignored() -> None:
    data = codec.encode(builders.a_handle()) | {"from_the_future": [1]}

    assert codec.decode(messages.ReportedHandle, data) == builders.a_handle()


def test_a_field_that_is_missing_takes_its_default() -> None:
    data = codec.encode(builders.a_deployable())
    del data["traits"]

    assert codec.decode(messages.ReportedDeployable, data).traits == []


@pytest.mark.parametrize("wrong", [None, 3, "text", {"type": 3, "info": {}}, {"type": "PCI"},
                                   {"type": "PCI", "info": []}])
def test_data_that_does_not_fit_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError):
        codec.decode(messages.ReportedHandle, wrong)


class Endpoint:
    def __init__(self) -> None:
        self.served: list[str] = []

    @buses.exposed
    def get_device(self, uuid: str) -> messages.Device:
        self.served.append(uuid)
        raise errors.NotFound(f"Device {uuid} does not exist.")

    @buses.exposed
    def ping(self) -> None:
        raise RuntimeError("secret detail")

    @buses.exposed
    def list_attributes(self, deployable_id: int | None,
                        key: str | None) -> list[messages.Attribute]:
        return [messages.Attribute(uuid="u", deployable_id=deployable_id or 0, key=key or "",
                                   value="v")]

    def hidden(self) -> None:
        self.served.append("hidden")


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def bus(endpoint: Endpoint) -> buses.LocalBus:
    bus = buses.LocalBus()
    bus.serve(rpc.CONDUCTOR_TOPIC, "node1", endpoint)
    return bus


def test_a_call_returns_messages(bus: buses.LocalBus) -> None:
    client = rpc.ConductorClient(bus, 10)

    assert client.list_attributes(7, None) == [
        messages.Attribute(uuid="u", deployable_id=7, key="", value="v")]


def test_an_error_arrives_as_the_same_error(bus: buses.LocalBus) -> None:
    with pytest.raises(errors.NotFound, match="Device x does not exist"):
        rpc.ConductorClient(bus, 10).get_device("x")


def test_an_unexpected_error_arrives_without_its_text(bus: buses.LocalBus) -> None:
    with pytest.raises(errors.Error) as caught:
        rpc.ConductorClient(bus, 10).ping()

    assert caught.value.slug == "internal"
    assert "secret" not in caught.value.detail


def test_only_exposed_functions_are_served(bus: buses.LocalBus, endpoint: Endpoint) -> None:
    reply = bus.call(rpc.CONDUCTOR_TOPIC, None, "hidden", {}, {}, 10)

    assert "error" in reply
    assert endpoint.served == []


def test_a_call_whose_deadline_has_passed_is_not_executed(
        bus: buses.LocalBus, endpoint: Endpoint) -> None:
    reply = bus.call(rpc.CONDUCTOR_TOPIC, None, "get_device", {"deadline": time.time() - 1},
                     {"uuid": "x"}, 10)

    assert reply["error"]["slug"] == "deadline-passed"
    assert endpoint.served == []


def test_a_topic_that_nobody_serves_is_unavailable(bus: buses.LocalBus) -> None:
    with pytest.raises(errors.Unavailable, match="Nobody serves"):
        rpc.AgentClient(bus, 10).clean(agent_host="node9", tasks=[])


def test_each_remote_function_has_its_namesake_with_the_same_arguments() -> None:
    from cyborg_lite.agent import endpoint as agent
    from cyborg_lite.conductor import endpoint as conductor

    for client, served in ((rpc.ConductorClient, conductor.Endpoint),
                           (rpc.AgentClient, agent.Endpoint)):
        for name, function in vars(client).items():
            if hasattr(function, "__wrapped__"):
                asked = typing.get_type_hints(function)
                asked.pop("agent_host", None)
                assert typing.get_type_hints(getattr(served, name)) == asked, name
