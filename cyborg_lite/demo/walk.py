# SPDX-License-Identifier: Apache-2.0
"""A server's life as Nova leads it, with openstacksdk and Placement, printed with times.

What is started and stopped for it is in `tour.py`.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import openstack.connection

from cyborg_lite.demo import nova_recorder

PROFILE = "demo-gpu"
RESOURCE_CLASS = "PGPU"
EVENT_WITHIN_S = 30
PLACEMENT_VERSION = "1.36"
NOVA_SPEAKS = {"X-Service-Roles": "service"}
"""noauth believes headers; with Keystone this is a service token."""


def connect(accelerator_url: str, placement_url: str) -> openstack.connection.Connection:
    """Return a connection to services that ask for no login."""
    return openstack.connection.Connection(
        auth_type="admin_token", auth={"token": "admin", "endpoint": accelerator_url},
        accelerator_endpoint_override=f"{accelerator_url}/v2",
        accelerator_default_microversion="2.3",
        placement_endpoint_override=placement_url)


class Steps:
    """Numbers the steps and prints how long each took."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._count = 0

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[list[str]]:
        """Print the text, the milliseconds, and the lines that the block adds."""
        self._count += 1
        more: list[str] = []
        start = time.monotonic()
        yield more
        took_ms = (time.monotonic() - start) * 1000
        self._say(f"{self._count:2}. {text}  ({took_ms:.0f} ms)")
        for line in more:
            self._say(f"      {line}")


def a_servers_life(cloud: openstack.connection.Connection, nova: nova_recorder.Recorder,
                   host: str, say: Callable[[str], None]) -> None:
    """Walk from the profile to its deletion on `host`; raises if a step goes wrong."""
    accelerator, placement = cloud.accelerator, cloud.placement
    steps, instance = Steps(say), str(uuid.uuid4())

    with steps.step(f"The operator offers a GPU: device profile {PROFILE}") as more:
        profile = accelerator.create_device_profile(
            name=PROFILE, groups=[{f"resources:{RESOURCE_CLASS}": "1"}])
        more.append(f"groups {profile.groups}")
    with steps.step("Nova asks Placement where one is free") as more:
        candidates = free_providers(cloud)
        provider = candidates[0]
        more.append(f"{len(candidates)} candidates, takes provider {provider}")
    with steps.step(f"Nova claims it in Placement for instance {instance}"):
        _json(placement.put(f"/allocations/{instance}", microversion=PLACEMENT_VERSION, json={
            "allocations": {provider: {"resources": {RESOURCE_CLASS: 1}}}, "project_id": "demo",
            "user_id": "demo", "consumer_generation": None}))
    with steps.step("Nova creates the accelerator request (ARQ)") as more:
        arq = accelerator.create_accelerator_request(device_profile_name=PROFILE)
        more.append(f"ARQ {arq.uuid} {arq.state}")

    accelerator.additional_headers.update(NOVA_SPEAKS)
    asked = time.monotonic()
    with steps.step("Nova binds it"):
        accelerator.update_accelerator_request(arq.uuid, [
            {"op": "add", "path": "/hostname", "value": host},
            {"op": "add", "path": "/device_rp_uuid", "value": provider},
            {"op": "add", "path": "/instance_uuid", "value": instance}])
    with steps.step("Nova gets its event") as more:
        came, event = nova.wait_for(arq.uuid, EVENT_WITHIN_S)
        more.append(f"{event['name']} {event['status']}, {(came - asked) * 1000:.0f} ms after the "
                    "bind was asked for")
    with steps.step("Nova looks at what it got, to put it into the guest") as more:
        arq = accelerator.get_accelerator_request(arq.uuid)
        more.append(f"{arq.state} on {arq.hostname}: {arq.attach_handle_type} "
                    f"{arq.attach_handle_info}")
        if arq.state != "Bound" or event["status"] != "completed":
            raise RuntimeError(f"ARQ {arq.uuid} is {arq.state}, event {event['status']}")
    with steps.step("The server is deleted: Nova unbinds the ARQ"):
        accelerator.update_accelerator_request(arq.uuid, [
            {"op": "remove", "path": f"/{name}"}
            for name in ("hostname", "device_rp_uuid", "instance_uuid")])
    with steps.step("... deletes it, and its claim in Placement"):
        accelerator.delete_accelerator_request(arq.uuid, ignore_missing=False)
        placement.delete(f"/allocations/{instance}").raise_for_status()
    with steps.step("The operator withdraws the profile"):
        accelerator.delete_device_profile(profile.uuid, ignore_missing=False)


def make_compute_node(cloud: openstack.connection.Connection, name: str) -> None:
    """Make a compute node's provider, as Nova does."""
    reply = cloud.placement.post("/resource_providers", microversion=PLACEMENT_VERSION,
                                 json={"name": name, "uuid": str(uuid.uuid4())})
    reply.raise_for_status()


def free_providers(cloud: openstack.connection.Connection) -> list[str]:
    """Return the providers that Placement would give a GPU of."""
    found = _json(cloud.placement.get(f"/allocation_candidates?resources={RESOURCE_CLASS}:1",
                                      microversion=PLACEMENT_VERSION))
    return [next(iter(request["allocations"])) for request in found["allocation_requests"]]


def _json(reply: Any) -> Any:
    reply.raise_for_status()
    return reply.json() if reply.content else None
