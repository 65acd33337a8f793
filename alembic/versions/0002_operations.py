# SPDX-License-Identifier: Apache-2.0
"""Migrations, partitions, services and orphans."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
SERVICES = uuid.UUID("3c07e9ed-c49e-4022-a080-429c2b529f8c")
MYSQL = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Add; nothing of the first release changes its meaning."""
    _instance_operations()
    _partitioning()
    _services()
    _orphans()


def _instance_operations() -> None:
    op.add_column(
        "arqs",
        sa.Column(
            "resumes",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="its BindStarted ends a suspension: the handle stays whatever becomes of it",
        ),
    )
    op.create_table(
        "migrations",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("instance_uuid", sa.String(length=36), nullable=False),
        sa.Column("migration_uuid", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False, comment="cold or live"),
        sa.Column(
            "active_side", sa.String(length=16), nullable=False, comment="source or destination"
        ),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_migrations")),
        sa.UniqueConstraint(
            "instance_uuid",
            "migration_uuid",
            name=op.f("uq_migrations_instance_uuid_migration_uuid"),
        ),
        **MYSQL,
    )
    op.create_index(op.f("ix_migrations_migration_uuid"), "migrations", ["migration_uuid"])


def _services() -> None:
    for column in (
        sa.Column("uuid", sa.String(length=36), comment="of its agent as a service"),
        sa.Column(
            "status",
            sa.String(length=16),
            nullable=False,
            server_default="enabled",
            comment="whether an operator lets it take binds",
        ),
        sa.Column("disabled_reason", sa.String(length=255)),
        sa.Column("agent_id", sa.String(length=64), comment="who speaks for the host; one machine"),
        sa.Column(
            "silence_counts_from", MOMENT, comment="before, no conductor could have heard it"
        ),
        sa.Column("gone_at", MOMENT, comment="known to be gone since; a heartbeat clears it"),
    ):
        op.add_column("hosts", column)
    hosts = sa.table("hosts", sa.column("id"), sa.column("name"), sa.column("uuid"))
    connection = op.get_bind()
    for host in connection.execute(sa.select(hosts.c.id, hosts.c.name)).all():
        connection.execute(
            sa.update(hosts).where(hosts.c.id == host.id).values(uuid=_service_uuid(host.name))
        )
    op.create_index(op.f("ix_hosts_uuid"), "hosts", ["uuid"], unique=True)
    op.create_table(
        "conductors",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column(
            "uuid",
            sa.String(length=36),
            nullable=False,
            comment="one process, from start to end",
        ),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=64)),
        sa.Column(
            "last_seen", MOMENT, nullable=False, comment="coarse: written every few seconds"
        ),
        sa.Column(
            "stopped_at",
            MOMENT,
            comment="ended as told; kept, and shown no more, for when conductors heard last",
        ),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conductors")),
        sa.UniqueConstraint("uuid", name=op.f("uq_conductors_uuid")),
        **MYSQL,
    )


def _service_uuid(host: str) -> str:
    """As conductors make it for a host that is new to them."""
    return str(uuid.uuid5(SERVICES, f"cyborg-lite-agent {host}"))


def _partitioning() -> None:
    op.create_table(
        "device_partitions",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column(
            "device_uuid",
            sa.String(length=36),
            nullable=False,
            comment="not a foreign key: the wish outlives a device that is away for a while",
        ),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("address", sa.String(length=255), nullable=False),
        sa.Column("driver", sa.String(length=64), nullable=False),
        sa.Column("reported", LONG_TEXT, comment="JSON object: how it is and can be split"),
        sa.Column("reported_key", sa.Text(), comment="the layout that is, as a comparable text"),
        sa.Column("wish", LONG_TEXT, comment="JSON list: the layout that shall be"),
        sa.Column(
            "wished_key", sa.Text(), comment="differs from reported_key: nothing is given out"
        ),
        sa.Column(
            "wish_generation", sa.Integer(), nullable=False, comment="raised by every wish"
        ),
        sa.Column("wished_by", sa.String(length=255), comment="id of the user"),
        sa.Column("wished_at", MOMENT),
        sa.Column(
            "answered_generation",
            sa.Integer(),
            nullable=False,
            comment="the wish that the agent says is done, until a report confirms it",
        ),
        sa.Column("fault", sa.Text()),
        sa.Column(
            "fault_generation", sa.Integer(), nullable=False, comment="the wish that failed"
        ),
        sa.Column(
            "due_at",
            MOMENT,
            comment="when to ask the agent; the end of the lease while one does",
        ),
        sa.Column("lease_owner", sa.String(length=36)),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_partitions")),
        sa.UniqueConstraint("device_uuid", name=op.f("uq_device_partitions_device_uuid")),
        **MYSQL,
    )
    for column in ("hostname", "due_at"):
        op.create_index(
            op.f(f"ix_device_partitions_{column}"), "device_partitions", [column]
        )


