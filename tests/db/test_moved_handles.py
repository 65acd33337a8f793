# SPDX-License-Identifier: Apache-2.0
"""What is reported at another place of its host than before, on the three databases."""

from __future__ import annotations

import collections
import dataclasses

import pytest

from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.conductor import inventory as conductor_inventory
from cyborg_lite.conductor import inventory_diff
from cyborg_lite.db import arqs
from cyborg_lite.db import devices
from cyborg_lite.db import handles
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases

VF = messages.ReportedHandle(type="PCI", info={
    "domain": "0000", "bus": "81", "device": "02", "function": "1"})
VGPU = messages.ReportedHandle(type="MDEV", info={
    "domain": "0000", "bus": "41", "device": "00", "function": "0", "asked_type": "nvidia-35",
    "vgpu_mark": "nvidia-35_0"})


def offering(handle: messages.ReportedHandle, device: str, deployable: str | None = None, *,
             cleans: bool = False, failed: str | None = None) -> messages.HostReport:
    """A host with one card, one deployable and one handle."""
    part = dataclasses.replace(
        builders.a_deployable(deployable or device, cleans=cleans), handles=[handle])
    return builders.a_report([builders.a_device(device, deployables=[part])],
                             failed_drivers=[failed] if failed else [])


def handles_by_state(database: session.Database) -> collections.Counter[object]:
    return collections.Counter(
        row["state"] for row in databases.all_rows(database, models.attach_handles))


@pytest.mark.parametrize(("handle", "again"), [
    (VF, VF), (VGPU, VGPU), (VGPU, dataclasses.replace(VGPU, type="PCI"))],
    ids=["function", "slot", "function of a slot"])
@pytest.mark.parametrize("place", [("Fake1", None), ("Fake0", "other")],
                         ids=["device", "deployable"])
def test_what_a_server_has_is_offered_elsewhere_once_it_is_given_back(
        database: session.Database, handle: messages.ReportedHandle,
        again: messages.ReportedHandle, place: tuple[str, str | None]) -> None:
    builders.store(database, offering(handle, "Fake0"))
    [arq] = builders.bound_arqs(database)
    moved = dataclasses.replace(offering(again, *place), digest="same")

    builders.store(database, moved)
    held = handles_by_state(database)
    unchanged = builders.store(database, moved)
    arqs.delete(database, [arq.uuid], None, bound_too=True)
    asked = conductor_inventory.heartbeat(database, messages.Heartbeat(
        host=builders.HOST, resource_provider_name=builders.HOST, digest="same"),
        write_every_s=15).report_wanted
    builders.store(database, moved)

    assert held == {states.MISSING: 1}
    assert not unchanged
    assert asked
    assert handles_by_state(database) == {states.FREE: 1}


def test_what_moved_with_a_servers_data_on_it_is_offered_once_it_is_cleaned(
        database: session.Database) -> None:
    builders.store(database, offering(VF, "Fake0", cleans=True))
    [arq] = builders.bound_arqs(database)
    moved = offering(VF, "Fake1", cleans=True)
    builders.store(database, moved)
    arqs.delete(database, [arq.uuid], None, bound_too=True)

    builders.store(database, moved)
    dirty = handles_by_state(database)
    lease = builders.an_owner()
    [task] = handles.take_to_clean(database, lease, session.now(), 9)[builders.HOST]
    handles.finish_clean(database, builders.HOST,
                         [messages.HandleResult(handle_uuid=task.handle_uuid)], lease)
    builders.store(database, moved)

    assert dirty == {states.CLEANING: 1}
    assert handles_by_state(database) == {states.FREE: 1}
    assert [device.uuid for device in devices.list_devices(database, messages.DeviceQuery())] == [
        inventory_diff.stable_uuid(builders.HOST, "Fake1")]


def test_a_free_function_that_moves_is_offered_at_its_new_place_at_once(
        database: session.Database) -> None:
    builders.store(database, offering(VF, "Fake0"))

    builders.store(database, offering(VF, "Fake1"))

    assert handles_by_state(database) == {states.FREE: 1}


def test_a_function_is_not_offered_twice_while_the_driver_that_had_it_fails(
        database: session.Database) -> None:
    builders.store(database, offering(VF, "Fake0"))
    other = offering(VF, "Fake1", failed="fake_driver")
    other = dataclasses.replace(other, devices=[
        dataclasses.replace(device, driver="other_driver") for device in other.devices])

    builders.store(database, other)
    while_it_fails = databases.all_rows(database, models.attach_handles)
    builders.store(database, dataclasses.replace(other, failed_drivers=[]))

    assert [row["state"] for row in while_it_fails] == [states.FREE]
    [after] = databases.all_rows(database, models.attach_handles)
    assert after["uuid"] != while_it_fails[0]["uuid"]


def test_slots_of_one_parent_are_offered_beside_each_other(database: session.Database) -> None:
    builders.store(database, offering(VGPU, "Fake0"))
    builders.bound_arqs(database)
    second = dataclasses.replace(VGPU, info=VGPU.info | {"vgpu_mark": "nvidia-35_1"})

    builders.store(database, offering(second, "Fake0", "other"))

    assert handles_by_state(database) == {states.MISSING: 1, states.FREE: 1}
