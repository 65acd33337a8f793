# SPDX-License-Identifier: Apache-2.0
"""The table of states: complete, closed, with a way out of every state."""

from __future__ import annotations

import itertools

import pytest

from cyborg_lite import states

TABLES = [(states.ARQ_MOVES, states.ARQ_STATES, states.INITIAL),
          (states.HANDLE_MOVES, states.HANDLE_STATES, states.FREE)]


@pytest.mark.parametrize(("moves", "known", "first"), TABLES)
def test_moves_name_states_that_exist(moves, known, first) -> None:  # type: ignore[no-untyped-def]
    for move in moves.values():
        assert move.sources <= set(known)
        assert move.target in (*known, states.GONE)


@pytest.mark.parametrize(("moves", "known", "first"), TABLES)
def test_each_state_is_reached_and_has_a_way_out(moves, known, first) -> None:  # type: ignore[no-untyped-def]
    reached = {first}
    for _ in known:
        reached |= {move.target for move in moves.values() if move.sources & reached}

    assert set(known) <= reached
    for state in known:
        assert any(state in move.sources for move in moves.values())


def test_each_handle_event_that_an_arq_event_names_exists() -> None:
    for move in states.ARQ_MOVES.values():
        assert move.handle is None or states.handle_move(move.handle)


@pytest.mark.parametrize(("event", "state"), list(itertools.product(
    states.ARQ_MOVES, states.ARQ_STATES)))
def test_each_pair_of_event_and_state_is_decided(event: str, state: str) -> None:
    allowed = {
        "bind": {"Initial", "Unbound", "BindFailed"}, "bound": {"BindStarted"},
        "fail_bind": {"Initial", "Unbound", "BindFailed", "BindStarted"},
        "suspend": {"Bound"}, "resume": {"Suspended"}, "fail_resume": {"BindStarted"},
        "unbind": {"Bound", "Suspended", "BindStarted", "BindFailed"},
        "delete": set(states.ARQ_STATES)}

    assert states.allows(states.arq_move(event), state) == (state in allowed[event])


def test_nobody_gets_a_handle_that_needs_cleaning_or_failed() -> None:
    assert states.handle_move("reserve").sources == {states.FREE}
    assert states.FAILED not in states.handle_move("cleaned").sources
