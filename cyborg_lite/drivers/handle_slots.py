# SPDX-License-Identifier: Apache-2.0
"""Which handles of a card are reported, so that the list stays the same as vGPUs come and go.

Pure: what is there, what is held and what is left are arguments.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from cyborg_lite import messages

Info = Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """What a card offers now, all of one type.

    withheld: functions of the card that are not offered, with the reason. full: why there are no
        handles, when there are none.
    """

    type_id: str
    type_name: str
    handles: list[messages.ReportedHandle]
    withheld: dict[str, str] = dataclasses.field(default_factory=dict)
    full: str | None = None


class NotOffered(Exception):
    """The card offers nothing; the text says why."""


def chosen(held: Sequence[Info], candidates: Iterable[Info], total: int) -> list[Info]:
    """Return the handles to report: every held one, then the first others until there are `total`.

    A handle that somebody has is never left out, also when the card says that it has less. The
    order is that of addresses and numbers, whoever has what.
    """
    found = list(held)
    for candidate in candidates:
        if len(found) >= total:
            break
        if candidate not in found:
            found.append(candidate)
    return sorted(found, key=_order)


def _order(info: Info) -> tuple[str, list[tuple[int, str]]]:
    mark = re.findall(r"[0-9]+|[^0-9]+", info.get("vgpu_mark", ""))
    return (address_of(info) or info.get("parent", ""),
            [(int(part), "") if part.isdigit() else (-1, part) for part in mark])


def address_info(address: str) -> dict[str, str]:
    """Return the four parts of a PCI address, as attach handles carry them."""
    domain, bus, rest = address.split(":")
    device, _, function = rest.partition(".")
    return {"domain": domain, "bus": bus, "device": device, "function": function}


def address_of(info: Info) -> str | None:
    """Return the PCI address in a handle's info; None when it has none."""
    try:
        return "{domain}:{bus}:{device}.{function}".format_map(info)
    except KeyError:
        return None
