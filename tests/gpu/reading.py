# SPDX-License-Identifier: Apache-2.0
"""Reads the MIG-capable cards of this machine through NVML and prints them as JSON. Reads only.

A process of its own: the tests of drivers load a stand-in under the library's name. It needs pynvml
alone, so that a machine without the project's packages can be read, too:
`python3 -m tests.gpu.reading > FILE` there, TESTS_GPU_READING=FILE for the tests elsewhere.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import traceback
from collections.abc import Iterable
from typing import Any

from cyborg_lite.drivers import nvml_mig
from cyborg_lite.drivers import sysfs

try:
    from cyborg_lite.drivers import base
    from cyborg_lite.drivers import nvidia_mig
except ImportError:
    nvidia_mig = None  # type: ignore[assignment]

Found = dict[str, Any]


class Changed(Exception):
    """Something was to be changed."""


def allow_reading_alone(binding: Any) -> None:
    for name in dir(binding):
        if re.search(r"Set|Create|Destroy|Reset|Clear|Modify", name) and name.startswith("nvml"):
            setattr(binding, name, _refuse)


def _refuse(*_: object) -> None:
    raise Changed("these tests change nothing")


def found(binding: Any, root: str = "/sys") -> Found:
    """What is read here. cards: by address, as `nvml_mig.look` says it, and its product id.

    Beside that `room`, how many more of each profile NVML says there could be, None where it says
    nothing; and `reported`, whether the driver reports it, or why not, None where sysfs has no
    such card or the driver's packages are not there. left_out: why other cards could not be read.
    """
    try:
        binding.nvmlInit()
    except binding.NVMLError as error:
        return {"cards": {}, "left_out": [f"NVML does not answer ({error})"]}
    try:
        products, left_out = _products(binding)
        told = nvml_mig.look(list(products))
        reported = _reported(root, products)
        cards = {address: {**card, "product": products[address],
                           "room": _room(binding, address, card),
                           "reported": reported.get(address)}
                 for address, card in told.items() if "error" in card or card["mode"] is not None}
        return {"cards": cards, "left_out": left_out}
    finally:
        binding.nvmlShutdown()


def _products(binding: Any) -> tuple[dict[str, str], list[str]]:
    """Product ids by address; a container may be shown cards that it may not open."""
    products: dict[str, str] = {}
    left_out = []
    for index in range(binding.nvmlDeviceGetCount()):
        try:
            info = binding.nvmlDeviceGetPciInfo(binding.nvmlDeviceGetHandleByIndex(index))
        except binding.NVMLError as error:
            left_out.append(f"card {index} can't be read ({error})")
            continue
        products[f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}.0"] = (
            f"{info.pciDeviceId >> 16:04x}")
    return products, left_out


def _room(binding: Any, address: str, card: dict[str, Any]) -> dict[int, int] | None:
    if "error" in card or card["blind"] or not card["mode"][0]:
        return None
    try:
        handle = binding.nvmlDeviceGetHandleByPciBusId(address)
        return {number: binding.nvmlDeviceGetGpuInstanceRemainingCapacity(handle, number)
                for number, *_ in card["profiles"]}
    except binding.NVMLError:
        return None


def _reported(root: str, addresses: Iterable[str]) -> dict[str, str]:
    if nvidia_mig is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        driver = nvidia_mig.NvidiaMigDriver(base.Environment(
            sysfs.Sysfs(root), state_path=folder, checking=True))
        try:
            devices = driver.discover()
        except Exception:
            # what the library tells is worth its own tests
            return dict.fromkeys(addresses, traceback.format_exc())
    return {**driver.withheld, **{each.address: "yes" for each in devices}}


def main() -> None:
    try:
        import pynvml
    except ImportError:
        read: Found = {"cards": {}, "left_out": ["nvidia-ml-py is not installed"]}
    else:
        allow_reading_alone(pynvml)
        read = found(pynvml, *sys.argv[1:])
    print(json.dumps(read))


if __name__ == "__main__":
    main()
