# SPDX-License-Identifier: Apache-2.0
"""Host work around a handle of type MDEV: makes the mediated device with its uuid, removes it.

What is offered is judged in `mdev_cards.py`. Everything may be repeated: the uuid is the key.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Collection

from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import handle_records
from cyborg_lite.drivers import handle_slots
from cyborg_lite.drivers import mdev_cards

LOG = logging.getLogger(__name__)

AGENT, NOVA = "agent", "nova"
CREATORS = (AGENT, NOVA)

TRIES = 10
BETWEEN_TRIES_S = 1.0

BUSY = (errno.EAGAIN, errno.EBUSY, errno.EPERM)
"""What the kernel, or NVIDIA's driver while a guest is going down, answers for a moment."""


class WorkFailed(Exception):
    """The handle could not be prepared or cleaned; the text says why and what to do."""


class MdevWork:
    """The host work of one driver's MDEV handles.

    created_by: `agent`, or `nova`, which then makes and removes the devices itself.
    wait: sleeps so many seconds; tests let none pass.
    """

    def __init__(self, environment: base.Environment, records: handle_records.HandleRecords,
                 created_by: str = AGENT, wait: Callable[[float], None] = time.sleep) -> None:
        self._environment = environment
        self._records = records
        self._created_by = created_by
        self._wait = wait
        # two handles of one card must not judge its room at the same time
        self._one_at_a_time = threading.Lock()

    # --- prepare ------------------------------------------------------------------------------

    def prepare(self, task: messages.HandleTask) -> None:
        """Have the device made, or see that Nova can make it."""
        with self._one_at_a_time:
            reader = self._environment.sysfs.fresh()
            known = self._records.all().get(task.handle_uuid)
            name = handle_slots.address_of(task.info) or task.info.get("parent", "")
            parent = mdev_cards.find(reader, name)
            if parent is None:
                raise WorkFailed(f"there is no parent of mediated devices {name!r} on this host; "
                                 "is its driver loaded, are its virtual functions enabled "
                                 "(sriov-manage -e)?")
            types = mdev_cards.Types(reader)
            # ids change with the driver's version; the name, if we have noted it, lasts
            type_id = (types.find(parent, known.name) if known else None) or types.find(
                parent, task.info.get("asked_type", ""))
            if type_id is None:
                raise WorkFailed(f"{name} has no type {task.info.get('asked_type')!r}; it has "
                                 f"{', '.join(types.ids(parent)) or 'none'}")
            self._prepare(task, parent, types, type_id, known)

    def _prepare(self, task: messages.HandleTask, parent: mdev_cards.Parent,
                 types: mdev_cards.Types, type_id: str,
                 known: handle_records.Record | None) -> None:
        uuid = task.handle_uuid
        exists = self._exists(uuid)
        if exists:
            found = types.of_device(parent, uuid) if uuid in parent.live else None
            if found != type_id:
                raise WorkFailed(f"a mediated device {uuid} exists already, and is not a {type_id} "
                                 f"of {parent.name}; remove it")
        elif not types.available(parent, type_id):
            raise WorkFailed(f"{parent.name} has no room for another {type_id} "
                             f"({types.name(parent, type_id)}); something else uses the card")
        record = handle_records.Record(
            card=parent.card, parent=parent.name, type_id=type_id, name=types.name(parent, type_id),
            info=dict(task.info), made=self._created_by == AGENT)
        if known != record:
            self._records.put(uuid, record)
        if not exists and self._created_by == AGENT:
            try:
                self._create(parent.name, type_id, uuid)
            except WorkFailed:
                if known is None:
                    self._records.drop(uuid)
                raise

    def _create(self, parent: str, type_id: str, uuid: str) -> None:
        try:
            self._environment.host.create_mdev(parent, type_id, uuid)
        except FileExistsError as error:
            raise WorkFailed(f"a mediated device {uuid} exists already on another parent than "
                             f"{parent}; remove it") from error
        except OSError as error:
            raise WorkFailed(f"{parent} refuses to make a {type_id}: {error.strerror}; the kernel "
                             "log says more") from error
        LOG.info("mediated device %s made: %s on %s", uuid, type_id, parent)

    # --- clean --------------------------------------------------------------------------------

    def clean(self, task: messages.HandleTask) -> None:
        """Remove the device, unless Nova does; a device that is gone is clean."""
        self._remove(task.handle_uuid)

    def take_down(self, task: messages.HandleTask) -> None:
        """Remove the device and keep its record: the handle is somebody's, and stays reported."""
        self._remove_made(task.handle_uuid)

    def remove_unneeded(self, handles: Collection[str]) -> None:
        """Remove what we made for these handles; what can't be removed stays, and is logged."""
        for uuid, record in self._records.all().items():
            if uuid in handles and not is_function(record):
                try:
                    self._remove(uuid)
                except (WorkFailed, OSError) as error:
                    LOG.warning("mediated device %s on %s is nobody's and stays: %s", uuid,
                                record.parent, error)

    def _remove(self, uuid: str) -> None:
        # it keeps its record: a device that Nova left is no stranger's
        if self._remove_made(uuid):
            self._records.drop(uuid)

    def _remove_made(self, uuid: str) -> bool:
        """Remove the device unless Nova made it; returns whether there is none any more."""
        if self._exists(uuid):
            known = self._records.all().get(uuid)
            if not (known.made if known else self._created_by == AGENT):
                return False
            self._remove_device(uuid)
        return True

    def _remove_device(self, uuid: str) -> None:
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                self._wait(BETWEEN_TRIES_S)
            group = self._environment.sysfs.fresh().link(f"{mdev_cards.LIVE}/{uuid}/iommu_group")
            if group and self._environment.host.is_group_open(group.rpartition("/")[2]):
                # the kernel would wait for the guest to let go, for however long
                reason = "a guest has it open"
                continue
            try:
                self._environment.host.remove_mdev(uuid)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in BUSY:
                    raise WorkFailed(f"mediated device {uuid} can't be removed: "
                                     f"{error.strerror}; the kernel log says more") from error
                reason = error.strerror or type(error).__name__
            if not self._exists(uuid):
                LOG.info("mediated device %s removed", uuid)
                return
        raise WorkFailed(f"mediated device {uuid} can't be removed after {TRIES} attempts: "
                         f"{reason or 'it is still there'}; stop what uses it, then clean again")

    def _exists(self, uuid: str) -> bool:
        return self._environment.sysfs.fresh().resolve(f"{mdev_cards.LIVE}/{uuid}") is not None


def is_function(record: handle_records.Record) -> bool:
    """Say whether the record is of a virtual function with a type, and of no mediated device."""
    return "asked_type" not in record.info
