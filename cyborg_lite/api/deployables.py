# SPDX-License-Identifier: Apache-2.0
"""/v2/deployables and /v2/attributes, which are what a deployable says about itself.

What a trait attribute does in Placement is the conductor's.
"""

from __future__ import annotations

import json
from typing import Any

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.api import expose
from cyborg_lite.api import microversions
from cyborg_lite.api import paging
from cyborg_lite.api import parameters

UUID = parameters.Uuid()
KEY = parameters.Text()
VALUE = parameters.Text(longest=1024, lines=True)
TRAIT = parameters.Text(r"CUSTOM_[A-Z0-9_]{1,248}",
                        "a trait is CUSTOM_ and capital letters, digits or _")
DEPLOYABLE_ID = parameters.Integer()


class Deployables(expose.Controller):
    """Operations of /v2/deployables."""

    def _shown(self, call: expose.Call, deployable: messages.Deployable) -> dict[str, Any]:
        return microversions.render(
            "deployable", deployable, call.version,
            attributes_list=json.dumps([{key: value} for key, value in deployable.attributes]),
            links=[call.link(f"v2/deployables/{deployable.uuid}"),
                   call.link(f"v2/deployables/{deployable.uuid}", rel="bookmark")])

    @expose.expose("deployable:get_all", query={
        "filters.field": parameters.Repeated(parameters.OneOf("name")),
        "filters.value": parameters.Repeated(parameters.Text()), **paging.PARAMETERS})
    def get_all(self, call: expose.Call, filters_field: list[str] | None = None,
                filters_value: list[str] | None = None, **given: Any) -> dict[str, Any]:
        page = paging.page_from(call, given, self.services.max_limit)
        wanted = parameters.with_filters({}, filters_field, filters_value)
        deployables = self.conductor.list_deployables(
            messages.DeployableQuery(**wanted, page=page))
        return paging.reply(call, "deployables", [
            self._shown(call, deployable) for deployable in deployables], page)

    @expose.expose("deployable:get_one", UUID)
    def get_one(self, call: expose.Call, uuid: str) -> dict[str, Any]:
        return self._shown(call, self.conductor.get_deployable(uuid))

    @expose.expose("deployable:program", UUID, body=True)
    def program(self, call: expose.Call, uuid: str, body: Any) -> dict[str, Any]:
        image_uuid = _image_uuid(body)
        return self._shown(call, self.conductor.program_deployable(uuid, image_uuid))

    @expose.expose("deployable:program", UUID, UUID, body=True)
    def program_repeated(self, call: expose.Call, uuid: str, again: str,
                         body: Any) -> dict[str, Any]:
        """Serve the address that openstacksdk makes, in which the uuid comes twice."""
        if again != uuid:
            raise errors.NotFound(f"The path names two deployables, {uuid} and {again}.")
        image_uuid = _image_uuid(body)
        return self._shown(call, self.conductor.program_deployable(uuid, image_uuid))


def _image_uuid(body: Any) -> str:
    wanted = ('[{"path": "/program", "op": "replace", "value": [{"image_uuid": UUID}]}]')
    if not isinstance(body, list) or len(body) != 1 or not isinstance(body[0], dict):
        raise errors.Invalid(f"The body is not a patch of one entry, {wanted}.")
    operation, value = body[0].get("op"), body[0].get("value")
    if operation not in ("add", "replace"):
        raise errors.Invalid(f"op {parameters.shown(operation)} is not allowed: add or replace.")
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
        raise errors.Invalid(f"value {parameters.shown(value)} is not allowed; the body is "
                             f"{wanted}.")
    return str(parameters.convert(UUID, "image_uuid", value[0].get("image_uuid")))


class Attributes(expose.Controller):
    """Operations of /v2/attributes."""

    def _shown(self, call: expose.Call, attribute: messages.Attribute) -> dict[str, Any]:
        return microversions.render("attribute", attribute, call.version,
                                    links=[call.link(f"v2/attributes/{attribute.uuid}")])

    @expose.expose("attribute:get_all", query={
        "deployable_id": DEPLOYABLE_ID, "key": KEY, **paging.PARAMETERS})
    def get_all(self, call: expose.Call, deployable_id: int | None = None,
                key: str | None = None, **given: Any) -> dict[str, Any]:
        page = paging.page_from(call, given, self.services.max_limit)
        attributes = self.conductor.list_attributes(deployable_id, key, page)
        return paging.reply(call, "attributes", [
            self._shown(call, attribute) for attribute in attributes], page)

    @expose.expose("attribute:get_one", UUID)
    def get_one(self, call: expose.Call, uuid: str) -> dict[str, Any]:
        return self._shown(call, self.conductor.get_attribute(uuid))

    @expose.expose("attribute:create", body=True, status=201)
    def post(self, call: expose.Call, body: Any) -> dict[str, Any]:
        if isinstance(body, dict) and isinstance(body.get("attribute"), dict):
            beside = sorted(set(body) - {"attribute"})
            if beside and call.supports("device_profile_update"):
                raise errors.Invalid(f"The body has {parameters.shown(beside[0])} beside the "
                                     "attribute that it wraps; allowed: attribute.")
            body = body["attribute"]  # openstacksdk wraps it
        if not isinstance(body, dict):
            raise errors.Invalid("The body is not an object with deployable_id, key and value.")
        given = call.known_fields(body)
        deployable_id = parameters.convert(DEPLOYABLE_ID, "deployable_id",
                                           given.get("deployable_id"))
        key = parameters.convert(KEY, "key", given.get("key"))
        kind = TRAIT if key.startswith("trait") else VALUE
        value = parameters.convert(kind, "value", given.get("value"))
        return self._shown(call, self.conductor.create_attribute(deployable_id, key, value))

    @expose.expose("attribute:delete", UUID, status=204)
    def delete_one(self, call: expose.Call, uuid: str) -> None:
        self.conductor.delete_attribute(uuid)
