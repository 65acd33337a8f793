# SPDX-License-Identifier: Apache-2.0
"""An agent with nvidia_mig_driver: wishes at its start and from a conductor, and other drivers."""

from __future__ import annotations

import dataclasses
import pathlib
import threading
from collections.abc import Callable

import pytest

from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.agent import check
from cyborg_lite.agent import hardware
from cyborg_lite.agent import service
from cyborg_lite.agent import settings
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import nvidia_mig_work
from tests.drivers.nvidia_mig import lab
from tests.nvml import stand_in

Start = Callable[..., lab.Lab]
DEADLINE_S = 20
MIG, GPU, PCI = "nvidia_mig_driver", "nvidia_gpu_driver", "pci_driver"


class Conductor:
    """Knows what should exist, takes reports, and notes in which order it is asked."""

    def __init__(self) -> None:
        self.intent = messages.HostIntent()
        self.asked: list[str] = []
        self.reports: list[messages.HostReport] = []
        self.trouble: errors.Error | None = None
        self.on_intent: Callable[[], object] = lambda: None

    @buses.exposed
    def host_intent(self, host: str) -> messages.HostIntent:
        self.asked.append("host_intent")
        self.on_intent()
        if self.trouble:
            raise self.trouble
        return self.intent

    @buses.exposed
    def heartbeat(self, beat: messages.Heartbeat) -> messages.HeartbeatReply:
        wanted = not self.reports or self.reports[-1].digest != beat.digest
        return messages.HeartbeatReply(report_wanted=wanted)

    @buses.exposed
    def report(self, report: messages.HostReport) -> None:
        self.reports.append(report)

    def partitioning(self) -> messages.ReportedPartitioning:
        """Of the first device, as reported last."""
        found = self.reports[-1].devices[0].partitioning
        assert found is not None
        return found


class Host:
    def __init__(self, there: lab.Lab, *drivers: str) -> None:
        self.there = there
        self.drivers = drivers or (MIG,)
        self.conductor = Conductor()
        self.now = 1000.0
        self.bus = buses.LocalBus()
        self.bus.serve(rpc.CONDUCTOR_TOPIC, "c1", self.conductor)
        self.agent = self.started()

    def hardware(self, wanted: settings.Settings) -> hardware.Hardware:
        return hardware.Hardware(
            wanted.enabled_drivers, self.there.options,
            hardware.Place(sysfs_root=self.there.root, state_path=wanted.state_path),
            host=self.there.kernel)

    def started(self) -> service.Agent:
        wanted = settings.Settings(
            host="node7", resource_provider_name="node7", sysfs_root=self.there.root,
            enabled_drivers=self.drivers, state_path=str(self.there.folder / "state"),
            options=self.there.options)
        self.agent = service.Agent(lambda: wanted, rpc.ConductorClient(self.bus, 30.0),
                                   clock=lambda: self.now)
        self.agent.hardware = self.hardware(wanted)
        return self.agent

    def run(self) -> None:
        """One round of the agent: discovery, and a beat at once if it found a change."""
        self.agent.run_once()

    def apply(self, *wishes: messages.LayoutWish) -> list[messages.LayoutResult]:
        return self.agent.endpoint.apply_layouts(list(wishes))


# --- a wish of a conductor --------------------------------------------------------------------

def test_a_wish_is_applied_and_reported_at_once(host: Start) -> None:
    node = Host(host(lab.A100))
    node.run()
    before = len(node.conductor.reports)

    [result] = node.apply(lab.wish("3g.20gb", "1g.5gb*2", generation=4))
    node.run()

    assert result == messages.LayoutResult(device_address=lab.CARD, generation=4, fault=None)
    assert len(node.conductor.reports) == before + 1
    assert [each.profile for each in node.conductor.partitioning().partitions] == [
        "1g.5gb", "1g.5gb", "3g.20gb"]


