# SPDX-License-Identifier: Apache-2.0
"""What a driver is: one obligatory ability, and optional ones that stand apart.

No shared helpers here. A driver is a class behind one entry point of the namespace
`cyborg_lite.accelerator.driver`. It gets an `Environment` and nothing else: it reads no global
configuration, speaks no RPC, knows no database and no other driver.

The abilities are separate classes, and the agent looks for them with `isinstance`, so that
nobody writes stubs:

* `Driver`: discover the devices of the host. It changes nothing.
* `PreparesHandles`: host work before a handle can be attached, and before it is given on.
* `PreparesAgain`: that work is made anew when the agent starts.
* `RestoresHandles`: also, what was made and nobody has is removed then.
* `TakesDownHandles`: that work is taken down while an instance is suspended.
* `ArrangesDevices`: makes the host as its device files wish, before each discovery.
* `SplitsDevices`: splits devices into partitions as administrators wish.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any
from typing import ClassVar

from cyborg_lite import messages
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import privileged
from cyborg_lite.drivers import sysfs
from cyborg_lite.drivers import usage


class ConfigurationError(ValueError):
    """An option or a device file is wrong. The text names it, its value and what is allowed."""


class EntryError(ValueError):
    """An entry of a device file is wrong in a way that its driver alone can see.

    It disables this driver and no other. The text begins with `Entry.places` of the key.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """What an administrator should mend, and how; the pre-flight shows it.

    A device that is rightly in use is no problem: it is `withheld`.
    """

    what: str
    hint: str


@dataclasses.dataclass(frozen=True, slots=True)
class Environment:
    """What a driver may know of its host.

    sysfs: the one reader of sysfs. It belongs to `discover` and `arrange`; `prepare` and `clean`,
        which run in other threads, use `sysfs.fresh()`.
    options: the values of the driver's own configuration groups, group by group.
    claimed: PCI addresses that a driver named earlier in `enabled_drivers` reports; filled by
        the agent before each discovery, like `doubted`: what such a driver withholds, and why.
    devices: what the operator's device files say to this driver.
    proc_root, dev_root, state_path: procfs, device nodes, and where the agent keeps state.
    checking: this is the pre-flight. It writes nothing, and mediated devices that exist are
        somebody else's.
    host: the only way to change something. use: what the host does with its functions; other
        threads than that of `discover` take `use.fresh()`. Both are made from the rest.
    """

    sysfs: sysfs.Sysfs
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    claimed: set[str] = dataclasses.field(default_factory=set)
    doubted: dict[str, str] = dataclasses.field(default_factory=dict)
    devices: device_config.DeviceConfig = dataclasses.field(
        default_factory=device_config.DeviceConfig)
    proc_root: str = "/proc"
    dev_root: str = "/dev"
    state_path: str = "/var/lib/cyborg-lite"
    checking: bool = False
    host: privileged.Host = dataclasses.field(default=None)  # type: ignore[assignment]
    use: usage.HostUse = dataclasses.field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.host is None:
            object.__setattr__(self, "host", privileged.Host(self.sysfs.root))
        if self.use is None:
            object.__setattr__(self, "use", usage.HostUse(self.sysfs, self.proc_root))


