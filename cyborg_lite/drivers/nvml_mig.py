# SPDX-License-Identifier: Apache-2.0
"""NVML's door to the partitions of a card: what `privileged.py` runs as root for them.

No decision here: one look, and five changes of one thing each. A partition is named by id, profile
and first unit together, since NVML gives ids anew: a change meant for one never meets another.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from cyborg_lite.drivers import nvml

INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 2, 3, 4, 6
LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, RESET_REQUIRED, IN_USE = 12, 13, 16, 19
INSUFFICIENT_RESOURCES = 23
"""Codes of nvmlReturn_t."""

_MEANING = {
    NO_PERMISSION: "only root may", 15: "the GPU fell off the bus; the host has to start anew",
    nvml.VERSION_MISMATCH: nvml.CHANGED,
    IN_USE: "in use by processes, compute instances, vGPUs or virtual functions",
    INSUFFICIENT_RESOURCES: "no room at that place"}
"""What the binding has no words for, or too few."""

MOST_PROFILES = 64
"""More indexes than there are: a new driver has profiles that an old binding has no name for."""

_OLDEST_PROFILES = 5
"""Every driver that knows MIG knows so many indexes; a refusal of one of them is no end."""

_NO_PROFILE = 0xFFFFFFFF

_NO_SUCH_THING = (NOT_SUPPORTED, LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, 22)
"""What NVML says of vGPUs where there are none; the last: not while the card has ECC."""


class Refused(Exception):
    """NVML answered with an error; `code` is its nvmlReturn_t."""

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(call, code, text)
        self.call, self.code, self.text = call, code, text

    def __str__(self) -> str:
        return f"{self.call}: {self.text}"


def look(addresses: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what NVML says of each card, as plain values; a card's `error` leaves all else out.

    mode: now, and after the next reset; None where the card has no MIG. profiles: id, name,
    slices, memory in MiB, most instances, places. partitions: id, profile id, place, slices of
    its compute instances, whether it is used. types: id, full name, memory in MiB, most on the
    card (0: not told), profile id, most in a partition; None without vGPU software. `blind`: the
    caller has not the right to see places and partitions.
    Raises Refused when the library doesn't answer at all.
    """
    with _library() as ask:
        return {address: _look(ask, address) for address in addresses}


def set_mode(address: str, wanted: bool) -> int:
    """Switch MIG mode; return the code of what became of it. Raises Refused."""
    with _library() as ask:
        return int(ask("nvmlDeviceSetMigMode", _card(ask, address), int(wanted)))


def create(address: str, profile_id: int, start: int, size: int) -> None:
    """Create a GPU instance at this place, still without a compute instance. Raises Refused."""
    with _library() as ask:
        place = ask.binding.c_nvmlGpuInstancePlacement_t(start, size)
        ask("nvmlDeviceCreateGpuInstanceWithPlacement", _card(ask, address), profile_id,
            ctypes.byref(place))


def fill(address: str, instance_id: int, profile_id: int, start: int) -> None:
    """Create the one compute instance that takes all of a GPU instance. Raises Refused."""
    with _library() as ask:
        instance = _instance(ask, address, instance_id, profile_id, start)
        refusal = Refused("nvmlGpuInstanceGetComputeInstanceProfileInfo", NOT_FOUND,
                          "the GPU instance names no profile of compute instances")
        for info in _widest(_compute_profiles(ask, instance)):
            try:
                ask("nvmlGpuInstanceCreateComputeInstance", instance, info.id)
                return
            except Refused as error:
                if error.code not in (NOT_SUPPORTED, INVALID_ARGUMENT, INSUFFICIENT_RESOURCES):
                    raise
                refusal = error
        raise refusal


def empty(address: str, instance_id: int, profile_id: int, start: int) -> None:
    """Destroy the compute instances of a GPU instance. Raises Refused."""
    with _library() as ask:
        instance = _instance(ask, address, instance_id, profile_id, start)
        for info in _compute_profiles(ask, instance):
            for each in _compute_instances(ask, instance, info):
                ask("nvmlComputeInstanceDestroy", each)


def destroy(address: str, instance_id: int, profile_id: int, start: int) -> None:
    """Destroy a GPU instance that is empty. Raises Refused."""
    with _library() as ask:
        ask("nvmlGpuInstanceDestroy", _instance(ask, address, instance_id, profile_id, start))


