# SPDX-License-Identifier: Apache-2.0
"""The states of ARQs and attach handles, and the one table that says how they move.

No database here, no logging: `db/` applies a row of the table as a compare-and-swap.
"""

from __future__ import annotations

import dataclasses

# --- ARQ states -------------------------------------------------------------------------------

INITIAL = "Initial"
"""Created, bound to nothing."""

BIND_STARTED = "BindStarted"
"""Host, provider and instance are known and a handle is reserved; host work may be under way."""

BOUND = "Bound"
"""Usable: the handle is the instance's own."""

SUSPENDED = "Suspended"
"""The instance is suspended: the handle stays its own, the host side of it is taken down."""

BIND_FAILED = "BindFailed"
"""The bind could not be done; `state_reason` says why. It holds no handle."""

UNBOUND = "Unbound"
"""Was bound once and gave its handle back."""

ARQ_STATES = (INITIAL, BIND_STARTED, BOUND, SUSPENDED, BIND_FAILED, UNBOUND)

RESOLVED_STATES = frozenset({BOUND, SUSPENDED, BIND_FAILED})
"""Nova waits until an ARQ is in one of these."""

GONE = "gone"
"""Not a state: the row is deleted."""

# --- attach handle states ---------------------------------------------------------------------

FREE = "free"
"""Nobody's; may be given out."""

RESERVED = "reserved"
"""Belongs to an ARQ in BindStarted."""

IN_USE = "in_use"
"""Belongs to an ARQ that is Bound, or Suspended, or on its way from there to Bound."""

CLEANING = "cleaning"
"""Given back; the agent has to clean it before anybody gets it."""

FAILED = "failed"
"""The clean step failed: never handed out until an operator had it cleaned."""

MISSING = "missing"
"""The host reports it no more while an ARQ holds it: kept and shown."""

HANDLE_STATES = (FREE, RESERVED, IN_USE, CLEANING, FAILED, MISSING)

HELD_STATES = frozenset({RESERVED, IN_USE, MISSING})
"""States in which an ARQ may hold the handle."""


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """One row: `event` takes an object in one of `sources` to `target`.

    `handle` names the event that the ARQ's handle goes through in the same transaction.
    """

    event: str
    sources: frozenset[str]
    target: str
    handle: str | None = None


def _table(*moves: Move) -> dict[str, Move]:
    return {move.event: move for move in moves}


ARQ_MOVES = _table(
    Move("bind", frozenset({INITIAL, UNBOUND, BIND_FAILED}), BIND_STARTED, handle="reserve"),
    Move("bound", frozenset({BIND_STARTED}), BOUND, handle="use"),
    Move("fail_bind", frozenset({INITIAL, UNBOUND, BIND_FAILED, BIND_STARTED}), BIND_FAILED,
         handle="release"),
    Move("suspend", frozenset({BOUND}), SUSPENDED),
    Move("resume", frozenset({SUSPENDED}), BIND_STARTED),
    Move("fail_resume", frozenset({BIND_STARTED}), SUSPENDED),
    Move("unbind", frozenset({BOUND, SUSPENDED, BIND_STARTED, BIND_FAILED}), UNBOUND,
         handle="release"),
    Move("delete", frozenset(ARQ_STATES), GONE, handle="release"),
)

HANDLE_MOVES = _table(
    Move("reserve", frozenset({FREE}), RESERVED),
    Move("use", frozenset({RESERVED}), IN_USE),
    Move("release", frozenset({RESERVED, IN_USE, MISSING}), CLEANING),
    Move("forget", frozenset({MISSING, CLEANING}), GONE),
    Move("give_back", frozenset({RESERVED, IN_USE}), FREE),
    Move("cleaned", frozenset({CLEANING}), FREE),
    Move("fail_clean", frozenset({CLEANING}), FAILED),
    Move("retry_clean", frozenset({FAILED}), CLEANING),
    Move("lose", frozenset({RESERVED, IN_USE}), MISSING),
    Move("find", frozenset({MISSING}), IN_USE),
    Move("find_reserved", frozenset({MISSING}), RESERVED),
)


def arq_move(event: str) -> Move:
    """Return the row of an ARQ event; KeyError for an event that does not exist."""
    return ARQ_MOVES[event]


def handle_move(event: str) -> Move:
    """Return the row of a handle event; KeyError for an event that does not exist."""
    return HANDLE_MOVES[event]


def allows(move: Move, state: str) -> bool:
    """Say whether an object in `state` may take this move."""
    return state in move.sources