def _orphans() -> None:
    op.create_table(
        "orphans",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column(
            "open_key",
            sa.String(length=300),
            comment="kind and object while it is not settled: one record of each",
        ),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("object", sa.String(length=255), nullable=False, comment="uuid of what it is"),
        sa.Column("host", sa.String(length=255)),
        sa.Column(
            "mark",
            sa.String(length=255),
            nullable=False,
            comment="another one is another sighting",
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", LONG_TEXT, nullable=False, comment="JSON object of texts"),
        sa.Column("action", sa.String(length=255), nullable=False),
        sa.Column(
            "state",
            sa.String(length=16),
            nullable=False,
            comment="seen, confirmed, cleaned, kept or failed",
        ),
        sa.Column("first_seen", MOMENT, nullable=False),
        sa.Column("last_seen", MOMENT, nullable=False),
        sa.Column(
            "acting_at", MOMENT, comment="when its cleaning began; written before it does"
        ),
        sa.Column("cleaned_at", MOMENT),
        sa.Column("cleaned_by", sa.String(length=255), comment="which sweep or user"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orphans")),
        sa.UniqueConstraint("uuid", name=op.f("uq_orphans_uuid")),
        sa.UniqueConstraint("open_key", name=op.f("uq_orphans_open_key")),
        **MYSQL,
    )
    op.create_index(op.f("ix_orphans_host"), "orphans", ["host"])
    for column in ("kind", "state"):
        op.create_index(op.f(f"ix_orphans_{column}_id"), "orphans", [column, "id"])
    op.create_table(
        "sweeps",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column(
            "open_key",
            sa.String(length=300),
            comment="what it looks for while it runs: nobody begins the same beside it",
        ),
        sa.Column(
            "state", sa.String(length=16), nullable=False, comment="running, done or failed"
        ),
        sa.Column(
            "mode", sa.String(length=16), nullable=False, comment="clean, record or dry_run"
        ),
        sa.Column("host", sa.String(length=255)),
        sa.Column("only_orphan", sa.String(length=36), comment="the one that it is about"),
        sa.Column("asked_by", sa.String(length=255), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT),
        sa.Column("counts", LONG_TEXT, nullable=False, comment="JSON object of numbers"),
        sa.Column("fault", sa.Text(), comment="why it failed"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
        sa.UniqueConstraint("uuid", name=op.f("uq_sweeps_uuid")),
        sa.UniqueConstraint("open_key", name=op.f("uq_sweeps_open_key")),
        **MYSQL,
    )
    op.create_index(op.f("ix_sweeps_state"), "sweeps", ["state"])
    op.create_table(
        "sweep_steps",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("sweep_id", sa.Integer(), nullable=False),
        sa.Column(
            "host",
            sa.String(length=255),
            nullable=False,
            comment="empty for what is no host's",
        ),
        sa.Column(
            "weight", sa.Integer(), nullable=False, comment="ARQs there when it began"
        ),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("lease_owner", sa.String(length=36)),
        sa.Column("lease_until", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweep_steps")),
        sa.ForeignKeyConstraint(
            ["sweep_id"],
            ["sweeps.id"],
            name=op.f("fk_sweep_steps_sweep_id"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("sweep_id", "host", name=op.f("uq_sweep_steps_sweep_id_host")),
        **MYSQL,
    )
    op.create_table(
        "uncleaned_handles",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("handle_uuid", sa.String(length=36), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uncleaned_handles")),
        sa.UniqueConstraint("handle_uuid", name=op.f("uq_uncleaned_handles_handle_uuid")),
        **MYSQL,
    )
    op.create_index(
        op.f("ix_uncleaned_handles_hostname"), "uncleaned_handles", ["hostname"]
    )
