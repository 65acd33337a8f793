# SPDX-License-Identifier: Apache-2.0
"""THE table of microversions, and what follows from it: gating, rendering, version documents.

No code of a single resource here: a handler asks `supports(slug)` where behaviour differs.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from cyborg_lite import errors

MAJOR = 2
SERVICE_TYPE = "accelerator"

HEADER = "OpenStack-API-Version"
MINIMUM_HEADER = "OpenStack-API-Minimum-Version"
MAXIMUM_HEADER = "OpenStack-API-Maximum-Version"

Names = tuple[str, ...]

PAGING: Names = ("limit", "marker", "sort_key", "sort_dir", "sort")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One microversion and what it adds.

    paths: routes, as `GET /v2/things`, that are 404 (or 405) below it; a route that no row names
    is there from the base on. query, body: by route, the parameters and body fields that it adds.
    patch: paths of the ARQ patch, 406 below. fields: by noun, what replies show from here on.
    """

    minor: int
    slug: str
    sentence: str
    paths: Names = ()
    query: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    body: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    patch: Names = ()
    fields: Mapping[str, Names] = dataclasses.field(default_factory=dict)


TABLE: tuple[Row, ...] = (
    Row(minor=0, slug="base",
        sentence="Device profiles, accelerator requests, devices, deployables and attributes.",
        # Enabling and disabling belong here although 2.3 brought the status that they change:
        # openstacksdk sends them without a version.
        query={
            "GET /v2/device_profiles": ("name",),
            "DELETE /v2/device_profiles": ("value",),
            "GET /v2/accelerator_requests": ("bind_state", "instance"),
            "DELETE /v2/accelerator_requests": ("arqs", "instance"),
            "GET /v2/devices": ("type", "vendor", "hostname", "filters.field", "filters.value"),
            "GET /v2/deployables": ("filters.field", "filters.value"),
            "GET /v2/attributes": ("deployable_id", "key"),
        },
        body={
            "POST /v2/device_profiles": ("name", "groups", "description", "uuid"),
            "POST /v2/accelerator_requests":
                ("device_profile_name", "device_profile_group_id", "image_uuid"),
            "POST /v2/attributes": ("deployable_id", "key", "value"),
        },
        patch=("/hostname", "/device_rp_uuid", "/instance_uuid"),
        fields={
            "device_profile": ("uuid", "name", "description", "groups", "created_at",
                               "updated_at", "links"),
            "arq": ("uuid", "state", "device_profile_name", "device_profile_group_id", "hostname",
                    "device_rp_uuid", "instance_uuid", "project_id", "attach_handle_type",
                    "attach_handle_uuid", "attach_handle_info", "links", "created_at",
                    "updated_at"),
            "device": ("uuid", "type", "vendor", "model", "std_board_info", "vendor_board_info",
                       "hostname", "links", "created_at", "updated_at"),
            "deployable": ("uuid", "parent_id", "root_id", "name", "num_accelerators", "device_id",
                           "attributes_list", "rp_uuid", "driver_name", "bitstream_id", "links",
                           "created_at", "updated_at"),
            "attribute": ("uuid", "deployable_id", "key", "value", "links", "created_at",
                          "updated_at"),
        }),
    Row(minor=1, slug="arq_project_id",
        sentence="An administrator may name the owner in the bind: path /project_id of the patch.",
        patch=("/project_id",)),
    Row(minor=2, slug="device_profile_by_name",
        sentence="GET /v2/device_profiles/{uuid_or_name} takes a name beside a uuid."),
    Row(minor=3, slug="device_status",
        sentence="The status of a device, enabled or maintaining, is shown.",
        fields={"device": ("status",)}),
    Row(minor=4, slug="device_profile_update",
        sentence="PATCH /v2/device_profiles/{uuid_or_name} changes name, description and groups; "
                 "showing one gives its ETag; unknown body fields are refused.",
        paths=("PATCH /v2/device_profiles/{uuid_or_name}",)),
    Row(minor=5, slug="queries",
        sentence="Every list has pages, with limit, marker, sort_key and sort_dir (or sort); "
                 "accelerator requests of several instances, and by state, hostname, project_id, "
                 "device_profile_name and device_rp_uuid.",
        query={
            **{f"GET /v2/{noun}": PAGING for noun in (
                "device_profiles", "devices", "deployables", "attributes")},
            "GET /v2/accelerator_requests": (
                *PAGING, "state", "hostname", "project_id", "device_profile_name",
                "device_rp_uuid"),
        }),
    Row(minor=6, slug="device_profile_usage",
        sentence="Showing a device profile tells what the cloud holds for each of its groups.",
        fields={"device_profile_detail": ("usage",)}),
    Row(minor=7, slug="device_detail",
        sentence="Devices tell where they sit, why they are disabled and how their host is; "
                 "showing one adds its deployables; a reason for disabling, and cleaning again.",
        paths=("POST /v2/devices/{uuid}/clean",),
        body={"POST /v2/devices/{uuid}/disable": ("reason",)},
        fields={
            "device": ("driver_name", "pci_address", "numa_node", "host_state", "status_reason",
                       "disabled_at"),
            "device_detail": ("deployables",),
        }),
    Row(minor=8, slug="partitioning",
        sentence="How a device is split and can be split, as MIG or vGPU partitions, is shown; an "
                 "administrator sets it.",
        paths=("GET /v2/devices/{uuid}/partitioning", "PUT /v2/devices/{uuid}/partitioning"),
        query={"GET /v2/devices/{uuid}/partitioning": ("all",),
               "PUT /v2/devices/{uuid}/partitioning": ("dry_run",)},
        body={"PUT /v2/devices/{uuid}/partitioning": ("layout", "partitions")},
        fields={
            "partitioning": ("scheme", "state", "fault", "current", "desired", "profiles",
                             "layouts"),
            "partitioning_plan": ("layout", "kept", "steps"),
        }),
    Row(minor=9, slug="instance_operations",
        sentence="A second set of accelerator requests for a migration: bound with "
                 "/migration_uuid, switched, ended; suspend and resume.",
        paths=("POST /v2/accelerator_requests/action",),
        query={"GET /v2/accelerator_requests": ("migration", "sets"),
               "DELETE /v2/accelerator_requests": ("migration",)},
        body={"POST /v2/accelerator_requests/action": (
            "switch_migration", "begin_migration", "end_migration", "suspend", "resume")},
        patch=("/migration_uuid", "/migration_type"),
        fields={"arq": ("migration_uuid", "active")}),
    Row(minor=10, slug="services_and_orphans",
        sentence="Services tell whether they live, and an agent can be disabled; orphans, what "
                 "dead hosts and forgotten servers left, are listed, explained and cleaned.",
        paths=("GET /v2/services", "PUT /v2/services/{id}", "GET /v2/orphans",
               "GET /v2/orphans/{id}", "POST /v2/orphans/{id}/clean", "GET /v2/orphans/sweep",
               "POST /v2/orphans/sweep"),
        query={"GET /v2/services": (*PAGING, "binary", "host", "state", "status"),
               "GET /v2/orphans": (*PAGING, "kind", "host", "state")},
        body={"PUT /v2/services/{id}": ("status", "disabled_reason"),
              "POST /v2/orphans/sweep": ("host", "dry_run")},
        fields={
            "service": ("id", "binary", "host", "state", "last_seen", "version", "drivers",
                        "status", "disabled_reason"),
            "orphan": ("id", "kind", "object", "host", "reason", "evidence", "first_seen",
                       "last_seen", "action", "state"),
            "sweep": ("id", "state", "dry_run", "host", "started_at", "finished_at", "counts",
                      "fault"),
        }),
)

