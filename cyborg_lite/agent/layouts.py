# SPDX-License-Identifier: Apache-2.0
"""Has drivers split devices as wished, one device at a time and never during a discovery.

No vendor names here, and no judgement of a wish; what can't be done is a text, here and in reports.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable

from cyborg_lite import messages
from cyborg_lite.agent import hardware
from cyborg_lite.agent import reports
from cyborg_lite.drivers import base

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class _Failure:
    """Why a device is not split as wished. seen: how it was split then, once that is known."""

    text: str
    is_as_before: bool
    seen: list[messages.Partition] | None = None


class Layouts:
    """The wishes of one host. What failed is shown until a wish is met or the device changes."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._failures: dict[str, _Failure] = {}

    def apply(self, drivers: hardware.Hardware,
              wishes: Iterable[messages.LayoutWish]) -> list[messages.LayoutResult]:
        """Split each device; one result a wish, an error as its text."""
        return [self._apply(drivers, wish) for wish in wishes]

    def _apply(self, drivers: hardware.Hardware,
               wish: messages.LayoutWish) -> messages.LayoutResult:
        address = wish.device_address
        with drivers.between_discoveries():
            earlier = self._failures.get(address)
            fault, is_as_before = _try(drivers, wish)
        if earlier is not None and earlier.seen is None and not earlier.is_as_before:
            # before is then what the earlier try has left, of which no conductor has heard
            is_as_before = False
        if fault is None:
            self._failures.pop(address, None)
            LOG.info("host=%s device=%s generation %d is split as wished", self._host, address,
                     wish.generation)
        else:
            self._failures[address] = _Failure(fault, is_as_before)
        return messages.LayoutResult(
            device_address=address, generation=wish.generation, fault=fault,
            is_as_before=is_as_before)

    def shown(self, found: hardware.Discovery) -> hardware.Discovery:
        """Return a discovery in which each device says why it is not split as wished."""
        failures = dict(self._failures)
        for address in failures.keys() - {each.address for each in found.devices}:
            # when it comes back, it may be split as wished; a conductor asks if it isn't
            self._failures.pop(address, None)
        devices = [self._with_fault(each, failures.get(each.address)) for each in found.devices]
        if devices == found.devices:
            return found
        return dataclasses.replace(found, devices=devices, digest=reports.digest_of(
            devices, found.failed_drivers, found.withheld))

    def _with_fault(self, device: messages.ReportedDevice,
                    failure: _Failure | None) -> messages.ReportedDevice:
        partitioning = device.partitioning
        if failure is None or partitioning is None:
            return device
        if failure.seen is None:
            failure.seen = partitioning.partitions
        if failure.seen != partitioning.partitions:
            # somebody has split it otherwise since; the failure says nothing about that
            self._failures.pop(device.address, None)
            return device
        return dataclasses.replace(
            device, partitioning=dataclasses.replace(partitioning, fault=failure.text))


def has_any(drivers: hardware.Hardware) -> bool:
    """Say whether a driver of this host can split devices."""
    return any(isinstance(slot.driver, base.SplitsDevices) for slot in drivers.slots)


def _try(drivers: hardware.Hardware, wish: messages.LayoutWish) -> tuple[str | None, bool]:
    """Return why the device is not split as wished, and whether it is known to be as before."""
    slot = next((slot for slot in drivers.slots if slot.name == wish.driver), None)
    if slot is None or slot.driver is None:
        reason = slot.error if slot else f"enabled are {', '.join(drivers.drivers) or 'none'}"
        return f"driver {wish.driver} is not at work on this host: {reason}", False
    if not isinstance(slot.driver, base.SplitsDevices):
        return f"driver {wish.driver} can't split devices", False
    try:
        slot.driver.apply_layout(wish)
    except Exception as error:
        LOG.exception("device=%s generation %d is not split as wished by driver %s",
                      wish.device_address, wish.generation, wish.driver)
        return str(error) or type(error).__name__, isinstance(error, base.AsBefore)
    return None, False
