# SPDX-License-Identifier: Apache-2.0
"""The table of routes agrees with the policy rules, the microversions and the handlers."""

from __future__ import annotations

from cyborg_lite import auth
from cyborg_lite.api import microversions
from cyborg_lite.api import root

NAMES = {route.name for route in root.ROUTES}


def rule_of(route: root.Route) -> str:
    return f"cyborg:{getattr(route.controller, route.handler).rule}"


def test_each_route_is_an_operation_of_the_rule_that_guards_it_and_each_operation_a_route() -> None:
    documented = {(f"{operation['method']} {operation['path'].partition('?')[0]}", rule.name)
                  for rule in auth.RULES for operation in rule.operations}
    assert documented == {(route.name, rule_of(route)) for route in root.ROUTES}


def test_no_route_comes_twice() -> None:
    assert len(NAMES) == len(root.ROUTES)


def test_the_microversions_name_routes_that_exist() -> None:
    for row in microversions.TABLE:
        assert {*row.paths, *row.query, *row.body} <= NAMES


def test_each_handler_takes_the_query_parameters_that_the_microversions_name() -> None:
    for route in root.ROUTES:
        types = getattr(route.controller, route.handler).query_types
        assert set(types) == set(microversions.query_since(route.name)), route.name
