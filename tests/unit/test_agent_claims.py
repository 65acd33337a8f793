# SPDX-License-Identifier: Apache-2.0
"""An agent that may not speak for its host touches nothing; one that may is the only one."""

from __future__ import annotations

import logging
import pathlib
import threading
from collections.abc import Callable
from collections.abc import Collection

import pytest

from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.agent import claims
from cyborg_lite.agent import service
from cyborg_lite.agent import settings
from cyborg_lite.drivers import base
from cyborg_lite.drivers import fake
from tests.fixtures.scripted import Catalogue

DEADLINE_S = 20
TAKEN = errors.HostTaken("The agent of another machine speaks for host node7.")


# --- what an agent is known by ----------------------------------------------------------------


def a_machine(folder: pathlib.Path, boot_id: str) -> str:
    """The proc_root of a machine that has booted."""
    path = folder / "sys/kernel/random/boot_id"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{boot_id}\n")
    return str(folder)


def test_an_agent_is_the_same_until_its_machine_boots_again(tmp_path: pathlib.Path) -> None:
    first = claims.agent_id(a_machine(tmp_path, "b1"), "node7")

    assert first is not None
    assert claims.agent_id(str(tmp_path), "node7") == first
    assert claims.agent_id(str(tmp_path), "node8") != first
    assert claims.agent_id(a_machine(tmp_path, "b2"), "node7") != first
    assert len(first) == 64


def test_a_machine_without_a_boot_id_is_anonymous(tmp_path: pathlib.Path) -> None:
    assert claims.agent_id(str(tmp_path), "node7") is None
    assert claims.agent_id(a_machine(tmp_path, ""), "node7") is None


# --- one agent of a name on a machine ---------------------------------------------------------


def test_a_second_agent_of_the_same_name_is_told_what_to_do(tmp_path: pathlib.Path) -> None:
    state_path = str(tmp_path / "state")
    held = claims.hold_name(state_path, "node7")
    assert held is not None

    with pytest.raises(claims.NameInUse) as refusal:
        claims.hold_name(state_path, "node7")

    assert "[DEFAULT] host = node7: another agent of this machine" in str(refusal.value)
    assert f"holds {state_path}/agent-node7.lock" in str(refusal.value)
    other = claims.hold_name(state_path, "node8")
    assert other is not None
    other.close()
    held.close()
    again = claims.hold_name(state_path, "node7")
    assert again is not None
    again.close()


