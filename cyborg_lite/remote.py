# SPDX-License-Identifier: Apache-2.0
"""How a method, of which only the signature matters, becomes a call to another process.

Which methods there are is in `rpc.py`; how a call travels in `buses.py`.
"""

from __future__ import annotations

import functools
import inspect
import time
import typing
from collections.abc import Callable
from typing import Any
from typing import get_type_hints
from typing import TypeVar

from cyborg_lite import auth
from cyborg_lite import buses
from cyborg_lite import codec
from cyborg_lite import errors

ANSWER_MARGIN_S = 1.0
"""Work must be committed this long before the caller gives up, so that the answer arrives."""

F = TypeVar("F", bound=Callable[..., Any])


def call(function: F) -> F:
    """Make a method, of which only the signature matters, a remote call."""
    hints = get_type_hints(function)
    returns = hints.pop("return", Any)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(self: Client, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        arguments = {name: codec.encode(value) for name, value in list(bound.arguments.items())[1:]}
        server = arguments.pop("agent_host", None)
        reply = self.send(function.__name__, server, arguments)
        return None if returns is type(None) else codec.decode(returns, reply)

    return typing.cast(F, called)


class Client:
    """What one side may ask of another: methods that are `call`s, over one bus."""

    topic: str

    def __init__(self, bus: buses.Bus, timeout_s: float) -> None:
        self._bus = bus
        self._timeout_s = timeout_s
        self._begun_within_s = timeout_s - ANSWER_MARGIN_S

    def send(self, method: str, server: str | None, arguments: dict[str, Any]) -> Any:
        """Call and wait; raises the peer's error, or Unavailable."""
        context = auth.current_call()
        context["deadline"] = time.time() + self._begun_within_s
        reply = self._bus.call(self.topic, server, method, context, arguments, self._timeout_s)
        if "error" in reply:
            raise errors.from_slug(reply["error"]["slug"], reply["error"]["detail"])
        return reply["result"]