def test_a_wish_that_fails_is_answered_and_shown_until_the_card_changes(host: Start) -> None:
    there = host(lab.A100)
    node = Host(there)
    node.run()

    with there.nvml.failing("nvmlDeviceCreateGpuInstanceWithPlacement:1=999"):
        [result] = node.apply(lab.wish("7g.40gb", generation=2))
    node.run()
    shown = node.conductor.partitioning()
    node.apply(lab.wish("7g.40gb", generation=3))
    node.run()

    assert "creating a partition" in (result.fault or "")
    assert shown.fault == result.fault
    assert shown.partitions == []
    assert node.conductor.partitioning().fault is None


def test_what_a_failed_try_left_is_as_before_only_once_it_is_reported(host: Start) -> None:
    there = host(lab.A100)
    node = Host(there)
    node.run()
    node.apply(lab.wish("1g.5gb*2", generation=1))
    node.run()

    with there.nvml.failing(";".join(f"nvmlDeviceCreateGpuInstanceWithPlacement:{nth}=999"
                                     for nth in range(1, 30))):
        tries = [node.apply(lab.wish("7g.40gb", generation=2))[0] for _ in range(3)]
        node.run()
        tries += node.apply(lab.wish("7g.40gb", generation=2))

    assert node.conductor.partitioning().partitions == []
    assert all(each.fault for each in tries)
    assert [each.is_as_before for each in tries] == [False, False, False, True]


def test_a_fault_is_not_shown_of_what_somebody_made_since(host: Start) -> None:
    there = host(lab.A100)
    node = Host(there)
    with there.nvml.failing("nvmlDeviceCreateGpuInstanceWithPlacement:1=999"):
        node.run()
        node.apply(lab.wish("7g.40gb"))
    node.run()
    there.kernel.create_partition(lab.CARD, 0, 0, 8)
    [number] = [each.id for each in there.device().partitioning.partitions]
    there.kernel.fill_partition(lab.CARD, number, 0, 0)
    node.now += 100

    node.run()

    assert node.conductor.partitioning().fault is None


def test_one_result_comes_back_for_each_wish(host: Start) -> None:
    node = Host(host(lab.A100, lab.H200))
    node.run()

    results = node.apply(lab.wish("9g.9gb"), lab.wish("7g.141gb", index=1, generation=9),
                         dataclasses.replace(lab.wish("7g.40gb"), driver="pci_driver"),
                         lab.wish("7g.40gb", index=7))

    assert [(each.device_address, each.generation, each.fault is None) for each in results] == [
        (lab.CARD, 1, False), (lab.address_of(1), 9, True), (lab.CARD, 1, False),
        (lab.address_of(7), 1, False)]
    assert "driver pci_driver is not at work on this host" in (results[2].fault or "")


def test_no_wish_is_taken_before_the_start_is_done(host: Start) -> None:
    node = Host(host(lab.A100))
    node.conductor.trouble = errors.Unavailable("no database")
    node.run()

    with pytest.raises(errors.Unavailable, match="has just started"):
        node.agent.restoration.wait(node.agent.hardware, 0)


def test_a_wish_waits_for_the_discovery_that_is_under_way(host: Start) -> None:
    node = Host(host(lab.A100))
    node.run()
    results: list[messages.LayoutResult] = []
    asking = threading.Thread(target=lambda: results.extend(node.apply(lab.wish("7g.40gb"))))

    with node.agent.hardware.between_discoveries():
        asking.start()
        changes = node.there.changes()
    asking.join(DEADLINE_S)

    assert changes == []
    assert [each.fault for each in results] == [None]


class SlowKernel(lab.Kernel):
    """Makes a partition only when it is told to."""

    def __init__(self, root: pathlib.Path) -> None:
        super().__init__(root)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def create_partition(self, address: str, profile_id: int, start: int, size: int) -> None:
        self.begun.set()
        assert self.go_on.wait(DEADLINE_S)
        super().create_partition(address, profile_id, start, size)


