# SPDX-License-Identifier: Apache-2.0
"""Device files: what is understood, and that every complaint names file, line and column."""

from __future__ import annotations

import pathlib

import hypothesis
import pytest
from hypothesis import strategies

from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import sysfs

FULL = """\
version: 1
driver: nvidia_gpu_driver            # an entry point name
devices:
  - match: {address: "0000:41:*", vendor_id: "10DE", product_id: 20f1, class: 0302*, numa_node: 1}
    offer: whole
    vgpu_type: nvidia-556
    resource_class: gpu big
    traits: [rack-7, HW_GPU_API_VULKAN]
    physical_network: physnet1
    clean: format
    driver_override: vfio-pci
  - match: {vendor_id: 8086}
    offer: vf
    num_vfs: 8
  - match: {address: mtty}
    offer: none
"""


def a_function(address: str = "0000:41:00.0", **fields: object) -> sysfs.PciFunction:
    values = {"vendor": "10de", "product": "20f1", "class_code": "030200", "numa_node": 1,
              "path": "devices/x", "entries": frozenset(), **fields}
    return sysfs.PciFunction(address=address, **values)  # type: ignore[arg-type]


def read(tmp_path: pathlib.Path, **files: str) -> device_files.DeviceFiles:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return device_files.read(str(tmp_path))


def one(text: str) -> str:
    return f"version: 1\ndriver: d\ndevices:\n- {text}\n"


def test_every_key_is_understood() -> None:
    driver, (first, second, third) = device_files.parse(FULL, "/etc/x/gpu.yaml")

    assert driver == "nvidia_gpu_driver"
    assert first == device_config.Entry(
        match=device_config.Match(address="0000:41:*", vendor_id="10de", product_id="20f1",
                                  class_code="0302*", numa_node=1),
        offer="whole", vgpu_type="nvidia-556", resource_class="CUSTOM_GPU_BIG",
        traits=("CUSTOM_RACK_7", "HW_GPU_API_VULKAN"), physical_network="physnet1",
        clean="format", driver_override="vfio-pci")
    assert (second.match.vendor_id, second.offer, second.num_vfs) == ("8086", "vf", 8)
    assert (third.match.means_name("mtty"), third.offer) == (True, "none")
    assert (first.file, first.line) == ("gpu.yaml", 4)
    assert first.places["vgpu_type"] == "/etc/x/gpu.yaml: line 6, column 16"


