# SPDX-License-Identifier: Apache-2.0
"""The JSON patch of a device profile, and the tag that says which state of it was read.

What a profile may look like is said in `device_profiles.py`.
"""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch
import jsonpointer

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.api import parameters

OPERATIONS = ("add", "remove", "replace", "test")
FIELDS = ("name", "description", "groups")
MAX_OPERATIONS = 100

_NOTHING = jsonpointer.EndOfList([])
"""What a pointer beyond the last entry of a list leads to."""


def tag_of(profile: messages.DeviceProfile) -> str:
    """Return the entity tag of a profile as it is now."""
    return f'"{profile.uuid}-{profile.generation}"'


def check_tag(profile: messages.DeviceProfile, if_match: str | None) -> None:
    """Raise PreconditionFailed when an If-Match header names another state."""
    if if_match is None:
        return
    tags = [tag.strip() for tag in if_match.split(",")]
    if if_match.strip() != "*" and tag_of(profile) not in tags:
        raise errors.PreconditionFailed(
            f"Device profile {profile.uuid} has the tag {tag_of(profile)} by now, not "
            f"{parameters.shown(if_match)}; read it again.")


def patched(profile: messages.DeviceProfile, body: Any) -> dict[str, Any]:
    """Return name, description and groups as the patch makes them, not yet validated.

    Invalid; PreconditionFailed when a test operation does not hold.
    """
    if not isinstance(body, list) or not 0 < len(body) <= MAX_OPERATIONS:
        raise errors.Invalid(f"The body is not a JSON patch: a list of 1 to {MAX_OPERATIONS} "
                             "operations.")
    for operation in body:
        _check(operation)
    changed = copy.deepcopy({name: getattr(profile, name) for name in FIELDS})
    for number, operation in enumerate(body, 1):
        _apply(f"Operation {number} of the patch, {operation['op']} "
               f"{parameters.shown(operation['path'])},", operation, changed)
    return changed


def _apply(what: str, operation: dict[str, Any], fields: dict[str, Any]) -> None:
    try:
        jsonpatch.JsonPatch([operation]).apply(fields, in_place=True)
    except jsonpatch.JsonPatchTestFailed as error:
        found = jsonpointer.resolve_pointer(fields, operation["path"], _NOTHING)
        there_is = ("nothing" if isinstance(found, type(_NOTHING)) else parameters.shown(found))
        raise errors.PreconditionFailed(
            f"{what} does not hold: there is {there_is}, not "
            f"{parameters.shown(operation['value'])}.") from error
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException,
            TypeError, AttributeError) as error:
        raise errors.Invalid(
            f"{what} can't be done: {parameters.shown(str(error))}.") from error


def _check(operation: Any) -> None:
    if not isinstance(operation, dict):
        raise errors.Invalid(f"The patch has {parameters.shown(operation)}, which is not an "
                             "object with op, path and value.")
    kind, path = operation.get("op"), operation.get("path")
    if kind not in OPERATIONS:
        raise errors.Invalid(f"The patch has op {parameters.shown(kind)}; allowed: "
                             f"{', '.join(OPERATIONS)}.")
    if not isinstance(path, str) or path.split("/")[1:2] == [] or (
            path.split("/")[1] not in FIELDS):
        raise errors.Invalid(f"The patch has path {parameters.shown(path)}; it starts with "
                             f"/{', /'.join(FIELDS)}.")
    if kind != "remove" and "value" not in operation:
        raise errors.Invalid(f"The patch has {kind} {parameters.shown(path)} without a value.")
