# SPDX-License-Identifier: Apache-2.0
"""/v2/device_profiles: what a profile may look like, and its operations.

Nothing is stored here; what a profile does to ARQs is the conductor's.
"""

from __future__ import annotations

import dataclasses
import json
import re
import uuid
from typing import Any

import os_resource_classes

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.api import expose
from cyborg_lite.api import microversions
from cyborg_lite.api import paging
from cyborg_lite.api import parameters
from cyborg_lite.api import profile_patch

STANDARD_CLASSES = frozenset({
    os_resource_classes.FPGA, os_resource_classes.PGPU, os_resource_classes.VGPU,
    os_resource_classes.PCI_DEVICE, os_resource_classes.SRIOV_NET_VF, "GPU"})
"""Placement's classes for accelerators, and GPU, which existing profiles use."""

MAX_GROUP_SIZE = 16 * 1024
"""Bytes of one group as JSON: each ARQ keeps a copy."""

NAME = parameters.Text(r"[a-zA-Z0-9_-]+", "letters, digits, - and _")
DESCRIPTION = parameters.Text(longest=1024, lines=True)
UUID = parameters.Uuid()

_CUSTOM = re.compile(r"CUSTOM_[A-Z0-9_]{1,248}")
_AMOUNT = re.compile(r"[0-9]{1,9}")
_TRAIT_VALUES = ("required", "forbidden")


# --- what a profile may look like -------------------------------------------------------------


def profile_from(given: dict[str, Any], max_accelerators: int) -> messages.DeviceProfile:
    """Return the profile that a body describes; Invalid."""
    wanted_uuid = parameters.optional(UUID, "uuid", given.get("uuid"))
    return messages.DeviceProfile(
        uuid=wanted_uuid or str(uuid.uuid4()),
        name=parameters.convert(NAME, "name", given.get("name")),
        description=parameters.optional(DESCRIPTION, "description", given.get("description")),
        groups=groups_from(given.get("groups"), max_accelerators))


def groups_from(given: Any, max_accelerators: int) -> list[dict[str, str]]:
    """Return clean groups: names stripped, amounts as text; Invalid names group and key."""
    if not isinstance(given, list) or not given:
        raise errors.Invalid(f"groups {parameters.shown(given)} is not a list of at least one "
                             "group.")
    if len(given) > max_accelerators:
        raise errors.Invalid(_too_many(len(given), max_accelerators))
    groups = [_group(f"groups[{index}]", group) for index, group in enumerate(given)]
    total = sum(int(value) for group in groups for key, value in group.items()
                if key.startswith("resources:"))
    if total > max_accelerators:
        raise errors.Invalid(_too_many(total, max_accelerators))
    return groups


def _too_many(found: int, allowed: int) -> str:
    return (f"The groups ask for {found} accelerators or more; [api] max_accelerators_per_profile "
            f"allows {allowed}.")


def _group(where: str, given: Any) -> dict[str, str]:
    if not isinstance(given, dict):
        raise errors.Invalid(f"{where} {parameters.shown(given)} is not an object.")
    group: dict[str, str] = {}
    for key, value in given.items():
        clean, text = _entry(where, key, value)
        if clean in group:
            raise errors.Invalid(f"{where} has {parameters.shown(clean)} twice.")
        group[clean] = text
    if not any(key.startswith("resources:") for key in group):
        raise errors.Invalid(f"{where} asks for no resource; add a key such as resources:FPGA.")
    if len(json.dumps(group)) > MAX_GROUP_SIZE:
        raise errors.Invalid(f"{where} is larger than {MAX_GROUP_SIZE} bytes.")
    return group


def _entry(where: str, key: str, value: Any) -> tuple[str, str]:
    prefix, colon, name = key.partition(":")
    name = name.strip()
    what = f"{where} key {parameters.shown(key)}"
    check = _CHECKS.get(prefix)
    if check is None or not colon:
        raise errors.Invalid(f"{what} does not start with resources:, trait: or accel:.")
    if not name:
        raise errors.Invalid(f"{what} has no name after the colon.")
    clean = f"{prefix}:{name}"
    if len(clean) > 255:
        raise errors.Invalid(f"{what} has {len(clean)} characters; 255 are allowed.")
    return clean, check(what, name, value)


def _resource(what: str, name: str, value: Any) -> str:
    if name not in STANDARD_CLASSES and not _CUSTOM.fullmatch(name):
        raise errors.Invalid(f"{what} names no resource class of accelerators; allowed: "
                             f"{', '.join(sorted(STANDARD_CLASSES))} and CUSTOM_*.")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise errors.Invalid(f"{what} has {parameters.shown(value)}; a positive whole number is "
                             "needed.")
    text = str(value).strip()
    if not _AMOUNT.fullmatch(text) or int(text) < 1:
        raise errors.Invalid(f"{what} has {parameters.shown(value)}; a positive whole number is "
                             "needed.")
    return str(int(text))


def _trait(what: str, name: str, value: Any) -> str:
    if name != "OWNER_CYBORG" and not _CUSTOM.fullmatch(name):
        raise errors.Invalid(f"{what} names no trait of accelerators; allowed: CUSTOM_* and "
                             "OWNER_CYBORG.")
    if value not in _TRAIT_VALUES:
        raise errors.Invalid(f"{what} has {parameters.shown(value)}; allowed: "
                             f"{' and '.join(_TRAIT_VALUES)}.")
    return str(value)


