# SPDX-License-Identifier: Apache-2.0
"""What the agent takes from the configuration: options, device files, and what changed in them.

Nothing is done here: no driver is asked, nothing is logged.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from cyborg_lite import config
from cyborg_lite.agent import hardware
from cyborg_lite.agent import installed
from cyborg_lite.drivers import device_files

_NO_DRIVERS_GROUP = frozenset({"agent", "api", "conductor", "console", "metrics", "reconcile"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the agent takes from the configuration, at one moment.

    options: the drivers' groups with their values. files: what the device files say.
    """

    host: str
    resource_provider_name: str
    report_interval_s: float = 10.0
    discover_interval_s: float = 60.0
    enabled_drivers: tuple[str, ...] = ("fake_driver",)
    sysfs_root: str = "/sys"
    proc_root: str = "/proc"
    dev_root: str = "/dev"
    state_path: str = "/var/lib/cyborg-lite"
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    files: device_files.DeviceFiles = dataclasses.field(default_factory=device_files.DeviceFiles)


def read(conf: cfg.ConfigOpts,
         full_name: Callable[[], str] = socket.getfqdn) -> Settings:
    """Read the settings, and the device files.

    The provider's name is only where the conductor begins to look: it asks Placement for the
    host's name too, since a short name and a full one often differ.
    """
    name = conf.agent.resource_provider_name or _own_name(full_name()) or conf.host
    options = {group: {option.dest: conf[group][option.dest] for option in group_options}
               for group, group_options in config.OWN_OPTIONS.items()
               if group is not None and group not in _NO_DRIVERS_GROUP}
    for group in config.TYPE_GROUPS:
        options[group]["types"] = config.type_groups(conf, group)
    return Settings(
        host=conf.host, resource_provider_name=name,
        report_interval_s=conf.agent.report_interval,
        discover_interval_s=conf.agent.discover_interval,
        enabled_drivers=tuple(conf.agent.enabled_drivers), sysfs_root=conf.agent.sysfs_root,
        proc_root=conf.agent.proc_root, dev_root=conf.agent.dev_root,
        state_path=conf.agent.state_path, options=options,
        files=device_files.read(conf.agent.device_config_dir,
                                installed.InstalledDrivers().names()))


def _own_name(name: str) -> str | None:
    """Return None for what every machine without a proper name of its own says."""
    return None if name.partition(".")[0] in ("localhost", "localhost4", "localhost6") else name


def hardware_for(settings: Settings, catalogue: installed.Catalogue | None = None, *,
                 checking: bool = False) -> hardware.Hardware:
    """Return the drivers as configured. Raises base.ConfigurationError."""
    place = hardware.Place(sysfs_root=settings.sysfs_root, proc_root=settings.proc_root,
                           dev_root=settings.dev_root, state_path=settings.state_path)
    return hardware.Hardware(settings.enabled_drivers, settings.options, place, catalogue,
                             files=settings.files, checking=checking)


def changes(old: Settings, new: Settings) -> list[str]:
    """Say in words, one line an option, what is different."""
    lines = [f"[agent] {field.name.removesuffix('_s')} {getattr(old, field.name)!r} -> "
             f"{getattr(new, field.name)!r}"
             for field in dataclasses.fields(Settings)
             if field.name not in ("options", "files")
             and getattr(old, field.name) != getattr(new, field.name)]
    for group in sorted(old.options.keys() | new.options.keys()):
        before, after = old.options.get(group, {}), new.options.get(group, {})
        lines += [f"[{group}] {name} {before.get(name)!r} -> {after.get(name)!r}"
                  for name in sorted(before.keys() | after.keys())
                  if before.get(name) != after.get(name)]
    return lines + device_files.changes(old.files, new.files)
