# SPDX-License-Identifier: Apache-2.0
"""What the pages of doc/ say, against the code: options, commands, states, messages, words.

Whether links resolve is Sphinx's business: `test_docs_build.py`.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import functools
import pathlib
import re
import shlex
from importlib import metadata

import pytest
import yaml

from cyborg_lite import auth
from cyborg_lite import config
from cyborg_lite import config_check
from cyborg_lite import states
from cyborg_lite.api import microversions
from cyborg_lite.cmd import manage
from cyborg_lite.db import migrate
from cyborg_lite.drivers import device_files

TOP = pathlib.Path(__file__).resolve().parents[2]
SOURCE = TOP / "doc" / "source"
PAGES = sorted(SOURCE.rglob("*.rst"))
CONFIGURATIONS = sorted(SOURCE.rglob("*.conf"))
NOTES = sorted((TOP / "releasenotes" / "notes").glob("*.yaml"))

OF_THE_CLIENT = frozenset({
    "arq delete", "arq list", "device list", "device show", "device profile create",
    "device profile list"})
"""Commands that python-openstackclient brings; setup.cfg has ours."""

OF_OTHER_GROUPS = frozenset({
    # keystonemiddleware takes these from keystoneauth's plug-in, which no namespace lists
    *(("keystone_authtoken", name) for name in (
        "auth_url", "username", "password", "project_name", "user_domain_name",
        "project_domain_name"))})


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(SOURCE))


@functools.cache
def everything() -> str:
    return "\n".join(page.read_text() for page in PAGES)


@functools.cache
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(TOP / "setup.cfg")
    return parser


def entry_points(group: str) -> dict[str, str]:
    lines = setup_cfg()["entry_points"][group].split("\n")
    return dict(line.split(" = ") for line in lines if line)


@functools.cache
def code_blocks(language: str) -> list[tuple[str, str]]:
    """The code blocks of a language, each with its page."""
    found = []
    for page in PAGES:
        for match in re.finditer(
                rf"^( *)\.\. code-block:: {language}\n(?:\1   :.*\n)*\n((?:\1   .*\n|\n)+)",
                page.read_text(), re.MULTILINE):
            found.append((name_of(page), re.sub(rf"^{match[1]}   ", "", match[2],
                                                flags=re.MULTILINE)))
    return found


# --- options ----------------------------------------------------------------------------------


def shown_namespaces() -> set[str]:
    text = (SOURCE / "configuration" / "index.rst").read_text()
    return {line.strip() for block in re.findall(
        r"^\.\. show-options::\n\n((?:   \S+\n)+)", text, re.MULTILINE)
        for line in block.splitlines()}


@functools.cache
def known_options() -> frozenset[tuple[str, str]]:
    """Group and name of every option that a program of ours understands, but those of types."""
    found = {(group or "DEFAULT", option.dest) for group, options in config.list_options()
             for option in options}
    found |= {(group or "DEFAULT", option.dest)
              for group, option in config_check._library_options()}
    found |= {(group or "DEFAULT", old.name) for group, options in config.OWN_OPTIONS.items()
              for option in options for old in option.deprecated_opts if old.name}
    return frozenset(found | OF_OTHER_GROUPS)


def test_the_configuration_page_shows_every_option_of_ours() -> None:
    listed = {(group, option.dest) for group, options in config.list_options()
              for option in options}

    assert "cyborg_lite" in shown_namespaces()
    assert {(group, option.dest) for group, options in config.OWN_OPTIONS.items()
            for option in options} <= listed


def test_the_configuration_page_shows_namespaces_that_exist() -> None:
    exist = {point.name for point in metadata.entry_points(group="oslo.config.opts")}

    assert shown_namespaces() - exist == set()


def test_the_configuration_page_names_the_groups_of_types_and_their_options() -> None:
    text = (SOURCE / "configuration" / "index.rst").read_text()

    for group, (naming, prefix, options) in config.TYPE_GROUPS.items():
        assert f"``[{prefix}<type>]``" in text
        assert f"``[{group}] {naming}``" in text
        for option in options:
            assert f"``{option.dest}``" in text


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_a_configuration_that_is_shown_has_options_that_exist(path: pathlib.Path) -> None:
    # oslo.config knows no inheritance from DEFAULT
    parser = configparser.ConfigParser(strict=False, interpolation=None, default_section="")
    parser.read(path)
    types = {f"{prefix}{name.strip()}": {option.dest for option in options}
             for group, (naming, prefix, options) in config.TYPE_GROUPS.items()
             if parser.has_option(group, naming)
             for name in parser[group][naming].split(",")}

    unknown = [f"[{group}] {name}" for group in parser.sections() for name in parser[group]
               if (group, name) not in known_options() and name not in types.get(group, ())]

    assert unknown == []


def test_an_option_that_a_page_names_exists() -> None:
    """Nova's and Neutron's, and Cyborg's that are gone, are named where they are said to be so."""
    ours = {"DEFAULT", *(group for group in config.OWN_OPTIONS if group), "database", "privsep",
            "keystone_authtoken", "oslo_policy", "oslo_middleware", "placement", "nova"}
    gone = {("agent", "resource_provider_startup_retries"), ("gpu_devices", "filter_sriov_vfs"),
            ("api", "enable_ssl_api")}

    named = {(group, option) for page in PAGES for group, option in re.findall(
        r"``\[(\w+)\] ([a-z_]+)(?: = [^`]*)?``", " ".join(page.read_text().split()))
        if group in ours}

    libraries = {("DEFAULT", "log_config_append")}
    assert named
    assert named - known_options() - libraries - (
        gone if "gone" in (SOURCE / "from-cyborg.rst").read_text() else set()) == set()


