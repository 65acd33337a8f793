# SPDX-License-Identifier: Apache-2.0
"""Nova's own accelerator client, in the order of calls in which Nova's operations make them.

Nova runs in an environment of its own; it sends the user's token and its service token, and no
microversion. Placement is asked and claimed from as the scheduler does it.
"""

from __future__ import annotations

import configparser
import json
import pathlib
import subprocess
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract import cloud as clouds
from tests.fixtures import environments
from tests.fixtures import keystone
from tests.fixtures import processes

DRIVER = pathlib.Path(__file__).with_name("nova_driver.py")
TWO_GROUPS = [{"resources:FPGA": "2", "trait:CUSTOM_FAKE_DEVICE": "required"},
              {"resources:FPGA": "1", "trait:CUSTOM_FAKE_DEVICE": "required",
               "accel:note": "Nova passes over this key"}]


class Refused(Exception):
    """What Nova's client raised: the name of its exception, then its text."""


class Nova:
    """Nova's accelerator client on behalf of one user at a time."""

    def __init__(self, environment: environments.Environment, cloud: clouds.Cloud,
                 directory: pathlib.Path) -> None:
        options = configparser.ConfigParser(interpolation=None)
        service = {"auth_type": "password", **cloud.keystone.auth_options("nova", "service")}
        options.read_dict({
            "service_user": {"send_service_user_token": "true", **service},
            "cyborg": {"region_name": keystone.REGION, "valid_interfaces": "internal"}})
        configuration = directory / "nova.conf"
        with configuration.open("w") as file:
            options.write(file)
        self._cloud = cloud
        self._log = (directory / "nova.log").open("w")
        self._popen = subprocess.Popen(
            [environment.python, "-P", DRIVER, configuration], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env=processes.clean_environment())
        self.user = ("demo", "demo")

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Call a function or a client method of nova.accelerator.cyborg; Refused if it raises."""
        line = {"user": self._cloud.keystone.auth_options(*self.user), "method": method,
                "arguments": arguments}
        self._popen.stdin.write(json.dumps(line) + "\n")
        self._popen.stdin.flush()
        answer = json.loads(self._popen.stdout.readline())
        if "error" in answer:
            raise Refused(f"{answer['error']}: {answer['text']}")
        return answer["result"]

    def stop(self) -> None:
        """End Nova's process."""
        self._popen.stdin.close()
        self._popen.stdout.close()
        self._popen.wait(30)
        self._log.close()


@pytest.fixture(scope="module")
def nova_process(client_environments: dict[str, environments.Environment], cloud: clouds.Cloud,
                 tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nova]:
    running = Nova(client_environments["nova"], cloud, tmp_path_factory.mktemp("nova"))
    yield running
    running.stop()


@pytest.fixture
def nova(nova_process: Nova) -> Iterator[Nova]:
    yield nova_process
    nova_process.user = ("demo", "demo")


@pytest.fixture(scope="module")
def profile(cloud: clouds.Cloud) -> Iterator[str]:
    """Return the name of a device profile that yields three ARQs in two groups."""
    name = f"nova-{uuid.uuid4().hex[:8]}"
    admin = cloud.accelerator("admin", "admin")
    made = admin.post("/device_profiles", json=[{"name": name, "groups": TWO_GROUPS}])
    assert made.status_code == 201, made.text
    yield name
    gone = admin.delete(f"/device_profiles/{name}")
    assert gone.status_code == 204, gone.text


@pytest.fixture
def schedule(cloud: clouds.Cloud, nova: Nova, profile: str,
             instance: str) -> Iterator[Callable[[], dict[str, list[str]]]]:
    """Return a function that does the scheduler's part: groups, candidates, claim.

    It returns which provider serves which group, as the conductor hands it to the client. What
    was claimed is given back at the end, and the instance's ARQs are deleted.
    """
    placement = cloud.placement()

    def claim() -> dict[str, list[str]]:
        groups = nova("get_device_profile_request_groups", profile)
        query = [("group_policy", "none")]
        for group in groups:
            suffix = f"_{group['requester_id']}"
            query += [(f"resources{suffix}", ",".join(
                f"{name}:{amount}" for name, amount in group["resources"].items())),
                (f"required{suffix}", ",".join(group["required_traits"]))]
        found = placement.get("/allocation_candidates", params=query).json()
        candidate = found["allocation_requests"][0]
        placement.put(f"/allocations/{instance}", json={
            "allocations": candidate["allocations"], "project_id": "demo", "user_id": "demo",
            "consumer_generation": None, "consumer_type": "INSTANCE"})
        return {suffix.removeprefix("_"): providers
                for suffix, providers in candidate["mappings"].items()}

    yield claim
    placement.delete(f"/allocations/{instance}", raise_exc=False)
    nova("delete_arqs_for_instance", instance)


def bindings(arqs: list[dict[str, Any]], instance: str) -> dict[str, dict[str, str]]:
    """Return what the conductor makes of ARQs that have their providers."""
    return {arq["uuid"]: {"hostname": clouds.HOST, "device_rp_uuid": arq["device_rp_uuid"],
                          "instance_uuid": instance} for arq in arqs}


def create_and_bind(cloud: clouds.Cloud, nova: Nova, profile: str, providers: dict[str, list[str]],
                    instance: str) -> set[str]:
    """Do the conductor's part up to the events; returns the ARQs' uuids."""
    arqs = nova("create_arqs_and_match_resource_providers", profile, providers)
    nova("bind_arqs", bindings(arqs, instance))
    uuids = {arq["uuid"] for arq in arqs}
    assert set(cloud.neighbours.events_of(instance, uuids).values()) == {"completed"}
    return uuids


