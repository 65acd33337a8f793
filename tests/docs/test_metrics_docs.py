# SPDX-License-Identifier: Apache-2.0
"""The page of the metrics, the dashboard and the alert rules, against the metrics of the code."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import jsonschema
import pytest
import yaml

from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite import metrics
from cyborg_lite import states
from cyborg_lite.db import liveness

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGE = (TOP / "doc" / "source" / "admin" / "metrics.rst").read_text()
DASHBOARD = json.loads((TOP / "etc" / "grafana" / "cyborg-lite.json").read_text())
RULES = yaml.safe_load((TOP / "etc" / "prometheus" / "cyborg-lite.rules.yaml").read_text())

PROCESS_METRICS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}

PANEL = {
    "type": "object", "required": ["id", "type", "title", "gridPos"],
    "properties": {
        "id": {"type": "integer"},
        "type": {"enum": ["row", "stat", "timeseries"]},
        "title": {"type": "string", "minLength": 1},
        "gridPos": {"type": "object", "required": ["x", "y", "w", "h"],
                    "properties": {"x": {"minimum": 0, "maximum": 23},
                                   "w": {"minimum": 1, "maximum": 24}}},
        "targets": {"type": "array", "minItems": 1, "items": {
            "type": "object", "required": ["expr", "refId", "datasource"]}}},
}
DASHBOARD_SCHEMA = {
    "type": "object",
    "required": ["title", "uid", "schemaVersion", "panels", "templating", "time"],
    "properties": {"panels": {"type": "array", "minItems": 1, "items": PANEL}},
}
RULE_SCHEMA = {
    "type": "object", "required": ["alert", "expr", "labels", "annotations"],
    "additionalProperties": False,
    "properties": {
        "alert": {"type": "string", "pattern": "^CyborgLite[A-Za-z]+$"},
        "expr": {"type": "string"}, "for": {"type": "string", "pattern": "^[0-9]+[mh]$"},
        "labels": {"type": "object", "required": ["severity"], "properties": {
            "severity": {"enum": ["critical", "warning"]}}},
        "annotations": {"type": "object", "required": ["summary", "description"],
                        "additionalProperties": {"type": "string"}}},
}

VALUES = {
    ("attach_handles", "state"): set(states.HANDLE_STATES),
    ("arqs", "state"): set(states.ARQ_STATES), ("hosts", "state"): set(liveness.STATES),
    ("rpc_errors_total", "error"): set(errors.BY_SLUG),
    ("bind_seconds_count", "outcome"): {"bound", "failed"},
    ("api_requests_total", "status"): {"2xx", "3xx", "4xx", "5xx"},
    ("build_info", "service"): set(metrics.SERVICES),
    ("layout_wishes", "state"): {"open", "failed"},
    ("orphans", "state"): {"seen", "confirmed", "cleaned", "kept", "failed"},
}


def exposed() -> dict[str, metrics.Metric]:
    """Every name that a query may have, with its metric."""
    found = {}
    for metric in metrics.TABLE:
        ends = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        found.update({metric.exposed + end: metric for end in ends})
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


QUERIES = [*((f"dashboard: {panel['title']}", target["expr"]) for panel in panels()
             for target in panel["targets"]),
           *((rule["alert"], rule["expr"]) for rule in rules())]


@pytest.mark.parametrize(("where", "query"), QUERIES)
def test_a_query_names_metrics_and_labels_that_exist(where: str, query: str) -> None:
    known = exposed()
    named = re.findall(r"\b((?:cyborg_lite|process)_\w+)(?:\{([^}]*)\})?", query)

    assert named
    for name, selectors in named:
        assert name in known or name in PROCESS_METRICS, name
        for label, operator, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', selectors):
            assert label in known[name].labels
            values = set(value.split("|") if operator == "=~" else [value])
            assert values <= VALUES[name.removeprefix("cyborg_lite_"), label]


@pytest.mark.parametrize(("where", "query"), QUERIES)
def test_a_query_groups_by_labels_that_its_metrics_have(where: str, query: str) -> None:
    known = exposed()
    names = re.findall(r"\bcyborg_lite_\w+", query)
    labels = {label for name in names for label in known[name].labels} | {"le", "instance"}

    grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", query)
               for label in group.split(",")}

    assert grouped <= labels
    assert query.count("(") == query.count(")")


@pytest.mark.parametrize(("where", "query"), QUERIES)
def test_what_every_conductor_says_alike_is_never_added_up(where: str, query: str) -> None:
    alike = {metric.name for metric in metrics.TABLE
             if metric.kind == "gauge" and metric.services == (metrics.CONDUCTOR,)}

    for name in set(re.findall(r"\bcyborg_lite_\w+", query)) & alike:
        for found in re.finditer(rf"\b{name}\b", query):
            assert re.search(r"max(?: by \([^)]*\))? ?\($", query[:found.start()]), query


def test_the_dashboard_is_one() -> None:
    jsonschema.validate(DASHBOARD, DASHBOARD_SCHEMA)

    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels())
    source = f"${{{DASHBOARD['templating']['list'][0]['name']}}}"
    assert {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]} == {
        source}


def test_the_dashboard_shows_every_metric_of_ours() -> None:
    queries = " ".join(query for where, query in QUERIES if where.startswith("dashboard"))
    # how it is of the database is an alert; how long ago the last sweep was, a question
    elsewhere = {"cyborg_lite_database_up", "cyborg_lite_sweep_age_seconds"}

    assert {metric.name for metric in metrics.TABLE
            if not re.search(rf"\b{metric.exposed}(?:_bucket|_count|_sum)?\b", queries)
            } == elsewhere


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_has_all_that_prometheus_wants_of_it(rule: dict[str, Any]) -> None:
    jsonschema.validate(rule, RULE_SCHEMA)

    known = exposed()
    labels = {label for name in re.findall(r"\bcyborg_lite_\w+", rule["expr"])
              for label in known[name].labels}
    for text in rule["annotations"].values():
        assert set(re.findall(r"{{ \$labels\.(\w+) }}", text)) <= labels


def test_no_two_rules_have_one_name() -> None:
    names = [rule["alert"] for rule in rules()]

    assert len(set(names)) == len(names)


def test_the_page_has_each_metric_with_its_kind_labels_and_meaning() -> None:
    described = {
        name: (kind, tuple(re.findall(r"``(\w+)``", labels or "")), " ".join(text.split()))
        for name, kind, labels, text in re.findall(
            r"^``(cyborg_lite_\w+)``, (\w+)(: .*)?\n((?:   .*\n)+)", PAGE, re.MULTILINE)}

    assert described == {metric.exposed: (metric.kind, metric.labels, metric.help)
                         for metric in metrics.TABLE}


def test_the_page_has_the_ports_of_the_options() -> None:
    ports = {option.dest: option.default for option in config.METRICS_OPTIONS
             if option.dest.endswith("_port")}

    shown = dict(re.findall(r"^cyborg-lite-(\w+) +(\d+) ", PAGE, re.MULTILINE))
    assert {f"{name}_port": int(port) for name, port in shown.items()
            if name != "standalone"} == ports
    assert int(shown["standalone"]) == ports["api_port"]


def test_a_wheel_carries_dashboard_and_rules() -> None:
    text = (TOP / "setup.cfg").read_text()

    assert "    etc/cyborg-lite/grafana = etc/grafana/*\n" in text
    assert "    etc/cyborg-lite/prometheus = etc/prometheus/*\n" in text
