# SPDX-License-Identifier: Apache-2.0
"""Hosts with NVIDIA's vGPU software: what the partitions of a card offer, and vGPUs in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import mdev_work
from cyborg_lite.drivers import nvidia_mig
from cyborg_lite.drivers import nvidia_mig_work
from tests.drivers.nvidia_mig import lab
from tests.nvml import stand_in

Start = Callable[..., lab.Lab]
WAYS = ["vendor", "mdev"]

both_ways = pytest.mark.parametrize("way", WAYS)


@both_ways
def test_an_unsplit_card_offers_nothing_and_tells_its_types(host: Start, way: str) -> None:
    device = host(lab.A100, way=way).device()

    assert device.deployables == []
    assert device.partitioning.scheme == "mig-vgpu"
    assert {each.name: each.vgpu_types for each in device.partitioning.profiles} == {
        "7g.40gb": ["A100-7-40C"], "4g.20gb": ["A100-4-20C"], "3g.20gb": ["A100-3-20C"],
        "2g.10gb": ["A100-2-10C"], "1g.10gb": ["A100-1-10C"], "1g.5gb": ["A100-1-5C"],
        "1g.5gb+me": ["A100-1-5CME"]}
    assert {each.name: (each.partition_profile_id, each.max_per_partition)
            for each in device.partitioning.vgpu_types}["A100-3-20C"] == (9, 1)


@both_ways
def test_each_type_is_a_deployable_with_as_many_handles_as_partitions(
        host: Start, way: str) -> None:
    there = host(lab.A100, way=way)

    there.apply("3g.20gb", "2g.10gb", "1g.5gb*2")

    deployables = {each.name: each for each in there.device().deployables}
    assert {name: len(each.handles) for name, each in deployables.items()} == {
        f"{lab.CARD}_A100-3-20C": 1, f"{lab.CARD}_A100-2-10C": 1, f"{lab.CARD}_A100-1-5C": 2}
    one = deployables[f"{lab.CARD}_A100-3-20C"]
    assert (one.resource_class, one.prepares, one.cleans) == ("VGPU", True, True)
    assert one.traits == ["CUSTOM_MIG_3G_20GB", "CUSTOM_NVIDIA_20B0_A100_3_20C"]
    functions = [(each.info["device"], each.info["function"]) for part in deployables.values()
                 for each in part.handles]
    assert len(set(functions)) == 4
    assert [each.vgpu_type for each in there.device().partitioning.partitions] == [
        "A100-2-10C", "A100-1-5C", "A100-1-5C", "A100-3-20C"]


@both_ways
def test_vgpus_of_all_types_are_made_and_the_report_stays_the_same(host: Start, way: str) -> None:
    there = host(lab.A100, way=way)
    there.apply("3g.20gb", "2g.10gb", "1g.5gb*2")
    before = there.discover()

    for tasks in there.tasks().values():
        for task in tasks:
            there.driver.prepare(task)
            assert there.discover() == before
    made = len(there.kernel.mdevs()) + len(there.kernel.types_set())
    for tasks in there.tasks().values():
        for task in tasks:
            there.driver.clean(task)

    assert made == 4
    assert there.discover() == before
    assert (there.kernel.mdevs(), there.kernel.types_set()) == ([], {})


@both_ways
def test_a_held_handle_stays_while_another_of_its_kind_is_free(host: Start, way: str) -> None:
    there = host(lab.A100, way=way)
    there.apply("2g.10gb*2", "1g.5gb*3")
    task = there.tasks()["A100-1-5C"][-1]
    there.driver.prepare(task)
    there.restart()

    handles = there.handles()

    assert {name: len(each) for name, each in handles.items()} == {"A100-2-10C": 2, "A100-1-5C": 3}
    assert any(each.info == task.info for each in handles["A100-1-5C"])


@both_ways
def test_no_partition_is_destroyed_while_a_vgpu_exists(host: Start, way: str) -> None:
    there = host(lab.A100, way=way)
    there.apply("3g.20gb", "1g.5gb")
    there.driver.prepare(there.tasks()["A100-1-5C"][0])
    before = there.changes()

    with pytest.raises(nvidia_mig_work.Fault, match=r"there are vGPUs on GPU 0000:41:00\.0"):
        there.apply("7g.40gb")

    assert there.changes() == before


@both_ways
def test_partitions_are_added_beside_those_with_vgpus(host: Start, way: str) -> None:
    there = host(lab.A100, way=way)
    there.apply("1g.5gb")
    there.driver.prepare(there.tasks()["A100-1-5C"][0])

    there.apply("1g.5gb", "3g.20gb")

    assert {name: len(each) for name, each in there.handles().items()} == {
        "A100-1-5C": 1, "A100-3-20C": 1}
    assert "nvmlGpuInstanceDestroy" not in there.changes()


def test_mig_mode_is_not_switched_while_the_card_has_vgpus(host: Start) -> None:
    there = host(lab.A100, way="vendor")
    there.kernel.root_path.joinpath(
        "bus/pci/devices/0000:41:00.4/nvidia/current_vgpu_type").write_text("470")

    with pytest.raises(nvidia_mig_work.Fault, match="MIG mode is not switched"):
        there.apply("1g.5gb")

    assert there.changes() == []


@both_ways
def test_the_same_layout_is_no_change_while_vgpus_exist(host: Start, way: str) -> None:
    there = host(lab.A100, way=way)
    there.apply("3g.20gb", "1g.5gb")
    there.driver.prepare(there.tasks()["A100-1-5C"][0])
    before = there.changes()

    there.apply("3g.20gb:A100-3-20C", "1g.5gb:A100-1-5C")

    assert there.changes() == before


@both_ways
def test_after_a_reboot_partitions_come_first_and_then_the_vgpus(host: Start, way: str) -> None:
    there = host(lab.A100, way=way)
    there.apply("3g.20gb", "1g.5gb")
    task = there.tasks()["A100-1-5C"][0]
    there.driver.prepare(task)
    before = there.discover()

    there.reboot()
    with pytest.raises(mdev_work.WorkFailed):
        there.driver.prepare(task)
    there.driver.apply_layout(dataclasses.replace(lab.wish("3g.20gb", "1g.5gb"), held=True))
    there.driver.prepare(task)

    assert there.discover() == before


def test_while_handles_are_held_nothing_is_destroyed(host: Start) -> None:
    there = host(lab.A100)
    there.apply("3g.20gb", "1g.5gb")

    with pytest.raises(nvidia_mig_work.Fault, match=r"attach handles of GPU .* are in use"):
        there.driver.apply_layout(dataclasses.replace(lab.wish("7g.40gb"), held=True))

    assert [name for name, _ in there.partitions()] == ["1g.5gb", "3g.20gb"]


# --- types ------------------------------------------------------------------------------------

def test_several_vgpus_share_a_partition_where_the_type_says_so(host: Start) -> None:
    there = host(lab.RTX, way="vendor")

    there.apply("1g.24gb+gfx*2:DC-1-12Q")

    assert {name: len(each) for name, each in there.handles().items()} == {"DC-1-12Q": 4}


def test_partitions_of_one_profile_can_be_for_several_types(host: Start) -> None:
    there = host(lab.RTX, way="vendor")

    there.apply("1g.24gb+gfx*1:DC-1-12Q", "1g.24gb+gfx*2:DC-1-24C")
    there.restart()

    assert {name: len(each) for name, each in there.handles().items()} == {
        "DC-1-12Q": 2, "DC-1-24C": 2}
    assert sorted(each.vgpu_type for each in there.device().partitioning.partitions) == [
        "DC-1-12Q", "DC-1-24C", "DC-1-24C"]


@pytest.mark.parametrize(("options", "word", "expected"), [
    ({}, None, "DC-2-48Q"),
    ({"enabled_vgpu_types": ["DC-2-12C"]}, None, "DC-2-12C"),
    ({"enabled_vgpu_types": ["DC-2-12C"], "types": {
        "DC-2-12C": {"device_addresses": ["0000:99:00.0"]}}}, None, "DC-2-48Q"),
    ({"enabled_vgpu_types": ["DC-2-12C"]}, "nvidia-1538", "DC-2-24Q")])
def test_a_partition_that_nobody_chose_a_type_for_gets_a_sensible_one(
        host: Start, options: dict[str, object], word: str | None, expected: str) -> None:
    there = host(lab.RTX, way="vendor", **options)
    if word:
        there.devices = device_config.DeviceConfig((device_config.Entry(
            match=device_config.Match(address=lab.CARD), vgpu_type=word),))
        there.restart()

    there.apply("2g.48gb+gfx")

    assert set(there.handles()) == {expected}
    first = next(each.vgpu_types[0] for each in there.device().partitioning.profiles
                 if each.name == "2g.48gb+gfx")
    assert first == expected


def test_partitions_get_another_type_without_being_made_anew(host: Start) -> None:
    there = host(lab.RTX, way="vendor")
    there.apply("1g.24gb+gfx*2:DC-1-12Q")
    before = there.changes()

    there.apply("1g.24gb+gfx*2:DC-1-24C")

    assert {name: len(each) for name, each in there.handles().items()} == {"DC-1-24C": 2}
    assert there.changes() == before


def test_partitions_with_vgpus_keep_their_type(host: Start) -> None:
    there = host(lab.RTX, way="vendor")
    there.apply("1g.24gb+gfx*2:DC-1-12Q")
    there.driver.prepare(there.tasks()["DC-1-12Q"][0])

    with pytest.raises(nvidia_mig_work.Fault, match="they can't be of other types"):
        there.apply("1g.24gb+gfx*2:DC-1-24C")

    assert {name: len(each) for name, each in there.handles().items()} == {"DC-1-12Q": 4}


def test_a_wish_for_a_type_of_another_profile_is_refused(host: Start) -> None:
    there = host(lab.A100, way="vendor")

    with pytest.raises(nvidia_mig_work.Fault, match=r"3g.20gb .* but of A100-3-20C"):
        there.apply("3g.20gb:A100-1-5C")

    assert there.changes() == []


# --- what is missing --------------------------------------------------------------------------

def test_partitions_without_virtual_functions_offer_nothing_and_say_why(host: Start) -> None:
    there = host(stand_in.Card(lab.A100, vgpu=True))
    there.apply("3g.20gb")

    device = there.device()

    assert device.deployables == []
    assert device.partitioning.scheme == "mig-vgpu"
    [problem] = there.driver.problems
    assert "sriov-manage -e 0000:41:00.0" in problem.what


def test_vendor_vfio_can_be_kept_back(host: Start) -> None:
    there = host(lab.A100, way="vendor", offer_vendor_vfio=False)
    there.apply("3g.20gb")

    assert there.device().deployables == []
    assert "offer_vendor_vfio is false" in there.driver.problems[0].what


def test_virtual_functions_that_no_partition_needs_are_withheld(host: Start) -> None:
    there = host(lab.A100, way="vendor")
    there.apply("3g.20gb")
    [handle] = there.handles()["A100-3-20C"]

    assert len(there.driver.withheld) == 7
    assert handle.info["function"] == "2"
    assert f"{lab.CARD[:-1]}2" not in there.driver.withheld


def test_a_vgpu_of_somebody_else_takes_its_partition(host: Start) -> None:
    there = host(lab.A100, way="vendor")
    there.apply("1g.5gb*3")
    there.kernel.set_vgpu_type("0000:41:00.4", 471)

    handles = there.handles()["A100-1-5C"]

    assert len(handles) == 2
    assert "did not set" in there.driver.withheld["0000:41:00.4"]


@pytest.mark.parametrize(("profile", "trait"), [
    ("1g.5gb", "CUSTOM_MIG_1G_5GB"), ("1g.5gb+me", "CUSTOM_MIG_1G_5GB_ME"),
    ("1g.24gb-me", "CUSTOM_MIG_1G_24GB_NO_ME"), ("1g.24gb+me.all", "CUSTOM_MIG_1G_24GB_ME_ALL")])
def test_profiles_have_traits_that_differ(profile: str, trait: str) -> None:
    assert nvidia_mig.profile_trait(profile) == trait
