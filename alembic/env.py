# SPDX-License-Identifier: Apache-2.0
"""How alembic reaches the database: by the connection that `cyborg_lite.db.migrate` hands over.

No configuration is read here.
"""

from alembic import context

from cyborg_lite.db import models

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=models.metadata,
    # SQLite changes a table by making it anew
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
