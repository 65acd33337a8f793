# SPDX-License-Identifier: Apache-2.0
"""Our plugin for the `openstack` program where Keystone says who asks.

What its commands do is tested in `tests/cli`; here is what needs a token.
"""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.contract import cloud as clouds
from tests.fixtures import command_line
from tests.fixtures import environments


@pytest.fixture
def member(cloud: clouds.Cloud, client_environments: dict[str, environments.Environment],
           tmp_path: pathlib.Path) -> command_line.OpenStack:
    """The program as a member of a project, who knows a cloud `nova` with a service's user."""
    entries = tmp_path / "clouds.yaml"
    entries.write_text(json.dumps({"clouds": {"nova": {
        "auth_type": "v3password", "auth": cloud.keystone.auth_options("nova", "service")}}}))
    return command_line.OpenStack(
        client_environments["openstackclient"], command_line.install(tmp_path),
        {**cloud.environment_of("demo", "demo"), "OS_CLIENT_CONFIG_FILE": str(entries)})


def test_an_arq_is_bound_and_freed_with_the_token_of_a_service_from_clouds_yaml(
        cloud, member, instance):
    administrator = cloud.accelerator("admin", "admin")
    administrator.post("/device_profiles", json=[{
        "name": "with-plugin", "groups": [{"resources:FPGA": "1"}]}]).raise_for_status()
    cloud.neighbours.declare_server(instance, "server-of-a-test")
    arq = member("arq create", "with-plugin", "-f", "value", "-c", "uuid").out.strip()
    where = (arq, clouds.HOST, instance, cloud.device_provider())

    alone = member("arq bind", *where)
    bound = member("arq bind", *where, "--service-cloud", "nova", "-f", "json").data
    foreign = member("device list")
    freed = member("arq delete", "--instance", instance, OS_SERVICE_CLOUD="nova")
    gone = administrator.delete("/device_profiles/with-plugin")

    assert "--service-cloud" in alone.refusal
    assert (bound["state"], bound["instance_uuid"]) == ("Bound", instance)
    assert bound["attach_handle_info"]
    assert "cyborg:device:get_all" in foreign.refusal
    assert (freed.status, freed.out, freed.errors) == (0, "", "")
    assert gone.status_code == 204
