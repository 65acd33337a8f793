# SPDX-License-Identifier: Apache-2.0
"""Runs the tests: `python3 tests/run.py [what pytest takes]`. Needs Python and nothing else.

Makes an environment with tox. In CI, as root, it installs the servers that some tests need;
elsewhere those tests use what is there and are skipped where there is nothing.
"""

import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from cyborg_lite.demo import bootstrap

SERVERS = {
    "mariadb-server": ("mariadbd", "mysqld"),
    "postgresql": ("postgres", "/usr/lib/postgresql/*/bin/postgres"),
    "rabbitmq-server": ("rabbitmq-server", "/usr/sbin/rabbitmq-server"),
    "gcc": ("cc", "gcc", "clang"),
    "libc6-dev": ("/usr/include/stdio.h",),
    "chromium": ("chromium", "google-chrome"),
    "chromium-driver": ("chromedriver",),
}
"""Debian package: any of these programs or files shows that it is installed."""

ALONE = "py3"
"""It takes every core itself."""

SIDE_BY_SIDE = ("contract",)
ONLY_IN_CI = ("vm",)
"""It downloads some hundred megabytes at its first run; elsewhere `tox -e vm` runs it."""


def main() -> int:
    progress = bootstrap.Progress()
    in_ci = os.environ.get("CI", "").lower() in ("1", "true")
    try:
        missing = [package for package, programs in SERVERS.items() if not _any_of(programs)]
        if missing and in_ci and os.geteuid() == 0:
            bootstrap.install_packages(missing, progress)
        elif missing:
            progress.say(f"Not installed: {', '.join(missing)}. Tests that need them are skipped"
                         " unless a server answers on its usual port.")
        python = bootstrap.environment(
            bootstrap.writable_folder(".venv-tests"), ["tox>=4.11"], progress, "the tests")
    except bootstrap.CannotPrepare as error:
        print(error, file=sys.stderr)
        return 1
    if sys.argv[1:]:
        return _tox(python, progress, ALONE, "--", *sys.argv[1:])
    beside = SIDE_BY_SIDE + (ONLY_IN_CI if in_ci else ())
    return max(_tox(python, progress, ALONE),
               _tox(python, progress, ",".join(beside), "--parallel", "all", "--parallel-live"))


def _tox(python: str, progress: bootstrap.Progress, environments: str, *more: str) -> int:
    progress.say(f"tox -e {environments}")
    return abs(subprocess.run([python, "-m", "tox", "-e", environments, *more],
                              cwd=bootstrap.CHECKOUT).returncode)


def _any_of(programs: tuple[str, ...]) -> bool:
    return any(list(pathlib.Path("/").glob(name.lstrip("/"))) if name.startswith("/")
               else shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
               for name in programs)


if __name__ == "__main__":
    sys.exit(main())
