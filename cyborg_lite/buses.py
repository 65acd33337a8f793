# SPDX-License-Identifier: Apache-2.0
"""How calls travel: the two buses, the dispatcher of a server, and deadlines.

No business decisions here, no method by name. A reply is always `{"result": ...}` or
`{"error": {...}}`: an error is data, so no class name and no traceback of a peer is ever rebuilt
from the wire.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import json
import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import get_type_hints
from typing import Protocol
from typing import TypeVar

from oslo_config import cfg

from cyborg_lite import auth
from cyborg_lite import codec
from cyborg_lite import errors
from cyborg_lite import metrics
from cyborg_lite.threads import oslo_messaging

LOG = logging.getLogger(__name__)

SERVER_THREADS = 8
"""Calls that one process works on at a time. More threads only fight for the interpreter's lock:
at 16 binds under way, 24 threads took half as much CPU again as 8, and were slower."""

F = TypeVar("F", bound=Callable[..., Any])



class Bus(Protocol):
    """Carries one call to a server of `topic`, the one named `server` if given."""

    def call(self, topic: str, server: str | None, method: str, context: dict[str, Any],
             arguments: dict[str, Any], timeout_s: float) -> Any: ...


class Dispatcher:
    """Runs the exposed functions of one endpoint: decodes, checks the deadline, encodes."""

    def __init__(self, endpoint: object) -> None:
        self._functions = {
            name: function for name, function in inspect.getmembers(endpoint, callable)
            if getattr(function, "exposed", False)
        }
        self._hints = {name: get_type_hints(function)
                       for name, function in self._functions.items()}
        for name in self._functions:
            # so that the first is seen as a step from 0
            metrics.RPC_ERRORS.labels(name, errors.Error.slug)

    def dispatch(self, method: str, context: dict[str, Any], arguments: dict[str, Any]) -> Any:
        """Return `{"result": ...}` or `{"error": ...}`; never raises."""
        known = method if method in self._functions else metrics.OTHER
        with metrics.RPC_SECONDS.labels(known).time():
            reply = self._run(method, context, arguments)
        if "error" in reply:
            metrics.RPC_ERRORS.labels(known, reply["error"]["slug"]).inc()
        return reply

    def _run(self, method: str, context: dict[str, Any],
             arguments: dict[str, Any]) -> dict[str, Any]:
        with auth.call_context(context), _deadline(context.get("deadline")):
            try:
                function = self._functions.get(method)
                if function is None:
                    raise errors.TooOld(f"This service is too old to know {method}; upgrade it.")
                hints = self._hints[method]
                check_deadline()
                result = function(**{name: codec.decode(hints[name], value)
                                     for name, value in arguments.items() if name in hints})
                return {"result": codec.encode(result)}
            except errors.Error as error:
                return {"error": {"slug": error.slug, "detail": error.detail}}
            except Exception:
                LOG.exception("RPC %s failed", method)
                return {"error": {"slug": errors.Error.slug, "detail":
                                  "An unexpected error; the service's log has the details."}}


def exposed(function: F) -> F:
    """Mark a method of an endpoint as callable by RPC."""
    function.exposed = True  # type: ignore[attr-defined]
    return function


class LocalBus:
    """All services in one process: a call is a function call, its payload still travels as JSON."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, str | None], Dispatcher] = {}

    def serve(self, topic: str, server: str, endpoint: object) -> Callable[[], None]:
        """Answer calls to topic and server; returns the function that stops it."""
        dispatcher = Dispatcher(endpoint)
        self._servers[topic, server] = dispatcher
        self._servers.setdefault((topic, None), dispatcher)

        def stop() -> None:
            self._servers = {key: value for key, value in self._servers.items()
                             if value is not dispatcher}
        return stop

    def call(self, topic: str, server: str | None, method: str, context: dict[str, Any],
             arguments: dict[str, Any], timeout_s: float) -> Any:
        dispatcher = self._servers.get((topic, server))
        if dispatcher is None:
            raise errors.Unavailable(f"Nobody serves {topic} {server or ''}".rstrip())
        wire = json.dumps([context, arguments])
        reply = json.dumps(dispatcher.dispatch(method, *json.loads(wire)))
        return json.loads(reply)