# --- the library ------------------------------------------------------------------------------


class _Asking:
    """Calls functions of the binding by name; every error is a Refused."""

    def __init__(self, binding: Any) -> None:
        self.binding = binding

    def __call__(self, call: str, *arguments: Any) -> Any:
        function = getattr(self.binding, call, None)
        if function is None:
            raise Refused(call, FUNCTION_NOT_FOUND, "this nvidia-ml-py doesn't know it")
        try:
            return function(*arguments)
        except nvml.mismatch_of(self.binding) as error:
            raise Refused(call, FUNCTION_NOT_FOUND, str(error)) from error
        except self.binding.NVMLError as error:
            code = int(error.value)
            more = f" ({_MEANING[code]})" if code in _MEANING else ""
            raise Refused(call, code, f"{error}{more}") from error


@contextlib.contextmanager
def _library() -> Iterator[_Asking]:
    try:
        import pynvml
    except ImportError as error:
        raise Refused("import pynvml", LIBRARY_NOT_FOUND, "the Python package nvidia-ml-py "
                      "(extra nvidia) is not installed") from error
    ask = _Asking(pynvml)
    ask("nvmlInit")
    try:
        yield ask
    finally:
        with contextlib.suppress(Refused):
            ask("nvmlShutdown")


def _card(ask: _Asking, address: str) -> Any:
    return ask("nvmlDeviceGetHandleByPciBusId", nvml.bus_id(address))


def _instance(ask: _Asking, address: str, instance_id: int, profile_id: int, start: int) -> Any:
    instance = ask("nvmlDeviceGetGpuInstanceById", _card(ask, address), instance_id)
    info = ask("nvmlGpuInstanceGetInfo", instance)
    if (info.profileId, info.placement.start) != (profile_id, start):
        raise Refused("nvmlDeviceGetGpuInstanceById", NOT_FOUND,
                      f"GPU instance {instance_id} is another one by now")
    return instance


# --- looking ----------------------------------------------------------------------------------


def _look(ask: _Asking, address: str) -> dict[str, Any]:
    try:
        card = _card(ask, address)
        mode = _or_none(ask, "nvmlDeviceGetMigMode", card)
        if mode is None:
            return {"mode": None}
        return {"mode": [int(each) for each in mode], **_parts(ask, card, bool(mode[0])),
                "types": _types(ask, card)}
    except Refused as error:
        return {"error": str(error)}


def _or_none(ask: _Asking, call: str, *arguments: Any) -> Any:
    """The answer, or None where card or driver have no such thing."""
    try:
        return ask(call, *arguments)
    except Refused as error:
        if error.code in _NO_SUCH_THING:
            return None
        raise


def _parts(ask: _Asking, card: Any, is_on: bool) -> dict[str, Any]:
    infos: list[Any] = []
    blind = False
    try:
        infos += _profiles(ask, card)
        places = {info.id: _places(ask, card, info.id) for info in infos}
        partitions = _partitions(ask, card, infos) if is_on else []
    except Refused as error:
        if error.code != NO_PERMISSION:
            raise
        places, partitions, blind = {}, [], True
    return {"profiles": [[int(info.id), _text(info.name).removeprefix("MIG "),
                          int(info.sliceCount), int(info.memorySizeMB), int(info.instanceCount),
                          places.get(info.id, [])] for info in infos],
            "partitions": partitions, "blind": blind}


def _profiles(ask: _Asking, card: Any) -> Iterator[Any]:
    for index in range(MOST_PROFILES):
        try:
            yield ask("nvmlDeviceGetGpuInstanceProfileInfo", card, index)
        except Refused as error:
            if error.code == INVALID_ARGUMENT and index >= _OLDEST_PROFILES:
                return      # the driver knows fewer than there could be
            if error.code != NOT_SUPPORTED:
                raise


def _places(ask: _Asking, card: Any, profile_id: int) -> list[list[int]]:
    count = ctypes.c_uint()
    try:
        ask("nvmlDeviceGetGpuInstancePossiblePlacements", card, profile_id, None,
            ctypes.byref(count))
    except Refused as error:
        if error.code in (NOT_SUPPORTED, INVALID_ARGUMENT):
            return []       # none at present, which is no reason to give up the card
        raise
    array = (ask.binding.c_nvmlGpuInstancePlacement_t * count.value)()
    ask("nvmlDeviceGetGpuInstancePossiblePlacements", card, profile_id, array, ctypes.byref(count))
    return [[int(place.start), int(place.size)] for place in array[:count.value]]


