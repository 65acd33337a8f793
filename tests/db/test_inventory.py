# SPDX-License-Identifier: Apache-2.0
"""Storing host reports on the three databases. What Placement learns of it is tested in flows/."""

from __future__ import annotations

import collections
import dataclasses
import datetime

import pytest
import sqlalchemy as sa

from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.conductor import inventory as conductor_inventory
from cyborg_lite.conductor import inventory_diff
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import devices
from cyborg_lite.db import heartbeats
from cyborg_lite.db import inventory
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases


def rows(database: session.Database, table: sa.Table) -> list[dict[str, object]]:
    return databases.all_rows(database, table)


def attributes_of(database: session.Database) -> dict[str, str]:
    return {attribute.key: attribute.value
            for attribute in devices.list_attributes(database, None, None)}


def beat(digest: str = "same") -> messages.Heartbeat:
    return messages.Heartbeat(host=builders.HOST, resource_provider_name=builders.HOST,
                              digest=digest)


def test_a_first_report_makes_device_deployable_handles_and_attributes(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())

    [device] = devices.list_devices(database, messages.DeviceQuery())
    [deployable] = devices.list_deployables(database, messages.DeployableQuery())
    assert (device.type, device.vendor, device.hostname, device.status) == (
        "FPGA", "0xABCD", builders.HOST, "enabled")
    assert (deployable.name, deployable.num_accelerators) == ("node1_Fake0", 16)
    assert attributes_of(database) == {"rc": "FPGA", "trait0": "CUSTOM_FAKE_DEVICE"}
    assert collections.Counter(
        row["state"] for row in rows(database, models.attach_handles)) == {"free": 16}


def test_the_same_report_again_changes_nothing_but_the_digest(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(3))
    before = [rows(database, table) for table in (
        models.devices, models.deployables, models.attach_handles, models.attributes)]

    changes = builders.store(database, builders.a_report(3))

    assert not changes
    assert before == [rows(database, table) for table in (
        models.devices, models.deployables, models.attach_handles, models.attributes)]


def test_statements_of_a_report_do_not_grow_with_devices(database: session.Database) -> None:
    counts = {}
    for number in (2, 64):
        databases.empty(database)
        with databases.counted(database) as first:
            builders.store(database, builders.a_report(number, handles=4))
        changed = [builders.a_device(f"Fake{index}", model="other", deployables=[
            builders.a_deployable(f"Fake{index}", 5, traits=("CUSTOM_OTHER",))])
            for index in range(number)]
        with databases.counted(database) as change:
            builders.store(database, builders.a_report(changed))
        with databases.counted(database) as gone:
            builders.store(database, builders.a_report(0))
        counts[number] = (len(first), len(change), len(gone))

    assert counts[2] == counts[64]
    assert max(counts[64]) <= 16
    assert rows(database, models.devices) == []


def test_an_unchanged_heartbeat_is_one_select_and_no_write(database: session.Database) -> None:
    builders.store(database, builders.a_report(64, digest="same"))

    with databases.counted(database) as seen:
        reply = conductor_inventory.heartbeat(database, beat(), write_every_s=15)

    assert not reply.report_wanted
    assert len(seen) == 1
    assert seen.writes == []


def test_a_whole_report_that_is_stored_already_costs_no_more_than_a_heartbeat(
        database: session.Database) -> None:
    report = builders.a_report(64)
    woken: list[bool] = []
    conductor_inventory.report(database, report, lambda: woken.append(True), 15)

    with databases.counted(database) as seen:
        conductor_inventory.report(database, report, lambda: woken.append(True), 15)

    assert len(seen) == 1
    assert seen.writes == []
    assert woken == [True]


def test_a_sign_of_life_is_written_once_it_is_old(database: session.Database) -> None:
    builders.store(database, builders.a_report(digest="same"))
    soon = session.now() + datetime.timedelta(seconds=60)

    with databases.counted(database) as seen:
        assert heartbeats.is_current(database, beat(), seen_before=soon)

    assert len(seen.writes) == 1


@pytest.mark.parametrize("change", [
    {"digest": "other"}, {"host": "node2"}, {"resource_provider_name": "node1.example.org"}])
def test_what_is_not_known_is_asked_for(
        database: session.Database, change: dict[str, str]) -> None:
    builders.store(database, builders.a_report(digest="same"))
    unknown = messages.Heartbeat(**{
        "host": builders.HOST, "resource_provider_name": builders.HOST, "digest": "same"} | change)

    assert conductor_inventory.heartbeat(database, unknown, write_every_s=15).report_wanted


