# SPDX-License-Identifier: Apache-2.0
"""Builds the wheel, installs it into an environment of its own, and starts what it installed.

`python3 tests/wheel.py`, standard library only. Ends with 1 when something is missing.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from cyborg_lite.demo import bootstrap

PROGRAMS = ("agent", "api", "conductor", "manage", "standalone", "status")
DATA = (
    "etc/cyborg-lite/api-paste.ini", "etc/cyborg-lite/cyborg-lite.conf.sample",
    "etc/cyborg-lite/policy.yaml.sample", "etc/cyborg-lite/logging.conf.sample",
    "etc/cyborg-lite/grafana/cyborg-lite.json",
    "etc/cyborg-lite/prometheus/cyborg-lite.rules.yaml",
    "etc/cyborg-lite/demo/gpu-server.sysfs", "share/cyborg-lite/alembic/env.py",
    "share/cyborg-lite/alembic/versions/0001_first_release.py",
)
PAGE = ("console/", "console/main.js", "console/console.css", "console/settings.json")
START_WITHIN_S = 60

CONFIGURATION = """
[DEFAULT]
host = wheel
[api]
port = 0
[database]
connection = sqlite:///{folder}/wheel.sqlite
[agent]
state_path = {folder}/state
"""


def main() -> int:
    progress = bootstrap.Progress()
    with tempfile.TemporaryDirectory(prefix="cyborg-lite-wheel-") as name:
        folder = pathlib.Path(name)
        try:
            python = install(folder, progress)
            check_data(python.parents[1])
            check_programs(python.parent, folder, progress)
        except (bootstrap.CannotPrepare, AssertionError, OSError,
                subprocess.SubprocessError) as error:
            print(f"The wheel is not in order: {error}", file=sys.stderr)
            return 1
    progress.say("The wheel is in order")
    return 0


def install(folder: pathlib.Path, progress: bootstrap.Progress) -> pathlib.Path:
    """Build the wheel and install it, without the checkout in reach."""
    tools = bootstrap.environment(folder / "tools", ["pip"], progress, "the build")
    progress.say("Building the wheel")
    subprocess.run([tools, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder,
                    bootstrap.CHECKOUT], check=True, cwd=folder)
    for left in ("build", "cyborg_lite.egg-info"):
        # an old list of entry points in the checkout would hide those that are installed
        shutil.rmtree(bootstrap.CHECKOUT / left, ignore_errors=True)
    [wheel] = folder.glob("cyborg_lite-*.whl")
    progress.say(f"Built {wheel.name}, {wheel.stat().st_size // 1024} KiB")
    return bootstrap.environment(folder / "installed", [str(wheel)], progress, "the wheel")


def check_data(prefix: pathlib.Path) -> None:
    missing = [name for name in DATA if not (prefix / name).is_file()]
    assert not missing, f"it does not install {', '.join(missing)}"


def check_programs(programs: pathlib.Path, folder: pathlib.Path,
                   progress: bootstrap.Progress) -> None:
    configuration = folder / "wheel.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder))

    def run(name: str, *arguments: str) -> str:
        done = subprocess.run([programs / f"cyborg-lite-{name}", *arguments], cwd=folder,
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{name} {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    for name in PROGRAMS:
        run(name, "--help")
        progress.say(f"cyborg-lite-{name} {run(name, '--version').strip()}")
    given = f"--config-file={configuration}"
    run("manage", given, "db", "upgrade")
    run("status", given, "upgrade", "check")
    run("manage", given, "check")
    standalone = subprocess.Popen([programs / "cyborg-lite-standalone", given], cwd=folder,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = wait_for_address(standalone)
        wait_for_device(f"{address}/v2/devices")
        for name in PAGE:
            assert urllib.request.urlopen(f"{address}/{name}", timeout=10).status == 200
        progress.say(f"cyborg-lite-standalone served its device at {address}")
    finally:
        standalone.terminate()
        status = standalone.wait(START_WITHIN_S)
    assert status == 0, f"standalone ended with status {status}"


def wait_for_address(standalone: "subprocess.Popen[str]") -> str:
    said = []
    for line in standalone.stdout:
        found = re.search(r"is ready: (http://\S+)", line)
        if found:
            # somebody has to read on, or the program would wait for it
            threading.Thread(target=standalone.stdout.read, daemon=True).start()
            return found[1]
        said.append(line)
    raise AssertionError(f"standalone ended, having said {''.join(said)!r}")


def wait_for_device(url: str) -> None:
    give_up = time.monotonic() + START_WITHIN_S
    while '"uuid"' not in urllib.request.urlopen(url, timeout=10).read().decode():
        assert time.monotonic() < give_up, f"{url} lists no device"
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
