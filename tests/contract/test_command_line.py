# SPDX-License-Identifier: Apache-2.0
"""Every `openstack accelerator` command, as a process of its own, by two unmodified programs.

python-cyborgclient is the plugin that operators have had; from version 10 on
python-openstackclient brings the commands itself. The two cannot be installed together.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract import cloud as clouds
from tests.fixtures import environments
from tests.fixtures import keystone
from tests.fixtures import processes

GROUPS = [{"resources:FPGA": "1", "trait:CUSTOM_FAKE_DEVICE": "required"}]
LOGIN_PLUGIN = pathlib.Path(__file__).with_name("service_token_login")
COMMAND_LIMIT_S = 120


@dataclasses.dataclass(frozen=True)
class Result:
    """What one command wrote and how it ended."""

    status: int
    out: str
    errors: str

    @property
    def data(self) -> Any:
        """Return what `-f json` wrote; the command must have succeeded."""
        assert self.status == 0, self.errors
        return json.loads(self.out)


class CommandLine:
    """The `openstack` program of one environment, as one user."""

    def __init__(self, environment: environments.Environment, cloud: clouds.Cloud,
                 user: str, project: str, with_service_token: bool = False) -> None:
        self.name = environment.name
        self._program = environment.program("openstack")
        self._variables = {**cloud.environment_of(user, project),
                           "OS_ACCELERATOR_API_VERSION": "2.3"}
        if with_service_token:
            self._variables |= {
                "PYTHONPATH": str(LOGIN_PLUGIN), "OS_AUTH_TYPE": "v3servicetoken",
                "OS_SERVICE_USERNAME": "nova", "OS_SERVICE_PASSWORD": keystone.PASSWORD,
                "OS_SERVICE_PROJECT_NAME": "service"}

    def __call__(self, command: str, *arguments: str, shown: bool = True) -> Result:
        """Run `openstack accelerator <command> <arguments>`; `shown` asks for JSON."""
        done = processes.run(
            [self._program, "accelerator", *command.split(), *arguments,
             *(("-f", "json") if shown else ())],
            within_s=COMMAND_LIMIT_S, environment=self._variables)
        return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module", params=["cyborgclient", "openstackclient"])
def as_user(request: pytest.FixtureRequest, cloud: clouds.Cloud,
            client_environments: dict[str, environments.Environment]
            ) -> Callable[..., CommandLine]:
    """Return a function: the program of this environment as a user of a project."""
    environment = client_environments[request.param]
    return lambda user, project, **more: CommandLine(environment, cloud, user, project, **more)


@pytest.fixture(scope="module")
def admin(as_user: Callable[..., CommandLine]) -> CommandLine:
    return as_user("admin", "admin")


@pytest.fixture(scope="module")
def member(as_user: Callable[..., CommandLine]) -> CommandLine:
    return as_user("demo", "demo")


@pytest.fixture(scope="module")
def profile(admin: CommandLine) -> Iterator[dict[str, Any]]:
    """Return a device profile that was created by command and is deleted by command."""
    made = admin("device profile create", f"cli-{uuid.uuid4().hex[:8]}", json.dumps(GROUPS),
                 "--description", "made by command").data
    yield made
    assert admin("device profile delete", made["uuid"], shown=False).status == 0


def test_a_device_profile_is_shown_and_listed(member, profile):
    shown = member("device profile show", profile["uuid"]).data
    by_name = member("device profile show", profile["name"]).data
    listed = {row["uuid"]: row for row in member("device profile list", "--long").data}

    assert (shown["name"], shown["groups"]) == (profile["name"], GROUPS)
    assert shown["description"] == "made by command"
    assert by_name == shown
    assert listed[profile["uuid"]]["groups"] == GROUPS
    assert listed[profile["uuid"]]["created_at"]
    assert profile["uuid"] in {row["uuid"] for row in member("device profile list").data}


def test_what_a_user_may_not_do_is_refused_with_the_rule(member):
    refused = member("device profile create", "cli-forbidden", json.dumps(GROUPS))

    assert refused.status != 0
    assert "cyborg:device_profile:create" in refused.errors


def test_a_bad_device_profile_is_refused_with_the_field(admin):
    refused = admin("device profile create", "cli-bad", '[{"resources:FPGA": "none"}]')

    assert refused.status != 0
    assert "resources:FPGA" in refused.errors


def test_an_arq_is_created_listed_shown_and_deleted(member, profile):
    made = member("arq create", profile["name"]).data

    listed = {row["uuid"]: row for row in member("arq list").data}
    long = {row["uuid"]: row for row in member("arq list", "--long").data}
    shown = member("arq show", made["uuid"]).data
    deleted = member("arq delete", made["uuid"], shown=False)
    again = member("arq delete", made["uuid"], shown=False)

    assert (made["state"], made["device_profile_name"]) == ("Initial", profile["name"])
    assert listed[made["uuid"]]["state"] == "Initial"
    assert long[made["uuid"]]["hostname"] is None
    assert shown == made
    assert (deleted.status, deleted.errors) == (0, "")
    assert again.status != 0


def test_an_arq_is_bound_and_unbound_with_a_service_token(cloud, as_user, profile, instance):
    through_nova = as_user("demo", "demo", with_service_token=True)
    cloud.neighbours.declare_server(instance, "server-of-a-test")
    arq = through_nova("arq create", profile["name"]).data["uuid"]
    where = [clouds.HOST, instance, cloud.device_provider()]
    if through_nova.name == "cyborgclient":
        where.append("a-project-that-the-client-does-not-send")

    bound = through_nova("arq bind", arq, *where).data
    unbound = through_nova("arq unbind", arq).data
    deleted = through_nova("arq delete", arq, shown=False)

    assert (bound["state"], bound["instance_uuid"]) == ("Bound", instance)
    assert bound["attach_handle_type"] == "TEST_PCI"
    assert cloud.neighbours.events_of(instance, {arq}) == {arq: "completed"}
    assert (unbound["state"], unbound["instance_uuid"]) == ("Unbound", None)
    assert deleted.status == 0, deleted.errors


def test_a_bind_without_a_service_token_says_what_is_missing(cloud, member, profile, instance):
    cloud.neighbours.declare_server(instance, "server-of-a-test")
    arq = member("arq create", profile["name"]).data["uuid"]
    where = [clouds.HOST, instance, cloud.device_provider()]
    if member.name == "cyborgclient":
        where.append("a-project")

    refused = member("arq bind", arq, *where)
    member("arq delete", arq, shown=False)

    assert refused.status != 0
    assert "service token" in refused.errors


def test_devices_are_listed_and_shown(admin):
    device, = admin("device list").data
    long, = admin("device list", "--long").data
    shown = admin("device show", device["uuid"]).data
    missing = admin("device show", str(uuid.uuid4()))

    assert (device["type"], device["vendor"], device["hostname"]) == (
        "FPGA", "0xABCD", clouds.HOST)
    assert long["status"] == shown["status"] == "enabled"
    assert shown["uuid"] == device["uuid"]
    assert missing.status != 0


def test_a_device_is_disabled_and_enabled(admin):
    device, = admin("device list").data

    disabled = admin("device disable", device["uuid"], shown=False)
    status_between = admin("device show", device["uuid"]).data["status"]
    enabled = admin("device enable", device["uuid"], shown=False)

    assert (disabled.status, enabled.status) == (0, 0), disabled.errors + enabled.errors
    assert status_between == "maintaining"
    assert admin("device show", device["uuid"]).data["status"] == "enabled"


def test_deployables_are_listed_and_shown(admin):
    deployable, = admin("deployable list").data
    long, = admin("deployable list", "--long").data
    shown = admin("deployable show", deployable["uuid"]).data

    assert long["num_accelerators"] == 16
    assert shown["name"] == deployable["name"] == long["name"]


def test_programming_what_cannot_be_programmed_fails_without_a_change(admin):
    deployable, = admin("deployable list").data

    refused = admin("deployable program", deployable["uuid"], str(uuid.uuid4()))

    assert refused.status != 0
    if admin.name == "openstackclient":  # the other one never gets as far as a request
        assert "program" in refused.errors
        assert "409" in refused.errors or "cannot be programmed" in refused.errors


def test_an_attribute_is_created_listed_shown_and_deleted(admin):
    deployable = str(admin("device attribute list").data[0]["deployable_id"])

    made = admin("device attribute create", deployable, "room", "north").data
    listed = {row["uuid"]: row for row in admin("device attribute list", "--long").data}
    shown = admin("device attribute show", made["uuid"]).data
    deleted = admin("device attribute delete", made["uuid"], shown=False)
    gone = admin("device attribute show", made["uuid"])

    assert (made["key"], made["value"]) == ("room", "north")
    assert listed[made["uuid"]]["value"] == "north"
    assert shown["value"] == "north"
    assert deleted.status == 0, deleted.errors
    assert gone.status != 0


def test_every_command_of_the_program_is_one_of_these_tests(client_environments):
    """A later client may bring commands that nobody has tried."""
    source = pathlib.Path(__file__).read_text(encoding="utf-8")

    for name in ("cyborgclient", "openstackclient"):
        environment = client_environments[name]
        listing = processes.run(
            [environment.program("openstack"), "command", "list", "-f", "json", "--group",
             "openstack.accelerator"], within_s=COMMAND_LIMIT_S)
        commands = [command.removeprefix("accelerator ")
                    for group in json.loads(listing.stdout) for command in group["Commands"]]
        assert len(commands) == 21
        assert [command for command in commands if f'"{command}"' not in source] == []
