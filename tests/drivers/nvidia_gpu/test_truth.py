# SPDX-License-Identifier: Apache-2.0
"""What users reported of inventories that lie, and what a whole GPU must not be.

Reports: one card listed a hundredfold, carved cards offered whole, cards in use by the host.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from cyborg_lite import messages
from cyborg_lite.agent import hardware
from cyborg_lite.db import binds
from cyborg_lite.db import models
from cyborg_lite.db import session
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import nvidia_gpu
from cyborg_lite.drivers import nvml
from cyborg_lite.drivers import sysfs
from tests.drivers import machines
from tests.drivers import vgpu_machines
from tests.fixtures import builders
from tests.fixtures import databases
from tests.nvml import stand_in

GPU = "0000:41:00.0"


def a_driver(root: str, folder: pathlib.Path, *entries: device_config.Entry,
             **options: Any) -> nvidia_gpu.NvidiaGpuDriver:
    return nvidia_gpu.NvidiaGpuDriver(base.Environment(
        sysfs.Sysfs(root), {"gpu_devices": options}, state_path=str(folder / "state"),
        devices=device_config.DeviceConfig(entries), host=vgpu_machines.Gpus(root)))


def discovered(folder: pathlib.Path, *machine: vgpu_machines.Entries,
               **options: Any) -> tuple[dict[str, str], dict[str, str]]:
    """The resource class of each device, and what is withheld."""
    driver = a_driver(machines.tree(folder, *machine).root, folder, **options)
    found = {device.address: device.deployables[0].resource_class
             for device in driver.discover()}
    return found, driver.withheld


@contextlib.contextmanager
def cards(library: pathlib.Path, folder: pathlib.Path,
          *models: stand_in.Card) -> Iterator[stand_in.Host]:
    """NVML has these cards, the first at 0000:41:00.0."""
    with stand_in.Host(library, folder / "nvml", models).here() as host:
        yield host


# --- users' reports -----------------------------------------------------------------------------


def test_four_cards_with_virtual_functions_are_no_148_gpus(tmp_path: pathlib.Path) -> None:
    """Report 1: functions of carved cards; here nobody even set up vGPUs on them."""
    machine = [vgpu_machines.on_functions(f"0000:{bus}:00.0", number * 50, count=0)
               for number, bus in enumerate(("17", "3b"))]
    for number, bus in enumerate(("ca", "e3"), 5):
        parent = f"0000:{bus}:00.0"
        machine.append(machines.a_function(
            parent, driver="vfio-pci", group=number * 50, total_vfs=36, num_vfs=36))
        machine += [machines.a_function(child, driver="vfio-pci", physfn=parent,
                                        group=number * 50 + place)
                    for place, child in enumerate(
                        vgpu_machines.virtual_addresses(parent, 36), 1)]

    found, withheld = discovered(tmp_path, *machine)

    # two are on the nvidia driver, and no NVML says whether they are free
    assert found == {}
    assert len(withheld) == 4 + 2 * 36


def test_a_card_is_not_offered_as_what_it_is_not_carved_into(tmp_path: pathlib.Path) -> None:
    """Report 2: the report and the state of the card are one and the same reading."""
    root = machines.tree(tmp_path, vgpu_machines.vendor(GPU, 10, count=8)).root
    driver = a_driver(root, tmp_path)
    kernel = driver.environment.host
    assert isinstance(kernel, vgpu_machines.Gpus)
    for address in vgpu_machines.virtual_addresses(GPU, 8, first=2):
        (pathlib.Path(root) / f"bus/pci/devices/{address}/nvidia/creatable_vgpu_types").write_text(
            "")

    assert driver.discover() == []
    assert "creatable_vgpu_types" in driver.withheld[GPU]


def test_virtual_functions_are_no_accelerators_by_themselves(tmp_path: pathlib.Path) -> None:
    """Report 3: each VF of an A100 was a whole GPU."""
    found, withheld = discovered(tmp_path, vgpu_machines.on_functions(GPU, 10))

    assert found == {GPU: "VGPU"}
    assert len(withheld) == 12


def test_what_is_offered_no_more_while_in_use_keeps_its_handle(
        tmp_path: pathlib.Path, sqlite: session.Database) -> None:
    """Report 4: a filter orphaned allocations. A handle in use goes missing and isn't dropped."""
    root = machines.tree(tmp_path, vgpu_machines.on_card(GPU, 1)).root
    builders.store(sqlite, builders.a_report(a_driver(root, tmp_path).discover()))
    binds.start(sqlite, builders.bind_requests(
        builders.new_arqs(sqlite), provider=builders.rp_uuid(GPU)), builders.an_owner(), None)
    never = device_config.Entry(match=device_config.Match(address=GPU), offer="none")

    builders.store(sqlite, builders.a_report(a_driver(root, tmp_path, never).discover()))

    [handle] = databases.all_rows(sqlite, models.attach_handles)
    assert handle["state"] == "missing"
    assert len(databases.all_rows(sqlite, models.deployables)) == 1