def nova_boots(cloud: clouds.Cloud, nova: Nova, profile: str,
               schedule: Callable[[], dict[str, list[str]]], instance: str) -> set[str]:
    return create_and_bind(cloud, nova, profile, schedule(), instance)


def test_nova_reads_the_groups_of_a_device_profile(nova, profile):
    groups = nova("get_device_profile_request_groups", profile)

    assert groups == [
        {"requester_id": f"device_profile_{number}", "resources": {"FPGA": amount},
         "required_traits": ["CUSTOM_FAKE_DEVICE"], "forbidden_traits": []}
        for number, amount in ((0, 2), (1, 1))]


def test_an_unknown_device_profile_is_a_device_profile_error(nova):
    with pytest.raises(Refused, match=r"DeviceProfileError.*Expected 1 device profile"):
        nova("get_device_profile_request_groups", "no-such-profile")


def test_a_server_boots_and_its_compute_host_gets_resolved_arqs(
        cloud, nova, profile, schedule, instance):
    uuids = nova_boots(cloud, nova, profile, schedule, instance)

    resolved = nova("get_arqs_for_instance", instance, True)

    assert {arq["uuid"] for arq in resolved} == uuids
    assert len(uuids) == 3
    assert sorted(arq["device_profile_group_id"] for arq in resolved) == [0, 0, 1]
    assert {arq["state"] for arq in resolved} == {"Bound"}
    assert {arq["device_rp_uuid"] for arq in resolved} == {cloud.device_provider()}
    assert {arq["attach_handle_type"] for arq in resolved} == {"TEST_PCI"}
    addresses = [json.dumps(arq["attach_handle_info"], sort_keys=True) for arq in resolved]
    assert len(set(addresses)) == 3
    assert {"domain", "bus", "device", "function"} <= resolved[0]["attach_handle_info"].keys()


def test_nova_finds_its_arqs_again_on_reboot_and_rebuild(cloud, nova, profile, schedule, instance):
    uuids = nova_boots(cloud, nova, profile, schedule, instance)

    assert {arq["uuid"] for arq in nova("get_arqs_for_instance", instance)} == uuids
    one = next(iter(uuids))
    assert nova("get_arq_by_uuid", one)["instance_uuid"] == instance


def test_a_deleted_server_leaves_no_arq_and_a_repeated_delete_is_harmless(
        cloud, nova, profile, schedule, instance):
    nova_boots(cloud, nova, profile, schedule, instance)

    nova("delete_arqs_for_instance", instance)
    nova("delete_arqs_for_instance", instance)

    with pytest.raises(Refused, match="returned no accelerator requests"):
        nova("get_arqs_for_instance", instance)


def test_a_failed_build_is_cleaned_up_and_rescheduled(cloud, nova, profile, schedule, instance):
    providers = schedule()
    first = create_and_bind(cloud, nova, profile, providers, instance)

    nova("delete_arqs_for_instance", instance)
    nova("delete_arqs_by_uuid", sorted(first))  # gone already: Nova passes over the 404
    second = create_and_bind(cloud, nova, profile, providers, instance)

    assert not first & second
    assert {arq["uuid"] for arq in nova("get_arqs_for_instance", instance, True)} == second


def test_bound_arqs_whose_answer_was_lost_are_deleted_by_uuid(
        cloud, nova, profile, schedule, instance):
    uuids = nova_boots(cloud, nova, profile, schedule, instance)

    nova("delete_arqs_by_uuid", sorted(uuids))

    with pytest.raises(Refused, match="returned no accelerator requests"):
        nova("get_arqs_for_instance", instance)


def test_an_evacuation_by_an_administrator_leaves_arqs_that_the_tenant_finds(
        cloud, nova, profile, schedule, instance):
    providers = schedule()
    before = create_and_bind(cloud, nova, profile, providers, instance)

    nova.user = ("admin", "admin")
    assert len(nova("get_device_profile_request_groups", profile)) == 2
    nova("delete_arqs_for_instance", instance)
    after = create_and_bind(cloud, nova, profile, providers, instance)
    nova.user = ("demo", "demo")

    assert not before & after
    assert {arq["uuid"] for arq in nova("get_arqs_for_instance", instance, True)} == after


def test_a_server_is_shelved_and_unshelved(cloud, nova, profile, schedule, instance):
    nova_boots(cloud, nova, profile, schedule, instance)
    nova("get_arqs_for_instance", instance)
    nova("delete_arqs_for_instance", instance)
    cloud.placement().delete(f"/allocations/{instance}")

    unshelved = nova_boots(cloud, nova, profile, schedule, instance)

    assert {arq["uuid"] for arq in nova("get_arqs_for_instance", instance, True)} == unshelved


def test_a_bind_that_fails_is_known_at_once_and_never_served_as_resolved(
        nova, profile, schedule, instance):
    arqs = nova("create_arqs_and_match_resource_providers", profile, schedule())
    for arq in arqs:
        arq["device_rp_uuid"] = str(uuid.uuid4())

    with pytest.raises(Refused, match=r"AcceleratorRequestBindingFailed"):
        nova("bind_arqs", bindings(arqs, instance))
    with pytest.raises(Refused, match="AcceleratorRequestOpFailed"):
        nova("get_arqs_for_instance", instance, True)
    nova("delete_arqs_by_uuid", [arq["uuid"] for arq in arqs])


def test_an_event_carries_the_request_id_of_the_bind_and_a_service_users_token(
        cloud, nova, profile, schedule, instance):
    uuids = nova_boots(cloud, nova, profile, schedule, instance)

    events = cloud.neighbours.recorded(instance)

    assert {event["tag"] for event in events} == uuids
    assert {event["name"] for event in events} == {"accelerator-request-bound"}
    assert all(event["headers"].get("x-openstack-request-id", "").startswith("req-")
               for event in events)
