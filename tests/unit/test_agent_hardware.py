# SPDX-License-Identifier: Apache-2.0
"""The drivers of one host together: how they are loaded, who has what, what a failure costs."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from typing import ClassVar

import pytest

from cyborg_lite import messages
from cyborg_lite.agent import hardware
from cyborg_lite.agent import installed
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import fake
from cyborg_lite.drivers import pci
from tests.drivers.machines import a_function
from tests.drivers.machines import tree
from tests.fixtures.scripted import a_device
from tests.fixtures.scripted import a_place
from tests.fixtures.scripted import a_task
from tests.fixtures.scripted import Catalogue
from tests.fixtures.scripted import Scripted
from tests.fixtures.scripted import scripted
from tests.fixtures.scripted import the_hardware

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
