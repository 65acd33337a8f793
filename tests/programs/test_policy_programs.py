# SPDX-License-Identifier: Apache-2.0
"""oslo.policy's programs, as operators run them on our rules and a policy file of theirs."""

from __future__ import annotations

import pathlib

import pytest

from tests.fixtures import processes


@pytest.fixture
def configuration(tmp_path: pathlib.Path) -> pathlib.Path:
    """A configuration file whose policy has one rule of the operator's, and one that is none."""
    policy = tmp_path / "rules.yaml"
    policy.write_text('"cyborg:device:get_all": "role:reader"\n"cyborg:bogus:get_all": "!"\n')
    path = tmp_path / "cyborg-lite.conf"
    path.write_text(f"[oslo_policy]\npolicy_file = {policy}\n")
    return path


def test_the_generator_shows_the_rules_that_are_in_force(configuration: pathlib.Path) -> None:
    done = processes.run([processes.console_script("oslopolicy-policy-generator"), "--namespace",
                          "cyborg-lite", "--config-file", configuration], within_s=60)

    assert done.returncode == 0, done.stderr
    assert '"cyborg:device:get_all": "role:reader"' in done.stdout


def test_the_validator_finds_a_rule_that_there_is_not(configuration: pathlib.Path) -> None:
    done = processes.run([processes.console_script("oslopolicy-validator"), "--namespace",
                          "cyborg-lite", "--config-file", configuration], within_s=60)

    assert done.returncode == 1
    assert "cyborg:bogus:get_all" in done.stdout + done.stderr
