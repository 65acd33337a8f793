# SPDX-License-Identifier: Apache-2.0
"""Sphinx builds the pages and the release notes without a warning, so that every link resolves.

Where Sphinx is not installed (extra doc), `tox -e docs` is what runs this.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys

import pytest

from tests.fixtures import processes

TOP = pathlib.Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sphinx") is None, reason="Sphinx is not installed: tox -e docs")


def build(source: pathlib.Path, out: pathlib.Path) -> tuple[int, str]:
    done = processes.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-E", "-q", "-b", "html", source,
         out], within_s=300, environment={"PYTHONPATH": str(TOP)})
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("html")
    status, report = build(TOP / "doc" / "source", out)
    assert status == 0, report
    return out


def test_the_pages_build_without_a_warning(html: pathlib.Path) -> None:
    assert (html / "index.html").stat().st_size > 0


def test_every_option_of_ours_is_on_the_configuration_page(html: pathlib.Path) -> None:
    from cyborg_lite import config

    text = (html / "configuration" / "index.html").read_text()

    missing = [f"[{group}] {option.name}" for group, options in config.OWN_OPTIONS.items()
               for option in options
               if f'id="{group or "DEFAULT"}.{option.name}"' not in text]
    assert missing == []


def test_every_rule_is_on_the_policy_page(html: pathlib.Path) -> None:
    from cyborg_lite import auth

    text = (html / "configuration" / "policy.html").read_text()

    assert [rule.name for rule in auth.list_rules() if rule.name not in text] == []


def test_a_link_to_nowhere_would_be_noticed(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "conf.py").write_text((TOP / "doc" / "source" / "conf.py").read_text())
    (source / "index.rst").write_text("Title\n=====\n\nSee :doc:`nowhere` and :term:`nothing`.\n")

    status, report = build(source, tmp_path / "out")

    assert status != 0
    assert "nowhere" in report
    assert "nothing" in report
