# SPDX-License-Identifier: Apache-2.0
"""Tables, constraints, indexes. No methods; types and states are strings, not database enums.

Rows never leave `db/`. Times are naive UTC. Text compares by its bytes on every database, hence
the collation for MySQL.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

metadata = sa.MetaData(naming_convention={
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
})

Moment = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
LongText = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
Uuid = sa.String(36)
Name = sa.String(255)


def _table(name: str, *parts: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(name, metadata, *parts, mysql_engine="InnoDB", mysql_charset="utf8mb4",
                    mysql_collate="utf8mb4_bin")


def _key() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True, autoincrement=True)


def _times() -> tuple[sa.Column[Any], sa.Column[Any]]:
    return (sa.Column("created_at", Moment, nullable=False), sa.Column("updated_at", Moment))


def _sorted_by(*columns: str) -> list[sa.Index]:
    """Indexes for pages in the order of a column: the id makes that order total."""
    return [sa.Index(None, column, "id") for column in columns]


device_profiles = _table(
    "device_profiles",
    _key(),
    sa.Column("uuid", Uuid, nullable=False, unique=True),
    sa.Column("name", Name, nullable=False, unique=True),
    sa.Column("description", sa.Text),
    sa.Column("groups", LongText, nullable=False, comment="JSON list"),
    sa.Column("generation", sa.Integer, nullable=False, default=0,
              comment="raised by every update"),
    *_times())

hosts = _table(
    "hosts",
    _key(),
    sa.Column("name", Name, nullable=False, unique=True),
    sa.Column("resource_provider_name", Name, nullable=False,
              comment="of the compute node in Placement"),
    sa.Column("digest", sa.String(64), comment="of the last stored report"),
    sa.Column("last_seen", Moment, comment="coarse: written at most every few seconds"),
    sa.Column("agent_version", sa.String(64)),
    sa.Column("drivers", LongText, comment="JSON list"),
    sa.Column("generation", sa.Integer, nullable=False, default=0,
              comment="raised by every change that Placement has to learn"),
    sa.Column("synced_generation", sa.Integer, nullable=False, default=0,
              comment="below generation: the host is dirty"),
    sa.Column("synced_at", Moment),
    sa.Column("sync_attempts", sa.Integer, nullable=False, default=0),
    sa.Column("sync_due_at", Moment, nullable=False, index=True),
    sa.Column("lease_owner", Uuid),
    sa.Column("lease_until", Moment),
    sa.Column("uuid", Uuid, unique=True, index=True, comment="of its agent as a service"),
    sa.Column("status", sa.String(16), nullable=False, default="enabled",
              server_default="enabled", comment="whether an operator lets it take binds"),
    sa.Column("disabled_reason", Name),
    sa.Column("agent_id", sa.String(64), comment="who speaks for the host; one machine"),
    sa.Column("silence_counts_from", Moment,
              comment="before, no conductor could have heard it"),
    sa.Column("gone_at", Moment, comment="known to be gone since; a heartbeat clears it"),
    *_times())

conductors = _table(
    "conductors",
    _key(),
    sa.Column("uuid", Uuid, nullable=False, unique=True, comment="one process, from start to end"),
    sa.Column("host", Name, nullable=False),
    sa.Column("version", sa.String(64)),
    sa.Column("last_seen", Moment, nullable=False, comment="coarse: written every few seconds"),
    sa.Column("stopped_at", Moment,
              comment="ended as told; kept, and shown no more, for when conductors heard last"),
    *_times())

devices = _table(
    "devices",
    _key(),
    sa.Column("uuid", Uuid, nullable=False, unique=True),
    sa.Column("hostname", Name, nullable=False),
    sa.Column("address", Name, nullable=False, comment="identity on the host"),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("vendor", Name, nullable=False),
    sa.Column("model", Name, nullable=False),
    sa.Column("std_board_info", sa.Text),
    sa.Column("vendor_board_info", sa.Text),
    sa.Column("driver", sa.String(64), nullable=False, comment="entry point name"),
    sa.Column("pci_address", sa.String(32)),
    sa.Column("numa_node", sa.Integer),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("status_reason", Name, comment="why an operator disabled it"),
    sa.Column("disabled_at", Moment),
    sa.Column("withheld", sa.Text, comment="why its driver does not offer it now"),
    *_times(),
    *_sorted_by("hostname", "type", "vendor", "status"))

deployables = _table(
    "deployables",
    _key(),
    sa.Column("uuid", Uuid, nullable=False, unique=True),
    sa.Column("device_id", sa.ForeignKey("devices.id", ondelete="CASCADE"), nullable=False,
              index=True),
    sa.Column("name", Name, nullable=False, comment="<host>_<name on the host>"),
    sa.Column("rp_uuid", Uuid, nullable=False, unique=True),
    sa.Column("driver_name", Name),
    sa.Column("bitstream_id", Uuid),
    sa.Column("num_accelerators", sa.Integer, nullable=False),
    sa.Column("prepares", sa.Boolean, nullable=False, comment="host work before use"),
    sa.Column("cleans", sa.Boolean, nullable=False, comment="host work before reuse"),
    sa.Column("synced", LongText,
              comment="JSON object: what Placement has, and what of it is ours"),
    *_times(),
    *_sorted_by("name"))

attributes = _table(
    "attributes",
    _key(),
    sa.Column("uuid", Uuid, nullable=False, unique=True),
    sa.Column("deployable_id", sa.ForeignKey("deployables.id", ondelete="CASCADE"),
              nullable=False),
    sa.Column("key", Name, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("origin", sa.String(16), nullable=False, comment="agent or operator"),
    *_times(),
    *_sorted_by("key"),
    sa.UniqueConstraint("deployable_id", "key"))

attach_handles = _table(
    "attach_handles",
    _key(),
    sa.Column("uuid", Uuid, nullable=False, unique=True),
    sa.Column("deployable_id", sa.ForeignKey("deployables.id", ondelete="CASCADE"),
              nullable=False),
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("info", sa.Text, nullable=False, comment="JSON object, keys sorted"),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("state_reason", sa.Text),
    sa.Column("arq_uuid", Uuid, unique=True, comment="who holds it; the ARQ does not point back"),
    sa.Column("lease_owner", Uuid, comment="the conductor that has it cleaned"),
    sa.Column("lease_until", Moment),
    *_times(),
    sa.Index("ix_attach_handles_deployable_id_state", "deployable_id", "state"),
    sa.Index("ix_attach_handles_state", "state"))

arqs = _table(
    "arqs",
    _key(),
    sa.Column("uuid", Uuid, nullable=False, unique=True),
    sa.Column("project_id", Name, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("state_reason", sa.Text),
    sa.Column("device_profile_id", sa.ForeignKey("device_profiles.id", ondelete="RESTRICT"),
              nullable=False, index=True),
    sa.Column("device_profile_name", Name, nullable=False),
    sa.Column("device_profile_group_id", sa.Integer, nullable=False),
    sa.Column("device_profile_group", sa.Text, nullable=False,
              comment="JSON object: the group as it was when the ARQ was created"),
    sa.Column("instance_uuid", Uuid),
    sa.Column("migration_uuid", Uuid, nullable=False, default="",
              comment="empty for the active set"),
    sa.Column("set_position", sa.Integer, comment="place in the instance's set, from 0"),
    sa.Column("hostname", Name, index=True),
    sa.Column("device_rp_uuid", Uuid, index=True),
    sa.Column("resumes", sa.Boolean, nullable=False, default=False, server_default=sa.false(),
              comment="its BindStarted ends a suspension: the handle stays whatever becomes of it"),
    sa.Column("lease_owner", Uuid, comment="the conductor that finishes the bind"),
    sa.Column("lease_until", Moment),
    *_times(),
    *_sorted_by("state", "device_profile_name"),
    sa.Index("ix_arqs_state_updated_at", "state", "updated_at"),
    # two binds that make a set for one instance at one time both want position 0
    sa.UniqueConstraint("instance_uuid", "migration_uuid", "set_position"))

migrations = _table(
    "migrations",
    _key(),
    sa.Column("instance_uuid", Uuid, nullable=False),
    sa.Column("migration_uuid", Uuid, nullable=False, index=True),
    sa.Column("type", sa.String(16), nullable=False, comment="cold or live"),
    sa.Column("active_side", sa.String(16), nullable=False, comment="source or destination"),
    *_times(),
    sa.UniqueConstraint("instance_uuid", "migration_uuid"))
"""Open migrations. The ARQs of the inactive set carry migration_uuid; it may be empty."""

device_partitions = _table(
    "device_partitions",
    _key(),
    sa.Column("device_uuid", Uuid, nullable=False, unique=True,
              comment="not a foreign key: the wish outlives a device that is away for a while"),
    sa.Column("hostname", Name, nullable=False, index=True),
    sa.Column("address", Name, nullable=False),
    sa.Column("driver", sa.String(64), nullable=False),
    sa.Column("reported", LongText, comment="JSON object: how it is and can be split"),
    sa.Column("reported_key", sa.Text, comment="the layout that is, as a comparable text"),
    sa.Column("wish", LongText, comment="JSON list: the layout that shall be"),
    sa.Column("wished_key", sa.Text, comment="differs from reported_key: nothing is given out"),
    sa.Column("wish_generation", sa.Integer, nullable=False, comment="raised by every wish"),
    sa.Column("wished_by", Name, comment="id of the user"),
    sa.Column("wished_at", Moment),
    sa.Column("answered_generation", sa.Integer, nullable=False,
              comment="the wish that the agent says is done, until a report confirms it"),
    sa.Column("fault", sa.Text),
    sa.Column("fault_generation", sa.Integer, nullable=False, comment="the wish that failed"),
    sa.Column("due_at", Moment, index=True,
              comment="when to ask the agent; the end of the lease while one does"),
    sa.Column("lease_owner", Uuid),
    *_times())

events = _table(
    "events",
    _key(),
    sa.Column("instance_uuid", Uuid, nullable=False),
    sa.Column("arq_uuid", Uuid, nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False, comment="completed or failed"),
    sa.Column("request_id", sa.String(64)),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("due_at", Moment, nullable=False, index=True),
    sa.Column("lease_owner", Uuid),
    sa.Column("created_at", Moment, nullable=False))
"""What Nova has not taken yet. `due_at` is also the end of the lease of who delivers it."""

orphans = _table(
    "orphans",
    _key(),
    sa.Column("uuid", Uuid, nullable=False, unique=True),
    sa.Column("open_key", sa.String(300), unique=True,
              comment="kind and object while it is not settled: one record of each"),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("object", Name, nullable=False, comment="uuid of what it is"),
    sa.Column("host", Name, index=True),
    sa.Column("mark", Name, nullable=False, comment="another one is another sighting"),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", LongText, nullable=False, comment="JSON object of texts"),
    sa.Column("action", Name, nullable=False),
    sa.Column("state", sa.String(16), nullable=False,
              comment="seen, confirmed, cleaned, kept or failed"),
    sa.Column("first_seen", Moment, nullable=False),
    sa.Column("last_seen", Moment, nullable=False),
    sa.Column("acting_at", Moment, comment="when its cleaning began; written before it does"),
    sa.Column("cleaned_at", Moment),
    sa.Column("cleaned_by", Name, comment="which sweep or user"),
    *_times(),
    *_sorted_by("kind", "state"))

sweeps = _table(
    "sweeps",
    _key(),
    sa.Column("uuid", Uuid, nullable=False, unique=True),
    sa.Column("open_key", sa.String(300), unique=True,
              comment="what it looks for while it runs: nobody begins the same beside it"),
    sa.Column("state", sa.String(16), nullable=False, comment="running, done or failed"),
    sa.Column("mode", sa.String(16), nullable=False, comment="clean, record or dry_run"),
    sa.Column("host", Name),
    sa.Column("only_orphan", Uuid, comment="the one that it is about"),
    sa.Column("asked_by", Name, nullable=False),
    sa.Column("started_at", Moment, nullable=False),
    sa.Column("finished_at", Moment),
    sa.Column("counts", LongText, nullable=False, comment="JSON object of numbers"),
    sa.Column("fault", sa.Text, comment="why it failed"),
    *_times(),
    sa.Index("ix_sweeps_state", "state"))

sweep_steps = _table(
    "sweep_steps",
    _key(),
    sa.Column("sweep_id", sa.ForeignKey("sweeps.id", ondelete="CASCADE"), nullable=False),
    sa.Column("host", Name, nullable=False, comment="empty for what is no host's"),
    sa.Column("weight", sa.Integer, nullable=False, comment="ARQs there when it began"),
    sa.Column("done", sa.Boolean, nullable=False),
    sa.Column("lease_owner", Uuid),
    sa.Column("lease_until", Moment),
    sa.UniqueConstraint("sweep_id", "host"))
"""What is left of a sweep: a host is swept by who has its lease. They go when it is over."""

uncleaned_handles = _table(
    "uncleaned_handles",
    _key(),
    sa.Column("hostname", Name, nullable=False),
    sa.Column("handle_uuid", Uuid, nullable=False, unique=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Index("ix_uncleaned_handles_hostname", "hostname"))
"""Handles of hosts that were dropped before they were cleaned: should they come back, they are."""
