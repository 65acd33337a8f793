# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs as sysfs shows them: which they are, and which way each has to carry vGPUs.

Reads only; which card is offered, and as what, is the drivers' business.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from cyborg_lite import messages
from cyborg_lite.drivers import mdev_cards
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import vendor_vfio

VENDOR = "10de"
CONTROLLERS = {"0300": "VGA compatible controller", "0302": "3D controller",
               "0380": "Display controller", "1200": "Processing accelerators"}

Card = mdev_cards.Card | vendor_vfio.Card
Virtual = Mapping[str, Sequence[sysfs.PciFunction]]


def is_gpu(function: sysfs.PciFunction) -> bool:
    """Say whether it is a GPU of NVIDIA's: by its class, so that its audio function is none."""
    return function.vendor == VENDOR and function.class_code[:4] in CONTROLLERS


def by_parent(functions: Iterable[sysfs.PciFunction]) -> dict[str, list[sysfs.PciFunction]]:
    """Return the virtual functions of each card, by its address."""
    found: dict[str, list[sysfs.PciFunction]] = {}
    for each in functions:
        if each.physfn is not None:
            found.setdefault(each.physfn, []).append(each)
    return found


def carriers(physical: Iterable[sysfs.PciFunction], virtual: Virtual) -> dict[str, Card]:
    """The cards that show a way to have vGPUs: mediated devices first, as NVIDIA's test is."""
    found: dict[str, Card] = {}
    for function in physical:
        children = virtual.get(function.address, [])
        if mdev_cards.TYPES in function.entries:
            found[function.address] = mdev_cards.Card(
                function.address, (mdev_cards.of(function),), function)
            continue
        parents = tuple(mdev_cards.of(each) for each in children
                        if mdev_cards.TYPES in each.entries)
        if parents:
            found[function.address] = mdev_cards.Card(function.address, parents, function)
        elif any(map(vendor_vfio.is_carved, children)):
            found[function.address] = vendor_vfio.Card(function, tuple(children))
    return found


def live(reader: sysfs.Sysfs, address: str) -> list[str]:
    """Return what vGPUs a card carries now, whoever made them: uuids, or virtual functions."""
    found: list[str] = []
    for function in reader.pci_functions():
        if address in (function.address, function.physfn):
            found += sorted(mdev_cards.of(function).live)
            text = (reader.lone_text(f"{function.path}/{vendor_vfio.CURRENT}")
                    if vendor_vfio.is_carved(function) else None)
            if text and text != "0":
                found.append(function.address)
    return found


def is_another(function: sysfs.PciFunction, wish: messages.LayoutWish) -> str | None:
    """Return why a layout is not for this card: it was wished for of another model; or None."""
    if wish.model in (None, function.product):
        return None
    return (f"GPU {function.address} is another card ({function.product}) than the one that was to "
            f"be split ({wish.model}); wish for a layout of its own")


def device(function: sysfs.PciFunction, driver: str,
           deployables: list[messages.ReportedDeployable],
           partitioning: messages.ReportedPartitioning | None = None) -> messages.ReportedDevice:
    """Return the report of a card."""
    board = {"product_id": function.product, "controller": CONTROLLERS[function.class_code[:4]]}
    return messages.ReportedDevice(
        address=function.address, type="GPU", vendor=function.vendor, model=function.product,
        driver=driver, deployables=deployables, std_board_info=json.dumps(board),
        vendor_board_info="miss_vb_info", pci_address=function.address,
        numa_node=function.numa_node, partitioning=partitioning)
