# SPDX-License-Identifier: Apache-2.0
"""`openstack accelerator ...` with our plugin: real processes that ask a service that runs.

A process takes a second, so each test follows one noun through several commands.
"""

from __future__ import annotations

import configparser
import csv
import http.server
import io
import json
import pathlib
import threading
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli import conftest
from tests.fixtures import command_line
from tests.fixtures import environments
from tests.fixtures import json_handler

MISSING = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"


def rows(result: command_line.Result) -> list[dict[str, str]]:
    """Return what `-f csv` wrote."""
    assert (result.status, result.errors) == (0, "")
    return list(csv.DictReader(io.StringIO(result.out)))


# --- devices ----------------------------------------------------------------------------------


def test_devices_are_listed_page_after_page_filtered_and_limited(openstack, service):
    first, second, third = sorted({
        device["uuid"] for order in ("asc", "desc")
        for device in service.get(f"/devices?sort=uuid:{order}")["devices"]})

    listed = openstack.several(
        "device list --long -f json",
        "device list --limit 2 --sort uuid:desc -f json",
        f"device list --marker {second} --sort uuid:desc -f json",
        f"device list --limit {conftest.PAGE + 1} --sort uuid:asc -f json",
        "device list --host elsewhere --type FPGA --vendor 0xABCD -f json")

    everything, two, after, more_than_a_page, elsewhere = listed.documents
    assert listed.errors == ""
    assert {device["uuid"] for device in everything} == {first, second, third}
    assert (everything[0]["status"], everything[0]["host_state"]) == ("enabled", "up")
    assert everything[0]["driver_name"] == "fake_driver"
    assert [device["uuid"] for device in two] == [third, second]
    assert [device["uuid"] for device in after] == [first]
    assert [device["uuid"] for device in more_than_a_page] == [first, second, third]
    assert elsewhere == []


def test_a_device_is_disabled_with_a_reason_that_show_tells_and_enabled(openstack, service):
    device = service.get("/devices")["devices"][0]["uuid"]

    disabled = openstack("device disable", device, MISSING, "--reason", "fan is replaced")
    others = openstack.several(f"device show {device} -f json", f"device enable {device}",
                               f"device clean {device}")

    shown, = others.documents
    assert disabled.refusal == (
        f"1 of 2 failed: Device {MISSING} does not exist. (HTTP 404)")
    assert others.errors == ""
    assert (shown["status"], shown["status_reason"]) == ("maintaining", "fan is replaced")
    assert shown["disabled_at"]
    assert shown["deployables"][0]["attach_handles"]["total"] == 2
    assert service.get(f"/devices/{device}")["status"] == "enabled"


def test_a_device_that_is_not_there_fails_the_command_with_one_line(openstack):
    refused = openstack.several(
        *(f"{command} {MISSING}" for command in ("device enable", "device clean", "device show")))

    assert refused.errors.splitlines() == [f"Device {MISSING} does not exist. (HTTP 404)"] * 3
    assert refused.out.strip() == ""


# --- device profiles --------------------------------------------------------------------------


def test_a_profile_is_changed_by_options_when_its_etag_and_tests_hold(openstack, service, profile):
    name, path = profile["name"], f"/device_profiles/{profile['uuid']}"
    before = openstack("device profile show", name, "-f", "json").data

    changes = openstack.several(
        f"device profile set {name} --if-match {before['etag']} --test /description=as-made "
        "--description changed --key 0:resources:FPGA=1 "
        "--add-group resources:FPGA=3,trait:CUSTOM_A=forbidden",
        f"device profile set {name} --if-match {before['etag']} --name other",
        f"device profile unset {name} --test /description=as-made --description",
        f"device profile set {name} --test /description=changed")
    after_set = service.get(path)["device_profile"]
    removed = openstack("device profile unset", name, "--description", "--group", "1", "--key",
                        "0:trait:CUSTOM_FAKE_DEVICE")
    after_unset = service.get(path)["device_profile"]

    stale, untrue, nothing = changes.errors.splitlines()
    assert before["description"] == "as-made"
    assert "usage" not in before
    assert "has the tag" in stale
    assert "(HTTP 412)" in stale
    assert "(HTTP 412)" in untrue
    assert "Nothing to change" in nothing
    assert (after_set["name"], after_set["description"]) == (name, "changed")
    assert after_set["groups"] == [
        {"resources:FPGA": "1", "trait:CUSTOM_FAKE_DEVICE": "required"},
        {"resources:FPGA": "3", "trait:CUSTOM_A": "forbidden"}]
    assert (removed.status, removed.out, removed.errors) == (0, "", "")
    assert (after_unset["description"], after_unset["groups"]) == (None, [{"resources:FPGA": "1"}])


