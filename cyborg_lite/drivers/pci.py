# SPDX-License-Identifier: Apache-2.0
"""pci_driver: any PCI function that the operator names and that can be handed out whole.

No knowledge of particular cards here. Named are functions by `[pci] device_spec`, as in Nova, and
by device files, which alone can ask for virtual functions, another kernel driver, and a reset.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import ClassVar

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import device_spec
from cyborg_lite.drivers import passthrough
from cyborg_lite.drivers import pci_ids
from cyborg_lite.drivers import pci_work
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import virtual_functions

LOG = logging.getLogger(__name__)

NVIDIA = "10de"
RESOURCE_CLASS = "CUSTOM_PCI"

_Wish = tuple[device_spec.DeviceSpec | None, device_config.Entry | None]


class PciDriver(base.Driver, base.PreparesAgain, base.ArrangesDevices):
    """One device, one deployable and one handle for each function that can be offered."""

    option_groups: ClassVar[tuple[str, ...]] = ("pci",)
    entry_keys: ClassVar[frozenset[str]] = frozenset({
        "offer", "num_vfs", "resource_class", "traits", "clean", "driver_override"})
    offers: ClassVar[frozenset[str]] = frozenset({"whole", "vf"})
    cleans: ClassVar[frozenset[str]] = frozenset({"reset"})
    knows_steps: ClassVar[bool] = True

    def __init__(self, environment: base.Environment) -> None:
        super().__init__(environment)
        values = environment.options.get("pci", {}).get("device_spec") or ()
        self._specs = device_spec.parse(values)
        ignored = sorted({key for spec in self._specs for key in spec.ignored})
        if ignored:
            LOG.warning("%s: %s mean nothing to pci_driver and are ignored",
                        device_spec.OPTION, ", ".join(ignored))

    # --- discovery ----------------------------------------------------------------------------

    def discover(self) -> list[messages.ReportedDevice]:
        """Return the functions that are meant and that can be given to a guest now."""
        wishes: dict[str, _Wish] = {}
        candidates: list[sysfs.PciFunction] = []
        refused: dict[str, str] = {}
        movable: set[str] = set()
        for function, wish in self._meant(self.environment.sysfs):
            entry = wish[1]
            reason = _unlike(function, entry)
            if reason:
                refused[function.address] = reason
                continue
            wishes[function.address] = wish
            candidates.append(function)
            if entry is not None and entry.driver_override:
                movable.add(function.address)
        offered, withheld = passthrough.judge(candidates, self.environment, movable)
        unseen = {each.address: reason for each in offered
                  if (reason := _unseen(each, wishes[each.address][1]))}
        self.withheld = self._absent() | refused | withheld | unseen
        self.problems = [base.Problem(obstacle, "mend the device file or the card")
                         for _, obstacle in self._obstacles()]
        return [_device(function, *wishes[function.address]) for function in offered
                if function.address not in unseen]

    def _meant(self, reader: sysfs.Sysfs) -> Iterator[tuple[sysfs.PciFunction, _Wish]]:
        parents = {each.address: each for each in reader.pci_functions()}
        for function in reader.pci_functions():
            spec = next((each for each in self._specs if each.matches(function)), None)
            entry = self.environment.devices.entry_behind(
                function, parents.get(function.physfn or ""))
            if spec is None and entry not in self.environment.devices.entries:
                continue
            # what is as wide as a vendor means no bridges; one that names a bridge gets an answer
            if function.is_bridge and function.address not in (
                    spec.single_address if spec else None, entry.match.address if entry else None):
                continue
            yield function, (spec, entry)

    def _absent(self) -> dict[str, str]:
        present = {function.address for function in self.environment.sysfs.pci_functions()}
        named = [spec.single_address for spec in self._specs]
        named += [entry.match.address for entry in self.environment.devices.entries
                  if sysfs.ADDRESS.fullmatch(entry.match.address or "")]
        return {address: "there is no such function" for address in named
                if address and address not in present}

    # --- what device files ask for ------------------------------------------------------------

    def arrange(self) -> bool:
        """Make the virtual functions that device files ask for."""
        changed = False
        obstacles: list[str] = []
        for function in self.environment.sysfs.pci_functions():
            wanted = virtual_functions.wish_of(function, self.environment)
            if wanted is not None and self._is_own(function):
                try:
                    changed |= virtual_functions.arrange(function, wanted, self.environment)
                except (virtual_functions.Impossible, OSError) as error:
                    obstacles.append(str(error))
        if obstacles:
            raise virtual_functions.Impossible("; ".join(obstacles))
        return changed

    def _obstacles(self) -> Iterator[tuple[str, str]]:
        for function in self.environment.sysfs.pci_functions():
            wanted = virtual_functions.wish_of(function, self.environment)
            if wanted is not None and self._is_own(function):
                obstacle = virtual_functions.obstacle(function, wanted)
                if obstacle:
                    yield function.address, obstacle

    def _is_own(self, function: sysfs.PciFunction) -> bool:
        return self.environment.devices.entry_for(function) in self.environment.devices.entries

    # --- handles ------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Say whether a device file has functions put on another kernel driver."""
        return self.environment.devices.moves_functions

    def prepare(self, task: messages.HandleTask) -> None:
        """Put the function on the kernel driver that its device file asks for."""
        entry, function = self._entry_of(task)
        if entry is not None and entry.driver_override:
            pci_work.move(function, entry.driver_override, self.environment)

    def clean(self, task: messages.HandleTask) -> None:
        """Reset the function when its device file asks for that."""
        entry, function = self._entry_of(task)
        if entry is not None and entry.clean == "reset":
            pci_work.reset(function, self.environment)

    def _entry_of(self, task: messages.HandleTask) -> tuple[device_config.Entry | None,
                                                            sysfs.PciFunction]:
        address = "{domain}:{bus}:{device}.{function}".format(**task.info)
        reader = self.environment.sysfs.fresh()
        function = reader.pci_function(address)
        if function is None:
            raise pci_work.Refused(f"there is no function {address}")
        parent = reader.pci_function(function.physfn) if function.physfn else None
        return self.environment.devices.entry_behind(function, parent), function


