# SPDX-License-Identifier: Apache-2.0
"""The agent as a part of a program, and its pre-flight. Start and stop, nothing else.

What it needs is imported when it is made: the other programs don't hold drivers in memory.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from oslo_config import cfg

from cyborg_lite import buses
from cyborg_lite.cmd import measured
from cyborg_lite.cmd import process

if TYPE_CHECKING:
    from cyborg_lite.agent import figures

PROGRAM = "cyborg-lite-agent"

OPTIONS = (
    cfg.BoolOpt("check", default=False,
                help="Show what this host would offer, what not and why, and what should be "
                     "mended; then leave. No service is asked and nothing is written. Exit "
                     "status 0 without problems, 1 with some, 2 for a bad configuration."),
    cfg.StrOpt("format", default="table", choices=("table", "json"),
               help="How --check shows it."),
)


def check_host(program: process.Program, arguments: list[str]) -> int:
    """Run the pre-flight; returns its exit status."""
    from cyborg_lite.agent import check
    from cyborg_lite.agent import settings
    from cyborg_lite.drivers import base

    # what drivers log is said again by the result
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        conf = process.configure(program, arguments)
        result = check.run(settings.read(conf))
    except (process.CannotStart, base.ConfigurationError, cfg.Error) as error:
        print(f"{program.name}: {error}", file=sys.stderr)
        return check.BAD_CONFIGURATION
    except SystemExit as ended:
        # the command line was bad, which has been told, or --help
        return check.BAD_CONFIGURATION if ended.code else check.CLEAR
    print(check.as_json(result) if conf.format == "json" else check.as_table(result))
    return result.status


class Agent:
    """The agent, which alone has its name on this machine."""

    def __init__(self, conf: cfg.ConfigOpts, bus: buses.LocalBus | buses.MessagingBus) -> None:
        from cyborg_lite.agent import claims
        from cyborg_lite.agent import service
        from cyborg_lite.drivers import base
        from cyborg_lite.drivers import privileged

        # root needs no helper, and a recorded tree none either
        if os.geteuid() == 0 or os.path.realpath(conf.agent.sysfs_root) != "/sys":
            privileged.run_here()
        try:
            self._name = claims.hold_name(conf.agent.state_path, conf.host)
            self._agent = service.agent_from(conf, bus)
        except (base.ConfigurationError, claims.NameInUse) as error:
            raise process.CannotStart(str(error)) from error

    @property
    def host(self) -> str:
        """The name it goes by."""
        return self._agent.settings.host

    def collectors(self) -> list[measured.Collector]:
        from cyborg_lite.agent import figures

        return [figures.Collector([self.state_now])]

    def state_now(self) -> figures.State:
        """What it knows of its host."""
        return self._agent.state_now()

    def start(self) -> None:
        self._agent.start()

    def stop(self) -> None:
        self._agent.stop()
        if self._name is not None:
            self._name.close()

    def reload(self) -> None:
        self._agent.reload()
