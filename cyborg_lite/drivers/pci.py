# SPDX-License-Identifier: Apache-2.0
"""pci_driver: any PCI function that `[pci] device_spec` names and that can be handed out whole.

No knowledge of particular cards here, no host work: Nova's managed host device does it.
"""

from __future__ import annotations

import json
import logging
from typing import ClassVar

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_spec
from cyborg_lite.drivers import passthrough
from cyborg_lite.drivers import pci_ids
from cyborg_lite.drivers import sysfs

LOG = logging.getLogger(__name__)

RESOURCE_CLASS = "CUSTOM_PCI"


class PciDriver(base.Driver):
    """One device, one deployable and one handle for each function that can be offered."""

    option_groups: ClassVar[tuple[str, ...]] = ("pci",)

    def __init__(self, environment: base.Environment) -> None:
        super().__init__(environment)
        values = environment.options.get("pci", {}).get("device_spec") or ()
        self._specs = device_spec.parse(values)
        ignored = sorted({key for spec in self._specs for key in spec.ignored})
        if ignored:
            LOG.warning("%s: %s mean nothing to pci_driver and are ignored",
                        device_spec.OPTION, ", ".join(ignored))

    def discover(self) -> list[messages.ReportedDevice]:
        """Return the functions that a spec means and that can be given to a guest now."""
        reader = self.environment.sysfs
        chosen: dict[str, device_spec.DeviceSpec] = {}
        candidates: list[sysfs.PciFunction] = []
        for function in reader.pci_functions():
            spec = next((each for each in self._specs if each.matches(function)), None)
            # a spec as wide as a vendor means no bridges; one that names a bridge gets an answer
            if spec is not None and (
                    not function.is_bridge or spec.single_address == function.address):
                chosen[function.address] = spec
                candidates.append(function)
        offered, withheld = passthrough.judge(candidates, reader, self.environment.claimed)
        present = {function.address for function in reader.pci_functions()}
        absent = {spec.single_address: "there is no such function" for spec in self._specs
                  if spec.single_address and spec.single_address not in present}
        self.withheld = absent | withheld
        return [_device(function, chosen[function.address]) for function in offered]


def _device(function: sysfs.PciFunction,
            spec: device_spec.DeviceSpec) -> messages.ReportedDevice:
    vendor = pci_ids.vendor_name(function.vendor)
    traits = {f"CUSTOM_PCI_{vendor}", f"CUSTOM_PCI_PRODUCT_ID_{function.product.upper()}",
              *spec.traits}
    deployable = messages.ReportedDeployable(
        name=function.address, resource_class=spec.resource_class or RESOURCE_CLASS,
        traits=sorted(traits), driver_name=vendor, handles=[_handle(function.address)])
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
