# SPDX-License-Identifier: Apache-2.0
"""Every page is understood by docutils; specs and release notes keep their form."""

from __future__ import annotations

import pathlib

import docutils.core
import docutils.utils
import pytest
import yaml

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(CHECKOUT) for path in (
    CHECKOUT / "README.rst", *CHECKOUT.glob("specs/*.rst")))
NOTES = sorted((CHECKOUT / "releasenotes" / "notes").glob("*.yaml"))
SPEC_LINES = 150


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_is_valid(page: pathlib.Path) -> None:
    text = (CHECKOUT / page).read_text()

    docutils.core.publish_doctree(text, str(page), settings_overrides={
        "halt_level": docutils.utils.Reporter.WARNING_LEVEL, "report_level": 5})


@pytest.mark.parametrize("page", [page for page in PAGES if page.parts[0] == "specs"], ids=str)
def test_a_spec_is_short(page: pathlib.Path) -> None:
    assert len((CHECKOUT / page).read_text().splitlines()) <= SPEC_LINES


def test_every_migration_is_named_by_a_release_note() -> None:
    notes = "\n".join(path.read_text() for path in NOTES)
    revisions = [path.name.partition("_")[0]
                 for path in (CHECKOUT / "alembic" / "versions").glob("*.py")]

    assert revisions
    assert [revision for revision in revisions if f"revision {revision}" not in notes] == []


@pytest.mark.parametrize("note", NOTES, ids=lambda path: path.name)
def test_a_release_note_has_sections_that_reno_knows(note: pathlib.Path) -> None:
    known = {"prelude", "features", "issues", "upgrade", "deprecations", "critical", "security",
             "fixes", "other"}

    assert yaml.safe_load(note.read_text()).keys() <= known


def test_the_readme_has_exactly_the_two_commands() -> None:
    commands = [line.strip() for line in (CHECKOUT / "README.rst").read_text().splitlines()
                if line.startswith("    ")]

    assert commands == ["python3 -m cyborg_lite.demo", "python3 tests/run.py"]
