# SPDX-License-Identifier: Apache-2.0
"""Devices, deployables and attributes: what the API asks and gets."""

from __future__ import annotations

from dataclasses import field

from cyborg_lite.messages.arqs import Page
from cyborg_lite.messages.message import message


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
