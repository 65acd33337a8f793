# SPDX-License-Identifier: Apache-2.0
"""`application`, for any WSGI server: cyborg_lite.wsgi.api:application.

Nothing else: the configuration files are those of cyborg-lite-api, or named in the environment
variable CYBORG_LITE_CONFIG_FILES (separated by `:`), for servers have their own command line.
"""

from __future__ import annotations

import os

from cyborg_lite import config
from cyborg_lite import config_check
from cyborg_lite import rpc
from cyborg_lite.api import app
from cyborg_lite.api import faults
from cyborg_lite.wsgi import scrapes

PROGRAM = "cyborg-lite-api"


def make_application() -> faults.Application:
    """Read the configuration, reach for the message bus, build the application.

    Raises cfg.Error for a bad option, at once and not when it is first used.
    """
    files = os.environ.get("CYBORG_LITE_CONFIG_FILES", "")
    arguments = [f"--config-file={name}" for name in files.split(":") if name]
    config_check.check(arguments, PROGRAM)
    conf = config.load(arguments, program=PROGRAM)
    config.set_up_logging(conf)
    bus = rpc.bus_from(conf)
    made = app.make_app(conf, rpc.ConductorClient(bus, conf.api.rpc_timeout))
    return scrapes.AtFirstRequest(made, conf) if conf.metrics.enabled else made


application = make_application()
