# SPDX-License-Identifier: Apache-2.0
"""Accelerator requests and device profiles: what the API asks and gets."""

from __future__ import annotations

from dataclasses import field

from cyborg_lite.messages.message import message


@message
class Page:
    """Which part of a list, in which order.

    limit: at most so many entries; None for all. marker: uuid of the entry before the first.
    sort: pairs of key and asc or desc; entries that are equal in all keys come in the order of
    their creation, or the reverse where the last key is sorted so.
    """

    limit: int | None = None
    marker: str | None = None
    sort: list[list[str]] = field(default_factory=list)


@message
class Arq:
    """One accelerator wanted for, or held by, one instance.

    migration_uuid: of the open migration whose inactive set it belongs to; None in the active set.
    """

    uuid: str
    state: str
    device_profile_name: str
    device_profile_group_id: int
    project_id: str | None = None
    hostname: str | None = None
    device_rp_uuid: str | None = None
    instance_uuid: str | None = None
    attach_handle_type: str | None = None
    attach_handle_uuid: str | None = None
    attach_handle_info: dict[str, str] = field(default_factory=dict)
    state_reason: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    migration_uuid: str | None = None


@message
class ArqQuery:
    """Which ARQs to list; what is None does not restrict. `project_id` is the caller's scope.

    migration_uuid: those of its inactive set. all_sets: with inactive sets; otherwise, and without
    a migration, the active ones alone.
    """

    project_id: str | None = None
    instance_uuid: str | None = None
    states: list[str] | None = None
    instance_uuids: list[str] | None = None
    hostname: str | None = None
    device_profile_name: str | None = None
    device_rp_uuid: str | None = None
    page: Page | None = None
    migration_uuid: str | None = None
    all_sets: bool = False


@message
class BindRequest:
    """Give the ARQ a handle of that provider on that host, for that instance.

    `project_id`: whose the ARQ is from now on; None leaves it. migration_uuid: the ARQ becomes one
    of the inactive set of that migration, whose type is cold or live.
    """

    arq_uuid: str
    hostname: str
    device_rp_uuid: str
    instance_uuid: str
    project_id: str | None = None
    migration_uuid: str | None = None
    migration_type: str | None = None


@message
class DeviceProfile:
    """Named list of groups that an operator offers.

    groups: one mapping a group, keys `resources:CLASS`, `trait:NAME` or `accel:KEY`.
    generation: raised by every update; an update names the one that it has read.
    """

    uuid: str
    name: str
    description: str | None = None
    groups: list[dict[str, str]] = field(default_factory=list)
    created_at: str | None = None
    updated_at: str | None = None
    generation: int = 0


@message
class GroupUsage:
    """What the cloud holds for one group of a device profile.

    arqs: ARQs of the group by state. providers, hosts: how many could serve it. total: handles;
    reserved: not to be handed out now and held by nobody; used: held by an ARQ; free: the rest.
    """

    arqs: dict[str, int]
    providers: int
    hosts: int
    total: int
    reserved: int
    used: int
    free: int
