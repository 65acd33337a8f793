# SPDX-License-Identifier: Apache-2.0
"""How messages travel: the two buses, the two clients, the server's dispatcher.

No business decisions here. A reply is always `{"result": ...}` or `{"error": {...}}`: an error is
data, so no class name and no traceback of a peer is ever rebuilt from the wire.

History (each change of a method or a message adds a line and raises the minor number):

1.1  update_device_profile, show_profile_usage, show_device_parts, clean_device; pages of lists;
     a reason for disabling; what a host withholds, in its report; host_intent.
1.0  device profiles, ARQs with bind and unbind, devices, deployables, attributes, heartbeat and
     report to the conductor; prepare and clean to the agent.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import json
import logging
import time
import typing
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import get_type_hints
from typing import Protocol
from typing import TypeVar

from oslo_config import cfg

from cyborg_lite import auth
from cyborg_lite import codec
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.threads import oslo_messaging

LOG = logging.getLogger(__name__)

VERSION = "1.1"
CONDUCTOR_TOPIC = "cyborg_lite.conductor"
AGENT_TOPIC = "cyborg_lite.agent"

ASKED_OF_AGENTS = "1.0"
"""The version that calls to an agent need: agents are upgraded after conductors."""

SERVER_THREADS = 8
"""Calls that one process works on at a time. More threads only fight for the interpreter's lock:
at 16 binds under way, 24 threads took half as much CPU again as 8, and were slower."""

ANSWER_MARGIN_S = 1.0
"""Work must be committed this long before the caller gives up, so that the answer arrives."""

F = TypeVar("F", bound=Callable[..., Any])

# --- buses ------------------------------------------------------------------------------------


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

    def dispatch(self, method: str, context: dict[str, Any], arguments: dict[str, Any]) -> Any:
        """Return `{"result": ...}` or `{"error": ...}`; never raises."""
        with auth.call_context(context), _deadline(context.get("deadline")):
            try:
                function = self._functions[method]
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
    """oslo.messaging, in practice RabbitMQ."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf
        self._transport = oslo_messaging.get_rpc_transport(conf)
        self._clients: dict[str, Any] = {}

    def serve(self, topic: str, server: str, endpoint: object) -> Callable[[], None]:
        """Answer calls to topic and server; returns the function that stops it."""
        target = oslo_messaging.Target(topic=topic, server=server)
        rpc_server = oslo_messaging.get_rpc_server(
            self._transport, target, [_MessagingEndpoint(Dispatcher(endpoint))],
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
        client = self._clients.get(topic)
        if client is None:
            client = self._clients[topic] = oslo_messaging.get_rpc_client(
                self._transport, oslo_messaging.Target(
                    topic=topic, version=ASKED_OF_AGENTS if topic == AGENT_TOPIC else VERSION))
        # at_least_once makes the broker say at once that nobody listens
        options = oslo_messaging.TransportOptions(at_least_once=True)
        prepared = client.prepare(timeout=timeout_s, transport_options=options,
                                  **({"server": server} if server else {}))
        try:
            return prepared.call(context, "dispatch", function=method, arguments=arguments)
        except oslo_messaging.MessagingTimeout as error:
            raise errors.Unavailable(
                f"No answer from {topic} {server or ''} within {timeout_s:g} s") from error
        except oslo_messaging.MessageDeliveryFailure as error:
            raise errors.Unavailable("The message broker does not answer.") from error
        except oslo_messaging.exceptions.MessageUndeliverable as error:
            raise errors.Unavailable(f"Nobody serves {topic} {server or ''}".rstrip()) from error

    def close(self) -> None:
        """Give up the connections to the broker; nothing can be called any more."""
        self._transport.cleanup()


class _MessagingEndpoint:
    target = oslo_messaging.Target(version=VERSION)

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    @oslo_messaging.expose  # type: ignore[untyped-decorator]
    def dispatch(self, context: dict[str, Any], function: str, arguments: dict[str, Any]) -> Any:
        return self._dispatcher.dispatch(function, context, arguments)


def bus_from(conf: cfg.ConfigOpts) -> MessagingBus:
    """Return the bus that `transport_url` names."""
    return MessagingBus(conf)


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


# --- clients ----------------------------------------------------------------------------------


def _remote(function: F) -> F:
    """Make a method, of which only the signature matters, a remote call."""
    hints = get_type_hints(function)
    returns = hints.pop("return", Any)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(self: _Client, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        arguments = {name: codec.encode(value) for name, value in list(bound.arguments.items())[1:]}
        server = arguments.pop("agent_host", None)
        reply = self.send(function.__name__, server, arguments)
        return None if returns is type(None) else codec.decode(returns, reply)

    return typing.cast(F, call)


class _Client:
    topic: str

    def __init__(self, bus: Bus, timeout_s: float) -> None:
        self._bus = bus
        self._timeout_s = timeout_s

    def send(self, method: str, server: str | None, arguments: dict[str, Any]) -> Any:
        """Call and wait; raises the peer's error, or Unavailable."""
        context = auth.current_call()
        context["deadline"] = time.time() + self._timeout_s - ANSWER_MARGIN_S
        reply = self._bus.call(self.topic, server, method, context, arguments, self._timeout_s)
        if "error" in reply:
            raise errors.from_slug(reply["error"]["slug"], reply["error"]["detail"])
        return reply["result"]


class ConductorClient(_Client):
    """What the API and the agents ask of any conductor. Each may raise Unavailable."""

    topic = CONDUCTOR_TOPIC

    @_remote
    def create_device_profile(self, profile: messages.DeviceProfile) -> messages.DeviceProfile:
        """Duplicate when the name or the uuid is taken."""
        raise NotImplementedError

    @_remote
    def list_device_profiles(self, names: list[str] | None,
                             page: messages.Page | None = None) -> list[messages.DeviceProfile]:
        raise NotImplementedError

    @_remote
    def update_device_profile(self, profile: messages.DeviceProfile) -> messages.DeviceProfile:
        """NotFound, ChangedMeanwhile by its generation, InUse for a new name, Duplicate."""
        raise NotImplementedError

    @_remote
    def show_profile_usage(self, profile: messages.DeviceProfile,
                           project_id: str | None) -> list[messages.GroupUsage]:
        """One entry a group; with `project_id` its ARQs alone are counted. NotFound."""
        raise NotImplementedError

    @_remote
    def get_device_profile(self, uuid: str | None, name: str | None) -> messages.DeviceProfile:
        """By either; NotFound."""
        raise NotImplementedError

    @_remote
    def delete_device_profiles(self, uuids: list[str], names: list[str]) -> None:
        """Delete those that can go; InUse or NotFound names the rest."""
        raise NotImplementedError

    @_remote
    def create_arqs(self, device_profile_name: str,
                    project_id: str | None) -> list[messages.Arq]:
        """One ARQ per accelerator of each group, all or none; NotFound."""
        raise NotImplementedError

    @_remote
    def list_arqs(self, query: messages.ArqQuery) -> list[messages.Arq]:
        raise NotImplementedError

    @_remote
    def get_arq(self, uuid: str, project_id: str | None) -> messages.Arq:
        """NotFound, also for another project's when `project_id` is given."""
        raise NotImplementedError

    @_remote
    def bind_arqs(self, requests: list[messages.BindRequest]) -> None:
        """AlreadyHasArqs, NotFound, StateConflict before anything changed; BindFailed after."""
        raise NotImplementedError

    @_remote
    def unbind_arqs(self, uuids: list[str]) -> None:
        """NotFound, StateConflict."""
        raise NotImplementedError

    @_remote
    def delete_arqs(self, uuids: list[str], project_id: str | None,
                    bound_too: bool) -> None:
        """NotFound names the missing ones, after the rest was deleted.

        Without `bound_too`, ServiceTokenMissing when one has an instance; then none is deleted.
        """
        raise NotImplementedError

    @_remote
    def delete_arqs_of_instance(self, instance_uuid: str) -> None:
        """Idempotent."""
        raise NotImplementedError

    @_remote
    def list_devices(self, query: messages.DeviceQuery) -> list[messages.Device]:
        raise NotImplementedError

    @_remote
    def get_device(self, uuid: str) -> messages.Device:
        raise NotImplementedError

    @_remote
    def show_device_parts(self, uuid: str) -> list[messages.DeployablePart]:
        """The deployables of a device, with their handles by state."""
        raise NotImplementedError

    @_remote
    def clean_device(self, uuid: str) -> None:
        """Have the failed handles of a device cleaned again; NotFound."""
        raise NotImplementedError

    @_remote
    def set_device_status(self, uuid: str, status: str, reason: str | None = None) -> None:
        """status: enabled or maintaining. Repeating is harmless; NotFound."""
        raise NotImplementedError

    @_remote
    def list_deployables(self, query: messages.DeployableQuery) -> list[messages.Deployable]:
        raise NotImplementedError

    @_remote
    def get_deployable(self, uuid: str) -> messages.Deployable:
        raise NotImplementedError

    @_remote
    def program_deployable(self, uuid: str, image_uuid: str) -> messages.Deployable:
        """NotProgrammable with the reason."""
        raise NotImplementedError

    @_remote
    def list_attributes(self, deployable_id: int | None, key: str | None,
                        page: messages.Page | None = None) -> list[messages.Attribute]:
        raise NotImplementedError

    @_remote
    def get_attribute(self, uuid: str) -> messages.Attribute:
        raise NotImplementedError

    @_remote
    def create_attribute(self, deployable_id: int, key: str, value: str) -> messages.Attribute:
        """NotFound for the deployable; Duplicate for the key."""
        raise NotImplementedError

    @_remote
    def delete_attribute(self, uuid: str) -> None:
        raise NotImplementedError

    @_remote
    def ping(self) -> None:
        """Answers when the conductor and its database do."""
        raise NotImplementedError

    @_remote
    def heartbeat(self, beat: messages.Heartbeat) -> messages.HeartbeatReply:
        raise NotImplementedError

    @_remote
    def host_intent(self, host: str) -> messages.HostIntent:
        """What should exist on the host now, for an agent that starts."""
        raise NotImplementedError

    @_remote
    def report(self, report: messages.HostReport) -> None:
        """Store what the host has; the Placement sync follows."""
        raise NotImplementedError


class AgentClient(_Client):
    """What a conductor asks of the agent of one host."""

    topic = AGENT_TOPIC

    @_remote
    def prepare(self, agent_host: str,
                tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make the handles attachable; one result a task."""
        raise NotImplementedError

    @_remote
    def clean(self, agent_host: str,
              tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make the handles ready for somebody else; one result a task."""
        raise NotImplementedError
