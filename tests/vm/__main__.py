# SPDX-License-Identifier: Apache-2.0
"""Runs the tests in `inside/` in a virtual machine: `python -m tests.vm [what pytest takes]`.

Exit status: pytest's; 0 where no machine can be had, except in CI; 3 when none could be booted.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import shutil
import sys
import tempfile

from cyborg_lite.demo import bootstrap
from tests.vm import machine
from tests.vm import packages
from tests.vm import recipe

QEMU = "usr/bin/qemu-system-x86_64"
FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
INSIDE = "/project/tests/vm/inside"
KEPT = ("console.log", "machine.log")

NOT_BOOTED = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--refresh", action="store_true",
                        help="ask Debian again instead of using what the cache has")
    parser.add_argument("--results", type=pathlib.Path, default=recipe.CHECKOUT / "build/vm",
                        help="folder for junit.xml, the console and what tests leave in /out")
    options, arguments = parser.parse_known_args()
    progress = bootstrap.Progress()
    try:
        ready = recipe.ready(_cache(), progress.say, refresh=options.refresh)
    except packages.CannotHave as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            print(f"No virtual machine, in CI that is a failure: {error}", file=sys.stderr)
            return 1
        print(f"Skipped, no virtual machine can be had here: {' '.join(str(error).split())}")
        return 0
    with tempfile.TemporaryDirectory(prefix="cyborg-lite-vm-") as folder:
        return _run(ready, pathlib.Path(folder), options.results, arguments, progress)


def _run(ready: recipe.Ready, folder: pathlib.Path, results: pathlib.Path,
         arguments: list[str], progress: bootstrap.Progress) -> int:
    start = machine.command_line(
        ready.command(QEMU), ready.kernel, ready.initramfs, ready.root, recipe.CHECKOUT,
        [ready.tools / path for path in FIRMWARE], folder)
    progress.say("Booting")
    status: int | None = NOT_BOOTED
    try:
        outcome = machine.run(start, folder, _command(arguments), progress.say)
        status = outcome.status
        if outcome.reason:
            progress.say(outcome.reason)
    except machine.NeverReached as error:
        progress.say(str(error))
    _keep(folder, results)
    progress.say(f"Done; {results} has the console and the results")
    return 1 if status is None else status


def _command(arguments: list[str]) -> str:
    words = ["/usr/bin/python3", "-m", "pytest", "--confcutdir", INSIDE, "--rootdir", INSIDE,
             "-p", "no:cacheprovider", "--color=no", "--tb=short", "--durations=5",
             "--junit-xml=/out/junit.xml", "-v",
             *(f"/project/{word}" if word.startswith("tests/") else word for word in arguments)]
    if not any(word.startswith("tests/") for word in arguments):
        words.append(INSIDE)
    return shlex.join(words) + "\n"


def _keep(folder: pathlib.Path, results: pathlib.Path) -> None:
    shutil.rmtree(results, ignore_errors=True)
    shutil.copytree(folder / "out", results)
    for name in KEPT:
        if (folder / name).exists():
            shutil.copy(folder / name, results)


def _cache() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("CYBORG_LITE_VM_CACHE") or pathlib.Path(base,
                                                                                "cyborg-lite/vm"))


if __name__ == "__main__":
    sys.exit(main())
