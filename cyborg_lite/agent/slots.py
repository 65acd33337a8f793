# SPDX-License-Identifier: Apache-2.0
"""One enabled driver of a host: what it last did, and what its device file asks that it can't do.

No other driver is known here; which of them has a function is decided in `hardware.py`.
"""

from __future__ import annotations

import logging

from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config

LOG = logging.getLogger(__name__)


class BadDeviceFile(Exception):
    """A driver stays disabled until its device file is mended."""


class Slot:
    """One enabled driver: its class, its instance once that could be made, what it last did.

    withheld: without what a device file says is never offered. claims: the functions it reported.
    """

    def __init__(self, name: str, environment: base.Environment) -> None:
        self.name = name
        self.environment = environment
        self.driver: base.Driver | None = None
        self.error: str | None = None
        self.file_complaint: str | None = None
        self.arranging_error: str | None = None
        self.withheld: dict[str, str] = {}
        self.claims: set[str] = set()


def note_withheld(slot: Slot, silent: set[str]) -> None:
    """Keep what the driver withholds, and log what is new in it."""
    withheld = {address: reason for address, reason in
                (slot.driver.withheld if slot.driver else {}).items() if address not in silent}
    for address, reason in withheld.items():
        if slot.withheld.get(address) != reason:
            LOG.warning("driver %s does not offer %s: %s", slot.name, address, reason)
    slot.withheld = withheld


def misfit(name: str, kind: type[base.Driver],
            config: device_config.DeviceConfig) -> str | None:
    """Return what an entry says that means nothing to its driver, with the place."""
    for entry in config.entries:
        known = kind.entry_keys | {"match"}
        for key, place in entry.places.items():
            # to clean nothing is what a driver without that key does anyway
            if key not in known and (key, entry.clean) != ("clean", "none"):
                return (f"{place}: {key} means nothing to {name}; it knows "
                        f"{', '.join(sorted(known))}")
        for key, value, able in (("offer", entry.offer, kind.offers),
                                 ("clean", entry.clean, kind.cleans)):
            if value is not None and value not in able | {"none"}:
                return (f"{entry.places[key]}: {name} can't do {key}: {value}; it knows "
                        f"{', '.join(sorted(able | {'none'}))}")
    return None