class Driver(abc.ABC):
    """Reports the devices of one kind.

    The constructor raises `ConfigurationError` for an option that it can't use: the agent then
    doesn't start; `EntryError` for a device file. Any other exception costs this driver's devices
    only, and is tried again.
    """

    option_groups: ClassVar[tuple[str, ...]] = ()
    """Groups of the configuration whose values the agent puts into `Environment.options`."""

    aliases: ClassVar[tuple[str, ...]] = ()
    """Other names under which device files may speak of this driver."""

    entry_keys: ClassVar[frozenset[str]] = device_config.KEYS
    """Keys of a device file's entry that mean something to this driver, beside `match`."""

    offers: ClassVar[frozenset[str]] = frozenset(device_config.OFFERS)
    cleans: ClassVar[frozenset[str]] = frozenset(device_config.CLEANS)
    """Values of `offer` and of `clean` that it can follow; any other is refused with its place."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.withheld: dict[str, str] = {}
        """Addresses that the last `discover` looked at and did not offer, with the reason."""
        self.problems: list[Problem] = []
        """What the last `discover` found that an administrator should mend."""

    @abc.abstractmethod
    def discover(self) -> list[messages.ReportedDevice]:
        """Return every device that can be offered now, in a stable order.

        Sets `withheld` and `problems`.

        `ReportedDevice.driver` is filled in by the agent. An exception costs this driver's
        devices only: they are taken as unknown, not as gone.
        """


class PreparesHandles(abc.ABC):
    """Host work around a handle. Both functions may be repeated without harm.

    Every deployable of such a driver needs both, unless the driver says otherwise: by setting
    `prepares` or `cleans` on it, or by `knows_steps`, with which what it set is always meant.
    """

    knows_steps: ClassVar[bool] = False
    """The driver sets `prepares` and `cleans` itself; with both False neither step is needed."""

    @abc.abstractmethod
    def prepare(self, task: messages.HandleTask) -> None:
        """Make the handle attachable. Raises when that cannot be done."""

    @abc.abstractmethod
    def clean(self, task: messages.HandleTask) -> None:
        """Take down what `prepare` made and leave nothing of the tenant. Raises when not done."""


class PreparesAgain(PreparesHandles):
    """What it prepares is lost when the host starts anew.

    When the agent starts it asks the conductor what is held, and prepares that again before
    anything is offered.
    """

    def has_work(self) -> bool:
        """Say whether there may be something to prepare, as it is configured."""
        return True


class RestoresHandles(PreparesAgain):
    """What it prepares could be left over, too.

    What was made and nobody has is removed when the agent starts.
    """

    @abc.abstractmethod
    def made(self) -> Collection[str]:
        """Return the uuids of the handles for which this driver has made something."""

    @abc.abstractmethod
    def remove_unneeded(self, handles: Collection[str]) -> None:
        """Remove what this driver made for these handles, of which nobody has any.

        What it didn't make stays. What can't be removed is logged, and stays too.
        """


class TakesDownHandles(PreparesHandles):
    """What it prepares can be away while the instance that holds the handle is suspended."""

    @abc.abstractmethod
    def take_down(self, task: messages.HandleTask) -> None:
        """Remove what `prepare` made; `prepare` makes the same again. May be repeated.

        Unlike `clean` it erases nothing of the tenant's: the handle stays with its ARQ. Raises
        when that is not done.
        """


class ArrangesDevices(abc.ABC):
    """Makes the host as the driver's device files and options wish, such as `num_vfs`."""

    @abc.abstractmethod
    def arrange(self) -> bool:
        """Change what is not as wished and in nobody's use; return whether anything was changed.

        Called before each discovery, in its thread and pass, never by the pre-flight: with all as
        wished it must do nothing. Raises when a wish can't be met; the discovery goes on.
        """


class AsBefore(Exception):
    """A device could not be split as wished, was looked at since, and is whole and as it was."""


class SplitsDevices(abc.ABC):
    """Splits devices into partitions.

    How they can be split and how they are is in `ReportedDevice.partitioning` of what `discover`
    returns: a device that can be split is reported also while it offers nothing.
    """

    @abc.abstractmethod
    def apply_layout(self, wish: messages.LayoutWish) -> None:
        """Split the device as wished. Raises when it isn't split so afterwards.

        The agent calls it when no discovery is under way. A device that is split so is left alone;
        otherwise nothing that is in use is touched. After an error the layout from before is there
        again where that is possible; the exception's text says what went wrong, and what the
        device has now if it is neither. AsBefore is believed: what is there is given out again.
        """
