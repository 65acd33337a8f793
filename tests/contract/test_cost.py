# SPDX-License-Identifier: Apache-2.0
"""What the neighbours are asked during a boot, counted in Keystone's and Placement's own logs.

Statements are counted elsewhere, without processes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from collections.abc import Iterator

import pytest
import requests

from tests.contract import cloud as clouds

BOOTS = 5


@pytest.fixture(scope="module")
def profile(cloud: clouds.Cloud) -> Iterator[str]:
    name = f"cost-{uuid.uuid4().hex[:8]}"
    admin = cloud.accelerator("admin", "admin")
    made = admin.post("/device_profiles", json=[
        {"name": name, "groups": [{"resources:FPGA": "2"}]}])
    assert made.status_code == 201, made.text
    yield name
    assert admin.delete(f"/device_profiles/{name}").status_code == 204


@pytest.fixture(scope="module")
def boot_and_delete(cloud: clouds.Cloud, profile: str) -> Callable[[], None]:
    """Return a function: a server's life, with tokens that were got beforehand."""
    client = requests.Session()
    client.headers.update({
        "X-Auth-Token": cloud.keystone.session("demo", "demo").get_token(),
        "X-Service-Token": cloud.keystone.session("nova", "service").get_token()})
    arqs_url, provider = f"{cloud.api_url}/v2/accelerator_requests", cloud.device_provider()

    def run() -> None:
        instance = str(uuid.uuid4())
        client.get(f"{cloud.api_url}/v2/device_profiles", params={"name": profile})
        made = client.post(arqs_url, json={"device_profile_name": profile}).json()["arqs"]
        bound = client.patch(arqs_url, json={arq["uuid"]: [
            {"op": "add", "path": "/hostname", "value": clouds.HOST},
            {"op": "add", "path": "/device_rp_uuid", "value": provider},
            {"op": "add", "path": "/instance_uuid", "value": instance}] for arq in made})
        assert bound.status_code == 202, bound.text
        cloud.neighbours.events_of(instance, {arq["uuid"] for arq in made})
        shown = client.get(arqs_url, params={"instance": instance}).json()["arqs"]
        assert {arq["state"] for arq in shown} == {"Bound"}
        assert client.delete(arqs_url, params={"instance": instance}).status_code == 204

    run()  # the first one fetches and validates the tokens
    return run


def test_boots_log_in_nowhere_and_validate_no_token_twice(cloud, boot_and_delete):
    before = len(cloud.processes["keystone"].requests())

    for _ in range(BOOTS):
        boot_and_delete()

    assert before > 0
    assert cloud.processes["keystone"].requests()[before:] == []


def test_boots_ask_placement_for_nothing(cloud, boot_and_delete):
    cloud.processes["conductor"].wait_until(cloud.is_synchronized, 30, "finish the sync before")
    before = len(cloud.processes["placement"].requests())

    for _ in range(BOOTS):
        boot_and_delete()

    assert before > 0
    assert cloud.processes["placement"].requests()[before:] == []
