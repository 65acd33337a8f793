# SPDX-License-Identifier: Apache-2.0
"""mdev_driver: mediated devices of any parent: GVT-g, s390 AP, NVIDIA's, the kernel's samples.

No vendor is known here. Counting is in `mdev_cards.py`, making them in `mdev_work.py`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any
from typing import ClassVar

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import handle_records
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import mdev_cards
from cyborg_lite.drivers import mdev_work
from cyborg_lite.drivers import pci_ids
from cyborg_lite.drivers import placement_names
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import vgpu_types

LOG = logging.getLogger(__name__)

NAME = "mdev_driver"
DISPLAY_CLASS, OTHER_CLASS = "VGPU", "CUSTOM_MDEV"
MAX_HANDLES = 64


@dataclasses.dataclass(frozen=True, slots=True)
class TypeOptions:
    """One group [mdev_<type>]. addresses: the parents it is for; none means all others."""

    word: str
    addresses: frozenset[str] = frozenset()
    resource_class: str | None = None
    traits: tuple[str, ...] = ()


class MdevDriver(base.Driver, base.RestoresHandles, base.TakesDownHandles):
    """One device and one deployable a parent, or a card whose virtual functions are parents."""

    option_groups: ClassVar[tuple[str, ...]] = ("mdev",)
    entry_keys: ClassVar[frozenset[str]] = frozenset(
        {"offer", "vgpu_type", "resource_class", "traits"})
    offers: ClassVar[frozenset[str]] = frozenset({"vgpu", "none"})
    cleans: ClassVar[frozenset[str]] = frozenset({"none"})
    knows_steps: ClassVar[bool] = True

    def __init__(self, environment: base.Environment) -> None:
        super().__init__(environment)
        options = environment.options.get("mdev", {})
        self._types = _type_options(options)
        self._resource_class: str | None = None
        self._traits: tuple[str, ...] = ()
        self._resource_class, self._traits = _names("[mdev]", options)
        self._max_handles = int(options.get("max_handles") or MAX_HANDLES)
        self._records = handle_records.HandleRecords(
            environment.state_path, NAME, read_only=environment.checking)
        self._work = mdev_work.MdevWork(
            environment, self._records, str(options.get("created_by") or mdev_work.AGENT))
        self._told: dict[str, str] = {}

    # --- discover -----------------------------------------------------------------------------

    def discover(self) -> list[messages.ReportedDevice]:
        """Return every card with room for mediated devices, of one type each."""
        self.withheld, self.problems = {}, []
        records = self._records.all()
        types = mdev_cards.Types(self.environment.sysfs)
        found = []
        for card in mdev_cards.cards(self.environment.sysfs):
            try:
                found.append(self._device(card, types, records))
            except handle_slots.NotOffered as reason:
                self.withheld[card.address] = str(reason)
        return found

    def _device(self, card: mdev_cards.Card, types: mdev_cards.Types,
                records: Mapping[str, handle_records.Record]) -> messages.ReportedDevice:
        entry = self._entry(card)
        if entry.offer == "none":
            raise handle_slots.NotOffered(device_config.NEVER)
        if card.address in self.environment.claimed:
            raise handle_slots.NotOffered("another driver offers it")
        chosen = self._chosen(card, types)
        word = entry.vgpu_type or (chosen.word if chosen else None)
        if word is None and self._types:
            raise handle_slots.NotOffered(
                "none of its types is in [mdev] enabled_types; it has "
                + (", ".join(types.ids(card.parents[0])) or "none"))
        offer = mdev_cards.offer(
            card, mdev_cards.Wishes(word=word, max_handles=self._max_handles,
                                    refuse=self._refuse), types, records)
        self.withheld |= offer.withheld
        if offer.full is not None:
            raise handle_slots.NotOffered(offer.full)
        self._tell(card, word, offer)
        return self._reported(card, offer, entry, chosen)

    def _entry(self, card: mdev_cards.Card) -> device_config.Entry:
        devices = self.environment.devices
        found = (devices.entry_for_name(card.address) if card.function is None
                 else devices.entry_for(card.function))
        return found or device_config.Entry(match=device_config.Match())

    def _chosen(self, card: mdev_cards.Card, types: mdev_cards.Types) -> TypeOptions | None:
        """The options of the type that the card is to have: by its address, else one it knows."""
        names = {card.address, *(parent.name for parent in card.parents)}
        for options in self._types:
            if options.addresses & names:
                return options
        first = card.parents[0]
        return next((options for options in self._types if not options.addresses
                     and types.find(first, options.word) is not None), None)

    def _refuse(self, function: sysfs.PciFunction) -> str | None:
        if self.environment.devices.is_never_offered(function):
            return device_config.NEVER
        return ("another driver offers it" if function.address in self.environment.claimed
                else None)

    def _tell(self, card: mdev_cards.Card, word: str | None, offer: handle_slots.Offer) -> None:
        if self._told.get(card.address) == offer.type_id:
            return
        self._told[card.address] = offer.type_id
        if word is None:
            LOG.warning("mediated devices of %s: no type is configured, so type %s (%s) is "
                        "offered; choose by [mdev] enabled_types or a device file",
                        card.address, offer.type_id, offer.type_name)
        elif not vgpu_types.is_meant(word, offer.type_id, offer.type_name):
            LOG.warning("mediated devices of %s: type %s is in use; %s is offered only when they "
                        "are gone", card.address, offer.type_id, word)

    # --- reports ------------------------------------------------------------------------------

    def _reported(self, card: mdev_cards.Card, offer: handle_slots.Offer,
                  entry: device_config.Entry,
                  options: TypeOptions | None) -> messages.ReportedDevice:
        function = card.function
        display = function is not None and function.class_code.startswith("03")
        resource_class = (entry.resource_class or (options.resource_class if options else None)
                          or self._resource_class or (DISPLAY_CLASS if display else OTHER_CLASS))
        traits = {placement_names.custom(f"MDEV_{offer.type_id}"), *self._traits, *entry.traits,
                  *(options.traits if options else ())}
        deployable = messages.ReportedDeployable(
            name=card.address, resource_class=resource_class, traits=sorted(traits),
            driver_name=(pci_ids.vendor_name(function.vendor) if function
                         else offer.type_id.partition("-")[0]),
            handles=offer.handles, prepares=True, cleans=True)
        board = {"product_id": function.product if function else None, "controller": None}
        return messages.ReportedDevice(
            address=card.address, type=pci_ids.device_type(function) if function else "PCI",
            vendor=function.vendor if function else "virtual",
            model=function.product if function else offer.type_name, driver=NAME,
            deployables=[deployable], std_board_info=json.dumps(board),
            vendor_board_info="miss_vb_info",
            pci_address=function.address if function else None,
            numa_node=function.numa_node if function else None)

    # --- host work ----------------------------------------------------------------------------

    def prepare(self, task: messages.HandleTask) -> None:
        """Make the mediated device of the handle."""
        self._work.prepare(task)

    def clean(self, task: messages.HandleTask) -> None:
        """Remove the mediated device of the handle."""
        self._work.clean(task)

    def take_down(self, task: messages.HandleTask) -> None:
        """Remove the mediated device; it holds nothing while its server is suspended."""
        self._work.take_down(task)

    def made(self) -> Collection[str]:
        """Return the handles for which there is a device, or was before the host started anew."""
        return self._records.all().keys()

    def remove_unneeded(self, handles: Collection[str]) -> None:
        """Remove the mediated devices that this driver made for these handles."""
        self._work.remove_unneeded(handles)


def _names(group: str, options: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """The resource class and the traits of a group. Raises ConfigurationError."""
    try:
        name = options.get("resource_class")
        return (placement_names.resource_class(name) if name else None,
                placement_names.traits(options.get("traits") or ()))
    except ValueError as error:
        raise base.ConfigurationError(f"{group} resource_class or traits: {error}") from error


def _type_options(options: Mapping[str, Any]) -> list[TypeOptions]:
    groups = options.get("types") or {}
    found: list[TypeOptions] = []
    for word in options.get("enabled_types") or ():
        group = groups.get(word, {})
        resource_class, traits = _names(f"[mdev_{word}]", group)
        addresses = frozenset(each.strip() for each in group.get("device_addresses") or ())
        for other in found:
            if other.addresses & addresses:
                raise base.ConfigurationError(
                    f"[mdev_{word}] device_addresses: {', '.join(other.addresses & addresses)} is "
                    f"in [mdev_{other.word}] already; a parent has one type at a time")
        found.append(TypeOptions(word, addresses, resource_class, traits))
    return found