def _partitions(ask: _Asking, card: Any, infos: Sequence[Any]) -> list[list[Any]]:
    used = _used(ask, card)
    found = []
    for profile in infos:
        for instance in _handles(ask, "nvmlDeviceGetGpuInstances", card, profile,
                                 ask.binding.c_nvmlGpuInstance_t):
            info = ask("nvmlGpuInstanceGetInfo", instance)
            computes = [int(each.sliceCount) for each in _compute_profiles(ask, instance)
                        for _ in _compute_instances(ask, instance, each)]
            found.append([int(info.id), int(info.profileId), int(info.placement.start),
                          int(info.placement.size), computes, int(info.id) in used])
    return sorted(found, key=lambda one: one[2])


def _used(ask: _Asking, card: Any) -> set[int]:
    """Ids of the GPU instances in which processes or vGPUs are at work."""
    found: set[int] = set()
    for vgpu in _or_none(ask, "nvmlDeviceGetActiveVgpus", card) or ():
        try:
            found.add(int(ask("nvmlVgpuInstanceGetGpuInstanceId", vgpu)))
        except Refused as error:
            if error.code != NOT_FOUND:     # its server has ended since it was listed
                raise
    for call in nvml.PROCESSES:
        listed = _or_none(ask, call, card)
        if listed is None:
            listed = _or_none(ask, f"{call}_v2", card)
        for process in listed or ():
            number = getattr(process, "gpuInstanceId", None)
            if number is not None:
                found.add(int(number))
    return found


def _compute_profiles(ask: _Asking, instance: Any) -> Iterator[Any]:
    for index in range(MOST_PROFILES):
        try:
            yield ask("nvmlGpuInstanceGetComputeInstanceProfileInfo", instance, index, 0)
        except Refused as error:
            if error.code == INVALID_ARGUMENT and index >= _OLDEST_PROFILES:
                return
            if error.code != NOT_SUPPORTED:
                raise


def _widest(profiles: Iterable[Any]) -> list[Any]:
    """Those that take all slices of a GPU instance, in the order in which to try them.

    A 1g of double memory has two, and the older leaves out multiprocessors; a 7g may have a
    second one that can't be made.
    """
    known = sorted(profiles, key=lambda info: (-info.sliceCount, -info.multiprocessorCount))
    return [info for info in known if info.sliceCount == known[0].sliceCount]


def _compute_instances(ask: _Asking, instance: Any, profile: Any) -> list[Any]:
    try:
        return _handles(ask, "nvmlGpuInstanceGetComputeInstances", instance, profile,
                        ask.binding.c_nvmlComputeInstance_t)
    except Refused as error:
        if error.code == NOT_SUPPORTED:
            return []       # a profile that is named and can't be made
        raise


def _handles(ask: _Asking, call: str, parent: Any, profile: Any, kind: Any) -> list[Any]:
    """The instances that a profile has. NVML writes as many as there are, whatever it was given."""
    array = (kind * max(profile.instanceCount, nvml.MOST_PARTITIONS))()
    count = ctypes.c_uint(len(array))
    ask(call, parent, profile.id, array, ctypes.byref(count))
    return [ctypes.cast(each, kind) for each in array[:count.value]]


def _types(ask: _Asking, card: Any) -> list[list[Any]] | None:
    numbers = _or_none(ask, "nvmlDeviceGetSupportedVgpus", card)
    if not numbers:
        return None
    found = []
    for number in numbers:
        profile = _or_none(ask, "nvmlVgpuTypeGetGpuInstanceProfileId", number)
        in_partition = profile is not None and profile != _NO_PROFILE
        each = _or_none(ask, "nvmlVgpuTypeGetMaxInstancesPerGpuInstance",
                        number) if in_partition else None
        found.append([
            int(number), " ".join(_text(ask("nvmlVgpuTypeGetName", number)).split()),
            int(ask("nvmlVgpuTypeGetFramebufferSize", number)) >> 20,
            int(_or_none(ask, "nvmlVgpuTypeGetMaxInstances", card, number) or 0),
            int(profile) if in_partition else None, int(each or 1)])
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
