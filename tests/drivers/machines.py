# SPDX-License-Identifier: Apache-2.0
"""Builds the sysfs of machines that nobody recorded: a function with defaults, a whole tree.

No expectations here: what a driver makes of a machine is in the tests.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterable

from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import sysfs


def a_function(address: str, *, vendor: str = "10de", product: str = "20f1",
               code: str = "030200", driver: str | None = "vfio-pci", group: int | None = 1,
               node: int = 0, behind: str | None = None, physfn: str | None = None,
               total_vfs: int | None = None, num_vfs: int = 0, subsystem: str = "10de:145f",
               files: dict[str, str] | None = None) -> list[recorded.Entry]:
    """Return the entries of one PCI function.

    behind: path of the bridge above it, below `devices`; files: more files, with their text.
    """
    parent = f"devices/{behind or f'pci{address[:-8]}:{address[-7:-5]}'}"
    place = f"{parent}/{address}"
    up = "../" * (place.count("/") + 1)
    sub_vendor, sub_product = subsystem.split(":")
    event = [*([f"DRIVER={driver}"] if driver else []), f"PCI_CLASS={int(code, 16):X}",
             f"PCI_ID={vendor}:{product}".upper(), f"PCI_SUBSYS_ID={subsystem}".upper(),
             f"PCI_SLOT_NAME={address}"]
    texts = {"vendor": f"0x{vendor}", "device": f"0x{product}", "class": f"0x{code}",
             "subsystem_vendor": f"0x{sub_vendor}", "subsystem_device": f"0x{sub_product}",
             "revision": "0xa1", "numa_node": str(node), "enable": "1", "power_state": "D0",
             "driver_override": "(null)", "uevent": "\n".join(event), **(files or {})}
    if total_vfs is not None:
        texts |= {"sriov_totalvfs": str(total_vfs), "sriov_numvfs": str(num_vfs)}
    links = {"subsystem": f"{up}bus/pci"}
    if driver:
        links["driver"] = f"{up}bus/pci/drivers/{driver}"
    if physfn:
        links["physfn"] = f"../{physfn}"
    entries = [recorded.Entry(f"bus/pci/devices/{address}", "link", f"../../../{place}")]
    if group is not None:
        links["iommu_group"] = f"{up}kernel/iommu_groups/{group}"
        entries.append(recorded.Entry(f"kernel/iommu_groups/{group}/devices/{address}", "link",
                                      f"../../../../{place}"))
    entries += [recorded.Entry(f"{place}/{name}", "link", to) for name, to in links.items()]
    entries += [recorded.Entry(f"{place}/{name}", "file", f"{text}\n")
                for name, text in texts.items()]
    return entries


def tree(directory: pathlib.Path, *functions: Iterable[recorded.Entry]) -> sysfs.Sysfs:
    """Return a reader of a new machine with these functions, made in a new directory."""
    manifest = recorded.write({entry.path: entry for function in functions
                               for entry in function}.values())
    directory.mkdir(parents=True, exist_ok=True)
    place = pathlib.Path(tempfile.mkdtemp(dir=directory))
    (place / "machine.sysfs").write_text(manifest, encoding="ascii")
    return sysfs.Sysfs(recorded.unpack(place / "machine.sysfs", place / "sys"))


def add(root: str, *functions: Iterable[recorded.Entry]) -> None:
    """Add these functions to a machine that exists."""
    manifest = recorded.write({entry.path: entry for function in functions
                               for entry in function}.values())
    with tempfile.NamedTemporaryFile("w", encoding="ascii", suffix=".sysfs") as file:
        file.write(manifest)
        file.flush()
        recorded.unpack(file.name, root)


def a_disk(below: str, name: str = "nvme0n1", *, number: str = "259:0",
           partitions: dict[str, str] | None = None,
           holders: dict[str, str] | None = None) -> list[recorded.Entry]:
    """Return the entries of a disk.

    below: path of its controller, below `devices`. partitions: device number by name. holders:
    the device that holds a disk or partition, by the name of the latter.
    """
    place = f"devices/{below}/{name}"
    entries = [recorded.Entry(f"{place}/dev", "file", f"{number}\n"),
               recorded.Entry(f"{place}/size", "file", "131072\n"),
               recorded.Entry(f"{place}/holders", "directory"),
               recorded.Entry(f"class/block/{name}", "link", f"../../{place}")]
    for index, (part, its_number) in enumerate((partitions or {}).items(), 1):
        entries += [recorded.Entry(f"{place}/{part}/dev", "file", f"{its_number}\n"),
                    recorded.Entry(f"{place}/{part}/partition", "file", f"{index}\n"),
                    recorded.Entry(f"{place}/{part}/holders", "directory"),
                    recorded.Entry(f"class/block/{part}", "link", f"../../{place}/{part}")]
    for held, holder in (holders or {}).items():
        where = place if held == name else f"{place}/{held}"
        entries.append(recorded.Entry(f"{where}/holders/{holder}/dev", "file", "253:0\n"))
    return entries


def a_virtualized_host() -> list[recorded.Entry]:
    """Return 8 GPUs with 32 virtual functions each, every GPU behind a bridge of its own."""
    entries: list[recorded.Entry] = []
    group = 0
    for card in range(8):
        domain_bus = f"0000:{0x10 + 0x10 * card:02x}"
        bus = f"{domain_bus[:-2]}{int(domain_bus[-2:], 16) + 1:02x}"
        bridge = f"{domain_bus}:00.0"
        above = f"pci{domain_bus}"
        entries += a_function(bridge, vendor="8086", product="347a", code="060400",
                              driver="pcieport", group=group, subsystem="8086:0000")
        behind = f"{above}/{bridge}"
        parent = f"{bus}:00.0"
        group += 1
        entries += a_function(parent, product="2bb5", driver="nvidia", group=group,
                              behind=behind, node=card // 4, total_vfs=48, num_vfs=32)
        for number in range(32):
            group += 1
            child = f"{bus}:{(number + 8) >> 3:02x}.{number & 7}"
            entries += a_function(child, product="2bb5", driver="nvidia", group=group,
                                  behind=behind, node=card // 4, physfn=parent)
    return entries
