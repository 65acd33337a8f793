# SPDX-License-Identifier: Apache-2.0
"""/v2/orphans: list, show, clean; and the sweep that finds them.

What an orphan is, the conductor says.
"""

from __future__ import annotations

from typing import Any

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.api import expose
from cyborg_lite.api import microversions
from cyborg_lite.api import paging
from cyborg_lite.api import parameters

KINDS = ("arq_instance_gone", "arq_instance_elsewhere", "arq_never_bound", "handle_without_arq",
         "mdev_without_arq", "provider_without_deployable", "deployable_without_provider",
         "host_gone", "allocation_without_consumer")
STATES = ("seen", "confirmed", "cleaned", "kept", "failed")
SWEEP_STATES = ("running", "done", "failed")

KIND = parameters.OneOf(*KINDS)
STATE = parameters.OneOf(*STATES)
HOST = parameters.Text()
UUID = parameters.Uuid()
FILTERS = ("kind", "host", "state")


class Orphans(expose.Controller):
    """Operations of /v2/orphans."""

    @expose.expose("orphan:get_all", query={
        "kind": KIND, "host": HOST, "state": STATE, **paging.PARAMETERS})
    def get_all(self, call: expose.Call, **given: Any) -> dict[str, Any]:
        page = paging.page_from(call, given, self.services.max_limit)
        found = self.conductor.list_orphans(messages.OrphanQuery(
            **{name: given[name] for name in FILTERS if name in given}, page=page))
        return paging.reply(call, "orphans", [
            microversions.render("orphan", orphan, call.version) for orphan in found], page)

    @expose.expose("orphan:get_one", UUID)
    def get_one(self, call: expose.Call, id: str) -> dict[str, Any]:
        return microversions.render("orphan", self.conductor.get_orphan(id), call.version)

    @expose.expose("orphan:clean", UUID, status=202)
    def clean(self, call: expose.Call, id: str) -> None:
        self.conductor.clean_orphan(id)

    @expose.expose("orphan:sweep", status=202, body=expose.OPTIONAL)
    def post_sweep(self, call: expose.Call, body: Any) -> dict[str, Any]:
        if not isinstance(body, dict):
            raise errors.Invalid('The body is not an object, {"host": TEXT, "dry_run": true}.')
        fields = call.known_fields(body)
        host = parameters.optional(HOST, "host", fields.get("host"))
        dry_run = fields.get("dry_run", False)
        if not isinstance(dry_run, bool):
            raise errors.Invalid(f"dry_run {parameters.shown(dry_run)} is neither true nor false.")
        return self._sweep(call, self.conductor.start_sweep(host, dry_run))

    @expose.expose("orphan:get_sweep")
    def get_sweep(self, call: expose.Call) -> dict[str, Any]:
        return self._sweep(call, self.conductor.last_sweep())

    def _sweep(self, call: expose.Call, sweep: messages.Sweep) -> dict[str, Any]:
        return {"sweep": microversions.render("sweep", sweep, call.version)}
