# SPDX-License-Identifier: Apache-2.0
"""Whether a host is up, down or gone: the rule, once, as SQL. Who counts the time is `conductor/`.

A host is silent since its last heartbeat, or since conductors could hear again if that is later:
what nobody could hear is not held against it.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import sqlalchemy as sa

from cyborg_lite.db import models

N = models.hosts

UP, DOWN, GONE = STATES = ("up", "down", "gone")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """What was not heard of since `down_before` is down, and since `gone_before` gone."""

    down_before: datetime.datetime = datetime.datetime.min
    gone_before: datetime.datetime = datetime.datetime.min


NOBODY_IS_DOWN = Horizon()


def host_state(horizon: Horizon) -> sa.ColumnElement[str]:
    """The state of a row of hosts; one that is not there, in an outer join, is down."""
    return _state(horizon, N.c.gone_at, N.c.last_seen, N.c.silence_counts_from)


def conductor_state(horizon: Horizon) -> sa.ColumnElement[str]:
    """The state of a row of conductors; it writes to the database itself, so all silence counts.
    """
    return _state(horizon, None, models.conductors.c.last_seen)


def _state(horizon: Horizon, gone_at: sa.Column[Any] | None,
           *heard: sa.Column[Any]) -> sa.ColumnElement[str]:
    marked = [] if gone_at is None else [(gone_at.is_not(None), GONE)]
    return sa.case(
        *marked,
        (heard[0].is_(None), DOWN),
        (sa.or_(*(column >= horizon.down_before for column in heard)), UP),
        (sa.or_(*(column >= horizon.gone_before for column in heard)), DOWN),
        else_=GONE)
