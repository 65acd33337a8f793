# SPDX-License-Identifier: Apache-2.0
"""What services ask of each other: the two clients, and the versions of their calls.

`remote.py` makes calls of methods, `buses.py` carries them; nothing is decided in any of these.

History (each change of a method or a message adds a line and raises the minor number):

1.3  a device that could not be split says whether it is as before; a layout wish names the model
     that it is for.
1.2  partitions of devices: show_partitioning, set_partitioning, apply_layouts, in reports and in
     host_intent; migrations: begin_migration, switch_migration, end_migration, sets of ARQs;
     suspend_instance, resume_instance and take_down; services, orphans and note_leftovers; agents
     name themselves.
1.1  update_device_profile, show_profile_usage, show_device_parts, clean_device; pages of lists;
     a reason for disabling; what a host withholds, in its report; host_intent.
1.0  device profiles, ARQs with bind and unbind, devices, deployables, attributes, heartbeat and
     report to the conductor; prepare and clean to the agent.
"""

from __future__ import annotations

from oslo_config import cfg

from cyborg_lite import buses
from cyborg_lite import messages
from cyborg_lite import remote

VERSION = "1.3"
CONDUCTOR_TOPIC = "cyborg_lite.conductor"
AGENT_TOPIC = "cyborg_lite.agent"

ASKED_OF_AGENTS = "1.0"
"""The version that calls to an agent need: agents are upgraded after conductors."""


def bus_from(conf: cfg.ConfigOpts) -> buses.MessagingBus:
    """Return the bus that `transport_url` names."""
    return buses.MessagingBus(conf, VERSION, {AGENT_TOPIC: ASKED_OF_AGENTS})


# --- clients ----------------------------------------------------------------------------------