@pytest.mark.parametrize(("text", "complaint"), [
    ("", "line 1, column 1: it is empty; a device file has version, driver, devices"),
    ("- a", "line 1, column 1: a device file must be a mapping of version, driver, devices"),
    ("version: 1\ndriver: d", "line 1, column 1: devices is missing"),
    ("version: 2\ndriver: d\ndevices: []", "line 1, column 10: version must be 1, found '2'"),
    ("version: 1\ndriver: a b\ndevices: []", "line 2, column 9: driver must be the entry point"),
    ("version: 1\ndriver:\ndevices: []", "driver has no value"),
    ("version: 1\ndriver: d\ndevices: {}", "line 3, column 10: devices must be a list"),
    ("version: 1\ncolour: red\n", "line 2, column 1: a device file has no key 'colour'; allowed "
                                  "are version, driver, devices"),
    ("version: 1\nversion: 1\n", "line 2, column 1: version stands here twice"),
    ("version: [1\n", "line 2, column 1: it is no YAML: expected ',' or ']'"),
    ("\tversion: 1\n", "line 1, column 1: it is no YAML: found character '\\t'"),
    ("version: 1\x00", "line 1, column 1: it is no YAML: unacceptable character"),
    (one("{}"), "line 4, column 3: an entry must have match"),
    (one("{match: {}}"), "line 4, column 11: match must have at least one of address, vendor_id"),
    (one("{match: {address: a, model: x}}"),
     "line 4, column 24: match has no key 'model'; allowed are address, vendor_id, product_id, "
     "class, numa_node"),
    (one("{match: {address: 41:00.0}}"),
     "line 4, column 21: address must be a full address such as 0000:41:00.0, or a glob such as "
     "0000:41:*; found '41:00.0'"),
    (one("{match: {vendor_id: intel}}"), "vendor_id must be 4 hex digits, or a glob"),
    (one("{match: {vendor_id: 10d}}"), "vendor_id must be 4 hex digits, or a glob"),
    (one("{match: {class: 0302}}"), "class must be 6 hex digits, or a glob such as 03*; found"),
    (one("{match: {numa_node: -1}}"), "numa_node must be a number from 0 to 65535, found '-1'"),
    (one("{match: {address: [a]}}"), "address must be one value, found a list"),
    (one("{match: {address: a}, offer: all}"),
     "line 4, column 32: offer must be one of whole, vf, vgpu, mig, none; found 'all'"),
    (one("{match: {address: a}, num_vfs: many}"), "num_vfs must be a number from 0 to 65535"),
    (one("{match: {address: a}, offer: none, num_vfs: 8}"), "num_vfs can't go with offer: none"),
    (one("{match: {address: a}, clean: wipe}"), "clean must be one of none, reset, format, "),
    (one("{match: {address: a}, traits: RACK}"), "traits must be a list"),
    (one("{match: {address: a}, traits: ['%']}"), "traits '%' is no name that Placement takes"),
    (one("{match: {address: a}, resource_class: '-'}"), "resource_class '-' is no name"),
    (one("{match: {address: a}, resource_class: }"), "resource_class has no value"),
    (one("{match: {address: a}, driver_override: nvidia}"),
     "driver_override must be vfio-pci or a vendor's variant of it, found 'nvidia'"),
    (one("{match: {address: a}, ? [x] : y}"), "an entry of devices has no key None"),
])
def test_a_mistake_is_told_with_its_place(text: str, complaint: str,
                                          tmp_path: pathlib.Path) -> None:
    (bad,) = read(tmp_path, wrong=text).bad

    assert f"{tmp_path}/wrong.yaml: " in bad.text
    assert complaint in bad.text


def test_a_file_for_a_driver_that_is_not_installed_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\ndriver: pci_drivr\ndevices: []\n")

    (bad,) = device_files.read(str(tmp_path), ["pci_driver", "fake_driver"]).bad

    assert bad.text == (f"{tmp_path}/a.yaml: line 2, column 9: there is no driver 'pci_drivr'; "
                        "installed are fake_driver, pci_driver")


def test_files_count_in_name_order_and_other_files_do_not(tmp_path: pathlib.Path) -> None:
    (tmp_path / "00.yaml~").write_text("rubbish")
    files = read(tmp_path, b=one("{match: {address: '*'}, offer: whole}"),
                 a=one("{match: {address: '0000:41:*'}, offer: none}"))

    entry = files.of(["d"]).entry_for(a_function())

    assert files.bad == ()
    assert entry is not None
    assert (entry.offer, entry.file) == ("none", "a.yaml")


def test_a_directory_that_is_not_there_has_no_files(tmp_path: pathlib.Path) -> None:
    assert device_files.read(str(tmp_path / "absent")) == device_files.DeviceFiles()


@pytest.mark.parametrize(("text", "driver"), [
    ("version: 1\ndriver: gpu # mine\ndevices: [", "gpu"),
    ('version: 1\n"driver": "gpu"\ndevices: 7', "gpu"),
    ("nothing of the kind", None)])
def test_a_bad_file_is_laid_to_the_driver_that_it_names(text: str, driver: str | None,
                                                        tmp_path: pathlib.Path) -> None:
    files = read(tmp_path, bad=text, good=one("{match: {address: a}}"))

    assert [bad.driver for bad in files.bad] == [driver]
    assert files.complaint_about(["d"]) is None
    assert list(files.entries) == ["d"]


