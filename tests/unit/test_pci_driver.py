# SPDX-License-Identifier: Apache-2.0
"""pci_driver by device file: what is offered how, virtual functions, another driver, reset."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import pci
from cyborg_lite.drivers import pci_work
from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import virtual_functions
from tests.drivers import machines
from tests.drivers.machines import a_function
from tests.drivers.played_kernel import PlayedKernel

ADDRESS = "0000:41:00.0"
NEIGHBOUR = "0000:41:00.1"


def a_nic(**fields: object) -> list[recorded.Entry]:
    return a_function(ADDRESS, **{"vendor": "8086", "product": "1572", "code": "020000",  # type: ignore[arg-type]
                                  "driver": "i40e", "total_vfs": 4, **fields})


class Bench:
    """A driver on a machine whose kernel plays along."""

    def __init__(self, tmp_path: pathlib.Path, devices: str, *functions: list[recorded.Entry],
                 spec: str | None = None, proc: str = "/nowhere",
                 claimed: set[str] | None = None, doubted: dict[str, str] | None = None) -> None:
        text = f"version: 1\ndriver: pci_driver\ndevices: {devices}\n"
        driver, entries = device_files.parse(text, "pci.yaml")
        self.reader = machines.tree(tmp_path, *functions)
        self.kernel = PlayedKernel(self.reader.root)
        self.environment = base.Environment(
            self.reader, {"pci": {"device_spec": [spec] if spec else []}}, claimed or set(),
            doubted or {}, devices=device_files.DeviceFiles({driver: entries}).of([driver]),
            proc_root=proc, host=self.kernel)
        self.driver = pci.PciDriver(self.environment)

    def discover(self) -> dict[str, messages.ReportedDeployable]:
        self.reader.begin_pass()
        return {device.address: device.deployables[0] for device in self.driver.discover()}

    def driver_of(self, address: str) -> str | None:
        function = sysfs.Sysfs(self.reader.root).pci_function(address)
        return function.driver if function else None


def a_task(address: str = ADDRESS) -> messages.HandleTask:
    domain, bus, rest = address.split(":")
    return messages.HandleTask(
        handle_uuid="u", deployable_name=address, device_address=address, driver="pci_driver",
        type="PCI", info={"domain": domain, "bus": bus, "device": rest[:2], "function": rest[3]})


# --- what is offered --------------------------------------------------------------------------


def test_a_device_file_alone_offers_a_function_with_its_class_and_traits(
        tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, '[{match: {vendor_id: 10de}, resource_class: big, traits: [rack]}]',
                  a_function(ADDRESS), a_function("0000:42:00.0", vendor="8086", group=2))

    (deployable,) = bench.discover().values()

    assert (deployable.name, deployable.resource_class) == (ADDRESS, "CUSTOM_BIG")
    assert deployable.traits == ["CUSTOM_PCI_NVIDIA", "CUSTOM_PCI_PRODUCT_ID_20F1", "CUSTOM_RACK"]
    assert (deployable.prepares, deployable.cleans) == (False, False)


def test_a_device_file_goes_before_the_option_and_both_traits_count(
        tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, "[{match: {vendor_id: 10de}, traits: [file]}]", a_function(ADDRESS),
                  spec='{"vendor_id": "10de", "resource_class": "option", "traits": "option"}')

    (deployable,) = bench.discover().values()

    assert deployable.resource_class == "CUSTOM_OPTION"
    assert {"CUSTOM_FILE", "CUSTOM_OPTION"} < set(deployable.traits)


def test_what_is_never_offered_is_not_though_the_option_means_it(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, f"[{{match: {{address: '{ADDRESS}'}}, offer: none}}]",
                  a_function(ADDRESS), a_function("0000:42:00.0", group=2),
                  spec='{"vendor_id": "10de"}')

    assert list(bench.discover()) == ["0000:42:00.0"]
    assert "offer: none" in bench.driver.withheld[ADDRESS]


def test_offer_vf_offers_the_virtual_functions_and_not_their_parent(
        tmp_path: pathlib.Path) -> None:
    bench = Bench(
        tmp_path, f"[{{match: {{address: '{ADDRESS}'}}, offer: vf, traits: [fast]}}]",
        a_nic(num_vfs=1),
        a_function(NEIGHBOUR, vendor="8086", code="020000", group=2, physfn=ADDRESS))

    found = bench.discover()

    assert list(found) == [NEIGHBOUR]
    assert "CUSTOM_FAST" in found[NEIGHBOUR].traits
    assert bench.driver.withheld == {ADDRESS: "its device file offers its virtual functions "
                                              "(offer: vf)"}


def test_offer_whole_offers_no_virtual_function(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, "[{match: {vendor_id: 8086}, offer: whole}]", a_nic(driver=None),
                  a_function("0000:42:00.1", vendor="8086", group=2, physfn="0000:42:00.0"))

    assert list(bench.discover()) == [ADDRESS]
    assert "it is a virtual function" in bench.driver.withheld["0000:42:00.1"]


def test_a_named_function_that_is_absent_is_told(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, f"[{{match: {{address: '{ADDRESS}'}}}}]")

    assert bench.discover() == {}
    assert bench.driver.withheld == {ADDRESS: "there is no such function"}


@pytest.mark.parametrize(("driver", "offered"), [("nvidia", False), ("vfio-pci", True)])
def test_a_card_that_another_driver_withholds_on_its_host_driver_is_withheld_here_too(
        driver: str, offered: bool, tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, "[]", a_function(ADDRESS, driver=driver),
                  spec='{"vendor_id": "10de"}', doubted={ADDRESS: "its MIG mode can't be read"})

    assert list(bench.discover()) == ([ADDRESS] if offered else [])
    assert bench.driver.withheld == ({} if offered else {ADDRESS: "its MIG mode can't be read"})


@pytest.mark.parametrize(("driver", "entries", "offered"), [
    ("nvidia", "[]", False), ("vfio-pci", "[]", True), (None, "[]", True),
    ("nvidia", f"[{{match: {{address: '{ADDRESS}'}}, driver_override: vfio-pci}}]", True)])
def test_an_nvidia_card_on_its_host_driver_cannot_be_judged_here(
        driver: str | None, entries: str, offered: bool, tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, entries, a_function(ADDRESS, driver=driver),
                  spec='{"vendor_id": "10de"}')

    assert list(bench.discover()) == ([ADDRESS] if offered else [])
    assert offered or "name nvidia_gpu_driver before" in bench.driver.withheld[ADDRESS]


# --- virtual functions ------------------------------------------------------------------------

VF = f"[{{match: {{address: '{ADDRESS}'}}, offer: vf, num_vfs: 2}}]"


def test_virtual_functions_are_made_once(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, VF, a_nic())

    changes = []
    for _ in range(3):
        bench.reader.begin_pass()
        changes.append(bench.driver.arrange())

    assert changes == [True, False, False]
    assert bench.kernel.written == [("num_vfs", ADDRESS, "2")]
    assert list(bench.discover()) == ["0000:41:00.1", "0000:41:00.2"]


@pytest.mark.parametrize(("nic", "reason"), [
    (a_nic(num_vfs=3), "it has 3, which may belong to guests"),
    (a_nic(total_vfs=1), "it can have at most 1"),
    (a_nic(driver="vfio-pci"), "it is on vfio-pci"),
    (a_nic(driver=None), "it is on none")])
def test_what_cannot_be_had_is_a_problem_and_nothing_is_written(
        nic: list[recorded.Entry], reason: str, tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, VF, nic)
    bench.discover()

    with pytest.raises(virtual_functions.Impossible, match=reason):
        bench.driver.arrange()

    assert bench.kernel.written == []
    assert reason in bench.driver.problems[0].what


def test_a_driver_that_makes_fewer_is_told(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, VF, a_nic())
    bench.kernel.short_of = 1

    with pytest.raises(virtual_functions.Impossible, match="2 virtual functions were asked for, "
                                                           "its driver made 1"):
        bench.driver.arrange()


# --- another driver ---------------------------------------------------------------------------

MOVE = "[{match: {vendor_id: 8086}, driver_override: vfio-pci}]"


def test_a_function_is_put_on_the_asked_driver_before_use_and_stays(
        tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, MOVE, a_nic())
    before = bench.discover()

    for _ in range(2):
        bench.driver.prepare(a_task())

    assert bench.driver_of(ADDRESS) == "vfio-pci"
    assert bench.kernel.written == [("override", ADDRESS, "vfio-pci"), ("unbind", ADDRESS),
                                    ("probe", ADDRESS)]
    assert before[ADDRESS].prepares
    assert bench.discover() == before


def test_the_whole_group_moves_when_all_of_it_is_given_away(tmp_path: pathlib.Path) -> None:
    audio = a_function(NEIGHBOUR, vendor="8086", code="040300", driver="snd_hda_intel")
    bench = Bench(tmp_path, MOVE, a_nic(), audio)

    assert list(bench.discover()) == [ADDRESS]
    bench.driver.prepare(a_task())

    assert [bench.driver_of(each) for each in (ADDRESS, NEIGHBOUR)] == ["vfio-pci", "vfio-pci"]


def test_a_neighbour_that_no_entry_gives_away_is_left_alone(tmp_path: pathlib.Path) -> None:
    audio = a_function(NEIGHBOUR, vendor="10de", code="040300", driver="snd_hda_intel")
    bench = Bench(tmp_path, MOVE, a_nic(), audio)

    with pytest.raises(pci_work.Refused, match="snd_hda_intel"):
        bench.driver.prepare(a_task())

    assert bench.discover() == {}
    assert bench.kernel.written == []


def test_a_function_in_use_is_not_taken_from_its_driver(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, MOVE, a_nic(files={"net/e0/flags": "0x1003"}))

    with pytest.raises(pci_work.Refused, match="its interface e0 is up"):
        bench.driver.prepare(a_task())

    assert bench.kernel.written == []
    assert bench.driver.discover() == []


def test_a_disk_is_offered_for_another_driver_only_while_nothing_uses_it(
        tmp_path: pathlib.Path) -> None:
    mounts = tmp_path / "proc/1/mountinfo"
    mounts.parent.mkdir(parents=True)
    mounts.write_text("9 1 259:9 / / rw - ext4 /dev/sda rw\n")
    bench = Bench(tmp_path, MOVE, a_nic(code="010802", driver="nvme", total_vfs=None),
                  machines.a_disk(f"pci0000:41/{ADDRESS}/nvme/nvme0"), proc=str(tmp_path / "proc"))

    free = list(bench.discover())
    mounts.write_text("9 1 259:0 / /data rw - ext4 /dev/nvme0n1 rw\n")

    assert free == [ADDRESS]
    assert bench.discover() == {}
    assert bench.driver.withheld[ADDRESS] == "its disk nvme0n1 is mounted at /data"


def test_a_driver_that_is_not_loaded_is_an_error(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, MOVE, a_nic())
    bench.kernel.modules = ()

    with pytest.raises(pci_work.Refused, match="is on no driver; is the module vfio-pci loaded"):
        bench.driver.prepare(a_task())


# --- reset ------------------------------------------------------------------------------------

RESET = "[{match: {vendor_id: 10de}, clean: reset}]"
RESETTABLE = {"reset": "", "reset_method": "flr bus", "enable": "0"}


def test_a_function_is_reset_before_it_is_given_on(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, RESET, a_function(ADDRESS, files=RESETTABLE))

    deployable = bench.discover()[ADDRESS]
    bench.driver.clean(a_task())

    assert (deployable.prepares, deployable.cleans) == (False, True)
    assert bench.kernel.written == [("reset", ADDRESS)]


@pytest.mark.parametrize(("files", "reason"), [
    ({}, "the kernel knows no way"),
    ({**RESETTABLE, "reset_method": ""}, "the kernel knows no way"),
    ({**RESETTABLE, "enable": "1"}, "a guest has it")])
def test_what_cannot_be_reset_when_asked_fails(files: dict[str, str], reason: str,
                                               tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, RESET, a_function(ADDRESS, files=files))

    with pytest.raises(pci_work.Refused, match=reason):
        bench.driver.clean(a_task())

    assert bench.kernel.written == []


def test_a_reset_that_the_kernel_refuses_fails(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, RESET, a_function(ADDRESS, files=RESETTABLE))
    bench.kernel.reset_error = OSError(25, "Inappropriate ioctl for device")

    with pytest.raises(pci_work.Refused, match="was not reset by flr bus: Inappropriate ioctl"):
        bench.driver.clean(a_task())


def test_what_could_never_be_reset_is_not_offered(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, RESET, a_function(ADDRESS))

    assert bench.discover() == {}
    assert "has no way to be reset" in bench.driver.withheld[ADDRESS]


def test_without_a_device_file_nothing_is_done_around_a_handle(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, "[]", a_nic(), spec='{"vendor_id": "8086"}')

    bench.driver.prepare(a_task())
    bench.driver.clean(a_task())

    assert bench.kernel.written == []


def test_a_function_that_is_gone_is_an_error(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, RESET)

    with pytest.raises(pci_work.Refused, match=f"there is no function {ADDRESS}"):
        bench.driver.clean(dataclasses.replace(a_task()))
