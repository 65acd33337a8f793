# SPDX-License-Identifier: Apache-2.0
"""Cards without vGPU software: what is reported of them, and how they are split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from cyborg_lite import layout_wishes
from cyborg_lite import layouts
from cyborg_lite.drivers import nvidia_mig_work
from tests.drivers.nvidia_mig import lab
from tests.nvml import stand_in

Start = Callable[..., lab.Lab]


# --- what is reported -------------------------------------------------------------------------

def test_a_card_that_can_be_split_is_reported_although_it_offers_nothing(host: Start) -> None:
    device = host(lab.H200).device()

    assert (device.address, device.type, device.deployables) == (lab.CARD, "GPU", [])
    assert device.pci_address == lab.CARD
    assert device.partitioning is not None
    assert (device.partitioning.scheme, device.partitioning.partitions) == ("mig", [])
    assert device.partitioning.fault is None
    assert device.partitioning.vgpu_types == []
    assert [each.name for each in device.partitioning.profiles] == [
        "7g.141gb", "4g.71gb", "3g.71gb", "2g.35gb", "1g.35gb", "1g.18gb", "1g.18gb+me"]


def test_a_card_without_mig_is_left_to_other_drivers(host: Start) -> None:
    there = host("T4", lab.A100)

    assert [each.address for each in there.discover()] == [lab.address_of(1)]
    assert there.driver.withheld == {}


def test_a_card_of_another_driver_is_not_reported_twice(host: Start) -> None:
    there = host(lab.A100)
    there.claimed.add(lab.CARD)

    assert there.discover() == []


def test_a_card_that_nvml_does_not_know_is_withheld_and_others_are_not(host: Start) -> None:
    there = host(lab.A100, lab.H100)
    there.nvml.happen("lost", card=0, value=1)

    assert [each.address for each in there.discover()] == [lab.address_of(1)]
    assert "GPU is lost" in there.driver.withheld[lab.CARD]


def test_without_an_answer_of_nvml_cards_are_withheld_and_a_problem_is_shown(host: Start) -> None:
    there = host(lab.A100)
    there.nvml.happen("no_driver", value=1)

    assert there.discover() == []
    assert "NVML does not answer" in there.driver.withheld[lab.CARD]
    [problem] = there.driver.problems
    assert "can't be judged" in problem.what


def test_who_is_not_root_sees_profiles_and_is_told_what_is_hidden(host: Start) -> None:
    there = host(lab.A100)
    there.apply("3g.20gb")
    there.nvml.happen("unprivileged", value=1)
    there.checking = True
    there.restart()

    partitioning = there.device().partitioning

    assert partitioning is not None
    assert partitioning.profiles[0].name == "7g.40gb"
    assert "privileged" in (partitioning.fault or "")


# --- splitting --------------------------------------------------------------------------------

LAYOUTS = [(lab.A30, ["2g.12gb", "1g.6gb*2"]), (lab.A30, ["1g.6gb*3", "1g.6gb+me"]),
           (lab.A100, ["3g.20gb", "2g.10gb", "1g.5gb*2"]), (lab.A100, ["1g.10gb*4"]),
           (lab.A100_80, ["4g.40gb", "2g.20gb", "1g.10gb"]), (lab.H100, ["3g.40gb*2"]),
           (lab.H200, ["1g.18gb*7"]), (lab.H200, ["7g.141gb"]),
           (lab.RTX, ["2g.48gb+gfx", "1g.24gb*2"])]


@pytest.mark.parametrize(("model", "parts"), LAYOUTS)
def test_a_card_is_split_as_wished_from_nothing(host: Start, model: str, parts: list[str]) -> None:
    there = host(model)

    there.apply(*parts)

    wanted = {each.profile: each.count for each in lab.wish(*parts).partitions}
    found = there.partitions()
    assert {name: sum(each[0] == name for each in found) for name, _ in found} == wanted


@pytest.mark.parametrize("model", [lab.A30, lab.A100, lab.H200])
def test_every_maximal_layout_is_reached_from_the_one_before_it(host: Start, model: str) -> None:
    there = host(model)
    profiles = [layouts.Profile(each.id, each.name, each.slices, each.memory_mib,
                                each.max_instances,
                                tuple(layouts.Placement(one.start, one.size)
                                      for one in each.placements))
                for each in there.device().partitioning.profiles]

    for layout in layouts.maximal_layouts(profiles):
        parts = [f"{each.profile}*{each.count}" for each in layout.counts]
        there.apply(*parts)
        names = [name for name, _ in there.partitions()]
        verdict = layout_wishes.check(profiles, {name: names.count(name) for name in names})
        assert verdict.layout is not None
        assert verdict.layout.id == layout.id


def test_a_card_that_is_split_so_is_left_alone(host: Start) -> None:
    there = host(lab.A100)
    there.apply("3g.20gb", "1g.5gb*2")
    before = there.changes()

    there.apply("1g.5gb*2", "3g.20gb")

    assert there.changes() == before


def test_partitions_that_can_stay_are_kept(host: Start) -> None:
    there = host(lab.A100)
    there.apply("3g.20gb", "2g.10gb")
    kept = [each for each in there.partitions() if each[0] == "3g.20gb"]

    there.apply("3g.20gb", "1g.5gb*4")

    assert there.changes().count("nvmlGpuInstanceDestroy") == 1
    assert kept[0] in there.partitions()


def test_each_partition_has_one_compute_instance(host: Start) -> None:
    there = host(lab.A100)

    there.apply("3g.20gb", "2g.10gb", "1g.5gb*2")

    told = there.kernel.look_at_partitions([lab.CARD])[lab.CARD]
    assert sorted(each[4] for each in told["partitions"]) == [[1], [1], [2], [3]]


def test_a_wish_for_no_partitions_destroys_them_and_leaves_the_mode(host: Start) -> None:
    there = host(lab.A100)
    there.apply("7g.40gb")

    there.apply()

    assert there.partitions() == []
    assert there.changes().count("nvmlDeviceSetMigMode") == 1


def test_a_wish_for_nothing_switches_nothing_on(host: Start) -> None:
    there = host(lab.A100)

    there.apply()

    assert there.changes() == []


# --- refusals ---------------------------------------------------------------------------------

@pytest.mark.parametrize(("parts", "text"), [
    (["9g.90gb"], "no profile '9g.90gb'; it has"),
    (["7g.40gb", "1g.5gb"], "needs 9 memory units; the device has 8.* Nearest: "),
    (["1g.5gb*8"], "holds 7 of them at most")])
def test_a_wish_that_the_card_can_not_have_changes_nothing(
        host: Start, parts: list[str], text: str) -> None:
    there = host(lab.A100)

    with pytest.raises(nvidia_mig_work.Fault, match=text):
        there.apply(*parts)

    assert there.changes() == []


def test_a_layout_that_was_wished_for_of_another_model_is_refused(host: Start) -> None:
    there = host(lab.A100)

    with pytest.raises(nvidia_mig_work.Fault, match=r"another card \(20b0\) .* split \(2335\)"):
        there.driver.apply_layout(dataclasses.replace(lab.wish("3g.20gb"), model="2335"))
    refused = there.changes()
    there.driver.apply_layout(dataclasses.replace(lab.wish("3g.20gb"), model="20b0"))

    assert refused == []
    assert there.partitions() == [("3g.20gb", 4)]


def test_a_partition_in_use_stays_and_the_layout_before_it_is_there_again(host: Start) -> None:
    there = host(lab.A100)
    there.apply("3g.20gb*2")
    before = there.partitions()
    numbers = [each.id for each in there.device().partitioning.partitions]
    there.nvml.happen("hold", value=numbers[1])

    with pytest.raises(nvidia_mig_work.Fault, match=r"in use by processes") as fault:
        there.apply("7g.40gb")

    assert "the card has 2x3g.20gb as before" in str(fault.value)
    assert there.partitions() == before
    told = there.kernel.look_at_partitions([lab.CARD])[lab.CARD]
    assert all(each[4] == [3] for each in told["partitions"])


@pytest.mark.parametrize("trouble", ["no_driver", "lost"])
def test_without_an_answer_of_nvml_nothing_is_changed_and_the_fault_says_so(
        host: Start, trouble: str) -> None:
    there = host(lab.A100)
    there.apply("3g.20gb")
    there.nvml.happen(trouble, value=1)

    with pytest.raises(nvidia_mig_work.Fault, match=rf"GPU {lab.CARD} is split .*nothing was ch"):
        there.apply("7g.40gb")

    there.nvml.happen(trouble, value=0)
    assert there.partitions() == [("3g.20gb", 4)]


def test_what_is_hidden_is_not_taken_for_empty(host: Start) -> None:
    there = host(lab.A100)
    there.apply("7g.40gb")
    there.nvml.happen("unprivileged", value=1)

    with pytest.raises(nvidia_mig_work.Fault, match="has the rights of root"):
        there.apply()


def test_a_partition_with_a_vgpu_at_work_is_kept_and_others_change(host: Start) -> None:
    there = host(stand_in.Card(lab.A100, vgpu=True))
    there.nvml.happen("vfs", value=16)
    there.apply("3g.20gb", "1g.5gb")
    before = there.discover()
    assert there.nvml.happen("vgpu", value=471) == 0

    with_a_server = there.discover()
    with pytest.raises(nvidia_mig_work.Fault, match=r"in use: 1g\.5gb at unit"):
        there.apply("7g.40gb")
    there.apply("2g.10gb", "1g.5gb")

    assert with_a_server == before
    assert sorted(name for name, _ in there.partitions()) == ["1g.5gb", "2g.10gb"]


def test_a_card_without_places_at_present_is_shown_and_says_so(host: Start) -> None:
    there = host(lab.A100)
    call = "nvmlDeviceGetGpuInstancePossiblePlacements_v2"

    with there.nvml.failing(f"{call}:1=3"):
        one = there.device().partitioning
    with there.nvml.failing(";".join(f"{call}:{nth}=3" for nth in range(1, 8))):
        none = there.device().partitioning
    after = there.device().partitioning

    assert [bool(each.placements) for each in one.profiles].count(False) == 1
    assert none.fault == ("NVML names no places for partitions; switch MIG mode on "
                          "(nvidia-smi -mig 1)")
    assert [one.fault, after.fault] == [None, None]


def test_a_server_that_ends_while_nvml_is_asked_costs_no_card(host: Start) -> None:
    there = host(stand_in.Card(lab.A100, vgpu=True))
    there.nvml.happen("vfs", value=16)
    there.apply("3g.20gb", "1g.5gb")
    before = there.discover()
    assert there.nvml.happen("vgpu", value=471) == 0

    with there.nvml.failing("nvmlVgpuInstanceGetGpuInstanceId:1=6"):
        found = there.discover()

    assert (found, there.driver.withheld) == (before, {})


def test_a_partition_that_lost_its_compute_instance_is_said_and_gets_it_back(host: Start) -> None:
    there = host(lab.A100)
    there.apply("3g.20gb", "1g.5gb")
    number = next(each.id for each in there.device().partitioning.partitions
                  if each.profile == "3g.20gb")
    there.kernel.empty_partition(lab.CARD, number, 9, 4)

    fault = there.device().partitioning.fault
    there.apply("3g.20gb", "1g.5gb")

    assert "3g.20gb at unit 4" in fault
    assert "no compute instance" in fault
    assert there.device().partitioning.fault is None


# --- MIG mode ---------------------------------------------------------------------------------

def test_a_mode_that_needs_a_reset_is_said_and_applied_after_it(host: Start) -> None:
    there = host(stand_in.Card(lab.A100, resets=False))

    with pytest.raises(nvidia_mig_work.Fault, match=r"waits for a reset.*or restart the host"):
        there.apply("7g.40gb")
    waiting = there.device().partitioning
    there.nvml.happen("reset")
    there.apply("7g.40gb")

    assert "waits for a reset" in waiting.fault
    assert waiting.partitions == []
    assert there.device().partitioning.fault is None
    assert there.partitions() == [("7g.40gb", 0)]


def test_clients_of_the_card_keep_the_mode_off_and_are_named(host: Start) -> None:
    there = host(lab.H100)
    there.nvml.happen("clients", value=2)

    with pytest.raises(nvidia_mig_work.Fault, match="processes use the GPU, such as DCGM"):
        there.apply("7g.80gb")
    there.nvml.happen("clients", value=0)
    there.apply("7g.80gb")

    assert there.partitions() == [("7g.80gb", 0)]


@pytest.mark.parametrize("model", [lab.A100, lab.H100])
def test_after_a_reboot_the_same_wish_makes_the_same_again(host: Start, model: str) -> None:
    there = host(model)
    names = [each.name for each in there.device().partitioning.profiles]
    there.apply(names[2], names[3])
    before = there.partitions()

    there.reboot()
    lost = there.partitions()
    there.apply(names[2], names[3])

    assert lost == []
    assert there.partitions() == before
