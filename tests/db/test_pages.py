# SPDX-License-Identifier: Apache-2.0
"""Pages, filters, updates of profiles, usage and detail on the three databases."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import device_detail
from cyborg_lite.db import device_profiles
from cyborg_lite.db import devices
from cyborg_lite.db import handles
from cyborg_lite.db import liveness
from cyborg_lite.db import models
from cyborg_lite.db import session
from cyborg_lite.db import usage
from tests.fixtures import builders
from tests.fixtures import databases

List = Callable[[session.Database, messages.Page], list[Any]]

LISTS: dict[str, List] = {
    "arqs": lambda database, page: arqs.list_arqs(database, messages.ArqQuery(page=page)),
    "device_profiles": lambda database, page: device_profiles.list_profiles(
        database, None, page),
    "devices": lambda database, page: devices.list_devices(
        database, messages.DeviceQuery(page=page)),
    "deployables": lambda database, page: devices.list_deployables(
        database, messages.DeployableQuery(page=page)),
    "attributes": lambda database, page: devices.list_attributes(database, None, None, page),
}


def filled(database: session.Database) -> None:
    for name in ("one", "two", "three"):
        builders.a_profile(database, name)
        arqs.create(database, name, "project1")
    builders.store(database, builders.a_report(3))


def pages(database: session.Database, entries: List, limit: int,
          *sort: list[str]) -> Iterator[list[Any]]:
    marker = None
    while found := entries(database, messages.Page(
            limit=limit, marker=marker, sort=list(sort))):
        yield found
        marker = found[-1].uuid


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize(("name", "key"), [
    ("arqs", "created_at"), ("arqs", "state"), ("arqs", "device_profile_name"),
    ("device_profiles", "name"), ("devices", "hostname"), ("devices", "uuid"),
    ("deployables", "name"), ("attributes", "key")])
def test_pages_together_are_the_whole_list_in_order(
        database: session.Database, name: str, key: str, direction: str) -> None:
    filled(database)
    whole = LISTS[name](database, messages.Page(sort=[[key, direction]]))

    found = [entry for page in pages(database, LISTS[name], 2, [key, direction])
             for entry in page]

    assert found == whole
    values = [str(getattr(entry, key)) for entry in whole]
    assert values == sorted(values, reverse=direction == "desc")


@pytest.mark.parametrize("name", LISTS)
def test_a_page_anywhere_takes_at_most_three_statements(
        database: session.Database, name: str) -> None:
    filled(database)
    first, second, *_ = pages(database, LISTS[name], 1)

    with databases.counted(database) as seen:
        LISTS[name](database, messages.Page(limit=1, marker=first[0].uuid,
                                            sort=[["uuid", "asc"]]))

    assert second != first
    assert len(seen) <= 3


@pytest.mark.parametrize(("page", "wrong"), [
    (messages.Page(marker="0" * 32), "marker '0{32}' is no entry"),
    (messages.Page(sort=[["secret", "asc"]]), "sort_key 'secret' is none of"),
    (messages.Page(sort=[["uuid", "sideways"]]), "sort_dir 'sideways' is none of")])
def test_what_no_list_has_is_invalid_and_named(
        sqlite: session.Database, page: messages.Page, wrong: str) -> None:
    for entries in LISTS.values():
        with pytest.raises(errors.Invalid, match=wrong):
            entries(sqlite, page)


def test_arqs_of_two_hundred_instances_are_one_statement(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [mine] = builders.bound_arqs(database)
    builders.bound_arqs(database)
    instances = [builders.new_uuid() for _ in range(199)] + [str(mine.instance_uuid)]

    with databases.counted(database) as seen:
        found = arqs.list_arqs(database, messages.ArqQuery(instance_uuids=instances))

    assert [arq.uuid for arq in found] == [mine.uuid]
    assert len(seen) == 1


@pytest.mark.parametrize("query", [
    {"hostname": builders.HOST}, {"device_rp_uuid": builders.rp_uuid()},
    {"device_profile_name": "fpga1"}, {"states": [states.BOUND]}])
def test_arqs_are_filtered_in_the_database(
        database: session.Database, query: dict[str, Any]) -> None:
    builders.store(database, builders.a_report())
    [bound] = builders.bound_arqs(database)
    builders.new_arqs(database, 2)

    found = arqs.list_arqs(database, messages.ArqQuery(**query))

    assert [arq.uuid for arq in found] == [bound.uuid]


# --- updating a profile -----------------------------------------------------------------------


def changed(profile: messages.DeviceProfile, **values: Any) -> messages.DeviceProfile:
    return dataclasses.replace(profile, **values)


def test_of_two_updates_of_one_reading_the_second_is_told(database: session.Database) -> None:
    read = builders.a_profile(database)
    first = device_profiles.update(database, changed(read, description="first"))

    with pytest.raises(errors.ChangedMeanwhile):
        device_profiles.update(database, changed(read, description="second"))

    assert first.generation == 1
    assert device_profiles.get(database, read.uuid, None) == first


def test_an_update_leaves_arqs_as_they_were_created(database: session.Database) -> None:
    profile = builders.a_profile(database)
    arqs.create(database, profile.name, "project1")

    device_profiles.update(database, changed(profile, groups=[{"resources:PGPU": "1"}]))

    [row] = databases.all_rows(database, models.arqs)
    assert row["device_profile_group"] == session.to_json(builders.FPGA_GROUP)


def test_a_profile_that_arqs_refer_to_keeps_its_name(database: session.Database) -> None:
    profile = builders.a_profile(database)
    arqs.create(database, profile.name, "project1")

    with pytest.raises(errors.InUse, match="can't be renamed"):
        device_profiles.update(database, changed(profile, name="other"))


def test_a_profile_cannot_take_a_name_that_another_has(database: session.Database) -> None:
    profile = builders.a_profile(database)
    builders.a_profile(database, "other")

    with pytest.raises(errors.Duplicate):
        device_profiles.update(database, changed(profile, name="other"))


# --- usage ------------------------------------------------------------------------------------


def test_usage_counts_what_fits_each_group_and_what_it_is_doing(
        database: session.Database) -> None:
    for host in ("node1", "node2"):
        builders.store(database, builders.a_report(
            [builders.a_device("Fake0", deployables=[builders.a_deployable(
                "Fake0", 4, traits=("CUSTOM_A",))]),
             builders.a_device("Fake1", deployables=[builders.a_deployable(
                 "Fake1", 2, traits=("CUSTOM_B",))])], host=host))
    profile = builders.a_profile(database, "mixed", [
        {"resources:FPGA": "1", "trait:CUSTOM_A": "required"},
        {"resources:FPGA": "1", "trait:CUSTOM_A": "forbidden"},
        {"resources:PGPU": "1"}])
    first, second, _ = arqs.create(database, "mixed", "mine")
    arqs.create(database, "mixed", "other")
    binds.start(database, builders.bind_requests([first]), builders.an_owner(), None)
    [disabled] = [device for device in devices.list_devices(
        database, messages.DeviceQuery(hostname="node2")) if device.uuid ==
        builders.inventory_diff.stable_uuid("node2", "Fake0")]
    devices.set_status(database, disabled.uuid, "maintaining")

    with databases.counted(database) as seen:
        everyone = usage.of_profile(database, profile, None)
    mine = usage.of_profile(database, profile, "mine")

    assert len(seen) <= 4
    assert everyone == [
        messages.GroupUsage(arqs={"Bound": 1, "Initial": 1}, providers=2, hosts=2, total=8,
                            reserved=4, used=1, free=3),
        messages.GroupUsage(arqs={"Initial": 2}, providers=2, hosts=2, total=4, reserved=0,
                            used=0, free=4),
        messages.GroupUsage(arqs={"Initial": 2}, providers=0, hosts=0, total=0, reserved=0,
                            used=0, free=0)]
    assert [group.arqs for group in mine] == [{"Bound": 1}, {"Initial": 1}, {"Initial": 1}]
    assert second.state == states.INITIAL


# --- detail -----------------------------------------------------------------------------------


def test_a_device_tells_its_reason_its_host_and_its_handles(database: session.Database) -> None:
    builders.store(database, builders.a_report(cleans=True))
    [device] = devices.list_devices(database, messages.DeviceQuery())
    builders.bound_arqs(database)
    devices.set_status(database, device.uuid, "maintaining", "fan is broken")
    later = session.now() + datetime.timedelta(seconds=60)

    shown = devices.get_device(database, device.uuid, horizon=liveness.Horizon(down_before=later))
    [part] = device_detail.parts(database, device.uuid)

    assert (shown.status_reason, shown.host_state) == ("fan is broken", "down")
    assert shown.disabled_at is not None
    assert devices.get_device(database, device.uuid, liveness.Horizon(
        down_before=session.now() - datetime.timedelta(seconds=60))).host_state == "up"
    assert (part.resource_class, part.traits) == ("FPGA", ["CUSTOM_FAKE_DEVICE"])
    assert part.attach_handles == messages.HandleCounts(total=16, free=15, in_use=1)


def test_enabling_forgets_the_reason(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [device] = devices.list_devices(database, messages.DeviceQuery())
    devices.set_status(database, device.uuid, "maintaining", "fan is broken")

    devices.set_status(database, device.uuid, "enabled")

    shown = devices.get_device(database, device.uuid)
    assert (shown.status, shown.status_reason, shown.disabled_at) == ("enabled", None, None)


def test_failed_handles_are_cleaned_again_when_asked(database: session.Database) -> None:
    builders.store(database, builders.a_report(cleans=True))
    [device] = devices.list_devices(database, messages.DeviceQuery())
    [arq] = builders.bound_arqs(database)
    arqs.delete(database, [arq.uuid], None, bound_too=True)
    lease = builders.an_owner()
    [task] = handles.take_to_clean(database, lease, session.now(), 10)[builders.HOST]
    handles.finish_clean(database, builders.HOST, [
        messages.HandleResult(handle_uuid=task.handle_uuid, error="no")], lease)

    number = device_detail.clean_again(database, device.uuid)

    assert number == 1
    assert handles.take_to_clean(
        database, builders.an_owner(), session.now(), 10)[builders.HOST] == [task]
