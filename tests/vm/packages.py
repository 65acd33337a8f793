# SPDX-License-Identifier: Apache-2.0
"""Fetches Debian packages without being root and without touching what the host has installed.

No knowledge of what they are for here: `recipe.py` names them.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterable
from collections.abc import Sequence

MIRROR = os.environ.get("CYBORG_LITE_VM_MIRROR", "http://deb.debian.org/debian")
SUITE = "bookworm"
NEWER = f"{SUITE}-backports"
KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")

PROGRAMS = ("apt-get", "apt-cache", "dpkg-deb")

UPDATE_S = 120
DOWNLOAD_S = 600


class CannotHave(Exception):
    """Something the virtual machine is made of can't be had here; the text says what and why."""


class Apt:
    """A private state of apt below `folder`: own lists, own cache, nothing installed."""

    def __init__(self, folder: pathlib.Path) -> None:
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise CannotHave(f"{', '.join(missing)} not found: packages come from Debian")
        if not KEYRING.is_file():
            raise CannotHave(f"{KEYRING} not found: install debian-archive-keyring")
        self._folder = folder
        for name in ("state/lists/partial", "cache", "etc"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "etc/sources.list").write_text("".join(
            f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n" for suite in (SUITE, NEWER)))

    def update(self) -> None:
        """Read which packages there are. Raises CannotHave when the mirror can't be reached."""
        self._run("apt-get", "update", "--error-on=any", timeout=UPDATE_S)

    def newest(self, package: str) -> str:
        """Return the version of a package in the newer suite."""
        shown = self._run("apt-cache", "-t", NEWER, "show", "--no-all-versions", package)
        return next(line.partition(": ")[2] for line in shown.splitlines()
                    if line.startswith("Version: "))

    def dependencies(self, package: str) -> list[str]:
        """Return the names that a package of the newer suite depends on directly."""
        shown = self._run("apt-cache", "-t", NEWER, "show", "--no-all-versions", package)
        line = next((line for line in shown.splitlines() if line.startswith("Depends: ")), ":")
        return [part.split()[0] for part in line.partition(":")[2].split(",") if part.strip()]

    def with_dependencies(self, name: str, packages: Sequence[str],
                          suite: str = SUITE) -> list[pathlib.Path]:
        """Download packages and all they depend on, as the set `name`; returns the files."""
        return self._download(name, "-t", suite, "install", "--yes", "--download-only", *packages)

    def alone(self, name: str, packages: Sequence[str],
              suite: str = SUITE) -> list[pathlib.Path]:
        """Download exactly these packages, as the set `name`; returns the files."""
        return self._download(name, "-t", suite, "download", *packages)

    def _download(self, name: str, *arguments: str) -> list[pathlib.Path]:
        place = self._folder / name
        (place / "partial").mkdir(parents=True)
        self._run("apt-get", "-o", f"Dir::Cache::archives={place}", *arguments,
                  timeout=DOWNLOAD_S, where=place)
        return sorted(place.glob("*.deb"))

    def _run(self, program: str, *arguments: str, timeout: float = UPDATE_S,
             where: pathlib.Path | None = None) -> str:
        places = {"Dir::State": "state", "Dir::Cache": "cache", "Dir::State::status": "status",
                  "Dir::Etc::sourcelist": "etc/sources.list"}
        options = [f"{key}={self._folder / place}" for key, place in places.items()]
        options += ["Dir::Etc::sourceparts=-", "Dir::Etc::preferences=-",
                    "Dir::Etc::preferencesparts=-", "APT::Install-Recommends=0",
                    # as root apt would download as a user that can't write here
                    "APT::Sandbox::User=root", "Acquire::Languages=none", "Acquire::Retries=3"]
        command = [program, *(part for option in options for part in ("-o", option)), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout,
                                  stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"},
                                  cwd=where or self._folder)
        except subprocess.TimeoutExpired as error:
            raise CannotHave(f"{program} took more than {timeout:.0f} s") from error
        if done.returncode:
            raise CannotHave(f"{program} {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout


def unpack(files: Iterable[pathlib.Path], root: pathlib.Path) -> None:
    """Put the content of packages below `root`, which gets the merged /usr of Debian."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for file in files:
        # --extract would put a directory in the place of those links
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)],
                              stdout=subprocess.PIPE) as archive:
            subprocess.run(["tar", "--extract", "--keep-directory-symlink", "--no-same-owner",
                            "--directory", str(root)], stdin=archive.stdout, check=True)
        if archive.returncode:
            raise CannotHave(f"{file.name} can't be unpacked")
