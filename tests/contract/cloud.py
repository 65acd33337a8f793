# SPDX-License-Identifier: Apache-2.0
"""A small real cloud: Keystone, Placement, RabbitMQ, MariaDB, and our three services as processes.

Only Nova and Glance are played (see `neighbours.py`). What clients do here, the tests say.
"""

from __future__ import annotations

import configparser
import contextlib
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from keystoneauth1 import adapter

from tests.contract import neighbours
from tests.fixtures import environments
from tests.fixtures import keystone
from tests.fixtures import processes

HOST = "contract_host-1"
"""Nova accepts underscores, so it has one."""

ACCOUNTS = (
    keystone.Account("admin", "admin", ("admin",)),
    keystone.Account("admin", None, ("admin",)),
    keystone.Account("demo", "demo", ("member",)),
    keystone.Account("demo-reader", "demo", ("reader",)),
    keystone.Account("demo-manager", "demo", ("manager",)),
    keystone.Account("other", "other", ("member",)),
    # the least that services need of Keystone and of each other
    keystone.Account("nova", "service", ("service",)),
    keystone.Account("cyborg", "service", ("service",)),
    keystone.Account("placement", "service", ("service",)),
)

PLACEMENT_VERSION = "placement 1.39"
READY_LIMIT_S = 90

Say = Callable[[str], None]


