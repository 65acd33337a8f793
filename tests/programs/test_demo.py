# SPDX-License-Identifier: Apache-2.0
"""The tour of `python3 -m cyborg_lite.demo`, without the installation before it."""

from __future__ import annotations

import pathlib
import sys

import pytest

from cyborg_lite.demo import bootstrap
from tests.fixtures import processes

TOUR = ("import sys; from cyborg_lite.demo import bootstrap, tour; "
        "sys.exit(tour.run(bootstrap.Progress(), port=0, once=True))")


def test_the_tour_walks_through_a_servers_life_and_leaves_nothing_behind(
        tmp_path: pathlib.Path) -> None:
    done = processes.run([sys.executable, "-c", TOUR], within_s=300,
                         environment={"TMPDIR": str(tmp_path)})

    assert done.returncode == 0, done.stdout + done.stderr
    assert "accelerator-request-bound completed" in done.stdout
    assert "Bound on gpu-server: PCI" in done.stdout
    assert done.stdout.endswith("Done\n")
    assert list(tmp_path.iterdir()) == []


def test_an_environment_is_made_once_and_again_when_its_needs_change(
        tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "environment"

    python = bootstrap.environment(folder, [], bootstrap.Progress(), "a test")
    first = capsys.readouterr().out
    bootstrap.environment(folder, [], bootstrap.Progress(), "a test")
    second = capsys.readouterr().out
    (folder / "complete").write_text("of other needs")
    bootstrap.environment(folder, [], bootstrap.Progress(), "a test")
    third = capsys.readouterr().out

    assert python.exists()
    assert ("Installing" in first, second, "Installing" in third) == (True, "", True)


def test_an_installation_that_fails_shows_what_pip_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(bootstrap.CannotPrepare, match="no-such-file"):
        bootstrap.environment(tmp_path / "environment", ["./no-such-file"],
                              bootstrap.Progress(), "a test")

    assert not (tmp_path / "environment" / "complete").exists()
