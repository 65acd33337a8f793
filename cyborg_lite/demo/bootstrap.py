# SPDX-License-Identifier: Apache-2.0
"""Makes a virtual environment with what a program needs, and says what it is doing.

Standard library only: it runs on a machine that has Python and nothing else. `tests/run.py` uses
it too.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from collections.abc import Sequence

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
MINIMUM = (3, 11)

SILENCE_S = 5
"""Something is printed at least this often while pip or apt-get works."""

LINE_LENGTH = 76

BUILD_INPUTS = ("setup.cfg", "setup.py", "requirements.txt", "pyproject.toml")
"""When one of these changes, the environment is installed again."""


class CannotPrepare(Exception):
    """The machine lacks something; the text says what, and what to type."""


class Progress:
    """Lines with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f} s] {text}", flush=True)


def environment(folder: pathlib.Path, requirements: Sequence[str], progress: Progress,
                purpose: str) -> pathlib.Path:
    """Return the python of a virtual environment in `folder` that has `requirements`.

    requirements: for pip, relative to the checkout. Made once, made again when they or the
    project's own needs change. Raises CannotPrepare.
    """
    if sys.version_info < MINIMUM:
        raise CannotPrepare(
            f"Python {'.'.join(map(str, MINIMUM))} or newer is needed; this is "
            f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable}).")
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    stamp = folder / "complete"
    wanted = _fingerprint(requirements)
    with _alone(folder.with_name(folder.name + ".lock"), progress):
        if stamp.is_file() and stamp.read_text() == wanted and python.exists():
            return python
        progress.say(f"Installing what {purpose} needs into {folder} (once; a minute or two)")
        shutil.rmtree(folder, ignore_errors=True)
        pip = _make(folder, progress)
        if requirements:
            _follow([*pip, "install", "--disable-pip-version-check", "--progress-bar", "off",
                     *requirements], progress)
        stamp.write_text(wanted)
        progress.say("Installed")
    return python


def writable_folder(name: str) -> pathlib.Path:
    """Return where an environment may live: in the checkout, else in the user's cache."""
    if os.access(CHECKOUT, os.W_OK):
        return CHECKOUT / name
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    mark = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]
    return cache / "cyborg-lite" / f"{name.lstrip('.')}-{mark}"


def install_packages(packages: Sequence[str], progress: Progress) -> None:
    """Install Debian packages, as root or by a sudo that asks nothing. Raises CannotPrepare."""
    line = f"apt-get update && apt-get install -y {' '.join(packages)}"
    apt = shutil.which("apt-get")
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if apt is None or (prefix and not _works([*prefix, "true"])):
        raise CannotPrepare(f"Missing: {', '.join(packages)}. Type, as root:\n    {line}")
    progress.say(f"Installing {', '.join(packages)} with apt-get")
    quietly = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", apt]
    try:
        _follow([*quietly, "update"], progress)
        _follow([*quietly, "install", "-y", "--no-install-recommends", *packages], progress)
    except CannotPrepare as error:
        raise CannotPrepare(f"{error}\nType, as root:\n    {line}") from error


def _make(folder: pathlib.Path, progress: Progress) -> list[str]:
    """Make an empty environment; returns the command that is its pip."""
    plain, making = [sys.executable, "-m", "venv", str(folder)], "making an empty environment"
    inside = [str(folder / "bin" / "python"), "-m", "pip"]
    if _has("ensurepip"):
        _follow(plain, progress, making)
        return inside
    if _has("pip"):
        _follow([*plain, "--without-pip"], progress, making)
        return [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    progress.say("This Python has neither ensurepip nor pip")
    install_packages(["python3-venv"], progress)
    # in a process of its own: this one has looked and remembers that there was none
    _follow(plain, progress, making)
    return inside


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _fingerprint(requirements: Sequence[str]) -> str:
    digest = hashlib.sha256(repr((sys.version, list(requirements))).encode())
    for name in BUILD_INPUTS:
        with contextlib.suppress(FileNotFoundError):
            digest.update((CHECKOUT / name).read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _alone(lock: pathlib.Path, progress: Progress) -> Iterator[None]:
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("Waiting for another run that installs the same")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _follow(command: Sequence[str], progress: Progress, start_with: str = "starting") -> None:
    """Run a command and show the steps it takes; its last lines are in the error if it fails."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=CHECKOUT, env=env, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace")
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    tail: collections.deque[str] = collections.deque(maxlen=25)
    said, latest, shown = time.monotonic(), start_with, ""
    while True:
        with contextlib.suppress(queue.Empty):
            line = lines.get(timeout=1)
            if line is None:
                break
            tail.append(line)
            latest = line.strip() or latest
        if time.monotonic() - said >= SILENCE_S:
            progress.say(f"  still at it: {latest[:LINE_LENGTH]}" if latest == shown
                         else f"  {latest[:LINE_LENGTH]}")
            said, shown = time.monotonic(), latest
    if process.wait() != 0:
        raise CannotPrepare("\n".join([
            f"This failed with status {process.returncode}: {' '.join(command)}", *tail]))
