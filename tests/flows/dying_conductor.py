# SPDX-License-Identifier: Apache-2.0
"""A real conductor that kills itself with SIGKILL at one step of the first bind.

`python -m tests.flows.dying_conductor STEP --config-file FILE`. It looks for no leftovers, so that
its own bind is the first that reaches the step.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from typing import Any

from cyborg_lite import rpc
from cyborg_lite.clients import nova
from cyborg_lite.cmd import services
from cyborg_lite.conductor import service
from cyborg_lite.db import binds

STEPS = {
    "before the reservation": (binds, "start", "before"),
    "after the reservation": (binds, "start", "after"),
    "while the host works": (rpc.AgentClient, "prepare", "before"),
    "after the host's work": (rpc.AgentClient, "prepare", "after"),
    "after Bound": (binds, "finish", "after"),
    "before the event": (nova.Nova, "send_bound", "before"),
    "after the event": (nova.Nova, "send_bound", "after"),
}


def die_at(step: str) -> None:
    """Have this process killed at the step."""
    owner, name, when = STEPS[step]
    function = getattr(owner, name)

    @functools.wraps(function)
    def deadly(*arguments: Any, **named: Any) -> Any:
        if when == "after":
            function(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, deadly)


if __name__ == "__main__":
    service.Timer.start = lambda timer: None  # type: ignore[method-assign]
    die_at(sys.argv.pop(1))
    services.conductor()
