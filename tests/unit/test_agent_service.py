# SPDX-License-Identifier: Apache-2.0
"""The agent's rounds: what is sent when, what an absent conductor costs, what SIGHUP changes."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import socket
import threading
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest
from oslo_config import cfg

from cyborg_lite import buses
from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.agent import service
from cyborg_lite.agent import settings
from cyborg_lite.agent import uevents
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import fake
from cyborg_lite.drivers import pci
from tests.fixtures.scripted import Catalogue

DEADLINE_S = 20


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Conductor:
    """Stands at the other end of the bus: knows a digest once it was reported."""

    def __init__(self) -> None:
        self.beats: list[messages.Heartbeat] = []
        self.reports: list[messages.HostReport] = []
        self.trouble: Exception | None = None
        self.heard = threading.Event()
        self._news = threading.Condition()

    @buses.exposed
    def heartbeat(self, beat: messages.Heartbeat) -> messages.HeartbeatReply:
        if self.trouble:
            raise self.trouble
        self.beats.append(beat)
        known = self.reports and self.reports[-1].digest == beat.digest
        return messages.HeartbeatReply(report_wanted=not known)

    @buses.exposed
    def report(self, report: messages.HostReport) -> None:
        if self.trouble:
            raise self.trouble
        with self._news:
            self.reports.append(report)
            self._news.notify_all()
        self.heard.set()

    def wait_for(self, wanted: Callable[[messages.HostReport], bool]) -> bool:
        with self._news:
            return self._news.wait_for(lambda: any(map(wanted, self.reports)), DEADLINE_S)


class Surroundings:
    """An agent on a local bus, with a clock, and settings that a test may change."""

    def __init__(self, tmp_path: pathlib.Path) -> None:
        self.settings = settings.Settings(
            host="node_7", resource_provider_name="node-7.example.org", sysfs_root=str(tmp_path),
            proc_root="/nowhere",
            options={"fake": {"num_devices": 1, "num_handles": 2}, "pci": {"device_spec": []}})
        self.clock = Clock()
        self.catalogue = Catalogue(fake_driver=fake.FakeDriver, pci_driver=pci.PciDriver)
        self.bus = buses.LocalBus()
        self.conductor = Conductor()
        self.stop_conductor: Callable[[], None] = lambda: None
        self.agent = service.Agent(self.read, rpc.ConductorClient(self.bus, 30.0),
                                   catalogue=self.catalogue, clock=self.clock)

    def read(self) -> service.Settings:
        return self.settings

    def change(self, **fields: Any) -> None:
        self.settings = dataclasses.replace(self.settings, **fields)

    def start_conductor(self) -> None:
        self.stop_conductor = self.bus.serve(rpc.CONDUCTOR_TOPIC, "c1", self.conductor)

    def pass_time(self, seconds: float) -> float:
        self.clock.now += seconds
        return self.agent.run_once()


@pytest.fixture
def around(tmp_path: pathlib.Path) -> Surroundings:
    surroundings = Surroundings(tmp_path)
    surroundings.start_conductor()
    return surroundings


def test_the_first_round_beats_and_reports_everything(around: Surroundings) -> None:
    wait_s = around.agent.run_once()

    (report,) = around.conductor.reports
    assert (report.host, report.resource_provider_name) == ("node_7", "node-7.example.org")
    assert [device.address for device in report.devices] == ["FakeDevice"]
    assert report.drivers == ["fake_driver"]
    assert report.failed_drivers == []
    assert report.digest == around.conductor.beats[0].digest
    assert wait_s == 10


def test_what_never_came_to_an_end_is_as_old_as_the_agent(around: Surroundings) -> None:
    around.conductor.trouble = errors.Unavailable("No broker.")
    for _ in range(40):
        around.pass_time(10)

    state = around.agent.state_now()

    # an alert is for this too: a driver that hangs from the beginning, a conductor never heard
    assert state.heartbeat_age_s == 400
    around.conductor.trouble = None
    around.pass_time(10)
    assert around.agent.state_now().heartbeat_age_s == 0


def test_an_unchanged_host_sends_the_digest_alone(around: Surroundings) -> None:
    around.agent.run_once()

    for _ in range(20):
        around.pass_time(10)

    assert len(around.conductor.beats) == 21
    assert len(around.conductor.reports) == 1


def test_nothing_is_sent_before_it_is_due(around: Surroundings) -> None:
    around.agent.run_once()

    assert around.pass_time(9.5) == pytest.approx(0.5)
    assert len(around.conductor.beats) == 1


def test_a_conductor_that_forgot_gets_the_report_again(around: Surroundings) -> None:
    around.agent.run_once()
    around.conductor.reports.clear()

    around.pass_time(10)

    assert len(around.conductor.reports) == 1


def test_a_change_is_reported_with_its_discovery_and_not_a_beat_later(tmp_path: pathlib.Path,
                                                                      around: Surroundings) -> None:
    around.change(enabled_drivers=("pci_driver",), discover_interval_s=5.0,
                  options={"pci": {"device_spec": ['{"address": "0000:41:00.0"}']}})
    around.agent.reload()
    around.agent.run_once()
    place = tmp_path / "bus/pci/devices/0000:41:00.0"
    place.mkdir(parents=True)
    for name, text in {"vendor": "0x10de", "device": "0x20f1", "class": "0x030200"}.items():
        (place / name).write_text(text)
    (place / "iommu_group").symlink_to("../../../../kernel/iommu_groups/1")

    around.pass_time(5)

    assert [device.address for device in around.conductor.reports[-1].devices] == ["0000:41:00.0"]


def test_an_agent_that_starts_before_the_conductor_reports_once_it_is_there(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    around = Surroundings(tmp_path)

    waits = [around.agent.run_once()]
    for _ in range(6):
        waits.append(around.pass_time(waits[-1]))
    around.start_conductor()
    around.pass_time(waits[-1])

    assert waits == [1, 2, 4, 8, 10, 10, 10]
    assert len(around.conductor.reports) == 1
    assert caplog.text.count("does not take the heartbeat") == 1
    assert caplog.text.count("the conductor answers again") == 1


@pytest.mark.parametrize("trouble", [errors.Unavailable("database away"), RuntimeError("a bug")])
def test_an_error_of_the_conductor_loses_nothing(trouble: Exception, around: Surroundings) -> None:
    around.agent.run_once()
    around.conductor.reports.clear()
    around.conductor.trouble = trouble
    around.pass_time(10)

    around.conductor.trouble = None
    around.pass_time(1)

    assert len(around.conductor.reports) == 1


def test_after_an_outage_the_next_one_is_news_and_soon_retried(
        around: Surroundings, caplog: pytest.LogCaptureFixture) -> None:
    around.agent.run_once()

    waits = []
    for trouble in (True, True, False, True):
        around.conductor.trouble = errors.Unavailable("away") if trouble else None
        waits.append(around.pass_time(10))

    assert waits == [1, 2, 10, 1]
    assert caplog.text.count("does not take the heartbeat") == 2


def test_a_report_that_did_not_arrive_is_sent_again(around: Surroundings) -> None:
    class Deaf(Conductor):
        @buses.exposed
        def report(self, report: messages.HostReport) -> None:
            raise errors.Unavailable("database away")

    deaf = Deaf()
    around.stop_conductor()
    deaf_stops = around.bus.serve(rpc.CONDUCTOR_TOPIC, "deaf", deaf)
    around.agent.run_once()
    deaf_stops()
    around.start_conductor()

    around.pass_time(1)

    assert len(deaf.beats) == 1
    assert len(around.conductor.reports) == 1


def test_an_announced_change_is_looked_at_at_once(around: Surroundings) -> None:
    around.agent.run_once()
    around.agent.discover_soon()

    # discovery is due now, although its period is not over
    assert around.agent.run_once() == 10


def test_the_thread_reports_and_ends_when_told(around: Surroundings) -> None:
    around.agent.start()

    assert around.conductor.heard.wait(DEADLINE_S)
    around.agent.stop()
    assert [thread for thread in threading.enumerate() if thread.name.startswith("agent-")] == []


class Hanging(fake.FakeDriver):
    """Answers once the test lets it."""

    entered = threading.Event()
    let_go = threading.Event()

    def discover(self) -> list[messages.ReportedDevice]:
        self.entered.set()
        assert self.let_go.wait(DEADLINE_S)
        return super().discover()


@pytest.fixture
def hanging(around: Surroundings) -> Iterator[type[Hanging]]:
    driver = type("Own", (Hanging,), {"entered": threading.Event(), "let_go": threading.Event()})
    around.catalogue.drivers["hanging_driver"] = driver
    yield driver
    driver.let_go.set()
    around.agent.stop()


def test_a_driver_that_hangs_from_the_start_costs_no_heartbeat(
        around: Surroundings, hanging: type[Hanging], caplog: pytest.LogCaptureFixture) -> None:
    around.change(enabled_drivers=("hanging_driver", "fake_driver"))
    around.agent.reload()
    around.agent.start()
    assert hanging.entered.wait(DEADLINE_S)

    around.clock.now += service.SLOW_S
    around.agent.beat_soon()

    # nothing is known of any driver: what was stored before stays as it is
    assert around.conductor.heard.wait(DEADLINE_S)
    assert around.conductor.reports[0].failed_drivers == ["fake_driver", "hanging_driver"]
    assert "driver hanging_driver has not answered for 30 s" in caplog.text


def test_once_it_answers_the_devices_are_reported(around: Surroundings,
                                                  hanging: type[Hanging]) -> None:
    around.change(enabled_drivers=("hanging_driver",))
    around.agent.reload()
    around.agent.start()
    assert hanging.entered.wait(DEADLINE_S)

    hanging.let_go.set()

    assert around.conductor.heard.wait(DEADLINE_S)
    assert [device.driver for device in around.conductor.reports[0].devices] == ["hanging_driver"]


def test_a_driver_that_hangs_can_be_configured_away(around: Surroundings,
                                                    hanging: type[Hanging]) -> None:
    around.change(enabled_drivers=("hanging_driver",))
    around.agent.reload()
    around.agent.start()
    assert hanging.entered.wait(DEADLINE_S)

    around.change(enabled_drivers=("fake_driver",))
    around.agent.reload()

    assert around.conductor.wait_for(
        lambda report: [device.driver for device in report.devices] == ["fake_driver"])


def test_what_the_kernel_announces_is_looked_at(around: Surroundings) -> None:
    announced = []

    class Listener(uevents.Listener):
        def __init__(self, announce: Callable[[], None]) -> None:
            announced.append(announce)
            super().__init__(announce, lambda: None)

    agent = service.Agent(around.read, rpc.ConductorClient(around.bus, 30.0),
                          catalogue=around.catalogue, clock=around.clock, listener=Listener)
    agent.start()
    assert around.conductor.heard.wait(DEADLINE_S)
    fake_hardware = agent.hardware.slots[0].driver
    assert fake_hardware is not None
    fake_hardware.environment.options["fake"]["num_devices"] = 2  # type: ignore[index]

    announced[0]()

    found = around.conductor.wait_for(lambda report: len(report.devices) == 2)
    agent.stop()
    assert found


def test_the_endpoint_prepares_and_cleans_by_rpc(around: Surroundings) -> None:
    around.bus.serve(rpc.AGENT_TOPIC, "node_7", around.agent.endpoint)
    client = rpc.AgentClient(around.bus, 30.0)
    task = messages.HandleTask(handle_uuid="u", deployable_name="FakeDevice",
                               device_address="FakeDevice", driver="fake_driver",
                               type="TEST_PCI", info={})

    prepared = client.prepare("node_7", [task])
    cleaned = client.clean("node_7", [dataclasses.replace(task, driver="gone_driver")])

    assert prepared == [messages.HandleResult(handle_uuid="u")]
    assert "gone_driver is not at work on this host" in (cleaned[0].error or "")


# --- reload -----------------------------------------------------------------------------------


def test_a_reload_takes_the_new_configuration_and_says_what_changed(
        around: Surroundings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    around.agent.run_once()
    around.change(report_interval_s=3.0, enabled_drivers=("pci_driver", "fake_driver"),
                  options={"fake": {"num_devices": 2, "num_handles": 2},
                           "pci": {"device_spec": []}})

    around.agent.reload()

    assert around.agent.run_once() == 3
    assert len(around.conductor.reports[-1].devices) == 2
    assert around.conductor.reports[-1].drivers == ["pci_driver", "fake_driver"]
    assert [record.getMessage() for record in caplog.records
            if "configuration changed" in record.message] == [
        "configuration changed: [agent] report_interval 10.0 -> 3.0",
        "configuration changed: [agent] enabled_drivers ('fake_driver',) -> "
        "('pci_driver', 'fake_driver')",
        "configuration changed: [fake] num_devices 1 -> 2"]


@pytest.mark.parametrize(("change", "reason"), [
    ({"enabled_drivers": ("gpu",)}, "there is no driver 'gpu'"),
    ({"enabled_drivers": ("pci_driver",), "options": {"pci": {"device_spec": ["{"]}}},
     "[pci] device_spec = {: it is no JSON")])
def test_a_bad_configuration_is_told_and_the_old_one_stays(
        change: dict[str, Any], reason: str, around: Surroundings,
        caplog: pytest.LogCaptureFixture) -> None:
    around.agent.run_once()
    around.change(**change)

    around.agent.reload()
    around.pass_time(60)

    assert reason in caplog.text
    assert len(around.conductor.reports) == 1
    assert around.agent.hardware.drivers == ["fake_driver"]


def test_a_reload_without_a_change_keeps_what_runs(around: Surroundings) -> None:
    before = around.agent.hardware

    around.agent.reload()

    assert around.agent.hardware is before


def test_a_bad_configuration_at_the_start_is_an_error(tmp_path: pathlib.Path) -> None:
    wanted = settings.Settings(host="n", resource_provider_name="n", enabled_drivers=("gpu",))

    with pytest.raises(base.ConfigurationError, match="enabled_drivers"):
        service.Agent(lambda: wanted, rpc.ConductorClient(buses.LocalBus(), 30.0),
                      catalogue=Catalogue(fake_driver=fake.FakeDriver))


FILE = "version: 1\ndriver: pci_driver\ndevices:\n- match: {address: '0000:41:*'}\n"


def with_files(around: Surroundings, tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    around.change(enabled_drivers=("fake_driver", "pci_driver"),
                  files=device_files.read(str(tmp_path)))
    around.agent.reload()


def test_a_reload_reads_the_device_files_and_says_what_changed(
        around: Surroundings, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    with_files(around, tmp_path, FILE)
    caplog.set_level(logging.INFO)

    with_files(around, tmp_path, f"{FILE}  offer: none\n")

    assert [record.getMessage() for record in caplog.records
            if "configuration changed" in record.message] == [
        "configuration changed: device file of pci_driver: gone: (address=0000:41:*) "
        "(a.yaml, line 4)",
        "configuration changed: device file of pci_driver: new: (address=0000:41:*) offer=none "
        "(a.yaml, line 4)"]


@pytest.mark.parametrize(("text", "complaint"), [
    (FILE.replace("match", "watch"), "line 4, column 3: an entry of devices has no key 'watch'"),
    (f"{FILE}  vgpu_type: x\n", "line 5, column 14: vgpu_type means nothing to pci_driver"),
    (f"{FILE}  clean: format\n", "line 5, column 10: pci_driver can't do clean: format")])
def test_a_device_file_that_went_bad_leaves_its_driver_as_it_was(
        text: str, complaint: str, around: Surroundings, tmp_path: pathlib.Path,
        caplog: pytest.LogCaptureFixture) -> None:
    with_files(around, tmp_path, FILE)

    with_files(around, tmp_path, text)
    around.agent.run_once()

    assert complaint in caplog.text
    assert around.conductor.reports[-1].failed_drivers == []
    assert len(around.agent.settings.files.entries["pci_driver"]) == 1


def test_a_bad_device_file_at_the_start_disables_its_driver_alone(
        around: Surroundings, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text(FILE.replace("match", "watch"))
    around.change(enabled_drivers=("fake_driver", "pci_driver"),
                  files=device_files.read(str(tmp_path)))

    agent = service.Agent(around.read, rpc.ConductorClient(around.bus, 30.0),
                          catalogue=around.catalogue, clock=around.clock)
    agent.run_once()

    (report,) = around.conductor.reports
    assert report.failed_drivers == ["pci_driver"]
    assert [device.driver for device in report.devices] == ["fake_driver"]


# --- options ----------------------------------------------------------------------------------


def a_configuration(tmp_path: pathlib.Path, text: str) -> cfg.ConfigOpts:
    path = tmp_path / "agent.conf"
    path.write_text(text)
    return config.load(["--config-file", str(path)], cfg.ConfigOpts())


@pytest.mark.parametrize(("text", "full_name", "expected"), [
    ("[agent]\nresource_provider_name = rp", "full.example.org", "rp"),
    ("", "full.example.org", "full.example.org"),
    ("", "", "node_7"),
    ("", "localhost", "node_7"),
    ("", "localhost.localdomain", "node_7")])
def test_the_providers_name_is_the_option_else_the_full_name_else_the_host(
        text: str, full_name: str, expected: str, tmp_path: pathlib.Path) -> None:
    conf = a_configuration(tmp_path, f"[DEFAULT]\nhost = node_7\n{text}\n")

    assert settings.read(conf, lambda: full_name).resource_provider_name == expected


def test_the_options_reach_the_drivers_group_by_group(tmp_path: pathlib.Path) -> None:
    conf = a_configuration(tmp_path, (
        "[agent]\nenabled_drivers = pci_driver,fake_driver\ndiscover_interval = 5\n"
        '[pci]\npassthrough_whitelist = {"vendor_id": "10de"}\n'
        'passthrough_whitelist = {"vendor_id": "8086"}\n[fake]\nnum_devices = 3\n'))

    found = settings.read(conf, socket.gethostname)

    assert found.enabled_drivers == ("pci_driver", "fake_driver")
    assert found.discover_interval_s == 5
    assert found.options["pci"] == {
        "device_spec": ['{"vendor_id": "10de"}', '{"vendor_id": "8086"}']}
    assert found.options["fake"] == {"num_devices": 3, "num_handles": 16}
    assert found.options.keys() == {"fake", "gpu_devices", "mdev", "nic_devices", "pci"}
