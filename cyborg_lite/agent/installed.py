# SPDX-License-Identifier: Apache-2.0
"""Which drivers are installed: classes by entry point.

No driver is made or asked here.
"""

from __future__ import annotations

import typing
from importlib import metadata
from typing import Protocol

import stevedore

from cyborg_lite.drivers import base

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
