# SPDX-License-Identifier: Apache-2.0
"""Migrations, partitions, services and orphans."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
MYSQL = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Add; nothing of the first release changes its meaning."""
    _instance_operations()


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
