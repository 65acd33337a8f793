# SPDX-License-Identifier: Apache-2.0
"""Devices, deployables, attributes, profiles and clean steps on the three databases."""

from __future__ import annotations

import collections
import concurrent.futures
import datetime
from typing import Any

import pytest

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import device_detail
from cyborg_lite.db import device_profiles
from cyborg_lite.db import devices
from cyborg_lite.db import handles
from cyborg_lite.db import heartbeats
from cyborg_lite.db import models
from cyborg_lite.db import session
from cyborg_lite.db import uncleaned
from tests.fixtures import builders
from tests.fixtures import databases

# --- devices and deployables ------------------------------------------------------------------


@pytest.mark.parametrize(("query", "hosts"), [
    ({}, ["node1", "node2"]),
    ({"hostname": "node2"}, ["node2"]),
    ({"type": "GPU"}, []),
    ({"vendor": "0xABCD", "type": "FPGA", "hostname": "node1"}, ["node1"]),
])
def test_devices_are_filtered_by_type_vendor_and_host(
        database: session.Database, query: dict[str, str], hosts: list[str]) -> None:
    for host in ("node1", "node2"):
        builders.store(database, builders.a_report(host=host))

    found = devices.list_devices(database, messages.DeviceQuery(**query))

    assert [device.hostname for device in found] == hosts


