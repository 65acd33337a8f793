# SPDX-License-Identifier: Apache-2.0
"""intel_nic_driver beside the recorded machines: making virtual functions, names, handles."""

from __future__ import annotations

import errno
import pathlib

import pytest

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import intel_nic
from cyborg_lite.drivers import pci_work
from cyborg_lite.drivers import privileged
from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import virtual_functions
from tests.drivers import machines

PORT = "0000:81:00.0"
OTHER = "0000:82:00.0"
MAPPINGS = {"nic_devices": {"types": {"x710_static": {
    "physical_device_mappings": ["physnet1:ens1f0"]}}}}


class Kernel(privileged.Host):
    """Makes virtual functions as a kernel does, at most `makes`; answers `refusal` instead."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.makes = 64
        self.refusal: int | None = None
        self.log: list[tuple[str, object]] = []

    def set_num_vfs(self, address: str, count: int) -> None:
        self.log.append((address, count))
        if self.refusal:
            raise OSError(self.refusal, "refused")
        place = pathlib.Path(self.root, "bus/pci/devices", address, "sriov_numvfs")
        place.chmod(0o644)
        place.write_text(f"{min(count, self.makes)}\n")

    def reset(self, address: str) -> None:
        self.log.append((address, "reset"))


def a_port(address: str = PORT, name: str | None = "ens1f0", *, driver: str = "i40e",
           num_vfs: int = 0) -> list[recorded.Entry]:
    files = {"reset": "", "reset_method": "flr"}
    if name:
        files[f"net/{name}/flags"] = "0x1002"
    return machines.a_function(address, vendor="8086", product="1583", code="020000",
                               driver=driver, group=int(address[5:7], 16), total_vfs=64,
                               num_vfs=num_vfs, files=files)


def the_driver(folder: pathlib.Path, *functions: list[recorded.Entry], entries: str = "",
               options: dict[str, object] | None = None,
               checking: bool = False) -> intel_nic.IntelNicDriver:
    reader = machines.tree(folder / "machines", *functions)
    files = folder / "files"
    files.mkdir(exist_ok=True)
    (files / "nic.yaml").write_text(
        f"version: 1\ndriver: intel_nic_driver\ndevices: [{entries}]\n")
    found = device_files.read(str(files))
    assert not found.bad, found.bad
    return intel_nic.IntelNicDriver(base.Environment(
        reader, options or {}, devices=found.of(["intel_nic_driver"]), host=Kernel(reader.root),
        state_path=str(folder / "state"), checking=checking))


def kernel_of(driver: intel_nic.IntelNicDriver) -> Kernel:
    assert isinstance(driver.environment.host, Kernel)
    return driver.environment.host


def networks(driver: intel_nic.IntelNicDriver) -> list[str]:
    return [deployable.handles[0].info["physical_network"]
            for device in driver.discover() for deployable in device.deployables]


def task(address: str = PORT) -> messages.HandleTask:
    domain, bus, rest = address.split(":")
    return messages.HandleTask(
        handle_uuid="6c1b7d0e-0000-4000-8000-000000000002", deployable_name=address,
        device_address=address, driver="intel_nic_driver", type="PCI",
        info={"domain": domain, "bus": bus, "device": rest[:2], "function": rest[3:],
              "physical_network": ""})


WISH = f"{{match: {{address: '{PORT}'}}, offer: vf, num_vfs: 4}}"


def test_virtual_functions_are_made_once(tmp_path: pathlib.Path) -> None:
    driver = the_driver(tmp_path, a_port(), entries=WISH)

    assert driver.arrange() is True
    driver.environment.sysfs.begin_pass()
    assert driver.arrange() is False

    assert kernel_of(driver).log == [(PORT, 4)]


@pytest.mark.parametrize(("num_vfs", "makes", "refusal", "reason"), [
    (2, 64, None, "has 2, which may belong to guests"),
    (8, 64, None, "has 8, which may belong to guests"),
    (0, 3, None, "its driver made 3"),
    (0, 64, errno.EBUSY, "refused"),
])
def test_what_cannot_be_had_is_told_and_nothing_is_shrunk(
        num_vfs: int, makes: int, refusal: int | None, reason: str,
        tmp_path: pathlib.Path) -> None:
    driver = the_driver(tmp_path, a_port(num_vfs=num_vfs), entries=WISH)
    kernel_of(driver).makes, kernel_of(driver).refusal = makes, refusal

    with pytest.raises(virtual_functions.Impossible, match=reason):
        driver.arrange()

    assert driver.environment.sysfs.fresh().number(
        f"bus/pci/devices/{PORT}/sriov_numvfs") == (min(makes, 4) if makes < 64 else num_vfs)


def test_one_port_that_cannot_does_not_keep_another_from_its_own(tmp_path: pathlib.Path) -> None:
    driver = the_driver(tmp_path, a_port(num_vfs=2), a_port(OTHER, "ens2f0"),
                        entries=WISH + f", {{match: {{address: '{OTHER}'}}, num_vfs: 2}}")

    with pytest.raises(virtual_functions.Impossible, match=PORT):
        driver.arrange()

    assert kernel_of(driver).log == [(OTHER, 2)]


def test_a_port_without_a_network_has_the_key_that_nova_reads(tmp_path: pathlib.Path) -> None:
    assert networks(the_driver(tmp_path, a_port())) == [""]


def test_a_device_file_goes_before_the_mappings(tmp_path: pathlib.Path) -> None:
    entry = f"{{match: {{address: '{PORT}'}}, physical_network: physnet9}}"

    assert networks(the_driver(tmp_path, a_port(), entries=entry, options=MAPPINGS)) == ["physnet9"]


def test_a_port_inside_a_guest_keeps_its_network_over_a_restart(tmp_path: pathlib.Path) -> None:
    assert networks(the_driver(tmp_path, a_port(), options=MAPPINGS)) == ["physnet1"]

    inside = a_port(name=None, driver="vfio-pci")
    assert networks(the_driver(tmp_path, inside, options=MAPPINGS)) == ["physnet1"]


def test_a_name_that_moved_to_another_port_takes_its_network_along(tmp_path: pathlib.Path) -> None:
    assert networks(the_driver(tmp_path, a_port(), a_port(OTHER, "ens9"),
                               options=MAPPINGS)) == ["physnet1", ""]

    assert networks(the_driver(tmp_path, a_port(name="ens9"), a_port(OTHER, "ens1f0"),
                               options=MAPPINGS)) == ["", "physnet1"]


def test_the_preflight_writes_no_names(tmp_path: pathlib.Path) -> None:
    driver = the_driver(tmp_path, a_port(), options=MAPPINGS, checking=True)

    assert networks(driver) == ["physnet1"]
    assert not (tmp_path / "state").exists()


def test_names_that_cannot_be_read_are_a_problem_and_hide_no_port(tmp_path: pathlib.Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/intel_nic_driver.json").write_text("[")
    driver = the_driver(tmp_path, a_port(), options=MAPPINGS)

    assert networks(driver) == ["physnet1"]
    assert "can't be read" in driver.problems[0].what


def test_a_port_is_reset_where_its_device_file_says_so(tmp_path: pathlib.Path) -> None:
    driver = the_driver(tmp_path, a_port(),
                        entries=f"{{match: {{address: '{PORT}'}}, clean: reset}}")
    device, = driver.discover()

    driver.clean(task())

    assert (device.deployables[0].prepares, device.deployables[0].cleans) == (False, True)
    assert kernel_of(driver).log == [(PORT, "reset")]


def test_a_port_that_is_up_is_not_reset(tmp_path: pathlib.Path) -> None:
    port = [*a_port(name=None), *machines.a_function(
        PORT, vendor="8086", product="1583", code="020000", driver="i40e", group=0x81,
        files={"reset": "", "net/ens1f0/flags": "0x1003"})]
    driver = the_driver(tmp_path, port, entries=f"{{match: {{address: '{PORT}'}}, clean: reset}}")

    with pytest.raises(pci_work.Refused, match="is up"):
        driver.clean(task())


def test_a_handle_whose_function_is_gone_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(pci_work.Refused, match=r"there is no function 0000:99:00\.0"):
        the_driver(tmp_path, a_port()).prepare(task("0000:99:00.0"))


def test_every_known_port_id_is_offered(tmp_path: pathlib.Path) -> None:
    cards = [machines.a_function(f"0000:{bus:02x}:00.0", vendor="8086", product=product,
                                 code="020000", driver=None, group=bus)
             for bus, product in enumerate(sorted(intel_nic.PORTS), 1)]

    assert len(the_driver(tmp_path, *cards).discover()) == len(intel_nic.PORTS) == 26


def test_a_port_of_another_vendor_or_kind_is_left_alone(tmp_path: pathlib.Path) -> None:
    driver = the_driver(
        tmp_path, machines.a_function("0000:01:00.0", vendor="15b3", product="1583", code="020000"),
        machines.a_function("0000:02:00.0", vendor="8086", product="1583", code="030000"))

    assert driver.discover() == []
    assert driver.withheld == {}
    assert isinstance(driver.environment.sysfs, sysfs.Sysfs)