def test_a_malformed_option_is_a_mistake_of_use(openstack, profile):
    malformed = openstack("device profile set", profile["name"], "--group", "resources:FPGA")

    assert malformed.status == 2
    assert "'resources:FPGA' is not <key>=<value>" in malformed.errors


def test_a_profile_shows_what_the_cloud_has_for_it(openstack, profile):
    shown = openstack("device profile show", profile["uuid"], "--usage")

    assert (shown.status, shown.errors) == (0, "")
    assert "0: resources:FPGA=2, trait:CUSTOM_FAKE_DEVICE=required" in shown.out
    assert "not in use" in shown.out
    assert "0: total 6, free 6, used 0, reserved 0, providers 3, hosts 1; ARQs: none" in shown.out


def test_profiles_of_the_client_s_own_commands_are_listed_by_ours(openstack):
    commands = openstack.several(
        "device profile create cli-own --group resources:FPGA=1 -f json",
        "device profile list --name cli-own --name cli-none --long -f json",
        "device profile delete cli-own",
        "device profile list --name cli-own -f json")

    made, listed, gone = commands.documents
    assert commands.errors == ""
    assert [profile["uuid"] for profile in listed] == [made["uuid"]]
    assert listed[0]["groups"] == [{"resources:FPGA": "1"}]
    assert gone == []


# --- accelerator requests ---------------------------------------------------------------------


def test_all_arqs_that_are_created_are_told_listed_and_deleted(openstack, profile):
    made = openstack("arq create", profile["name"], "-f", "value", "-c", "uuid")
    first, second = made.out.strip(), made.errors.split()[-1]
    commands = openstack.several(
        f"arq create {profile['name']} -f json",
        f"arq list --device-profile {profile['name']} --state Initial --state Bound --long "
        "-f json",
        f"arq list --device-profile {profile['name']} --limit 1 --sort uuid -f json",
        f"arq show {second} -f json",
        f"arq delete {first} {second}",
        f"arq delete {first}")

    more, listed, limited, shown = commands.documents
    told, refused = commands.errors.splitlines()
    uuids = {first, second, more["uuid"], told.split()[-1]}
    assert "2 accelerator requests were created" in made.errors
    assert {arq["uuid"] for arq in listed} == uuids
    assert len(uuids) == 4 > conftest.PAGE
    assert {arq["project_id"] for arq in listed} == {"noauth"}
    assert [arq["uuid"] for arq in limited] == [min(uuids)]
    assert (shown["uuid"], shown["state"]) == (second, "Initial")
    assert refused == f"Accelerator request {first} does not exist. (HTTP 404)"


