# SPDX-License-Identifier: Apache-2.0
"""`bind_state=resolved` of an instance while one of its ARQs is not: 423, whatever else is asked.

The state is written into the row: no bind here takes time.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
import webob

from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.api import faults
from cyborg_lite.db import models
from tests.fixtures import builders
from tests.fixtures import cloud as clouds

INSTANCE = "22222222-2222-2222-2222-222222222222"
OTHER = "33333333-3333-3333-3333-333333333333"
RESOLVED = f"instance={INSTANCE}&bind_state=resolved"

Ask = Callable[..., webob.Response]


def bound(cloud: clouds.Cloud, instance: str, profile: str) -> list[str]:
    """ARQs of the project `project1`, bound to an instance."""
    cloud.client.create_device_profile(messages.DeviceProfile(
        uuid=builders.new_uuid(), name=profile, description=None,
        groups=[{"resources:FPGA": "2"}]))
    uuids = [arq.uuid for arq in cloud.client.create_arqs(profile, "project1")]
    cloud.client.bind_arqs([messages.BindRequest(
        arq_uuid=uuid, hostname=builders.HOST, device_rp_uuid=builders.rp_uuid(),
        instance_uuid=instance) for uuid in uuids])
    return uuids


@pytest.fixture
def started(cloud: clouds.Cloud) -> str:
    """The second ARQ of INSTANCE, on which its host is still at work."""
    uuid = bound(cloud, INSTANCE, "two")[1]
    with cloud.conductor.database.engine.begin() as connection:
        connection.execute(sa.update(models.arqs).where(models.arqs.c.uuid == uuid)
                           .values(state=states.BIND_STARTED))
    return uuid


@pytest.fixture
def ask(application: faults.Application) -> Ask:
    def ask(query: str, version: str, project: str = "project1") -> webob.Response:
        return webob.Request.blank(f"/v2/accelerator_requests?{query}", headers={
            "X-Roles": "reader", "X-Project-Id": project, "X-User-Id": "u",
            "OpenStack-API-Version": f"accelerator {version}"}).get_response(application)
    return ask


@pytest.mark.parametrize("version", ["2.0", "2.5", "2.9"])
def test_an_instance_is_not_resolved_before_all_of_it_is(
        started: str, ask: Ask, version: str) -> None:
    reply = ask(RESOLVED, version)

    assert reply.status_int == 423
    assert reply.json["errors"][0]["code"] == "accelerator.not-resolved"
    assert started in reply.json["errors"][0]["detail"]


@pytest.mark.parametrize("narrower", [
    "limit=1", "state=Bound", "hostname=nowhere", "device_profile_name=none",
    f"device_rp_uuid={OTHER}"])
def test_no_page_and_no_filter_hides_what_is_not_resolved(
        started: str, ask: Ask, narrower: str) -> None:
    assert ask(f"{RESOLVED}&{narrower}", "2.5").status_int == 423


def test_one_of_several_instances_is_enough(
        cloud: clouds.Cloud, started: str, ask: Ask) -> None:
    bound(cloud, OTHER, "others")

    assert ask(
        f"instance={INSTANCE},{OTHER}&bind_state=resolved&limit=1&sort=created_at:desc", "2.5"
    ).status_int == 423
    assert ask(f"instance={OTHER}&bind_state=resolved", "2.5").status_int == 200


@pytest.mark.parametrize("version", ["2.0", "2.5"])
def test_without_an_instance_the_resolved_ones_are_listed(
        started: str, ask: Ask, version: str) -> None:
    (arq,) = ask("bind_state=resolved", version).json["arqs"]

    assert arq["uuid"] != started


@pytest.mark.parametrize("version", ["2.0", "2.5"])
def test_another_project_learns_nothing_of_it(started: str, ask: Ask, version: str) -> None:
    reply = ask(RESOLVED, version, project="project2")

    assert (reply.status_int, reply.json["arqs"]) == (200, [])