def test_a_file_that_is_no_text_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_bytes("# für uns\nversion: ".encode() + b"\xff")
    (tmp_path / "b.yaml").mkdir()

    bad = device_files.read(str(tmp_path)).bad

    assert [each.text.removeprefix(str(tmp_path)) for each in bad] == [
        "/a.yaml: line 2, column 10: this is no UTF-8 text", "/b.yaml: Is a directory"]


@pytest.mark.parametrize(("match", "meant"), [
    ({"address": "0000:41:00.0"}, True), ({"address": "*:41:*"}, True),
    ({"address": "0000:42:*"}, False), ({"vendor_id": "10d?"}, True),
    ({"vendor_id": "8086"}, False), ({"class_code": "0302*"}, True),
    ({"class_code": "0300*"}, False), ({"numa_node": 1}, True), ({"numa_node": 0}, False),
    ({"vendor_id": "10de", "product_id": "[!2]*"}, False),
    ({"vendor_id": "10de", "product_id": "20f1", "numa_node": 1}, True)])
def test_all_that_is_given_must_match(match: dict[str, object], meant: bool) -> None:
    assert device_config.Match(**match).means(a_function()) is meant  # type: ignore[arg-type]


def test_what_one_driver_never_offers_no_other_does_unless_told(tmp_path: pathlib.Path) -> None:
    files = read(
        tmp_path,
        gpu=one("{match: {vendor_id: 10de}, offer: none}").replace(": d\n", ": gpu\n"),
        pci=one("{match: {address: '0000:42:*'}}").replace(": d\n", ": pci\n"))
    config = files.of(["pci"])

    assert config.is_never_offered(a_function("0000:41:00.0"))
    assert not config.is_never_offered(a_function("0000:42:00.0"))
    assert not config.is_never_offered(a_function("0000:43:00.0", vendor="8086"))
    assert not files.of(["gpu", "pci"]).others


def test_a_virtual_function_has_its_parents_entry_when_that_offers_them() -> None:
    parent = a_function()
    child = a_function("0000:41:00.4", physfn="0000:41:00.0")
    match = device_config.Match(address="0000:41:00.0")

    found = [device_config.DeviceConfig(
        (device_config.Entry(match=match, offer=offer),)).entry_behind(child, parent) is not None
        for offer in ("vf", "whole", None)]

    assert found == [True, False, False]


def test_changes_are_told_entry_by_entry(tmp_path: pathlib.Path) -> None:
    old = read(tmp_path, a=one("{match: {address: a}, offer: whole}\n- {match: {address: b}}"))
    new = read(tmp_path, a=one("{match: {address: b}}\n- {match: {address: a}, offer: none}"))

    assert device_files.changes(old, new) == [
        "device file of d: gone: (address=a) offer=whole (a.yaml, line 4)",
        "device file of d: new: (address=a) offer=none (a.yaml, line 5)"]
    assert device_files.changes(old, old) == []


def complaint_about(text: str) -> str:
    try:
        device_files.parse(text, "file")
    except Exception as error:
        return str(error)
    return ""


@hypothesis.given(strategies.text(max_size=200))
def test_any_text_that_is_no_device_file_is_refused_with_its_place(text: str) -> None:
    assert complaint_about(text).startswith("file: line ")


_VALUES = strategies.recursive(
    strategies.sampled_from(["a", "''", "~", "1", "-1", "*", "0000:41:*", "none", "vfio-pci"]),
    lambda inner: strategies.lists(inner, max_size=2).map(lambda x: f"[{', '.join(x)}]"),
    max_leaves=4)


@hypothesis.given(strategies.dictionaries(
    strategies.sampled_from(sorted(device_config.KEYS | {"match", "x"})), _VALUES))
def test_any_entry_is_understood_or_refused_with_its_place(entry: dict[str, str]) -> None:
    text = one("{" + ", ".join(f"{key}: {value}" for key, value in entry.items()) + "}")
    complaint = complaint_about(text)

    assert complaint.startswith("file: line ") or ("match" in entry and not complaint)