@pytest.fixture
def bound(service: conftest.Service, profile: dict[str, Any]) -> Iterator[list[str]]:
    """The instances of two ARQs that are bound."""
    as_nova = {"X-Service-Roles": "service"}
    arqs = service.ask("POST", "/accelerator_requests", {
        "device_profile_name": profile["name"]})["arqs"]
    provider = service.get("/deployables")["deployables"][0]["rp_uuid"]
    instances = [str(uuid.uuid4()) for _ in arqs]
    service.ask("PATCH", "/accelerator_requests", {
        arq["uuid"]: [{"op": "add", "path": f"/{key}", "value": value} for key, value in (
            ("hostname", "here"), ("device_rp_uuid", provider), ("instance_uuid", instance))]
        for arq, instance in zip(arqs, instances, strict=True)}, **as_nova)
    yield instances
    for instance in instances:
        service.ask("DELETE", f"/accelerator_requests?instance={instance}", **as_nova)


def test_arqs_of_several_instances_on_a_host_are_listed(openstack, service, bound):
    first, second = bound
    listed = openstack.several(
        f"arq list --instance {first} --instance {second} --host here -f json",
        f"arq list --instance {second} -f json",
        f"arq list --project {MISSING} --resource-provider {OTHER} -f json")

    both, one, of_nobody = listed.documents
    assert listed.errors == ""
    assert sorted(arq["instance_uuid"] for arq in both) == sorted(bound)
    assert both[0]["attach_handle_type"] == "TEST_PCI"
    assert both[0]["attach_handle_info"]["bus"]
    assert [arq["instance_uuid"] for arq in one] == [second]
    assert of_nobody == []


def test_both_sets_of_a_migration_are_told_apart(openstack, service, bound):
    as_nova = {"X-Service-Roles": "service", "OpenStack-API-Version": "accelerator 2.9"}
    old, = service.get(f"/accelerator_requests?instance={bound[0]}")["arqs"]
    new, spare = service.ask("POST", "/accelerator_requests", {
        "device_profile_name": old["device_profile_name"]})["arqs"]
    other = next(deployable["rp_uuid"] for deployable in service.get("/deployables")["deployables"]
                 if deployable["rp_uuid"] != old["device_rp_uuid"])
    service.ask("PATCH", "/accelerator_requests", {
        new["uuid"]: [{"op": "add", "path": f"/{key}", "value": value} for key, value in (
            ("hostname", "here"), ("device_rp_uuid", other),
            ("instance_uuid", bound[0]), ("migration_uuid", MISSING),
            ("migration_type", "cold"))]}, **as_nova)

    listed = openstack.several(
        f"arq list --instance {bound[0]} -f json", f"arq list --migration {MISSING} -f json",
        "arq list --state Bound --long -f json", f"arq show {new['uuid']} -f json",
        f"arq delete {spare['uuid']} --migration {MISSING}",
        f"arq delete --instance {bound[0]} --migration {MISSING}",
        f"arq delete {spare['uuid']}")
    older = openstack("arq list", "--migration", MISSING, OS_ACCELERATOR_API_VERSION="2.8")

    both, inactive, active, shown = listed.documents
    alone, token = listed.errors.splitlines()
    assert {arq["uuid"]: (arq["active"], arq["migration_uuid"]) for arq in both} == {
        old["uuid"]: (True, None), new["uuid"]: (False, MISSING)}
    assert [arq["uuid"] for arq in inactive] == [new["uuid"]]
    assert {arq["active"] for arq in active} == {True}
    assert new["uuid"] not in {arq["uuid"] for arq in active}
    assert shown["migration_uuid"] == MISSING
    assert alone == "--migration needs --instance beside it."
    assert "--service-cloud" in token
    assert "--migration: microversion 2.9 of the accelerator API is needed" in older.refusal


def test_what_needs_a_service_token_says_how_to_give_one(openstack, service, bound):
    arq = service.get(f"/accelerator_requests?instance={bound[0]}")["arqs"][0]

    bind = openstack("arq bind", arq["uuid"], "here", bound[0], arq["device_rp_uuid"])
    others = openstack.several(f"arq unbind {arq['uuid']}", f"arq delete --instance {bound[0]}",
                               "arq delete")

    unbind, delete, neither = others.errors.splitlines()
    for refused in (bind.refusal, unbind, delete):
        assert "requires a service token" in refused
        assert "--service-cloud" in refused
    assert "either" in neither
    assert service.get(f"/accelerator_requests/{arq['uuid']}")["state"] == "Bound"


