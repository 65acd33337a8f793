# SPDX-License-Identifier: Apache-2.0
"""What the console looks at in tests: our service on a loopback port, with hosts, ARQs, Placement.

Conductor, database, API and HTTP are the real ones; the hosts are played by `played_gpus.py`.
"""

from __future__ import annotations

import contextlib
import pathlib
import socket
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg

from cyborg_lite import buses
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.api import app
from cyborg_lite.api import faults
from cyborg_lite.wsgi import server
from tests.console import played_gpus
from tests.fixtures import builders
from tests.fixtures import cloud as clouds
from tests.fixtures import nova as nova_fixture
from tests.fixtures import placement as placement_fixture

A100 = "0000:41:00.0"
HELD = "0000:42:00.0"
H100 = "0000:81:00.0"
T4 = "0000:82:00.0"
RTX = "0000:83:00.0"
MANY = 60
"""More cards than a page of the console has."""

PREFIX = "/cloud/accelerator"
PLACEMENT = "[placement]\nauth_type = admin_token\nendpoint = {}\ntoken = admin\n"
SILENT = "[conductor]\nservice_down_time = 3600\n"
"""The agents report once and beat no more."""

PROJECT = "0123456789abcdef0123456789abcdef"


class Scene:
    """The service and what it knows. url: of the API; the console is below it."""

    def __init__(self, url: str, cloud: clouds.Cloud,
                 placement: placement_fixture.Placement,
                 hosts: tuple[str, str, str] = ("node1", "node2", "store-3")) -> None:
        self.url = url
        self.cloud = cloud
        self.placement = placement
        self.instance = builders.new_uuid()
        self.migration = builders.new_uuid()
        self.node1 = played_gpus.Host(hosts[0], [
            played_gpus.Card("A100-40GB", A100, ("3g.20gb", "2g.10gb", "1g.5gb")),
            played_gpus.Card("A100-40GB", HELD, ("1g.5gb",) * 7)],
            [builders.a_device("Fake0")])
        self.node2 = played_gpus.Host(hosts[1], [
            played_gpus.Card("H100-80GB", H100, numa_node=1),
            played_gpus.Card("T4", T4, ("T4-4Q",) * 4, scheme="vgpu"),
            played_gpus.Card("RTX-PRO-6000-Blackwell-96GB", RTX, scheme="mig-vgpu")])
        self.store = played_gpus.Host(hosts[2], [], [
            builders.a_device(f"Disk{number:02}", type="SSD", model="a disk", deployables=[
                builders.a_deployable(f"Disk{number:02}", 1)]) for number in range(MANY)])

    def populate(self, project: str = PROJECT) -> None:
        """Report the hosts, bind two sets of ARQs of a migration, leave others unbound."""
        for host in (self.node1, self.node2, self.store):
            self.start(host)
        ask = self.cloud.client
        ask.create_device_profile(messages.DeviceProfile(
            uuid=builders.new_uuid(), name="slice",
            groups=[{"resources:VGPU": "2", "trait:CUSTOM_MIG_1G_5GB": "required"}]))
        self.arqs = self._bound(project, None)
        self.moving = self._bound(project, self.migration)
        self.waiting = ask.create_arqs("slice", "another project")

    def start(self, host: played_gpus.Host) -> None:
        """Have one of the hosts report."""
        self.placement.make_compute_node(host.name)
        host.start(self.cloud.bus, self.cloud.client)

    def _bound(self, project: str, migration: str | None) -> list[messages.Arq]:
        ask = self.cloud.client
        arqs = ask.create_arqs("slice", project)
        ask.bind_arqs([messages.BindRequest(
            arq_uuid=arq.uuid, hostname="node1", instance_uuid=self.instance,
            device_rp_uuid=builders.rp_uuid(f"{HELD} 1g.5gb", "node1", HELD),
            migration_uuid=migration, migration_type=migration and "cold") for arq in arqs])
        return arqs

    def device(self, address: str) -> str:
        """The uuid of a card of these hosts."""
        names = {host.name for host in (self.node1, self.node2, self.store)}
        return next(one.uuid for one in self.cloud.client.list_devices(messages.DeviceQuery())
                    if one.pci_address == address and one.hostname in names)


def behind_a_prefix(application: faults.Application) -> faults.Application:
    """The application, also below PREFIX, as a proxy would have it."""
    def serve(environ: dict[str, Any], start_response: faults.StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(f"{PREFIX}/"):
            environ["SCRIPT_NAME"] = PREFIX
            environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix(PREFIX)
        return application(environ, start_response)
    return serve


@contextlib.contextmanager
def serving(folder: pathlib.Path, listener: socket.socket, more: str) -> Iterator[Scene]:
    """Serve while the block runs. more: lines of the configuration, such as who signs in."""
    with placement_fixture.serving(folder) as placement, nova_fixture.serving() as nova:
        conf = clouds.configuration(
            folder, f"sqlite:///{folder}/console.sqlite",
            placement=placement.url, nova=nova.url,
            more=f"{PLACEMENT.format(placement.url)}{SILENT}{more}")
        with clouds.running(conf, buses.LocalBus()) as cloud:
            with http(conf, cloud, listener) as url:
                yield Scene(url, cloud, placement)


@contextlib.contextmanager
def http(conf: cfg.ConfigOpts, cloud: clouds.Cloud, listener: socket.socket) -> Iterator[str]:
    """An API of that configuration before the cloud's conductor; its address."""
    application = app.make_app(conf, rpc.ConductorClient(cloud.bus, 30))
    running = server.Server(listener, behind_a_prefix(application), threads=8)
    running.start()
    address, port = listener.getsockname()[:2]
    try:
        yield f"http://{address}:{port}"
    finally:
        running.stop()
