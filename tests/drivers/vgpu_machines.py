# SPDX-License-Identifier: Apache-2.0
"""Builds the sysfs of cards with vGPUs in the three ways, and of other parents; plays their kernel.

Composed from the kernel's ABI pages and NVIDIA's documents; nothing was recorded from such a card.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

from cyborg_lite.drivers import mdev_cards
from cyborg_lite.drivers import privileged
from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import vgpu_types
from tests.drivers import machines
from tests.nvml import stand_in

Entries = list[recorded.Entry]


def types_of(model: str, *, in_partitions: bool = False) -> list[dict[str, Any]]:
    """The vGPU types of a published card: id, full name, memory, how many at most."""
    host = stand_in.vgpu_hosts()[model]
    return [{"id": one["id"], "name": host["prefix"] + one["name"], "memory_mib":
             one["memory_mib"], "max": one["max"]}
            for one in host["types"] if in_partitions or one["gi_profile"] < 0]


def mdev_types(place: str, types: list[dict[str, Any]], available: int | None = None) -> Entries:
    """The directory mdev_supported_types of NVIDIA's driver below a function."""
    found: Entries = []
    for one in types:
        folder = f"{place}/mdev_supported_types/nvidia-{one['id']}"
        number = one["max"] if available is None else available
        found += [
            recorded.Entry(f"{folder}/name", "file", f"{one['name']}\n"),
            recorded.Entry(f"{folder}/available_instances", "file", f"{number}\n"),
            recorded.Entry(f"{folder}/device_api", "file", "vfio-pci\n"),
            recorded.Entry(f"{folder}/description", "file",
                           f"num_heads=4, frl_config=60, framebuffer={one['memory_mib']}M, "
                           f"max_resolution=7680x4320, max_instance={one['max']}\n"),
            recorded.Entry(f"{folder}/create", "unreadable"),
            recorded.Entry(f"{folder}/devices", "directory")]
    return found


def place_of(address: str) -> str:
    """Where `machines.a_function` puts a function without a bridge above it."""
    return f"devices/pci{address[:-8]}:{address[-7:-5]}/{address}"


def mdev_bus(address: str) -> recorded.Entry:
    return recorded.Entry(f"class/mdev_bus/{address}", "link", f"../../{place_of(address)}")


def virtual_addresses(parent: str, count: int, first: int = 4) -> list[str]:
    """Addresses of virtual functions, which roll over into the next device numbers."""
    return [f"{parent[:-4]}{number >> 3:02x}.{number & 7}"
            for number in range(first, first + count)]


def on_card(address: str, group: int, *, model: str = "T4", product: str = "1eb8",
            total_vfs: int | None = None, node: int = 0) -> Entries:
    """A card that is itself the parent of its mediated devices."""
    return [*machines.a_function(address, product=product, driver="nvidia", group=group,
                                 total_vfs=total_vfs, node=node),
            mdev_bus(address), *mdev_types(place_of(address), types_of(model))]


def on_functions(address: str, group: int, *, model: str = "A100-40GB", product: str = "20f1",
                 count: int = 16, node: int = 0, in_partitions: bool = False) -> Entries:
    """A card of which each virtual function is a parent of one mediated device."""
    entries = machines.a_function(address, product=product, driver="nvidia", group=group,
                                  total_vfs=count, num_vfs=count, node=node)
    for number, child in enumerate(virtual_addresses(address, count), 1):
        entries += machines.a_function(child, product=product, driver="nvidia",
                                       group=group + number, physfn=address, node=node)
        entries += [mdev_bus(child), *mdev_types(
            place_of(child), types_of(model, in_partitions=in_partitions), available=1)]
    return entries


def vendor(address: str, group: int, *, model: str = "RTX-PRO-6000-Blackwell-96GB",
           product: str = "2bb5", count: int = 48, node: int = 0, in_partitions: bool = False,
           header: str = "") -> Entries:
    """A card of which each virtual function takes a vGPU type by itself."""
    names = "\n".join(filter(None, [header, *(
        f"{one['id']} : {one['name']}" for one in types_of(model, in_partitions=in_partitions))]))
    entries = machines.a_function(address, product=product, driver="nvidia", group=group,
                                  total_vfs=count, num_vfs=count, node=node)
    for number, child in enumerate(virtual_addresses(address, count, first=2), 1):
        entries += machines.a_function(
            child, product=product, driver="nvidia", group=group + number, physfn=address,
            node=node, files={"nvidia/creatable_vgpu_types": names,
                              "nvidia/current_vgpu_type": "0"})
    return entries


