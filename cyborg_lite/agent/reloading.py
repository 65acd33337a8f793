# SPDX-License-Identifier: Apache-2.0
"""The configuration of an agent read again: what of it can be used, and what changed, in the log.

Nothing is put in force here: `service.py` lets the new drivers take the place of the old.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from oslo_config import cfg

from cyborg_lite.agent import hardware
from cyborg_lite.agent import installed
from cyborg_lite.agent import settings
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_files

LOG = logging.getLogger(__name__)


def read_again(read: Callable[[], settings.Settings], old: settings.Settings,
               drivers: hardware.Hardware, catalogue: installed.Catalogue | None,
               ) -> tuple[settings.Settings, hardware.Hardware] | None:
    """Return the settings as they are now, with their drivers; None without usable changes.

    The host's name stays: it is this agent's identity. A driver whose device file is wrong
    keeps what its files said before.
    """
    try:
        wanted = dataclasses.replace(read(), host=old.host)
        wanted = _with_usable_files(wanted, old, drivers, catalogue)
        renewed = settings.hardware_for(wanted, catalogue)
    except (base.ConfigurationError, cfg.Error, ValueError) as error:
        LOG.error("configuration not taken, the old one stays in force: %s", error)
        return None
    changes = settings.changes(old, wanted)
    if not changes:
        LOG.info("configuration read again: nothing changed")
        return None
    for change in changes:
        LOG.info("configuration changed: %s", change)
    return wanted, renewed


def _with_usable_files(wanted: settings.Settings, before: settings.Settings,
                       drivers: hardware.Hardware,
                       catalogue: installed.Catalogue | None) -> settings.Settings:
    """Return the settings with the old device files of those drivers whose new are wrong."""
    old, new = before.files, wanted.files
    for bad in new.bad:
        LOG.error("device file not taken, the old one stays in force: %s", bad.text)
    files = device_files.keeping(
        old, new, {bad.driver for bad in new.bad if bad.driver}
        - {bad.driver for bad in old.bad if bad.driver})
    wanted = dataclasses.replace(wanted, files=files)
    wrong = settings.hardware_for(wanted, catalogue).file_complaints
    fresh = wrong.keys() - drivers.file_complaints.keys()
    for name in sorted(fresh):
        LOG.error("device file of %s not taken, the old one stays in force: %s", name,
                  wrong[name])
    return dataclasses.replace(wanted, files=device_files.keeping(old, files, fresh))
