# SPDX-License-Identifier: Apache-2.0
"""nvme_ssd_driver: NVMe disks for guests, whole, each erased before somebody else gets it.

What may be offered is judged here; giving and erasing is in `nvme_work.py`. Inspur's disks are
offered without being named, as in Cyborg; any other by a device file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import ClassVar

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import nvme_controllers
from cyborg_lite.drivers import nvme_erase
from cyborg_lite.drivers import nvme_records
from cyborg_lite.drivers import nvme_work
from cyborg_lite.drivers import passthrough
from cyborg_lite.drivers import pci_ids
from cyborg_lite.drivers import pci_work
from cyborg_lite.drivers import sysfs

LOG = logging.getLogger(__name__)

RESOURCE_CLASS = "CUSTOM_SSD"
INSPUR = "1bd4"
NONE, RESET = "none", "reset"

_NO_TENANT = (nvme_records.NEW, nvme_records.CLEAN)


class NvmeSsdDriver(base.Driver, base.PreparesAgain):
    """One device, one deployable and one handle a disk.

    Every handle is prepared, also where nothing is erased: from that the driver knows for certain
    who had a disk, and so never takes one that was used for a clean one.
    """

    aliases: ClassVar[tuple[str, ...]] = ("nvme_ssd_driver", "inspur_nvme_ssd_driver")
    entry_keys: ClassVar[frozenset[str]] = frozenset({
        "offer", "resource_class", "traits", "clean", "driver_override"})
    offers: ClassVar[frozenset[str]] = frozenset({"whole", "vf"})
    cleans: ClassVar[frozenset[str]] = frozenset({
        RESET, nvme_erase.FORMAT, nvme_erase.FORMAT_CRYPTO, nvme_erase.SANITIZE})
    knows_steps: ClassVar[bool] = True

    def __init__(self, environment: base.Environment,
                 clock: nvme_erase.Clock | None = None) -> None:
        super().__init__(environment)
        self._records = nvme_records.Records(environment.state_path,
                                             read_only=environment.checking)
        self._work = nvme_work.NvmeWork(environment, self._records,
                                        clock or nvme_erase.Clock())

    # --- discover -----------------------------------------------------------------------------

    def discover(self) -> list[messages.ReportedDevice]:
        """Return the disks that nothing on the host uses, and those that guests have."""
        self.withheld, self.problems = {}, []
        records = self._records.all()
        candidates: list[sysfs.PciFunction] = []
        # one that is being erased is in passing states, and its handle is not free
        busy: list[sysfs.PciFunction] = []
        entries: dict[str, device_config.Entry | None] = {}
        for function, entry in self._meant():
            if self._work.is_busy(function.address):
                busy.append(function)
                entries[function.address] = entry
                continue
            reason = self._unfit(function, entry, records)
            if reason:
                self.withheld[function.address] = reason
            else:
                candidates.append(function)
                entries[function.address] = entry
        offered, withheld = passthrough.judge(candidates, self.environment, frozenset(entries))
        self.withheld |= withheld
        return [_device(function, entries[function.address],
                        records.get(function.address, nvme_records.Record()))
                for function in sorted([*offered, *busy],
                                       key=lambda each: sysfs.address_key(each.address))]

    def _meant(self) -> Iterator[tuple[sysfs.PciFunction, device_config.Entry | None]]:
        functions = self.environment.sysfs.pci_functions()
        known = {each.address: each for each in functions}
        for function in functions:
            entry = self._entry(function, known.get(function.physfn or ""))
            if function.class_code == nvme_controllers.CLASS and (
                    entry is not None or function.vendor == INSPUR):
                yield function, entry

    def _entry(self, function: sysfs.PciFunction,
               parent: sysfs.PciFunction | None) -> device_config.Entry | None:
        entry = self.environment.devices.entry_behind(function, parent)
        return entry if entry in self.environment.devices.entries or (
            function.vendor == INSPUR) else None

    def _unfit(self, function: sysfs.PciFunction, entry: device_config.Entry | None,
               records: dict[str, nvme_records.Record]) -> str | None:
        """Return why the function is no disk to offer; note which disk it is."""
        offer = entry.offer if entry else None
        if offer == "none":
            return device_config.NEVER
        if function.is_virtual and offer != "vf":
            return ("it is a virtual function of another disk, and no device file offers it "
                    "(offer: vf)")
        if offer == "vf" and not function.is_virtual:
            return "its device file offers its virtual functions (offer: vf)"
        if entry and entry.clean == RESET and not pci_work.can_be_reset(function):
            return "its device file wants it reset between guests, and it has no way to be reset"
        if function.driver != nvme_controllers.DRIVER:
            return None
        reader = self.environment.sysfs
        controller = nvme_controllers.of(function, reader)
        reason = nvme_controllers.trouble(function, controller, reader)
        if reason or controller is None or controller.identity is None:
            return reason
        return self._note(function.address, controller, records)

    def _note(self, address: str, controller: nvme_controllers.Controller,
              records: dict[str, nvme_records.Record]) -> str | None:
        """Keep the identity of a disk that nobody has; return why another one is refused."""
        record = records.get(address, nvme_records.Record())
        if record.identity == controller.identity:
            return None
        if record.identity is not None and record.stage not in _NO_TENANT:
            return (f"it is not the disk with serial number {record.identity.serial} that a server "
                    "had here and that was not erased since")
        if record.stage not in _NO_TENANT:
            # whether it is the disk that the server had, nobody knows
            return None
        # what the record said was true of another disk
        fresh = nvme_records.Record(identity=controller.identity)
        try:
            records[address] = self._records.replace(address, fresh)
        except nvme_records.Unusable as error:
            self.problems = [base.Problem(str(error), "let the agent's user write there")]
            records[address] = fresh
        return None

    # --- handles ------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Say whether a device file has disks put on another kernel driver."""
        return self.environment.devices.moves_functions

    def prepare(self, task: messages.HandleTask) -> None:
        """See that nothing on the host uses the disk, and note that it is this server's now."""
        address, entry = self._entry_of(task)
        self._work.prepare(address, task.instance_uuid,
                           override=entry.driver_override if entry else None,
                           cleans=_erases(entry))

    def clean(self, task: messages.HandleTask) -> None:
        """Erase the disk as its device file says, by default the strongest way that it has."""
        address, entry = self._entry_of(task)
        wish = entry.clean if entry else None
        if wish == RESET:
            function = self.environment.sysfs.fresh().pci_function(address)
            if function is None:
                raise nvme_work.Refused(f"there is no function {address}")
            pci_work.reset(function, self.environment)
        elif wish != NONE:
            self._work.clean(address, wish)

    def _entry_of(self, task: messages.HandleTask) -> tuple[str, device_config.Entry | None]:
        address = handle_slots.address_of(task.info)
        if address is None or sysfs.ADDRESS.fullmatch(address) is None:
            raise nvme_work.Refused(f"{task.info} is no handle of an NVMe disk")
        reader = self.environment.sysfs.fresh()
        function = reader.pci_function(address)
        if function is None:
            raise nvme_work.Refused(f"there is no function {address}")
        if function.class_code != nvme_controllers.CLASS:
            raise nvme_work.Refused(f"{address} is no NVMe disk: its class is "
                                    f"{function.class_code}")
        entry = self._entry(function, reader.pci_function(function.physfn or ""))
        if entry is not None and entry.offer == "none":
            raise nvme_work.Refused(f"{address}: {device_config.NEVER}")
        return address, entry


