# SPDX-License-Identifier: Apache-2.0
"""Real programs with metrics, scraped as Prometheus would; and that nobody listens unasked."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import urllib.request
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import parser

from tests.fixtures import processes

PATIENCE_S = 60

CONFIGURATION = """
[DEFAULT]
host = here
[api]
port = 0
{api}
[database]
connection = sqlite:///{folder}/test.sqlite
[agent]
state_path = {folder}
report_interval = 0.5
[metrics]
{metrics}
"""


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., processes.Process]]:
    """Start programs with a file of their own; they are stopped after the test."""
    started: list[processes.Process] = []

    def start_one(name: str, metrics: str = "enabled = true", api: str = "") -> processes.Process:
        path = tmp_path / f"{len(started)}.conf"
        path.write_text(CONFIGURATION.format(folder=tmp_path, metrics=metrics, api=api))
        started.append(processes.Process(
            name, [processes.console_script(name), "--config-file", path],
            tmp_path / f"{len(started)}.log"))
        return started[-1]

    yield start_one
    for process in started:
        process.stop()


def addresses(process: processes.Process, number: int = 1) -> list[str]:
    """Where its processes say that their metrics are."""
    def found() -> list[str]:
        urls = re.findall(r"metrics are at (\S+)", process.log.read_text())
        return urls if len(urls) >= number else []

    return process.wait_until(found, PATIENCE_S, "show metrics")


def scrape(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def listening(pid: int) -> int:
    """How many ports a process listens on."""
    inodes = set()
    for file in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{file}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                inodes.add(f"socket:[{fields[9]}]")
    open_files = [os.readlink(link) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir()
                  if link.is_symlink()]
    return len(inodes & set(open_files))


def test_nobody_listens_unless_it_is_wished(start: Callable[..., processes.Process]) -> None:
    without = start("cyborg-lite-standalone", metrics="")
    without.wait_until(lambda: " is ready pid=" in without.log.read_text(), PATIENCE_S)

    assert listening(without.pid) == 1
    assert "metrics are at" not in without.log.read_text()


def test_standalone_shows_all_services_on_one_port(
        start: Callable[..., processes.Process]) -> None:
    process = start("cyborg-lite-standalone", metrics="enabled = true\napi_port = 0")
    url, = addresses(process)
    process.wait_until(lambda: "report stored" in process.log.read_text(), PATIENCE_S)

    found = scrape(url)

    assert listening(process.pid) == 2
    assert {sample.labels["service"] for sample in found["cyborg_lite_build_info"].samples} == {
        "api", "conductor", "agent"}
    device, = found["cyborg_lite_agent_devices"].samples
    assert (device.labels, device.value) == ({"host": "here", "driver": "fake_driver"}, 1)
    assert found["cyborg_lite_database_up"].samples[0].value == 1
    methods = {sample.labels["method"] for sample in found["cyborg_lite_rpc_seconds"].samples}
    assert {"heartbeat", "report"} <= methods
    assert process.stop() == 0
    assert "Traceback" not in process.log.read_text()


def test_each_api_process_has_a_port_and_a_successor_gets_it_back(
        start: Callable[..., processes.Process]) -> None:
    first = processes.free_port()
    process = start("cyborg-lite-api", metrics=f"enabled = true\napi_port = {first}",
                    api="api_workers = 2\nauth_strategy = noauth")

    urls = addresses(process, 2)
    assert sorted(urls) == [f"http://127.0.0.1:{port}/metrics" for port in (first, first + 1)]
    for url in urls:
        service, = scrape(url)["cyborg_lite_build_info"].samples
        assert service.labels["service"] == "api"

    pid, lost = re.findall(r"metrics are at (\S+) pid=(\d+)", process.log.read_text())[0][::-1]
    os.kill(int(pid), signal.SIGKILL)
    assert addresses(process, 3)[2] == lost
    assert "cyborg_lite_api_requests" in scrape(lost)


def test_a_port_that_is_taken_is_said_with_its_option(
        start: Callable[..., processes.Process]) -> None:
    listener, address = processes.listen()
    port = address.rpartition(":")[2]
    with listener:
        process = start("cyborg-lite-standalone", metrics=f"enabled = true\napi_port = {port}")

        assert process.wait_until_ended(PATIENCE_S) == 1

    assert (f"[metrics] host_ip = 127.0.0.1, api_port = {port}: cannot listen there: "
            "Address already in use") in process.log.read_text()
