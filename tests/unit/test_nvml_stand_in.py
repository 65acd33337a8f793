# SPDX-License-Identifier: Apache-2.0
"""The stand-in for NVML, through the real binding: what it refuses, keeps, forgets and plays.

What a driver does with it is tested with the driver.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import pathlib
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import hypothesis
import pynvml
import pytest
from hypothesis import strategies as st

from cyborg_lite import layout_plans
from cyborg_lite import layout_wishes
from cyborg_lite import layouts
from tests.nvml import asking
from tests.nvml import stand_in

A100 = "A100-40GB"
H100 = "H100-80GB"
A30 = "A30-24GB"
RTX = "RTX-PRO-6000-Blackwell-96GB"
PLAYED = (A30, A100, "A100-80GB", H100, "H200-141GB", RTX)

Boot = Callable[..., stand_in.Host]


@pytest.fixture
def boot(nvml_library: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Boot]:
    """Start a host with such cards; this process has called nvmlInit on it."""
    with contextlib.ExitStack() as stack:
        def start(*cards: str | stand_in.Card, driver: str = "580.82.07") -> stand_in.Host:
            made = [stand_in.Card(one) if isinstance(one, str) else one for one in cards]
            host = stand_in.Host(nvml_library, tmp_path / "host", made, driver)
            stack.enter_context(host.here())
            pynvml.nvmlInit()
            return host
        yield start


def card(index: int = 0, mig: bool = True) -> Any:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    if mig:
        assert pynvml.nvmlDeviceSetMigMode(handle, 1) == 0
    return handle


def code_of(call: Callable[..., Any], *arguments: Any) -> int:
    with pytest.raises(pynvml.NVMLError) as error:
        call(*arguments)
    return int(error.value.value)


# --- discovery --------------------------------------------------------------------------------

def test_a_card_is_found_by_index_address_and_uuid(boot: Boot) -> None:
    boot(A100, H100, driver="570.133.20")

    handle = pynvml.nvmlDeviceGetHandleByPciBusId("00000000:42:00.0")

    assert pynvml.nvmlDeviceGetCount() == 2
    assert pynvml.nvmlSystemGetDriverVersion() == "570.133.20"
    assert pynvml.nvmlDeviceGetName(handle) == "NVIDIA H100-80GB"
    pci = pynvml.nvmlDeviceGetPciInfo(handle)
    assert (pci.pciDeviceId, pci.bus, pynvml.nvmlDeviceGetMemoryInfo(handle).total >> 20) == (
        0x233010DE, 0x42, 81152)
    same = pynvml.nvmlDeviceGetHandleByUUID(pynvml.nvmlDeviceGetUUID(handle))
    assert ctypes.addressof(same.contents) == ctypes.addressof(handle.contents)
    assert pynvml.nvmlDeviceGetHandleByPciBusId("0000:42:00.0")
    assert code_of(pynvml.nvmlDeviceGetHandleByPciBusId, "0000:77:00.0") == 6
    assert code_of(pynvml.nvmlDeviceGetHandleByIndex, 2) == 2


@pytest.mark.parametrize("model", PLAYED)
def test_a_card_tells_the_published_profiles_and_placements(boot: Boot, model: str) -> None:
    boot(model)
    handle = card(mig=False)

    told = asking.profile_infos(handle)

    published = {one["index"]: one for one in stand_in.mig_cards()[model]["profiles"]}
    assert set(told) == set(published)
    for index, one in published.items():
        info = told[index]
        assert (info.id, asking.text(info.name), info.sliceCount, info.instanceCount) == (
            one["id"], f"MIG {one['name']}", one["slices"], one["max"])
        assert (info.memorySizeMB, info.multiprocessorCount) == (one["memory_mib"], one["sm"])
        assert [(place.start, place.size) for place in asking.placements(handle, one["id"])] == [
            (start, one["size"]) for start in one["starts"]]
        by_id = pynvml.nvmlDeviceGetGpuInstanceProfileInfoById(handle, one["id"])
        assert by_id.sliceCount == one["slices"]
        old = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, index, version=1)
        assert (old.id, old.memorySizeMB) == (one["id"], one["memory_mib"])


def test_a_card_without_mig_says_so(boot: Boot) -> None:
    boot("T4")
    handle = card(mig=False)

    assert code_of(pynvml.nvmlDeviceGetMigMode, handle) == 3
    assert code_of(pynvml.nvmlDeviceSetMigMode, handle, 1) == 3
    assert code_of(pynvml.nvmlDeviceGetGpuInstanceProfileInfo, handle, 0) == 3
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(handle) == 0


# --- struct versions, buffers, life of the library --------------------------------------------

@pytest.mark.parametrize("version", [0, 0x01000098, 0x02000097, 0x03000098, 2])
def test_a_struct_of_another_version_is_refused(boot: Boot, version: int) -> None:
    boot(A100)
    handle = card()
    profile = pynvml.c_nvmlGpuInstanceProfileInfo_v2_t()
    profile.version = version
    memory = pynvml.c_nvmlMemory_v2_t()
    memory.version = version
    library = pynvml.nvmlLib

    codes = [library.nvmlDeviceGetGpuInstanceProfileInfoV(handle, 0, ctypes.byref(profile)),
             library.nvmlDeviceGetGpuInstanceProfileInfoByIdV(handle, 19, ctypes.byref(profile)),
             library.nvmlDeviceGetMemoryInfo_v2(handle, ctypes.byref(memory))]

    assert codes == [25, 25, 25]


def test_a_compute_profile_struct_of_another_version_is_refused(boot: Boot) -> None:
    boot(A100)
    instance = pynvml.nvmlDeviceCreateGpuInstance(card(), 9)
    info = pynvml.c_nvmlComputeInstanceProfileInfo_v2_t()
    info.version = 0x01000088

    code = pynvml.nvmlLib.nvmlGpuInstanceGetComputeInstanceProfileInfoV(
        instance, 0, 0, ctypes.byref(info))

    assert code == 25


def test_a_buffer_that_is_too_small_is_refused(boot: Boot) -> None:
    boot(A100)
    handle = card()
    count = ctypes.c_uint(3)
    array = (pynvml.c_nvmlGpuInstancePlacement_t * 3)()

    code = code_of(pynvml.nvmlDeviceGetGpuInstancePossiblePlacements,
                   handle, 19, array, ctypes.byref(count))

    assert code == 7


def test_calls_before_init_and_after_shutdown_are_refused(boot: Boot) -> None:
    boot(A100)
    pynvml.nvmlShutdown()

    assert code_of(pynvml.nvmlDeviceGetCount) == 1
    assert code_of(pynvml.nvmlShutdown) == 1


def test_a_symbol_that_the_driver_lacks_is_reported_as_such(boot: Boot) -> None:
    boot(A100)

    assert code_of(pynvml.nvmlDeviceGetPowerUsage, card(mig=False)) == 13


def test_an_absent_driver_fails_init(boot: Boot) -> None:
    host = boot(A100)
    pynvml.nvmlShutdown()
    host.happen("no_driver", value=1)

    assert code_of(pynvml.nvmlInit) == 9


def test_a_card_that_fell_off_the_bus_answers_nothing(boot: Boot) -> None:
    host = boot(A100, H100)
    handle = card(0)
    host.happen("lost", card=0, value=1)

    assert code_of(pynvml.nvmlDeviceGetMigMode, handle) == 15
    assert code_of(pynvml.nvmlDeviceGetHandleByIndex, 0) == 15
    assert pynvml.nvmlDeviceGetMigMode(card(1)) == [1, 1]


def test_an_unprivileged_caller_may_look_but_not_touch(boot: Boot) -> None:
    host = boot(A100)
    handle = card()
    host.happen("unprivileged", value=1)

    assert len(asking.profile_infos(handle)) == 7
    assert code_of(asking.placements, handle, 19) == 4
    assert code_of(pynvml.nvmlDeviceSetMigMode, handle, 0) == 4
    assert code_of(pynvml.nvmlDeviceCreateGpuInstance, handle, 19) == 4


# --- MIG mode ---------------------------------------------------------------------------------

def test_creation_is_refused_while_mig_mode_is_off(boot: Boot) -> None:
    boot(A100)
    handle = card(mig=False)

    assert pynvml.nvmlDeviceGetMigMode(handle) == [0, 0]
    assert code_of(pynvml.nvmlDeviceCreateGpuInstance, handle, 19) == 3
    assert code_of(pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity, handle, 19) == 3


@pytest.mark.parametrize(("model", "mode"), [(A100, [1, 1]), (A30, [1, 1]), (H100, [0, 0]),
                                             (RTX, [0, 0])])
def test_a_reboot_loses_instances_and_since_hopper_the_mode_too(
        boot: Boot, model: str, mode: list[int]) -> None:
    host = boot(model)
    pynvml.nvmlDeviceCreateGpuInstance(card(), 0)

    host.happen("reboot")

    handle = card(mig=False)
    assert pynvml.nvmlDeviceGetMigMode(handle) == mode
    pynvml.nvmlDeviceSetMigMode(handle, 1)
    assert asking.instances(handle) == []


def test_a_mode_that_needs_a_reset_is_pending_until_a_reboot(boot: Boot) -> None:
    host = boot(stand_in.Card(A100, resets=False))
    handle = card(mig=False)

    activation = pynvml.nvmlDeviceSetMigMode(handle, 1)

    assert (activation, pynvml.nvmlDeviceGetMigMode(handle)) == (16, [0, 1])
    host.happen("reboot")
    assert pynvml.nvmlDeviceGetMigMode(handle) == [1, 1]


def test_a_mode_change_waits_for_the_clients_of_the_card(boot: Boot) -> None:
    host = boot(H100)
    handle = card(mig=False)
    host.happen("clients", value=1)

    activation = pynvml.nvmlDeviceSetMigMode(handle, 1)

    assert (activation, pynvml.nvmlDeviceGetMigMode(handle)) == (19, [0, 1])
    host.happen("clients", value=0)
    assert pynvml.nvmlDeviceSetMigMode(handle, 1) == 0
    assert pynvml.nvmlDeviceGetMigMode(handle) == [1, 1]


def test_mig_mode_stays_on_while_virtual_functions_are_enabled(boot: Boot) -> None:
    host = boot(RTX)
    handle = card()
    host.happen("vfs", value=48)

    assert pynvml.nvmlDeviceSetMigMode(handle, 0) == 19
    assert pynvml.nvmlDeviceGetMigMode(handle) == [1, 0]


def test_enabling_virtual_functions_loses_the_instances(boot: Boot) -> None:
    host = boot(RTX)
    handle = card()
    pynvml.nvmlDeviceCreateGpuInstance(handle, 14)

    host.happen("vfs", value=48)

    assert asking.instances(handle) == []


# --- GPU instances ----------------------------------------------------------------------------

@pytest.mark.parametrize("model", PLAYED)
def test_each_profile_can_be_made_as_often_as_it_says(boot: Boot, model: str) -> None:
    boot(model)
    handle = card()

    for profile in asking.profiles(handle):
        assert pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(
            handle, profile.id) == profile.max_instances
        made = [pynvml.nvmlDeviceCreateGpuInstance(handle, profile.id)
                for _ in range(profile.max_instances)]
        assert code_of(pynvml.nvmlDeviceCreateGpuInstance, handle, profile.id) == 23
        assert pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(handle, profile.id) == 0
        for one in made:
            pynvml.nvmlGpuInstanceDestroy(one)


def test_an_order_that_the_driver_places_badly_ends_with_an_error(boot: Boot) -> None:
    boot(A100)
    handle = card()

    for profile_id in (19, 19, 14):
        pynvml.nvmlDeviceCreateGpuInstance(handle, profile_id)

    assert code_of(pynvml.nvmlDeviceCreateGpuInstance, handle, 9) == 23


@pytest.mark.parametrize(("order", "placed"), [
    ((9, 19, 14, 19), {(9, 4), (19, 0), (19, 1), (14, 2)}),
    ((19, 14, 5), {(19, 6), (14, 4), (5, 0)}),
])
def test_the_driver_places_as_published(boot: Boot, order: tuple[int, ...],
                                        placed: set[tuple[int, int]]) -> None:
    boot(A100)
    handle = card()

    for profile_id in order:
        pynvml.nvmlDeviceCreateGpuInstance(handle, profile_id)

    assert {(one.profile_id, one.placement.start) for one in asking.instances(handle)} == placed


def test_a_placement_that_is_taken_or_unknown_is_refused(boot: Boot) -> None:
    boot(A100)
    handle = card()
    asking.create(handle, 14, layouts.Placement(2, 2))

    assert code_of(asking.create, handle, 19, layouts.Placement(3, 1)) == 23
    assert code_of(asking.create, handle, 9, layouts.Placement(2, 4)) == 2
    assert code_of(asking.create, handle, 19, layouts.Placement(7, 1)) == 2
    assert code_of(asking.create, handle, 99, layouts.Placement(0, 1)) == 2


def test_a_gpu_instance_goes_only_after_its_compute_instances_and_processes(boot: Boot) -> None:
    host = boot(A100)
    handle = card()
    instance = pynvml.nvmlDeviceCreateGpuInstance(handle, 9)
    compute = asking.fill(instance)
    number = pynvml.nvmlGpuInstanceGetInfo(instance).id
    host.happen("hold", value=number)

    assert code_of(pynvml.nvmlGpuInstanceDestroy, instance) == 19
    assert code_of(pynvml.nvmlComputeInstanceDestroy, compute) == 19
    assert pynvml.nvmlDeviceSetMigMode(handle, 0) == 19
    host.happen("release", value=number)
    pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(instance)
    assert asking.instances(handle) == []
    assert code_of(pynvml.nvmlGpuInstanceDestroy, instance) == 2


def test_an_instance_is_found_by_its_id(boot: Boot) -> None:
    boot(A100)
    handle = card()
    pynvml.nvmlDeviceCreateGpuInstance(handle, 9)
    number = asking.instances(handle)[0].id

    again = pynvml.nvmlDeviceGetGpuInstanceById(handle, number)

    assert pynvml.nvmlGpuInstanceGetInfo(again).profileId == 9
    assert code_of(pynvml.nvmlDeviceGetGpuInstanceById, handle, number + 1) == 6


def test_compute_instances_share_a_gpu_instance_as_published(boot: Boot) -> None:
    boot(A100)
    instance = pynvml.nvmlDeviceCreateGpuInstance(card(), 0)

    found = {}
    for index in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        with contextlib.suppress(pynvml.NVMLError_NotSupported):
            info = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, index, 0)
            found[asking.text(info.name)] = info.instanceCount

    assert found == {"MIG 1c.7g.40gb": 7, "MIG 2c.7g.40gb": 3, "MIG 3c.7g.40gb": 2,
                     "MIG 4c.7g.40gb": 1, "MIG 7g.40gb": 1}
    pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 3)
    assert code_of(pynvml.nvmlGpuInstanceCreateComputeInstance, instance, 3) == 23
    assert pynvml.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(instance, 2) == 1


def test_a_mig_device_tells_where_it_is_and_keeps_its_uuid_in_its_place(boot: Boot) -> None:
    boot(A100)
    handle = card()
    place = layouts.Placement(4, 4)
    instance = asking.create(handle, 9, place)
    compute = asking.fill(instance)

    device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0)

    name = pynvml.nvmlDeviceGetUUID(device)
    assert name.startswith("MIG-")
    assert pynvml.nvmlDeviceIsMigDeviceHandle(device)
    assert pynvml.nvmlDeviceGetGpuInstanceId(device) == pynvml.nvmlGpuInstanceGetInfo(instance).id
    assert pynvml.nvmlDeviceGetComputeInstanceId(device) == 0
    assert pynvml.nvmlDeviceGetAttributes_v2(device).gpuInstanceSliceCount == 3
    assert pynvml.nvmlDeviceGetMemoryInfo(device).total >> 20 == 19968
    assert code_of(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, 1) == 6
    pynvml.nvmlComputeInstanceDestroy(compute)
    assert code_of(pynvml.nvmlDeviceGetUUID, device) == 2
    asking.fill(instance)
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByUUID(name)) == name


def test_all_media_engines_leave_only_profiles_without_any(boot: Boot) -> None:
    boot(RTX)
    handle = card()
    pynvml.nvmlDeviceCreateGpuInstance(handle, 65)

    assert code_of(pynvml.nvmlDeviceCreateGpuInstance, handle, 14) == 23
    assert pynvml.nvmlDeviceCreateGpuInstance(handle, 67)


# --- vGPU types -------------------------------------------------------------------------------

def test_a_time_sliced_card_takes_one_type_at_a_time(boot: Boot) -> None:
    host = boot(stand_in.Card("T4", vgpu=True))
    handle = card(mig=False)
    names = {pynvml.nvmlVgpuTypeGetName(one): one
             for one in pynvml.nvmlDeviceGetSupportedVgpus(handle)}
    wanted = names["GRID T4-8Q"]

    assert pynvml.nvmlDeviceGetHostVgpuMode(handle) == 0
    assert pynvml.nvmlVgpuTypeGetMaxInstances(handle, wanted) == 2
    assert pynvml.nvmlVgpuTypeGetFramebufferSize(wanted) == 8 << 30
    assert pynvml.nvmlVgpuTypeGetGpuInstanceProfileId(wanted) == 0xFFFFFFFF
    assert set(pynvml.nvmlDeviceGetCreatableVgpus(handle)) == set(names.values())
    assert host.happen("vgpu", value=wanted) == 0
    assert pynvml.nvmlDeviceGetCreatableVgpus(handle) == [wanted]
    assert host.happen("vgpu", value=wanted) == 0
    assert pynvml.nvmlDeviceGetCreatableVgpus(handle) == []
    active = pynvml.nvmlDeviceGetActiveVgpus(handle)
    assert [pynvml.nvmlVgpuInstanceGetType(one) for one in active] == [wanted, wanted]


def test_mig_backed_types_need_virtual_functions_and_a_gpu_instance(boot: Boot) -> None:
    host = boot(stand_in.Card(A100, vgpu=True))
    handle = card()
    before = pynvml.nvmlDeviceGetCreatableVgpus(handle)
    host.happen("vfs", value=16)

    instance = pynvml.nvmlDeviceCreateGpuInstance(handle, 9)

    assert before == []
    creatable = pynvml.nvmlDeviceGetCreatableVgpus(handle)
    assert [pynvml.nvmlVgpuTypeGetName(one) for one in creatable] == ["NVIDIA A100-3-20C"]
    assert pynvml.nvmlVgpuTypeGetGpuInstanceProfileId(creatable[0]) == 9
    assert pynvml.nvmlVgpuTypeGetMaxInstancesPerGpuInstance(creatable[0]) == 1
    assert host.happen("vgpu", value=creatable[0]) == 0
    assert pynvml.nvmlDeviceGetCreatableVgpus(handle) == []
    running = pynvml.nvmlDeviceGetActiveVgpus(handle)[0]
    number = pynvml.nvmlGpuInstanceGetInfo(instance).id
    assert pynvml.nvmlVgpuInstanceGetGpuInstanceId(running) == number
    assert code_of(pynvml.nvmlGpuInstanceDestroy, instance) == 19


def test_several_types_of_one_framebuffer_size_share_a_gpu_instance(boot: Boot) -> None:
    host = boot(stand_in.Card(RTX, vgpu=True))
    handle = card()
    host.happen("vfs", value=48)
    instance = pynvml.nvmlDeviceCreateGpuInstance(handle, 47)
    ids = {pynvml.nvmlVgpuTypeGetName(one).split()[-1]: one
           for one in pynvml.nvmlDeviceGetSupportedVgpus(handle)}
    assert host.happen("vgpu", value=ids["DC-1-12Q"]) == 0

    asked = pynvml.c_nvmlVgpuTypeIdInfo_v1_t()
    asked.version = pynvml.nvmlVgpuTypeIdInfo_v1
    inside = pynvml.nvmlGpuInstanceGetCreatableVgpus(instance, asked)

    assert set(inside.vgpuTypeIds[:inside.vgpuCount]) == {ids["DC-1-12Q"], ids["DC-1-12C"]}
    assert pynvml.nvmlVgpuTypeGetMaxInstancesPerGpuInstance(ids["DC-1-12Q"]) == 2


def test_mixed_sizes_lie_in_placements(boot: Boot) -> None:
    host = boot(stand_in.Card(H100, vgpu=True))
    handle = card(mig=False)
    host.happen("vfs", value=16)
    ids = {pynvml.nvmlVgpuTypeGetName(one).split()[-1]: one
           for one in pynvml.nvmlDeviceGetSupportedVgpus(handle)}
    pynvml.nvmlDeviceSetVgpuHeterogeneousMode(handle, 1)
    host.happen("vgpu", value=ids["H100-40C"])

    # bindings before 13.615 have two fields of the first version of this struct in wrong order
    free = pynvml.nvmlDeviceGetVgpuTypeCreatablePlacements(handle, ids["H100-8C"], version=2)

    assert (free.placementSize, free.placementIds[:free.count]) == (2, [8, 10, 12, 14])
    assert pynvml.nvmlVgpuTypeGetMaxInstances(handle, ids["H100-8C"]) == 8
    assert code_of(pynvml.nvmlDeviceSetVgpuHeterogeneousMode, handle, 0) == 19


# --- failures on demand, other processes, reboots ---------------------------------------------

def test_a_planned_failure_hits_the_call_it_names_and_does_nothing(boot: Boot) -> None:
    host = boot(A100)
    handle = card()

    with host.failing("nvmlDeviceCreateGpuInstance:2=15"):
        pynvml.nvmlDeviceCreateGpuInstance(handle, 19)
        code = code_of(pynvml.nvmlDeviceCreateGpuInstance, handle, 19)
        count = len(asking.instances(handle))

    assert (code, count) == (15, 1)


def test_a_planned_failure_can_come_after_the_work_is_done(boot: Boot) -> None:
    host = boot(A100)
    handle = card()

    with host.failing("nvmlDeviceCreateGpuInstance:1=999!"):
        code = code_of(pynvml.nvmlDeviceCreateGpuInstance, handle, 19)

    assert (code, len(asking.instances(handle))) == (999, 1)


@pytest.mark.parametrize("nth", range(1, 6))
def test_any_call_can_be_the_one_that_fails(boot: Boot, nth: int) -> None:
    host = boot(A100)

    with host.failing(f"*:{nth}=10"):
        codes = [_try(pynvml.nvmlDeviceGetCount) for _ in range(5)]

    assert codes == [10 if at == nth else 0 for at in range(1, 6)]


CREATES = """
import pynvml
pynvml.nvmlInit()
card = pynvml.nvmlDeviceGetHandleByIndex(0)
pynvml.nvmlDeviceSetMigMode(card, 1)
for profile in (9, 19, 14, 19):
    pynvml.nvmlDeviceCreateGpuInstance(card, profile)
