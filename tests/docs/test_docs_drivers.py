# SPDX-License-Identifier: Apache-2.0
"""The drivers' pages against the drivers: one each, every option, files that work, real outputs."""

from __future__ import annotations

import configparser
import pathlib
import re
import shutil
import typing

import pytest
from oslo_config import cfg

from cyborg_lite import config
from cyborg_lite.agent import hardware
from cyborg_lite.agent import installed
from cyborg_lite.agent import settings
from cyborg_lite.drivers import base
from cyborg_lite.drivers import device_config
from cyborg_lite.drivers import device_files
from tests.docs import preflights

TOP = preflights.TOP
PAGES = sorted(path for path in (TOP / "doc" / "source" / "drivers").glob("*.rst")
               if path.name != "index.rst")
DEVICE_FILES = sorted(preflights.EXAMPLES.glob("*.yaml"))
SECTIONS = ("What it reports", "Options", "Pre-flight", "Troubleshooting")


def drivers() -> dict[str, type[base.Driver]]:
    """The drivers of setup.cfg, by entry point name."""
    parser = configparser.ConfigParser()
    parser.read(TOP / "setup.cfg")
    lines = parser["entry_points"]["cyborg_lite.accelerator.driver"].split("\n")
    catalogue = installed.InstalledDrivers()
    return {name: catalogue.load(name) for name in
            (line.partition(" = ")[0] for line in lines if line)}


def driver_of(page: pathlib.Path) -> str:
    return f"{page.stem}_driver"


def test_every_driver_has_a_page_and_every_page_a_driver() -> None:
    found = drivers()
    names = {driver_of(page) for page in PAGES}
    others = {name for name in found if found[name] in {found[each] for each in names & {*found}}}

    assert names <= found.keys()
    assert names | others == found.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_what_every_drivers_page_has(page: pathlib.Path) -> None:
    text = page.read_text()
    kind = drivers()[driver_of(page)]

    assert re.search(rf"^=+\n{driver_of(page)}\n=+$", text, re.MULTILINE)
    for section in SECTIONS:
        assert f"\n{section}\n{'=' * len(section)}\n" in text
    for name in {name for name, each in drivers().items() if each is kind}:
        assert name in text
    assert f"examples/{page.stem}.check.txt" in text
    assert f"examples/{page.stem}.conf" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_tells_of_every_option_of_its_driver(page: pathlib.Path) -> None:
    text = page.read_text()
    own = set(drivers()[driver_of(page)].option_groups)
    # its page is that of the mediated devices; others read created_by alone
    if page.stem != "mdev":
        own.discard("mdev")

    named = [f"``[{group}] {option.dest}``" for group in own
             for option in config.OWN_OPTIONS[group]]
    for group in own & config.TYPE_GROUPS.keys():
        _, prefix, options = config.TYPE_GROUPS[group]
        named += [f"``[{prefix}<type>] {option.dest}``" for option in options]

    assert [option for option in named if option not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_a_device_file_where_its_driver_takes_one(page: pathlib.Path) -> None:
    shown = f"examples/{page.stem}.yaml" in page.read_text()

    assert shown == (page.stem != "fake")
    assert shown == (preflights.EXAMPLES / f"{page.stem}.yaml").exists()


@pytest.mark.parametrize("path", DEVICE_FILES, ids=lambda path: path.name)
def test_a_device_file_is_taken_by_its_driver(path: pathlib.Path,
                                              tmp_path: pathlib.Path) -> None:
    shutil.copy(path, tmp_path)
    files = device_files.read(str(tmp_path))

    found = hardware.Hardware([f"{path.stem}_driver"], {}, hardware.Place(
        sysfs_root=str(tmp_path), state_path=str(tmp_path / "state")), files=files, checking=True)

    assert files.entries.keys() == {f"{path.stem}_driver"}
    assert files.bad == ()
    assert found.file_complaints == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_driver_understands_that_nothing_is_to_be_cleaned(
        page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    name = driver_of(page)
    (tmp_path / "a.yaml").write_text(
        f"version: 1\ndriver: {name}\ndevices: [{{match: {{address: a}}, clean: none}}]\n")

    found = hardware.Hardware([name], {}, hardware.Place(
        sysfs_root=str(tmp_path), state_path=str(tmp_path / "state")),
        files=device_files.read(str(tmp_path)), checking=True)

    assert found.file_complaints == {}


@pytest.mark.parametrize("name", [*preflights.SHOWN, *preflights.PLAYED])
def test_the_output_that_a_page_shows_is_the_real_one(name: str) -> None:
    assert preflights.output(name) == preflights.stored(name).read_text(), (
        "write it again: python3 -m tests.docs.preflights")


@pytest.mark.parametrize("path", sorted(preflights.EXAMPLES.glob("*.conf")), ids=lambda p: p.name)
def test_a_configuration_of_a_page_enables_its_driver(path: pathlib.Path) -> None:
    conf = config.load([f"--config-file={path}"], cfg.ConfigOpts())

    assert settings.read(conf).enabled_drivers == (f"{path.stem.partition('-')[0]}_driver",)


def test_the_page_of_device_files_tells_what_each_driver_understands() -> None:
    text = (TOP / "doc" / "source" / "configuration" / "device-files.rst").read_text()
    rows = text[text.index("Not every driver"):]

    for page in PAGES:
        kind = drivers()[driver_of(page)]
        if kind.entry_keys == device_config.KEYS:
            continue
        match = re.search(rf"^``{driver_of(page)}``(.*\n(?:  .*\n)*)", rows, re.MULTILINE)
        assert match, driver_of(page)
        words = set(re.findall(r"``([a-z_]+)(?::[^`]*)?``", match[1]))
        assert words == typing.cast(set[str], (kind.entry_keys - {"offer"})
                                    | (kind.offers - {"none"})), driver_of(page)
