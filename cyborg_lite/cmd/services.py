# SPDX-License-Identifier: Apache-2.0
"""The programs that serve: api, conductor, agent, standalone. Start and stop, nothing else."""

from __future__ import annotations

import logging
import os
import pathlib
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from oslo_config import cfg

from cyborg_lite import buses
from cyborg_lite import config
from cyborg_lite import config_check
from cyborg_lite import metrics
from cyborg_lite import rpc
from cyborg_lite.cmd import agents
from cyborg_lite.cmd import measured
from cyborg_lite.cmd import process
from cyborg_lite.threads import oslo_messaging

if TYPE_CHECKING:
    from cyborg_lite.conductor import service

LOG = logging.getLogger(__name__)

# What one program needs is imported where that program is built: an agent then holds neither
# SQLAlchemy nor pecan in memory.


def api() -> None:
    """cyborg-lite-api: the REST API on a threaded server."""
    process.main(process.Program(name="cyborg-lite-api", build=_build_api))


def conductor() -> None:
    """cyborg-lite-conductor: RPC server, owner of the database and of the Placement sync."""
    process.main(process.Program(name="cyborg-lite-conductor", build=_build_conductor))


def agent() -> None:
    """cyborg-lite-agent: the drivers of one compute host; with --check its pre-flight."""
    program = process.Program(name=agents.PROGRAM, build=_build_agent, cli_options=agents.OPTIONS)
    # argparse takes the beginning of an option for the whole of it
    if any(word in ("--check", "--chec", "--che", "--ch") for word in sys.argv[1:]):
        sys.exit(agents.check_host(program, sys.argv[1:]))
    process.main(program)


def standalone() -> None:
    """cyborg-lite-standalone: all of them in one process."""
    process.main(process.Program(
        name="cyborg-lite-standalone", build=_build_standalone, cli_options=STANDALONE_OPTIONS,
        set_defaults=_standalone_defaults))


# --- api --------------------------------------------------------------------------------------


class Api:
    """The REST API of one process, on a socket that it may share with others."""

    def __init__(self, conf: cfg.ConfigOpts, listener: socket.socket, bus: buses.Bus) -> None:
        from cyborg_lite.api import app
        from cyborg_lite.api import faults
        from cyborg_lite.wsgi import server

        application = app.make_app(conf, rpc.ConductorClient(bus, conf.api.rpc_timeout))
        self._server = server.Server(listener, application, conf.api.api_threads, faults.refused)

    def collectors(self) -> list[measured.Collector]:
        return []

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def reload(self) -> None:
        """What is mutable is read at each request."""


def _build_api(conf: cfg.ConfigOpts) -> tuple[Callable[[], process.Service], int]:
    listener = _listen(conf)
    return measured.each(conf, [metrics.API], "api_port", conf.api.api_workers,
                         lambda: Api(conf, listener, _bus(conf)))


def _listen(conf: cfg.ConfigOpts) -> socket.socket:
    from cyborg_lite.api import authentication
    from cyborg_lite.wsgi import server

    authentication.refuse_exposed_noauth(conf)
    try:
        return server.listen(conf.api.host_ip, conf.api.port)
    except OSError as error:
        raise process.CannotStart(
            f"[api] host_ip = {conf.api.host_ip}, port = {conf.api.port}: cannot listen there: "
            f"{error.strerror or error}") from error


# --- conductor --------------------------------------------------------------------------------


def _build_conductor(conf: cfg.ConfigOpts) -> tuple[Callable[[], process.Service], int]:
    if not conf.database.connection:
        raise process.CannotStart(
            "[database] connection is not set: say where the database is, such as "
            "mysql+pymysql://USER:PASSWORD@HOST/cyborg_lite")
    _refuse_old_schema(conf)
    return measured.each(conf, [metrics.CONDUCTOR], "conductor_port", conf.conductor.workers,
                         lambda: _conductor(conf, _bus(conf)))


def _refuse_old_schema(conf: cfg.ConfigOpts) -> None:
    """Raise CannotStart before any worker is made: each would fail, again and again."""
    from oslo_db import exception as db_exc

    from cyborg_lite.db import migrate
    from cyborg_lite.db import session

    try:
        database = session.from_conf(conf, lambda: None)
        complaint = migrate.complaint(database.engine)
        database.dispose()
    except db_exc.DBError as error:
        raise _away(error) from error
    except migrate.NotInstalled as error:
        raise process.CannotStart(str(error)) from error
    if complaint:
        raise process.CannotStart(complaint)


def _away(error: Exception) -> process.CannotStart:
    return process.CannotStart(
        f"[database] connection: the database does not answer: {str(error).splitlines()[0]}")


def _conductor(conf: cfg.ConfigOpts, bus: buses.LocalBus | buses.MessagingBus) -> service.Conductor:
    from oslo_db import exception as db_exc

    from cyborg_lite.conductor import service

    try:
        return service.Conductor(conf, bus)
    except db_exc.DBError as error:
        raise _away(error) from error


# --- agent ------------------------------------------------------------------------------------


def _build_agent(conf: cfg.ConfigOpts) -> tuple[Callable[[], process.Service], int]:
    return measured.each(conf, [metrics.AGENT], "agent_port", 1,
                         lambda: agents.Agent(conf, _bus(conf)))


