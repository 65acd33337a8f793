# SPDX-License-Identifier: Apache-2.0
"""`python3 -m cyborg_lite.demo`: gets what the tour needs, then starts it. Python alone."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from importlib import metadata

from cyborg_lite.demo import bootstrap

PREPARED = "CYBORG_LITE_DEMO_PREPARED"
NEEDED = ("cheroot", "openstack", "openstackclient", "pecan", "placement", "sqlalchemy")


def main() -> int:
    arguments = _arguments()
    progress = bootstrap.Progress()
    if not _is_complete():
        if PREPARED in os.environ:
            print(f"{sys.executable} still lacks what the demo needs. Remove its environment and "
                  "run the command again.", file=sys.stderr)
            return 1
        _run_prepared(progress)
    from cyborg_lite.demo import tour
    return tour.run(progress, port=arguments.port, once=arguments.once)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m cyborg_lite.demo",
        description="Starts Placement and the whole service on loopback, finds devices, and walks "
                    "through a server's life.")
    parser.add_argument("--once", action="store_true",
                        help="end after the walk, with exit status 0")
    parser.add_argument("--port", type=int, default=6666,
                        help="of the accelerator API (default 6666, or any if that is taken)")
    return parser.parse_args()


def _is_complete() -> bool:
    try:
        metadata.distribution("cyborg-lite")
    except metadata.PackageNotFoundError:
        return False
    return all(importlib.util.find_spec(name) is not None for name in NEEDED)


def _run_prepared(progress: bootstrap.Progress) -> None:
    """Go on in an environment that has everything; returns never."""
    try:
        python = bootstrap.environment(
            bootstrap.writable_folder(".venv-demo"), ["-e", ".[demo]"], progress, "the demo")
    except bootstrap.CannotPrepare as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    os.environ[PREPARED] = "1"
    os.chdir(bootstrap.CHECKOUT)
    os.execv(python, [str(python), "-m", "cyborg_lite.demo", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
