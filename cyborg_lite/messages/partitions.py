# SPDX-License-Identifier: Apache-2.0
"""Partitions of a device: what a driver sees, what is wished for, what the API gets."""

from __future__ import annotations

from dataclasses import field

from cyborg_lite.messages.message import message


@message
class PartitionPlace:
    """Memory units `start` to `start + size - 1` of a device. A unit is not a slice."""

    start: int
    size: int


@message
class PartitionProfile:
    """One kind of partition, as the device's library tells it.

    id: what a creation takes; the name may change with the driver. vgpu_types: short names of the
    vGPU types that live in such a partition.
    """

    name: str
    id: int
    slices: int
    memory_mib: int
    max_instances: int
    placements: list[PartitionPlace] = field(default_factory=list)
    vgpu_types: list[str] = field(default_factory=list)


@message
class PartitionVgpuType:
    """One vGPU type of a device. name: the short one, such as A100-4C.

    partition_profile_id: the profile of the partition that it lives in; None when it shares the
    whole device. placements: where it may lie when sizes are mixed.
    """

    name: str
    id: int
    memory_mib: int
    max_instances: int
    partition_profile_id: int | None = None
    max_per_partition: int = 1
    placements: list[PartitionPlace] = field(default_factory=list)


@message
class PartitionCount:
    """So many partitions of a profile; vgpu_type: what each of them is offered as."""

    profile: str
    count: int
    vgpu_type: str | None = None


@message
class Partition:
    """A partition that exists. id: the library's; place: None where nobody may see it.

    in_use: by somebody of whom no attach handle tells; what servers do changes no report.
    """

    profile: str
    profile_id: int
    id: int | None = None
    place: PartitionPlace | None = None
    in_use: bool = False
    vgpu_type: str | None = None


@message
class ReportedPartitioning:
    """How a device can be split, and how it is, as its driver sees it.

    scheme: mig, vgpu or mig-vgpu. mixed: vGPUs of several sizes may be beside each other. fault:
    why it can't be split at this moment, such as a reset that is waited for.
    """

    scheme: str
    profiles: list[PartitionProfile] = field(default_factory=list)
    vgpu_types: list[PartitionVgpuType] = field(default_factory=list)
    partitions: list[Partition] = field(default_factory=list)
    mixed: bool = False
    fault: str | None = None


@message
class LayoutWish:
    """The partitions that a device shall have. generation: raised by every new wish of it.

    held: an ARQ holds an attach handle of the device, or one is not cleaned yet: nothing that
    exists may be destroyed, only what a reboot took may be made again. model: of the device that
    it was made for; another one that is in its place by now is left alone.
    """

    device_address: str
    driver: str
    generation: int
    partitions: list[PartitionCount] = field(default_factory=list)
    held: bool = False
    model: str | None = None


@message
class LayoutResult:
    """What became of a wish; fault is None when the device is split so.

    is_as_before: with a fault: the device was looked at after it, and is as it was when asked.
    """

    device_address: str
    generation: int
    fault: str | None = None
    is_as_before: bool = False


@message
class Layout:
    """A way to split a device. maximal: nothing can be added."""

    id: str
    partitions: list[PartitionCount]
    slices_used: int
    memory_used_mib: int
    maximal: bool


@message
class PartitionGroup:
    """Partitions of one profile that exist, and where they lie, as far as that is known."""

    profile: str
    count: int
    vgpu_type: str | None = None
    placements: list[PartitionPlace] = field(default_factory=list)


@message
class Partitioning:
    """How a device is split, shall be split and can be split.

    scheme: mig, vgpu, mig-vgpu or none. state: applied, applying, failed or unsupported.
    """

    scheme: str
    state: str
    fault: str | None = None
    current: list[PartitionGroup] = field(default_factory=list)
    desired: list[PartitionCount] = field(default_factory=list)
    profiles: list[PartitionProfile] = field(default_factory=list)
    layouts: list[Layout] = field(default_factory=list)


@message
class PartitionStep:
    """action: destroy or create."""

    action: str
    profile: str
    placement: PartitionPlace | None = None


@message
class PartitioningPlan:
    """What setting a layout does, or would do. kept: partitions that stay as they are."""

    layout: Layout
    kept: int = 0
    steps: list[PartitionStep] = field(default_factory=list)
