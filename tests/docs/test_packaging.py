# SPDX-License-Identifier: Apache-2.0
"""What setup.cfg and requirements.txt say, against what the code does."""

from __future__ import annotations

import ast
import configparser
import pathlib
import re
import sys
from importlib import metadata

import pytest
from packaging import requirements as packaging_requirements

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "cyborg_lite"

NOT_OURS = {"cyborg_lite"}

OF_AN_EXTRA = ("cli", "demo")
"""Packages that run only where the extra of the same name is installed."""

MAY_BE_ABSENT = {"pynvml", "pyudev"}
"""Imported where they are installed; without them the service does less, and says so."""


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg")
    return parser


def required(lines: list[str]) -> dict[str, packaging_requirements.Requirement]:
    found = [packaging_requirements.Requirement(line) for line in lines
             if line.strip() and not line.startswith("#")]
    return {name_of(each.name): each for each in found}


def name_of(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def runtime_requirements() -> dict[str, packaging_requirements.Requirement]:
    return required((CHECKOUT / "requirements.txt").read_text().splitlines())


def extras() -> dict[str, dict[str, packaging_requirements.Requirement]]:
    return {name: required(text.splitlines()) for name, text in setup_cfg()["extras"].items()}


def imported(folder: pathlib.Path, without: tuple[pathlib.Path, ...] = ()) -> set[str]:
    """Top-level names that the modules of a folder import."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        if any(path.is_relative_to(each) for each in without):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - NOT_OURS


def distributions(modules: set[str]) -> set[str]:
    """The distributions that bring these modules; several may share a namespace."""
    known = metadata.packages_distributions()
    missing = modules - known.keys()
    assert not missing, f"imported and not installed: {sorted(missing)}"
    return {name_of(known[module][0]) for module in modules}


def test_every_library_that_the_service_imports_is_required() -> None:
    modules = imported(PACKAGE, without=tuple(PACKAGE / name for name in OF_AN_EXTRA))

    assert distributions(modules - MAY_BE_ABSENT) - runtime_requirements().keys() == set()


def test_every_required_library_is_imported() -> None:
    used = distributions(imported(PACKAGE) | imported(CHECKOUT / "alembic"))

    assert runtime_requirements().keys() - used == set()


@pytest.mark.parametrize("name", OF_AN_EXTRA)
def test_an_extra_brings_what_its_package_imports(name: str) -> None:
    needed = distributions(imported(PACKAGE / name)) - runtime_requirements().keys()

    assert needed - extras()[name].keys() == set()


def test_every_requirement_has_a_lower_bound() -> None:
    everything = [*runtime_requirements().values(),
                  *(each for extra in extras().values() for each in extra.values())]

    assert [str(each) for each in everything
            if not any(spec.operator in (">=", "==") for spec in each.specifier)] == []


def test_all_extras_that_operators_know_exist() -> None:
    assert {"nvidia", "mysql", "postgresql", "memcached", "cli", "test", "demo"} <= extras().keys()


def test_the_controller_of_the_install_page_gets_what_its_configuration_needs() -> None:
    folder = CHECKOUT / "doc/source/install"
    parser = configparser.ConfigParser()
    parser.read(folder / "controller.conf")
    [chosen] = re.findall(r"pip install '\.\[([^\]]+)\]'", (folder / "index.rst").read_text())

    needed = {parser["database"]["connection"].partition("+")[0]}
    if "memcached_servers" in parser["keystone_authtoken"]:
        needed.add("memcached")
    assert needed <= set(chosen.split(",")) <= extras().keys()


@pytest.mark.parametrize("group", [
    "console_scripts", "cyborg_lite.accelerator.driver", "oslo.config.opts",
    "oslo.config.opts.defaults", "oslo.policy.policies", "oslo.policy.enforcer"])
def test_every_entry_point_leads_to_something(group: str) -> None:
    written = [line.split(" = ") for line in setup_cfg()["entry_points"][group].split("\n") if line]
    installed = {point.name: point for point in metadata.entry_points(group=group)}

    assert written
    for name, target in written:
        assert installed[name].value == target, "install the checkout again: pip install -e ."
        assert callable(installed[name].load())


def test_the_bootstrap_runs_on_python_alone() -> None:
    for name in ("demo/bootstrap.py", "demo/__init__.py", "__init__.py"):
        tree = ast.parse((PACKAGE / name).read_text())
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
                   for alias in node.names}
        modules |= {node.module or "" for node in ast.walk(tree)
                    if isinstance(node, ast.ImportFrom)}
        assert {module.partition(".")[0] for module in modules} <= set(sys.stdlib_module_names)


def test_what_a_wheel_has_to_carry_is_in_the_data_files() -> None:
    lines = setup_cfg()["files"]["data_files"].split("\n")

    assert "share/cyborg-lite/alembic = alembic/*" in lines
    assert "etc/cyborg-lite = etc/cyborg-lite/*" in lines
    assert not (CHECKOUT / "alembic" / "__init__.py").exists()
    assert '"cyborg_lite.api": ["console_files/*"]' in (CHECKOUT / "setup.py").read_text()
