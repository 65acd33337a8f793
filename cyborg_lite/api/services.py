# SPDX-License-Identifier: Apache-2.0
"""/v2/services: which agents and conductors live, and whether an agent takes binds.

When silence is too long, the conductor knows.
"""

from __future__ import annotations

from typing import Any

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.api import expose
from cyborg_lite.api import microversions
from cyborg_lite.api import paging
from cyborg_lite.api import parameters

BINARY = parameters.OneOf("cyborg-lite-agent", "cyborg-lite-conductor")
STATE = parameters.OneOf("up", "down", "gone")
STATUS = parameters.OneOf("enabled", "disabled")
REASON = parameters.Text(longest=255)
UUID = parameters.Uuid()
FILTERS = ("binary", "host", "state", "status")


class Services(expose.Controller):
    """Operations of /v2/services."""

    @expose.expose("service:get_all", query={
        "binary": BINARY, "host": parameters.Text(), "state": STATE, "status": STATUS,
        **paging.PARAMETERS})
    def get_all(self, call: expose.Call, **given: Any) -> dict[str, Any]:
        page = paging.page_from(call, given, self.services.max_limit)
        found = self.conductor.list_services(messages.ServiceQuery(
            **{name: given[name] for name in FILTERS if name in given}, page=page))
        return paging.reply(call, "services", [
            microversions.render("service", service, call.version) for service in found], page)

    @expose.expose("service:update", UUID, body=True)
    def put_one(self, call: expose.Call, id: str, body: Any) -> dict[str, Any]:
        if not isinstance(body, dict):
            raise errors.Invalid(
                'The body is not an object, {"status": TEXT, "disabled_reason": TEXT}.')
        fields = call.known_fields(body)
        if "status" not in fields:
            raise errors.Invalid("The body has no status: enabled or disabled.")
        status = parameters.convert(STATUS, "status", fields["status"])
        reason = parameters.optional(REASON, "disabled_reason", fields.get("disabled_reason"))
        return microversions.render(
            "service", self.conductor.set_service(id, status, reason), call.version)