def test_a_reload_sees_no_card_that_is_half_split_and_splits_none_at_once(host: Start) -> None:
    there = host(lab.A100)
    kernel = there.kernel = SlowKernel(there.root)
    node = Host(there)
    node.run()
    before = node.agent.hardware
    results: list[messages.LayoutResult] = []
    splitting = threading.Thread(target=lambda: results.extend(
        node.apply(lab.wish("3g.20gb", "1g.5gb"))))
    splitting.start()
    assert kernel.begun.wait(DEADLINE_S)

    node.agent.settings = dataclasses.replace(node.agent.settings, report_interval_s=3.0)
    node.agent.reload()
    looking = threading.Thread(target=node.run)
    looking.start()
    looking.join(0.3)
    waited = looking.is_alive()
    kernel.go_on.set()
    splitting.join(DEADLINE_S)
    looking.join(DEADLINE_S)

    assert (waited, [each.fault for each in results]) == (True, [None])
    assert [each.profile for each in node.conductor.partitioning().partitions] == [
        "1g.5gb", "3g.20gb"]
    with pytest.raises(errors.Unavailable, match="configuration anew"), \
            before.between_discoveries():
        pass


# --- the start --------------------------------------------------------------------------------

def test_after_a_reboot_the_wish_is_applied_before_handles_and_reports(host: Start) -> None:
    there = host(lab.H100, way=None)
    node = Host(there)
    node.run()
    node.apply(lab.wish("3g.40gb", "1g.10gb"))
    node.conductor.intent = messages.HostIntent(layouts=[lab.wish("3g.40gb", "1g.10gb")])
    there.reboot()
    node.conductor.reports.clear()

    node.started().run_once()

    assert [each.profile for each in node.conductor.partitioning().partitions] == [
        "1g.10gb", "3g.40gb"]
    assert len(node.conductor.reports) == 1


@pytest.mark.parametrize("way", ["vendor", "mdev"])
def test_after_a_reboot_held_vgpus_are_in_their_partitions_again(host: Start, way: str) -> None:
    there = host(lab.A100, way=way)
    node = Host(there)
    node.run()
    node.apply(lab.wish("2g.10gb", "1g.5gb*2"))
    there.restart()
    task = there.tasks()["A100-1-5C"][1]
    assert [each.error for each in node.agent.endpoint.prepare([task])] == [None]
    made = len(there.kernel.mdevs()) + len(there.kernel.types_set())
    node.conductor.intent = messages.HostIntent(prepare=[task], layouts=[
        dataclasses.replace(lab.wish("2g.10gb", "1g.5gb*2"), held=True)])
    there.reboot()
    lost = len(there.kernel.mdevs()) + len(there.kernel.types_set())

    node.started().run_once()

    assert (made, lost) == (1, 0)
    assert len(there.kernel.mdevs()) + len(there.kernel.types_set()) == 1
    assert sorted(len(each.handles) for each in node.conductor.reports[-1].devices[0].deployables
                  ) == [1, 2]


def test_a_layout_that_fails_at_the_start_is_reported_and_stops_nothing(host: Start) -> None:
    there = host(stand_in.Card(lab.A100, resets=False), lab.H200)
    node = Host(there)
    node.conductor.intent = messages.HostIntent(layouts=[
        lab.wish("7g.40gb"), lab.wish("7g.141gb", index=1)])

    node.run()

    first, second = node.conductor.reports[-1].devices
    assert "waits for a reset" in (first.partitioning.fault or "")
    assert second.partitioning.fault is None
    assert [each.profile for each in second.partitioning.partitions] == ["7g.141gb"]


def test_a_card_that_nvml_knows_too_late_is_not_said_to_have_failed(host: Start) -> None:
    there = host(lab.A100)
    there.apply("3g.20gb")
    node = Host(there)
    node.conductor.intent = messages.HostIntent(layouts=[lab.wish("3g.20gb")])
    there.nvml.happen("no_driver", value=1)

    node.run()
    early = node.conductor.reports[-1]
    there.nvml.happen("no_driver", value=0)
    node.now += 100
    node.run()

    assert (early.devices, [each.address for each in early.withheld]) == ([], [lab.CARD])
    assert node.conductor.partitioning().fault is None
    assert [each.profile for each in node.conductor.partitioning().partitions] == ["3g.20gb"]


# --- the pre-flight ---------------------------------------------------------------------------

