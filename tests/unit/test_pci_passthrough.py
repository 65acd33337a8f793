# SPDX-License-Identifier: Apache-2.0
"""Which functions can be handed out now, each rule by itself and on the real reader."""

from __future__ import annotations

import pathlib

import pytest

from cyborg_lite.drivers import base
from cyborg_lite.drivers import passthrough
from cyborg_lite.drivers import pci
from cyborg_lite.drivers import pci_ids
from cyborg_lite.drivers import sysfs
from tests.drivers.machines import a_function
from tests.drivers.machines import tree

EVERYTHING = '{"address": "*:*:*.*"}'


def judged(reader: sysfs.Sysfs, claimed: set[str] | None = None) -> tuple[list[str],
                                                                          dict[str, str]]:
    offered, withheld = passthrough.judge(
        reader.pci_functions(), base.Environment(reader, claimed=claimed or set(),
                                                 proc_root="/nowhere"))
    return [function.address for function in offered], withheld


@pytest.mark.parametrize(("function", "reason"), [
    (a_function("0000:01:00.0", code="060400", driver="pcieport"), "is a bridge"),
    (a_function("0000:01:00.0", vendor="ffff", product="ffff"), "does not answer"),
    (a_function("0000:01:00.0", group=None), "no IOMMU group"),
    (a_function("0000:01:00.0", driver="nvidia", total_vfs=4, num_vfs=2), "2 of them"),
    (a_function("0000:01:00.0", code="030000", driver="ast", files={"boot_vga": "1"}),
     "display of the host"),
    (a_function("0000:01:00.0", code="030000", driver=None, files={"boot_vga": "1"}),
     "display of the host"),
    (a_function("0000:01:00.0", code="030000", driver="ast", files={"boot_vga": "?"}),
     "display of the host"),
    (a_function("0000:01:00.0", code="010802", driver="nvme"), "the host's nvme driver has it"),
    (a_function("0000:01:00.0", code="0c0330", driver="xhci_hcd"), "can't be told"),
    (a_function("0000:01:00.0", code="020000", driver="i40e", files={"net/e0/flags": "0x1003"}),
     "its interface e0 is up"),
    (a_function("0000:01:00.0", code="020000", driver="virtio-pci",
                files={"virtio3/net/e0/flags": "0x1003"}), "its interface e0 is up"),
    (a_function("0000:01:00.0", code="020000", driver="i40e",
                files={"net/e0/flags": "0x1002", "net/e0/master/x": ""}), "bridge or bond"),
    (a_function("0000:01:00.0", code="020000", driver="i40e", files={"net/e0/mtu": "1500"}),
     "interface e0 is in use can't be told"),
])
def test_a_function_that_cannot_be_handed_out_is_withheld(
        function: list[object], reason: str, tmp_path: pathlib.Path) -> None:
    offered, withheld = judged(tree(tmp_path, function))  # type: ignore[arg-type]

    assert offered == []
    assert reason in withheld["0000:01:00.0"]


@pytest.mark.parametrize("function", [
    a_function("0000:01:00.0", driver="nvidia"),
    a_function("0000:01:00.0", driver=None),
    a_function("0000:01:00.0", driver="vfio-pci", files={"boot_vga": "1"}),
    a_function("0000:01:00.0", driver="ast", files={"boot_vga": "0"}),
    a_function("0000:01:00.0", code="010802", driver="vfio-pci"),
    a_function("0000:01:00.0", code="020000", driver="mlx5_vfio_pci"),
    a_function("0000:01:00.0", code="020000", driver="i40e", files={"net/e0/flags": "0x1002"}),
    a_function("0000:01:00.0", driver="vfio-pci", files={"enable": "0", "power_state": "D3hot"}),
])
def test_a_function_that_nobody_uses_is_offered(function: list[object],
                                                tmp_path: pathlib.Path) -> None:
    assert judged(tree(tmp_path, function)) == (["0000:01:00.0"], {})  # type: ignore[arg-type]


def test_a_neighbour_in_the_hosts_hands_keeps_the_whole_group_back(tmp_path: pathlib.Path) -> None:
    reader = tree(tmp_path, a_function("0000:01:00.0", group=5),
                  a_function("0000:01:00.1", group=5, code="040300", driver="snd_hda_intel"))

    offered, withheld = judged(reader)

    assert offered == []
    assert "0000:01:00.1, which the host's snd_hda_intel driver uses" in withheld["0000:01:00.0"]


def test_bridges_of_the_group_are_no_obstacle(tmp_path: pathlib.Path) -> None:
    reader = tree(tmp_path, a_function("0000:00:01.0", group=5, code="060400", driver="pcieport"),
                  a_function("0000:01:00.0", group=5))

    assert judged(reader)[0] == ["0000:01:00.0"]


