# SPDX-License-Identifier: Apache-2.0
"""The tour: starts everything on loopback, shows what was found, walks, and goes on serving.

Each server is a process of its own with its own log; all end with this one.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator

import openstack.connection
import openstack.exceptions

from cyborg_lite import messages
from cyborg_lite.demo import bootstrap
from cyborg_lite.demo import nova_recorder
from cyborg_lite.demo import walk
from cyborg_lite.drivers import base
from cyborg_lite.drivers import pci
from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import sysfs

RECORDED_HOST = "gpu-server"
START_WITHIN_S = 90
SYNC_WITHIN_S = 60
STOP_WITHIN_S = 15
LINES_SHOWN = 12
LOG_LINES_SHOWN = 15
DEVICE_SPECS = {
    "here": '{"address": "*"}',
    RECORDED_HOST: '{"vendor_id": "10de", "product_id": "20f1", "resource_class": "PGPU"}',
}

SERVICE = """
[DEFAULT]
log_file = {folder}/cyborg-lite.log
host = {host}
[api]
port = {port}
[database]
connection = sqlite:///{folder}/cyborg-lite.sqlite
[placement]
auth_type = admin_token
endpoint = {placement}
token = admin
[nova]
auth_type = admin_token
endpoint = {nova}
token = admin
"""

AGENT = """
[DEFAULT]
host = {host}
[agent]
state_path = {folder}/{host}
resource_provider_name = {host}
enabled_drivers = pci_driver
sysfs_root = {sysfs}
report_interval = 5
[pci]
device_spec = {spec}
"""


class Failed(Exception):
    """Something did not start or did not come about; the text says what."""


def run(progress: bootstrap.Progress, port: int, once: bool) -> int:
    """Give the tour; returns the exit status."""
    # the servers' own logs say it better
    logging.getLogger().addHandler(logging.NullHandler())
    signal.signal(signal.SIGTERM, _interrupt)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cyborg-lite-demo-"))
    try:
        with contextlib.ExitStack() as everything:
            _tour(progress, folder, port, once, everything)
        return 0
    except KeyboardInterrupt:
        progress.say("Stopped")
        return 130 if once else 0
    except (Failed, openstack.exceptions.SDKException, OSError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}\n{_ends_of_logs(folder)}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _tour(progress: bootstrap.Progress, folder: pathlib.Path, port: int, once: bool,
          everything: contextlib.ExitStack) -> None:
    say = progress.say
    say("Starting Placement (real, SQLite, no login)")
    placement = everything.enter_context(_process(
        "Placement", ["-m", "cyborg_lite.demo.placement_server", str(folder)],
        folder / "placement.log", say))
    nova = everything.enter_context(nova_recorder.Recorder())
    say(f"Placement is at {placement}; a recorder that plays Nova's events API at {nova.url}")

    here = _host_name()
    machine = recorded.unpack(_recorded_machine(), folder / RECORDED_HOST)
    roots = {here: "/sys", RECORDED_HOST: machine}
    cloud = walk.connect("http://127.0.0.1:1", placement)
    for host in roots:
        walk.make_compute_node(cloud, host)
    say(f"Made the compute nodes {' and '.join(roots)} in Placement, as Nova would")

    files = [_write(folder / "service.conf", SERVICE.format(
        folder=folder, host=here, port=_free(port, say), placement=placement, nova=nova.url))]
    for host, root in roots.items():
        spec = DEVICE_SPECS.get(host, DEVICE_SPECS["here"])
        files.append(_write(folder / f"agent-{len(files)}.conf",
                            AGENT.format(folder=folder, host=host, sysfs=root, spec=spec)))
    say("Starting the accelerator service: API, conductor and two agents in one process")
    url = everything.enter_context(_process(
        "The accelerator service",
        ["-c", "from cyborg_lite.cmd import services; services.standalone()",
         f"--config-file={files[0]}", *(f"--agent-config-file={name}" for name in files[1:])],
        folder / "cyborg-lite.log", say))
    say(f"It is at {url}")

    _show_this_machine(here, say)
    cloud = walk.connect(url, placement)
    _wait_for_devices(cloud, say)
    _show_devices(cloud, say)
    say("A server's life:")
    walk.a_servers_life(cloud, nova, RECORDED_HOST, say)
    if once:
        say("Done")
        return
    _invite(url, say)
    signal.pause()


# --- what is shown ----------------------------------------------------------------------------


def _show_this_machine(host: str, say: Callable[[str], None]) -> None:
    """Print what this machine has, and why what is withheld is withheld."""
    driver = pci.PciDriver(base.Environment(
        sysfs.Sysfs("/sys"), {"pci": {"device_spec": [DEVICE_SPECS["here"]]}}))
    offered = driver.discover()
    say(f"This machine, {host}: {len(offered)} PCI functions can be handed to servers, "
        f"{len(driver.withheld)} are withheld")
    _list(map(_function, offered), say)
    reasons: dict[str, list[str]] = {}
    for address, reason in driver.withheld.items():
        reasons.setdefault(reason, []).append(address)
    _list((f"withheld {', '.join(addresses[:4])}{', ...' if len(addresses) > 4 else ''}: {reason}"
           for reason, addresses in reasons.items()), say)
    if not offered and not driver.withheld:
        say("      it shows no PCI functions besides bridges")


def _function(device: messages.ReportedDevice) -> str:
    return f"offered  {device.address}: {device.type} {device.vendor}:{device.model}"


def _list(lines: Iterator[str], say: Callable[[str], None]) -> None:
    for count, line in enumerate(lines):
        if count == LINES_SHOWN:
            say("      ... and more")
            break
        say(f"      {line}")


def _wait_for_devices(cloud: openstack.connection.Connection, say: Callable[[str], None]) -> None:
    """Wait until the recorded server's cards are in Placement."""
    start = time.monotonic()
    while not walk.free_providers(cloud):
        if time.monotonic() - start > SYNC_WITHIN_S:
            raise Failed(f"The cards of {RECORDED_HOST} did not reach Placement within "
                         f"{SYNC_WITHIN_S} s.")
        time.sleep(0.2)
    say(f"The cards of {RECORDED_HOST} (recorded) are in Placement")


