# SPDX-License-Identifier: Apache-2.0
"""Serves the real Placement on a free loopback port, without authentication, with SQLite.

A process of its own: `python -m cyborg_lite.demo.placement_server FOLDER`. Prints its address.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import threading

from cyborg_lite import threads  # noqa: F401  as in the service: no eventlet
from cyborg_lite.wsgi import server

CONFIGURATION = """
[DEFAULT]
log_file = {folder}/placement.log
[api]
auth_strategy = noauth2
[placement_database]
connection = sqlite:///{folder}/placement.sqlite
sync_on_startup = true
"""


def main() -> None:
    """Serve until SIGTERM."""
    folder = pathlib.Path(sys.argv[1])
    (folder / "placement.conf").write_text(CONFIGURATION.format(folder=folder))
    os.environ["OS_PLACEMENT_CONFIG_DIR"] = str(folder)
    from placement import wsgi
    listener = server.listen("127.0.0.1", 0)
    # one thread: SQLite has one writer, and Placement does not wait for it
    http = server.Server(listener, wsgi.init_application(), threads=1)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    http.start()
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    stopped.wait()
    http.stop()


if __name__ == "__main__":
    main()