"""


def test_another_process_finds_the_library_by_name_and_shares_the_cards(boot: Boot) -> None:
    host = boot(A100)

    subprocess.run([sys.executable, "-c", CREATES], env=host.environment(), check=True)

    assert len(asking.instances(card(mig=False))) == 4
    assert host.calls().count("nvmlDeviceCreateGpuInstance") == 4


def test_a_process_killed_in_a_call_leaves_what_it_had_done(boot: Boot) -> None:
    host = boot(A100)

    ended = subprocess.run([sys.executable, "-c", CREATES], check=False,
                           env=host.environment("nvmlDeviceCreateGpuInstance:3=kill"))

    assert ended.returncode == -9
    assert len(asking.instances(card(mig=False))) == 2
    host.happen("reboot")
    assert asking.instances(card(mig=False)) == []


# --- layouts.py against what the cards accept -------------------------------------------------

def clear(handle: Any) -> None:
    for instance in asking.gpu_instances(handle):
        pynvml.nvmlGpuInstanceDestroy(instance)


@pytest.mark.parametrize("model", [A30, A100, RTX])
def test_every_computed_layout_is_accepted_where_it_was_arranged(boot: Boot, model: str) -> None:
    boot(model)
    handle = card()
    profiles = asking.profiles(handle)

    for layout in layouts.all_layouts(profiles):
        counts = {one.profile_id: one.count for one in layout.counts}
        steps = layout_plans.plan(profiles, [], counts).steps
        for step in steps:
            asking.create(handle, step.profile_id, step.placement)
        made = collections.Counter(one.profile_id for one in asking.instances(handle))
        assert made == counts
        clear(handle)


@pytest.mark.parametrize("model", PLAYED)
def test_a_wish_is_valid_exactly_if_the_card_takes_it(boot: Boot, model: str) -> None:
    boot(model)
    handle = card()
    profiles = asking.profiles(handle)
    names = {one.id: one.name for one in profiles}

    @hypothesis.given(st.lists(st.sampled_from(sorted(names)), max_size=8))
    def holds(order: list[int]) -> None:
        wish = collections.Counter(order)
        verdict = layout_wishes.check(profiles, {names[key]: n for key, n in wish.items()})
        clear(handle)
        if verdict.layout is None:
            # in no order, wherever the card puts them
            assert 23 in [_try(pynvml.nvmlDeviceCreateGpuInstance, handle, one) for one in order]
        else:
            for step in layout_plans.plan(profiles, [], wish).steps:
                asking.create(handle, step.profile_id, step.placement)
            assert collections.Counter(one.profile_id for one in asking.instances(handle)) == wish

    holds()


@pytest.mark.parametrize("model", [A30, A100, RTX])
def test_a_plan_takes_the_card_from_any_layout_to_any_other(boot: Boot, model: str) -> None:
    boot(model)
    handle = card()
    profiles = asking.profiles(handle)
    valid = layouts.all_layouts(profiles)

    @hypothesis.given(st.sampled_from(valid), st.sampled_from(valid))
    def holds(first: layouts.Layout, then: layouts.Layout) -> None:
        clear(handle)
        for layout in (first, then):
            wanted = {one.profile_id: one.count for one in layout.counts}
            plan = layout_plans.plan(profiles, asking.instances(handle), wanted)
            for step in plan.steps:
                if step.action == layout_plans.DESTROY:
                    pynvml.nvmlGpuInstanceDestroy(
                        pynvml.nvmlDeviceGetGpuInstanceById(handle, step.instance_id))
                else:
                    asking.create(handle, step.profile_id, step.placement)
            there = collections.Counter(one.profile_id for one in asking.instances(handle))
            assert there == wanted

    holds()


def _try(call: Callable[..., Any], *arguments: Any) -> int:
    try:
        call(*arguments)
    except pynvml.NVMLError as error:
        return int(error.value)
    return 0