def _show_devices(cloud: openstack.connection.Connection, say: Callable[[str], None]) -> None:
    devices = list(cloud.accelerator.devices())
    say(f"The service lists {len(devices)} devices:")
    _list((f"{device.hostname}  {device.type}  {device.vendor}:{device.model}  {device.uuid}"
           for device in devices), say)


def _invite(url: str, say: Callable[[str], None]) -> None:
    program = pathlib.Path(sys.executable).with_name("openstack")
    with contextlib.suppress(ValueError):
        program = program.relative_to(pathlib.Path.cwd())
    say("The service goes on serving. In another terminal:")
    for command in ("device list", "deployable list",
                    "device profile create --group resources:PGPU=1 my-gpu",
                    "arq create my-gpu", "arq list"):
        print(f"  {program} --os-auth-type none --os-endpoint {url}/v2 accelerator {command}",
              flush=True)
    say(f"In a browser: {url}/console/")
    say("Ctrl-C ends it.")


# --- processes --------------------------------------------------------------------------------


@contextlib.contextmanager
def _process(name: str, arguments: list[str], log: pathlib.Path,
             say: Callable[[str], None]) -> Iterator[str]:
    """Start a server in this Python; yields the address that it prints; stops it at the end."""
    with log.with_suffix(".err").open("w") as errors:
        process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=errors, text=True,
                                   start_new_session=True)
    try:
        yield _address(process, name, say)
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[str], name: str,
             say: Callable[[str], None]) -> str:
    assert process.stdout is not None
    start = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (waited := time.monotonic() - start) < START_WITHIN_S:
            if not selector.select(timeout=5):
                say(f"  {name} is still starting ({waited:.0f} s)")
                continue
            line = process.stdout.readline()
            if not line:
                break
            found = re.search(r"http://\S+", line)
            if found:
                return found[0]
    raise Failed(f"{name} did not start.")


def _ends_of_logs(folder: pathlib.Path) -> str:
    texts = []
    for path in sorted((*folder.glob("*.log"), *folder.glob("*.err"))):
        lines = path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        texts += [f"--- the end of {path.name}", *lines] if lines else []
    return "\n".join(texts)


def _write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.write_text(text)
    return path


def _free(port: int, say: Callable[[str], None]) -> int:
    """Return the port, or 0 (any) when somebody has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            say(f"Port {port} cannot be had ({error.strerror}); taking another")
            return 0
    return port


def _host_name() -> str:
    """This machine's name with the characters that a host may have."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "this-machine"
    return name if name != RECORDED_HOST else f"{name}-itself"


def _recorded_machine() -> pathlib.Path:
    name = pathlib.Path("etc") / "cyborg-lite" / "demo" / "gpu-server.sysfs"
    for folder in (bootstrap.CHECKOUT, pathlib.Path(sysconfig.get_path("data")),
                   pathlib.Path(sys.prefix)):
        if (folder / name).is_file():
            return folder / name
    raise Failed(f"{name} is not installed; install the package again.")
