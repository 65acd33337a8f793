# SPDX-License-Identifier: Apache-2.0
"""The drivers of one host together: who has what, what a failure costs, what is prepared."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import ClassVar

import pytest

from cyborg_lite import buses
from cyborg_lite import codec
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.agent import hardware
from cyborg_lite.agent import installed
from cyborg_lite.agent import reports
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import fake
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import pci
from tests.drivers.machines import a_function
from tests.drivers.machines import tree

UUID = "5a1b6b2f-6f0d-4f43-9d0c-2f6d8a7e0001"
DEADLINE_S = 20


class Catalogue:
    """Drivers that are classes of a test."""

    def __init__(self, **drivers: type[base.Driver]) -> None:
        self._drivers = drivers

    def names(self) -> list[str]:
        return sorted(self._drivers)

    def load(self, name: str) -> type[base.Driver]:
        return self._drivers[name]


class Scripted(base.Driver):
    """Returns, or raises, what the test put into `answer`."""

    answer: ClassVar[Any] = ()

    def discover(self) -> list[messages.ReportedDevice]:
        answer = type(self).answer
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


def scripted(*answer: messages.ReportedDevice) -> type[Scripted]:
    return type("Own", (Scripted,), {"answer": answer})


def a_device(address: str = "0000:41:00.0", **fields: Any) -> messages.ReportedDevice:
    domain, bus, rest = address.split(":")
    info = {"domain": domain, "bus": bus, "device": rest[:2], "function": rest[3]}
    deployable = messages.ReportedDeployable(
        name=address, resource_class="PGPU",
        handles=[messages.ReportedHandle(type="PCI", info=info)])
    return messages.ReportedDevice(**{
        "address": address, "type": "GPU", "vendor": "10de", "model": "20f1", "driver": "",
        "deployables": [deployable], "pci_address": address, **fields})


def the_hardware(tmp_path: pathlib.Path, options: Mapping[str, Mapping[str, Any]] | None = None,
                 **drivers: type[base.Driver]) -> hardware.Hardware:
    return hardware.Hardware(list(drivers), options or {}, a_place(str(tmp_path)),
                             Catalogue(**drivers))


def a_place(root: str) -> hardware.Place:
    return hardware.Place(sysfs_root=root, proc_root="/nowhere", dev_root="/nowhere",
                          state_path="/nowhere")


def a_task(driver: str, uuid: str = UUID) -> messages.HandleTask:
    return messages.HandleTask(handle_uuid=uuid, deployable_name="d", device_address="a",
                               driver=driver, type="PCI", info={})


# --- loading ----------------------------------------------------------------------------------


def test_an_unknown_driver_is_a_configuration_error_that_names_the_installed_ones(
        tmp_path: pathlib.Path) -> None:
    catalogue = Catalogue(fake_driver=fake.FakeDriver, pci_driver=pci.PciDriver)

    with pytest.raises(base.ConfigurationError) as refusal:
        hardware.Hardware(["fake_driver", "gpu"], {}, a_place(str(tmp_path)), catalogue)

    assert str(refusal.value) == ("[agent] enabled_drivers: there is no driver 'gpu'; installed "
                                  "are fake_driver, pci_driver")


def test_a_bad_option_of_a_driver_is_a_configuration_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(base.ConfigurationError, match=r"\[pci\] device_spec = nonsense"):
        the_hardware(tmp_path, {"pci": {"device_spec": ["nonsense"]}}, pci_driver=pci.PciDriver)


def test_a_driver_gets_the_options_of_its_own_groups_only(tmp_path: pathlib.Path) -> None:
    seen: dict[str, Any] = {}

    class Curious(Scripted):
        option_groups: ClassVar[tuple[str, ...]] = ("mine", "absent")

        def __init__(self, environment: base.Environment) -> None:
            super().__init__(environment)
            seen.update(environment.options)

    the_hardware(tmp_path, {"mine": {"a": 1}, "fake": {"b": 2}}, curious=Curious)

    assert seen == {"mine": {"a": 1}, "absent": {}}


def test_a_driver_that_cannot_be_made_is_tried_again_at_each_discovery(
        tmp_path: pathlib.Path) -> None:
    class Late(Scripted):
        answer = (a_device(),)
        tries = 0

        def __init__(self, environment: base.Environment) -> None:
            type(self).tries += 1
            if self.tries < 3:
                raise OSError("the card is asleep")
            super().__init__(environment)

    machine = the_hardware(tmp_path, late=Late)

    first, second = machine.discover(), machine.discover()

    assert (first.failed_drivers, first.devices) == (["late"], [])
    assert (second.failed_drivers, len(second.devices)) == ([], 1)


def test_a_driver_of_another_package_needs_an_entry_point_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "outside-1.dist-info").mkdir()
    (tmp_path / "outside-1.dist-info/METADATA").write_text("Name: outside\nVersion: 1\n")
    (tmp_path / "outside-1.dist-info/entry_points.txt").write_text(
        f"[{installed.NAMESPACE}]\noutside_driver = outside_driver:Outside\n"
        "broken_driver = outside_driver:Absent\n")
    (tmp_path / "outside_driver.py").write_text(
        "from cyborg_lite.drivers import fake\n\n\nclass Outside(fake.FakeDriver):\n    pass\n")
    program = (
        "from cyborg_lite.agent import hardware\n"
        "machine = hardware.Hardware(['outside_driver', 'broken_driver'], {},\n"
        "                            hardware.Place(sysfs_root='/nowhere'))\n"
        "found = machine.discover()\n"
        "print([device.driver for device in found.devices], found.failed_drivers)\n")

    output = subprocess.run(
        [sys.executable, "-c", program], check=True, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
             "XDG_CACHE_HOME": str(tmp_path / "cache")}).stdout

    assert output == "['outside_driver'] ['broken_driver']\n"


# --- discovery --------------------------------------------------------------------------------


def test_a_driver_that_raises_costs_its_own_devices_only(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = scripted(a_device()), scripted()
    bad.answer = RuntimeError("no such card")
    machine = the_hardware(tmp_path, bad=bad, good=good)

    found = [machine.discover() for _ in range(3)][-1]

    assert [device.driver for device in found.devices] == ["good"]
    assert found.failed_drivers == ["bad"]
    assert caplog.text.count("driver bad failed") == 1


def test_a_failure_is_logged_again_when_its_reason_changes_and_when_it_is_over(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bad = scripted()
    machine = the_hardware(tmp_path, bad=bad)

    for answer in (RuntimeError("one"), RuntimeError("two"), (), ()):
        bad.answer = answer
        machine.discover()

    assert caplog.text.count("driver bad failed") == 2
    assert caplog.text.count("driver bad works again") == 1


@pytest.mark.parametrize("rubbish", [
    (None,), ("a card",), (a_device(vendor=object()),), (a_device(deployables=None),)],
    ids=["none", "text", "unencodable", "no-list"])
def test_a_driver_that_returns_rubbish_has_failed(rubbish: tuple[Any, ...],
                                                  tmp_path: pathlib.Path) -> None:
    bad = scripted(*rubbish)

    found = the_hardware(tmp_path, bad=bad, good=scripted(a_device())).discover()

    assert found.failed_drivers == ["bad"]
    assert [device.driver for device in found.devices] == ["good"]


def test_of_two_drivers_the_first_named_has_the_function(tmp_path: pathlib.Path) -> None:
    first = scripted(a_device("0000:41:00.0"))
    second = scripted(a_device("0000:41:00.0"), a_device("0000:42:00.0"))

    found = the_hardware(tmp_path, first=first, second=second).discover()

    assert [(device.address, device.driver) for device in found.devices] == [
        ("0000:41:00.0", "first"), ("0000:42:00.0", "second")]


def test_a_driver_is_told_what_drivers_before_it_have(tmp_path: pathlib.Path) -> None:
    reader = tree(tmp_path, a_function("0000:41:00.0", group=1),
                  a_function("0000:42:00.0", group=2))
    machine = hardware.Hardware(
        ["first", "pci_driver"], {"pci": {"device_spec": ['{"vendor_id": "10de"}']}},
        a_place(reader.root),
        Catalogue(first=scripted(a_device("0000:41:00.0")), pci_driver=pci.PciDriver))

    found = machine.discover()

    assert [(device.address, device.driver) for device in found.devices] == [
        ("0000:41:00.0", "first"), ("0000:42:00.0", "pci_driver")]


def test_functions_of_a_driver_that_fails_are_given_to_nobody_else(tmp_path: pathlib.Path) -> None:
    first, second = scripted(a_device()), scripted(a_device())
    machine = the_hardware(tmp_path, first=first, second=second)
    machine.discover()

    first.answer = RuntimeError("dead")
    found = machine.discover()

    assert found.devices == []
    assert found.failed_drivers == ["first"]


def test_a_name_is_reported_once(tmp_path: pathlib.Path) -> None:
    twice = [dataclasses.replace(a_device(address), address="same")
             for address in ("0000:41:00.0", "0000:42:00.0")]

    assert len(the_hardware(tmp_path, own=scripted(*twice)).discover().devices) == 1


def test_what_is_withheld_is_logged_once_until_the_reason_changes(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = tree(tmp_path, a_function("0000:41:00.0", total_vfs=4, num_vfs=2))
    machine = hardware.Hardware(
        ["pci_driver"], {"pci": {"device_spec": ['{"vendor_id": "10de"}']}},
        a_place(reader.root),
        Catalogue(pci_driver=pci.PciDriver))
    place = pathlib.Path(reader.root, reader.pci_functions()[0].path, "sriov_numvfs")
    place.chmod(0o644)

    for number in ("2", "2", "3"):
        place.write_text(number)
        machine.discover()

    assert [record.getMessage() for record in caplog.records] == [
        "driver pci_driver does not offer 0000:41:00.0: its virtual functions are enabled "
        f"({number} of them)" for number in (2, 3)]


def config_of(tmp_path: pathlib.Path, text: str) -> device_files.DeviceFiles:
    (tmp_path / "a.yaml").write_text(text)
    return device_files.read(str(tmp_path))


def test_what_is_withheld_is_in_the_discovery_unless_somebody_offers_it(
        tmp_path: pathlib.Path) -> None:
    class Picky(Scripted):
        def discover(self) -> list[messages.ReportedDevice]:
            self.withheld = {"0000:41:00.0": "no", "0000:42:00.0": "neither"}
            return []

    machine = the_hardware(tmp_path, first=Picky, second=scripted(a_device("0000:41:00.0")))

    assert machine.discover().withheld == [messages.WithheldFunction(
        address="0000:42:00.0", driver="first", reason="neither")]


def test_a_card_that_is_withheld_is_described_and_its_virtual_functions_are_not(
        tmp_path: pathlib.Path) -> None:
    class Careful(Scripted):
        def discover(self) -> list[messages.ReportedDevice]:
            self.withheld = {"0000:41:00.0": "its functions are enabled", "0000:41:00.4": "a VF"}
            return []

    reader = tree(tmp_path, a_function("0000:41:00.0"),
                  a_function("0000:41:00.4", physfn="0000:41:00.0"))
    machine = hardware.Hardware(["first"], {}, a_place(reader.root), Catalogue(first=Careful))

    card, part = machine.discover().withheld

    assert (card.type, card.vendor, card.model) == ("GPU", "10de", "20f1")
    assert (part.type, part.vendor) == (None, None)


def test_a_new_reason_changes_the_digest(tmp_path: pathlib.Path) -> None:
    reasons = iter(("one", "one", "two"))

    class Picky(Scripted):
        def discover(self) -> list[messages.ReportedDevice]:
            self.withheld = {"0000:41:00.0": next(reasons)}
            return []

    machine = the_hardware(tmp_path, picky=Picky)

    first, second, third = (machine.discover().digest for _ in range(3))

    assert first == second != third


def test_later_drivers_are_told_what_earlier_ones_withhold(tmp_path: pathlib.Path) -> None:
    told: list[dict[str, str]] = []

    class Picky(Scripted):
        def discover(self) -> list[messages.ReportedDevice]:
            self.withheld = {"0000:41:00.0": "its mode can't be read"}
            return []

    class Curious(Scripted):
        def discover(self) -> list[messages.ReportedDevice]:
            told.append(dict(self.environment.doubted))
            return []

    machine = the_hardware(tmp_path, picky=Picky, curious=Curious)
    for _ in range(2):
        machine.discover()

    assert told == [{"0000:41:00.0": "its mode can't be read"}] * 2


def test_what_is_never_offered_is_reported_by_no_driver_and_not_spoken_of(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = tree(tmp_path, a_function("0000:41:00.0"), a_function("0000:42:00.0", group=2))
    files = config_of(tmp_path, "version: 1\ndriver: first\ndevices:\n"
                                "- match: {address: '0000:41:00.0'}\n  offer: none\n")
    machine = hardware.Hardware(
        ["first", "pci_driver"], {"pci": {"device_spec": ['{"vendor_id": "10de"}']}},
        a_place(reader.root), Catalogue(first=scripted(a_device("0000:41:00.0")),
                                        pci_driver=pci.PciDriver), files=files)

    found = machine.discover()

    assert [device.address for device in found.devices] == ["0000:42:00.0"]
    assert found.withheld == []
    assert "0000:41:00.0" not in caplog.text


@pytest.mark.parametrize(("text", "complaint"), [
    ("version: 1\ndriver: own\ndevices: 7", "a.yaml: line 3, column 10: devices must be a list"),
    ("version: 1\ndriver: other\ndevices: 7", "a.yaml: line 3, column 10: devices must be a list"),
])
def test_a_bad_device_file_disables_its_driver_by_any_of_its_names(
        text: str, complaint: str, tmp_path: pathlib.Path,
        caplog: pytest.LogCaptureFixture) -> None:
    own = scripted(a_device())
    own.aliases = ("other",)
    machine = hardware.Hardware(["own", "good"], {}, a_place(str(tmp_path)), Catalogue(
        own=own, good=scripted(a_device("0000:42:00.0"))), files=config_of(tmp_path, text))

    found = [machine.discover() for _ in range(2)][-1]
    (result,) = machine.handles.clean([a_task("own")])

    assert found.failed_drivers == ["own"]
    assert [device.driver for device in found.devices] == ["good"]
    assert caplog.text.count(complaint) == 1
    assert complaint in (result.error or "")


def test_an_entry_that_only_the_driver_can_judge_disables_it_alone(tmp_path: pathlib.Path) -> None:
    class Strict(Scripted):
        def __init__(self, environment: base.Environment) -> None:
            super().__init__(environment)
            for entry in environment.devices.entries:
                raise base.EntryError(f"{entry.places['vgpu_type']}: there is no such type")

    files = config_of(tmp_path, "version: 1\ndriver: strict\ndevices:\n"
                                "- {match: {address: a}, vgpu_type: x}\n")
    machine = hardware.Hardware(["strict"], {}, a_place(str(tmp_path)), Catalogue(strict=Strict),
                                files=files)

    assert machine.discover().failed_drivers == ["strict"]
    assert "line 4, column 36: there is no such type" in machine.file_complaints["strict"]


class Arranging(Scripted, base.ArrangesDevices):
    """Does what the test says before each discovery."""

    act: ClassVar[Callable[[base.Environment], bool]]

    def arrange(self) -> bool:
        return type(self).act(self.environment)


def an_arranging(act: Callable[[base.Environment], bool]) -> type[Arranging]:
    return type("OwnArranging", (Arranging,), {"act": staticmethod(act)})


def test_devices_are_arranged_before_anybody_looks(tmp_path: pathlib.Path) -> None:
    (tmp_path / "word").write_text("old")

    def act(environment: base.Environment) -> bool:
        before = environment.sysfs.text("word")
        (tmp_path / "word").write_text("new")
        return before != "new"

    class Looking(Scripted):
        def discover(self) -> list[messages.ReportedDevice]:
            return [a_device(model=self.environment.sysfs.text("word"))]

    machine = the_hardware(tmp_path, looking=Looking, arranging=an_arranging(act))

    assert [device.model for device in machine.discover().devices] == ["new"]


def test_what_cannot_be_arranged_is_told_once_and_costs_no_device(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    def act(environment: base.Environment) -> bool:
        raise OSError("the card refuses")

    kind = an_arranging(act)
    kind.answer = (a_device(),)
    machine = the_hardware(tmp_path, own=kind)

    found = [machine.discover() for _ in range(3)][-1]

    assert (len(found.devices), found.failed_drivers) == (1, [])
    assert caplog.text.count("could not arrange its devices as wished") == 1


def test_the_pre_flight_arranges_nothing(tmp_path: pathlib.Path) -> None:
    done: list[str] = []

    def act(environment: base.Environment) -> bool:
        done.append("arranged")
        return True

    machine = hardware.Hardware(["own"], {}, a_place(str(tmp_path)),
                                Catalogue(own=an_arranging(act)), checking=True)
    machine.discover()

    assert done == []


# --- digest -----------------------------------------------------------------------------------


def test_the_digest_does_not_depend_on_any_order() -> None:
    handles = [messages.ReportedHandle(type="TEST_PCI", info={"n": str(n)}) for n in range(6)]
    deployables = [messages.ReportedDeployable(
        name=f"d{n}", resource_class="FPGA", handles=handles, traits=["A", "B", "C"])
        for n in range(3)]
    devices = [a_device(address="0000:41:00.0", deployables=deployables),
               a_device(address="0000:42:00.0", deployables=[])]

    shuffled = []
    order = random.Random(7)
    for device in reversed(devices):
        parts = [dataclasses.replace(
            each, handles=order.sample(handles, 6), traits=["C", "A", "B"])
            for each in order.sample(deployables, 3)] if device.deployables else []
        shuffled.append(dataclasses.replace(device, deployables=parts))

    assert reports.digest_of(devices, ["x", "y"]) == reports.digest_of(shuffled, ["y", "x"])


@pytest.mark.parametrize("change", [
    {"model": "20b5"}, {"numa_node": 1}, {"deployables": []}, {"vendor_board_info": "x"}])
def test_the_digest_tells_every_change(change: dict[str, Any]) -> None:
    assert reports.digest_of([a_device()], []) != reports.digest_of([a_device(**change)], [])


def test_a_failed_driver_changes_the_digest(tmp_path: pathlib.Path) -> None:
    own = scripted()
    machine = the_hardware(tmp_path, own=own)
    before = machine.discover().digest

    own.answer = RuntimeError("dead")

    assert machine.discover().digest != before


def test_the_digest_is_the_same_for_the_report_that_has_travelled(
        tmp_path: pathlib.Path) -> None:
    found = the_hardware(tmp_path, {"fake": {}}, fake_driver=fake.FakeDriver).discover()

    travelled = codec.decode(list[messages.ReportedDevice],
                           json.loads(json.dumps(codec.encode(found.devices))))

    assert reports.digest_of(travelled, []) == found.digest
    assert len(found.digest) == 64


# --- fake_driver ------------------------------------------------------------------------------


def test_fake_driver_reports_what_existing_test_suites_expect(tmp_path: pathlib.Path) -> None:
    (device,) = the_hardware(tmp_path, fake_driver=fake.FakeDriver).discover().devices

    (deployable,) = device.deployables
    assert (device.type, device.vendor, device.model) == ("FPGA", "0xABCD", "miss model info")
    assert device.driver == "fake_driver"
    assert (deployable.name, deployable.resource_class) == ("FakeDevice", "FPGA")
    assert deployable.traits == ["CUSTOM_FAKE_DEVICE"]
    assert {handle.type for handle in deployable.handles} == {"TEST_PCI"}
    assert len({json.dumps(handle.info) for handle in deployable.handles}) == 16
    assert not deployable.prepares
    assert not deployable.cleans


def test_many_fake_devices_share_no_name_and_no_handle(tmp_path: pathlib.Path) -> None:
    options = {"fake": {"num_devices": 64, "num_handles": 300}}

    devices = the_hardware(tmp_path, options, fake_driver=fake.FakeDriver).discover().devices

    handles = [json.dumps(handle.info, sort_keys=True) for device in devices
               for deployable in device.deployables for handle in deployable.handles]
    assert len({device.address for device in devices}) == 64
    assert len(set(handles)) == len(handles) == 64 * 300


def test_more_fake_handles_leave_those_of_other_devices_alone(tmp_path: pathlib.Path) -> None:
    def infos(num_handles: int) -> list[dict[str, str]]:
        options = {"fake": {"num_devices": 2, "num_handles": num_handles}}
        devices = the_hardware(tmp_path, options, fake_driver=fake.FakeDriver).discover().devices
        return [handle.info for handle in devices[1].deployables[0].handles]

    assert infos(32)[:16] == infos(16)


# --- handles ----------------------------------------------------------------------------------


class Worker(Scripted, base.PreparesHandles):
    """Notes what it is told to do; `act` may raise or wait."""

    act: ClassVar[Callable[[str, messages.HandleTask], None]]

    def prepare(self, task: messages.HandleTask) -> None:
        type(self).act("prepare", task)

    def clean(self, task: messages.HandleTask) -> None:
        type(self).act("clean", task)


def a_worker(act: Callable[[str, messages.HandleTask], None] = lambda *_: None,
             *answer: messages.ReportedDevice) -> type[Worker]:
    return type("OwnWorker", (Worker,), {"act": staticmethod(act), "answer": answer})


def test_deployables_of_a_driver_with_the_ability_need_both_steps(tmp_path: pathlib.Path) -> None:
    (device,) = the_hardware(tmp_path, own=a_worker(lambda *_: None, a_device())).discover().devices

    assert (device.deployables[0].prepares, device.deployables[0].cleans) == (True, True)


def test_what_the_driver_says_about_its_deployable_counts(tmp_path: pathlib.Path) -> None:
    device = a_device()
    told = [dataclasses.replace(device.deployables[0], cleans=True)]
    worker = a_worker(lambda *_: None, dataclasses.replace(device, deployables=told))

    (found,) = the_hardware(tmp_path, own=worker).discover().devices

    assert (found.deployables[0].prepares, found.deployables[0].cleans) == (False, True)


@pytest.mark.parametrize(("knows", "steps"), [(True, (False, False)), (False, (True, True))])
def test_a_driver_that_knows_its_steps_may_say_that_neither_is_needed(
        knows: bool, steps: tuple[bool, bool], tmp_path: pathlib.Path) -> None:
    worker = a_worker(lambda *_: None, a_device())
    worker.knows_steps = knows

    (found,) = the_hardware(tmp_path, own=worker).discover().devices

    assert (found.deployables[0].prepares, found.deployables[0].cleans) == steps


def test_a_driver_that_promises_a_step_it_cannot_do_has_failed(tmp_path: pathlib.Path) -> None:
    device = a_device()
    told = [dataclasses.replace(device.deployables[0], cleans=True)]

    found = the_hardware(
        tmp_path, own=scripted(dataclasses.replace(device, deployables=told))).discover()

    assert found.failed_drivers == ["own"]


def test_each_task_has_its_result_and_an_exception_is_its_error(tmp_path: pathlib.Path) -> None:
    done: list[tuple[str, str]] = []

    def act(work: str, task: messages.HandleTask) -> None:
        if task.handle_uuid == "bad":
            raise OSError("the card does not answer")
        done.append((work, task.handle_uuid))

    machine = the_hardware(tmp_path, own=a_worker(act), idle=scripted())

    results = machine.handles.prepare([
        a_task("own", "one"), a_task("own", "bad"), a_task("own", "two"), a_task("idle", "three"),
        a_task("gone", "four")])
    machine.handles.clean([a_task("own", "one")])

    assert [(result.handle_uuid, result.error) for result in results] == [
        ("one", None), ("bad", "the card does not answer"), ("two", None), ("three", None),
        ("four", "driver gone is not at work on this host; enabled are own, idle")]
    assert done == [("prepare", "one"), ("prepare", "two"), ("clean", "one")]


@pytest.mark.parametrize(("address", "kind", "gone"), [
    ("0000:41:00.0", "PCI", False), ("0000:42:00.0", "PCI", True), ("0000:42:00.0", "MDEV", True),
    ("0000:42:00.0", "TEST_PCI", False), (None, "MDEV", False)])
def test_a_clean_step_that_fails_tells_when_the_host_has_no_such_function(
        tmp_path: pathlib.Path, address: str | None, kind: str, gone: bool) -> None:
    def act(work: str, task: messages.HandleTask) -> None:
        raise RuntimeError("no answer")

    reader = tree(tmp_path, a_function("0000:41:00.0"))
    machine = hardware.Hardware(["own"], {}, a_place(reader.root), Catalogue(own=a_worker(act)))
    info = handle_slots.address_info(address) if address else {"parent": "mtty"}
    task = dataclasses.replace(a_task("own"), type=kind, info=info)

    assert [result.gone for result in machine.handles.clean([task])] == [gone]
    assert [result.gone for result in machine.handles.clean(
        [dataclasses.replace(task, driver="not enabled")])] == [gone]
    assert [result.gone for result in machine.handles.prepare([task])] == [False]


def test_an_exception_without_text_is_an_error_with_its_name(tmp_path: pathlib.Path) -> None:
    def act(work: str, task: messages.HandleTask) -> None:
        raise ValueError

    (result,) = the_hardware(tmp_path, own=a_worker(act)).handles.clean([a_task("own")])

    assert result.error == "ValueError"


def test_a_repeated_call_for_a_handle_waits_for_the_first_and_others_do_not(
        tmp_path: pathlib.Path) -> None:
    entered, release, log = threading.Event(), threading.Event(), []

    def act(work: str, task: messages.HandleTask) -> None:
        log.append(f"{work} {task.handle_uuid} begins")
        if work == "prepare" and task.handle_uuid == "one":
            entered.set()
            assert release.wait(DEADLINE_S)
        log.append(f"{work} {task.handle_uuid} ends")

    machine = the_hardware(tmp_path, own=a_worker(act))
    first = threading.Thread(target=machine.handles.prepare, args=([a_task("own", "one")],))
    second = threading.Thread(target=machine.handles.clean, args=([a_task("own", "one")],))
    first.start()
    assert entered.wait(DEADLINE_S)
    second.start()

    machine.handles.prepare([a_task("own", "two")])
    release.set()
    for thread in (first, second):
        thread.join(DEADLINE_S)

    assert log == ["prepare one begins", "prepare two begins", "prepare two ends",
                   "prepare one ends", "clean one begins", "clean one ends"]


def test_nothing_more_is_done_once_the_caller_was_told_it_failed(tmp_path: pathlib.Path) -> None:
    done: list[str] = []

    def act(work: str, task: messages.HandleTask) -> None:
        done.append(task.handle_uuid)

    def check_deadline() -> None:
        # the first takes until nobody waits for it any more
        if done:
            raise errors.DeadlinePassed()

    machine = hardware.Hardware(["own"], {}, a_place(str(tmp_path)),
                                Catalogue(own=a_worker(act)), check_deadline=check_deadline)

    with pytest.raises(errors.DeadlinePassed):
        machine.handles.prepare([a_task("own", "one"), a_task("own", "two")])

    assert done == ["one"]


def test_a_repetition_waits_for_long_work_no_longer_than_its_caller(
        tmp_path: pathlib.Path) -> None:
    begun, finish = threading.Event(), threading.Event()
    late: list[bool] = []

    def act(work: str, task: messages.HandleTask) -> None:
        begun.set()
        assert finish.wait(20)

    def check_deadline() -> None:
        if late:
            raise errors.DeadlinePassed()

    machine = hardware.Hardware(["own"], {}, a_place(str(tmp_path)),
                                Catalogue(own=a_worker(act)), check_deadline=check_deadline)
    first = threading.Thread(target=machine.handles.clean, args=([a_task("own")],))
    first.start()
    assert begun.wait(20)
    late.append(True)

    with pytest.raises(errors.DeadlinePassed):
        machine.handles.clean([a_task("own")])

    assert first.is_alive()
    finish.set()
    first.join(20)


def test_a_long_clean_does_not_keep_the_next_call_from_other_handles(
        tmp_path: pathlib.Path) -> None:
    begun, finish = threading.Event(), threading.Event()
    done: list[str] = []

    def act(work: str, task: messages.HandleTask) -> None:
        if task.handle_uuid == "long":
            begun.set()
            assert finish.wait(20)
        done.append(task.handle_uuid)
        finish.set()

    machine = the_hardware(tmp_path, own=a_worker(act))
    first = threading.Thread(target=machine.handles.clean, args=([a_task("own", "long")],))
    first.start()
    assert begun.wait(20)

    results = machine.handles.clean([a_task("own", "long"), a_task("own", "other")])

    first.join(20)
    assert done == ["other", "long", "long"]
    assert {result.handle_uuid: result.error for result in results} == {
        "long": None, "other": None}


def test_a_call_that_arrives_too_late_does_nothing(tmp_path: pathlib.Path) -> None:
    done: list[str] = []
    machine = the_hardware(tmp_path, own=a_worker(lambda work, task: done.append(work)))

    class Endpoint:
        @buses.exposed
        def prepare(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
            return machine.handles.prepare(tasks)

    reply = buses.Dispatcher(Endpoint()).dispatch(
        "prepare", {"deadline": 1.0}, {"tasks": codec.encode([a_task("own")])})

    assert reply["error"]["slug"] == errors.DeadlinePassed.slug
    assert done == []