def test_where_nothing_can_be_written_the_agent_starts_with_a_warning(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")

    assert claims.hold_name(str(tmp_path / "state"), "node7") is None

    assert "nothing keeps a second agent of host node7 from starting" in caplog.text


# --- an agent and its conductor ---------------------------------------------------------------


class Conductor:
    """Accepts agents, or refuses them."""

    def __init__(self) -> None:
        self.refusal: errors.Error | None = None
        self.only_claims = False
        self.asked: list[str] = []
        self.agent_ids: set[str | None] = set()

    def _note(self, what: str, agent_id: str | None) -> None:
        self.asked.append(what)
        self.agent_ids.add(agent_id)
        if self.refusal and not (self.only_claims and what != "claim"):
            raise self.refusal

    @buses.exposed
    def claim_host(self, host: str, agent_id: str | None) -> None:
        self._note("claim", agent_id)

    @buses.exposed
    def host_intent(self, host: str) -> messages.HostIntent:
        self.asked.append("host_intent")
        return messages.HostIntent()

    @buses.exposed
    def heartbeat(self, beat: messages.Heartbeat) -> messages.HeartbeatReply:
        self._note("heartbeat", beat.agent_id)
        return messages.HeartbeatReply(report_wanted=True)

    @buses.exposed
    def report(self, report: messages.HostReport) -> None:
        self._note("report", report.agent_id)


class Keeping(fake.FakeDriver, base.RestoresHandles):
    """A driver that keeps what it made, and notes what it is asked."""

    asked: list[str]

    def discover(self) -> list[messages.ReportedDevice]:
        self.asked.append("discover")
        return super().discover()

    def prepare(self, task: messages.HandleTask) -> None:
        self.asked.append("prepare")

    def clean(self, task: messages.HandleTask) -> None:
        self.asked.append("clean")

    def made(self) -> set[str]:
        self.asked.append("made")
        return set()

    def remove_unneeded(self, handles: Collection[str]) -> None:
        self.asked.append("remove_unneeded")


class Host:
    """An agent on a local bus, its conductor and a clock."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.conductor = Conductor()
        self.bus = buses.LocalBus()
        self.bus.serve(rpc.CONDUCTOR_TOPIC, "c1", self.conductor)
        self.now = 1000.0
        self.asked: list[str] = []
        driver = type("Own", (Keeping,), {"asked": self.asked})
        wanted = settings.Settings(
            host="node7", resource_provider_name="node7", enabled_drivers=("own_driver",),
            sysfs_root=str(folder), proc_root=a_machine(folder / "proc", "b1"),
            options={"fake": {"num_devices": 1, "num_handles": 2}})

        self.agent = service.Agent(
            lambda: wanted, rpc.ConductorClient(self.bus, 30.0),
            catalogue=Catalogue(own_driver=driver), clock=lambda: self.now,
            serve=lambda endpoint: self.bus.serve(rpc.AGENT_TOPIC, "node7", endpoint))

    def rounds(self, number: int, seconds: float = 10) -> None:
        for _ in range(number):
            self.agent.run_once()
            self.now += seconds

    def answers(self) -> bool:
        """Whether a conductor that asks the host gets an answer."""
        try:
            rpc.AgentClient(self.bus, 30.0).prepare("node7", [])
        except errors.Unavailable:
            return False
        return True


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path)


def ended(thread_name: str) -> bool:
    for thread in threading.enumerate():
        if thread.name == thread_name:
            thread.join(DEADLINE_S)
    return True


def test_the_first_thing_an_agent_does_is_to_ask_for_its_host(host: Host) -> None:
    assert not host.answers()

    host.rounds(1)

    assert host.conductor.asked == ["claim", "host_intent", "heartbeat", "report"]
    assert host.asked == ["made", "remove_unneeded", "discover"]
    assert host.conductor.agent_ids == {host.agent.claim.identity}
    assert host.agent.claim.identity is not None
    assert host.answers()


def test_a_refused_agent_touches_nothing_answers_nothing_and_says_so_once(
        host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.conductor.refusal = TAKEN

    host.rounds(20)

    assert set(host.conductor.asked) == {"claim"}
    assert 10 <= len(host.conductor.asked) <= 25
    assert host.asked == []
    assert not host.answers()
    assert [record.levelname for record in caplog.records
            if TAKEN.detail in record.getMessage()] == ["ERROR"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == [
        record for record in caplog.records if TAKEN.detail in record.getMessage()]


def test_a_refused_agent_goes_on_as_if_it_had_started_once_it_is_accepted(
        host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    host.conductor.refusal = TAKEN
    host.rounds(5)
    host.conductor.refusal = None

    host.rounds(3)

    assert host.asked == ["made", "remove_unneeded", "discover"]
    assert host.conductor.asked.count("host_intent") == 1
    assert "report" in host.conductor.asked
    assert host.answers()
    assert "this agent is the one that speaks for it now" in caplog.text


@pytest.mark.parametrize("refuses", ["heartbeat", "report"])
def test_an_agent_whose_host_was_given_to_another_stops_and_later_begins_anew(
        host: Host, refuses: str) -> None:
    host.rounds(1)
    assert host.answers()
    endpoint = host.agent.endpoint
    host.conductor.refusal = TAKEN
    host.asked.clear()

    host.rounds(3)
    assert ended("agent-refused")

    assert not host.answers()
    # also a call that was on its way
    with pytest.raises(errors.Unavailable, match="does not speak for host node7"):
        endpoint.prepare([])
    with pytest.raises(errors.Unavailable):
        endpoint.clean([])
    assert host.asked == []

    host.conductor.refusal = None
    host.rounds(3)
    assert host.asked == ["made", "remove_unneeded", "discover"]
    assert host.answers()


def test_a_conductor_of_the_first_release_believes_every_agent(host: Host) -> None:
    host.conductor.refusal = errors.TooOld("This service is too old to know claim_host.")
    host.conductor.only_claims = True
    host.rounds(1)

    assert host.asked == ["made", "remove_unneeded", "discover"]
    assert host.answers()


def test_an_agent_that_stops_answers_no_more(host: Host) -> None:
    host.rounds(1)

    host.agent.stop()
    host.agent.claim.granted()

    assert not host.answers()


def test_the_threads_of_a_refused_agent_end_when_told(host: Host) -> None:
    host.conductor.refusal = TAKEN
    asked = threading.Event()
    note: Callable[[str, str | None], None] = host.conductor._note

    def noted(what: str, agent_id: str | None) -> None:
        asked.set()
        note(what, agent_id)

    host.conductor._note = noted  # type: ignore[method-assign]
    host.agent.start()
    assert asked.wait(DEADLINE_S)
    host.agent.stop()

    assert [thread for thread in threading.enumerate() if thread.name.startswith("agent-")] == []
