# SPDX-License-Identifier: Apache-2.0
"""Every shape that crosses RPC: frozen dataclasses, nothing else.

No input or output here, no defaults that compute, no behaviour. The rule for a change is
additive: a new field has a default, a field never changes meaning, type or name (`rpc.py`
keeps the history). Times are ISO 8601 text in UTC.
"""

from cyborg_lite.messages.arqs import Arq as Arq
from cyborg_lite.messages.arqs import ArqQuery as ArqQuery
from cyborg_lite.messages.arqs import BindRequest as BindRequest
from cyborg_lite.messages.arqs import DeviceProfile as DeviceProfile
from cyborg_lite.messages.arqs import GroupUsage as GroupUsage
from cyborg_lite.messages.arqs import Page as Page
from cyborg_lite.messages.devices import Attribute as Attribute
from cyborg_lite.messages.devices import Deployable as Deployable
from cyborg_lite.messages.devices import DeployablePart as DeployablePart
from cyborg_lite.messages.devices import DeployableQuery as DeployableQuery
from cyborg_lite.messages.devices import Device as Device
from cyborg_lite.messages.devices import DeviceQuery as DeviceQuery
from cyborg_lite.messages.devices import HandleCounts as HandleCounts
from cyborg_lite.messages.partitions import Layout as Layout
from cyborg_lite.messages.partitions import LayoutResult as LayoutResult
from cyborg_lite.messages.partitions import LayoutWish as LayoutWish
from cyborg_lite.messages.partitions import Partition as Partition
from cyborg_lite.messages.partitions import PartitionCount as PartitionCount
from cyborg_lite.messages.partitions import PartitionGroup as PartitionGroup
from cyborg_lite.messages.partitions import Partitioning as Partitioning
from cyborg_lite.messages.partitions import PartitioningPlan as PartitioningPlan
from cyborg_lite.messages.partitions import PartitionPlace as PartitionPlace
from cyborg_lite.messages.partitions import PartitionProfile as PartitionProfile
from cyborg_lite.messages.partitions import PartitionStep as PartitionStep
from cyborg_lite.messages.partitions import PartitionVgpuType as PartitionVgpuType
from cyborg_lite.messages.partitions import ReportedPartitioning as ReportedPartitioning
from cyborg_lite.messages.reports import Heartbeat as Heartbeat
from cyborg_lite.messages.reports import HeartbeatReply as HeartbeatReply
from cyborg_lite.messages.reports import HostReport as HostReport
from cyborg_lite.messages.reports import ReportedDeployable as ReportedDeployable
from cyborg_lite.messages.reports import ReportedDevice as ReportedDevice
from cyborg_lite.messages.reports import ReportedHandle as ReportedHandle
from cyborg_lite.messages.reports import WithheldFunction as WithheldFunction
from cyborg_lite.messages.services import Orphan as Orphan
from cyborg_lite.messages.services import OrphanQuery as OrphanQuery
from cyborg_lite.messages.services import Service as Service
from cyborg_lite.messages.services import ServiceQuery as ServiceQuery
from cyborg_lite.messages.services import Sweep as Sweep
from cyborg_lite.messages.tasks import HandleResult as HandleResult
from cyborg_lite.messages.tasks import HandleTask as HandleTask
from cyborg_lite.messages.tasks import HostIntent as HostIntent