def test_a_function_is_judged_again_when_it_is_bound(tmp_path: pathlib.Path) -> None:
    """Report 5: a list older than the state of the card. The work checks before it writes."""
    root = machines.tree(tmp_path, vgpu_machines.vendor(GPU, 10, count=8)).root
    driver = a_driver(root, tmp_path)
    [device] = driver.discover()
    handle = device.deployables[0].handles[0]
    driver.environment.host.set_vgpu_type("0000:41:00.2", 1521)

    with pytest.raises(Exception, match="something else uses it"):
        driver.prepare(messages.HandleTask(
            handle_uuid=builders.new_uuid(), deployable_name=GPU, device_address=GPU,
            driver="nvidia_gpu_driver", type="PCI", info=handle.info))


def test_a_card_on_vfio_pci_is_whole_and_reading_binds_nothing(tmp_path: pathlib.Path) -> None:
    """Report 6: capabilities were probed through the native driver."""
    root = machines.tree(tmp_path, machines.a_function(
        GPU, product="2bb5", driver="vfio-pci", group=1, total_vfs=48)).root
    driver = a_driver(root, tmp_path)

    [device] = driver.discover()

    assert device.deployables[0].resource_class == "PGPU"
    assert (pathlib.Path(root) / "bus/pci/devices" / GPU / "driver").readlink().name == "vfio-pci"


def test_the_traits_of_a_changed_device_are_set_anew(tmp_path: pathlib.Path) -> None:
    """Report 7: the whole list is reported, so that old traits can go."""
    root = machines.tree(tmp_path, vgpu_machines.on_card(GPU, 1)).root
    traits = [a_driver(root, tmp_path, enabled_vgpu_types=[word]).discover()[0].deployables[0]
              .traits for word in ("T4-2B", "T4-8Q")]

    assert traits == [["CUSTOM_NVIDIA_1EB8_T4_2B"], ["CUSTOM_NVIDIA_1EB8_T4_8Q"]]


@pytest.mark.parametrize("code", ["030000", "030200", "038000", "120000"])
def test_a_gpu_is_told_by_class_and_vendor(tmp_path: pathlib.Path, code: str) -> None:
    """Report 8: unknown vendors and odd devices; its audio function is no GPU."""
    found, withheld = discovered(
        tmp_path, machines.a_function(GPU, code=code, group=1, product="ffff"),
        machines.a_function("0000:41:00.1", code="040300", group=1, product="10f0"),
        machines.a_function("0000:42:00.0", vendor="abcd", code=code, group=2),
        machines.a_function("0000:43:00.0", vendor="ffff", product="ffff", code="ffffff",
                            group=3))

    assert found == {GPU: "PGPU"}
    assert withheld == {}


def test_the_provider_of_a_host_is_named_by_its_agent_not_by_the_driver(
        tmp_path: pathlib.Path) -> None:
    """Report 9: drivers that read the host's name; ours names the deployable by address alone."""
    root = machines.tree(tmp_path, vgpu_machines.on_card(GPU, 1)).root

    [device] = a_driver(root, tmp_path).discover()

    assert [deployable.name for deployable in device.deployables] == [GPU]


# --- whole cards on the nvidia driver -----------------------------------------------------------


def a_card(driver: str = "nvidia") -> vgpu_machines.Entries:
    return machines.a_function(GPU, driver=driver, group=1, total_vfs=16)


def test_an_idle_card_without_mig_mode_is_offered(nvml_library: pathlib.Path,
                                                  tmp_path: pathlib.Path) -> None:
    with cards(nvml_library, tmp_path, stand_in.Card("A100-40GB")):
        assert discovered(tmp_path, a_card()) == ({GPU: "PGPU"}, {})


def test_a_card_that_knows_no_mig_is_offered(nvml_library: pathlib.Path,
                                             tmp_path: pathlib.Path) -> None:
    with cards(nvml_library, tmp_path, stand_in.Card("T4")):
        assert discovered(tmp_path, a_card())[0] == {GPU: "PGPU"}


def test_a_card_with_processes_is_withheld(nvml_library: pathlib.Path,
                                           tmp_path: pathlib.Path) -> None:
    with cards(nvml_library, tmp_path, stand_in.Card("A100-40GB")) as host:
        host.happen("clients", value=3)

        found, withheld = discovered(tmp_path, a_card())

    assert found == {}
    assert "processes of the host use it" in withheld[GPU]


def test_a_card_in_mig_mode_is_withheld(nvml_library: pathlib.Path,
                                        tmp_path: pathlib.Path) -> None:
    with cards(nvml_library, tmp_path, stand_in.Card("H100-80GB")):
        import pynvml
        pynvml.nvmlInit()
        pynvml.nvmlDeviceSetMigMode(pynvml.nvmlDeviceGetHandleByIndex(0), 1)

        found, withheld = discovered(tmp_path, a_card())

    assert found == {}
    assert "MIG mode" in withheld[GPU]