# --- commands ---------------------------------------------------------------------------------


def test_every_program_that_is_named_exists() -> None:
    named = set(re.findall(r"\bcyborg-lite-[a-z]+", everything()))

    assert named == set(entry_points("console_scripts")), "no less: each has to be told of"


def manage_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    manage._add_commands(parser.add_subparsers(required=True))
    return parser


@pytest.mark.parametrize("command", sorted(set(re.findall(
    r"cyborg-lite-manage ((?:db )?[a-z-]+(?: --[a-z-]+)*)", " ".join(everything().split())))))
def test_a_command_of_manage_that_is_named_exists(command: str) -> None:
    assert manage_parser().parse_args(shlex.split(command)).run


def test_the_revision_that_the_first_upgrade_prints_is_the_newest() -> None:
    text = (SOURCE / "install" / "index.rst").read_text()

    assert f"   empty -> {migrate.head()}\n" in text


def test_every_command_of_the_client_that_is_named_exists() -> None:
    ours = {name.removeprefix("accelerator_").replace("_", " ")
            for name in entry_points("openstack.extension")}
    known = ours | OF_THE_CLIENT
    text = re.sub(r"\s+", " ", everything())

    named = re.findall(r"openstack (?:--os-accelerator-api-version 2\.\d )?accelerator ([a-z ]+)",
                       text)

    assert named
    assert [words for words in named if not any(
        f"{words} ".startswith(f"{command} ") for command in known)] == []


def test_every_tox_environment_that_is_named_exists() -> None:
    parser = configparser.ConfigParser()
    parser.read(TOP / "tox.ini")
    exist = {"py3", *(name.removeprefix("testenv:") for name in parser.sections())}

    assert set(re.findall(r"tox -e ([a-z0-9-]+)", everything())) - exist == set()


# --- device files -----------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "text"), code_blocks("yaml"))
def test_a_device_file_within_a_page_can_be_read(page: str, text: str) -> None:
    _, entries = device_files.parse(text, page)

    assert entries


# --- states, rules, messages, words -----------------------------------------------------------


def test_the_administrators_guide_explains_every_state() -> None:
    text = (SOURCE / "admin" / "index.rst").read_text()

    for state in (*states.ARQ_STATES, *states.HANDLE_STATES):
        assert re.search(rf"^``{state}`` ", text, re.MULTILINE), state