def test_a_group_goes_to_one_guest_so_one_function_of_it_is_offered(
        tmp_path: pathlib.Path) -> None:
    reader = tree(tmp_path, a_function("0000:01:00.0", group=5),
                  a_function("0000:02:00.0", group=5))

    offered, withheld = judged(reader)

    assert offered == ["0000:01:00.0"]
    assert "as a whole, and 0000:01:00.0 of it is offered" in withheld["0000:02:00.0"]


def test_what_another_driver_offers_is_left_to_it_with_its_group(tmp_path: pathlib.Path) -> None:
    reader = tree(tmp_path, a_function("0000:01:00.0", group=5),
                  a_function("0000:02:00.0", group=5), a_function("0000:03:00.0", group=6))

    offered, withheld = judged(reader, {"0000:01:00.0"})

    assert offered == ["0000:03:00.0"]
    assert withheld["0000:01:00.0"] == "another driver offers it"


def test_a_physical_function_and_its_virtual_ones_are_never_both_offered(
        tmp_path: pathlib.Path) -> None:
    # even when the number of virtual functions can't be read
    reader = tree(tmp_path, a_function("0000:01:00.0", group=5, vendor="8086", code="020000"),
                  a_function("0000:01:00.1", group=6, vendor="8086", code="020000",
                             physfn="0000:01:00.0"))

    assert judged(reader)[0] == ["0000:01:00.1"]


@pytest.mark.parametrize(("code", "vendor", "product", "kind"), [
    ("030000", "10de", "1eb8", "GPU"), ("030200", "10de", "20f1", "GPU"),
    ("038000", "1002", "740f", "GPU"), ("120000", "1002", "74a1", "GPU"),
    ("120000", "10ee", "5020", "FPGA"), ("120000", "8086", "09c4", "FPGA"),
    ("120000", "19e5", "d100", "AICHIP"), ("120000", "1da3", "1020", "AICHIP"),
    ("120000", "f00d", "0001", "PCI"), ("0b4000", "8086", "37c8", "QAT"),
    ("0b4000", "1234", "0001", "PCI"), ("010802", "144d", "a80a", "SSD"),
    ("010601", "8086", "a182", "PCI"), ("020000", "8086", "1572", "NIC"),
    ("020700", "15b3", "101b", "NIC"), ("ffffff", "ffff", "ffff", "PCI"),
    ("000000", "0000", "0000", "PCI")])
def test_the_kind_of_a_device_comes_from_its_class(code: str, vendor: str, product: str,
                                                   kind: str) -> None:
    function = sysfs.PciFunction(address="0000:01:00.0", vendor=vendor, product=product,
                                 class_code=code, path="devices/x", entries=frozenset())

    assert pci_ids.device_type(function) == kind


def a_driver(reader: sysfs.Sysfs, *specs: str) -> pci.PciDriver:
    return pci.PciDriver(base.Environment(reader, {"pci": {"device_spec": list(specs)}}, set()))


def test_without_a_spec_nothing_is_offered(tmp_path: pathlib.Path) -> None:
    assert a_driver(tree(tmp_path, a_function("0000:01:00.0"))).discover() == []


def test_the_first_spec_that_means_a_function_decides(tmp_path: pathlib.Path) -> None:
    driver = a_driver(tree(tmp_path, a_function("0000:01:00.0")),
                      '{"vendor_id": "8086", "resource_class": "NO"}',
                      '{"vendor_id": "10de", "resource_class": "FIRST"}',
                      '{"vendor_id": "10de", "resource_class": "SECOND"}')

    (device,) = driver.discover()

    assert device.deployables[0].resource_class == "CUSTOM_FIRST"


def test_a_bridge_is_spoken_of_only_when_named(tmp_path: pathlib.Path) -> None:
    reader = tree(tmp_path, a_function("0000:00:01.0", code="060400", driver="pcieport"))
    wide, narrow = a_driver(reader, EVERYTHING), a_driver(reader, '{"address": "0000:00:01.0"}')

    assert wide.discover() == narrow.discover() == []
    assert (wide.withheld, narrow.withheld) == ({}, {"0000:00:01.0": "it is a bridge"})


def test_a_bad_spec_stops_the_driver_from_being_made(tmp_path: pathlib.Path) -> None:
    with pytest.raises(base.ConfigurationError, match=r"\[pci\] device_spec = \{: "):
        a_driver(tree(tmp_path), "{")


def test_keys_that_mean_nothing_here_are_named_in_the_log(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    a_driver(tree(tmp_path), '{"vendor_id": "10de", "managed": "no", "color": "red"}')

    assert "color, managed mean nothing to pci_driver" in caplog.text
