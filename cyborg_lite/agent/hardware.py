# SPDX-License-Identifier: Apache-2.0
"""The host's hardware through its drivers: loads them, arranges and discovers.

No vendor names here, no RPC, no configuration object; work on handles is in `handles.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.agent import handles
from cyborg_lite.agent import installed
from cyborg_lite.agent import reports
from cyborg_lite.agent import slots
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import privileged
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import usage

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Discovery:
    """What the host has at one moment.

    failed_drivers: their devices are unknown, not gone.
    digest: the same whenever the rest is, whatever the order.
    """

    devices: list[messages.ReportedDevice]
    failed_drivers: list[str]
    digest: str
    withheld: list[messages.WithheldFunction] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the host is found: real roots, or recorded trees."""

    sysfs_root: str = "/sys"
    proc_root: str = "/proc"
    dev_root: str = "/dev"
    state_path: str = "/var/lib/cyborg-lite"


class Hardware:
    """The enabled drivers of one host, in the order of their right to a function.

    checking: this is the pre-flight; nothing is changed. host: the privileged functions.
    check_deadline: raises when the caller of the work in hand has been told that it failed.
    Raises base.ConfigurationError when a name is unknown or a driver refuses its options.
    """

    def __init__(self, enabled: Sequence[str], options: Mapping[str, Mapping[str, Any]],
                 place: Place, catalogue: installed.Catalogue | None = None, *,
                 files: device_files.DeviceFiles | None = None, checking: bool = False,
                 host: privileged.Host | None = None,
                 check_deadline: Callable[[], None] = buses.check_deadline) -> None:
        self._catalogue = catalogue or installed.InstalledDrivers()
        self._options = options
        self._place = place
        self._files = files or device_files.DeviceFiles()
        self._checking = checking
        self._check_deadline = check_deadline
        self.sysfs = sysfs.Sysfs(place.sysfs_root)
        self._use = usage.HostUse(self.sysfs, place.proc_root)
        self._host = host or privileged.Host(self.sysfs.root)
        self._discovering = threading.Lock()
        self._changing = threading.Lock()
        self._is_replaced = False
        self._asked: str | None = None
        self.slots = [slots.Slot(name, base.Environment(self.sysfs))
                      for name in dict.fromkeys(enabled)]
        known = self._catalogue.names()
        for slot in self.slots:
            if slot.name not in known:
                raise base.ConfigurationError(
                    f"[agent] enabled_drivers: there is no driver {slot.name!r}; installed are "
                    f"{', '.join(known) or 'none'}")
            self._start(slot)
        self.handles = handles.HandleWork(self.slots, self.sysfs, check_deadline)

    @property
    def drivers(self) -> list[str]:
        """Names of the enabled drivers."""
        return [slot.name for slot in self.slots]

    @property
    def file_complaints(self) -> dict[str, str]:
        """What is wrong with device files, by the driver that it disables."""
        return {slot.name: slot.file_complaint for slot in self.slots if slot.file_complaint}

    @property
    def asked(self) -> str | None:
        """Name of the driver that is being asked at this moment."""
        return self._asked

    def _start(self, slot: slots.Slot) -> None:
        """Make the driver's instance; a failure that is no configuration error is kept."""
        try:
            kind = self._catalogue.load(slot.name)
            names = (slot.name, *kind.aliases)
            devices = self._files.of(names)
            complaint = self._files.complaint_about(names) or slots.misfit(slot.name, kind, devices)
            if complaint:
                raise slots.BadDeviceFile(complaint)
            options = {group: self._options.get(group, {}) for group in kind.option_groups}
            slot.environment = base.Environment(
                self.sysfs, options, devices=devices, proc_root=self._place.proc_root,
                dev_root=self._place.dev_root, state_path=self._place.state_path,
                checking=self._checking, host=self._host, use=self._use)
            slot.driver = kind(slot.environment)
        except base.ConfigurationError:
            raise
        except (slots.BadDeviceFile, base.EntryError) as error:
            slot.file_complaint = str(error)
            self._fail(slot, error, f"its device file is wrong: {error}")
        except Exception as error:
            self._fail(slot, error)

    def _restart(self, slot: slots.Slot) -> None:
        if slot.driver is None:
            try:
                self._start(slot)
            except base.ConfigurationError as error:
                self._fail(slot, error)

    # --- discover -----------------------------------------------------------------------------

    def discover(self) -> Discovery:
        """Ask every driver once; one that fails costs its own devices only."""
        with self._discovering:
            self._let_finish()
            self.sysfs.begin_pass()
            for slot in self.slots:
                self._restart(slot)
                self._arrange(slot)
            devices: list[messages.ReportedDevice] = []
            claimed: set[str] = set()
            doubted: dict[str, messages.WithheldFunction] = {}
            names: set[str] = set()
            for slot in self.slots:
                found = self._ask(slot, claimed, doubted)
                if found is not None:
                    own = [device for device in found if reports.is_new(device, claimed, names)]
                    slot.claims = {address for device in own
                                   for address in reports.addresses(device)}
                    devices.extend(own)
                # functions of a driver that failed stay its own: they are unknown, not free
                claimed |= slot.claims
                for address, reason in slot.withheld.items():
                    doubted.setdefault(address, reports.withheld(
                        slot.name, address, reason, self.sysfs.pci_function(address)))
            failed = sorted(slot.name for slot in self.slots if slot.error is not None)
        withheld = [doubted[address] for address in sorted(doubted.keys() - claimed)]
        return Discovery(devices, failed, reports.digest_of(devices, failed, withheld), withheld)

    def arrange(self) -> None:
        """Make the host as device files wish, ahead of a discovery."""
        with self._discovering:
            self._let_finish()
            self.sysfs.begin_pass()
            for slot in self.slots:
                self._arrange(slot)

    def _arrange(self, slot: slots.Slot) -> None:
        """Let the driver make the host as wished, before anybody looks at it."""
        if self._checking or not isinstance(slot.driver, base.ArrangesDevices):
            return
        self._asked = slot.name
        error: str | None = None
        try:
            if slot.driver.arrange():
                self.sysfs.begin_pass()
        except Exception as trouble:
            # part of it may be done
            self.sysfs.begin_pass()
            error = f"{type(trouble).__name__}: {trouble}"
            if error != slot.arranging_error:
                LOG.error("driver %s could not arrange its devices as wished; it is tried again "
                          "at each discovery: %s", slot.name, error, exc_info=trouble)
        finally:
            self._asked = None
        slot.arranging_error = error

    def _ask(self, slot: slots.Slot, claimed: set[str],
             doubted: Mapping[str, messages.WithheldFunction]) -> (
                 list[messages.ReportedDevice] | None):
        if slot.driver is None:
            return None
        slot.environment.claimed.clear()
        slot.environment.claimed.update(claimed)
        slot.environment.doubted.clear()
        slot.environment.doubted.update(
            {address: each.reason for address, each in doubted.items() if address not in claimed})
        self._asked = slot.name
        try:
            found = [reports.completed(device, slot.name, slot.driver)
                     for device in slot.driver.discover()]
            reports.canonical(found)
        except Exception as error:
            self._fail(slot, error)
            return None
        finally:
            self._asked = None
        if slot.error is not None:
            LOG.info("driver %s works again: %d devices", slot.name, len(found))
            slot.error = None
        never = self._never(slot)
        slots.note_withheld(slot, claimed | never)
        return [device for device in found if not never & reports.addresses(device)]

    def _never(self, slot: slots.Slot) -> set[str]:
        """The functions that device files keep this driver away from."""
        devices = slot.environment.devices
        if not devices.entries and not devices.others:
            return set()
        return {function.address for function in self.sysfs.pci_functions()
                if devices.is_never_offered(function)}

    @staticmethod
    def _fail(slot: slots.Slot, error: Exception, text: str | None = None) -> None:
        text = text or f"{type(error).__name__}: {error}"
        if text != slot.error:
            LOG.error("driver %s failed; its devices stay as they were reported, new ones are "
                      "not seen: %s", slot.name, text,
                      exc_info=None if slot.file_complaint else error)
        slot.error = text

    @contextlib.contextmanager
    def between_discoveries(self) -> Iterator[None]:
        """Keep discoveries away from a device that changes, after the one that is under way.

        Raises Unavailable once other drivers have taken the place of these.
        """
        with self._acquired(self._discovering), self._acquired(self._changing):
            # while it waited, the caller may have been told that it failed
            self._check_deadline()
            if self._is_replaced:
                raise errors.Unavailable("The agent has just read its configuration anew.")
            yield

    @contextlib.contextmanager
    def _acquired(self, lock: threading.Lock) -> Iterator[None]:
        while not lock.acquire(timeout=handles.LOOK_S):
            self._check_deadline()
        try:
            yield
        finally:
            lock.release()

    def _let_finish(self) -> None:
        """Wait for the device that the drivers before these change: it is not seen half done."""
        with self._changing:
            pass

    def replace(self, before: Hardware) -> None:
        """Take the place of other drivers, which begin to change no device from now on."""
        self._changing = before._changing
        before._is_replaced = True
