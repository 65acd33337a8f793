# SPDX-License-Identifier: Apache-2.0
"""The host's hardware through its drivers: loads them, discovers, prepares and cleans handles.

No vendor names here, no RPC, no configuration object.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.agent import installed
from cyborg_lite.agent import reports
from cyborg_lite.agent import slots
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files
from cyborg_lite.drivers import privileged
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import usage

LOG = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often a call that waits for another looks whether its caller still waits for it."""


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
        self._busy: set[str] = set()
        self._idle = threading.Condition()
        self.slots = [slots.Slot(name, base.Environment(self.sysfs))
                      for name in dict.fromkeys(enabled)]
        known = self._catalogue.names()
        for slot in self.slots:
            if slot.name not in known:
                raise base.ConfigurationError(
                    f"[agent] enabled_drivers: there is no driver {slot.name!r}; installed are "
                    f"{', '.join(known) or 'none'}")
            self._start(slot)

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
        while not lock.acquire(timeout=LOOK_S):
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

    # --- handles ------------------------------------------------------------------------------

    def prepare(self, tasks: Iterable[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make each handle attachable; one result a task, an error as its text."""
        return [self._run("prepare", task) for task in tasks]

    def clean(self, tasks: Iterable[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make each handle fit for somebody else; one result a task, an error as its text.

        Those that an earlier call still works on come last: behind one long erase the others
        would never begin.
        """
        with self._idle:
            under_way = frozenset(self._busy)
        return [self._run("clean", task) for task in
                sorted(tasks, key=lambda task: task.handle_uuid in under_way)]

    def take_down(self, tasks: Iterable[messages.HandleTask]) -> list[messages.HandleResult]:
        """Remove what was made for each handle, which stays its ARQ's; one result a task."""
        return [self._run("take_down", task) for task in tasks]

    def _run(self, work: str, task: messages.HandleTask) -> messages.HandleResult:
        with self._alone(task.handle_uuid):
            # while it waited, the caller may have been told that it failed
            self._check_deadline()
            error = self._try(work, task)
        return messages.HandleResult(
            handle_uuid=task.handle_uuid, error=error,
            gone=work == "clean" and error is not None and self._is_gone(task))

    def _is_gone(self, task: messages.HandleTask) -> bool:
        address = reports.handle_address(
            messages.ReportedHandle(type=task.type, info=task.info))
        return address is not None and self.sysfs.fresh().pci_function(address) is None

    def _try(self, work: str, task: messages.HandleTask) -> str | None:
        slot = next((slot for slot in self.slots if slot.name == task.driver), None)
        if slot is None:
            return (f"driver {task.driver} is not at work on this host; enabled are "
                    f"{', '.join(self.drivers) or 'none'}")
        driver = slot.driver
        if driver is None:
            return f"driver {task.driver} is not at work on this host: {slot.error}"
        ability = base.TakesDownHandles if work == "take_down" else base.PreparesHandles
        if not isinstance(driver, ability):
            return None
        try:
            getattr(driver, work)(task)
        except Exception as error:
            LOG.exception("handle=%s %s by driver %s failed", task.handle_uuid, work, task.driver)
            return str(error) or type(error).__name__
        LOG.info("handle=%s %s done device=%s driver=%s", task.handle_uuid, work,
                 task.device_address, task.driver)
        return None

    @contextlib.contextmanager
    def _alone(self, handle_uuid: str) -> Iterator[None]:
        """Two calls about one handle, of which one is a repetition, come after each other.

        An erase may take hours and be asked for each minute: a repetition that nobody waits for
        any more must not keep a thread.
        """
        with self._idle:
            while not self._idle.wait_for(lambda: handle_uuid not in self._busy, LOOK_S):
                self._check_deadline()
            self._busy.add(handle_uuid)
        try:
            yield
        finally:
            with self._idle:
                self._busy.discard(handle_uuid)
                self._idle.notify_all()
