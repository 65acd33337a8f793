# SPDX-License-Identifier: Apache-2.0
"""What an operator wants of NVIDIA GPUs: whole or vGPUs, of which type, made by whom.

From options and device files alone; what the cards can do is not known here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import mdev_work
from cyborg_lite.drivers import sysfs


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """One card's. word: the vGPU type as the operator wrote it; None when nobody said.

    is_named: vGPUs were asked of this very card. only: the virtual functions to take, where some
        were named.
    """

    vgpus: bool
    word: str | None = None
    is_named: bool = False
    only: frozenset[str] = frozenset()


class GpuWishes:
    """The wishes for all cards of a host. Raises ConfigurationError for options that contradict.

    options: the groups gpu_devices, where `types` has the values of each type's own group, and
        mdev.
    """

    def __init__(self, options: Mapping[str, Mapping[str, Any]],
                 devices: device_config.DeviceConfig) -> None:
        group = options.get("gpu_devices", {})
        self._devices = devices
        self._enabled: list[str] = list(group.get("enabled_vgpu_types") or ())
        self._by_address: dict[str, str] = {}
        self.vendor_vfio = bool(group.get("offer_vendor_vfio", True))
        self.created_by = str(options.get("mdev", {}).get("created_by") or mdev_work.AGENT)
        addresses = {word: values.get("device_addresses") or ()
                     for word, values in (group.get("types") or {}).items()}
        self._anywhere = [word for word in self._enabled if not addresses.get(word)]
        if len(self._anywhere) > 1:
            raise base.ConfigurationError(
                "[gpu_devices] enabled_vgpu_types: "
                f"{', '.join(self._anywhere)} have no device_addresses each; one type at most may "
                "be for all the other cards, so give the others a group [vgpu_<type>]")
        for word in self._enabled:
            for address in addresses.get(word) or ():
                self._add(word, address.strip().lower())

    def _add(self, word: str, address: str) -> None:
        if not sysfs.ADDRESS.fullmatch(address):
            raise base.ConfigurationError(
                f"[vgpu_{word}] device_addresses: {address!r} is no PCI address; write it in full, "
                "such as 0000:41:00.0")
        other = self._by_address.setdefault(address, word)
        if other != word:
            raise base.ConfigurationError(
                f"[vgpu_{word}] device_addresses: {address} is in [vgpu_{other}] already; a card "
                "has one vGPU type at a time")

    def of(self, function: sysfs.PciFunction,
           virtual: Iterable[sysfs.PciFunction] = ()) -> Wish:
        """Return the wish for a card; a device file goes before the options.

        The addresses of a type may be those of virtual functions, where these are the parents of
        mediated devices.
        """
        entry = self._devices.entry_for(function)
        only = {each.address: self._by_address[each.address] for each in virtual
                if each.address in self._by_address}
        word = self._by_address.get(function.address) or min(only.values(), default=None)
        if entry is not None and (entry.offer or entry.vgpu_type):
            if entry.offer in ("whole", "none"):
                return Wish(False)
            return Wish(True, entry.vgpu_type or word or next(iter(self._anywhere), None), True)
        if word is not None:
            if {*only.values()} - {word}:
                raise handle_slots.NotOffered(
                    "its virtual functions are named for more than one vGPU type ("
                    f"{', '.join(sorted(set(only.values())))}); a card has one at a time")
            return Wish(True, word, True, frozenset(only))
        if self._anywhere:
            return Wish(True, self._anywhere[0])
        # with nothing configured a card that shows vGPUs is for vGPUs
        return Wish(not self._enabled)