# --- services ---------------------------------------------------------------------------------


def test_services_are_listed_and_an_agent_is_disabled_by_the_name_of_its_host(openstack, service):
    disabled = openstack("service set", "here", "--disable", "--disable-reason", "new fan")
    commands = openstack.several(
        "service list --binary cyborg-lite-agent --long -f json",
        "service list --status enabled --state up -f json",
        "service set here --enable",
        "service set nowhere --enable",
        f"service set {MISSING} --disable",
        "service set here --enable --disable-reason none",
        "service list --host here --status disabled -f json")

    agents, enabled, left = commands.documents
    nowhere, missing, contrary = commands.errors.splitlines()
    agent, = agents
    assert (disabled.status, disabled.out, disabled.errors) == (0, "", "")
    assert (agent["host"], agent["state"], agent["status"]) == ("here", "up", "disabled")
    assert (agent["disabled_reason"], agent["drivers"]) == ("new fan", ["fake_driver"])
    assert [each["binary"] for each in enabled] == ["cyborg-lite-conductor"]
    assert left == []
    assert "No agent speaks for a host 'nowhere'" in nowhere
    assert "(HTTP 404)" in missing
    assert contrary == "--disable-reason needs --disable beside it."


# --- deployables and attributes ---------------------------------------------------------------


def test_deployables_are_listed_shown_by_name_and_not_programmed(openstack):
    listed = rows(openstack("deployable list", "--long", "--sort", "name", "-f", "csv"))
    refused = openstack("deployable program", "here_FakeDevice_1", MISSING)
    others = openstack.several(
        "deployable show here_FakeDevice_1 -f json", "deployable show nowhere",
        "deployable list --name here_FakeDevice -f json")

    shown, named = others.documents
    assert [row["name"] for row in listed] == [
        "here_FakeDevice", "here_FakeDevice_1", "here_FakeDevice_2"]
    assert {row["num_accelerators"] for row in listed} == {"2"}
    assert shown["rp_uuid"] == listed[1]["rp_uuid"]
    assert json.loads(shown["attributes_list"])
    assert [deployable["name"] for deployable in named] == ["here_FakeDevice"]
    assert "No deployables have the name 'nowhere'" in others.errors
    assert "cannot be programmed" in refused.refusal
    assert "(HTTP 409)" in refused.refusal


def test_attributes_are_created_set_listed_and_unset_by_the_deployable_s_name(openstack):
    on = "here_FakeDevice_2"
    commands = openstack.several(
        f"device attribute create {on} room north -f json",
        f"device attribute set {on} room=south trait1=CUSTOM_RACK_12",
        f"device attribute set {on} trait1=no-trait",
        f"device attribute list --deployable {on} --long -f json",
        f"device attribute unset {on} room trait1",
        f"device attribute list --deployable {on} -f json",
        f"device attribute unset {on} room")

    made, listed, left = commands.documents
    refused, missing = commands.errors.splitlines()
    after_set = {attribute["key"]: attribute["value"] for attribute in listed}
    assert (made["key"], made["value"]) == ("room", "north")
    assert {attribute["deployable_id"] for attribute in listed} == {made["deployable_id"]}
    assert (after_set["room"], after_set["trait1"]) == ("south", "CUSTOM_RACK_12")
    assert "(HTTP 400)" in refused
    assert {attribute["key"] for attribute in left} == {"rc", "trait0"}
    assert missing.startswith(f"Deployable {on} has no attribute room; it has rc, trait0")


# --- versions ---------------------------------------------------------------------------------


