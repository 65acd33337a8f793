# SPDX-License-Identifier: Apache-2.0
"""The samples in etc/ against the options, rules and middleware in code."""

from __future__ import annotations

import configparser
import pathlib
import re

import pytest
import yaml

from cyborg_lite import auth
from cyborg_lite import config
from tests.fixtures import processes

ETC = pathlib.Path(__file__).resolve().parents[2] / "etc" / "cyborg-lite"
AGAIN = "write it again: tox -e genconfig"


def sections(path: pathlib.Path) -> dict[str, str]:
    """The text of each group of a configuration file."""
    parts = re.split(r"^\[(.+)\]$", path.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def ours() -> list[tuple[str, str]]:
    return [(group or "DEFAULT", option.name) for group, options in config.list_options()
            for option in options]


@pytest.mark.parametrize(("group", "name"), ours())
def test_every_option_is_in_the_sample(group: str, name: str) -> None:
    found = sections(ETC / "cyborg-lite.conf.sample")

    assert re.search(rf"^#{re.escape(name.replace('-', '_'))} =", found[group],
                     re.MULTILINE), AGAIN


def test_the_sample_has_our_options_as_they_are_now(tmp_path: pathlib.Path) -> None:
    fresh = tmp_path / "fresh.conf"
    done = processes.run(
        [processes.console_script("oslo-config-generator"), "--namespace", "cyborg_lite",
         "--wrap-width", "96", "--output-file", fresh], within_s=60)
    assert done.returncode == 0, done.stderr

    stored = sections(ETC / "cyborg-lite.conf.sample")
    for group in ("api", "conductor", "agent", "pci", "fake"):
        assert stored[group] == sections(fresh)[group], AGAIN


def test_the_validator_passes_on_the_sample_with_every_option_set(tmp_path: pathlib.Path) -> None:
    live = tmp_path / "live.conf"
    # what has a value in the sample is set to it
    live.write_text(re.sub(r"^#([a-z_0-9]+ = (?!<None>).+)$", r"\1",
                           (ETC / "cyborg-lite.conf.sample").read_text(), flags=re.MULTILINE))

    done = processes.run(
        [processes.console_script("oslo-config-validator"),
         "--config-file", ETC / "config-generator.conf", "--input-file", live], within_s=60)

    assert done.returncode == 0, done.stderr


def test_every_option_says_what_it_does_and_durations_say_their_unit() -> None:
    for group, options in config.list_options():
        for option in options:
            assert option.help, f"[{group}] {option.name}"
            if group in config.OWN_OPTIONS and re.search("interval|timeout|_ttl|_time$",
                                                         option.name):
                assert "Seconds" in option.help, f"[{group}] {option.name}"


def test_the_sample_policy_has_every_rule_with_its_default() -> None:
    text = re.sub(r'^#(".*)$', r"\1", (ETC / "policy.yaml.sample").read_text(),
                  flags=re.MULTILINE)

    stored = yaml.safe_load(text)

    assert stored == {rule.name: rule.check_str for rule in auth.list_rules()}, AGAIN


def test_the_sample_logging_configuration_can_be_read() -> None:
    parser = configparser.RawConfigParser()
    parser.read(ETC / "logging.conf.sample")

    assert parser["formatter_context"]["class"] == "oslo_log.formatters.ContextFormatter"
