# SPDX-License-Identifier: Apache-2.0
"""Reads the MIG-capable cards of this machine through NVML and prints them as JSON. Reads only.

A process of its own: the tests of drivers load a stand-in under the library's name.
"""

from __future__ import annotations

import json
import re
import sys

import pynvml

from cyborg_lite.drivers import nvml_mig


class Changed(Exception):
    """Something was to be changed."""


def allow_reading_alone() -> None:
    for name in dir(pynvml):
        if re.search(r"Set|Create|Destroy|Reset|Clear|Modify", name) and name.startswith("nvml"):
            setattr(pynvml, name, _refuse)


def _refuse(*_: object) -> None:
    raise Changed("these tests change nothing")


def addresses() -> list[str]:
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        info = pynvml.nvmlDeviceGetPciInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
        found.append((f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}.0",
                      f"{info.pciDeviceId >> 16:04x}"))
    return found


def main() -> None:
    allow_reading_alone()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        sys.exit(f"no card can be read: {error}")
    products = dict(addresses())
    told = nvml_mig.look(list(products))
    found = {address: {**card, "product": products[address]} for address, card in told.items()
             if card.get("error") or card["mode"] is not None}
    if not found:
        sys.exit("no card of this machine has MIG")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
