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
