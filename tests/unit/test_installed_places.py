# SPDX-License-Identifier: Apache-2.0
"""Where programs look for what was installed beside the package, and where they keep state."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import site
from typing import Any

import pytest

from cyborg_lite import config
from cyborg_lite.cmd import services
from cyborg_lite.db import migrate


def a_copy_in(folder: pathlib.Path) -> Any:
    """The module that looks for migrations, as if its package were installed in a folder."""
    package = folder / "cyborg_lite" / "db"
    package.mkdir(parents=True)
    path = package / "migrate.py"
    path.write_text(pathlib.Path(migrate.__file__).read_text())
    spec = importlib.util.spec_from_file_location("installed_migrate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def migrations_in(prefix: pathlib.Path) -> pathlib.Path:
    folder = prefix / "share" / "cyborg-lite" / "alembic"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").touch()
    return folder


def test_migrations_are_found_where_pip_install_target_puts_them(tmp_path: pathlib.Path) -> None:
    there = migrations_in(tmp_path)

    assert a_copy_in(tmp_path).scripts() == there


def test_migrations_are_found_where_pip_install_user_puts_them(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = migrations_in(tmp_path / "home")
    monkeypatch.setattr(site, "getuserbase", lambda: str(tmp_path / "home"))
    module = a_copy_in(tmp_path / "home" / "lib")
    monkeypatch.setattr(module.sys, "prefix", str(tmp_path / "usr"))
    monkeypatch.setattr(module.sysconfig, "get_path", lambda _: str(tmp_path / "usr"))

    assert module.scripts() == there


@pytest.mark.parametrize(("writable", "expected"), [
    (("var", "home"), "var/cyborg-lite"), (("home",), "home/state/cyborg-lite"),
    ((), "var/cyborg-lite")])
def test_standalone_keeps_its_state_where_its_user_may(
        writable: tuple[str, ...], expected: str, tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    # whether this machine has /var/lib/cyborg-lite must not matter
    monkeypatch.setattr(config, "STATE_PATH", f"{tmp_path}/var/cyborg-lite")
    monkeypatch.setenv("XDG_STATE_HOME", f"{tmp_path}/home/state")
    for each in ("var", "home"):
        (tmp_path / each).mkdir()
    places = {f"{tmp_path}/{each}" for each in writable}
    monkeypatch.setattr(os, "access", lambda path, _: str(path) in places)

    assert services._usual_state_path() == f"{tmp_path}/{expected}"
