# SPDX-License-Identifier: Apache-2.0
"""Make the tables of the first release.

Later revisions only add; this one never changes once released.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "device_profiles",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("groups", LONG_TEXT, nullable=False, comment="JSON list"),
        sa.Column("generation", sa.Integer(), nullable=False, comment="raised by every update"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_profiles")),
        sa.UniqueConstraint("name", name=op.f("uq_device_profiles_name")),
        sa.UniqueConstraint("uuid", name=op.f("uq_device_profiles_uuid")),
        **MYSQL,
    )
    op.create_table(
        "devices",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("address", sa.String(length=255), nullable=False, comment="identity on the host"),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("vendor", sa.String(length=255), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("std_board_info", sa.Text()),
        sa.Column("vendor_board_info", sa.Text()),
        sa.Column("driver", sa.String(length=64), nullable=False, comment="entry point name"),
        sa.Column("pci_address", sa.String(length=32)),
        sa.Column("numa_node", sa.Integer()),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("status_reason", sa.String(length=255),
                  comment="why an operator disabled it"),
        sa.Column("disabled_at", MOMENT),
        sa.Column("withheld", sa.Text(), comment="why its driver does not offer it now"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("uuid", name=op.f("uq_devices_uuid")),
        **MYSQL,
    )
    op.create_index(op.f("ix_devices_hostname_id"), "devices", ["hostname", "id"])
    op.create_index(op.f("ix_devices_type_id"), "devices", ["type", "id"])
    op.create_index(op.f("ix_devices_vendor_id"), "devices", ["vendor", "id"])
    op.create_index(op.f("ix_devices_status_id"), "devices", ["status", "id"])
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("instance_uuid", sa.String(length=36), nullable=False),
        sa.Column("arq_uuid", sa.String(length=36), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False, comment="completed or failed"),
        sa.Column("request_id", sa.String(length=64)),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("lease_owner", sa.String(length=36)),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        **MYSQL,
    )
    op.create_index(op.f("ix_events_arq_uuid"), "events", ["arq_uuid"])
    op.create_index(op.f("ix_events_due_at"), "events", ["due_at"])
    op.create_table(
        "hosts",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column(
            "resource_provider_name",
            sa.String(length=255),
            nullable=False,
            comment="of the compute node in Placement",
        ),
        sa.Column("digest", sa.String(length=64), comment="of the last stored report"),
        sa.Column("last_seen", MOMENT, comment="coarse: written at most every few seconds"),
        sa.Column("agent_version", sa.String(length=64)),
        sa.Column("drivers", LONG_TEXT, comment="JSON list"),
        sa.Column(
            "generation",
            sa.Integer(),
            nullable=False,
            comment="raised by every change that Placement has to learn",
        ),
        sa.Column(
            "synced_generation",
            sa.Integer(),
            nullable=False,
            comment="below generation: the host is dirty",
        ),
        sa.Column("synced_at", MOMENT),
        sa.Column("sync_attempts", sa.Integer(), nullable=False),
        sa.Column("sync_due_at", MOMENT, nullable=False),
        sa.Column("lease_owner", sa.String(length=36)),
        sa.Column("lease_until", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hosts")),
        sa.UniqueConstraint("name", name=op.f("uq_hosts_name")),
        **MYSQL,
    )
    op.create_index(op.f("ix_hosts_sync_due_at"), "hosts", ["sync_due_at"])
    op.create_table(
        "arqs",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255)),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_reason", sa.Text()),
        sa.Column("device_profile_id", sa.Integer(), nullable=False),
        sa.Column("device_profile_name", sa.String(length=255), nullable=False),
        sa.Column("device_profile_group_id", sa.Integer(), nullable=False),
        sa.Column(
            "device_profile_group",
            sa.Text(),
            nullable=False,
            comment="JSON object: the group as it was when the ARQ was created",
        ),
        sa.Column("instance_uuid", sa.String(length=36)),
        sa.Column(
            "migration_uuid",
            sa.String(length=36),
            nullable=False,
            comment="empty for the active set",
        ),
        sa.Column("set_position", sa.Integer(), comment="place in the instance's set, from 0"),
        sa.Column("hostname", sa.String(length=255)),
        sa.Column("device_rp_uuid", sa.String(length=36)),
        sa.Column(
            "lease_owner", sa.String(length=36), comment="the conductor that finishes the bind"
        ),
        sa.Column("lease_until", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.ForeignKeyConstraint(
            ["device_profile_id"],
            ["device_profiles.id"],
            name=op.f("fk_arqs_device_profile_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_arqs")),
        sa.UniqueConstraint(
            "instance_uuid",
            "migration_uuid",
            "set_position",
            name=op.f("uq_arqs_instance_uuid_migration_uuid_set_position"),
        ),
        sa.UniqueConstraint("uuid", name=op.f("uq_arqs_uuid")),
        **MYSQL,
    )
    op.create_index(op.f("ix_arqs_state_id"), "arqs", ["state", "id"])
    op.create_index(op.f("ix_arqs_device_profile_name_id"), "arqs",
                    ["device_profile_name", "id"])
    op.create_index(op.f("ix_arqs_device_profile_id"), "arqs", ["device_profile_id"])
    op.create_index(op.f("ix_arqs_device_rp_uuid"), "arqs", ["device_rp_uuid"])
    op.create_index(op.f("ix_arqs_hostname"), "arqs", ["hostname"])
    op.create_index(op.f("ix_arqs_project_id"), "arqs", ["project_id"])
    op.create_index("ix_arqs_state_updated_at", "arqs", ["state", "updated_at"])
    op.create_table(
        "deployables",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column(
            "name", sa.String(length=255), nullable=False, comment="<host>_<name on the host>"
        ),
        sa.Column("rp_uuid", sa.String(length=36), nullable=False),
        sa.Column("driver_name", sa.String(length=255)),
        sa.Column("bitstream_id", sa.String(length=36)),
        sa.Column("num_accelerators", sa.Integer(), nullable=False),
        sa.Column("prepares", sa.Boolean(), nullable=False, comment="host work before use"),
        sa.Column("cleans", sa.Boolean(), nullable=False, comment="host work before reuse"),
        sa.Column(
            "synced", LONG_TEXT, comment="JSON object: what Placement has, and what of it is ours"
        ),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_deployables_device_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployables")),
        sa.UniqueConstraint("rp_uuid", name=op.f("uq_deployables_rp_uuid")),
        sa.UniqueConstraint("uuid", name=op.f("uq_deployables_uuid")),
        **MYSQL,
    )
    op.create_index(op.f("ix_deployables_device_id"), "deployables", ["device_id"])
    op.create_index(op.f("ix_deployables_name_id"), "deployables", ["name", "id"])
    op.create_table(
        "attach_handles",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("deployable_id", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("info", sa.Text(), nullable=False, comment="JSON object, keys sorted"),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_reason", sa.Text()),
        sa.Column(
            "arq_uuid", sa.String(length=36), comment="who holds it; the ARQ does not point back"
        ),
        sa.Column("lease_owner", sa.String(length=36), comment="the conductor that has it cleaned"),
        sa.Column("lease_until", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.ForeignKeyConstraint(
            ["deployable_id"],
            ["deployables.id"],
            name=op.f("fk_attach_handles_deployable_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attach_handles")),
        sa.UniqueConstraint("arq_uuid", name=op.f("uq_attach_handles_arq_uuid")),
        sa.UniqueConstraint("uuid", name=op.f("uq_attach_handles_uuid")),
        **MYSQL,
    )
    op.create_index(
        "ix_attach_handles_deployable_id_state", "attach_handles", ["deployable_id", "state"]
    )
    op.create_index("ix_attach_handles_state", "attach_handles", ["state"])
    op.create_table(
        "attributes",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("deployable_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False, comment="agent or operator"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT),
        sa.ForeignKeyConstraint(
            ["deployable_id"],
            ["deployables.id"],
            name=op.f("fk_attributes_deployable_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attributes")),
        sa.UniqueConstraint("deployable_id", "key", name=op.f("uq_attributes_deployable_id_key")),
        sa.UniqueConstraint("uuid", name=op.f("uq_attributes_uuid")),
        **MYSQL,
    )
    op.create_index(op.f("ix_attributes_key_id"), "attributes", ["key", "id"])
