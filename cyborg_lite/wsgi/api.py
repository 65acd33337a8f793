# SPDX-License-Identifier: Apache-2.0
"""`application`, for any WSGI server: cyborg_lite.wsgi.api:application.

Nothing else: configuration files are found in the usual places, or named in the environment
variable CYBORG_LITE_CONFIG_FILES (separated by `:`), for servers have their own command line.
"""

from __future__ import annotations

import os

from cyborg_lite import config
from cyborg_lite import rpc
from cyborg_lite.api import app
from cyborg_lite.api import faults
from cyborg_lite.wsgi import scrapes


def make_application() -> faults.Application:
    """Read the configuration, reach for the message bus, build the application."""
    files = os.environ.get("CYBORG_LITE_CONFIG_FILES", "")
    conf = config.load([f"--config-file={name}" for name in files.split(":") if name])
    config.set_up_logging(conf)
    bus = rpc.bus_from(conf)
    made = app.make_app(conf, rpc.ConductorClient(bus, conf.api.rpc_timeout))
    return scrapes.AtFirstRequest(made, conf) if conf.metrics.enabled else made


application = make_application()
