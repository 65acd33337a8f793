# SPDX-License-Identifier: Apache-2.0
"""The host's hardware through its drivers: loads them, discovers, prepares and cleans handles.

No vendor names here, no RPC, no configuration object.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import threading
import typing
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from importlib import metadata
from typing import Any
from typing import Protocol

import stevedore

from cyborg_lite import codec
from cyborg_lite import messages
from cyborg_lite import rpc
from cyborg_lite.drivers import base
from cyborg_lite.drivers import sysfs

LOG = logging.getLogger(__name__)

NAMESPACE = "cyborg_lite.accelerator.driver"


class Catalogue(Protocol):
    """Knows which drivers exist."""

    def names(self) -> list[str]:
        """Return the names of all drivers, sorted."""

    def load(self, name: str) -> type[base.Driver]:
        """Return the class of a driver that exists. Raises whatever its import raises."""


class InstalledDrivers:
    """Drivers by entry point; a package outside this one needs an entry point alone."""

    def names(self) -> list[str]:
        return sorted({point.name for point in metadata.entry_points(group=NAMESPACE)})

    def load(self, name: str) -> type[base.Driver]:
        manager: stevedore.DriverManager[type[base.Driver]] = stevedore.DriverManager(
            NAMESPACE, name, invoke_on_load=False, on_load_failure_callback=_raise)
        return typing.cast(type[base.Driver], manager.driver)


def _raise(manager: object, entry_point: object, error: BaseException) -> None:
    raise error


@dataclasses.dataclass(frozen=True, slots=True)
class Discovery:
    """What the host has at one moment.

    failed_drivers: their devices are unknown, not gone.
    digest: the same whenever the rest is, whatever the order.
    """

    devices: list[messages.ReportedDevice]
    failed_drivers: list[str]
    digest: str


class _BadReport(Exception):
    """A driver returned what can't be reported."""


class _Slot:
    """One enabled driver: its class, its instance once that could be made, what it last did."""

    def __init__(self, name: str, environment: base.Environment) -> None:
        self.name = name
        self.environment = environment
        self.driver: base.Driver | None = None
        self.error: str | None = None
        self.withheld: dict[str, str] = {}
        self.claims: set[str] = set()