class ConductorClient(remote.Client):
    """What the API and the agents ask of any conductor. Each may raise Unavailable."""

    topic = CONDUCTOR_TOPIC

    @remote.call
    def create_device_profile(self, profile: messages.DeviceProfile) -> messages.DeviceProfile:
        """Duplicate when the name or the uuid is taken."""
        raise NotImplementedError

    @remote.call
    def list_device_profiles(self, names: list[str] | None,
                             page: messages.Page | None = None) -> list[messages.DeviceProfile]:
        raise NotImplementedError

    @remote.call
    def update_device_profile(self, profile: messages.DeviceProfile) -> messages.DeviceProfile:
        """NotFound, ChangedMeanwhile by its generation, InUse for a new name, Duplicate."""
        raise NotImplementedError

    @remote.call
    def show_profile_usage(self, profile: messages.DeviceProfile, project_id: str | None,
                           active_only: bool = False) -> list[messages.GroupUsage]:
        """One entry a group; with `project_id` its ARQs alone are counted. NotFound.

        active_only: ARQs of inactive sets are not counted; what they hold is used nevertheless.
        """
        raise NotImplementedError

    @remote.call
    def get_device_profile(self, uuid: str | None, name: str | None) -> messages.DeviceProfile:
        """By either; NotFound."""
        raise NotImplementedError

    @remote.call
    def delete_device_profiles(self, uuids: list[str], names: list[str]) -> None:
        """Delete those that can go; InUse or NotFound names the rest."""
        raise NotImplementedError

    @remote.call
    def create_arqs(self, device_profile_name: str,
                    project_id: str | None) -> list[messages.Arq]:
        """One ARQ per accelerator of each group, all or none; NotFound."""
        raise NotImplementedError

    @remote.call
    def list_arqs(self, query: messages.ArqQuery) -> list[messages.Arq]:
        raise NotImplementedError

    @remote.call
    def get_arq(self, uuid: str, project_id: str | None) -> messages.Arq:
        """NotFound, also for another project's when `project_id` is given."""
        raise NotImplementedError

    @remote.call
    def bind_arqs(self, requests: list[messages.BindRequest]) -> None:
        """AlreadyHasArqs, NotFound, StateConflict before anything changed; BindFailed after."""
        raise NotImplementedError

    @remote.call
    def unbind_arqs(self, uuids: list[str]) -> None:
        """NotFound, StateConflict."""
        raise NotImplementedError

    @remote.call
    def delete_arqs(self, uuids: list[str], project_id: str | None,
                    bound_too: bool) -> None:
        """NotFound names the missing ones, after the rest was deleted.

        Without `bound_too`, ServiceTokenMissing when one has an instance; then none is deleted.
        """
        raise NotImplementedError

    @remote.call
    def delete_arqs_of_instance(self, instance_uuid: str,
                                migration_uuid: str | None = None) -> None:
        """Idempotent. With a migration its inactive set alone, and the migration is over."""
        raise NotImplementedError

    @remote.call
    def begin_migration(self, instance_uuid: str, migration_uuid: str,
                        migration_type: str | None) -> list[messages.Arq]:
        """Open a migration that has no ARQs yet; idempotent. Returns all sets of the instance."""
        raise NotImplementedError

    @remote.call
    def switch_migration(self, instance_uuid: str, migration_uuid: str,
                         to: str) -> list[messages.Arq]:
        """Make the set of `to`, destination or source, the active one; idempotent.

        NotFound for the migration; StateConflict unless all ARQs of that set are Bound.
        """
        raise NotImplementedError

    @remote.call
    def end_migration(self, instance_uuid: str, migration_uuid: str) -> list[messages.Arq]:
        """Free the inactive set and forget the migration; idempotent."""
        raise NotImplementedError

    @remote.call
    def suspend_instance(self, instance_uuid: str) -> list[messages.Arq]:
        """Take the host side of the active set down; its handles are kept. Idempotent.

        StateConflict when one of its ARQs is neither Bound nor Suspended.
        """
        raise NotImplementedError

    @remote.call
    def resume_instance(self, instance_uuid: str) -> list[messages.Arq]:
        """Make the host side again; ends with the event of a bind. Idempotent; StateConflict."""
        raise NotImplementedError

    @remote.call
    def list_devices(self, query: messages.DeviceQuery) -> list[messages.Device]:
        raise NotImplementedError

    @remote.call
    def get_device(self, uuid: str) -> messages.Device:
        raise NotImplementedError

    @remote.call
    def show_device_parts(self, uuid: str) -> list[messages.DeployablePart]:
        """The deployables of a device, with their handles by state."""
        raise NotImplementedError

    @remote.call
    def clean_device(self, uuid: str) -> None:
        """Have the failed handles of a device cleaned again; NotFound."""
        raise NotImplementedError

    @remote.call
    def set_device_status(self, uuid: str, status: str, reason: str | None = None) -> None:
        """status: enabled or maintaining. Repeating is harmless; NotFound."""
        raise NotImplementedError

    @remote.call
    def show_partitioning(self, uuid: str, every_layout: bool) -> messages.Partitioning:
        """How a device is and can be split; the maximal layouts, or every one. NotFound."""
        raise NotImplementedError

    @remote.call
    def set_partitioning(self, uuid: str, layout: str | None,
                         partitions: list[messages.PartitionCount] | None,
                         dry_run: bool) -> messages.PartitioningPlan:
        """Wish for a layout, by its id or by its partitions; what that does.

        NotFound; Invalid with the nearest valid layouts; InUse, StateConflict for a device that
        can't be split, ChangedMeanwhile.
        """
        raise NotImplementedError

    @remote.call
    def list_services(self, query: messages.ServiceQuery) -> list[messages.Service]:
        raise NotImplementedError

    @remote.call
    def set_service(self, id: str, status: str, reason: str | None) -> messages.Service:
        """status: enabled or disabled. NotFound; StateConflict for what can't be disabled."""
        raise NotImplementedError

    @remote.call
    def list_orphans(self, query: messages.OrphanQuery) -> list[messages.Orphan]:
        raise NotImplementedError

    @remote.call
    def get_orphan(self, id: str) -> messages.Orphan:
        """NotFound."""
        raise NotImplementedError

    @remote.call
    def clean_orphan(self, id: str) -> None:
        """Have a confirmed orphan cleaned; NotFound, StateConflict."""
        raise NotImplementedError

    @remote.call
    def start_sweep(self, host: str | None, dry_run: bool) -> messages.Sweep:
        """Search now, one host or all; NotFound for the host."""
        raise NotImplementedError

    @remote.call
    def last_sweep(self) -> messages.Sweep:
        """NotFound when there was none."""
        raise NotImplementedError

    @remote.call
    def list_deployables(self, query: messages.DeployableQuery) -> list[messages.Deployable]:
        raise NotImplementedError

    @remote.call
    def get_deployable(self, uuid: str) -> messages.Deployable:
        raise NotImplementedError

    @remote.call
    def program_deployable(self, uuid: str, image_uuid: str) -> messages.Deployable:
        """NotProgrammable with the reason."""
        raise NotImplementedError

    @remote.call
    def list_attributes(self, deployable_id: int | None, key: str | None,
                        page: messages.Page | None = None) -> list[messages.Attribute]:
        raise NotImplementedError

    @remote.call
    def get_attribute(self, uuid: str) -> messages.Attribute:
        raise NotImplementedError

    @remote.call
    def create_attribute(self, deployable_id: int, key: str, value: str) -> messages.Attribute:
        """NotFound for the deployable; Duplicate for the key."""
        raise NotImplementedError

    @remote.call
    def delete_attribute(self, uuid: str) -> None:
        raise NotImplementedError

    @remote.call
    def ping(self) -> None:
        """Answers when the conductor and its database do."""
        raise NotImplementedError

    @remote.call
    def heartbeat(self, beat: messages.Heartbeat) -> messages.HeartbeatReply:
        raise NotImplementedError

    @remote.call
    def claim_host(self, host: str, agent_id: str | None) -> None:
        """Ask to speak for a host, before anything is done there; HostTaken."""
        raise NotImplementedError

    @remote.call
    def host_intent(self, host: str) -> messages.HostIntent:
        """What should exist on the host now, for an agent that starts."""
        raise NotImplementedError

    @remote.call
    def note_leftovers(self, host: str, leftovers: dict[str, str]) -> None:
        """Account for what an agent removed because nobody had it: handles, each with its driver.
        """
        raise NotImplementedError

    @remote.call
    def report(self, report: messages.HostReport) -> None:
        """Store what the host has; the Placement sync follows."""
        raise NotImplementedError


class AgentClient(remote.Client):
    """What a conductor asks of the agent of one host."""

    topic = AGENT_TOPIC

    def within(self, seconds: float) -> AgentClient:
        """This client, for calls of which nothing is begun after so many seconds."""
        client = AgentClient(self._bus, self._timeout_s)
        client._begun_within_s = min(self._begun_within_s, seconds)
        return client

    @remote.call
    def prepare(self, agent_host: str,
                tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make the handles attachable; one result a task."""
        raise NotImplementedError

    @remote.call
    def clean(self, agent_host: str,
              tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make the handles ready for somebody else; one result a task."""
        raise NotImplementedError

    @remote.call
    def take_down(self, agent_host: str,
                  tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        """Remove what the host has made for handles that are kept; `prepare` makes it again.

        Nothing of the tenant is erased.
        """
        raise NotImplementedError

    @remote.call
    def apply_layouts(self, agent_host: str,
                      wishes: list[messages.LayoutWish]) -> list[messages.LayoutResult]:
        """Split devices as wished; one result a wish. A report follows."""
        raise NotImplementedError
