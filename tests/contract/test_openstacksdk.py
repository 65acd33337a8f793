# SPDX-License-Identifier: Apache-2.0
"""The accelerator proxy of openstacksdk, every method that it has.

What the service answers in detail is tested elsewhere; here, what the client makes of it.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import openstack
import pytest
from keystoneauth1 import session as ks_session
from keystoneauth1.service_token import ServiceTokenAuthWrapper
from openstack import exceptions

from tests.contract import cloud as clouds

GROUPS = [{"resources:FPGA": "1", "trait:CUSTOM_FAKE_DEVICE": "required"}]


def connect(session: ks_session.Session, version: str | None = "2.3") -> Any:
    """Return the accelerator proxy of a connection that logs in like `session`."""
    return openstack.connection.Connection(
        session=session, accelerator_default_microversion=version).accelerator


@pytest.fixture(scope="module")
def admin(cloud: clouds.Cloud) -> Any:
    return connect(cloud.keystone.session("admin", "admin"))


@pytest.fixture(scope="module")
def member(cloud: clouds.Cloud) -> Any:
    return connect(cloud.keystone.session("demo", "demo"))


@pytest.fixture(scope="module")
def member_through_nova(cloud: clouds.Cloud) -> Any:
    """Return the proxy of the user demo, with Nova's service token beside."""
    return connect(ks_session.Session(auth=ServiceTokenAuthWrapper(
        cloud.keystone.session("demo", "demo").auth,
        cloud.keystone.session("nova", "service").auth)))


@pytest.fixture
def profile(admin: Any) -> Iterator[Any]:
    made = admin.create_device_profile(
        name=f"sdk-{uuid.uuid4().hex[:8]}", groups=GROUPS, description="of a test")
    yield made
    admin.delete_device_profile(made)


@pytest.fixture
def arq(member: Any, member_through_nova: Any, profile: Any) -> Iterator[Any]:
    made = member.create_accelerator_request(device_profile_name=profile.name)
    yield made
    # a test may have tried to bind it, and then only Nova may delete it
    member_through_nova.delete_accelerator_request(made)


@pytest.fixture
def bound_arq(cloud: clouds.Cloud, member_through_nova: Any, profile: Any,
              instance: str) -> Iterator[Any]:
    made = member_through_nova.create_accelerator_request(device_profile_name=profile.name)
    member_through_nova.patch_accelerator_request(made.uuid, bind_patch(cloud, instance))
    yield made
    member_through_nova.delete_accelerator_request(made)


def bind_patch(cloud: clouds.Cloud, instance: str) -> list[dict[str, str]]:
    values = {"hostname": clouds.HOST, "device_rp_uuid": cloud.device_provider(),
              "instance_uuid": instance}
    return [{"op": "add", "path": f"/{name}", "value": value} for name, value in values.items()]


UNBIND_PATCH = [{"op": "remove", "path": f"/{name}"}
                for name in ("hostname", "device_rp_uuid", "instance_uuid")]


# --- discovery --------------------------------------------------------------------------------


def test_discovery_finds_api_version_2_and_its_microversions(cloud):
    endpoint = cloud.keystone.session("demo", "demo").auth.get_endpoint_data(
        cloud.keystone.session("demo", "demo"), service_type="accelerator")

    assert endpoint.api_version == (2, 0)
    assert endpoint.min_microversion == (2, 0)
    assert endpoint.max_microversion >= (2, 3)


# --- device profiles --------------------------------------------------------------------------


def test_a_created_device_profile_has_what_was_asked_for(profile):
    assert uuid.UUID(profile.uuid)
    assert profile.id == profile.uuid
    assert (profile.groups, profile.description) == (GROUPS, "of a test")
    assert profile.created_at


def test_a_device_profile_is_found_by_uuid_and_from_2_2_by_name(cloud, admin, profile):
    assert admin.get_device_profile(profile.uuid).name == profile.name
    assert admin.get_device_profile(profile.name).uuid == profile.uuid
    with pytest.raises(exceptions.NotFoundException):
        admin.get_device_profile(str(uuid.uuid4()))


def test_device_profiles_are_listed_and_filtered_by_name(member, profile):
    assert profile.uuid in {found.uuid for found in member.device_profiles()}
    assert [found.uuid for found in member.device_profiles(name=profile.name)] == [profile.uuid]


def test_a_member_may_not_create_a_device_profile(member):
    with pytest.raises(exceptions.ForbiddenException) as refusal:
        member.create_device_profile(name="sdk-forbidden", groups=GROUPS)

    assert "cyborg:device_profile:create" in str(refusal.value)


def test_a_taken_name_is_a_conflict_that_names_it(admin, profile):
    with pytest.raises(exceptions.ConflictException) as refusal:
        admin.create_device_profile(name=profile.name, groups=GROUPS)

    assert profile.name in str(refusal.value)