def test_the_pre_flight_says_why_a_split_card_offers_nothing(host: Start) -> None:
    there = host(stand_in.Card(lab.A100, resets=False), lab.H200, lab.H100)
    with pytest.raises(nvidia_mig_work.Fault):
        there.apply("7g.40gb")
    there.apply("3g.71gb", "1g.18gb*2", index=1)
    before = there.changes()

    result = check.run(settings.Settings(
        host="node7", resource_provider_name="node7", sysfs_root=there.root,
        enabled_drivers=(MIG,), state_path=str(there.folder / "none"), options=there.options))

    first, second, third = (row["reason"] for row in result.rows)
    assert "waits for a reset" in first
    assert second.startswith("it is split into 2x1g.18gb + 3g.71gb; a guest gets a partition only")
    assert third == "it is not split into partitions, and offers nothing until it is"
    assert result.problems == []
    assert there.changes() == before


# --- beside other drivers ---------------------------------------------------------------------

@pytest.mark.parametrize("order", [(MIG, GPU, PCI), (GPU, MIG, PCI), (PCI, MIG, GPU)])
def test_each_card_is_listed_once_whatever_the_order(host: Start, order: tuple[str, ...]) -> None:
    there = host(lab.A100, "T4", lab.H200)
    there.apply("3g.20gb")
    node = Host(there, *order)

    node.run()

    report = node.conductor.reports[-1]
    listed = [each.address for each in report.devices] + [
        each.address for each in report.withheld]
    assert sorted(listed) == [lab.address_of(index) for index in range(3)]


@pytest.mark.parametrize("order", [(MIG, GPU, PCI), (GPU, MIG, PCI)])
@pytest.mark.parametrize("way", ["vendor", "mdev"])
def test_partitions_are_offered_by_one_driver_whatever_the_order(
        host: Start, order: tuple[str, ...], way: str) -> None:
    there = host(lab.A100, way=way)
    there.apply("3g.20gb", "2g.10gb")
    node = Host(there, *order)

    node.run()

    report = node.conductor.reports[-1]
    [device] = report.devices
    assert (device.driver, len(device.deployables)) == (MIG, 2)
    assert len({each.address for each in report.withheld}) == len(report.withheld) == 6


def test_the_mig_driver_alone_is_enough(host: Start) -> None:
    node = Host(host(lab.A100, way="vendor"), MIG)
    node.run()

    node.apply(lab.wish("7g.40gb"))
    node.run()

    [device] = node.conductor.reports[-1].devices
    assert [each.name for each in device.deployables] == ["0000:41:00.0_A100-7-40C"]


def test_a_card_that_a_device_file_keeps_away_is_not_split(host: Start,
                                                           tmp_path: pathlib.Path) -> None:
    there = host(lab.A100)
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "a.yaml").write_text(
        "version: 1\ndriver: nvidia_mig_driver\ndevices:\n"
        "- match: {address: \"0000:41:00.0\"}\n  offer: none\n")
    node = Host(there)
    node.agent.hardware = hardware.Hardware(
        [MIG], there.options, hardware.Place(
            sysfs_root=there.root, state_path=str(there.folder / "state")),
        host=there.kernel, files=device_files.read(str(tmp_path / "devices")))
    node.run()

    [result] = node.apply(lab.wish("7g.40gb"))

    assert node.conductor.reports[-1].devices == []
    assert there.changes() == []
    assert "device file" in (result.fault or "")


def test_a_card_that_a_guest_has_is_not_touched(host: Start) -> None:
    there = host(lab.A100)
    node = Host(there)
    node.run()
    link = pathlib.Path(there.root, "bus/pci/devices", lab.CARD).resolve() / "driver"
    link.unlink()
    link.symlink_to(pathlib.Path(there.root, "bus/pci/drivers/vfio-pci"))
    event = link.parent / "uevent"
    event.write_text(event.read_text().replace("DRIVER=nvidia", "DRIVER=vfio-pci"))

    [result] = node.apply(lab.wish("7g.40gb"))

    assert "is on vfio-pci and not on nvidia" in (result.fault or "")
    assert there.changes() == []