def test_the_policy_page_shows_the_rules_of_the_code() -> None:
    text = (SOURCE / "configuration" / "policy.rst").read_text()
    shown = re.search(r"show-policy::\n   :config-file: (\S+)", text)

    assert shown
    assert "namespace = cyborg-lite" in (SOURCE / shown[1]).read_text()
    assert auth.list_rules()


@functools.cache
def texts_of_the_code() -> frozenset[str]:
    """All constant texts of the code, those of an f-string with {} where a value goes."""
    found: set[str] = set()
    for path in (TOP / "cyborg_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "{}"
                                  for part in node.values))
    return frozenset(found)


def quoted_messages() -> list[tuple[str, str]]:
    """Terms of the troubleshooting lists that quote a message: words with blanks between."""
    pages = [SOURCE / "admin" / "troubleshooting.rst",
             *(page for page in PAGES
               if page.parent.name == "drivers" and page.name != "index.rst")]
    found = []
    for page in pages:
        text = page.read_text()
        where = text.find("\nTroubleshooting\n====") if page.parent.name == "drivers" else 0
        for term in re.findall(r"^(``.+)\n   \S", text[where:], re.MULTILINE):
            found += [(name_of(page), message) for message in re.findall(r"``([^`]+)``", term)
                      if message.count(" ") > 1]
    return found


@pytest.mark.parametrize(("page", "message"), quoted_messages())
def test_a_message_that_is_quoted_is_one_of_ours(page: str, message: str) -> None:
    # where a value goes there may be any word
    words = [re.escape(word) for word in message.split()]
    pattern = re.compile(r"\s+".join(rf"(?:{word}|\S*(?:{{}}|%\w)\S*)" for word in words))

    assert any(pattern.search(text) for text in texts_of_the_code()), f"{page}: {message}"


def glossary() -> list[str]:
    text = (SOURCE / "glossary.rst").read_text()
    return re.findall(r"^   (\S.*)$", text.partition(".. glossary::")[2], re.MULTILINE)


@pytest.mark.parametrize("word", glossary())
def test_a_word_of_the_glossary_is_used(word: str) -> None:
    others = "\n".join(page.read_text() for page in PAGES if page.name != "glossary.rst")
    code = "\n".join(path.read_text() for path in (TOP / "cyborg_lite").rglob("*.py"))

    assert re.search("[ _]".join(map(re.escape, word.split())), others + code, re.IGNORECASE)


# --- release notes ----------------------------------------------------------------------------


@functools.cache
def notes() -> str:
    return "\n".join(path.read_text() for path in NOTES)


@pytest.mark.parametrize("row", microversions.TABLE, ids=lambda row: row.slug)
def test_every_microversion_is_named_by_a_release_note(row: microversions.Row) -> None:
    number = re.escape(microversions.text(row.minor))

    assert re.search(rf"[Mm]icroversions? (?:[\d., and]+ )?{number}\b", notes())


def test_every_migration_is_named_by_a_release_note() -> None:
    revisions = [path.name.partition("_")[0]
                 for path in (TOP / "alembic" / "versions").glob("*.py")]

    assert revisions
    assert [each for each in revisions if f"revision {each}" not in notes()] == []


def test_every_driver_is_named_by_a_release_note() -> None:
    named = set(re.findall(r"``(\w+_driver)``", notes()))

    assert set(entry_points("cyborg_lite.accelerator.driver")) - named == set()


def test_no_two_release_notes_are_one_for_reno() -> None:
    """It tells notes apart by the last 16 characters of their names, or by the first."""
    ends = [(path.stem[-16:], path.stem[:16]) for path in NOTES]
    names = [first if "-" in last else last for last, first in ends]

    assert len(set(names)) == len(names), names


@pytest.mark.parametrize("note", NOTES, ids=lambda path: path.name)
def test_a_release_note_is_made_of_texts(note: pathlib.Path) -> None:
    sections = yaml.safe_load(note.read_text())

    assert all(isinstance(text, str) for section in sections.values()
               for text in (section if isinstance(section, list) else [section]))
