# SPDX-License-Identifier: Apache-2.0
"""The page of the commands, against the commands."""

from __future__ import annotations

import configparser
import pathlib
import re
import textwrap

from cyborg_lite.cli import client
from cyborg_lite.cli import partition_pictures as pictures

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGE = (TOP / "doc" / "source" / "admin" / "commands.rst").read_text()
BOTH = [pictures.Box(0, 1, ("1g.5gb",)), pictures.Box(1, 1, ("1g.5gb",)),
        pictures.Box(4, 4, ("3g.20gb",))]


def commands() -> set[str]:
    parser = configparser.ConfigParser()
    parser.read(TOP / "setup.cfg")
    return {line.partition(" = ")[0].removeprefix("accelerator_").replace("_", " ")
            for line in parser["entry_points"]["openstack.extension"].splitlines() if line}


def rows() -> list[tuple[set[str], str]]:
    """The commands of each row of the table, and from when on they are."""
    table = PAGE.partition(".. list-table::")[2].partition("\nPartitions\n")[0]
    return [(set(re.findall(r"``([a-z ]+)``", names)), since)
            for names, since in re.findall(r"   \* - (.*?)\n     - (2\.\d+)\n", table, re.DOTALL)]


def picture(name: str) -> str:
    found = re.search(rf"   :name: {name}\n\n((?:   .*\n)+)", PAGE)
    assert found
    return textwrap.dedent(found[1].replace("   ", "", 1).replace("\n   ", "\n")).rstrip()


def test_every_command_is_told_of_once() -> None:
    told = [name for names, _ in rows() for name in names]

    assert sorted(told) == sorted(commands())


def test_what_a_command_needs_is_a_microversion_that_commands_make_use_of() -> None:
    known = {f"2.{minor}" for minor in (0, *client.SINCE.values())}

    assert {since for _, since in rows()} <= known
    for names, since in rows():
        for name in names:
            if name.startswith(("service", "orphan")):
                assert since == f"2.{client.SINCE['services_and_orphans']}"
            if name.startswith("device partition"):
                assert since == f"2.{client.SINCE['partitioning']}"


def test_the_pictures_are_as_the_command_draws_them() -> None:
    after = pictures.boxes_after(BOTH, {
        "layout": {"partitions": [{"profile": "2g.10gb", "count": 2, "vgpu_type": None}]},
        "steps": [*({"action": "destroy", "profile": "1g.5gb",
                     "placement": {"start": start, "size": 1}} for start in (0, 1)),
                  *({"action": "create", "profile": "2g.10gb",
                     "placement": {"start": start, "size": 2}} for start in (0, 2))]})

    assert picture("before") == pictures.picture(BOTH, 8, 10)
    assert picture("after") == pictures.picture(after, 8, 10)