_ACCEL = parameters.Text(lines=True)


def _accel(what: str, name: str, value: Any) -> str:
    return str(parameters.convert(_ACCEL, what, value))


_CHECKS = {"resources": _resource, "trait": _trait, "accel": _accel}


# --- the operations ---------------------------------------------------------------------------


class DeviceProfiles(expose.Controller):
    """Operations of /v2/device_profiles."""

    def _shown(self, call: expose.Call, profile: messages.DeviceProfile) -> dict[str, Any]:
        return microversions.render("device_profile", profile, call.version,
                                    links=[call.link(f"v2/device_profiles/{profile.uuid}")])

    @expose.expose("device_profile:create", body=True, status=201)
    def post(self, call: expose.Call, body: Any) -> dict[str, Any]:
        if not isinstance(body, list) or len(body) != 1 or not isinstance(body[0], dict):
            raise errors.Invalid("The body is not a list of exactly one device profile.")
        profile = profile_from(call.known_fields(body[0]),
                               self.services.max_accelerators_per_profile)
        return self._shown(call, self.conductor.create_device_profile(profile))

    @expose.expose("device_profile:get_all", query={
        "name": parameters.Several(NAME), **paging.PARAMETERS})
    def get_all(self, call: expose.Call, name: list[str] | None = None,
                **given: Any) -> dict[str, Any]:
        page = paging.page_from(call, given, self.services.max_limit)
        profiles = self.conductor.list_device_profiles(name, page)
        return paging.reply(call, "device_profiles",
                            [self._shown(call, profile) for profile in profiles], page)

    @expose.expose("device_profile:get_one", parameters.Text())
    def get_one(self, call: expose.Call, uuid_or_name: str) -> expose.Reply:
        return self._detail(call, self._found(call, uuid_or_name))

    def _found(self, call: expose.Call, uuid_or_name: str) -> messages.DeviceProfile:
        if parameters.is_uuid(uuid_or_name):
            return self.conductor.get_device_profile(UUID.frombasetype(uuid_or_name), None)
        if call.supports("device_profile_by_name"):
            return self.conductor.get_device_profile(
                None, parameters.convert(NAME, "Device profile name", uuid_or_name))
        raise errors.NotFound(
            f"No device profile has the uuid {parameters.shown(uuid_or_name)}; to find one "
            "by its name send OpenStack-API-Version: accelerator 2.2 or later.")

    def _detail(self, call: expose.Call, profile: messages.DeviceProfile) -> expose.Reply:
        shown = self._shown(call, profile)
        if call.supports("device_profile_usage"):
            shown |= microversions.render("device_profile_detail", profile, call.version,
                                          usage=self._usage(call, profile))
        tags = ({"ETag": profile_patch.tag_of(profile)}
                if call.supports("device_profile_update") else {})
        return expose.Reply({"device_profile": shown}, tags)

    def _usage(self, call: expose.Call, profile: messages.DeviceProfile) -> dict[str, Any]:
        groups = [dataclasses.asdict(group) for group in
                  self.conductor.show_profile_usage(
                      profile, call.caller.scope, not call.supports("instance_operations"))]
        if not call.supports("instance_operations"):
            # what such a client knows of them: they are bound
            for group in groups:
                suspended = group["arqs"].pop(states.SUSPENDED, 0)
                if suspended:
                    group["arqs"][states.BOUND] = suspended + group["arqs"].get(states.BOUND, 0)
        if call.caller.scope is not None:
            # how large the cloud is does not concern a project
            for group in groups:
                group.update(hosts=None, providers=None)
        return {"in_use": any(group["arqs"] for group in groups), "groups": groups}

    @expose.expose("device_profile:update", parameters.Text(), body=True,
                   media=(expose.JSON, expose.JSON_PATCH))
    def patch_one(self, call: expose.Call, uuid_or_name: str, body: Any) -> expose.Reply:
        profile = self._found(call, uuid_or_name)
        profile_patch.check_tag(profile, call.if_match)
        wanted = profile_from(profile_patch.patched(profile, body),
                              self.services.max_accelerators_per_profile)
        try:
            stored = self.conductor.update_device_profile(dataclasses.replace(
                wanted, uuid=profile.uuid, generation=profile.generation))
        except errors.ChangedMeanwhile as error:
            if call.if_match is None:
                raise
            raise errors.PreconditionFailed(error.detail) from error
        return self._detail(call, stored)

    @expose.expose("device_profile:delete", parameters.Text(), status=204)
    def delete_one(self, call: expose.Call, uuid_or_name: str) -> None:
        self._delete([uuid_or_name])

    @expose.expose("device_profile:delete", status=204,
                   query={"value": parameters.Several(parameters.Text())})
    def delete(self, call: expose.Call, value: list[str] | None = None) -> None:
        if value is None:
            raise errors.Invalid("Nothing says which device profiles to delete; add a uuid or a "
                                 "name to the path, or ?value=name1,name2.")
        self._delete(value)

    def _delete(self, given: list[str]) -> None:
        uuids = [UUID.frombasetype(item) for item in given if parameters.is_uuid(item)]
        names = [parameters.convert(NAME, "Device profile name", item) for item in given
                 if not parameters.is_uuid(item)]
        self.conductor.delete_device_profiles(uuids, names)
