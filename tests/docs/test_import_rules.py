# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, as setup.cfg says it; and that a rule that is broken is noticed."""

from __future__ import annotations

import configparser
import pathlib

from tests.fixtures import processes

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


def lint(configuration: pathlib.Path) -> tuple[int, str]:
    """Exit status and report; in a process of its own, since it takes over the logging."""
    done = processes.run(
        [processes.console_script("lint-imports"), "--config", configuration, "--no-cache"],
        within_s=120)
    return done.returncode, done.stdout + done.stderr


def test_nobody_imports_what_it_may_not() -> None:
    status, report = lint(CHECKOUT / "setup.cfg")

    assert status == 0, report


def test_a_layer_that_imports_upwards_would_be_noticed(tmp_path: pathlib.Path) -> None:
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg")
    layers = parser["importlinter:contract:layers"]["layers"].split("\n")
    turned = configparser.ConfigParser()
    turned["importlinter"] = parser["importlinter"]
    turned["importlinter:contract:layers"] = {
        "name": "upside down", "type": "layers", "layers": "\n".join(reversed(layers))}
    path = tmp_path / "setup.cfg"
    with path.open("w") as file:
        turned.write(file)

    status, report = lint(path)

    assert status == 1
    assert "upside down BROKEN" in report


def test_every_package_has_its_place_in_the_layers() -> None:
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg")
    placed = {name.strip().rpartition(".")[2]
              for line in parser["importlinter:contract:layers"]["layers"].split("\n")
              for name in line.split("|")}

    present = {path.stem for path in (CHECKOUT / "cyborg_lite").iterdir()
               if (path.suffix == ".py" or (path / "__init__.py").exists())
               and path.stem != "__init__"}

    assert present - placed == set()


def test_every_driver_is_listed_as_independent() -> None:
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg")
    listed = parser["importlinter:contract:drivers-are-independent"]["modules"].split()
    points = parser["entry_points"]["cyborg_lite.accelerator.driver"].split("\n")

    named = {line.split(" = ")[1].partition(":")[0] for line in points if line}

    assert named <= set(listed)
