# SPDX-License-Identifier: Apache-2.0
"""What of a split card can be attached: vGPUs of several types beside each other, on one card.

Each type is counted as on a card of its own, by `mdev_cards.py` or `vendor_vfio.py`; no virtual
function is handed out for two of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping

from cyborg_lite.drivers import handle_records
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import mdev_cards
from cyborg_lite.drivers import nvidia_cards
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import vendor_vfio
from cyborg_lite.drivers import vgpu_types

Records = Mapping[str, handle_records.Record]


@dataclasses.dataclass(frozen=True, slots=True)
class Offers:
    """What a card offers now, by short name of the type, and why others offer nothing.

    withheld: virtual functions that are not handed out, with the reason.
    """

    by_type: dict[str, handle_slots.Offer] = dataclasses.field(default_factory=dict)
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    withheld: dict[str, str] = dataclasses.field(default_factory=dict)


def of(carrier: nvidia_cards.Card, room: Mapping[str, int], records: Records,
       refuse: Callable[[sysfs.PciFunction], str | None], reader: sysfs.Sysfs,
       catalogue: vendor_vfio.Catalogue) -> Offers:
    """Return the offers of a card whose partitions have room for so many vGPUs of each type.

    records: the driver's own. refuse: why a virtual function is not to be touched, or None.
    """
    found = Offers()
    mine = {uuid: record for uuid, record in records.items() if record.card == carrier.address}
    taken = {address: vgpu_types.short_name(record.name) for record in mine.values()
             if (address := handle_slots.address_of(record.info)) not in (None, carrier.address)}
    types = mdev_cards.Types(reader)
    for name in sorted(room):
        wishes = mdev_cards.Wishes(
            word=name, max_handles=room[name], refuse=_unless_taken(refuse, taken, name),
            partitions=lambda parts: room.get(parts.short))
        own = {uuid: record for uuid, record in mine.items()
               if vgpu_types.short_name(record.name) == name}
        try:
            offer = (vendor_vfio.offer(carrier, wishes, reader, catalogue, own)
                     if isinstance(carrier, vendor_vfio.Card)
                     else mdev_cards.offer(carrier, wishes, types, own))
        except handle_slots.NotOffered as reason:
            found.refused[name] = str(reason)
            continue
        found.withheld.update(offer.withheld)
        if offer.full is not None:
            found.refused[name] = offer.full
            continue
        found.by_type[name] = offer
        for handle in offer.handles:
            address = handle_slots.address_of(handle.info)
            if address is not None and address != carrier.address:
                taken.setdefault(address, name)
    for address in taken:
        found.withheld.pop(address, None)
    return found


def _unless_taken(refuse: Callable[[sysfs.PciFunction], str | None], taken: Mapping[str, str],
                  name: str) -> Callable[[sysfs.PciFunction], str | None]:
    def judge(function: sysfs.PciFunction) -> str | None:
        if taken.get(function.address, name) != name:
            return f"it is for {taken[function.address]}"
        return refuse(function)

    return judge