def _bus(conf: cfg.ConfigOpts) -> buses.MessagingBus:
    try:
        return rpc.bus_from(conf)
    except (oslo_messaging.InvalidTransportURL, oslo_messaging.DriverLoadFailure,
            ValueError) as error:
        raise process.CannotStart(
            "[DEFAULT] transport_url: it must look like rabbit://USER:PASSWORD@HOST:5672/VHOST; "
            f"{type(error).__name__}") from error


# --- all in one -------------------------------------------------------------------------------

STANDALONE_OPTIONS = (
    cfg.MultiStrOpt(
        "agent-config-file", default=[], metavar="PATH",
        help="Run an agent with this file read after the main configuration; once for each "
             "agent. Without it one agent runs, from the main configuration."),
)

NEIGHBOURS = {"placement": "http://127.0.0.1:8778", "nova": "http://127.0.0.1:8774/v2.1"}
"""Where they are asked, without a login, when the configuration says nothing of them."""


class Standalone:
    """API, conductor and agents in one process, with SQLite and a bus in memory."""

    def __init__(self, conf: cfg.ConfigOpts, listener: socket.socket) -> None:
        bus = buses.LocalBus()
        self._conf = conf
        self._listener = listener
        self._conductor = _conductor(conf, bus)
        self._agent_confs = [_agent_conf(conf, name) for name in conf.agent_config_file]
        self._agents = [agents.Agent(each, bus) for each in self._agent_confs or [conf]]
        self._services: tuple[process.Service, ...] = (
            self._conductor, *self._agents, Api(conf, listener, bus))

    def collectors(self) -> list[measured.Collector]:
        from cyborg_lite.agent import figures

        return [*self._conductor.collectors(),
                figures.Collector([agent.state_now for agent in self._agents])]

    def start(self) -> None:
        from cyborg_lite.db import migrate

        try:
            migrate.upgrade(self._conductor.database.engine)
        except (migrate.NotInstalled, migrate.UnknownRevision) as error:
            raise process.CannotStart(str(error)) from error
        for service in self._services:
            service.start()
        host, port = self._listener.getsockname()[:2]
        # a URL shows *** where its password stands
        database = self._conductor.database.engine.url.render_as_string()
        print(f"cyborg-lite-standalone is ready: http://{f'[{host}]' if ':' in host else host}"
              f":{port} database={database} agents="
              f"{','.join(each.host for each in self._agents)}", flush=True)

    def stop(self) -> None:
        for service in reversed(self._services):
            service.stop()

    def reload(self) -> None:
        kept = set()
        for conf, path, agent in zip(self._agent_confs, self._conf.agent_config_file,
                                     self._agents, strict=False):
            try:
                config_check.check(_agent_arguments(self._conf, path), agents.PROGRAM)
            except cfg.Error as error:
                LOG.error("The configuration of host %s was not read again, the old one stays. "
                          "%s: %s", agent.host, path, error)
                kept.add(agent)
            else:
                conf.mutate_config_files()
        for service in self._services:
            if service not in kept:
                service.reload()


def _build_standalone(conf: cfg.ConfigOpts) -> tuple[Callable[[], process.Service], int]:
    if not conf.database.connection:
        conf.set_override("connection", f"sqlite:///{_state_folder(conf)}/cyborg-lite.sqlite",
                          "database")
    for group, url in NEIGHBOURS.items():
        if conf[group].auth_type is None:
            conf.set_override("auth_type", "none", group)
            conf.set_override("endpoint_override", conf[group].endpoint_override or url, group)
    listener = _listen(conf)
    return measured.each(conf, metrics.SERVICES, "api_port", 1, lambda: Standalone(conf, listener))


def _standalone_defaults(conf: cfg.ConfigOpts) -> None:
    conf.set_default("auth_strategy", "noauth", "api")
    conf.set_default("state_path", _usual_state_path(), "agent")


def _usual_state_path() -> str:
    """Where there is state unless the configuration says where: the user's own, if need be."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    for folder in (config.STATE_PATH, f"{home}/cyborg-lite"):
        nearest = folder
        while not os.path.exists(nearest):
            nearest = os.path.dirname(nearest) or "."
        if os.access(nearest, os.W_OK):
            return folder
    return config.STATE_PATH


def _state_folder(conf: cfg.ConfigOpts) -> pathlib.Path:
    """Return `[agent] state_path`, made if need be. Raises CannotStart."""
    folder = pathlib.Path(conf.agent.state_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise process.CannotStart(
            f"[agent] state_path = {folder}: cannot write there. Name another folder, or set "
            "[database] connection.")
    return folder


def _agent_conf(conf: cfg.ConfigOpts, path: str) -> cfg.ConfigOpts:
    arguments = _agent_arguments(conf, path)
    config_check.check(arguments, agents.PROGRAM, set_defaults=_standalone_defaults)
    own = config.register(cfg.ConfigOpts())
    _standalone_defaults(own)
    return config.load(arguments, own, program=agents.PROGRAM)


def _agent_arguments(conf: cfg.ConfigOpts, path: str) -> list[str]:
    return [*(f"--config-file={name}" for name in conf.config_file or ()),
            *(f"--config-dir={name}" for name in conf.config_dir or ()), f"--config-file={path}"]
