# SPDX-License-Identifier: Apache-2.0
"""Build with pbr, also from a tree that has neither git nor an sdist's PKG-INFO.

Nothing else lives here: the metadata is in setup.cfg.
"""

import os
import pathlib
import subprocess

import setuptools

HERE = pathlib.Path(__file__).resolve().parent


def has_version() -> bool:
    """Say whether pbr will find a version by itself."""
    if "PBR_VERSION" in os.environ or (HERE / "PKG-INFO").exists():
        return True
    try:
        # inside a repository of something else pbr would take that one's version
        top = subprocess.run(
            ["git", "rev-parse", "--show-toplevel"],  # noqa: S607  the git that pbr will take
            cwd=HERE, text=True, capture_output=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return False
    return pathlib.Path(top).resolve() == HERE


if not has_version():
    os.environ["PBR_VERSION"] = "0.1.0.dev0"

setuptools.setup(setup_requires=["pbr"], pbr=True,
                 # without git nothing else would bring them
                 package_data={"cyborg_lite.api": ["console_files/*"]})
