# SPDX-License-Identifier: Apache-2.0
"""How the programs start, and what they say when they cannot. Real processes."""

from __future__ import annotations

import pathlib
import socket
import subprocess
from collections.abc import Callable

import pytest

from cyborg_lite.agent import claims
from tests.fixtures import processes

PROGRAMS = ("cyborg-lite-agent", "cyborg-lite-api", "cyborg-lite-conductor",
            "cyborg-lite-manage", "cyborg-lite-standalone", "cyborg-lite-status")
SERVING = tuple(name for name in PROGRAMS if name.rpartition("-")[2] in (
    "agent", "api", "conductor", "standalone"))

PATIENCE_S = 60

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    """Run a program to its end with this configuration, which must not last long."""
    def run_program(name: str, configuration: str, *arguments: str
                    ) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "test.conf"
        # a folder of its own first, so that what a test says counts
        path.write_text(f"[agent]\nstate_path = {tmp_path}/own\n{configuration}\n[database]\n"
                        f"connection = sqlite:///{tmp_path}/test.sqlite\n")
        return processes.run([processes.console_script(name), "--config-file", path, *arguments],
                             within_s=PATIENCE_S)
    return run_program


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_every_program_explains_itself(name: str, option: str) -> None:
    done = processes.run([processes.console_script(name), option], within_s=PATIENCE_S)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize("name", SERVING)
def test_every_program_reads_all_options_before_it_starts(run: Run, name: str) -> None:
    done = run(name, "[api]\nport = 99999999")

    assert done.returncode == 1
    assert done.stderr.startswith(f"{name}: [api] port = 99999999: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("configuration", "expected"), [
    ("[conductor]\nbind_timeout = soon", "[conductor] bind_timeout = soon: "),
    ("[api]\nauth_strategy = none", "[api] auth_strategy = none: "),
    ("[DEFAULT]\nhost = no/slash", "[DEFAULT] host = no/slash: "),
    ("[oslo_messaging_rabbit]\nheartbeat_rate = often",
     "[oslo_messaging_rabbit] heartbeat_rate = often: "),
])
def test_a_bad_option_stops_the_start_with_one_line_that_names_it(
        run: Run, configuration: str, expected: str) -> None:
    done = run("cyborg-lite-conductor", configuration)

    assert done.returncode == 1
    assert done.stderr.startswith(f"cyborg-lite-conductor: {expected}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_secret_that_is_wrong_is_not_printed(run: Run) -> None:
    done = run("cyborg-lite-agent", "[DEFAULT]\ntransport_url = hare://me:geheim@there")

    assert done.returncode == 1
    assert "[DEFAULT] transport_url" in done.stderr
    assert "geheim" not in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_driver_stops_the_agent_with_the_names_that_exist(run: Run) -> None:
    done = run("cyborg-lite-standalone", "[api]\nport = 0\n[agent]\nenabled_drivers = gpu")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("cyborg-lite-standalone: ")
    assert "[agent] enabled_drivers" in done.stderr
    assert all(name in done.stderr for name in ("fake_driver", "pci_driver"))
    assert "Traceback" not in done.stderr


def test_a_bad_option_of_one_agents_file_is_named_like_any_other(
        run: Run, tmp_path: pathlib.Path) -> None:
    (tmp_path / "second.conf").write_text("[fake]\nnum_devices = five\n")

    done = run("cyborg-lite-standalone", "[api]\nport = 0", "--agent-config-file",
               tmp_path / "second.conf")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "cyborg-lite-standalone: [fake] num_devices = five: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "configuration"), [
    ("cyborg-lite-agent", "[DEFAULT]\ntransport_url = fake://\nhost = node7"),
    ("cyborg-lite-standalone", "[DEFAULT]\nhost = node7\n[api]\nport = 0")])
def test_a_second_agent_of_the_same_name_does_not_start(
        run: Run, tmp_path: pathlib.Path, name: str, configuration: str) -> None:
    held = claims.hold_name(str(tmp_path / "state"), "node7")
    assert held is not None

    done = run(name, f"{configuration}\n[agent]\nstate_path = {tmp_path}/state")
    held.close()

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"{name}: [DEFAULT] host = node7: another agent of this machine runs under that name")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "arguments"), [
    ("cyborg-lite-agent", ()), ("cyborg-lite-manage", ("db", "version"))])
def test_a_log_that_cannot_be_written_is_said_in_one_line(
        run: Run, tmp_path: pathlib.Path, name: str, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "no-such-folder" / "agent.log"

    done = run(name, f"[DEFAULT]\nlog_file = {path}", *arguments)

    assert done.returncode == 1
    assert done.stderr.startswith(f"{name}: [DEFAULT] log_file = {path}: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["cyborg-lite-api", "cyborg-lite-standalone"])
def test_noauth_does_not_listen_beyond_loopback(run: Run, name: str) -> None:
    done = run(name, "[api]\nport = 0\nhost_ip = 0.0.0.0\nauth_strategy = noauth")

    assert done.returncode == 1
    assert "[api] host_ip = 0.0.0.0" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_said_in_one_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("cyborg-lite-api", f"[api]\nport = {port}")

    assert done.returncode == 1
    assert f"port = {port}: cannot listen there: Address already in use" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_configuration_file_that_does_not_exist_is_said_in_one_line() -> None:
    done = processes.run(
        [processes.console_script("cyborg-lite-agent"), "--config-file", "/nowhere/x.conf"],
        within_s=PATIENCE_S)

    assert done.returncode == 1
    assert done.stderr.startswith("cyborg-lite-agent: ")
    assert "/nowhere/x.conf" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("url", "reason"), [
    ("bogus:geheim", "Could not parse SQLAlchemy URL"),
    ("postgres://me:geheim@127.0.0.1/x", "sqlalchemy.dialects:postgres"),
    ("oracle+oracledb://me:geheim@127.0.0.1/x", "No module named 'oracledb'")])
@pytest.mark.parametrize(("name", "arguments"), [
    ("cyborg-lite-conductor", ()), ("cyborg-lite-manage", ("db", "version"))])
def test_a_database_url_that_leads_nowhere_is_said_without_its_password(
        name: str, arguments: tuple[str, ...], url: str, reason: str,
        tmp_path: pathlib.Path) -> None:
    (tmp_path / "test.conf").write_text(f"[database]\nconnection = {url}\n")

    done = processes.run([processes.console_script(name), "--config-file", tmp_path / "test.conf",
                          *arguments], within_s=PATIENCE_S)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{name}: [database] connection: ")
    assert reason in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stderr


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("options", "reason"), [
    ("auth_type = passwrd", "auth_type = passwrd: The plugin passwrd could not be found"),
    ("auth_type = password", "auth_type = password: Auth plugin requires parameters")])
def test_a_login_that_is_configured_wrongly_ends_the_start(
        run: Run, options: str, reason: str, workers: int) -> None:
    done = run("cyborg-lite-api", f"[api]\nport = 0\napi_workers = {workers}\n"
               f"[DEFAULT]\ntransport_url = fake://\n[keystone_authtoken]\n{options}")

    assert done.returncode == 1
    assert f"cyborg-lite-api: [keystone_authtoken] {reason}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_conductor_without_a_database_says_which_option_is_missing() -> None:
    done = processes.run(
        [processes.console_script("cyborg-lite-conductor"), "--config-file", "/dev/null"],
        within_s=PATIENCE_S)

    assert done.returncode == 1
    assert "[database] connection is not set" in done.stderr
