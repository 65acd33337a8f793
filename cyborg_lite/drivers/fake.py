# SPDX-License-Identifier: Apache-2.0
"""fake_driver: devices that do not exist, for trying and testing the service.

No hardware is touched: Nova passes over handles of type TEST_PCI.
"""

from __future__ import annotations

import json
from typing import ClassVar

from cyborg_lite import messages
from cyborg_lite.drivers import base

FIRST_HANDLE = 0x0c00
"""Number of the first handle: domain 0000, bus 0c, device 00, function 0."""

HANDLES_APART = 4096
"""Handle numbers set aside for each device, so that more handles shift nobody's address."""


class FakeDriver(base.Driver):
    """`[fake] num_devices` devices with `num_handles` handles each."""

    option_groups: ClassVar[tuple[str, ...]] = ("fake",)

    def discover(self) -> list[messages.ReportedDevice]:
        """Return the same devices each time."""
        options = self.environment.options.get("fake", {})
        return [_device(index, options.get("num_handles", 16))
                for index in range(options.get("num_devices", 1))]


def _device(index: int, num_handles: int) -> messages.ReportedDevice:
    name = "FakeDevice" if index == 0 else f"FakeDevice_{index}"
    first = FIRST_HANDLE + index * HANDLES_APART
    deployable = messages.ReportedDeployable(
        name=name, resource_class="FPGA", traits=["CUSTOM_FAKE_DEVICE"], driver_name="fake",
        handles=[_handle(first + number) for number in range(num_handles)])
    return messages.ReportedDevice(
        address=name, type="FPGA", vendor="0xABCD", model="miss model info",
        driver="fake_driver", deployables=[deployable], vendor_board_info="fake_vendor_info",
        std_board_info=json.dumps({"device_id": "0xabcd", "class": "Fake class"}))


def _handle(number: int) -> messages.ReportedHandle:
    return messages.ReportedHandle(type="TEST_PCI", info={
        "domain": format(number >> 16, "04x"), "bus": format(number >> 8 & 0xff, "02x"),
        "device": format(number >> 3 & 0x1f, "02x"), "function": format(number & 7, "x")})
