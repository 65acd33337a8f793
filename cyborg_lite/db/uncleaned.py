# SPDX-License-Identifier: Apache-2.0
"""Attach handles whose rows went before they were cleaned: should they come back, they are cleaned.

In the caller's transaction. Who lets such rows go is not here.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from cyborg_lite.db import models
from cyborg_lite.db import session

U = models.uncleaned_handles


def note(connection: sa.Connection, hostname: str, handle_uuids: Collection[str]) -> None:
    """Remember handles that go; also those of which that is known already."""
    moment = session.now()
    connection.execute(sa.delete(U).where(U.c.handle_uuid.in_(sorted(handle_uuids))))
    connection.execute(sa.insert(U), [
        {"hostname": hostname, "handle_uuid": one, "created_at": moment}
        for one in sorted(handle_uuids)])


def take(connection: sa.Connection, hostname: str, handle_uuids: Collection[str]) -> set[str]:
    """Return which of these come back, and forget that of them. One statement when none does."""
    noted = set(connection.scalars(
        sa.select(U.c.handle_uuid).where(U.c.hostname == hostname)))
    back = noted.intersection(handle_uuids)
    if back:
        connection.execute(sa.delete(U).where(U.c.handle_uuid.in_(sorted(back))))
    return back
