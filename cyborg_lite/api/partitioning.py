# SPDX-License-Identifier: Apache-2.0
"""/v2/devices/{uuid}/partitioning: how a device is split, and setting a layout.

What a valid layout is, and when one may be set, is the conductor's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.api import expose
from cyborg_lite.api import microversions
from cyborg_lite.api import parameters

MAX_ENTRIES = 64
MAX_COUNT = 1024

UUID = parameters.Uuid()
LAYOUT = parameters.Text()
NAME = parameters.Text()

PLANNED = 200
"""Status of a dry run; what is done later, 202."""


def counts_from(given: Any) -> list[messages.PartitionCount]:
    """Return the partitions of a body; Invalid."""
    if not isinstance(given, list):
        raise errors.Invalid(f"partitions {parameters.shown(given)} is not a list.")
    if len(given) > MAX_ENTRIES:
        raise errors.Invalid(f"partitions has {len(given)} entries; {MAX_ENTRIES} are allowed.")
    counts = [_count(f"partitions[{index}]", one) for index, one in enumerate(given)]
    seen = set()
    for one in counts:
        if (one.profile, one.vgpu_type) in seen:
            raise errors.Invalid(
                f"partitions has {parameters.shown(one.profile)} twice"
                f"{'' if one.vgpu_type is None else ' with one vgpu_type'}; add the counts up.")
        seen.add((one.profile, one.vgpu_type))
    return counts


def _count(where: str, given: Any) -> messages.PartitionCount:
    if not isinstance(given, dict):
        raise errors.Invalid(f"{where} {parameters.shown(given)} is not an object.")
    unknown = sorted(set(given) - {"profile", "count", "vgpu_type"})
    if unknown:
        raise errors.Invalid(f"{where} has {parameters.shown(unknown[0])}, which is unknown here; "
                             "allowed: profile, count, vgpu_type.")
    number = given.get("count")
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_COUNT:
        raise errors.Invalid(f"{where} count {parameters.shown(number)} is not a whole number "
                             f"from 0 to {MAX_COUNT}.")
    return messages.PartitionCount(
        profile=parameters.convert(NAME, f"{where} profile", given.get("profile")), count=number,
        vgpu_type=parameters.optional(NAME, f"{where} vgpu_type", given.get("vgpu_type")))


class Partitioning(expose.Controller):
    """Operations of /v2/devices/{uuid}/partitioning."""

    @expose.expose("device:get_partitioning", UUID, query={"all": parameters.Flag()})
    def get(self, call: expose.Call, uuid: str,
            all: bool = False) -> dict[str, Any]:
        found = self.conductor.show_partitioning(uuid, all)
        return microversions.render(
            "partitioning", found, call.version, current=_plain(found.current),
            desired=_plain(found.desired), profiles=_plain(found.profiles),
            layouts=_plain(found.layouts))

    @expose.expose("device:set_partitioning", UUID, status=202, also=PLANNED, body=True,
                   query={"dry_run": parameters.Flag()})
    def put(self, call: expose.Call, uuid: str, body: Any, dry_run: bool = False) -> expose.Reply:
        if not isinstance(body, dict):
            raise errors.Invalid("The body is not an object with layout or partitions.")
        given = call.known_fields(body)
        if len(given) != 1:
            raise errors.Invalid("The body has to have exactly one of layout and partitions; it "
                                 f"has {'both' if given else 'neither'}.")
        layout = partitions = None
        if "layout" in given:
            layout = parameters.convert(LAYOUT, "layout", given["layout"])
        else:
            partitions = counts_from(given["partitions"])
        plan = self.conductor.set_partitioning(uuid, layout, partitions, dry_run)
        shown = microversions.render(
            "partitioning_plan", plan, call.version, layout=dataclasses.asdict(plan.layout),
            steps=_plain(plan.steps))
        return expose.Reply(shown, {}, PLANNED if dry_run else None)


def _plain(found: Iterable[Any]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(one) for one in found]
