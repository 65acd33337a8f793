# SPDX-License-Identifier: Apache-2.0
"""Who works on something, and until when: a conductor's time-limited right. No tables here."""

from __future__ import annotations

import dataclasses
import datetime

import sqlalchemy as sa


@dataclasses.dataclass(frozen=True, slots=True)
class Owner:
    """The conductor that acts, and until when others leave its work alone."""

    conductor: str
    lease_until: datetime.datetime


def held(table: sa.Table, lease: Owner) -> sa.ColumnElement[bool]:
    """The condition that a row was not taken by anybody, nor anew, since it got this lease."""
    return sa.and_(table.c.lease_owner == lease.conductor,
                   table.c.lease_until == lease.lease_until)
