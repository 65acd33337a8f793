# SPDX-License-Identifier: Apache-2.0
"""What drivers of NVIDIA were seen to answer and no document says, and what becomes of it.

Seen in NVIDIA/go-nvlib #85 and kubernetes-sigs/dra-driver-nvidia-gpu #1480: a partition has more
than one profile for a compute instance that takes all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml
import pytest

from cyborg_lite.drivers import nvidia_mig_work
from cyborg_lite.drivers import nvml
from cyborg_lite.drivers import nvml_mig
from tests.drivers.nvidia_mig import lab
from tests.nvml import stand_in

Start = Callable[..., lab.Lab]

CREATE = "nvmlGpuInstanceCreateComputeInstance"
PROFILES = "nvmlDeviceGetGpuInstanceProfileInfoV"
PLACES = "nvmlDeviceGetGpuInstancePossiblePlacements_v2"


def multiprocessors() -> list[int]:
    """Of each MIG device that a process could be given, largest first."""
    found = []
    pynvml.nvmlInit()
    card = pynvml.nvmlDeviceGetHandleByIndex(0)
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index)
        except pynvml.NVMLError_NotFound:
            continue
        found.append(pynvml.nvmlDeviceGetAttributes_v2(device).multiprocessorCount)
    pynvml.nvmlShutdown()
    return sorted(found, reverse=True)


@pytest.mark.parametrize(("model", "parts", "expected"), [
    (lab.H100, ["3g.40gb", "1g.20gb", "1g.10gb"], [60, 26, 16]),
    (lab.H200, ["1g.35gb*3", "1g.18gb"], [26, 26, 26, 16]),
    (lab.A100, ["3g.20gb", "1g.10gb"], [42, 14]),
    (lab.A100, ["7g.40gb"], [98])])
def test_what_runs_in_a_partition_has_all_its_multiprocessors(
        host: Start, model: str, parts: list[str], expected: list[int]) -> None:
    host(model).apply(*parts)

    assert multiprocessors() == expected


@pytest.mark.parametrize("made", stand_in.recorded()["compute"], ids=lambda one: str(one["card"]))
def test_the_multiprocessors_are_those_that_nvidia_smi_gives(
        host: Start, made: dict[str, Any]) -> None:
    names = {each["id"]: each["name"] for each in stand_in.mig_cards()[made["card"]]["profiles"]}

    host(made["card"]).apply(*(names[number] for number in made["made"]))

    assert multiprocessors() == sorted(made["made"].values(), reverse=True)


@pytest.mark.parametrize("code", [2, 3, 23])
def test_a_compute_instance_that_can_not_be_made_is_made_of_the_next_profile(
        host: Start, code: int) -> None:
    there = host(lab.H200)

    with there.nvml.failing(f"{CREATE}:1={code}"):
        there.apply("1g.35gb")

    assert multiprocessors() == [16]
    assert there.device().partitioning.fault is None


def test_the_refusal_of_the_last_profile_is_said(host: Start) -> None:
    there = host(lab.H200)

    with there.nvml.failing(f"{CREATE}:1=2;{CREATE}:2=23"), \
            pytest.raises(nvidia_mig_work.Fault, match="no room at that place"):
        there.apply("1g.35gb")

    assert there.partitions() == []


def test_a_compute_profile_that_lists_nothing_costs_no_card(host: Start) -> None:
    there = host(lab.A100)
    there.apply("7g.40gb")
    call = "nvmlGpuInstanceGetComputeInstances"
    before = there.nvml.calls().count(call)
    there.device()
    number = there.nvml.calls().count(call) - before

    with there.nvml.failing(f"{call}:{number}=3"):
        device = there.device()

    assert device.partitioning.fault is None
    assert [each.profile for each in device.partitioning.partitions] == ["7g.40gb"]


@pytest.mark.parametrize("code", [2, 3])
def test_a_profile_that_has_no_places_is_listed_beside_the_others(host: Start, code: int) -> None:
    there = host(lab.H200)

    with there.nvml.failing(f"{PLACES}:1={code}"):
        profiles = there.device().partitioning.profiles

    assert [each.name for each in profiles if not each.placements] == ["1g.18gb"]
    assert len(profiles) == 7


def test_who_may_not_even_ask_for_profiles_is_told_what_is_hidden(host: Start) -> None:
    there = host(lab.H200)

    with there.nvml.failing(f"{PROFILES}:1=4"):
        partitioning = there.device().partitioning

    assert partitioning.profiles == []
    assert "privileged" in (partitioning.fault or "")


def test_a_card_that_names_no_profile_while_its_mode_is_off_says_what_to_do(host: Start) -> None:
    there = host(lab.A100)

    with there.nvml.failing(";".join(f"{PROFILES}:{nth}=3" for nth in range(1, 19))):
        partitioning = there.device().partitioning

    assert partitioning.profiles == []
    assert "nvidia-smi -mig 1" in (partitioning.fault or "")


def test_a_driver_that_knows_an_older_way_to_list_processes_is_asked_so(host: Start) -> None:
    there = host(lab.A100)
    there.apply("3g.20gb")
    there.nvml.happen("clients", value=2)
    newer = "nvmlDevice{}RunningProcesses_v3:1=13"

    with there.nvml.failing(";".join(map(newer.format, ("GetCompute", "GetGraphics")))):
        device = there.device()
    # the other way round, so that it is another plan
    with there.nvml.failing(";".join(map(newer.format, ("GetGraphics", "GetCompute")))):
        answer = nvml.ask([lab.CARD])[lab.CARD]

    assert device.partitioning.fault is None
    assert (answer.unknown, answer.processes) == (None, 2)


@pytest.mark.parametrize("code", [3, 12, 13, 22])
def test_a_host_without_vgpu_software_may_say_so_in_several_ways(host: Start, code: int) -> None:
    there = host(lab.H200)
    there.apply("3g.71gb")

    with there.nvml.failing(f"nvmlDeviceGetSupportedVgpus:1={code};"
                            f"nvmlDeviceGetActiveVgpus:1={code}"):
        partitioning = there.device().partitioning

    assert (partitioning.scheme, partitioning.fault) == ("mig", None)
    assert [each.profile for each in partitioning.partitions] == ["3g.71gb"]


def test_a_driver_that_was_changed_under_the_agent_is_said(host: Start) -> None:
    there = host(lab.A100)

    with there.nvml.failing("nvmlInitWithFlags:1=18;nvmlInitWithFlags:2=18"):
        found = there.discover()
        answer = nvml.ask([lab.CARD])[lab.CARD]
    [problem] = there.driver.problems
    after = there.discover()

    assert found == []
    assert "restart cyborg-lite-agent" in problem.what
    assert "restart cyborg-lite-agent" in (answer.unknown or "")
    assert [each.address for each in after] == [lab.CARD]


def test_a_partition_whose_vgpu_has_compute_instances_of_its_own_is_left_alone(
        host: Start) -> None:
    there = host(stand_in.Card(lab.A100, vgpu=True))
    there.nvml.happen("vfs", value=16)
    there.apply("3g.20gb", "1g.5gb")
    [one] = [each for each in there.device().partitioning.partitions if each.profile == "1g.5gb"]
    assert there.nvml.happen("vgpu", value=471) == 0
    there.kernel.empty_partition(lab.CARD, one.id, 19, one.place.start)
    before = there.changes()

    there.apply("3g.20gb", "1g.5gb")
    there.apply("3g.20gb", "2g.10gb", "1g.5gb")

    made = there.changes()[len(before):]
    assert made == ["nvmlDeviceCreateGpuInstanceWithPlacement",
                    "nvmlGpuInstanceCreateComputeInstance"]
    assert there.device().partitioning.fault is None


@pytest.mark.parametrize("way", ["vendor", "mdev"])
def test_partitions_are_made_before_vgpu_software_names_its_types(host: Start, way: str) -> None:
    there = host(lab.A100, way=way)
    call = "nvmlDeviceGetSupportedVgpus"

    with there.nvml.failing(";".join(f"{call}:{nth}=3" for nth in range(1, 10))):
        there.apply("3g.20gb:A100-3-20C", "1g.5gb*2:A100-1-5C")
        early = there.device()
    there.kernel._recount()

    assert early.deployables == []
    assert {name: len(each) for name, each in there.handles().items()} == {
        "A100-3-20C": 1, "A100-1-5C": 2}


@pytest.mark.parametrize("ask", [nvml.ask, nvml_mig.look])
def test_an_end_that_nvml_refuses_spoils_no_answer(
        host: Start, ask: Callable[[list[str]], dict[str, object]]) -> None:
    there = host(lab.A100)

    with there.nvml.failing("nvmlShutdown:1=15"):
        answers = ask([lab.CARD])

    assert list(answers) == [lab.CARD]