def _unlike(function: sysfs.PciFunction, entry: device_config.Entry | None) -> str | None:
    """Return why the function is not what its entry offers."""
    if entry is None:
        return None
    if entry.offer == "whole" and function.is_virtual:
        return "it is a virtual function, and its device file offers whole devices (offer: whole)"
    if entry.offer == "vf" and not function.is_virtual:
        return "its device file offers its virtual functions (offer: vf)"
    if entry.clean == "reset" and not pci_work.can_be_reset(function):
        return "its device file wants it reset between guests, and it has no way to be reset"
    return None


def _unseen(function: sysfs.PciFunction, entry: device_config.Entry | None) -> str | None:
    """Return why it can't be judged: what NVIDIA's driver does with a card, sysfs doesn't show."""
    if function.vendor != NVIDIA or function.driver != "nvidia" or (
            entry is not None and entry.driver_override):
        return None
    return ("the host's nvidia driver has it, and whether it is in use or in MIG mode can't be "
            "seen by this driver; name nvidia_gpu_driver before pci_driver, or bind it to vfio-pci")


def _device(function: sysfs.PciFunction, spec: device_spec.DeviceSpec | None,
            entry: device_config.Entry | None) -> messages.ReportedDevice:
    vendor = pci_ids.vendor_name(function.vendor)
    traits = {f"CUSTOM_PCI_{vendor}", f"CUSTOM_PCI_PRODUCT_ID_{function.product.upper()}",
              *(spec.traits if spec else ()), *(entry.traits if entry else ())}
    resource_class = ((entry.resource_class if entry else None)
                      or (spec.resource_class if spec else None) or RESOURCE_CLASS)
    deployable = messages.ReportedDeployable(
        name=function.address, resource_class=resource_class, traits=sorted(traits),
        driver_name=vendor, handles=[_handle(function.address)],
        prepares=bool(entry and entry.driver_override),
        cleans=bool(entry and entry.clean == "reset"))
    board = {"product_id": function.product, "controller": None}
    return messages.ReportedDevice(
        address=function.address, type=pci_ids.device_type(function), vendor=function.vendor,
        model=function.product, driver="pci_driver", deployables=[deployable],
        std_board_info=json.dumps(board), vendor_board_info="miss_vb_info",
        pci_address=function.address, numa_node=function.numa_node)


def _handle(address: str) -> messages.ReportedHandle:
    domain, bus, rest = address.split(":")
    device, _, function = rest.partition(".")
    return messages.ReportedHandle(
        type="PCI",
        info={"domain": domain, "bus": bus, "device": device, "function": function})
