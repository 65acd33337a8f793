# SPDX-License-Identifier: Apache-2.0
"""The module that WSGI servers load, in a process of its own as they would."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
ASK = """
import sys
import webob
from cyborg_lite.wsgi.api import application
assert sys.argv[1:] == ["--an-option-of-the-server"], sys.argv
print(webob.Request.blank("/v2").get_response(application).status)
print(sorted(name for name in ("cyborg_lite.db", "cyborg_lite.conductor", "eventlet")
             if sys.modules.get(name)))
"""


def load(folder: pathlib.Path, text: str) -> subprocess.CompletedProcess[str]:
    path = folder / "cyborg-lite.conf"
    path.write_text(f"[DEFAULT]\ntransport_url = fake://\n{text}")
    return subprocess.run(
        [sys.executable, "-c", ASK, "--an-option-of-the-server"], cwd=ROOT, text=True,
        env={**os.environ, "CYBORG_LITE_CONFIG_FILES": str(path)}, capture_output=True,
        timeout=60, check=False)


def test_it_serves_without_a_command_line_a_database_or_eventlet(tmp_path: pathlib.Path) -> None:
    done = load(tmp_path, "[api]\nauth_strategy = noauth\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["200 OK", "[]"]


def test_it_does_not_load_where_noauth_would_be_exposed(tmp_path: pathlib.Path) -> None:
    done = load(tmp_path, "[api]\nauth_strategy = noauth\nhost_ip = 0.0.0.0\n")
    assert done.returncode != 0
    assert "[api] host_ip = 0.0.0.0" in done.stdout + done.stderr


def test_a_bad_option_ends_the_start_and_not_the_first_request_that_needs_it(
        tmp_path: pathlib.Path) -> None:
    done = load(tmp_path, "[api]\nauth_strategy = noauth\nmax_limit = many\n")
    assert done.returncode != 0
    assert "[api] max_limit = many: " in done.stdout + done.stderr


def test_it_reads_what_the_program_of_its_own_would_read(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / ".cyborg-lite"
    folder.mkdir()
    (folder / "cyborg-lite.conf").write_text(
        "[DEFAULT]\ntransport_url = fake://\n[api]\nauth_strategy = noauth\nhost_ip = 0.0.0.0\n")
    (folder / "cyborg-lite-api.conf").write_text("[api]\nhost_ip = 127.0.0.1\n")
    environment = {name: value for name, value in os.environ.items()
                   if name != "CYBORG_LITE_CONFIG_FILES"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, "--an-option-of-the-server"], cwd=ROOT, text=True,
        env={**environment, "HOME": str(tmp_path)}, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
