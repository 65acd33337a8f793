# SPDX-License-Identifier: Apache-2.0
"""What a driver is: one obligatory ability, and optional ones that stand apart.

No shared helpers here. A driver is a class behind one entry point of the namespace
`cyborg_lite.accelerator.driver`. It gets an `Environment` and nothing else: it reads no global
configuration, speaks no RPC, knows no database and no other driver.

The abilities are separate classes, and the agent looks for them with `isinstance`, so that
nobody writes stubs:

* `Driver`: discover the devices of the host. It changes nothing.
* `PreparesHandles`: host work before a handle can be attached, and before it is given on.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any
from typing import ClassVar

from cyborg_lite import messages
from cyborg_lite.drivers import sysfs


class ConfigurationError(ValueError):
    """An option or a device file is wrong. The text names it, its value and what is allowed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Environment:
    """What a driver may know of its host.

    sysfs: the one reader of sysfs. It belongs to `discover`; `prepare` and `clean`, which run in
        other threads, use `sysfs.fresh()`.
    options: the values of the driver's own configuration groups, group by group.
    claimed: PCI addresses that a driver named earlier in `enabled_drivers` reports; filled by
        the agent before each discovery.
    """

    sysfs: sysfs.Sysfs
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    claimed: set[str] = dataclasses.field(default_factory=set)


class Driver(abc.ABC):
    """Reports the devices of one kind.

    The constructor raises `ConfigurationError` for an option that it can't use: the agent then
    doesn't start. Any other exception costs this driver's devices only, and is tried again.
    """

    option_groups: ClassVar[tuple[str, ...]] = ()
    """Groups of the configuration whose values the agent puts into `Environment.options`."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.withheld: dict[str, str] = {}
        """Addresses that the last `discover` looked at and did not offer, with the reason."""

    @abc.abstractmethod
    def discover(self) -> list[messages.ReportedDevice]:
        """Return every device that can be offered now, in a stable order; set `withheld`.

        `ReportedDevice.driver` is filled in by the agent. An exception costs this driver's
        devices only: they are taken as unknown, not as gone.
        """


class PreparesHandles(abc.ABC):
    """Host work around a handle. Both functions may be repeated without harm.

    Every deployable of such a driver needs both, unless the driver sets `prepares` or `cleans`
    on it itself.
    """

    @abc.abstractmethod
    def prepare(self, task: messages.HandleTask) -> None:
        """Make the handle attachable. Raises when that cannot be done."""

    @abc.abstractmethod
    def clean(self, task: messages.HandleTask) -> None:
        """Take down what `prepare` made and leave nothing of the tenant. Raises when not done."""
