# SPDX-License-Identifier: Apache-2.0
"""The command line: options to targets and limits, results to tables and JSON.

It judges nothing: the exit status says whether the run took place, not how fast anything was.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import sys
import time
from typing import Any

from tests.bench import boots
from tests.bench import figures
from tests.bench import lists
from tests.bench import plan
from tests.bench import reports
from tests.bench import targets
from tests.bench import wire

MAIN_STEPS = (boots.UNTIL_EVENT, lists.ANSWER, reports.AGREED, reports.CALL, "resident_mib")
"""The first of these that a case has is its figure."""


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    limits = plan.Limits()
    options = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure a Cyborg-compatible endpoint; see "
        "tests/bench/README.rst for the settings of a target.")
    options.add_argument("--target", metavar="FILE", help="TOML file of settings")
    options.add_argument("--set", metavar="KEY=VALUE", action="append", default=[],
                         help="a setting of the target, over the file's; JSON for lists")
    options.add_argument("--url", help="the same as --set url=URL")
    options.add_argument("--pair", metavar="FILE", help="a second target, measured alternately")
    options.add_argument("--cases", type=_words(plan.FAMILIES), default=plan.FAMILIES,
                         help="any of " + ",".join(plan.FAMILIES))
    for name, text in (("concurrency", "servers booted at one time"),
                       ("accelerators", "accelerators of a server"),
                       ("beside", "other ARQs that are stored meanwhile"),
                       ("sizes", "rows stored when lists are read"),
                       ("devices", "devices of a reporting host")):
        options.add_argument(f"--{name}", type=_numbers, default=getattr(limits, name),
                             metavar="N,N", help=f"{text} ({_joined(getattr(limits, name))})")
    options.add_argument("--lists", type=_words(plan.LISTS), default=limits.lists,
                         help="any of " + ",".join(plan.LISTS))
    for name, text in (("boots", "boots a round, at concurrency 1; up to 4 times that above"),
                       ("requests", "requests a round of a list"),
                       ("reports", "unchanged reports a round"),
                       ("rounds", "rounds of each case")):
        options.add_argument(f"--{name}", type=_at_least_one, default=getattr(limits, name),
                             help=f"{text}, at most ({getattr(limits, name)})")
    options.add_argument("--budget", dest="budget_s", type=float, default=limits.budget_s,
                         help="seconds a round, after which nothing new is started "
                              f"({limits.budget_s:g})")
    options.add_argument("--json", metavar="FILE", help="write everything there")
    options.add_argument("--beyond-loopback", action="store_true",
                         help="allow addresses of other machines")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    options = parser().parse_args(arguments)
    limits = plan.Limits(**{field.name: getattr(options, field.name)
                            for field in dataclasses.fields(plan.Limits)})
    try:
        chosen = chosen_targets(options)
        report = measure(chosen, limits, options.cases)
    except (targets.BadTarget, wire.WireError, boots.BootFailed, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(text_of(report))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    return 0


def chosen_targets(options: argparse.Namespace) -> list[targets.Target]:
    """Return one target or, with --pair, two."""
    overrides = dict(targets.assignment(text) for text in options.set)
    if options.url:
        overrides["url"] = options.url
    overrides.setdefault("name", "this") if not options.target else None
    if options.target:
        first = targets.from_file(options.target, overrides,
                                  beyond_loopback=options.beyond_loopback)
    else:
        first = targets.from_settings(overrides, beyond_loopback=options.beyond_loopback)
    if not options.pair:
        return [first]
    second = targets.from_file(options.pair, {}, beyond_loopback=options.beyond_loopback)
    if second.name == first.name:
        raise targets.BadTarget(f"both targets are named {first.name}")
    return [first, second]


def measure(chosen: list[targets.Target], limits: plan.Limits,
            families: tuple[str, ...]) -> dict[str, Any]:
    """Run the cases; returns everything there is to tell."""
    began = time.time()
    with contextlib.ExitStack() as stack:
        own = plan.overhead(limits)
        benches = [plan.Bench(target, limits, stack) for target in chosen]
        run = plan.Run(benches, limits, families,
                       lambda text: print(f"[{time.time() - began:6.1f} s] {text}",
                                          file=sys.stderr, flush=True))
        results = run.results()
    names = [target.name for target in chosen]
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(),
                    "load": os.getloadavg()},
        "limits": dataclasses.asdict(limits),
        "targets": names,
        "generator": own,
        "cases": results,
        "ratios": {case: figures.compared(found[names[0]], found[names[1]], main_step(found))
                   for case, found in results.items() if set(names) == set(found)
                   } if len(names) == 2 else {},
        "notes": run.notes,
    }


def main_step(found: dict[str, dict[str, Any]]) -> str:
    """Return the step that stands for a case."""
    steps = next(iter(found.values()))["steps"]
    return next((step for step in MAIN_STEPS if step in steps), "")


def text_of(report: dict[str, Any]) -> str:
    """Lay the report out as tables."""
    meters = list(dict.fromkeys(
        name for found in report["cases"].values() for one in found.values()
        for name in one["meters"]))
    rows, steps = [], []
    for case, found in report["cases"].items():
        step = main_step(found)
        for name, one in found.items():
            main = one["steps"].get(step, {})
            rows.append([f"{case}: {name}", str(one["units"]), *(
                figures.number(main.get(key)) for key in ("median", "p95")),
                figures.number(one["per_second"]), str(len(one["errors"])), *(
                figures.number(one["meters"].get(meter)) for meter in meters)])
            if len(one["steps"]) > 1:
                steps.append([f"{case}: {name}", " ".join(
                    f"{key} {figures.number(value['median'])}/{figures.number(value['p95'])}"
                    for key, value in one["steps"].items() if value["count"])])
    parts = [figures.table(["case (ms; MiB when idle)", "units", "median", "p95", "per s",
                            "errors", *meters], rows),
             "Each step, median/p95 in ms:",
             "\n".join(f"{case}\n    {text}" for case, text in steps)]
    if report["ratios"]:
        first, second = report["targets"]
        parts += [f"{second} / {first} (above 1: {first} needs less):", figures.table(
            ["case", "median", "p95", "per s", "by round"],
            [[case, *(figures.number(one[key]) for key in ("median", "p95", "per_second")),
              " ".join(map(figures.number, one["by_round"]))]
             for case, one in report["ratios"].items()]),
            figures.table(["case", *meters], [
                [case, *(figures.number(one["meters"].get(meter)) for meter in meters)]
                for case, one in report["ratios"].items() if one["meters"]])]
    parts += ["The generator itself, against a service that does nothing:", figures.table(
        ["case", "median", "p95", "per s", "cpu_ms"],
        [[case, *(figures.number(one["steps"][boots.UNTIL_EVENT].get(key))
                  for key in ("median", "p95")), figures.number(one["per_second"]),
          figures.number(one["meters"].get("cpu_ms.generator"))]
         for case, one in report["generator"].items()])]
    parts += [f"{case}: {name}: {text}" for case, found in report["cases"].items()
              for name, one in found.items() for text in one["errors"][:boots.MOST_ERRORS]]
    return "\n\n".join([*parts, *report["notes"]])


def _words(allowed: tuple[str, ...]) -> Any:
    def words(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        for word in chosen:
            if word not in allowed:
                raise argparse.ArgumentTypeError(
                    f"{word!r} is none of {', '.join(allowed)}")
        return chosen
    return words


def _numbers(text: str) -> tuple[int, ...]:
    try:
        chosen = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers like 1,16") from None
    if min(chosen) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} has a negative number")
    return chosen


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def _joined(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


if __name__ == "__main__":
    sys.exit(main())
