# SPDX-License-Identifier: Apache-2.0
"""What running programs do with signals and workers, and what they weigh. Real processes."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import re
import signal
from collections.abc import Callable
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests.fixtures import processes
from tests.fixtures import servers

PATIENCE_S = 60
RSS_LIMIT_MIB = 130

CONFIGURATION = """
[DEFAULT]
host = here
[api]
port = 0
{api}
[database]
connection = {database}
[agent]
state_path = {folder}/state
report_interval = {report_interval}
"""


class Program:
    """A program that runs, with its configuration file."""

    def __init__(self, name: str, folder: pathlib.Path, *arguments: str | pathlib.Path,
                 **settings: str) -> None:
        self._folder = folder
        self.configuration = folder / "test.conf"
        self.configure(**settings)
        self.process = processes.Process(
            name, [processes.console_script(name), "--config-file", self.configuration,
                   *arguments],
            folder / "log")

    def configure(self, **settings: str) -> None:
        self.configuration.write_text(CONFIGURATION.format(
            folder=self._folder, **({"database": f"sqlite:///{self._folder}/test.sqlite", "api": "",
                "report_interval": "10"} | settings)))

    @property
    def log(self) -> str:
        return self.process.log.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        found: re.Match[str] = self.process.wait_until(
            lambda: re.search(pattern, self.log), PATIENCE_S, f"log {pattern}")
        return found

    def connect(self) -> http.client.HTTPConnection:
        found = self.wait_for(r"is ready: http://127\.0\.0\.1:(\d+)")
        return http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=PATIENCE_S)


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Program]]:
    """Start programs; they are stopped after the test."""
    started: list[Program] = []

    def start_one(name: str, *arguments: str | pathlib.Path, **settings: str) -> Program:
        started.append(Program(name, tmp_path, *arguments, **settings))
        return started[-1]

    yield start_one
    for program in started:
        program.process.stop()


def get(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def resident_mib(pid: int) -> int:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) // 1024


def children(pid: int) -> list[int]:
    return [int(word) for word in pathlib.Path(
        f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_standalone_serves_its_own_device_and_stops_when_told(
        start: Callable[..., Program]) -> None:
    program = start("cyborg-lite-standalone")
    connection = program.connect()
    program.wait_for("report stored")

    status, body = get(connection, "/v2/devices")

    assert status == 200
    assert [device["hostname"] for device in json.loads(body)["devices"]] == ["here"]
    assert get(connection, "/healthcheck")[0] == 200
    assert resident_mib(program.process.pid) <= RSS_LIMIT_MIB
    assert program.process.stop() == 0
    assert "Traceback" not in program.log


def test_standalone_shows_no_password_of_its_database(
        start: Callable[..., Program], postgresql_server: str) -> None:
    with servers.own_database(postgresql_server) as url:
        found = sa.make_url(url)
        given = found.set(password=found.password or "geheim")
        program = start("cyborg-lite-standalone",
                        database=given.render_as_string(hide_password=False))

        ready = program.wait_for(r"is ready: .* database=(\S+)")
        program.process.stop()

    assert ready[1] == given.render_as_string()
    assert f":{given.password}@" not in program.log


def test_many_requests_go_over_one_connection(start: Callable[..., Program]) -> None:
    connection = start("cyborg-lite-standalone").connect()
    connection.connect()
    local = connection.sock.getsockname()

    for _ in range(20):
        assert get(connection, "/")[0] == 200

    assert connection.sock.getsockname() == local


def test_sighup_takes_what_is_mutable_and_says_what_changed(
        start: Callable[..., Program]) -> None:
    program = start("cyborg-lite-standalone")
    connection = program.connect()
    program.configure(report_interval="3")

    program.process.signal(signal.SIGHUP)

    program.wait_for(r"The configuration was read again; changed: .*\[agent\] report_interval")
    program.wait_for(r"\[agent\] report_interval 10.0 -> 3.0")
    assert get(connection, "/")[0] == 200


def test_sighup_with_a_bad_file_keeps_the_old_configuration_and_says_what_is_wrong(
        start: Callable[..., Program]) -> None:
    program = start("cyborg-lite-standalone")
    connection = program.connect()
    program.configure(report_interval="often")
    program.process.signal(signal.SIGHUP)
    program.wait_for(r"the old one stays. \[agent\] report_interval = often: ")

    program.configure(report_interval="4")
    program.process.signal(signal.SIGHUP)

    program.wait_for(r"\[agent\] report_interval 10.0 -> 4.0")
    assert get(connection, "/")[0] == 200


def test_sighup_with_a_bad_file_of_one_agent_leaves_that_agent_alone(
        start: Callable[..., Program], tmp_path: pathlib.Path) -> None:
    files = [tmp_path / f"{name}.conf" for name in ("first_node", "second-node.example.org")]
    for file in files:
        file.write_text(f"[DEFAULT]\nhost = {file.stem}\n")
    program = start("cyborg-lite-standalone", *(
        word for file in files for word in ("--agent-config-file", file)))
    program.wait_for("is ready: .* agents=first_node,second-node.example.org")

    files[0].write_text("[DEFAULT]\nhost = first_node\n[fake]\nnum_devices = five\n")
    files[1].write_text(
        "[DEFAULT]\nhost = second-node.example.org\n[fake]\nnum_devices = 5\n")
    program.process.signal(signal.SIGHUP)

    program.wait_for(r"of host first_node was not read again, the old one stays. .*: "
                     r"\[fake\] num_devices = five: ")
    program.wait_for(r"\[fake\] num_devices 1 -> 5")
    program.wait_for("host=second-node.example.org reported 5 devices")
    assert "num_devices 1 -> five" not in program.log


def test_an_agents_file_is_read_after_a_configuration_directory(
        start: Callable[..., Program], tmp_path: pathlib.Path) -> None:
    folder, own = tmp_path / "conf.d", tmp_path / "own.conf"
    folder.mkdir()
    (folder / "all.conf").write_text("[DEFAULT]\nhost = all\n[fake]\nnum_devices = 3\n")
    own.write_text("[DEFAULT]\nhost = my_host\n")

    program = start("cyborg-lite-standalone", "--config-dir", folder, "--agent-config-file", own)

    program.wait_for("host=my_host reported 3 devices")


def test_sigusr2_writes_a_report_and_the_program_goes_on(start: Callable[..., Program]) -> None:
    program = start("cyborg-lite-standalone")
    connection = program.connect()

    program.process.signal(signal.SIGUSR2)

    program.wait_for("Guru Meditation")
    program.wait_for("Configuration")
    assert get(connection, "/")[0] == 200


def test_a_worker_that_is_killed_gets_a_successor_and_all_stop_together(
        start: Callable[..., Program]) -> None:
    program = start("cyborg-lite-api", api="api_workers = 2\nauth_strategy = noauth")
    program.process.wait_until(lambda: program.log.count(" is ready pid=") == 2, PATIENCE_S)
    first = children(program.process.pid)

    os.kill(first[0], signal.SIGKILL)

    program.process.wait_until(lambda: program.log.count(" is ready pid=") == 3, PATIENCE_S)
    second = children(program.process.pid)
    assert len(second) == 2
    assert len(set(first) & set(second)) == 1
    assert all(resident_mib(pid) <= RSS_LIMIT_MIB for pid in (program.process.pid, *second))
    assert program.process.stop() == 0
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in second)


def test_a_request_in_hand_is_answered_before_the_end(start: Callable[..., Program]) -> None:
    program = start("cyborg-lite-standalone")
    connection = program.connect()
    body = json.dumps([{"name": "late", "groups": [{"resources:FPGA": "1"}]}]).encode()
    connection.putrequest("POST", "/v2/device_profiles")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:10])
    # the server has the request line now: its answer to a second connection proves a thread free
    assert get(program.connect(), "/")[0] == 200

    program.process.signal(signal.SIGTERM)
    program.wait_for("finishing the work in hand")
    connection.send(body[10:])

    assert connection.getresponse().status == 201
    assert program.process.wait_until_ended(PATIENCE_S) == 0
