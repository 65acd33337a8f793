# SPDX-License-Identifier: Apache-2.0
"""The threads of an agent: work that fails is repeated, and a rest ends when told."""

from __future__ import annotations

import queue
import threading

import pytest

from cyborg_lite.agent import rounds

DEADLINE_S = 20.0
LONG_S = 3600.0


def test_work_that_raises_is_told_and_repeated(caplog: pytest.LogCaptureFixture) -> None:
    done: queue.Queue[int] = queue.Queue()
    answers = iter([ValueError("the first is bad"), LONG_S])

    def work() -> float:
        answer = next(answers)
        done.put(1)
        if isinstance(answer, Exception):
            raise answer
        return answer

    thread = rounds.Rounds("own work", work, lambda: 0.001)

    for _ in range(2):
        done.get(timeout=DEADLINE_S)
    thread.end(DEADLINE_S)
    assert [record.getMessage() for record in caplog.records] == [
        "own work failed; it is repeated"]


def test_a_rest_ends_when_woken_and_the_thread_when_told() -> None:
    done: queue.Queue[int] = queue.Queue()

    def work() -> float:
        done.put(1)
        return LONG_S

    thread = rounds.Rounds("own work", work, lambda: LONG_S)
    done.get(timeout=DEADLINE_S)
    thread.wake()
    done.get(timeout=DEADLINE_S)
    thread.end(DEADLINE_S)

    assert "agent-own work" not in {each.name for each in threading.enumerate()}
    assert done.empty()
