# SPDX-License-Identifier: Apache-2.0
"""/v2/devices: list, show, disable and enable.

What disabling does to Placement is the conductor's.
"""

from __future__ import annotations

from typing import Any

from cyborg_lite import messages
from cyborg_lite.api import expose
from cyborg_lite.api import microversions
from cyborg_lite.api import parameters

FILTERS = ("type", "vendor", "hostname")

UUID = parameters.Uuid()
TEXT = parameters.Text()


class Devices(expose.Controller):
    """Operations of /v2/devices."""

    def _shown(self, call: expose.Call, device: messages.Device) -> dict[str, Any]:
        return microversions.render("device", device, call.version,
                                    links=[call.link(f"v2/devices/{device.uuid}")])

    @expose.expose("device:get_all", query={
        "type": TEXT, "vendor": TEXT, "hostname": TEXT,
        "filters.field": parameters.Repeated(parameters.OneOf(*FILTERS)),
        "filters.value": parameters.Repeated(TEXT)})
    def get_all(self, call: expose.Call, filters_field: list[str] | None = None,
                filters_value: list[str] | None = None, **given: str) -> dict[str, Any]:
        wanted = parameters.with_filters(given, filters_field, filters_value)
        devices = self.conductor.list_devices(messages.DeviceQuery(**wanted))
        return {"devices": [self._shown(call, device) for device in devices]}

    @expose.expose("device:get_one", UUID)
    def get_one(self, call: expose.Call, uuid: str) -> dict[str, Any]:
        return self._shown(call, self.conductor.get_device(uuid))

    @expose.expose("device:disable", UUID)
    def disable(self, call: expose.Call, uuid: str) -> None:
        self.conductor.set_device_status(uuid, "maintaining")

    @expose.expose("device:enable", UUID)
    def enable(self, call: expose.Call, uuid: str) -> None:
        self.conductor.set_device_status(uuid, "enabled")