def test_a_vanished_device_keeps_the_handle_that_an_arq_holds(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(2))
    [arq] = builders.bound_arqs(database)

    builders.store(database, builders.a_report(0))

    [handle] = rows(database, models.attach_handles)
    assert (handle["state"], handle["arq_uuid"]) == (states.MISSING, arq.uuid)
    assert len(devices.list_devices(database, messages.DeviceQuery())) == 1
    shown = arqs.get(database, arq.uuid, None)
    assert (shown.state, shown.attach_handle_type) == (states.BOUND, "TEST_PCI")


def test_a_device_that_returns_is_the_same_and_its_arq_has_its_handle_back(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [arq] = builders.bound_arqs(database)
    [before] = devices.list_devices(database, messages.DeviceQuery())
    builders.store(database, builders.a_report(0))

    builders.store(database, builders.a_report())

    [after] = devices.list_devices(database, messages.DeviceQuery())
    assert after.uuid == before.uuid
    held = [row for row in rows(database, models.attach_handles) if row["arq_uuid"] == arq.uuid]
    assert [row["state"] for row in held] == [states.IN_USE]


def test_releasing_a_missing_handle_forgets_it_and_asks_the_host_for_a_report(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [arq] = builders.bound_arqs(database)
    builders.store(database, builders.a_report(0, digest="same"))

    arqs.delete(database, [arq.uuid], None, bound_too=True)

    assert rows(database, models.attach_handles) == []
    assert not heartbeats.is_current(database, beat(), session.now())
    builders.store(database, builders.a_report(0, digest="same"))
    assert rows(database, models.devices) == []


def test_a_missing_handle_with_a_clean_step_is_cleaned_before_anybody_gets_it(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(handles=1, cleans=True))
    [arq] = builders.bound_arqs(database)
    builders.store(database, builders.a_report(0))

    arqs.delete(database, [arq.uuid], None, bound_too=True)
    builders.store(database, builders.a_report(handles=1, cleans=True))

    assert [row["state"] for row in rows(database, models.attach_handles)] == ["cleaning"]


def test_a_handle_that_vanishes_and_returns_during_host_work_is_still_reserved(
        database: session.Database) -> None:
    report = builders.a_report(handles=1, prepares=True)
    builders.store(database, report)
    lease = builders.an_owner()
    found = builders.new_arqs(database)
    outcome = binds.start(database, builders.bind_requests(found), lease, None)
    builders.store(database, builders.a_report(0))

    builders.store(database, report)

    assert [row["state"] for row in rows(database, models.attach_handles)] == ["reserved"]
    [task] = outcome.tasks[builders.HOST]
    assert binds.finish(database, [messages.HandleResult(handle_uuid=task.handle_uuid)], lease,
                        builders.an_owner(), None).bound == [found[0].uuid]


def test_a_handle_given_back_while_a_report_without_it_is_stored_goes(
        server_database: session.Database) -> None:
    builders.store(server_database, builders.a_report(handles=1))
    [arq] = builders.bound_arqs(server_database)
    looks = []

    def given_back_after_the_first_look(
            known: inventory.KnownHost, report: messages.HostReport) -> inventory.Changes:
        changes = inventory_diff.diff(known, report)
        if not looks:
            arqs.delete(server_database, [arq.uuid], None, bound_too=True)
        looks.append(changes)
        return changes

    inventory.store(server_database, builders.a_report(0), given_back_after_the_first_look)

    assert len(looks) == 2
    assert rows(server_database, models.attach_handles) == []


@pytest.mark.parametrize("held", [True, False])
def test_other_words_for_a_function_change_its_handle_and_make_no_second_one(
        held: bool, database: session.Database) -> None:
    def reported(network: str) -> messages.HostReport:
        info = {"domain": "0000", "bus": "81", "device": "02", "function": "1",
                "physical_network": network}
        deployable = dataclasses.replace(
            builders.a_deployable(), handles=[messages.ReportedHandle(type="PCI", info=info)])
        return builders.a_report([builders.a_device(deployables=[deployable])])

    builders.store(database, reported("physnet1"))
    if held:
        builders.bound_arqs(database)
    before = rows(database, models.attach_handles)[0]

    builders.store(database, reported("physnet2"))
    assert not builders.store(database, reported("physnet2"))
    [changed] = rows(database, models.attach_handles)
    builders.store(database, reported("physnet1"))

    [after] = rows(database, models.attach_handles)
    assert '"physnet2"' in str(changed["info"])
    assert (changed["uuid"], changed["state"]) == (before["uuid"], before["state"])
    assert (after["info"], after["state"]) == (before["info"], before["state"])


def test_a_handle_that_waits_for_its_cleaning_stays_when_its_device_goes(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(cleans=True))
    [arq] = builders.bound_arqs(database)
    arqs.delete(database, [arq.uuid], None, bound_too=True)

    builders.store(database, builders.a_report(0))
    builders.store(database, builders.a_report(cleans=True))

    assert collections.Counter(row["state"] for row in rows(database, models.attach_handles)) == {
        "cleaning": 1, "free": 15}


def test_devices_of_a_driver_that_failed_stay(database: session.Database) -> None:
    fake, pci = builders.a_device("Fake0"), builders.a_device("0000:41:00.0", driver="pci_driver")
    builders.store(database, builders.a_report([fake, pci]))

    builders.store(database, builders.a_report([fake], failed_drivers=["pci_driver"]))

    assert len(devices.list_devices(database, messages.DeviceQuery())) == 2


def test_a_disabled_device_that_vanishes_and_returns_is_still_disabled(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [device] = devices.list_devices(database, messages.DeviceQuery())
    devices.set_status(database, device.uuid, "maintaining")

    builders.store(database, builders.a_report(0))
    builders.store(database, builders.a_report())

    [after] = devices.list_devices(database, messages.DeviceQuery())
    assert (after.uuid, after.status) == (device.uuid, "maintaining")


def test_a_device_that_is_withheld_stays_and_tells_why_until_it_is_offered_again(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(2))
    [deployable, _] = devices.list_deployables(database, messages.DeployableQuery())
    devices.create_attribute(database, deployable.id, "rack", "7")

    builders.store(database, builders.a_report(
        [builders.a_device("Fake1")], withheld={"Fake0": "its interface is up"}))
    withheld = devices.list_devices(database, messages.DeviceQuery())
    handles = len(rows(database, models.attach_handles))
    builders.store(database, builders.a_report(2))

    assert [device.status_reason for device in withheld] == ["its interface is up", None]
    assert handles == 16
    assert len(rows(database, models.attach_handles)) == 32
    assert [device.status_reason for device in devices.list_devices(
        database, messages.DeviceQuery())] == [None, None]
    assert [each.value for each in devices.list_attributes(database, None, "rack")] == ["7"]


def test_a_device_that_never_offered_anything_is_shown_with_its_reason_to_who_asks_for_all(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(
        1, withheld={"0000:41:00.0": "it is in MIG mode"}, withheld_type="GPU"))
    everything = devices.list_devices(database, messages.DeviceQuery())
    offered = devices.list_devices(database, messages.DeviceQuery(offered_only=True))
    builders.store(database, builders.a_report(1))

    assert [(device.type, device.status_reason) for device in everything] == [
        ("FPGA", None), ("GPU", "it is in MIG mode")]
    assert [device.type for device in offered] == ["FPGA"]
    assert [device.type for device in devices.list_devices(
        database, messages.DeviceQuery())] == ["FPGA"]


def test_a_part_of_a_card_that_is_withheld_is_no_device(database: session.Database) -> None:
    builders.store(database, builders.a_report(1, withheld={"0000:41:00.4": "no GPU"}))

    assert len(devices.list_devices(database, messages.DeviceQuery())) == 1


def test_an_operators_attribute_survives_reports_and_keeps_its_key(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [deployable] = devices.list_deployables(database, messages.DeployableQuery())
    devices.create_attribute(database, deployable.id, "trait1", "CUSTOM_RACK_7")

    builders.store(database, builders.a_report(traits=("CUSTOM_A", "CUSTOM_B")))

    assert attributes_of(database) == {
        "rc": "FPGA", "trait0": "CUSTOM_A", "trait1": "CUSTOM_RACK_7", "trait2": "CUSTOM_B"}


def test_a_change_makes_the_host_due_for_its_placement_sync(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    [first] = rows(database, models.hosts)

    builders.store(database, builders.a_report(2))
    [second] = rows(database, models.hosts)
    builders.store(database, builders.a_report(2))
    [third] = rows(database, models.hosts)

    assert (first["generation"], second["generation"], third["generation"]) == (1, 2, 2)
