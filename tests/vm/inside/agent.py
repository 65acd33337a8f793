# SPDX-License-Identifier: Apache-2.0
"""What an agent does with a driver: makes it, discovers with it, has handles prepared and cleaned.

The kernel is never asked here; tests ask it in `kernel.py` whether a driver did what it says.
"""

from __future__ import annotations

import pathlib
import uuid
from typing import Any

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import privileged
from cyborg_lite.drivers import sysfs


class Agent:
    """One driver on the real /sys, and what it said at the last discovery.

    entries: the `devices` of a device file, in YAML; state: where drivers keep their records.
    """

    def __init__(self, kind: type[base.Driver], state: pathlib.Path, *, entries: str = "",
                 options: dict[str, Any] | None = None) -> None:
        privileged.run_here()
        devices = device_config.DeviceConfig()
        if entries:
            text = f"version: 1\ndriver: lab\ndevices:\n{entries}"
            devices = device_config.DeviceConfig(device_files.parse(text, "lab.yaml")[1])
        state.mkdir(exist_ok=True)
        self.environment = base.Environment(
            sysfs=sysfs.Sysfs(), options=options or {}, devices=devices, state_path=str(state))
        self.driver = kind(self.environment)
        self.devices: dict[str, messages.ReportedDevice] = {}

    def arrange(self) -> bool:
        self.environment.sysfs.begin_pass()
        changed: bool = self.driver.arrange()
        return changed

    def discover(self) -> dict[str, messages.ReportedDevice]:
        """Return the devices by address; what is withheld is in `withheld`."""
        self.environment.sysfs.begin_pass()
        self.devices = {each.address: each for each in self.driver.discover()}
        return self.devices

    @property
    def withheld(self) -> dict[str, str]:
        return self.driver.withheld

    def handles(self, address: str) -> list[messages.ReportedHandle]:
        """Return the handles of a device as it was discovered last."""
        device = self.devices.get(address)
        return [handle for deployable in device.deployables for handle in deployable.handles
                ] if device else []

    def task(self, address: str, handle: messages.ReportedHandle) -> messages.HandleTask:
        """Return the work of one handle, with a new uuid as the conductor gives it."""
        device = self.devices[address]
        return messages.HandleTask(
            handle_uuid=str(uuid.uuid4()), deployable_name=device.deployables[0].name,
            device_address=address, driver=device.driver, type=handle.type, info=handle.info)

    def tasks(self, address: str) -> list[messages.HandleTask]:
        """Return the work of every handle of a device."""
        return [self.task(address, handle) for handle in self.handles(address)]
