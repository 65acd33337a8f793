# SPDX-License-Identifier: Apache-2.0
"""Record what /sys tells of the PCI functions and disks of this machine, as a manifest on stdout.

Nothing is written to the machine, and no judgement is made: `drivers/recorded.py` has the format.

    python3 -m tests.drivers.record [--sysfs /sys] > tests/drivers/pci/<machine>.sysfs

Serial numbers and hardware addresses are replaced by zeros of the same shape.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import sys
from collections.abc import Iterator

from cyborg_lite.drivers import recorded

DEPTH = 4
MAX_TEXT = 4096

SKIPPED = re.compile(
    r"config|vpd|rom|resource\d*(_wc)?|resource_alignment|power|msi_irqs|msi_bus|firmware_node"
    r"|physical_node|waiting_for_supplier|(supplier|consumer):.*|aer_.*|link|statistics|queues"
    r"|hwmon.*|iommu|acpi_.*|label|remove|rescan|reset")

SECRET = re.compile(r"serial(_number)?|unique_id|wwid|eui|nguid|uuid|subsysnqn|phys_switch_id"
                    r"|phys_port_id|node_guid|sys_image_guid|dsn|hostid|hostnqn")

HARDWARE_ADDRESS = re.compile(r"\s*([0-9a-f]{2}:){5,}[0-9a-f]{2}\s*")

BLOCK = ("dev", "partition", "size")
"""What is recorded of a disk or partition, beside who holds it."""

PCI_DIRECTORY = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|pci[0-9a-f]{4,8}:.*")


def entries(root: pathlib.Path) -> Iterator[recorded.Entry]:
    """Yield the entries of every PCI function, IOMMU group and disk below the root."""
    for link in sorted((root / "bus/pci/devices").iterdir()):
        yield _link(root, link)
        yield from _directory(root, link.resolve(), DEPTH)
    for link in sorted((root / "kernel/iommu_groups").glob("*/devices/*")):
        yield _link(root, link)
    for link in sorted((root / "class/block").glob("*")):
        yield _link(root, link)
        yield from (_file(root, path) for name in BLOCK if (path := link.resolve() / name).exists())
        yield from (_link(root, path) for path in sorted((link.resolve() / "holders").glob("*")))


def _directory(root: pathlib.Path, directory: pathlib.Path,
               depth: int) -> Iterator[recorded.Entry]:
    for path in sorted(directory.iterdir()):
        if SKIPPED.fullmatch(path.name) or PCI_DIRECTORY.fullmatch(path.name):
            if path.is_symlink() and not SKIPPED.fullmatch(path.name):
                yield _link(root, path)
            continue
        if path.is_symlink():
            yield _link(root, path)
        elif path.is_dir():
            if depth > 1:
                yield from _directory(root, path, depth - 1)
        else:
            yield _file(root, path)


def _link(root: pathlib.Path, path: pathlib.Path) -> recorded.Entry:
    return recorded.Entry(str(path.relative_to(root)), "link", os.readlink(path))


def _file(root: pathlib.Path, path: pathlib.Path) -> recorded.Entry:
    name = str(path.relative_to(root))
    if not path.stat().st_mode & 0o444:
        return recorded.Entry(name, "unreadable")
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_TEXT).decode("utf-8", "surrogateescape")
    except OSError:
        return recorded.Entry(name, "unreadable")
    return recorded.Entry(name, "file", without_secrets(path.name, text))


def without_secrets(name: str, text: str) -> str:
    """Return the text of a file of this name, letters and digits of a serial number zeroed."""
    if SECRET.fullmatch(name) or HARDWARE_ADDRESS.fullmatch(text):
        return re.sub(r"[0-9A-Za-z]", "0", text)
    return text


def main() -> None:
    """Write the manifest of this machine."""
    parser = argparse.ArgumentParser(description="Record the PCI functions of this machine.")
    parser.add_argument("--sysfs", default="/sys", type=pathlib.Path)
    root = parser.parse_args().sysfs.resolve()
    found = {entry.path: entry for entry in entries(root)}
    sys.stdout.write(recorded.write(found.values()))


if __name__ == "__main__":
    main()
