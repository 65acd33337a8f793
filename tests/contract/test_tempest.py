# SPDX-License-Identifier: Apache-2.0
"""The API tests of cyborg-tempest-plugin, unmodified, with users that tempest makes in Keystone.

Which of them contradict our contract, and why, is written here and in the README; no other may
fail.
"""

from __future__ import annotations

import configparser
import json
import pathlib
import re
from typing import Any

import pytest

from tests.contract import cloud as clouds
from tests.fixtures import environments
from tests.fixtures import keystone
from tests.fixtures import processes

DRIVER = pathlib.Path(__file__).with_name("tempest_driver.py")
LIMIT_S = 300
TESTS_AT_LEAST = 40

NEGATIVE = "cyborg_tempest_plugin.tests.api.test_device_profile_negative.DeviceProfileNegativeTest"
DEMANDS_A_SERVER_FAULT = {
    f"{NEGATIVE}.test_create_device_profile_server_fault": "Conflict",
    f"{NEGATIVE}.test_create_device_profile_name_is_null": "BadRequest",
    f"{NEGATIVE}.test_create_device_profile_name_to_long": "BadRequest",
}
"""Tests that want status 500 for bad input, with the exception that our 4xx gives them."""


@pytest.fixture(scope="module")
def outcomes(cloud: clouds.Cloud, client_environments: dict[str, environments.Environment],
             tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Run all of them once; returns what became of each, by its name."""
    home = tmp_path_factory.mktemp("tempest")
    options = configparser.ConfigParser(interpolation=None)
    options.read_dict({
        "DEFAULT": {"log_file": str(home / "tempest.log")},
        "oslo_concurrency": {"lock_path": str(home)},
        "auth": {"use_dynamic_credentials": "true", "admin_username": "admin",
                 "admin_password": keystone.PASSWORD, "admin_project_name": "admin",
                 "admin_domain_name": keystone.DOMAIN},
        "identity": {"auth_version": "v3", "uri_v3": cloud.keystone.url,
                     "region": keystone.REGION},
        "service_available": {name: "false" for name in (
            "cinder", "glance", "horizon", "neutron", "nova", "swift")} | {"cyborg": "true"},
        "validation": {"run_validation": "false"},
        "cyborg_policy": {"enforce_new_defaults": "true"},
    })
    with (home / "tempest.conf").open("w") as file:
        options.write(file)
    done = processes.run(
        [client_environments["tempest"].python, "-P", DRIVER], within_s=LIMIT_S,
        environment={"TEMPEST_CONFIG_DIR": str(home), "TEMPEST_CONFIG": "tempest.conf"})
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["test"]: line for line in lines}


def test_every_tempest_test_passes_but_those_that_demand_a_server_fault(outcomes):
    failed = {name: outcome["why"] for name, outcome in outcomes.items()
              if outcome["outcome"] == "failed"}

    assert {name: why for name, why in failed.items() if name not in DEMANDS_A_SERVER_FAULT} == {}
    assert failed.keys() == DEMANDS_A_SERVER_FAULT.keys()
    assert len(outcomes) >= TESTS_AT_LEAST


@pytest.mark.parametrize("name", DEMANDS_A_SERVER_FAULT)
def test_what_demands_a_server_fault_fails_because_bad_input_is_a_client_error(outcomes, name):
    raised = re.findall(r"^tempest\.lib\.exceptions\.(\w+): ", outcomes[name]["why"], re.MULTILINE)

    assert raised == [DEMANDS_A_SERVER_FAULT[name]]


def test_no_tempest_test_is_skipped(outcomes):
    skipped = {name: outcome["why"] for name, outcome in outcomes.items()
               if outcome["outcome"] == "skipped"}

    assert skipped == {}