class Cloud:
    """Everything runs when the constructor returns; `stop()` ends it all."""

    def __init__(self, keystone_environment: environments.Environment, directory: pathlib.Path,
                 database: Callable[[], str], transport_url: str, say: Say) -> None:
        self.directory = directory
        self._database = database
        self._transport_url = transport_url
        self._at_end = contextlib.ExitStack()
        self.processes: dict[str, processes.Process] = {}
        with contextlib.ExitStack() as undo:
            undo.push(self._at_end)
            say("starting Keystone")
            self.keystone = keystone.Keystone(keystone_environment, directory)
            self._keep(self.keystone.process)
            self.neighbours = neighbours.Neighbours()
            self._at_end.callback(self.neighbours.stop)
            say("starting Placement")
            self.placement_url = self._start_placement()
            self.api_url = f"http://127.0.0.1:{processes.free_port()}"
            self.keystone.create_accounts(ACCOUNTS)
            self.keystone.create_catalogue({
                "placement": ("placement", self.placement_url),
                "compute": ("nova", self.neighbours.compute_url),
                "image": ("glance", self.neighbours.image_url),
                "accelerator": ("cyborg", f"{self.api_url}/v2"),
            })
            self.compute_provider = self._create_compute_provider()
            say("starting cyborg-lite: API, conductor, agent")
            try:
                self._start_our_services()
            except (processes.TookTooLong, processes.Ended) as error:
                for process in self.processes.values():
                    error.add_note(f"--- {process.name}:\n{process.end_of_log()}")
                raise
            undo.pop_all()

    def stop(self) -> None:
        """Stop every process and drop what was made in shared servers."""
        self._at_end.close()

    # --- asking --------------------------------------------------------------------------------

    def placement(self) -> adapter.Adapter:
        """Return Placement as Nova's scheduler uses it."""
        return adapter.Adapter(
            self.keystone.session("nova", "service"), service_type="placement",
            additional_headers={"OpenStack-API-Version": PLACEMENT_VERSION}, raise_exc=True)

    def accelerator(self, user: str, project: str | None, **more: Any) -> adapter.Adapter:
        """Return our API as a plain HTTP client of that user sees it."""
        return adapter.Adapter(self.keystone.session(user, project), service_type="accelerator",
                               raise_exc=False, **more)

    def device_provider(self) -> str:
        """Return the provider that Placement offers for the fake driver's device."""
        return next(iter(self._candidates()[0]["allocations"]))

    def _candidates(self) -> list[dict[str, Any]]:
        answer = self.placement().get(
            "/allocation_candidates", raise_exc=False,
            params={"resources": "FPGA:1", "required": "CUSTOM_FAKE_DEVICE"})
        # 400: the trait does not exist yet
        return answer.json()["allocation_requests"] if answer.ok else []

    def is_synchronized(self) -> bool:
        """Say whether Placement has been told of everything and nobody is telling it now."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.text(
                "SELECT COUNT(*) FROM hosts WHERE generation <> synced_generation "
                "OR lease_until IS NOT NULL")) == 0

    def check(self) -> subprocess.CompletedProcess[str]:
        """Ask `cyborg-lite-manage check` whether the invariants hold."""
        return self._manage("check")

    def environment_of(self, user: str, project: str) -> dict[str, str]:
        """Return the OS_* variables that make a command-line client that user."""
        options = self.keystone.auth_options(user, project)
        return {**{f"OS_{name.upper()}": value for name, value in options.items()},
                "OS_AUTH_TYPE": "v3password", "OS_IDENTITY_API_VERSION": "3",
                "OS_REGION_NAME": keystone.REGION}

    # --- building ------------------------------------------------------------------------------

    def _keep(self, process: processes.Process) -> processes.Process:
        self.processes[process.name] = process
        self._at_end.callback(process.stop)
        return process

    def _service_user(self, user: str) -> dict[str, str]:
        return {"auth_type": "password", **self.keystone.auth_options(user, "service")}

    def _token_checks(self, user: str) -> dict[str, str]:
        return {**self._service_user(user), "www_authenticate_uri": self.keystone.url,
                "service_token_roles": "service", "service_token_roles_required": "true"}

    def _write(self, name: str, groups: dict[str, dict[str, str]]) -> pathlib.Path:
        file = self.directory / name
        options = configparser.ConfigParser(interpolation=None)
        options.read_dict(groups)
        with file.open("w") as out:
            options.write(out)
        return file

    def _start_placement(self) -> str:
        home = self.directory / "placement"
        home.mkdir()
        self._write("placement/placement.conf", {
            "api": {"auth_strategy": "keystone"},
            "placement_database": {"connection": self._database(),
                                   "sync_on_startup": "true"},
            "keystone_authtoken": self._token_checks("placement"),
        })
        listener, address = processes.listen()
        placement = self._keep(processes.serve_wsgi(
            "placement", sys.executable, "placement.wsgi.api:application",
            self.directory / "placement.log", {"OS_PLACEMENT_CONFIG_DIR": str(home)}, listener))
        placement.wait_until(lambda: processes.answers(address), READY_LIMIT_S)
        return address

    def _create_compute_provider(self) -> str:
        """Do what nova-compute does when it starts on a host."""
        placement, provider = self.placement(), str(uuid.uuid4())
        placement.post("/resource_providers", json={"name": HOST, "uuid": provider})
        placement.put(f"/resource_providers/{provider}/inventories", json={
            "resource_provider_generation": 0,
            "inventories": {"VCPU": {"total": 64}, "MEMORY_MB": {"total": 262144}}})
        return provider

    def _start_our_services(self) -> None:
        port, database = self.api_url.rpartition(":")[2], self._database()
        self._engine = sa.create_engine(database, poolclass=sa.NullPool)
        client = self._service_user("cyborg") | {"region_name": keystone.REGION}
        self.configuration = self._write("cyborg-lite.conf", {
            "DEFAULT": {"host": HOST, "transport_url": self._transport_url},
            "api": {"host_ip": "127.0.0.1", "port": port, "auth_strategy": "keystone"},
            "database": {"connection": database},
            "keystone_authtoken": self._token_checks("cyborg"),
            "placement": client, "nova": client,
            "agent": {"enabled_drivers": "fake_driver", "resource_provider_name": HOST,
                      "report_interval": "1", "discover_interval": "5",
                      "state_path": str(self.directory),
                      "device_config_dir": str(self.directory / "devices.d")},
        })
        upgrade = self._manage("db", "upgrade")
        assert upgrade.returncode == 0, upgrade.stderr
        for name in ("conductor", "agent", "api"):
            self.start_service(name)
        self.processes["api"].wait_until(
            lambda: processes.answers(f"{self.api_url}/healthcheck"), READY_LIMIT_S)
        devices = self.accelerator("admin", "admin")
        self.processes["conductor"].wait_until(
            lambda: devices.get("/devices").json().get("devices"), READY_LIMIT_S,
            "store the agent's device")
        self.processes["conductor"].wait_until(
            self._candidates, READY_LIMIT_S, "put the device into Placement")

    def start_service(self, name: str) -> processes.Process:
        """Start one of ours: api, conductor or agent."""
        return self._keep(processes.Process(
            name, [processes.console_script(f"cyborg-lite-{name}"), "--config-file",
                   self.configuration], self.directory / f"{name}.log"))

    def _manage(self, *command: str) -> subprocess.CompletedProcess[str]:
        return processes.run([processes.console_script("cyborg-lite-manage"), "--config-file",
                              self.configuration, *command], within_s=READY_LIMIT_S)