class Hardware:
    """The enabled drivers of one host, in the order of their right to a function.

    Raises base.ConfigurationError when a name is unknown or a driver refuses its options.
    """

    def __init__(self, enabled: Sequence[str], options: Mapping[str, Mapping[str, Any]],
                 sysfs_root: str, catalogue: Catalogue | None = None) -> None:
        self._catalogue = catalogue or InstalledDrivers()
        self._options = options
        self._sysfs = sysfs.Sysfs(sysfs_root)
        self._discovering = threading.Lock()
        self._busy: set[str] = set()
        self._idle = threading.Condition()
        self._slots = [_Slot(name, base.Environment(self._sysfs, {}, set()))
                       for name in dict.fromkeys(enabled)]
        installed = self._catalogue.names()
        for slot in self._slots:
            if slot.name not in installed:
                raise base.ConfigurationError(
                    f"[agent] enabled_drivers: there is no driver {slot.name!r}; installed are "
                    f"{', '.join(installed) or 'none'}")
            self._start(slot)

    @property
    def drivers(self) -> list[str]:
        """Names of the enabled drivers."""
        return [slot.name for slot in self._slots]

    def _start(self, slot: _Slot) -> None:
        """Make the driver's instance; a failure that is no configuration error is kept."""
        try:
            kind = self._catalogue.load(slot.name)
            options = {group: self._options.get(group, {}) for group in kind.option_groups}
            slot.environment = base.Environment(self._sysfs, options, set())
            slot.driver = kind(slot.environment)
        except base.ConfigurationError:
            raise
        except Exception as error:
            self._fail(slot, error)

    # --- discover -----------------------------------------------------------------------------

    def discover(self) -> Discovery:
        """Ask every driver once; one that fails costs its own devices only."""
        with self._discovering:
            self._sysfs.begin_pass()
            devices: list[messages.ReportedDevice] = []
            claimed: set[str] = set()
            names: set[str] = set()
            for slot in self._slots:
                found = self._ask(slot, claimed)
                if found is not None:
                    own = [device for device in found if _is_new(device, claimed, names)]
                    slot.claims = {address for device in own for address in _addresses(device)}
                    devices.extend(own)
                # functions of a driver that failed stay its own: they are unknown, not free
                claimed |= slot.claims
            failed = sorted(slot.name for slot in self._slots if slot.error is not None)
        return Discovery(devices, failed, digest_of(devices, failed))

    def _ask(self, slot: _Slot, claimed: set[str]) -> list[messages.ReportedDevice] | None:
        if slot.driver is None:
            try:
                self._start(slot)
            except base.ConfigurationError as error:
                self._fail(slot, error)
        if slot.driver is None:
            return None
        slot.environment.claimed.clear()
        slot.environment.claimed.update(claimed)
        try:
            found = [_completed(device, slot.name, slot.driver)
                     for device in slot.driver.discover()]
            canonical(found)
        except Exception as error:
            self._fail(slot, error)
            return None
        if slot.error is not None:
            LOG.info("driver %s works again: %d devices", slot.name, len(found))
            slot.error = None
        _log_withheld(slot)
        return found

    @staticmethod
    def _fail(slot: _Slot, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text != slot.error:
            LOG.error("driver %s failed; its devices stay as they were reported, new ones are "
                      "not seen: %s", slot.name, text, exc_info=error)
        slot.error = text

    # --- handles ------------------------------------------------------------------------------

    def prepare(self, tasks: Iterable[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make each handle attachable; one result a task, an error as its text."""
        return [self._run("prepare", task) for task in tasks]

    def clean(self, tasks: Iterable[messages.HandleTask]) -> list[messages.HandleResult]:
        """Make each handle fit for somebody else; one result a task, an error as its text."""
        return [self._run("clean", task) for task in tasks]

    def _run(self, work: str, task: messages.HandleTask) -> messages.HandleResult:
        with self._alone(task.handle_uuid):
            # while it waited, the caller may have been told that it failed
            rpc.check_deadline()
            error = self._try(work, task)
        return messages.HandleResult(handle_uuid=task.handle_uuid, error=error)

    def _try(self, work: str, task: messages.HandleTask) -> str | None:
        driver = next((slot.driver for slot in self._slots if slot.name == task.driver), None)
        if driver is None:
            return (f"driver {task.driver} is not at work on this host; enabled are "
                    f"{', '.join(self.drivers) or 'none'}")
        if not isinstance(driver, base.PreparesHandles):
            return None
        try:
            (driver.prepare if work == "prepare" else driver.clean)(task)
        except Exception as error:
            LOG.exception("handle=%s %s by driver %s failed", task.handle_uuid, work, task.driver)
            return str(error) or type(error).__name__
        LOG.info("handle=%s %s done device=%s driver=%s", task.handle_uuid, work,
                 task.device_address, task.driver)
        return None

    @contextlib.contextmanager
    def _alone(self, handle_uuid: str) -> Iterator[None]:
        """Two calls about one handle, of which one is a repetition, come after each other."""
        with self._idle:
            self._idle.wait_for(lambda: handle_uuid not in self._busy)
            self._busy.add(handle_uuid)
        try:
            yield
        finally:
            with self._idle:
                self._busy.discard(handle_uuid)
                self._idle.notify_all()


# --- reports ----------------------------------------------------------------------------------


def canonical(devices: Iterable[messages.ReportedDevice]) -> str:
    """Return JSON text that is equal for equal sets of devices, in whatever order they come."""
    return _sorted_json([_ordered(device) for device in devices])


def digest_of(devices: Iterable[messages.ReportedDevice], failed_drivers: Sequence[str]) -> str:
    """Return the SHA-256 of a discovery.

    The failed drivers count: a device that vanishes while its driver fails leaves no other trace.
    """
    text = canonical(devices) + json.dumps(sorted(failed_drivers))
    return hashlib.sha256(text.encode()).hexdigest()


def _ordered(device: messages.ReportedDevice) -> dict[str, Any]:
    data: dict[str, Any] = codec.encode(device)
    for deployable in data["deployables"]:
        deployable["handles"] = json.loads(_sorted_json(deployable["handles"]))
        deployable["traits"] = sorted(deployable["traits"])
    data["deployables"] = json.loads(_sorted_json(data["deployables"]))
    return data


def _sorted_json(items: Iterable[Any]) -> str:
    texts = sorted(json.dumps(item, sort_keys=True, separators=(",", ":")) for item in items)
    return f"[{','.join(texts)}]"


def _completed(device: messages.ReportedDevice, name: str,
               driver: base.Driver) -> messages.ReportedDevice:
    """Fill in what the agent knows better than the driver."""
    able = isinstance(driver, base.PreparesHandles)
    deployables = []
    for deployable in device.deployables:
        told = deployable.prepares or deployable.cleans
        if told and not able:
            raise _BadReport(f"{deployable.name} is said to need host work, but the driver "
                             "can do none")
        if able and not told:
            deployable = dataclasses.replace(deployable, prepares=True, cleans=True)
        deployables.append(deployable)
    return dataclasses.replace(device, driver=name, deployables=deployables)


def _addresses(device: messages.ReportedDevice) -> set[str]:
    """The PCI functions that a device takes: its own, and those of its handles."""
    taken = {device.pci_address} if device.pci_address else set()
    for deployable in device.deployables:
        for handle in deployable.handles:
            if handle.type == "PCI":
                taken.add("{domain}:{bus}:{device}.{function}".format(**handle.info))
    return taken


def _names(device: messages.ReportedDevice) -> set[str]:
    """What must be unique on the host: the device's address, the deployables' names."""
    return {f"device {device.address}",
            *(f"deployable {deployable.name}" for deployable in device.deployables)}


def _is_new(device: messages.ReportedDevice, claimed: set[str], names: set[str]) -> bool:
    """Say whether nobody reported it so far, and note its names."""
    own = _names(device)
    if claimed & _addresses(device) or names & own:
        LOG.debug("driver %s: %s is reported already", device.driver, device.address)
        return False
    names |= own
    return True


def _log_withheld(slot: _Slot) -> None:
    withheld = slot.driver.withheld if slot.driver else {}
    for address, reason in withheld.items():
        if slot.withheld.get(address) != reason:
            LOG.warning("driver %s does not offer %s: %s", slot.name, address, reason)
    slot.withheld = dict(withheld)
