# SPDX-License-Identifier: Apache-2.0
"""intel_nic_driver: ports of Intel's 700 and 800 series, whole or as their virtual functions.

Which network a port is in, the operator says; parsing that is in `nic_mappings.py`. Other Intel
NICs are offered when a device file names them.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from typing import ClassVar

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import nic_mappings
from cyborg_lite.drivers import passthrough
from cyborg_lite.drivers import pci_work
from cyborg_lite.drivers import placement_names
from cyborg_lite.drivers import state_file
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import virtual_functions

LOG = logging.getLogger(__name__)

RESOURCE_CLASS = "CUSTOM_NIC"
INTEL = "8086"
RESET = "reset"

PORTS = frozenset({
    # 700 series: X710, XL710, XXV710, V710, X722
    "0d58", "101f", "104e", "104f", "1572", "1574", "1580", "1581", "1583", "1584", "1585", "1586",
    "1587", "1588", "1589", "158a", "158b", "15ff", "37d0", "37d1", "37d2", "37d3",
    # 800 series: E810
    "1591", "1592", "1593", "159b"})
"""Device ids of physical functions. Virtual functions are known by their physical one."""


class IntelNicDriver(base.Driver, base.PreparesAgain, base.ArrangesDevices):
    """One device a port; one deployable, with one handle, the port or each virtual function."""

    option_groups: ClassVar[tuple[str, ...]] = ("nic_devices",)
    entry_keys: ClassVar[frozenset[str]] = frozenset({
        "offer", "num_vfs", "resource_class", "traits", "physical_network", "clean",
        "driver_override"})
    offers: ClassVar[frozenset[str]] = frozenset({"whole", "vf"})
    cleans: ClassVar[frozenset[str]] = frozenset({RESET})
    knows_steps: ClassVar[bool] = True

    def __init__(self, environment: base.Environment) -> None:
        super().__init__(environment)
        types = environment.options.get("nic_devices", {}).get("types") or {}
        self._mappings = nic_mappings.of_types(types)
        self._names_file = os.path.join(environment.state_path, "intel_nic_driver.json")

    # --- discover -----------------------------------------------------------------------------

    def discover(self) -> list[messages.ReportedDevice]:
        """Return the ports, each as what of it can be given to a guest now."""
        self.withheld, self.problems = {}, []
        children = self._children()
        ports = [each for each in self.environment.sysfs.pci_functions() if self._is_port(each)]
        names = self._names(ports)
        candidates: list[sysfs.PciFunction] = []
        movable: set[str] = set()
        for port in ports:
            for function in (port, *children.get(port.address, ())):
                entry = self._entry(function, port)
                reason = _unlike(function, entry, bool(children.get(port.address)))
                if reason:
                    self.withheld[function.address] = reason
                    continue
                candidates.append(function)
                if entry is not None and entry.driver_override:
                    movable.add(function.address)
        offered, withheld = passthrough.judge(candidates, self.environment, movable)
        self.withheld |= withheld
        chosen = {each.address for each in offered}
        self.problems += [base.Problem(obstacle, "mend the device file, or free the card")
                          for obstacle in self._obstacles()]
        devices = []
        for port in ports:
            found = [each for each in (port, *children.get(port.address, ()))
                     if each.address in chosen]
            if found:
                devices.append(self._device(port, found, names.get(port.address, ())))
        return devices

    def _children(self) -> dict[str, list[sysfs.PciFunction]]:
        found: dict[str, list[sysfs.PciFunction]] = {}
        for function in self.environment.sysfs.pci_functions():
            if function.physfn is not None:
                found.setdefault(function.physfn, []).append(function)
        return found

    def _is_port(self, function: sysfs.PciFunction) -> bool:
        if (function.is_virtual or function.vendor != INTEL
                or not function.class_code.startswith("02")):
            return False
        own = self.environment.devices.entry_for(function)
        return function.product in PORTS or own in self.environment.devices.entries

    def _entry(self, function: sysfs.PciFunction,
               port: sysfs.PciFunction) -> device_config.Entry | None:
        """Return what a device file says of a function; a virtual one has its port's entry."""
        own = self.environment.devices.entry_for(function)
        return own if own is not None else self.environment.devices.entry_for(port)

    # --- names of interfaces ------------------------------------------------------------------

    def _names(self, ports: Collection[sysfs.PciFunction]) -> Mapping[str, tuple[str, ...]]:
        """Return the names by which the options may mean each port.

        A port inside a guest has no interface on the host: it keeps the names that it had.
        """
        known = self._known_names()
        names = {address: tuple(each) for address, each in known.items()}
        for port in ports:
            here = self.environment.sysfs.names(f"{port.path}/net") if "net" in port.entries else ()
            if here:
                names[port.address] = here
            elif port.driver is not None and not passthrough.is_passthrough_driver(port.driver):
                names.pop(port.address, None)
        lists = {address: list(each) for address, each in names.items()}
        if lists != known and not self.environment.checking:
            try:
                state_file.store(self._names_file, lists)
            except state_file.Unusable as error:
                self.problems.append(base.Problem(str(error), "let the agent's user write there"))
        return {port.address: (port.address, *names.get(port.address, ())) for port in ports}

    def _known_names(self) -> dict[str, list[str]]:
        try:
            content = state_file.load(self._names_file)
        except state_file.Unusable as error:
            # an ordinary user may run the pre-flight
            if not (self.environment.checking and isinstance(error.__cause__, PermissionError)):
                self.problems.append(base.Problem(str(error), "restore or remove the file"))
            return {}
        if not isinstance(content, dict):
            return {}
        return {address: [str(each) for each in names] for address, names in content.items()
                if isinstance(names, list)}

    # --- report -------------------------------------------------------------------------------

    def _device(self, port: sysfs.PciFunction, found: list[sysfs.PciFunction],
                names: tuple[str, ...]) -> messages.ReportedDevice:
        return messages.ReportedDevice(
            address=port.address, type="NIC", vendor=f"0x{port.vendor}", model="miss_model_info",
            driver="intel_nic_driver", vendor_board_info="miss_vb_info",
            std_board_info=json.dumps({"product_id": f"0x{port.product}"}),
            pci_address=port.address, numa_node=port.numa_node,
            deployables=[self._deployable(each, self._entry(each, port), names) for each in found])

    def _deployable(self, function: sysfs.PciFunction, entry: device_config.Entry | None,
                    names: tuple[str, ...]) -> messages.ReportedDeployable:
        network = (entry.physical_network if entry else None) or self._mappings.network_of(names)
        traits = {"CUSTOM_VF" if function.is_virtual else "CUSTOM_PF",
                  *(placement_names.custom(each) for each in self._mappings.functions_of(names)),
                  *([placement_names.custom(network)] if network else ()),
                  *(entry.traits if entry else ())}
        # Nova takes the key for granted when a port asks for the function
        info = handle_slots.address_info(function.address) | {"physical_network": network or ""}
        return messages.ReportedDeployable(
            name=function.address, traits=sorted(traits), driver_name="INTEL",
            resource_class=(entry.resource_class if entry else None) or RESOURCE_CLASS,
            handles=[messages.ReportedHandle(type="PCI", info=info)],
            prepares=bool(entry and entry.driver_override),
            cleans=bool(entry and entry.clean == RESET))

    # --- virtual functions --------------------------------------------------------------------

    def arrange(self) -> bool:
        """Make the virtual functions that device files ask for, where a port has none yet."""
        changed = False
        obstacles: list[str] = []
        for port, wanted in self._wishes():
            try:
                changed |= virtual_functions.arrange(port, wanted, self.environment)
            except (virtual_functions.Impossible, OSError) as error:
                obstacles.append(str(error))
        if obstacles:
            raise virtual_functions.Impossible("; ".join(obstacles))
        return changed

    def _wishes(self) -> Iterator[tuple[sysfs.PciFunction, int]]:
        for port in self.environment.sysfs.pci_functions():
            if self._is_port(port) and not self.environment.devices.is_never_offered(port):
                wanted = virtual_functions.wish_of(port, self.environment)
                if wanted is not None:
                    yield port, wanted

    def _obstacles(self) -> Iterator[str]:
        for port, wanted in self._wishes():
            obstacle = virtual_functions.obstacle(port, wanted)
            if obstacle:
                yield obstacle

    # --- handles ------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Say whether a device file has functions put on another kernel driver."""
        return self.environment.devices.moves_functions

    def prepare(self, task: messages.HandleTask) -> None:
        """Put the function on the kernel driver that its device file asks for."""
        function, entry = self._function_of(task)
        if entry is not None and entry.driver_override:
            pci_work.move(function, entry.driver_override, self.environment)

    def clean(self, task: messages.HandleTask) -> None:
        """Reset the function when its device file asks for that."""
        function, entry = self._function_of(task)
        if entry is not None and entry.clean == RESET:
            pci_work.reset(function, self.environment)

    def _function_of(self, task: messages.HandleTask) -> tuple[sysfs.PciFunction,
                                                               device_config.Entry | None]:
        reader = self.environment.sysfs.fresh()
        function = reader.pci_function(handle_slots.address_of(task.info) or "")
        if function is None:
            raise pci_work.Refused(f"there is no function {handle_slots.address_of(task.info)}")
        port = reader.pci_function(function.physfn) if function.physfn else function
        return function, self._entry(function, port or function)


def _unlike(function: sysfs.PciFunction, entry: device_config.Entry | None,
            has_children: bool) -> str | None:
    """Return why the function is not what the device file offers."""
    if entry is None:
        return None
    if entry.offer == "none":
        return device_config.NEVER
    if function.is_virtual and entry.offer == "whole":
        return "it is a virtual function, and its device file offers whole ports (offer: whole)"
    if not function.is_virtual and entry.offer == "vf":
        return ("its device file offers its virtual functions (offer: vf)"
                + ("" if has_children else ", and it has none: num_vfs makes some"))
    if entry.clean == RESET and not pci_work.can_be_reset(function):
        return "its device file wants it reset between guests, and it has no way to be reset"
    return None
