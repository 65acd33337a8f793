# SPDX-License-Identifier: Apache-2.0
"""What NVML says of the cards that the nvidia driver holds: MIG mode, processes, vGPU types.

Asks only, through pynvml, which is an extra: its absence is an answer, and no error.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import logging
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from cyborg_lite import vgpu_layouts
from cyborg_lite.drivers import sysfs

LOG = logging.getLogger(__name__)

MOST_PARTITIONS = 64
"""More GPU instances than any card has."""

_NO_PROFILE = 0xFFFFFFFF

VERSION_MISMATCH = 18
"""Code of nvmlReturn_t: the loaded library is not the driver's."""

CHANGED = ("the driver was changed while this process ran: restart cyborg-lite-agent, and the host "
           "if nvidia-smi says the same")


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One card at one moment.

    unknown: why it can't be judged; the rest means nothing then. mig: MIG mode is on, or will be
    at the next reset. processes: how many use it. vgpu_types: full names by id, all that the card
    knows; sliced: those that share it in time. in_partitions: how many of a MIG-backed type, by
    short name, the partitions that exist hold in all.
    """

    unknown: str | None = None
    mig: bool = False
    processes: int = 0
    vgpu_types: dict[int, str] = dataclasses.field(default_factory=dict)
    in_partitions: dict[str, int] = dataclasses.field(default_factory=dict)
    sliced: tuple[vgpu_layouts.VgpuType, ...] = ()


def ask(addresses: Iterable[str]) -> dict[str, Answer]:
    """Return the answer for each PCI address. Never raises."""
    wanted = list(addresses)
    if not wanted:
        return {}
    try:
        import pynvml
    except ImportError:
        return dict.fromkeys(wanted, Answer(
            "the nvidia driver has it, and the Python package nvidia-ml-py (extra nvidia), which "
            "could tell whether it is used or in MIG mode, is not installed"))
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        more = f"; {CHANGED}" if error.value == VERSION_MISMATCH else ""
        return dict.fromkeys(wanted, Answer(
            f"the nvidia driver has it, and NVML does not answer ({error}{more}), so whether it is "
            "used or in MIG mode can't be told"))
    try:
        return {address: _Card(pynvml, address).answer() for address in wanted}
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


PROCESSES = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
"""The calls that list processes; drivers before R515 know them as `_v2` alone."""


def mismatch_of(binding: Any) -> type[Exception]:
    """What the binding raises for a call that the driver doesn't know: not always an NVMLError."""
    found: type[Exception] = getattr(
        binding, "NVMLLibraryMismatchError", binding.NVMLError_FunctionNotFound)
    return found


def bus_id(address: str) -> bytes:
    """Return a PCI address as NVML writes it: its domain has eight digits."""
    domain, _, rest = address.partition(":")
    return f"{domain:>08}:{rest}".upper().encode()


class _Card:
    def __init__(self, pynvml: Any, address: str) -> None:
        self._nvml = pynvml
        self._address = address

    def answer(self) -> Answer:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByPciBusId(bus_id(self._address))
        except nvml.NVMLError as error:
            return Answer(f"the nvidia driver has it, but NVML doesn't answer for it ({error})")
        try:
            mig = any(nvml.nvmlDeviceGetMigMode(handle))
        except nvml.NVMLError_NotSupported:
            mig = False     # what can't do MIG is not in MIG mode
        except nvml.NVMLError as error:
            return Answer(f"the nvidia driver has it, and its MIG mode can't be read ({error})")
        types = self._vgpu_types(handle)
        names = {number: self._text(nvml.nvmlVgpuTypeGetName, number) for number in types}
        try:
            processes = sum(self._processes(call, handle) for call in PROCESSES)
        except (nvml.NVMLError, mismatch_of(nvml)) as error:
            return Answer(f"the nvidia driver has it, and whether processes use it can't be read "
                          f"({error})", vgpu_types=names)
        return Answer(
            mig=mig, processes=processes, vgpu_types=names,
            in_partitions=self._in_partitions(handle, names) if mig else {},
            sliced=() if mig else tuple(self._sliced(handle, names)))

    def _processes(self, call: str, handle: Any) -> int:
        nvml = self._nvml
        try:
            return len(getattr(nvml, call)(handle))
        except mismatch_of(nvml):
            if not hasattr(nvml, f"{call}_v2"):
                raise
            return len(getattr(nvml, f"{call}_v2")(handle))

    def _vgpu_types(self, handle: Any) -> list[int]:
        try:
            return list(self._nvml.nvmlDeviceGetSupportedVgpus(handle))
        except self._nvml.NVMLError:
            return []       # no vGPU software on this host

    def _sliced(self, handle: Any, names: dict[int, str]) -> Iterator[vgpu_layouts.VgpuType]:
        nvml = self._nvml
        for number, name in names.items():
            try:
                if nvml.nvmlVgpuTypeGetGpuInstanceProfileId(number) == _NO_PROFILE and name:
                    yield vgpu_layouts.VgpuType(
                        number, " ".join(name.split()),
                        int(nvml.nvmlVgpuTypeGetFramebufferSize(number)) >> 20,
                        int(nvml.nvmlVgpuTypeGetMaxInstances(handle, number)))
            except (nvml.NVMLError, AttributeError) as error:
                LOG.debug("%s: vGPU type %s: %s", self._address, name, error)

    def _text(self, function: Callable[[int], Any], number: int) -> str:
        try:
            found = function(number)
        except self._nvml.NVMLError:
            return ""
        return str(found.decode() if isinstance(found, bytes) else found)

    def _in_partitions(self, handle: Any, names: dict[int, str]) -> dict[str, int]:
        nvml = self._nvml
        found: dict[str, int] = {}
        for number, name in names.items():
            try:
                profile = int(nvml.nvmlVgpuTypeGetGpuInstanceProfileId(number))
                if profile == _NO_PROFILE or not name:
                    continue
                each = int(nvml.nvmlVgpuTypeGetMaxInstancesPerGpuInstance(number))
                found[name.split()[-1]] = each * self._partitions(handle, profile)
            except (nvml.NVMLError, AttributeError) as error:
                # an older driver or binding without the call; nothing is counted then
                LOG.debug("%s: vGPU type %s: %s", self._address, name, error)
        return found

    def _partitions(self, handle: Any, profile: int) -> int:
        nvml = self._nvml
        array = (nvml.c_nvmlGpuInstance_t * MOST_PARTITIONS)()
        count = ctypes.c_uint(MOST_PARTITIONS)
        nvml.nvmlDeviceGetGpuInstances(handle, profile, array, ctypes.byref(count))
        return int(count.value)


def is_held(function: sysfs.PciFunction) -> bool:
    """Say whether the nvidia driver has the function, so that NVML is to be asked."""
    return function.driver == "nvidia"
