# SPDX-License-Identifier: Apache-2.0
"""Asks NVML through the real pynvml what a card is and what is on it, as plain values.

Nothing here knows that the library may be the stand-in.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pynvml

from cyborg_lite import layout_plans
from cyborg_lite import layouts

PROFILE_INDEXES = range(64)
"""More than there are: a new driver has profiles that an old binding has no name for."""


def profile_infos(card: Any) -> dict[int, Any]:
    """What NVML says of each profile of a card, by index."""
    found = {}
    for index in PROFILE_INDEXES:
        try:
            found[index] = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(card, index)
        except pynvml.NVMLError_NotSupported:
            continue
        except pynvml.NVMLError_InvalidArgument:
            break   # the driver knows fewer than the binding
    return found


def placements(card: Any, profile_id: int) -> tuple[layouts.Placement, ...]:
    count = ctypes.c_uint()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(card, profile_id, None, ctypes.byref(count))
    array = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(card, profile_id, array, ctypes.byref(count))
    return tuple(layouts.Placement(one.start, one.size) for one in array)


def profiles(card: Any) -> list[layouts.Profile]:
    return [layouts.Profile(info.id, text(info.name).removeprefix("MIG "), info.sliceCount,
                            info.memorySizeMB, info.instanceCount, placements(card, info.id))
            for info in profile_infos(card).values()]


def text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def gpu_instances(card: Any) -> list[Any]:
    """Handles of all GPU instances of a card."""
    found: list[Any] = []
    for info in profile_infos(card).values():
        array = (pynvml.c_nvmlGpuInstance_t * info.instanceCount)()
        count = ctypes.c_uint()
        pynvml.nvmlDeviceGetGpuInstances(card, info.id, array, ctypes.byref(count))
        found += array[:count.value]
    return [ctypes.cast(one, pynvml.c_nvmlGpuInstance_t) for one in found]


def instances(card: Any) -> list[layout_plans.Instance]:
    found = []
    for handle in gpu_instances(card):
        info = pynvml.nvmlGpuInstanceGetInfo(handle)
        found.append(layout_plans.Instance(
            info.id, info.profileId, layouts.Placement(info.placement.start, info.placement.size)))
    return found


def create(card: Any, profile_id: int, placement: layouts.Placement) -> Any:
    wanted = pynvml.c_nvmlGpuInstancePlacement_t(placement.start, placement.size)
    return pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(card, profile_id, ctypes.byref(wanted))


def fill(instance: Any) -> Any:
    """Create the one compute instance that takes the whole GPU instance."""
    profile_id = pynvml.nvmlGpuInstanceGetInfo(instance).profileId
    card = pynvml.nvmlGpuInstanceGetInfo(instance).device
    slices = next(one.sliceCount for one in profile_infos(card).values() if one.id == profile_id)
    for index in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        try:
            info = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, index, 0)
        except pynvml.NVMLError_NotSupported:
            continue
        if info.sliceCount == slices:
            return pynvml.nvmlGpuInstanceCreateComputeInstance(instance, info.id)
    raise LookupError(f"no compute instance profile of {slices} slices")