def test_a_version_that_the_user_chose_is_too_old_for_some_options(openstack, profile):
    fixed = {"OS_ACCELERATOR_API_VERSION": "2.3"}

    refused = openstack("device profile set", profile["name"], "--name", "new", **fixed)
    shown = openstack("device profile show", profile["name"], "-f", "json", **fixed).data

    assert refused.refusal == (
        "Changing a device profile: microversion 2.4 of the accelerator API is needed; "
        "--os-accelerator-api-version asks for 2.3. Give it 2.4 or later, or leave it out.")
    assert shown["name"] == profile["name"]
    assert "etag" not in shown


class OldService(json_handler.JsonHandler):
    """A service of before 2.4, with no devices."""

    def do_GET(self) -> None:
        entry = {"id": "v2.0", "status": "CURRENT", "min_version": "2.0", "max_version": "2.3",
                 "links": [{"rel": "self", "href": f"http://{self.headers['Host']}/v2"}]}
        body: Any = {"versions": [entry]}
        if self.path == "/v2/devices":
            body = {"devices": []}
        self.reply(200, body)


@pytest.fixture
def old_service() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OldService) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v2"
        server.shutdown()
        thread.join()


def test_a_service_that_is_too_old_is_named_as_the_reason(
        program: Callable[..., command_line.OpenStack], old_service: str) -> None:
    openstack = program(old_service)

    done = openstack.several(
        "arq list --host here --state Bound", "device list -f json",
        f"device disable {MISSING} --reason fan", f"device clean {MISSING}",
        f"device partition list {MISSING}", f"device partition show {MISSING}",
        f"device partition set {MISSING} --layout empty", f"arq list --migration {MISSING}",
        "service list", "service set here --disable", "orphan list", f"orphan show {MISSING}",
        f"orphan clean {MISSING}", "orphan sweep", "orphan sweep show")

    assert done.errors.splitlines() == [
        f"{what}: microversion 2.{since} of the accelerator API is needed; this service speaks up "
        "to 2.3. Upgrade the service, or do without." for what, since in (
            ("--state and --host", 5), ("--reason", 7), ("Cleaning a device", 7),
            *[("Partitions of a device", 8)] * 3, ("--migration", 9), *[("Services", 10)] * 2,
            *[("Orphans", 10)] * 5)]
    assert done.documents == [[]]


# --- beside the client's own ------------------------------------------------------------------


def our_commands() -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(environments.CHECKOUT / "setup.cfg")
    return [line.partition(" = ")[0].replace("_", " ") for line in
            parser["entry_points"]["openstack.extension"].splitlines() if line]


def test_completion_knows_our_commands_and_options_and_nothing_is_said_twice(openstack):
    completion = openstack.run("complete")

    assert (completion.status, completion.errors) == (0, "")
    offered = dict(line.strip().split("='", 1) for line in completion.out.splitlines()
                   if line.startswith("  cmds_accelerator"))
    for command in our_commands():
        assert f"cmds_{command.replace(' ', '_')}" in offered
    assert offered["cmds_accelerator_device"] == (
        "attribute clean disable enable list partition profile show'")
    assert "--reason" in offered["cmds_accelerator_device_disable"]
    # a command that is the client's own still
    assert "--group" in offered["cmds_accelerator_device_profile_create"]


def test_the_help_of_every_command_shows_an_example_on_one_line(openstack):
    helped = openstack.run(given="".join(f"help {command}\n" for command in our_commands()))

    for command in our_commands():
        longer = tuple(f"  openstack {other} " for other in our_commands()
                       if other.startswith(f"{command} "))
        examples = [line for line in helped.out.splitlines()
                    if line.startswith(f"  openstack {command} ") and not line.startswith(longer)]
        assert len(examples) == 1, command
        assert f"usage: {command} " in helped.out


def test_every_command_of_ours_is_run_by_one_of_these_tests():
    source = "".join(path.read_text() for path in pathlib.Path(__file__).parent.glob("test_*.py"))

    named = [command.removeprefix("accelerator ") for command in our_commands()]
    assert [name for name in named if f'"{name}' not in source] == []
