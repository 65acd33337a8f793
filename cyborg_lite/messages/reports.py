# SPDX-License-Identifier: Apache-2.0
"""What an agent reports of its host."""

from __future__ import annotations

from dataclasses import field

from cyborg_lite.messages.message import message
from cyborg_lite.messages.partitions import ReportedPartitioning


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
    partitioning: ReportedPartitioning | None = None


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
    agent_id: str | None = None


@message
class Heartbeat:
    """The agent is alive and its last report had this digest.

    agent_id: the same as long as the machine runs, another on any other machine.
    """

    host: str
    resource_provider_name: str
    digest: str
    agent_id: str | None = None


@message
class HeartbeatReply:
    """report_wanted: the conductor does not know this digest."""

    report_wanted: bool