def test_deleting_a_missing_device_profile_is_ignored_or_not_as_asked(admin):
    missing = str(uuid.uuid4())

    assert admin.delete_device_profile(missing) is None
    with pytest.raises(exceptions.NotFoundException):
        admin.delete_device_profile(missing, ignore_missing=False)


def test_a_deleted_device_profile_is_gone(admin):
    made = admin.create_device_profile(name="sdk-short-lived", groups=GROUPS)

    admin.delete_device_profile(made.uuid, ignore_missing=False)

    assert made.uuid not in {found.uuid for found in admin.device_profiles()}


def test_wait_for_delete_returns_once_the_profile_is_gone(admin):
    made = admin.create_device_profile(name="sdk-waited-for", groups=GROUPS)
    admin.delete_device_profile(made)

    assert admin.wait_for_delete(made, interval=0, wait=5) is made


# --- accelerator requests ---------------------------------------------------------------------


def test_a_new_arq_is_initial_and_belongs_to_its_project(cloud, member, profile, arq):
    assert (arq.state, arq.device_profile_name) == ("Initial", profile.name)
    assert arq.device_profile_group_id == 0
    other = connect(cloud.keystone.session("other", "other"))
    assert arq.uuid in {found.uuid for found in member.accelerator_requests()}
    assert arq.uuid not in {found.uuid for found in other.accelerator_requests()}
    with pytest.raises(exceptions.NotFoundException):
        other.get_accelerator_request(arq.uuid)


def test_an_arq_of_an_unknown_profile_is_refused(member):
    with pytest.raises(exceptions.NotFoundException) as refusal:
        member.create_accelerator_request(device_profile_name="no-such-profile")

    assert "no-such-profile" in str(refusal.value)


def test_deleting_a_missing_arq_is_ignored_or_not_as_asked(member):
    missing = str(uuid.uuid4())

    assert member.delete_accelerator_request(missing) is None
    with pytest.raises(exceptions.NotFoundException):
        member.delete_accelerator_request(missing, ignore_missing=False)


@pytest.mark.parametrize("method", ["patch_accelerator_request", "update_accelerator_request"])
def test_a_bind_gives_a_handle_and_an_unbind_takes_it_back(
        cloud, member_through_nova, arq, instance, method):
    patch = getattr(member_through_nova, method)

    with warnings.catch_warnings(action="ignore"):
        patch(arq.uuid, bind_patch(cloud, instance))
        assert cloud.neighbours.events_of(instance, {arq.uuid}) == {arq.uuid: "completed"}
        bound = member_through_nova.get_accelerator_request(arq.uuid)
        patch(arq.uuid, UNBIND_PATCH)
    unbound = member_through_nova.get_accelerator_request(arq.uuid)

    assert (bound.state, bound.hostname, bound.instance_uuid) == ("Bound", clouds.HOST, instance)
    assert bound.attach_handle_type == "TEST_PCI"
    assert bound.attach_handle_info
    assert (unbound.state, unbound.instance_uuid) == ("Unbound", None)
    assert not unbound.attach_handle_type


def test_arqs_are_filtered_by_instance_and_by_being_resolved(member_through_nova, bound_arq,
                                                             instance):
    found = member_through_nova.accelerator_requests(instance=instance, bind_state="resolved")

    assert [arq.uuid for arq in found] == [bound_arq.uuid]


def test_a_bind_without_a_service_token_is_forbidden_and_says_so(cloud, member, arq, instance):
    with pytest.raises(exceptions.ForbiddenException) as refusal:
        member.patch_accelerator_request(arq.uuid, bind_patch(cloud, instance))

    assert "service token" in str(refusal.value)
    assert member.get_accelerator_request(arq.uuid).state == "Initial"


def test_a_bound_arq_is_not_deleted_without_a_service_token(member, bound_arq):
    with pytest.raises(exceptions.ForbiddenException):
        member.delete_accelerator_request(bound_arq.uuid, ignore_missing=False)

    assert member.get_accelerator_request(bound_arq.uuid).state == "Bound"


# --- devices ----------------------------------------------------------------------------------


def test_devices_are_listed_shown_and_filtered(admin):
    device, = admin.devices(hostname=clouds.HOST)

    assert (device.type, device.vendor, device.hostname) == ("FPGA", "0xABCD", clouds.HOST)
    assert device.status == "enabled"
    assert admin.get_device(device.uuid).to_dict() == device.to_dict()
    for query in ({"type": "FPGA"}, {"vendor": "0xABCD"}):
        assert [found.uuid for found in admin.devices(**query)] == [device.uuid]
    assert list(admin.devices(hostname="elsewhere")) == []
    with pytest.raises(exceptions.NotFoundException):
        admin.get_device(str(uuid.uuid4()))