MINIMUM = TABLE[0].minor
MAXIMUM = TABLE[-1].minor

_BY_SLUG = {row.slug: row for row in TABLE}
_MINOR = re.compile(rf"{MAJOR}\.(0|[1-9][0-9]{{0,3}})")


# --- asking the table -------------------------------------------------------------------------


def text(minor: int) -> str:
    """Write a version as clients do: 2.3."""
    return f"{MAJOR}.{minor}"


def since(slug: str) -> int:
    """Return the version that the row `slug` is."""
    return _BY_SLUG[slug].minor


def supports(minor: int, slug: str) -> bool:
    """Say whether a request of this version gets what the row `slug` adds."""
    return minor >= since(slug)


@functools.cache
def route_since(route: str) -> int:
    """Return the version that brought a route."""
    return next((row.minor for row in TABLE if route in row.paths), MINIMUM)


@functools.cache
def query_since(route: str) -> dict[str, int]:
    """Return the query parameters of a route, each with the version that brought it."""
    return _since((row.minor, row.query.get(route, ())) for row in TABLE)


@functools.cache
def body_since(route: str) -> dict[str, int]:
    """Return the body fields of a route, each with the version that brought it."""
    return _since((row.minor, row.body.get(route, ())) for row in TABLE)


@functools.cache
def patch_since() -> dict[str, int]:
    """Return the paths of the ARQ patch, each with the version that brought it."""
    return _since((row.minor, row.patch) for row in TABLE)


