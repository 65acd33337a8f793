# SPDX-License-Identifier: Apache-2.0
"""JSON Schema of what goes in and out: bodies, replies, errors; from the types and the tables.

No paths and no operations here: `openapi.py` has those. Nothing is validated with these.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.api import arqs
from cyborg_lite.api import deployables
from cyborg_lite.api import device_profiles
from cyborg_lite.api import devices
from cyborg_lite.api import instance_operations
from cyborg_lite.api import microversions
from cyborg_lite.api import orphans
from cyborg_lite.api import parameters
from cyborg_lite.api import partitioning
from cyborg_lite.api import profile_patch
from cyborg_lite.api import services

Schema = dict[str, Any]

SINCE = "x-openstack-min-microversion"
"""Key of our extension: the microversion that brought an operation, a parameter or a field."""

UUID: Schema = {"type": "string", "format": "uuid"}
UUID_KEY = "^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$"
LINKS: Schema = {"type": "array", "items": {"$ref": "#/components/schemas/link"}}


def since(minor: int, schema: Schema) -> Schema:
    """Return a schema that says which microversion brought it, unless the first did."""
    return schema if minor == microversions.MINIMUM else {
        **schema, SINCE: microversions.text(minor)}


def an_object(properties: Mapping[str, Schema], required: typing.Iterable[str] = ()) -> Schema:
    """Return the schema of an object that has these properties and no other."""
    return {"type": "object", "properties": dict(properties), "required": list(required),
            "additionalProperties": False}


# --- replies ----------------------------------------------------------------------------------

NOUNS: dict[str, tuple[type, tuple[str, ...]]] = {
    "device_profile": (messages.DeviceProfile, ("device_profile",)),
    "device_profile_detail": (
        messages.DeviceProfile, ("device_profile", "device_profile_detail")),
    "arq": (messages.Arq, ("arq",)),
    "device": (messages.Device, ("device",)),
    "device_detail": (messages.Device, ("device", "device_detail")),
    "partitioning": (messages.Partitioning, ("partitioning",)),
    "partitioning_plan": (messages.PartitioningPlan, ("partitioning_plan",)),
    "deployable": (messages.Deployable, ("deployable",)),
    "orphan": (messages.Orphan, ("orphan",)),
    "sweep": (messages.Sweep, ("sweep",)),
    "attribute": (messages.Attribute, ("attribute",)),
    "service": (messages.Service, ("service",)),
}
"""Component: the message that it shows, and the entries of the microversion table."""

_WORDS = {
    ("arq", "state"): states.ARQ_STATES,
    ("device", "status"): ("enabled", "maintaining"),
    ("device", "host_state"): ("up", "down", "gone"),
    ("partitioning", "scheme"): ("mig", "vgpu", "mig-vgpu", "none"),
    ("partitioning", "state"): ("applied", "applying", "failed", "unsupported"),
    ("orphan", "kind"): orphans.KINDS,
    ("orphan", "state"): orphans.STATES,
    ("sweep", "state"): orphans.SWEEP_STATES,
    ("service", "state"): ("up", "down", "gone"),
    ("service", "status"): ("enabled", "disabled"),
    ("service", "binary"): ("cyborg-lite-agent", "cyborg-lite-conductor"),
}


def noun(name: str) -> Schema:
    """Return what a reply shows of a noun; what a later microversion brought is optional."""
    message, entries = NOUNS[name]
    annotations = typing.get_type_hints(message)
    properties = {}
    required = []
    for entry in entries:
        for field, minor in microversions.fields_since(entry).items():
            schema = _COMPUTED.get(field) or _field(entry, field, annotations[field])
            properties[field] = since(minor, schema)
            if minor == microversions.MINIMUM:
                required.append(field)
    return an_object(properties, required)


def _field(entry: str, field: str, annotation: Any) -> Schema:
    schema = of_type(annotation)
    if (entry, field) in _WORDS:
        words = list(_WORDS[entry, field])
        schema = {**schema, "enum": words if schema["type"] == "string" else [*words, None]}
    elif field.endswith("uuid"):
        schema = {**schema, "format": "uuid"}
    elif field.endswith("_at"):
        schema = {**schema, "format": "date-time"}
    return schema


def of_type(annotation: Any) -> Schema:
    """Return the schema of a message field's type."""
    if annotation in _PLAIN:
        return {"type": _PLAIN[annotation]}
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation)
        return an_object({name: _field("", name, hint) for name, hint in hints.items()}, hints)
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is types.UnionType:
        schema = of_type(arguments[0])
        return {**schema, "type": [schema["type"], "null"]}
    if origin is list:
        return {"type": "array", "items": of_type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": of_type(arguments[1])}
    raise TypeError(f"No schema is known for {annotation}.")


_PLAIN: dict[Any, str] = {str: "string", int: "integer", bool: "boolean"}


def _usage() -> Schema:
    group = of_type(messages.GroupUsage)
    for name in ("providers", "hosts"):
        group["properties"][name] = of_type(int | None)  # null for who is no administrator
    return an_object({"in_use": {"type": "boolean"}, "groups": {"type": "array", "items": group}},
                     ("in_use", "groups"))


_COMPUTED: dict[str, Schema] = {
    "active": {"type": "boolean"},
    "links": LINKS, "usage": _usage(),
    "attributes_list": {"type": "string", "contentMediaType": "application/json"}}


def listing(name: str, component: str) -> Schema:
    """Return the reply of a list."""
    links = f"{name}_links"
    return an_object({
        name: {"type": "array", "items": ref(component)},
        links: since(microversions.since("queries"), LINKS)}, (name,))


def ref(component: str) -> Schema:
    """Return a reference to a component."""
    return {"$ref": f"#/components/schemas/{component}"}


REPLIES: dict[str, Schema] = {
    "GET /v2/device_profiles": listing("device_profiles", "device_profile"),
    "POST /v2/device_profiles": ref("device_profile"),
    "GET /v2/device_profiles/{uuid_or_name}": an_object(
        {"device_profile": ref("device_profile_detail")}, ("device_profile",)),
    "PATCH /v2/device_profiles/{uuid_or_name}": an_object(
        {"device_profile": ref("device_profile_detail")}, ("device_profile",)),
    "GET /v2/accelerator_requests": listing("arqs", "arq"),
    "POST /v2/accelerator_requests": an_object(
        {"arqs": {"type": "array", "items": ref("arq")}}, ("arqs",)),
    "POST /v2/accelerator_requests/action": an_object(
        {"arqs": {"type": "array", "items": ref("arq")}}, ("arqs",)),
    "GET /v2/accelerator_requests/{uuid}": ref("arq"),
    "GET /v2/devices": listing("devices", "device"),
    "GET /v2/devices/{uuid}": ref("device_detail"),
    "GET /v2/devices/{uuid}/partitioning": ref("partitioning"),
    "PUT /v2/devices/{uuid}/partitioning": ref("partitioning_plan"),
    "GET /v2/deployables": listing("deployables", "deployable"),
    "GET /v2/deployables/{uuid}": ref("deployable"),
    "PATCH /v2/deployables/{uuid}/program": ref("deployable"),
    "PATCH /v2/deployables/{uuid}/program/{uuid}": ref("deployable"),
    "GET /v2/attributes": listing("attributes", "attribute"),
    "POST /v2/attributes": ref("attribute"),
    "GET /v2/attributes/{uuid}": ref("attribute"),
    "GET /v2/services": listing("services", "service"),
    "PUT /v2/services/{id}": ref("service"),
    "GET /v2/orphans": listing("orphans", "orphan"),
    "GET /v2/orphans/{id}": ref("orphan"),
    "GET /v2/orphans/sweep": an_object({"sweep": ref("sweep")}, ("sweep",)),
    "POST /v2/orphans/sweep": an_object({"sweep": ref("sweep")}, ("sweep",)),
}
"""By route; one that is not here answers without a body."""


def error() -> Schema:
    """Return the form of every error."""
    text = {"type": "string"}
    return an_object({
        "error_message": an_object({
            "faultcode": {"enum": ["Client", "Server"]}, "faultstring": text,
            "debuginfo": {"type": "null"}}, ("faultcode", "faultstring", "debuginfo")),
        "errors": {"type": "array", "minItems": 1, "maxItems": 1, "items": an_object({
            "request_id": text, "code": {"enum": [f"accelerator.{slug}"
                                                  for slug in errors.BY_SLUG]},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "title": text, "detail": text, "links": {"type": "array"}},
            ("request_id", "code", "status", "title", "detail", "links"))},
    }, ("error_message", "errors"))


# --- bodies -----------------------------------------------------------------------------------


def nullable(schema: Schema) -> Schema:
    """Return a schema that null fits too."""
    return {**schema, "type": [schema["type"], "null"]}


def groups(max_accelerators: int) -> Schema:
    """Return the groups of a device profile."""
    classes = "|".join(sorted(device_profiles.STANDARD_CLASSES))
    amount: Schema = {"oneOf": [
        {"type": "integer", "minimum": 1, "maximum": max_accelerators},
        {"type": "string", "pattern": "^0{0,3}[1-9][0-9]{0,5}$"}]}
    group = {
        "type": "object", "minProperties": 1, "additionalProperties": False,
        "description": "At least one key asks for a resource.",
        "patternProperties": {
            f"^resources: *({classes}|CUSTOM_[A-Z0-9_]{{1,200}}) *$": amount,
            "^trait: *(OWNER_CYBORG|CUSTOM_[A-Z0-9_]{1,200}) *$":
                {"enum": ["required", "forbidden"]},
            "^accel:[!-~]([ -~]{0,200}[!-~])?$": parameters.Text(lines=True).schema()}}
    return {"type": "array", "minItems": 1, "maxItems": max_accelerators, "items": group}


def arq_patch() -> Schema:
    """Return the map that binds or unbinds accelerator requests."""
    adds, removes = [], []
    for path, minor in microversions.patch_since().items():
        where = {"path": {"const": path}}
        adds.append(since(minor, an_object(
            {**where, "op": {"const": "add"}, "value": arqs.PATCH_TYPES[path].schema()},
            ("path", "op", "value"))))
        removes.append(since(minor, {
            "type": "object", "properties": {**where, "op": {"const": "remove"}},
            "required": ["path", "op"]}))
    some = {"type": "array", "minItems": 1}
    number = {"minItems": len(arqs.NEEDED), "maxItems": len(adds)}
    return {
        "type": "object", "minProperties": 1, "maxProperties": arqs.MAX_PATCHED,
        "propertyNames": {"pattern": UUID_KEY},
        "additionalProperties": {"oneOf": [
            {**some, **number, "items": {"oneOf": adds},
             "description": f"Bind: {', '.join(arqs.NEEDED)} have to be there, each once."},
            {**some, "maxItems": len(removes), "items": {"oneOf": removes},
             "description": "Unbind: which paths are removed does not matter."}]}}


def bodies(max_accelerators: int) -> dict[str, Schema]:
    """Return the bodies by route; a route that is not here takes none."""
    profile = {
        "name": device_profiles.NAME.schema(), "groups": groups(max_accelerators),
        "description": nullable(device_profiles.DESCRIPTION.schema()), "uuid": nullable(UUID)}
    attribute = an_object({
        "deployable_id": {"oneOf": [deployables.DEPLOYABLE_ID.schema(),
                                    {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"}]},
        "key": deployables.KEY.schema(), "value": deployables.VALUE.schema()},
        ("deployable_id", "key", "value"))
    program = {"type": "array", "minItems": 1, "maxItems": 1, "items": an_object({
        "path": {"type": "string"}, "op": {"enum": ["add", "replace"]},
        "value": {"type": "array", "minItems": 1, "maxItems": 1,
                  "items": an_object({"image_uuid": UUID}, ("image_uuid",))}}, ("op", "value"))}
    return {
        "POST /v2/device_profiles": {
            "type": "array", "minItems": 1, "maxItems": 1,
            "items": an_object(profile, ("name", "groups"))},
        "PATCH /v2/device_profiles/{uuid_or_name}": json_patch(),
        "POST /v2/accelerator_requests": an_object({
            "device_profile_name": device_profiles.NAME.schema(),
            "device_profile_group_id": {"description": "Accepted and ignored."},
            "image_uuid": {"description": "Accepted and ignored."}}, ("device_profile_name",)),
        "PATCH /v2/accelerator_requests": arq_patch(),
        "PATCH /v2/accelerator_requests/{uuid}": {**arq_patch(), "maxProperties": 1},
        "POST /v2/accelerator_requests/action": {**an_object({
            action: an_object({name: kind.schema() for name, kind in fields.items()},
                              sorted(set(fields) - instance_operations.OPTIONAL))
            for action, fields in instance_operations.FIELDS.items()}),
            "minProperties": 1, "maxProperties": 1},
        "POST /v2/devices/{uuid}/disable": an_object({
            name: since(minor, nullable(devices.REASON.schema())) for name, minor in
            microversions.body_since("POST /v2/devices/{uuid}/disable").items()}),
        "PUT /v2/devices/{uuid}/partitioning": partitioning_wish(),
        "PATCH /v2/deployables/{uuid}/program": program,
        "PATCH /v2/deployables/{uuid}/program/{uuid}": program,
        "PUT /v2/services/{id}": an_object({
            "status": services.STATUS.schema(),
            "disabled_reason": nullable(services.REASON.schema())}, ("status",)),
        "POST /v2/orphans/sweep": an_object({
            "host": nullable(orphans.HOST.schema()), "dry_run": {"type": "boolean"}}),
        "POST /v2/attributes": {"oneOf": [
            attribute, an_object({"attribute": attribute}, ("attribute",))]},
    }


def partitioning_wish() -> Schema:
    """Return the layout that a device shall have."""
    name = partitioning.NAME.schema()
    count = an_object({
        "profile": name, "vgpu_type": nullable(name),
        "count": {"type": "integer", "minimum": 0, "maximum": partitioning.MAX_COUNT}},
        ("profile", "count"))
    wish = an_object({
        "layout": partitioning.LAYOUT.schema(),
        "partitions": {"type": "array", "maxItems": partitioning.MAX_ENTRIES, "items": count}})
    return {**wish, "minProperties": 1, "maxProperties": 1}


def json_patch() -> Schema:
    """Return the patch of a device profile."""
    path = {"type": "string", "pattern": f"^/({'|'.join(profile_patch.FIELDS)})(/.*)?$"}
    with_value = [name for name in profile_patch.OPERATIONS if name != "remove"]
    return {
        "type": "array", "minItems": 1, "maxItems": profile_patch.MAX_OPERATIONS,
        "items": {"oneOf": [
            an_object({"op": {"enum": with_value}, "path": path, "value": {}},
                      ("op", "path", "value")),
            an_object({"op": {"const": "remove"}, "path": path}, ("op", "path"))]}}