@pytest.mark.parametrize("plan", [
    "*:1=9", "nvmlDeviceGetHandleByPciBusId_v2:1=15", "nvmlDeviceGetMigMode:1=4",
    "nvmlDeviceGetComputeRunningProcesses_v3:1=999"])
def test_a_card_that_can_not_be_judged_is_withheld_and_a_problem(
        nvml_library: pathlib.Path, tmp_path: pathlib.Path, plan: str) -> None:
    with cards(nvml_library, tmp_path, stand_in.Card("A100-40GB")) as host, \
            host.failing(plan):
        driver = a_driver(machines.tree(tmp_path, a_card()).root, tmp_path)

        assert driver.discover() == []

    assert "nvidia driver has it" in driver.withheld[GPU]
    assert len(driver.problems) == 1


def test_nvml_is_not_asked_for_cards_that_nvidia_does_not_hold(
        nvml_library: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with cards(nvml_library, tmp_path, stand_in.Card("A100-40GB")) as host:
        assert discovered(tmp_path, a_card("vfio-pci"))[0] == {GPU: "PGPU"}

        assert host.calls() == []


def test_a_process_without_the_library_reports_all_the_rest(tmp_path: pathlib.Path) -> None:
    answers = nvml.ask(["0000:99:00.0"])
    found, withheld = discovered(
        tmp_path, a_card(), machines.a_function("0000:42:00.0", group=2))

    assert answers["0000:99:00.0"].unknown
    assert found == {"0000:42:00.0": "PGPU"}
    assert "nvidia driver has it" in withheld[GPU]


def test_a_bus_id_is_written_as_nvml_does() -> None:
    assert nvml.bus_id("0000:4a:00.0") == b"00000000:4A:00.0"
    assert nvml.bus_id("10000:01:00.0") == b"00010000:01:00.0"


def test_nvml_names_the_types_of_a_full_card(nvml_library: pathlib.Path,
                                             tmp_path: pathlib.Path) -> None:
    """Without it, a card that others filled in part tells neither size nor name of what is gone."""
    machine = vgpu_machines.vendor(GPU, 10, count=8)
    root = machines.tree(tmp_path, machine).root
    kernel = vgpu_machines.Gpus(root)
    kernel.set_vgpu_type("0000:41:00.2", 1521)
    alone = a_driver(root, tmp_path / "a")
    alone.environment.sysfs.begin_pass()
    assert len(alone.discover()[0].deployables[0].handles) == 1

    with cards(nvml_library, tmp_path,
               stand_in.Card("RTX-PRO-6000-Blackwell-96GB", vgpu=True)):
        [device] = a_driver(root, tmp_path / "b").discover()

    assert len(device.deployables[0].handles) == 3


# --- the cost -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["mdev", "vendor"])
def test_8_gpus_with_32_functions_each_cost_one_short_pass(
        tmp_path: pathlib.Path, way: str) -> None:
    make = vgpu_machines.on_functions if way == "mdev" else vgpu_machines.vendor
    entries = [make(f"0000:{0x11 + 0x10 * card:02x}:00.0", 40 * card, count=32)
               for card in range(8)]
    entries += [machines.a_function(f"0000:{0x10 + 0x10 * card:02x}:00.0", vendor="8086",
                                    code="060400", driver="pcieport", group=1000 + card)
                for card in range(8)]
    driver = a_driver(machines.tree(tmp_path, *entries).root, tmp_path)
    kernel = driver.environment.host
    assert isinstance(kernel, vgpu_machines.Gpus)
    for card in range(4):       # half of them full, by others
        functions = vgpu_machines.virtual_addresses(
            f"0000:{0x11 + 0x10 * card:02x}:00.0", 32, first=4 if way == "mdev" else 2)
        for function in functions[:3]:
            if way == "mdev":
                kernel.create_mdev(function, "nvidia-469", builders.new_uuid())
            else:
                kernel.set_vgpu_type(function, 1521)

    found = driver.discover()

    assert len(found) == 8
    assert driver.environment.sysfs.operations < 2000


def test_a_second_driver_does_not_get_what_the_first_has(tmp_path: pathlib.Path) -> None:
    root = machines.tree(tmp_path, vgpu_machines.on_functions(GPU, 10)).root
    both = hardware.Hardware(
        ["nvidia_gpu_driver", "mdev_driver", "pci_driver"],
        {"pci": {"device_spec": ['{"vendor_id": "10de"}']}},
        hardware.Place(sysfs_root=root, state_path=str(tmp_path / "state")))

    found = both.discover()

    assert [(device.address, device.driver) for device in found.devices] == [
        (GPU, "nvidia_gpu_driver")]
    assert found.failed_drivers == []
