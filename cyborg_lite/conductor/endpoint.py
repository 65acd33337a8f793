# SPDX-License-Identifier: Apache-2.0
"""What a conductor answers by RPC: the counterpart of `rpc.ConductorClient`. No decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from cyborg_lite import buses
from cyborg_lite import messages
from cyborg_lite.conductor import arqs
from cyborg_lite.conductor import device_profiles
from cyborg_lite.conductor import devices
from cyborg_lite.conductor import instance_operations
from cyborg_lite.conductor import inventory
from cyborg_lite.conductor import orphans
from cyborg_lite.conductor import partitioning
from cyborg_lite.conductor import services
from cyborg_lite.db import arqs as arq_rows
from cyborg_lite.db import device_detail
from cyborg_lite.db import device_profiles as profile_rows
from cyborg_lite.db import devices as device_rows
from cyborg_lite.db import handles as handle_rows
from cyborg_lite.db import heartbeats
from cyborg_lite.db import orphans as orphan_rows
from cyborg_lite.db import service_list
from cyborg_lite.db import session
from cyborg_lite.db import sweeps
from cyborg_lite.db import usage


class Endpoint:
    """Each function is described at its namesake in `rpc.ConductorClient`."""

    def __init__(self, database: session.Database, binder: arqs.Binder,
                 wake_sync: Callable[[], None], watch: services.Watch,
                 reconciler: orphans.Reconciler) -> None:
        self._database = database
        self._binder = binder
        self._wake_sync = wake_sync
        self._watch = watch
        self._reconciler = reconciler

    @buses.exposed
    def ping(self) -> None:
        self._database.check()

    @buses.exposed
    def create_device_profile(self, profile: messages.DeviceProfile) -> messages.DeviceProfile:
        return device_profiles.create(self._database, profile)

    @buses.exposed
    def list_device_profiles(self, names: list[str] | None,
                             page: messages.Page | None = None) -> list[messages.DeviceProfile]:
        return profile_rows.list_profiles(self._database, names, page)

    @buses.exposed
    def update_device_profile(self, profile: messages.DeviceProfile) -> messages.DeviceProfile:
        return device_profiles.update(self._database, profile)

    @buses.exposed
    def show_profile_usage(self, profile: messages.DeviceProfile, project_id: str | None,
                           active_only: bool = False) -> list[messages.GroupUsage]:
        return usage.of_profile(self._database, profile, project_id, active_only=active_only)

    @buses.exposed
    def get_device_profile(self, uuid: str | None, name: str | None) -> messages.DeviceProfile:
        return profile_rows.get(self._database, uuid, name)

    @buses.exposed
    def delete_device_profiles(self, uuids: list[str], names: list[str]) -> None:
        device_profiles.delete(self._database, uuids, names)

    @buses.exposed
    def create_arqs(self, device_profile_name: str,
                    project_id: str | None) -> list[messages.Arq]:
        return arq_rows.create(self._database, device_profile_name, project_id)

    @buses.exposed
    def list_arqs(self, query: messages.ArqQuery) -> list[messages.Arq]:
        return arq_rows.list_arqs(self._database, query)

    @buses.exposed
    def get_arq(self, uuid: str, project_id: str | None) -> messages.Arq:
        return arq_rows.get(self._database, uuid, project_id)

    @buses.exposed
    def bind_arqs(self, requests: list[messages.BindRequest]) -> None:
        arqs.bind(self._binder, requests)

    @buses.exposed
    def unbind_arqs(self, uuids: list[str]) -> None:
        arqs.unbind(self._binder, uuids)

    @buses.exposed
    def delete_arqs(self, uuids: list[str], project_id: str | None, bound_too: bool) -> None:
        arqs.delete(self._binder, uuids, project_id, bound_too)

    @buses.exposed
    def delete_arqs_of_instance(self, instance_uuid: str,
                                migration_uuid: str | None = None) -> None:
        if migration_uuid is None:
            arqs.delete_of_instance(self._binder, instance_uuid)
        else:
            instance_operations.end(self._binder, instance_uuid, migration_uuid)

    @buses.exposed
    def begin_migration(self, instance_uuid: str, migration_uuid: str,
                        migration_type: str | None) -> list[messages.Arq]:
        return instance_operations.begin(
            self._binder, instance_uuid, migration_uuid, migration_type)

    @buses.exposed
    def switch_migration(self, instance_uuid: str, migration_uuid: str,
                         to: str) -> list[messages.Arq]:
        return instance_operations.switch(self._binder, instance_uuid, migration_uuid, to)

    @buses.exposed
    def end_migration(self, instance_uuid: str, migration_uuid: str) -> list[messages.Arq]:
        return instance_operations.end(self._binder, instance_uuid, migration_uuid)

    @buses.exposed
    def suspend_instance(self, instance_uuid: str) -> list[messages.Arq]:
        return instance_operations.suspend(self._binder, instance_uuid)

    @buses.exposed
    def resume_instance(self, instance_uuid: str) -> list[messages.Arq]:
        return instance_operations.resume(self._binder, instance_uuid)

    @buses.exposed
    def list_devices(self, query: messages.DeviceQuery) -> list[messages.Device]:
        return device_rows.list_devices(self._database, query, self._watch.horizon())

    @buses.exposed
    def get_device(self, uuid: str) -> messages.Device:
        return device_rows.get_device(self._database, uuid, self._watch.horizon())

    @buses.exposed
    def show_device_parts(self, uuid: str) -> list[messages.DeployablePart]:
        return device_detail.parts(self._database, uuid)

    @buses.exposed
    def clean_device(self, uuid: str) -> None:
        if devices.clean_again(self._database, uuid):
            self._binder.wake_cleaning()
            self._wake_sync()

    @buses.exposed
    def set_device_status(self, uuid: str, status: str, reason: str | None = None) -> None:
        if devices.set_status(self._database, uuid, status, reason):
            self._wake_sync()

    @buses.exposed
    def show_partitioning(self, uuid: str, every_layout: bool) -> messages.Partitioning:
        return partitioning.show(self._database, uuid, every_layout, self._watch.horizon())

    @buses.exposed
    def set_partitioning(self, uuid: str, layout: str | None,
                         partitions: list[messages.PartitionCount] | None,
                         dry_run: bool) -> messages.PartitioningPlan:
        plan, changed = partitioning.set_layout(self._database, uuid, layout, partitions, dry_run)
        if changed:
            self._wake_sync()
        return plan

    @buses.exposed
    def list_services(self, query: messages.ServiceQuery) -> list[messages.Service]:
        return service_list.list_services(self._database, query, self._watch.horizon())

    @buses.exposed
    def set_service(self, id: str, status: str, reason: str | None) -> messages.Service:
        service, changed = services.set_status(
            self._database, id, status, reason, self._watch.horizon())
        if changed:
            self._wake_sync()
        return service

    @buses.exposed
    def list_orphans(self, query: messages.OrphanQuery) -> list[messages.Orphan]:
        return orphan_rows.list_orphans(self._database, query)

    @buses.exposed
    def get_orphan(self, id: str) -> messages.Orphan:
        return orphan_rows.get(self._database, id)

    @buses.exposed
    def clean_orphan(self, id: str) -> None:
        self._reconciler.clean(id)

    @buses.exposed
    def start_sweep(self, host: str | None, dry_run: bool) -> messages.Sweep:
        return self._reconciler.start(host, dry_run)

    @buses.exposed
    def last_sweep(self) -> messages.Sweep:
        return sweeps.last(self._database)

    @buses.exposed
    def list_deployables(self, query: messages.DeployableQuery) -> list[messages.Deployable]:
        return device_rows.list_deployables(self._database, query)

    @buses.exposed
    def get_deployable(self, uuid: str) -> messages.Deployable:
        return device_rows.get_deployable(self._database, uuid)

    @buses.exposed
    def program_deployable(self, uuid: str, image_uuid: str) -> messages.Deployable:
        return devices.program(self._database, uuid, image_uuid)

    @buses.exposed
    def list_attributes(self, deployable_id: int | None, key: str | None,
                        page: messages.Page | None = None) -> list[messages.Attribute]:
        return device_rows.list_attributes(self._database, deployable_id, key, page)

    @buses.exposed
    def get_attribute(self, uuid: str) -> messages.Attribute:
        return device_rows.get_attribute(self._database, uuid)

    @buses.exposed
    def create_attribute(self, deployable_id: int, key: str, value: str) -> messages.Attribute:
        attribute = device_rows.create_attribute(self._database, deployable_id, key, value)
        self._wake_sync()
        return attribute

    @buses.exposed
    def delete_attribute(self, uuid: str) -> None:
        device_rows.delete_attribute(self._database, uuid)
        self._wake_sync()

    @buses.exposed
    def heartbeat(self, beat: messages.Heartbeat) -> messages.HeartbeatReply:
        return inventory.heartbeat(
            self._database, beat, self._watch.write_every_s(), self._watch.hearing())

    @buses.exposed
    def claim_host(self, host: str, agent_id: str | None) -> None:
        heartbeats.claim(self._database, host, agent_id, self._watch.hearing())

    @buses.exposed
    def host_intent(self, host: str) -> messages.HostIntent:
        return dataclasses.replace(handle_rows.intent_of(self._database, host),
                                   layouts=partitioning.wishes_of(self._database, host))

    @buses.exposed
    def note_leftovers(self, host: str, leftovers: dict[str, str]) -> None:
        orphans.note_leftovers(self._database, host, leftovers, session.now())

    @buses.exposed
    def report(self, report: messages.HostReport) -> None:
        inventory.report(self._database, report, self._wake_sync, self._watch.write_every_s(),
                         self._watch.hearing())
