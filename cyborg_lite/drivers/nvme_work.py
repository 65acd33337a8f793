# SPDX-License-Identifier: Apache-2.0
"""Gives NVMe disks to guests and erases them after: which disk it is, whether it may be.

How an erase goes is in `nvme_erase.py`. Each step looks again, by itself, at what the host does
with the disk, and the kernel is asked once more in the moment of the erase.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import threading
from collections.abc import Iterator

from cyborg_lite.drivers import base
from cyborg_lite.drivers import nvme_admin
from cyborg_lite.drivers import nvme_controllers
from cyborg_lite.drivers import nvme_erase
from cyborg_lite.drivers import nvme_records
from cyborg_lite.drivers import pci_work
from cyborg_lite.drivers import sysfs

LOG = logging.getLogger(__name__)

LIVE_S = 60.0
BLOCK_DEVICE_S = 10.0
POLL_S = 0.2


_busy: set[tuple[str, str]] = set()
_idle = threading.Condition()
"""Disks that are being erased, by file of records and address: of the process, since new settings
make new drivers while the old ones finish their work."""


class Refused(Exception):
    """The disk was not given, or not erased; the text says which and why."""


class InUse(Refused):
    """The host uses the disk: nothing was changed, and nothing may be."""


class NvmeWork:
    """The work of one host. Safe for several threads, for one disk each."""

    def __init__(self, environment: base.Environment, records: nvme_records.Records,
                 clock: nvme_erase.Clock) -> None:
        self._environment = environment
        self._records = records
        self._clock = clock

    def is_busy(self, address: str) -> bool:
        """Say whether the disk is being erased at this moment."""
        with _idle:
            return (self._records.path, address) in _busy

    @contextlib.contextmanager
    def _alone(self, address: str) -> Iterator[None]:
        key = (self._records.path, address)
        with _idle:
            _idle.wait_for(lambda: key not in _busy)
            _busy.add(key)
        try:
            yield
        finally:
            with _idle:
                _busy.discard(key)
                _idle.notify_all()

    # --- prepare --------------------------------------------------------------------------

    def prepare(self, address: str, instance: str | None, *, override: str | None,
                cleans: bool) -> None:
        """Note what is to be there again after this tenant, and that the disk is his from now on.

        cleans: it must be erased before somebody else gets it.
        """
        function = self._function(address)
        record = self._records.of(address)
        if record.stage == nvme_records.ERASING:
            raise Refused(f"{address} was not erased to the end; clean its device again")
        same = instance is not None and record.instance == instance
        if record.stage == nvme_records.GIVEN and cleans and not same:
            raise Refused(f"{address} still has what instance {record.instance} wrote; clean its "
                          "device first")
        if function.driver == nvme_controllers.DRIVER and not (
                record.stage == nvme_records.GIVEN and same):
            record = self._survey(function, record)
        self._records.put(address, stage=nvme_records.GIVEN, instance=instance,
                          identity=record.identity, firmware=record.firmware,
                          spaces=record.spaces)
        if override:
            pci_work.move(function, override, self._environment)

    def _survey(self, function: sysfs.PciFunction,
                record: nvme_records.Record) -> nvme_records.Record:
        controller = self._free_controller(function)
        drive = _Drive(self, function, _serial(controller))
        if record.identity != controller.identity:
            record = nvme_records.Record()
        try:
            spaces = nvme_erase.survey(drive, whole=not function.is_virtual)
        except (nvme_erase.CannotErase, nvme_admin.BadAnswer, OSError) as error:
            raise Refused(f"the namespaces of {function.address} can't be read, so it could not be "
                          f"erased after a server: {error}") from error
        return dataclasses.replace(record, identity=controller.identity,
                                   firmware=controller.firmware, spaces=spaces)

    # --- clean ----------------------------------------------------------------------------

    def clean(self, address: str, wish: str | None) -> None:
        """Erase the disk unless that was done and nobody had it since; nothing else is erased."""
        with self._alone(address):
            self._clean(address, wish)

    def _clean(self, address: str, wish: str | None) -> None:
        function = self._function(address)
        record = self._records.of(address)
        if record.stage == nvme_records.CLEAN and not record.moved:
            LOG.info("disk %s is clean already, and nobody had it since", address)
            return
        reason = self._environment.use.fresh().of_guest(function)
        if reason:
            raise Refused(f"{address} is not erased: {reason}")
        with self._on_nvme(function, record):
            function = self._function(address)
            controller = self._await_live(function)
            if record.stage != nvme_records.CLEAN:
                try:
                    self._erase(function, controller, wish)
                except (nvme_erase.CannotErase, nvme_admin.BadAnswer, OSError) as error:
                    raise Refused(f"{address} was not erased: {error}") from error

    def _erase(self, function: sysfs.PciFunction, controller: nvme_controllers.Controller,
               wish: str | None) -> None:
        identity = self._same_disk(function, controller)
        drive = _Drive(self, function, identity.serial)
        whole = not function.is_virtual
        # the kernel must have found every namespace before it can say who uses them
        for space in nvme_erase.survey(drive, whole=whole):
            if space.attached:
                drive.has_block_device(space.nsid)
        self._free_controller(function)
        started = self._clock.now()
        method, spaces = nvme_erase.erase(
            drive, wish, self._records.of(function.address).spaces, self._clock, whole=whole)
        LOG.info("disk %s erased by %s, %.0f s", function.address, method,
                 self._clock.now() - started)
        # from here on a crash repeats no more than the way back
        self._records.put(function.address, stage=nvme_records.CLEAN, instance=None,
                          identity=identity, firmware=controller.firmware, spaces=spaces)

    def _same_disk(self, function: sysfs.PciFunction,
                   controller: nvme_controllers.Controller) -> nvme_records.Identity:
        record, found = self._records.of(function.address), controller.identity
        if found is None:
            raise Refused(f"which disk {function.address} is can't be told: it shows no serial "
                          "number")
        if record.identity is None and record.driver == nvme_controllers.DRIVER:
            raise Refused(f"{function.address} was never seen before a server had it, so that it "
                          f"is the disk that was given can't be told; {self._way_out()}")
        if record.identity is not None and record.identity != found:
            raise Refused(
                f"{function.address} is not the disk that was given: that has serial number "
                f"{record.identity.serial} ({record.identity.model}), this has {found.serial} "
                f"({found.model}); put the other one back. {self._way_out()}")
        if record.firmware is not None and record.firmware != controller.firmware:
            raise Refused(
                f"the firmware of {function.address} was {record.firmware} before a server had "
                f"the disk and is {controller.firmware} now, so its erase can't be trusted; check "
                f"it. {self._way_out()}")
        return found

    def _way_out(self) -> str:
        return (f"When all is as it should be, remove the disk's record from {self._records.path} "
                "and clean the device again: that erases it")

    # --- drivers --------------------------------------------------------------------------

    @contextlib.contextmanager
    def _on_nvme(self, function: sysfs.PciFunction,
                 record: nvme_records.Record) -> Iterator[None]:
        """Have the function on the nvme driver; afterwards, and after a failure, as it was.

        What the host began to use meanwhile stays: to take it away would break the host.
        """
        address = function.address
        if not record.moved:
            override = self._environment.sysfs.fresh().text(f"{function.path}/driver_override")
            stage = (record.stage if record.stage == nvme_records.CLEAN else nvme_records.ERASING)
            record = self._records.put(
                address, stage=stage, moved=True, driver=function.driver,
                override=None if override in (None, "", "(null)") else override)
        if function.driver != nvme_controllers.DRIVER:
            self._bind(function, nvme_controllers.DRIVER)
        try:
            yield
        except InUse:
            raise
        except Exception:
            try:
                self._go_back(address, record)
            except (Refused, OSError) as error:
                LOG.warning("disk %s could not be given back to %s: %s", address,
                            record.driver or "no driver", error)
            raise
        self._go_back(address, record)

    def _go_back(self, address: str, record: nvme_records.Record) -> None:
        function = self._function(address)
        if function.driver != record.driver:
            reason = self._environment.use.fresh().of_disks(function)
            if reason:
                raise InUse(f"{address} is not given back to {record.driver or 'no driver'}: "
                            f"{reason}")
            self._bind(function, record.driver)
        self._environment.host.set_driver_override(address, record.override)
        self._records.put(address, moved=False, driver=None, override=None)

    def _bind(self, function: sysfs.PciFunction, driver: str | None) -> None:
        """Put the function on a driver by its override: without, the kernel may take another."""
        host = self._environment.host
        host.set_driver_override(function.address, driver)
        if function.driver is not None:
            host.unbind(function.address)
        if driver is not None:
            host.probe(function.address)
        now = self._function(function.address)
        if now.driver != driver:
            raise Refused(f"{function.address} was to be on {driver or 'no driver'} and is on "
                          f"{now.driver or 'no driver'}; is the module loaded?")

    # --- what is there --------------------------------------------------------------------

    def _function(self, address: str) -> sysfs.PciFunction:
        function = self._environment.sysfs.fresh().pci_function(address)
        if function is None:
            raise Refused(f"there is no function {address}")
        return function

    def _await_live(self, function: sysfs.PciFunction) -> nvme_controllers.Controller:
        """Return the controller once the kernel has brought it up."""
        deadline = self._clock.now() + LIVE_S
        while True:
            controller = nvme_controllers.of(function, self._environment.sysfs.fresh())
            if controller is not None and controller.state == "live":
                return controller
            if self._clock.now() >= deadline:
                state = controller.state if controller else "absent"
                raise Refused(f"{function.address} does not come up: its controller is {state} "
                              f"after {LIVE_S:g} s")
            self._clock.sleep(POLL_S)

    def _free_controller(self, function: sysfs.PciFunction) -> nvme_controllers.Controller:
        """Return the controller of a disk that nothing on the host uses. Raises InUse, Refused."""
        reader = self._environment.sysfs.fresh()
        controller = nvme_controllers.of(function, reader)
        reason = nvme_controllers.trouble(function, controller, reader)
        if reason or controller is None:
            raise Refused(f"{function.address} can't be used: {reason}")
        reason = self._environment.use.fresh().of_disks(function)
        if reason:
            raise InUse(f"{function.address} is neither given nor erased: {reason}")
        return controller

    def await_block_device(self, function: sysfs.PciFunction, nsid: int) -> bool:
        """Say whether the kernel has a block device for a namespace, or gets one soon."""
        deadline = self._clock.now() + BLOCK_DEVICE_S
        asked = False
        while not nvme_controllers.has_block_device(function, nsid,
                                                    self._environment.sysfs.fresh()):
            if not asked:
                self._environment.host.nvme_rescan(function.address)
                asked = True
            if self._clock.now() >= deadline:
                return False
            self._clock.sleep(POLL_S)
        return True

    @property
    def environment(self) -> base.Environment:
        return self._environment


class _Drive:
    """A disk that `nvme_erase` works on, named by its serial number in every call."""

    def __init__(self, work: NvmeWork, function: sysfs.PciFunction, serial: str) -> None:
        self._work = work
        self._function = function
        self._host = work.environment.host
        self._serial = serial

    def admin(self, command: nvme_admin.Command) -> nvme_admin.Answer:
        try:
            return nvme_admin.Answer(*self._host.nvme_admin(
                self._function.address, self._serial, command.opcode, command.nsid,
                command.words, command.data, command.length, command.timeout_s * 1000))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise InUse(f"{self._function.address} is not erased: the kernel says that the "
                            "host uses it") from error
            raise

    def has_block_device(self, nsid: int) -> bool:
        return self._work.await_block_device(self._function, nsid)

    def write(self, nsid: int, offset: int, data: bytes) -> None:
        self._host.nvme_write(self._function.address, self._serial, nsid, offset, data)

    def read(self, nsid: int, offset: int, length: int) -> bytes:
        return self._host.nvme_read(self._function.address, self._serial, nsid, offset, length)


def _serial(controller: nvme_controllers.Controller) -> str:
    return controller.identity.serial if controller.identity else ""
