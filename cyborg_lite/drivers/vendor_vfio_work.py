# SPDX-License-Identifier: Apache-2.0
"""Host work around a virtual function of NVIDIA's VFIO framework: sets its vGPU type, clears it.

What is offered is judged in `vendor_vfio.py`. Everything may be repeated: the handle is the key.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import handle_records
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import mdev_work
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import vendor_vfio
from cyborg_lite.drivers import vgpu_types

LOG = logging.getLogger(__name__)


class VfWork:
    """The host work of handles that are virtual functions with a vGPU type."""

    def __init__(self, environment: base.Environment, records: handle_records.HandleRecords,
                 catalogue: vendor_vfio.Catalogue,
                 wait: Callable[[float], None] = time.sleep) -> None:
        self._environment = environment
        self._records = records
        self._catalogue = catalogue
        self._wait = wait
        # siblings share what can be made: one after the other
        self._one_at_a_time = threading.Lock()

    def prepare(self, task: messages.HandleTask) -> None:
        """Set the type of the handle's virtual function."""
        with self._one_at_a_time:
            reader = self._environment.sysfs.fresh()
            address, path = self._function(reader, task)
            current = _current(reader, path)
            if current is None:
                raise mdev_work.WorkFailed(
                    f"{address} has no {vendor_vfio.CURRENT}: it is not on the nvidia driver, or "
                    "the vGPU software isn't running")
            names = vgpu_types.parse_creatable(reader.text(f"{path}/{vendor_vfio.CREATABLE}"))
            self._catalogue.learn(task.device_address, names)
            wanted = self._number(task, names, current)
            known = self._records.all().get(task.handle_uuid)
            if current and (current != wanted or known is None):
                raise mdev_work.WorkFailed(
                    f"{address} has vGPU type {current} already, which this service did not set "
                    "for the handle: something else uses it")
            record = handle_records.Record(
                card=task.device_address, parent=address, type_id=str(wanted),
                name=self._catalogue.names.get(wanted, task.info.get("vgpu_type", "")),
                info=dict(task.info),
                total_mib=self._catalogue.memory_mib.get(task.device_address, 0))
            if known != record:
                self._records.put(task.handle_uuid, record)
            if current == 0:
                try:
                    self._set(path, address, wanted)
                except mdev_work.WorkFailed:
                    if known is None:
                        self._records.drop(task.handle_uuid)
                    raise

    def _function(self, reader: sysfs.Sysfs, task: messages.HandleTask) -> tuple[str, str]:
        address = handle_slots.address_of(task.info) or ""
        path = reader.resolve(f"{sysfs.PCI_DEVICES}/{address}") if address else None
        if path is None:
            raise mdev_work.WorkFailed(f"there is no function {address}: are the virtual functions "
                                       "enabled (sriov-manage -e)?")
        return address, path

    def _number(self, task: messages.HandleTask, names: Mapping[int, str], current: int) -> int:
        word = task.info.get("vgpu_type", "")
        found = self._catalogue.find(word, names)
        if found is None and current and self._catalogue.find(word, [current]) is not None:
            found = current
        if found is None:
            record = self._records.all().get(task.handle_uuid)
            if record is not None and current and record.type_id == str(current):
                found = current
        if found is None:
            known = ", ".join(f"{number} ({name})" for number, name in sorted(names.items()))
            raise mdev_work.WorkFailed(f"the card has no room for a vGPU of type {word} now; "
                                       f"it can make {known or 'none'}")
        return found

    def _set(self, path: str, address: str, number: int) -> None:
        try:
            self._environment.host.set_vgpu_type(address, number)
        except OSError as error:
            raise mdev_work.WorkFailed(
                f"{address} refuses vGPU type {number}: {error.strerror}; the kernel log says more"
            ) from error
        found = _current(self._environment.sysfs.fresh(), path)
        if found != number:
            raise mdev_work.WorkFailed(f"{address} has vGPU type {found} after {number} was set")
        LOG.info("vGPU type %d set on %s", number, address)

    def clean(self, task: messages.HandleTask) -> None:
        """Take the type from the handle's virtual function; without one it is clean."""
        record = self._records.all().get(task.handle_uuid)
        self._clear(handle_slots.address_of(task.info) or "", record,
                    task.info.get("vgpu_type", ""))
        self._records.drop(task.handle_uuid)

    def remove_unneeded(self, handles: Collection[str]) -> None:
        """Clear what we set for these handles; what can't be cleared stays, and is logged."""
        for uuid, record in self._records.all().items():
            if uuid in handles and mdev_work.is_function(record):
                try:
                    self._clear(record.parent, record, vgpu_types.short_name(record.name))
                    self._records.drop(uuid)
                except (mdev_work.WorkFailed, OSError) as error:
                    LOG.warning("vGPU on %s is nobody's and stays: %s", record.parent, error)

    def _clear(self, address: str, record: handle_records.Record | None, word: str) -> None:
        reason = ""
        for attempt in range(mdev_work.TRIES):
            if attempt:
                self._wait(mdev_work.BETWEEN_TRIES_S)
            reader = self._environment.sysfs.fresh()
            path = reader.resolve(f"{sysfs.PCI_DEVICES}/{address}") if address else None
            current = _current(reader, path) if path else 0
            if not current:
                return      # gone with a reboot, or with its driver
            if record is None or not self._is_ours(current, record, word):
                raise mdev_work.WorkFailed(
                    f"{address} has vGPU type {current}, which this service did not set for the "
                    f"handle ({word}); if nobody uses it, write 0 to its {vendor_vfio.CURRENT}")
            group = reader.link(f"{path}/iommu_group")
            if group and self._environment.host.is_group_open(group.rpartition("/")[2]):
                reason = "a guest has it open"
                continue
            try:
                self._environment.host.set_vgpu_type(address, 0)
            except OSError as error:
                if error.errno not in mdev_work.BUSY:
                    raise mdev_work.WorkFailed(
                        f"the vGPU type of {address} can't be taken away: {error.strerror}; the "
                        "kernel log says more") from error
                reason = error.strerror or type(error).__name__
                continue
            if not _current(self._environment.sysfs.fresh(), path or ""):
                LOG.info("vGPU type %d of %s taken away", current, address)
                return
        raise mdev_work.WorkFailed(
            f"the vGPU type of {address} can't be taken away after {mdev_work.TRIES} attempts: "
            f"{reason or 'it is still set'}; stop what uses it, then clean again")

    def _is_ours(self, current: int, record: handle_records.Record, word: str) -> bool:
        return record.type_id == str(current) or self._catalogue.find(word, [current]) is not None


def _current(reader: sysfs.Sysfs, path: str) -> int | None:
    text = reader.text(f"{path}/{vendor_vfio.CURRENT}")
    return int(text) if text and text.isascii() and text.isdigit() else None