def test_disabling_twice_changes_once_and_makes_the_host_due(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [device] = devices.list_devices(database, messages.DeviceQuery())

    first = devices.set_status(database, device.uuid, "maintaining")
    second = devices.set_status(database, device.uuid, "maintaining")

    assert (first, second) == (True, False)
    [host] = databases.all_rows(database, models.hosts)
    assert host["generation"] == 2


@pytest.mark.parametrize("ask", [
    lambda database, uuid: devices.get_device(database, uuid),
    lambda database, uuid: devices.set_status(database, uuid, "enabled"),
    lambda database, uuid: devices.get_deployable(database, uuid),
    lambda database, uuid: devices.get_attribute(database, uuid),
    lambda database, uuid: devices.delete_attribute(database, uuid),
    lambda database, uuid: device_profiles.get(database, uuid, None),
])
def test_what_does_not_exist_is_not_found(sqlite: session.Database, ask: object) -> None:
    unknown = builders.new_uuid()

    with pytest.raises(errors.NotFound, match=unknown):
        ask(sqlite, unknown)  # type: ignore[operator]


def test_lists_of_any_length_take_the_same_number_of_statements(
        database: session.Database) -> None:
    counts = []
    for number in (2, 50):
        builders.store(database, builders.a_report(number, handles=1))
        with databases.counted(database) as seen:
            devices.list_devices(database, messages.DeviceQuery())
            devices.list_deployables(database, messages.DeployableQuery())
            devices.list_attributes(database, None, None)
            arqs.list_arqs(database, messages.ArqQuery())
            device_profiles.list_profiles(database, None)
        counts.append(len(seen))

    assert counts == [6, 6]


# --- attributes -------------------------------------------------------------------------------


def a_deployable_id(database: session.Database) -> int:
    builders.store(database, builders.a_report())
    return devices.list_deployables(database, messages.DeployableQuery())[0].id


def test_a_key_is_unique_in_its_deployable(database: session.Database) -> None:
    deployable_id = a_deployable_id(database)
    devices.create_attribute(database, deployable_id, "rack", "7")

    with pytest.raises(errors.Duplicate, match="rack"):
        devices.create_attribute(database, deployable_id, "rack", "8")


def test_an_operator_deletes_his_attribute_and_not_the_agents(
        database: session.Database) -> None:
    deployable_id = a_deployable_id(database)
    mine = devices.create_attribute(database, deployable_id, "rack", "7")
    [agents] = devices.list_attributes(database, deployable_id, "rc")

    devices.delete_attribute(database, mine.uuid)

    assert devices.list_attributes(database, deployable_id, "rack") == []
    with pytest.raises(errors.Conflict, match="reported by the host's agent"):
        devices.delete_attribute(database, agents.uuid)


def test_an_attribute_of_no_deployable_is_not_found(database: session.Database) -> None:
    with pytest.raises(errors.NotFound, match="id 4711"):
        devices.create_attribute(database, 4711, "rack", "7")


# --- device profiles --------------------------------------------------------------------------


def test_names_and_uuids_of_profiles_are_unique(database: session.Database) -> None:
    first = builders.a_profile(database, "one")

    with pytest.raises(errors.Duplicate, match="name one"):
        builders.a_profile(database, "one")
    with pytest.raises(errors.Duplicate, match=first.uuid):
        device_profiles.create(database, messages.DeviceProfile(
            uuid=first.uuid, name="two", groups=[]))


def test_names_differ_by_case_and_by_trailing_characters(database: session.Database) -> None:
    for name in ("one", "One", "one-"):
        builders.a_profile(database, name)

    found = device_profiles.list_profiles(database, ["One", "nothing"])

    assert [profile.name for profile in found] == ["One"]


def test_of_several_profiles_those_that_can_go_are_deleted(database: session.Database) -> None:
    free, used = builders.a_profile(database, "free"), builders.a_profile(database, "used")
    arqs.create(database, "used", "project1")

    missing, in_use = device_profiles.delete(database, [used.uuid], ["free", "nothing"])

    assert (missing, in_use) == (["nothing"], [used.uuid])
    assert [profile.name for profile in device_profiles.list_profiles(database, None)] == ["used"]
    assert free.name == "free"


# --- clean steps ------------------------------------------------------------------------------


def handles_to_clean(database: session.Database, number: int) -> None:
    builders.store(database, builders.a_report(cleans=True))
    instance = builders.new_uuid()
    builders.bound_arqs(database, number, instance)
    arqs.delete_of_instance(database, instance)


def handle_states(database: session.Database) -> list[object]:
    return sorted(str(row["state"]) for row in databases.all_rows(
        database, models.attach_handles) if row["state"] != states.FREE)


def test_each_handle_is_cleaned_by_one_conductor_until_its_lease_ends(
        database: session.Database) -> None:
    handles_to_clean(database, 3)
    now = session.now()
    later = now + datetime.timedelta(seconds=61)

    first = handles.take_to_clean(database, builders.an_owner(), now, 2)
    second = handles.take_to_clean(database, builders.an_owner(), now, 100)
    third = handles.take_to_clean(database, builders.an_owner(), later, 100)

    assert [len(tasks[builders.HOST]) for tasks in (first, second, third)] == [2, 1, 3]


def test_a_handle_is_free_after_its_clean_step_and_failed_when_that_fails(
        database: session.Database) -> None:
    handles_to_clean(database, 2)
    lease = builders.an_owner()
    one, two = handles.take_to_clean(database, lease, session.now(), 100)[builders.HOST]

    handles.finish_clean(database, builders.HOST, [
        messages.HandleResult(handle_uuid=one.handle_uuid),
        messages.HandleResult(handle_uuid=two.handle_uuid, error="the disk refuses")], lease)

    assert handle_states(database) == [states.FAILED]
    failed = [row for row in databases.all_rows(database, models.attach_handles)
              if row["state"] == states.FAILED]
    assert [row["state_reason"] for row in failed] == ["the disk refuses"]


def test_a_clean_step_that_ends_after_others_took_the_handle_frees_nothing(
        database: session.Database) -> None:
    handles_to_clean(database, 1)
    slow, quick = builders.an_owner(), builders.an_owner(lease_s=600)
    handles.take_to_clean(database, slow, session.now(), 100)
    [task] = handles.take_to_clean(database, quick, slow.lease_until + datetime.timedelta(
        seconds=1), 100)[builders.HOST]
    done = [messages.HandleResult(handle_uuid=task.handle_uuid)]

    assert handles.finish_clean(database, builders.HOST, done, slow) == 0
    assert states.FREE not in handle_states(database)
    assert handles.finish_clean(database, builders.HOST, done, quick) == 1


def cleaned(database: session.Database, **result: Any) -> int:
    """One clean step ends with this result."""
    lease = builders.an_owner()
    [task] = handles.take_to_clean(database, lease, session.now(), 1)[builders.HOST]
    return handles.finish_clean(database, builders.HOST, [
        messages.HandleResult(handle_uuid=task.handle_uuid, **result)], lease)


@pytest.mark.parametrize("failed_before", [False, True])
def test_a_handle_whose_function_the_host_has_no_more_is_forgotten_with_its_device(
        database: session.Database, failed_before: bool) -> None:
    handles_to_clean(database, 1)
    builders.store(database, builders.a_report(0, digest="without"))
    [device] = devices.list_devices(database, messages.DeviceQuery())
    [handle] = databases.all_rows(database, models.attach_handles)
    with database.writing() as connection:
        # known from an earlier time
        uncleaned.note(connection, builders.HOST, {str(handle["uuid"])})
    if failed_before:
        cleaned(database, error="the disk refuses")
        device_detail.clean_again(database, device.uuid)

    assert cleaned(database, error="there is no function", gone=True) == 1

    assert databases.all_rows(database, models.attach_handles) == []
    beat = messages.Heartbeat(host=builders.HOST, resource_provider_name=builders.HOST,
                              digest="without")
    assert not heartbeats.is_current(database, beat, session.now())
    builders.store(database, builders.a_report(0, digest="without"))
    assert devices.list_devices(database, messages.DeviceQuery()) == []


def test_a_forgotten_handle_that_comes_back_is_cleaned_before_anybody_gets_it(
        database: session.Database) -> None:
    handles_to_clean(database, 1)
    builders.store(database, builders.a_report(0))
    cleaned(database, error="there is no function", gone=True)
    builders.store(database, builders.a_report(0))

    builders.store(database, builders.a_report(handles=2, cleans=True))
    back = collections.Counter(row["state"] for row in databases.all_rows(
        database, models.attach_handles))
    cleaned(database)

    assert back == {states.CLEANING: 1, states.FREE: 1}
    assert handle_states(database) == []
    assert databases.all_rows(database, models.uncleaned_handles) == []


def test_a_handle_that_went_during_its_cleaning_is_asked_for_and_goes(
        database: session.Database) -> None:
    handles_to_clean(database, 1)
    builders.store(database, builders.a_report(0, digest="without"))
    lease = builders.an_owner()
    [task] = handles.take_to_clean(database, lease, session.now(), 100)[builders.HOST]

    handles.finish_clean(
        database, builders.HOST, [messages.HandleResult(handle_uuid=task.handle_uuid)], lease)

    beat = messages.Heartbeat(host=builders.HOST, resource_provider_name=builders.HOST,
                              digest="without")
    assert not heartbeats.is_current(database, beat, session.now())
    builders.store(database, builders.a_report(0, digest="without"))
    assert devices.list_devices(database, messages.DeviceQuery()) == []


def test_a_disabled_device_that_went_is_asked_for_once_it_is_enabled(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [device] = devices.list_devices(database, messages.DeviceQuery())
    devices.set_status(database, device.uuid, "maintaining")
    builders.store(database, builders.a_report(0, digest="without"))

    devices.set_status(database, device.uuid, "enabled")

    beat = messages.Heartbeat(host=builders.HOST, resource_provider_name=builders.HOST,
                              digest="without")
    assert not heartbeats.is_current(database, beat, session.now())


def test_conductors_that_look_at_once_take_different_handles(
        server_database: session.Database) -> None:
    handles_to_clean(server_database, 16)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(
            lambda _: handles.take_to_clean(
                server_database, builders.an_owner(), session.now(), 5), range(4)))

    uuids = [task.handle_uuid for tasks in taken for task in tasks.get(builders.HOST, [])]
    assert len(uuids) == len(set(uuids))
