# SPDX-License-Identifier: Apache-2.0
"""nvidia_gpu_driver: whole NVIDIA GPUs, and vGPUs in the three ways a host may have them.

Which way it is, sysfs tells and never the model. Counting vGPUs is in `mdev_cards.py` and
`vendor_vfio.py`, making them in `mdev_work.py` and `vendor_vfio_work.py`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from collections.abc import Sequence
from typing import ClassVar

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import gpu_wishes
from cyborg_lite.drivers import handle_records
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import mdev_cards
from cyborg_lite.drivers import mdev_work
from cyborg_lite.drivers import nvidia_cards
from cyborg_lite.drivers import nvidia_vgpu_layouts
from cyborg_lite.drivers import nvml
from cyborg_lite.drivers import passthrough
from cyborg_lite.drivers import placement_names
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import vendor_vfio
from cyborg_lite.drivers import vendor_vfio_work
from cyborg_lite.drivers import vgpu_types

LOG = logging.getLogger(__name__)

NAME = "nvidia_gpu_driver"


class NvidiaGpuDriver(base.Driver, base.RestoresHandles, base.TakesDownHandles,
                      base.SplitsDevices):
    """One device and one deployable a card: PGPU with itself, or VGPU with what fits on it."""

    option_groups: ClassVar[tuple[str, ...]] = ("gpu_devices", "mdev")
    entry_keys: ClassVar[frozenset[str]] = frozenset(
        {"offer", "vgpu_type", "resource_class", "traits", "clean"})
    offers: ClassVar[frozenset[str]] = frozenset({"whole", "vgpu", "none"})
    cleans: ClassVar[frozenset[str]] = frozenset({"reset", "none"})
    knows_steps: ClassVar[bool] = True

    def __init__(self, environment: base.Environment) -> None:
        super().__init__(environment)
        self._wishes = gpu_wishes.GpuWishes(environment.options, environment.devices)
        self._records = handle_records.HandleRecords(
            environment.state_path, NAME, read_only=environment.checking)
        self._choices = nvidia_vgpu_layouts.Choices(
            environment.state_path, NAME, read_only=environment.checking)
        self._chosen: dict[str, nvidia_vgpu_layouts.Choice] = {}
        self._catalogue = vendor_vfio.Catalogue()
        self._mdevs = mdev_work.MdevWork(environment, self._records, self._wishes.created_by)
        self._vfs = vendor_vfio_work.VfWork(environment, self._records, self._catalogue)
        self._virtual: dict[str, list[sysfs.PciFunction]] = {}
        self._told: dict[str, str] = {}

    # --- discover -----------------------------------------------------------------------------

    def discover(self) -> list[messages.ReportedDevice]:
        """Return the cards that can be offered now, whole or as vGPUs of one type each."""
        self.withheld, self.problems = {}, []
        functions = [each for each in self.environment.sysfs.pci_functions()
                     if nvidia_cards.is_gpu(each)]
        physical = [each for each in functions if not each.is_virtual]
        self._virtual = nvidia_cards.by_parent(functions)
        cards = nvidia_cards.carriers(physical, self._virtual)
        answers = nvml.ask(each.address for each in physical if nvml.is_held(each))
        records = self._records.all()
        chosen = self._choices.all()
        self._chosen = {each.address: chosen[each.address] for each in physical
                        if each.address in chosen and chosen[each.address].is_for(each.product)}
        types = mdev_cards.Types(self.environment.sysfs)
        whole: list[sysfs.PciFunction] = []
        found: dict[str, messages.ReportedDevice] = {}
        for function in physical:
            try:
                card = cards.get(function.address)
                answer = answers.get(function.address, nvml.Answer())
                if self._is_for_vgpus(function, card) and card is not None:
                    found[function.address] = self._vgpu_device(
                        function, card, answer, types, records)
                else:
                    _judge_held(function, answer)
                    whole.append(function)
            except handle_slots.NotOffered as reason:
                self.withheld[function.address] = str(reason)
        offered, withheld = passthrough.judge(whole, self.environment)
        self.withheld |= withheld
        for function in offered:
            found[function.address] = self._whole_device(function)
        for parent, children in self._virtual.items():
            for child in children:
                if parent not in found or child.address not in self._handed_out(found[parent]):
                    self.withheld.setdefault(
                        child.address, f"it is a virtual function of {parent}, and no vGPU is "
                        "offered on it")
        self._look_for_problems(physical, answers)
        return [found[each.address] for each in physical if each.address in found]

    def _is_for_vgpus(self, function: sysfs.PciFunction, card: nvidia_cards.Card | None) -> bool:
        """Say whether the card is used for vGPUs. Raises NotOffered when it is not to be used."""
        if self.environment.devices.is_never_offered(function):
            raise handle_slots.NotOffered(device_config.NEVER)
        if function.address in self.environment.claimed:
            raise handle_slots.NotOffered("another driver offers it")
        wish = self._wish(function)
        if card is None and wish.is_named:
            raise handle_slots.NotOffered(
                "vGPUs are wanted of it, and it shows none: no types of mediated devices, no "
                "virtual functions with vGPU types. Is NVIDIA's vGPU software running; where the "
                "card has virtual functions, are they enabled (sriov-manage -e)?")
        return wish.vgpus

    def _vgpus(self, function: sysfs.PciFunction, card: nvidia_cards.Card, answer: nvml.Answer,
               types: mdev_cards.Types,
               records: dict[str, handle_records.Record]) -> handle_slots.Offer:
        wish = self._wish(function)
        choice = self._chosen.get(function.address)
        wishes = mdev_cards.Wishes(
            word=wish.word, refuse=lambda each: self._refusal(each, wish),
            partitions=lambda parts: answer.in_partitions.get(parts.short))
        if choice is not None:
            wishes = dataclasses.replace(wishes, max_handles=choice.count)
        if isinstance(card, vendor_vfio.Card):
            if not self._wishes.vendor_vfio:
                raise handle_slots.NotOffered(
                    "[gpu_devices] offer_vendor_vfio is false: its vGPUs need a Nova that attaches "
                    "with managed='no'")
            self._catalogue.learn(function.address, answer.vgpu_types)
            offer = vendor_vfio.offer(card, wishes, self.environment.sysfs, self._catalogue,
                                      records)
        else:
            offer = mdev_cards.offer(card, wishes, types, records)
        self.withheld |= offer.withheld
        if offer.full is not None:
            raise handle_slots.NotOffered(offer.full)
        self._tell(function, wish, offer, isinstance(card, vendor_vfio.Card))
        return offer

    def _wish(self, function: sysfs.PciFunction) -> gpu_wishes.Wish:
        wish = self._wishes.of(function, self._virtual.get(function.address, ()))
        choice = self._chosen.get(function.address)
        return dataclasses.replace(wish, word=choice.name or wish.word) if choice else wish

    def _refusal(self, function: sysfs.PciFunction, wish: gpu_wishes.Wish) -> str | None:
        if self.environment.devices.is_never_offered(function):
            return device_config.NEVER
        if wish.only and function.address not in wish.only:
            return "it is not among the device_addresses of its card's vGPU type"
        return ("another driver offers it" if function.address in self.environment.claimed
                else None)

    def _tell(self, function: sysfs.PciFunction, wish: gpu_wishes.Wish,
              offer: handle_slots.Offer, vendor: bool) -> None:
        """Log, once a change, what nobody asked for in these words."""
        short = vgpu_types.short_name(offer.type_name)
        if self._told.get(function.address) == short:
            return
        self._told[function.address] = short
        if wish.word is None:
            LOG.warning("GPU %s: no vGPU type is configured, so it is offered as %s (%s); choose "
                        "by [gpu_devices] enabled_vgpu_types or a device file",
                        function.address, short, offer.type_name)
        elif not vgpu_types.is_meant(wish.word, offer.type_id, offer.type_name):
            LOG.warning("GPU %s: vGPUs of type %s are in use; it is offered as %s only when they "
                        "are gone", function.address, short, wish.word)
        if vendor:
            LOG.warning("GPU %s: its vGPUs are virtual functions that stay with the nvidia driver. "
                        "Nova has to attach them with managed='no', as their handles say; one that "
                        "doesn't destroys them. If yours doesn't, set [gpu_devices] "
                        "offer_vendor_vfio = false", function.address)

    def _look_for_problems(self, physical: Sequence[sysfs.PciFunction],
                           answers: dict[str, nvml.Answer]) -> None:
        unknown = {answer.unknown for address, answer in answers.items()
                   if answer.unknown and self.withheld.get(address) == answer.unknown}
        self.problems = [base.Problem(
            what=f"NVIDIA GPUs can't be judged: {text}",
            hint="install the nvidia extra and see that nvidia-smi works on the host, or bind the "
                 "cards to vfio-pci") for text in sorted(unknown)]
        self.problems += [base.Problem(
            what=f"GPU {each.address} is not used for vGPUs as configured: "
                 f"{self.withheld[each.address]}",
            hint="see [gpu_devices] enabled_vgpu_types, the card's device file, and NVIDIA's "
                 "vGPU software")
            for each in physical if each.address in self.withheld
            and self._is_named(each) and each.address not in self.environment.claimed]

    def _is_named(self, function: sysfs.PciFunction) -> bool:
        try:
            return self._wish(function).is_named
        except handle_slots.NotOffered:
            return True

    # --- reports ------------------------------------------------------------------------------

    def _vgpu_device(self, function: sysfs.PciFunction, card: nvidia_cards.Card,
                     answer: nvml.Answer, types: mdev_cards.Types,
                     records: dict[str, handle_records.Record]) -> messages.ReportedDevice:
        held = any(record.card == function.address for record in records.values())
        choice = self._chosen.get(function.address)
        if choice is not None and not choice.count and not held:
            return nvidia_cards.device(function, NAME, [], nvidia_vgpu_layouts.partitioning(
                answer.sliced, None))
        offer = self._vgpus(function, card, answer, types, records)
        short = vgpu_types.short_name(offer.type_name)
        trait = placement_names.custom(f"NVIDIA_{function.product}_{short}")
        return nvidia_cards.device(function, NAME, [
            self._deployable(function, "VGPU", trait, offer.handles, True)],
            nvidia_vgpu_layouts.partitioning(answer.sliced, offer))

    def _whole_device(self, function: sysfs.PciFunction) -> messages.ReportedDevice:
        trait = placement_names.custom(f"NVIDIA_{function.product}")
        handle = messages.ReportedHandle(
            type="PCI", info=handle_slots.address_info(function.address))
        entry = self.environment.devices.entry_for(function)
        resets = entry is not None and entry.clean == "reset"
        return nvidia_cards.device(function, NAME, [self._deployable(
            function, "PGPU", trait, [handle], prepares=False, cleans=resets)])

    def _deployable(self, function: sysfs.PciFunction, resource_class: str, trait: str,
                    handles: list[messages.ReportedHandle], prepares: bool,
                    cleans: bool = True) -> messages.ReportedDeployable:
        entry = self.environment.devices.entry_for(function) or device_config.Entry(
            match=device_config.Match())
        return messages.ReportedDeployable(
            name=function.address, resource_class=entry.resource_class or resource_class,
            traits=sorted({trait, *entry.traits}), driver_name="NVIDIA", handles=handles,
            prepares=prepares, cleans=cleans)

    @staticmethod
    def _handed_out(device: messages.ReportedDevice) -> set[str | None]:
        return {handle_slots.address_of(handle.info) for deployable in device.deployables
                for handle in deployable.handles}

    # --- layouts ------------------------------------------------------------------------------

    def apply_layout(self, wish: messages.LayoutWish) -> None:
        """Offer so many vGPUs of the wished type from now on; none is made or removed for it."""
        address = wish.device_address
        function = self.environment.sysfs.fresh().pci_function(address)
        if function is None:
            raise nvidia_vgpu_layouts.Fault(f"there is no GPU at {address}")
        another = nvidia_cards.is_another(function, wish)
        if another is not None:
            raise nvidia_vgpu_layouts.Fault(another)
        answer = nvml.ask([address])[address]
        if answer.unknown is not None or not answer.sliced:
            raise nvidia_vgpu_layouts.Fault(answer.unknown or (
                f"GPU {address} names no vGPU types that share it in time"))
        choice = nvidia_vgpu_layouts.judged(
            address, function.product, answer.sliced, wish.partitions)
        known = self._choices.all().get(address)
        if known is not None and known.is_for(choice.model) and (
                known.name, known.count) == (choice.name, choice.count):
            return
        ours = {uuid: record for uuid, record in self._records.all().items()
                if record.card == address}
        others = {*nvidia_cards.live(self.environment.sysfs.fresh(), address)} - {
            *ours, *(record.parent for record in ours.values())}
        if others or len(ours) > choice.count or any(
                vgpu_types.short_name(record.name) != choice.name for record in ours.values()):
            raise nvidia_vgpu_layouts.Fault(
                f"there are vGPUs on GPU {address} ({', '.join(sorted(others | {*ours}))}); what "
                "it offers is not changed while they exist")
        self._choices.note(address, choice)

    # --- host work ----------------------------------------------------------------------------

    def prepare(self, task: messages.HandleTask) -> None:
        """Make the vGPU of the handle; a whole card needs nothing."""
        if task.type == "MDEV":
            self._mdevs.prepare(task)
        elif "vgpu_type" in task.info:
            self._vfs.prepare(task)

    def clean(self, task: messages.HandleTask) -> None:
        """Remove the vGPU of the handle; reset a whole card where its device file says so."""
        if task.type == "MDEV":
            self._mdevs.clean(task)
        elif "vgpu_type" in task.info:
            self._vfs.clean(task)
        else:
            self.environment.host.reset(handle_slots.address_of(task.info) or "")

    def take_down(self, task: messages.HandleTask) -> None:
        """Remove the vGPU of the handle; a whole card stays as it is."""
        if task.type == "MDEV":
            self._mdevs.take_down(task)
        elif "vgpu_type" in task.info:
            self._vfs.clean(task)

    def made(self) -> Collection[str]:
        """Return the handles for which there is a vGPU, or was before the host started anew."""
        return self._records.all().keys()

    def remove_unneeded(self, handles: Collection[str]) -> None:
        """Remove the vGPUs that this driver made for these handles."""
        self._mdevs.remove_unneeded(handles)
        self._vfs.remove_unneeded(handles)


def _judge_held(function: sysfs.PciFunction, answer: nvml.Answer) -> None:
    """Raise NotOffered for a whole card that the nvidia driver has and that is used, or may be."""
    if answer.unknown is not None:
        raise handle_slots.NotOffered(answer.unknown)
    if answer.mig:
        raise handle_slots.NotOffered("it is in MIG mode; nvidia_mig_driver offers its partitions")
    if answer.processes:
        raise handle_slots.NotOffered("processes of the host use it")