class MessagingBus:
    """oslo.messaging, in practice RabbitMQ.

    version: what servers offer and callers ask for; asked: by topic, where callers ask for less.
    """

    def __init__(self, conf: cfg.ConfigOpts, version: str,
                 asked: Mapping[str, str] | None = None) -> None:
        self._conf = conf
        self._version = version
        self._asked = asked or {}
        self._transport = oslo_messaging.get_rpc_transport(conf)
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._opener: threading.Thread | None = None
        self._is_open = threading.Event()

    def serve(self, topic: str, server: str, endpoint: object) -> Callable[[], None]:
        """Answer calls to topic and server; returns the function that stops it."""
        target = oslo_messaging.Target(topic=topic, server=server)
        rpc_server = oslo_messaging.get_rpc_server(
            self._transport, target, [_MessagingEndpoint(Dispatcher(endpoint), self._version)],
            access_policy=oslo_messaging.ExplicitRPCAccessPolicy)
        # the server has registered the option by now; what an operator has set stays
        self._conf.set_default("executor_thread_pool_size", SERVER_THREADS)
        rpc_server.start()

        def stop() -> None:
            rpc_server.stop()
            rpc_server.wait()
        return stop

    def call(self, topic: str, server: str | None, method: str, context: dict[str, Any],
             arguments: dict[str, Any], timeout_s: float) -> Any:
        self._wait_until_open(timeout_s)
        client = self._clients.get(topic)
        if client is None:
            client = self._clients[topic] = oslo_messaging.get_rpc_client(
                self._transport, oslo_messaging.Target(
                    topic=topic, version=self._asked.get(topic, self._version)))
        # at_least_once makes the broker say at once that nobody listens
        options = oslo_messaging.TransportOptions(at_least_once=True)
        prepared = client.prepare(timeout=timeout_s, transport_options=options,
                                  retry=_reconnections(timeout_s / 2),
                                  **({"server": server} if server else {}))
        try:
            return prepared.call(context, "dispatch", function=method, arguments=arguments)
        except oslo_messaging.MessagingTimeout as error:
            raise errors.Unavailable(
                f"{topic}{f' on {server}' if server else ''} gave no answer within "
                f"{timeout_s:g} s; look whether it runs and is not overloaded.") from error
        except oslo_messaging.MessageDeliveryFailure as error:
            raise errors.Unavailable("The message broker does not answer.") from error
        except oslo_messaging.exceptions.MessageUndeliverable as error:
            raise errors.Unavailable(
                f"Nobody serves {topic}{f' on {server}' if server else ''}; look whether it runs "
                "and reaches the message broker.") from error

    def _wait_until_open(self, timeout_s: float) -> None:
        """Wait for the queue of the answers, for which the library would wait without end."""
        if self._is_open.is_set():
            return
        with self._lock:
            opener = self._opener
            if opener is None or not opener.is_alive():
                opener = self._opener = threading.Thread(
                    target=self._open, name="open-bus", daemon=True)
                opener.start()
        opener.join(timeout_s / 2)
        if opener.is_alive():
            raise errors.Unavailable("The message broker does not answer.")
        if not self._is_open.is_set():
            raise errors.Unavailable("The message broker refuses a connection; the service's log "
                                     "has the reason.")

    def _open(self) -> None:
        make_queue = getattr(self._transport._driver, "_get_reply_q", None)
        try:
            if make_queue is not None:
                make_queue()
        except (AttributeError, TypeError) as error:
            # not the library that we know: it makes the queue itself at the call
            LOG.debug("no queue for answers: %s", error)
        except Exception as error:
            LOG.error("the message broker refuses a connection: %s", error)
            return
        self._is_open.set()

    def close(self) -> None:
        """Give up the connections to the broker; nothing can be called any more."""
        self._transport.cleanup()


def _reconnections(within_s: float) -> int:
    """Return how often to reach for a broker again: the nth time comes 2n seconds later."""
    number = 0
    while (number + 1) * (number + 2) <= within_s:
        number += 1
    return number


class _MessagingEndpoint:
    def __init__(self, dispatcher: Dispatcher, version: str) -> None:
        self.target = oslo_messaging.Target(version=version)
        self._dispatcher = dispatcher

    @oslo_messaging.expose  # type: ignore[untyped-decorator]
    def dispatch(self, context: dict[str, Any], function: str, arguments: dict[str, Any]) -> Any:
        return self._dispatcher.dispatch(function, context, arguments)


# --- deadlines --------------------------------------------------------------------------------

_DEADLINE: contextvars.ContextVar[float | None] = contextvars.ContextVar("deadline", default=None)


@contextlib.contextmanager
def _deadline(moment: float | None) -> Iterator[None]:
    token = _DEADLINE.set(moment)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def check_deadline() -> None:
    """Raise DeadlinePassed when the caller has been told by now that its call failed.

    Called when a call arrives and again before its transaction commits.
    """
    moment = _DEADLINE.get()
    if moment is not None and time.time() > moment:
        raise errors.DeadlinePassed()