def _erases(entry: device_config.Entry | None) -> bool:
    return entry is None or entry.clean not in (NONE, RESET)


def _device(function: sysfs.PciFunction, entry: device_config.Entry | None,
            record: nvme_records.Record) -> messages.ReportedDevice:
    vendor = pci_ids.vendor_name(function.vendor)
    traits = {f"CUSTOM_SSD_{vendor}", f"CUSTOM_SSD_PRODUCT_ID_{function.product.upper()}",
              *(entry.traits if entry else ())}
    deployable = messages.ReportedDeployable(
        name=function.address, traits=sorted(traits), driver_name=vendor,
        resource_class=(entry.resource_class if entry else None) or RESOURCE_CLASS,
        handles=[messages.ReportedHandle(type="PCI",
                                         info=handle_slots.address_info(function.address))],
        prepares=True, cleans=not (entry and entry.clean == NONE))
    board = {"product_id": function.product, "controller": "Non-Volatile memory controller"}
    # what was noted stays true while a guest has the disk, and so does the report
    model = record.identity.model if record.identity else ""
    return messages.ReportedDevice(
        address=function.address, type="SSD", vendor=function.vendor,
        model=model or function.product, driver="nvme_ssd_driver", deployables=[deployable],
        std_board_info=json.dumps(board), vendor_board_info=json.dumps(
            {"vendor_info": "ssd_vb_info"}),
        pci_address=function.address, numa_node=function.numa_node)
