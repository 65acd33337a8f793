# SPDX-License-Identifier: Apache-2.0
"""/v2/devices: list, show, disable, enable and clean.

What disabling does to Placement is the conductor's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.api import expose
from cyborg_lite.api import microversions
from cyborg_lite.api import paging
from cyborg_lite.api import parameters

FILTERS = ("type", "vendor", "hostname")

REASON = parameters.Text(longest=255)
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
        "filters.value": parameters.Repeated(TEXT), **paging.PARAMETERS})
    def get_all(self, call: expose.Call, filters_field: list[str] | None = None,
                filters_value: list[str] | None = None, **given: Any) -> dict[str, Any]:
        page = paging.page_from(call, given, self.services.max_limit)
        wanted = parameters.with_filters(
            {name: given[name] for name in FILTERS if name in given}, filters_field,
            filters_value)
        devices = self.conductor.list_devices(messages.DeviceQuery(
            **wanted, page=page, offered_only=not call.supports("device_detail")))
        return paging.reply(call, "devices", [self._shown(call, device) for device in devices],
                            page)

    @expose.expose("device:get_one", UUID)
    def get_one(self, call: expose.Call, uuid: str) -> dict[str, Any]:
        device = self.conductor.get_device(uuid)
        shown = self._shown(call, device)
        if call.supports("device_detail"):
            shown |= microversions.render(
                "device_detail", device, call.version, deployables=[
                    dataclasses.asdict(part) for part in self.conductor.show_device_parts(uuid)])
        return shown

    @expose.expose("device:disable", UUID, body=expose.OPTIONAL)
    def disable(self, call: expose.Call, uuid: str, body: Any) -> None:
        reason = None
        if call.supports("device_profile_update"):  # below, a body is ignored
            if not isinstance(body, dict):
                raise errors.Invalid('The body is not an object, {"reason": TEXT}.')
            reason = parameters.optional(REASON, "reason", call.known_fields(body).get("reason"))
        self.conductor.set_device_status(uuid, "maintaining", reason)

    @expose.expose("device:clean", UUID, status=202)
    def clean(self, call: expose.Call, uuid: str) -> None:
        self.conductor.clean_device(uuid)

    @expose.expose("device:enable", UUID)
    def enable(self, call: expose.Call, uuid: str) -> None:
        self.conductor.set_device_status(uuid, "enabled")