def test_a_disabled_device_offers_nothing_until_it_is_enabled(
        cloud, admin, member_through_nova, arq, instance, inventory):
    device, = admin.devices()
    provider = cloud.device_provider()
    assert inventory(provider)["reserved"] == 0

    admin.disable_device(device.uuid)
    try:
        status_between = admin.wait_for_status(
            device, "maintaining", interval=0, wait=5).status
        full = inventory(provider, reserved=16)
        patch = bind_patch_to(provider, instance)
        with pytest.raises(exceptions.HttpException) as refusal:
            member_through_nova.patch_accelerator_request(arq.uuid, patch)
    finally:
        admin.enable_device(device)

    assert admin.wait_for_status(device, "enabled", interval=0, wait=5).status == "enabled"
    assert status_between == "maintaining"
    assert full["total"] == 16
    assert refusal.value.status_code == 409
    assert inventory(provider, reserved=0)["total"] == 16


def bind_patch_to(provider: str, instance: str) -> list[dict[str, str]]:
    return [{"op": "add", "path": "/hostname", "value": clouds.HOST},
            {"op": "add", "path": "/device_rp_uuid", "value": provider},
            {"op": "add", "path": "/instance_uuid", "value": instance}]


@pytest.fixture
def inventory(cloud: clouds.Cloud) -> Callable[..., dict[str, Any]]:
    """Return a function: the provider's FPGA inventory, once `reserved` is what is given."""
    def read(provider: str, reserved: int | None = None) -> dict[str, Any]:
        def matches() -> Any:
            found = cloud.placement().get(
                f"/resource_providers/{provider}/inventories").json()["inventories"]["FPGA"]
            return found if reserved in (None, found["reserved"]) else None
        return cloud.processes["conductor"].wait_until(
            matches, 30, f"make reserved {reserved} in Placement")
    return read


# --- deployables ------------------------------------------------------------------------------


def test_deployables_are_listed_and_shown(cloud, admin):
    deployable, = admin.deployables()

    assert uuid.UUID(deployable.id)
    assert deployable.num_accelerators == 16
    assert isinstance(deployable.device_id, int)
    assert admin.get_deployable(deployable.id).name == deployable.name
    with pytest.raises(exceptions.NotFoundException):
        admin.get_deployable(str(uuid.uuid4()))


def test_programming_what_cannot_be_programmed_is_a_conflict_with_the_reason(admin):
    deployable, = admin.deployables()
    patch = [{"op": "replace", "path": "/program", "value": [{"image_uuid": str(uuid.uuid4())}]}]

    with pytest.raises(exceptions.ConflictException) as refusal:
        admin.patch_deployable(deployable.id, patch)

    assert "program" in str(refusal.value)


# --- attributes -------------------------------------------------------------------------------


def deployable_number(cloud: clouds.Cloud) -> int:
    """Return the number that attributes refer to; the proxy does not show it."""
    shown = cloud.accelerator("admin", "admin").get("/attributes").json()["attributes"]
    return int(shown[0]["deployable_id"])


def test_an_attribute_is_created_listed_shown_and_deleted(cloud, admin):
    made = admin.create_attribute(
        deployable_id=deployable_number(cloud), key="location", value="rack 7")

    listed = {found.uuid: found for found in admin.attributes()}
    filtered = list(admin.attributes(key="location"))
    shown = admin.get_attribute(made.uuid)
    admin.delete_attribute(made, ignore_missing=False)

    assert listed[made.uuid].value == "rack 7"
    assert [found.uuid for found in filtered] == [made.uuid]
    assert (shown.key, shown.value) == ("location", "rack 7")
    with pytest.raises(exceptions.NotFoundException):
        admin.get_attribute(made.uuid)


def test_deleting_a_missing_attribute_is_ignored_or_not_as_asked(admin):
    missing = str(uuid.uuid4())

    assert admin.delete_attribute(missing) is None
    with pytest.raises(exceptions.NotFoundException):
        admin.delete_attribute(missing, ignore_missing=False)


def test_an_attribute_that_is_a_trait_reaches_placement(cloud, admin):
    provider = cloud.device_provider()

    def traits() -> list[str]:
        return cloud.placement().get(f"/resource_providers/{provider}/traits").json()["traits"]

    made = admin.create_attribute(
        deployable_id=deployable_number(cloud), key="trait_rack", value="CUSTOM_RACK_7")
    cloud.processes["conductor"].wait_until(
        lambda: "CUSTOM_RACK_7" in traits(), 30, "set the trait in Placement")
    admin.delete_attribute(made)

    cloud.processes["conductor"].wait_until(
        lambda: "CUSTOM_RACK_7" not in traits(), 30, "take the trait out of Placement")
    assert {"OWNER_CYBORG", "CUSTOM_FAKE_DEVICE"} <= set(traits())
