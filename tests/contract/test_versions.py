# SPDX-License-Identifier: Apache-2.0
"""The versions that the README names are those that the tests ran with."""

from __future__ import annotations

import pathlib
from importlib import metadata

import pytest

README = pathlib.Path(__file__).with_name("README.rst")

INSTALLED_IN = {
    "openstacksdk": None, "openstack-placement": None, "keystone": "keystone",
    "python-cyborgclient": "cyborgclient", "nova": "nova", "tempest": "tempest",
    "cyborg-tempest-plugin": "tempest",
}
"""Distribution -> environment; None is that of the tests."""


@pytest.mark.parametrize("distribution", INSTALLED_IN)
def test_the_readme_names_the_version_that_is_installed(distribution, client_environments):
    environment = INSTALLED_IN[distribution]

    version = (client_environments[environment].versions()[distribution] if environment
               else metadata.version(distribution))

    assert f"{distribution} {version}" in _words()


@pytest.mark.parametrize("environment", ["cyborgclient", "openstackclient"])
def test_the_readme_names_both_versions_of_the_openstack_program(environment, client_environments):
    version = client_environments[environment].versions()["python-openstackclient"]

    assert f"python-openstackclient {version}" in _words()


def _words() -> str:
    return " ".join(README.read_text(encoding="utf-8").split())
