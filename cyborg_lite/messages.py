# SPDX-License-Identifier: Apache-2.0
"""Every shape that crosses RPC: frozen dataclasses, nothing else.

No input or output here, no defaults that compute, no behaviour. The rule for a change is
additive: a new field has a default, a field never changes meaning, type or name (`rpc.py`
keeps the history). Times are ISO 8601 text in UTC.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import field

T = typing.TypeVar("T")


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def message(cls: type[T]) -> type[T]:
    """Make a class of annotated fields a message."""
    return dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(cls)


# --- what the API asks and gets ---------------------------------------------------------------


@message
class Arq:
    """One accelerator wanted for, or held by, one instance."""

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
class ArqQuery:
    """Which ARQs to list; what is None does not restrict. `project_id` is the caller's scope."""

    project_id: str | None = None
    instance_uuid: str | None = None
    states: list[str] | None = None
    instance_uuids: list[str] | None = None
    hostname: str | None = None
    device_profile_name: str | None = None
    device_rp_uuid: str | None = None
    page: Page | None = None


@message
class BindRequest:
    """Give the ARQ a handle of that provider on that host, for that instance.

    `project_id`: whose the ARQ is from now on; None leaves it.
    """

    arq_uuid: str
    hostname: str
    device_rp_uuid: str
    instance_uuid: str
    project_id: str | None = None


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


@message
class HandleCounts:
    """Attach handles of a deployable, by state; reserved and in_use are held by an ARQ."""

    total: int = 0
    free: int = 0
    reserved: int = 0
    in_use: int = 0
    cleaning: int = 0
    failed: int = 0
    missing: int = 0


@message
class DeployablePart:
    """A deployable as part of its device's detail."""

    uuid: str
    name: str
    resource_class: str | None
    traits: list[str]
    rp_uuid: str | None
    attach_handles: HandleCounts


@message
class Device:
    """One physical card on one host."""

    uuid: str
    type: str
    vendor: str
    model: str
    std_board_info: str | None
    vendor_board_info: str | None
    hostname: str
    status: str
    created_at: str | None = None
    updated_at: str | None = None
    driver_name: str | None = None
    pci_address: str | None = None
    numa_node: int | None = None
    host_state: str | None = None
    status_reason: str | None = None
    disabled_at: str | None = None
    deployables: list[DeployablePart] | None = None


@message
class DeviceQuery:
    """Which devices to list; what is None does not restrict.

    offered_only: without those that never offered anything and are withheld.
    """

    type: str | None = None
    vendor: str | None = None
    hostname: str | None = None
    page: Page | None = None
    offered_only: bool = False


@message
class Deployable:
    """Part of a device that is offered as one resource provider.

    attributes: pairs of key and value, in key order.
    """

    uuid: str
    id: int
    parent_id: int | None
    root_id: int | None
    name: str
    num_accelerators: int
    device_id: int
    rp_uuid: str | None
    driver_name: str | None
    bitstream_id: str | None = None
    attributes: list[list[str]] = field(default_factory=list)
    created_at: str | None = None
    updated_at: str | None = None


@message
class DeployableQuery:
    """Which deployables to list; what is None does not restrict."""

    name: str | None = None
    page: Page | None = None


@message
class Attribute:
    """Key and value on a deployable; `trait*` keys become Placement traits."""

    uuid: str
    deployable_id: int
    key: str
    value: str
    created_at: str | None = None
    updated_at: str | None = None


# --- what an agent reports --------------------------------------------------------------------


@message
class ReportedHandle:
    """What one ARQ gets. `type` and `info` are its identity within the deployable.

    type: PCI, MDEV or TEST_PCI. info: for PCI domain, bus, device, function as hex text.
    """

    type: str
    info: dict[str, str]


@message
class ReportedDeployable:
    """One resource provider, as a driver sees it.

    name: unique on the host, without the host's name.
    prepares, cleans: whether a handle needs host work before use and before reuse.
    """

    name: str
    resource_class: str
    handles: list[ReportedHandle]
    traits: list[str] = field(default_factory=list)
    driver_name: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    prepares: bool = False
    cleans: bool = False


@message
class ReportedDevice:
    """One card, as a driver sees it.

    address: its identity on the host, such as the PCI address `0000:41:00.0`.
    driver: the entry point name of the driver that reports it.
    """

    address: str
    type: str
    vendor: str
    model: str
    driver: str
    deployables: list[ReportedDeployable]
    std_board_info: str | None = None
    vendor_board_info: str | None = None
    pci_address: str | None = None
    numa_node: int | None = None


@message
class WithheldFunction:
    """What a driver looked at and does not offer now, and why, in words for an operator.

    type, vendor, model: of a device that shall be shown although it offers nothing; None for what
    is only part of one, as a virtual function, or not there.
    """

    address: str
    driver: str
    reason: str
    type: str | None = None
    vendor: str | None = None
    model: str | None = None
    numa_node: int | None = None


@message
class HostReport:
    """All devices of a host at one moment.

    failed_drivers: their devices are unknown at this moment, which is not the same as gone.
    withheld: in address order, each address once.
    """

    host: str
    resource_provider_name: str
    digest: str
    devices: list[ReportedDevice]
    failed_drivers: list[str] = field(default_factory=list)
    drivers: list[str] = field(default_factory=list)
    version: str | None = None
    withheld: list[WithheldFunction] = field(default_factory=list)


@message
class Heartbeat:
    """The agent is alive and its last report had this digest."""

    host: str
    resource_provider_name: str
    digest: str


@message
class HeartbeatReply:
    """report_wanted: the conductor does not know this digest."""

    report_wanted: bool


# --- what a conductor asks of an agent --------------------------------------------------------


@message
class HandleTask:
    """One handle to prepare or to clean, keyed by its uuid: repeating it is harmless."""

    handle_uuid: str
    deployable_name: str
    device_address: str
    driver: str
    type: str
    info: dict[str, str]
    instance_uuid: str | None = None


@message
class HandleResult:
    """What became of one task; error is None when it was done."""

    handle_uuid: str
    error: str | None = None


@message
class HostIntent:
    """What should exist on a host.

    prepare: handles that an ARQ holds and that need host work. clean: handles that were given
    back and not cleaned yet.
    """

    prepare: list[HandleTask] = field(default_factory=list)
    clean: list[HandleTask] = field(default_factory=list)
