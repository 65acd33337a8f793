# SPDX-License-Identifier: Apache-2.0
"""fake_driver: devices that do not exist, for trying and testing the service.

No hardware is touched: Nova passes over handles of type TEST_PCI.
"""

from __future__ import annotations

import json
from typing import ClassVar

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config

FIRST_HANDLE = 0x0c00
"""Number of the first handle: domain 0000, bus 0c, device 00, function 0."""

HANDLES_APART = 4096
"""Handle numbers set aside for each device, so that more handles shift nobody's address."""


class FakeDriver(base.Driver):
    """`[fake] num_devices` devices with `num_handles` handles each."""

    option_groups: ClassVar[tuple[str, ...]] = ("fake",)
    entry_keys: ClassVar[frozenset[str]] = frozenset({"offer", "resource_class", "traits"})
    offers: ClassVar[frozenset[str]] = frozenset({"none"})
    cleans: ClassVar[frozenset[str]] = frozenset({"none"})

    def discover(self) -> list[messages.ReportedDevice]:
        """Return the same devices each time."""
        options = self.environment.options.get("fake", {})
        self.withheld = {}
        found = []
        for index in range(options.get("num_devices", 1)):
            name = "FakeDevice" if index == 0 else f"FakeDevice_{index}"
            entry = self.environment.devices.entry_for_name(name)
            if entry is not None and entry.offer == "none":
                self.withheld[name] = device_config.NEVER
            else:
                found.append(_device(name, index, options.get("num_handles", 16), entry))
        return found


def _device(name: str, index: int, num_handles: int,
            entry: device_config.Entry | None) -> messages.ReportedDevice:
    first = FIRST_HANDLE + index * HANDLES_APART
    deployable = messages.ReportedDeployable(
        name=name, resource_class=(entry and entry.resource_class) or "FPGA",
        traits=sorted({"CUSTOM_FAKE_DEVICE", *(entry.traits if entry else ())}),
        driver_name="fake", handles=[_handle(first + number) for number in range(num_handles)])
    return messages.ReportedDevice(
        address=name, type="FPGA", vendor="0xABCD", model="miss model info",
        driver="fake_driver", deployables=[deployable], vendor_board_info="fake_vendor_info",
        std_board_info=json.dumps({"device_id": "0xabcd", "class": "Fake class"}))


def _handle(number: int) -> messages.ReportedHandle:
    return messages.ReportedHandle(type="TEST_PCI", info={
        "domain": format(number >> 16, "04x"), "bus": format(number >> 8 & 0xff, "02x"),
        "device": format(number >> 3 & 0x1f, "02x"), "function": format(number & 7, "x")})