@functools.cache
def fields(noun: str, minor: int) -> Names:
    """Return what a reply shows of a noun at a version, in order."""
    return tuple(name for row in TABLE if row.minor <= minor for name in row.fields.get(noun, ()))


@functools.cache
def fields_since(noun: str) -> dict[str, int]:
    """Return what replies show of a noun, each field with the version that brought it."""
    return _since((row.minor, row.fields.get(noun, ())) for row in TABLE)


def _since(added: Iterable[tuple[int, Names]]) -> dict[str, int]:
    return {name: minor for minor, names in added for name in names}


def render(noun: str, message: object, minor: int, **computed: Any) -> dict[str, Any]:
    """Return a message as the reply of a version shows it; what the table lacks stays inside.

    computed: fields that the message has not, such as links.
    """
    return {name: computed[name] if name in computed else getattr(message, name)
            for name in fields(noun, minor)}


# --- the header -------------------------------------------------------------------------------


def negotiate(header: str | None) -> int:
    """Return the minor version that a request asks for; VersionNotAcceptable.

    `accelerator 2.1`, `accelerator latest`, bare `2.1` and `latest` are understood; versions of
    other services beside it are ignored. Without a header it is the minimum.
    """
    wanted = _wanted(header or "")
    if wanted is None:
        return MINIMUM
    if wanted.lower() == "latest":
        return MAXIMUM
    match = _MINOR.fullmatch(wanted)
    minor = int(match[1]) if match else -1
    if MINIMUM <= minor <= MAXIMUM:
        return minor
    raise errors.VersionNotAcceptable(
        f"{HEADER} {wanted[:64]!r} is not supported; send '{SERVICE_TYPE} 2.N' with a version "
        f"from {text(MINIMUM)} to {text(MAXIMUM)}, or 'latest'.")


def _wanted(header: str) -> str | None:
    """Return the text of the version meant for us; one with the service's name goes first."""
    bare = named = None
    for part in header.split(","):
        words = part.split()
        if len(words) == 1:
            bare = words[0]
        elif words and words[0].lower() == SERVICE_TYPE:
            named = " ".join(words[1:])
    return named or bare


def headers(minor: int) -> list[tuple[str, str]]:
    """Return the version headers that every reply carries."""
    return [(HEADER, f"{SERVICE_TYPE} {text(minor)}"), (MINIMUM_HEADER, text(MINIMUM)),
            (MAXIMUM_HEADER, text(MAXIMUM))]


def document(base_url: str) -> dict[str, Any]:
    """Return the entry of the version documents that describes v2."""
    return {"id": f"v{MAJOR}.0", "status": "CURRENT", "min_version": text(MINIMUM),
            "max_version": text(MAXIMUM),
            "links": [{"rel": "self", "href": f"{base_url}/v{MAJOR}"}]}