class Gpus(privileged.Host):
    """The kernel and NVIDIA's driver on such a tree: makes devices, sets types, counts the rest.

    One type a card at a time. open_groups: VFIO groups that a guest has open. refusals: what the
    next calls of a function raise. written: what was asked and done.
    """

    def __init__(self, root: str) -> None:
        super().__init__(root)
        privileged.run_here()
        self.root_path = pathlib.Path(root)
        self.open_groups: set[str] = set()
        self.refusals: dict[str, list[OSError]] = {}
        self.written: list[tuple[str, ...]] = []
        self._groups = itertools.count(900)
        self.creatable: dict[str, dict[int, str]] = {}
        for file in self.root_path.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(0o644)
        for file in sorted(self.root_path.glob(f"{sysfs.PCI_DEVICES}/*/nvidia")):
            types = vgpu_types.parse_creatable((file / "creatable_vgpu_types").read_text())
            self.creatable.setdefault(self._card(file.parent), {}).update(types)

    # --- what drivers ask ---------------------------------------------------------------------

    def create_mdev(self, parent: str, type_id: str, uuid: str) -> None:
        self._refuse("create_mdev")
        place = (self.root_path / mdev_cards.BUS / parent).resolve()
        if (self.root_path / mdev_cards.LIVE / uuid).exists():
            raise FileExistsError(errno.EEXIST, "File exists")
        folder = place / mdev_cards.TYPES / type_id
        if int((folder / "available_instances").read_text()) < 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().create_mdev(parent, type_id, uuid)
        self.written.append(("create", parent, type_id, uuid))
        device = place / uuid
        device.mkdir()
        (device / "mdev_type").symlink_to(f"../{mdev_cards.TYPES}/{type_id}")
        (device / "remove").touch()
        self._link(device / "iommu_group",
                   self.root_path / "kernel/iommu_groups" / str(next(self._groups)))
        self._link(self.root_path / mdev_cards.LIVE / uuid, device)
        self._recount()

    def remove_mdev(self, uuid: str) -> None:
        self._refuse("remove_mdev")
        super().remove_mdev(uuid)
        self.written.append(("remove", uuid))
        self._lose(uuid)
        self._recount()

    def set_vgpu_type(self, address: str, type_id: int) -> None:
        self._refuse("set_vgpu_type")
        place = self.root_path / sysfs.PCI_DEVICES / address
        creatable = (place / "nvidia/creatable_vgpu_types").read_text()
        if type_id and type_id not in vgpu_types.parse_creatable(creatable):
            raise OSError(errno.EIO, "Input/output error")
        super().set_vgpu_type(address, type_id)
        self.written.append(("type", address, str(type_id)))
        self._recount()

    def is_group_open(self, group: str) -> bool:
        return group in self.open_groups

    # --- what happens -------------------------------------------------------------------------

    def reboot(self) -> None:
        """Everything that was made is lost."""
        for uuid in self.mdevs():
            self._lose(uuid)
        for file in self.root_path.glob(f"{sysfs.PCI_DEVICES}/*/nvidia/current_vgpu_type"):
            file.write_text("0\n")
        self._recount()

    def mdevs(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self.root_path / mdev_cards.LIVE))
        return []

    def types_set(self) -> dict[str, int]:
        files = self.root_path.glob(f"{sysfs.PCI_DEVICES}/*/nvidia/current_vgpu_type")
        found = {file.parent.parent.name: int(file.read_text()) for file in files}
        return {address: number for address, number in found.items() if number}

    def rename_types(self, old: str, new: str) -> None:
        """Another version of the driver has other ids for the same names."""
        for folder in list(self.root_path.glob(f"{sysfs.PCI_DEVICES}/*/{mdev_cards.TYPES}/{old}")):
            folder.rename(folder.parent / new)

    # --- counting -----------------------------------------------------------------------------

    def _recount(self) -> None:
        parents: dict[str, list[pathlib.Path]] = {}
        for folder in self.root_path.glob(f"{mdev_cards.BUS}/*/{mdev_cards.TYPES}"):
            parents.setdefault(self._card(folder.parent.resolve()), []).append(
                folder.parent.resolve())
        for places in parents.values():
            self._recount_mdevs(places)
        for card, types in self.creatable.items():
            self._recount_types(card, types)

    def _recount_mdevs(self, places: list[pathlib.Path]) -> None:
        live = {device.name: (device / "mdev_type").readlink().name
                for place in places for device in place.iterdir()
                if mdev_cards.UUID.fullmatch(device.name)}
        for place in places:
            own = [uuid for uuid in live if (place / uuid).exists()]
            split = (place / "physfn").is_symlink()
            for folder in (place / mdev_cards.TYPES).iterdir():
                at_most = int(re.findall(r"max_instance=(\d+)",
                                         (folder / "description").read_text())[0])
                left = at_most - len(live) if set(live.values()) <= {folder.name} else 0
                if split:
                    left = 0 if own else min(left, 1)
                (folder / "available_instances").write_text(f"{left}\n")

    def _recount_types(self, card: str, types: dict[int, str]) -> None:
        sizes = {number: (vgpu_types.parse_name(name) or vgpu_types.TypeName("", "", None, 1, "")
                          ).memory_mib for number, name in types.items()}
        there = [number for address, number in self.types_set().items()
                 if self._card(self.root_path / sysfs.PCI_DEVICES / address) == card]
        left = {number: name for number, name in types.items()
                if set(there) <= {number} and max(sizes.values()) // sizes[number] > len(there)}
        for file in self.root_path.glob(f"{sysfs.PCI_DEVICES}/*/nvidia/creatable_vgpu_types"):
            if self._card(file.parent.parent) == card:
                file.write_text("".join(f"{number} : {name}\n" for number, name in left.items()))

    def _card(self, place: pathlib.Path) -> str:
        link = place / "physfn"
        return link.readlink().name if link.is_symlink() else place.name

    def _lose(self, uuid: str) -> None:
        link = self.root_path / mdev_cards.LIVE / uuid
        shutil.rmtree(link.resolve())
        link.unlink()

    @staticmethod
    def _link(link: pathlib.Path, target: pathlib.Path) -> None:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent))

    def _refuse(self, name: str) -> None:
        waiting = self.refusals.get(name)
        if waiting:
            raise waiting.pop(0)


@contextlib.contextmanager
def nothing_written(gpus: Gpus) -> Iterator[None]:
    """Fail when the block has the kernel do something."""
    before = list(gpus.written)
    yield
    assert gpus.written == before
