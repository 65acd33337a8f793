# SPDX-License-Identifier: Apache-2.0
"""nvidia_mig_driver: cards that MIG splits into partitions, and the vGPUs that live in these.

What NVML says is in `nvidia_mig_cards.py`, splitting in `nvidia_mig_work.py`, types in
`nvidia_mig_types.py`, counting in `nvidia_mig_offers.py`; vGPUs are made by the same modules as
those of whole cards.
"""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from typing import ClassVar

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import handle_records
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import mdev_work
from cyborg_lite.drivers import nvidia_cards
from cyborg_lite.drivers import nvidia_mig_cards
from cyborg_lite.drivers import nvidia_mig_offers
from cyborg_lite.drivers import nvidia_mig_types
from cyborg_lite.drivers import nvidia_mig_work
from cyborg_lite.drivers import nvml
from cyborg_lite.drivers import nvml_mig
from cyborg_lite.drivers import placement_names
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import vendor_vfio
from cyborg_lite.drivers import vendor_vfio_work

LOG = logging.getLogger(__name__)

NAME = "nvidia_mig_driver"
RESOURCE_CLASS = "VGPU"


class NvidiaMigDriver(base.Driver, base.RestoresHandles, base.TakesDownHandles,
                      base.SplitsDevices):
    """One device a card with MIG, whether split or not; one deployable a vGPU type on it.

    A partition goes to a guest only inside a vGPU, so that without NVIDIA's vGPU software
    partitions are shown and nothing is offered.
    """

    option_groups: ClassVar[tuple[str, ...]] = ("gpu_devices", "mdev")
    entry_keys: ClassVar[frozenset[str]] = frozenset(
        {"offer", "vgpu_type", "resource_class", "traits"})
    offers: ClassVar[frozenset[str]] = frozenset({"mig", "none"})
    cleans: ClassVar[frozenset[str]] = frozenset({"none"})
    knows_steps: ClassVar[bool] = True

    def __init__(self, environment: base.Environment) -> None:
        super().__init__(environment)
        self._options = environment.options.get("gpu_devices", {})
        self._records = handle_records.HandleRecords(
            environment.state_path, NAME, read_only=environment.checking)
        self._choices = nvidia_mig_types.Choices(
            environment.state_path, NAME, read_only=environment.checking)
        self._catalogue = vendor_vfio.Catalogue()
        created_by = environment.options.get("mdev", {}).get("created_by") or mdev_work.AGENT
        self._mdevs = mdev_work.MdevWork(environment, self._records, str(created_by))
        self._vfs = vendor_vfio_work.VfWork(environment, self._records, self._catalogue)
        self._told: dict[tuple[str, str], str] = {}
        # no vGPU is made while partitions come and go
        self._splitting = threading.Lock()

    # --- discover -----------------------------------------------------------------------------

    def discover(self) -> list[messages.ReportedDevice]:
        """Return every card that can be split, with what its partitions offer."""
        self.withheld, self.problems = {}, []
        functions = [each for each in self.environment.sysfs.pci_functions()
                     if nvidia_cards.is_gpu(each)]
        held = []
        for each in functions:
            if each.is_virtual or not nvml.is_held(each):
                continue
            if self.environment.devices.is_never_offered(each):
                # never touched: NVML is not asked about it either
                self.withheld[each.address] = device_config.NEVER
            else:
                held.append(each)
        virtual = nvidia_cards.by_parent(functions)
        carriers = nvidia_cards.carriers(held, virtual)
        records = self._records.all()
        found = []
        for function, told in zip(held, self._asked([each.address for each in held]),
                                  strict=True):
            try:
                card = None if told is None else self._judged(function, told)
                if card is not None:
                    found.append(self._device(function, card, carriers.get(function.address),
                                              virtual.get(function.address, ()), records))
            except handle_slots.NotOffered as reason:
                self.withheld[function.address] = str(reason)
        return found

    def _asked(self, addresses: list[str]) -> list[nvidia_mig_cards.Card | str | None]:
        """Each card, None where it has no MIG, or why it can't be told."""
        try:
            told = self._look(addresses) if addresses else {}
        except nvml_mig.Refused as error:
            text = (f"the nvidia driver has it, and NVML does not answer ({error}), so how it is "
                    "split can't be told")
            self.problems.append(base.Problem(
                f"NVIDIA GPUs can't be judged: {text}",
                "install the nvidia extra and see that nvidia-smi works on the host"))
            return [text] * len(addresses)
        found: list[nvidia_mig_cards.Card | str | None] = []
        for address in addresses:
            try:
                found.append(nvidia_mig_cards.of(address, told[address]))
            except nvidia_mig_cards.Unknown as error:
                found.append(f"NVML doesn't tell how it is split ({error})")
        return found

    def _look(self, addresses: list[str]) -> Mapping[str, Mapping[str, object]]:
        # the pre-flight runs as any user, and starts no helper
        return (nvml_mig.look(addresses) if self.environment.checking
                else self.environment.host.look_at_partitions(addresses))

    def _judged(self, function: sysfs.PciFunction,
                card: nvidia_mig_cards.Card | str) -> nvidia_mig_cards.Card:
        reason = self._refusal(function)
        if reason is not None:
            raise handle_slots.NotOffered(reason)
        if isinstance(card, str):
            raise handle_slots.NotOffered(card)
        return card

    # --- reports ------------------------------------------------------------------------------

    def _device(self, function: sysfs.PciFunction, card: nvidia_mig_cards.Card,
                carrier: nvidia_cards.Card | None, virtual: Sequence[sysfs.PciFunction],
                records: Mapping[str, handle_records.Record]) -> messages.ReportedDevice:
        words = nvidia_mig_types.words(self._options, function, self._entry(function).vgpu_type)
        offered_as = nvidia_mig_types.offered(
            card, nvidia_mig_types.in_use(card, records.values()),
            self._choices.of(card.address), words)
        offers = nvidia_mig_offers.Offers()
        if carrier is not None and self._may_offer(carrier):
            self._catalogue.learn(card.address, {each.id: each.name for each in card.types or ()})
            offers = nvidia_mig_offers.of(
                carrier, nvidia_mig_types.room(card, offered_as), records, self._refusal,
                self.environment.sysfs, self._catalogue)
        deployables = [self._deployable(function, card, name, offer.handles)
                       for name, offer in offers.by_type.items()]
        handed_out = {handle_slots.address_of(handle.info) for each in deployables
                      for handle in each.handles}
        for child in virtual:
            if child.address not in handed_out:
                self.withheld[child.address] = offers.withheld.get(
                    child.address, f"it is a virtual function of {card.address}, and no partition "
                    "needs it")
        self._tell(card, carrier, offers, offered_as)
        return nvidia_cards.device(function, NAME, deployables, nvidia_mig_cards.partitioning(
            card, offered_as, nvidia_mig_types.ranked(card, words)))

    def _may_offer(self, carrier: nvidia_cards.Card) -> bool:
        return not isinstance(carrier, vendor_vfio.Card) or bool(
            self._options.get("offer_vendor_vfio", True))

    def _entry(self, function: sysfs.PciFunction) -> device_config.Entry:
        return (self.environment.devices.entry_for(function)
                or device_config.Entry(match=device_config.Match()))

    def _refusal(self, function: sysfs.PciFunction) -> str | None:
        if self.environment.devices.is_never_offered(function):
            return device_config.NEVER
        return ("another driver offers it" if function.address in self.environment.claimed
                else None)

    def _deployable(self, function: sysfs.PciFunction, card: nvidia_mig_cards.Card, name: str,
                    handles: list[messages.ReportedHandle]) -> messages.ReportedDeployable:
        entry = self._entry(function)
        profile_id = next(each.partition_profile_id for each in card.types or ()
                          if each.short_name == name)
        profile = card.name_of(profile_id if profile_id is not None else -1)
        return messages.ReportedDeployable(
            name=f"{function.address}_{name}",
            resource_class=entry.resource_class or RESOURCE_CLASS,
            traits=sorted({placement_names.custom(f"NVIDIA_{function.product}_{name}"),
                           profile_trait(profile), *entry.traits}),
            driver_name="NVIDIA", handles=handles, prepares=True, cleans=True)

    def _tell(self, card: nvidia_mig_cards.Card, carrier: nvidia_cards.Card | None,
              offers: nvidia_mig_offers.Offers, offered_as: Sequence[str | None]) -> None:
        """Name what keeps partitions from being offered, and log each once a change."""
        lacking = dict(offers.refused)
        if any(offered_as) and carrier is None:
            lacking[""] = ("the card shows no virtual functions with vGPU types; enable them "
                           f"(sriov-manage -e {card.address}), which loses its partitions: the "
                           "agent makes those anew when it starts")
        elif any(offered_as) and carrier is not None and not self._may_offer(carrier):
            lacking[""] = ("[gpu_devices] offer_vendor_vfio is false: its vGPUs need a Nova that "
                           "attaches with managed='no'")
        for name, reason in lacking.items():
            what = (f"partitions of GPU {card.address} offer no vGPU"
                    + (f" of type {name}" if name else "") + f": {reason}")
            self.problems.append(base.Problem(
                what, "see that NVIDIA's vGPU software runs and that the virtual functions are "
                "enabled"))
            if self._told.get((card.address, name)) != reason:
                LOG.warning("%s", what)
        self._told = {key: text for key, text in self._told.items() if key[0] != card.address} | {
            (card.address, name): reason for name, reason in lacking.items()}

    # --- splitting ----------------------------------------------------------------------------

    def apply_layout(self, wish: messages.LayoutWish) -> None:
        """Split the card as wished; which vGPU types its partitions are for is kept in a file."""
        address = wish.device_address
        with self._splitting:
            self._look_at_owner(wish)
            try:
                card = self._card(address)
            except nvidia_mig_cards.Unknown as error:
                raise nvidia_mig_work.Fault(
                    f"NVML doesn't say how GPU {address} is split ({error}); nothing was changed"
                ) from error
            wanted, choices = nvidia_mig_work.resolved(card, wish.partitions)
            self._look_for_users(card, choices)
            nvidia_mig_work.MigWork(
                self.environment.host, lambda: self._card(address),
                lambda: self._live(address)).apply(wanted, held=wish.held)
            self._choices.note(address, choices)

    def _look_at_owner(self, wish: messages.LayoutWish) -> None:
        """Raise Fault for a card that is not this driver's, or not the one that is meant."""
        address = wish.device_address
        function = self.environment.sysfs.fresh().pci_function(address)
        if function is None or function.is_virtual or not nvidia_cards.is_gpu(function):
            raise nvidia_mig_work.Fault(f"there is no NVIDIA GPU at {address}")
        if not nvml.is_held(function):
            raise nvidia_mig_work.Fault(
                f"GPU {address} is on {function.driver or 'no driver'} and not on nvidia, so that "
                "it can't be split")
        reason = self._refusal(function)
        if reason is not None:
            raise nvidia_mig_work.Fault(f"GPU {address} is not this driver's: {reason}")
        another = nvidia_cards.is_another(function, wish)
        if another is not None:
            raise nvidia_mig_work.Fault(another)

    def _card(self, address: str) -> nvidia_mig_cards.Card:
        try:
            found = nvidia_mig_cards.of(
                address, self.environment.host.look_at_partitions([address])[address])
        except nvml_mig.Refused as error:
            raise nvidia_mig_cards.Unknown(str(error)) from error
        if found is None:
            raise nvidia_mig_cards.Unknown(f"GPU {address} has no MIG")
        return found

    def _live(self, address: str) -> str | None:
        live = nvidia_cards.live(self.environment.sysfs.fresh(), address)
        return f"there are vGPUs on GPU {address} ({', '.join(live)})" if live else None

    def _look_for_users(self, card: nvidia_mig_cards.Card,
                        choices: Sequence[nvidia_mig_types.Choice]) -> None:
        """Raise Fault if partitions in which our vGPUs are would be for other types."""
        there = self._live(card.address)
        if there is None:
            return
        in_use = nvidia_mig_types.in_use(card, self._records.all().values())
        kept = nvidia_mig_types.offered(card, in_use, choices, ())
        wished = nvidia_mig_types.offered(card, (), choices, ())
        if choices and collections.Counter(kept) != collections.Counter(wished):
            raise nvidia_mig_work.Fault(f"{there}; they can't be of other types")

    # --- host work ----------------------------------------------------------------------------

    def prepare(self, task: messages.HandleTask) -> None:
        """Make the vGPU of the handle."""
        with self._splitting:
            if task.type == "MDEV":
                self._mdevs.prepare(task)
            else:
                self._vfs.prepare(task)

    def clean(self, task: messages.HandleTask) -> None:
        """Remove the vGPU of the handle."""
        if task.type == "MDEV":
            self._mdevs.clean(task)
        else:
            self._vfs.clean(task)

    def take_down(self, task: messages.HandleTask) -> None:
        """Remove the vGPU of the handle; it holds nothing of the tenant's."""
        if task.type == "MDEV":
            self._mdevs.take_down(task)
        else:
            self._vfs.clean(task)

    def made(self) -> Collection[str]:
        """Return the handles for which there is a vGPU, or was before the host started anew."""
        return self._records.all().keys()

    def remove_unneeded(self, handles: Collection[str]) -> None:
        """Remove the vGPUs that this driver made for these handles."""
        self._mdevs.remove_unneeded(handles)
        self._vfs.remove_unneeded(handles)


def profile_trait(profile: str) -> str:
    """Return the trait of a partition's profile: `+me` and `-me` are not the same to Placement."""
    return placement_names.custom(f"MIG_{profile}".replace("-", "_NO_").replace("+", "_"))
