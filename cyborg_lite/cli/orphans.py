# SPDX-License-Identifier: Apache-2.0
"""`openstack accelerator orphan ...`: list, show, clean, sweep (2.10).

What an orphan is, and whether it may be cleaned, is the service's to say.
"""

from __future__ import annotations

import argparse
from typing import Any

from osc_lib import exceptions

from cyborg_lite.cli import client
from cyborg_lite.cli import columns
from cyborg_lite.cli import commands

PATH = "/orphans"
SWEEP = f"{PATH}/sweep"
SINCE = client.SINCE["services_and_orphans"]

COLUMNS = (
    columns.Column("id", since=SINCE),
    columns.Column("kind", since=SINCE),
    columns.Column("object", since=SINCE),
    columns.Column("host", since=SINCE),
    columns.Column("state", since=SINCE),
    columns.Column("reason", since=SINCE),
    columns.Column("action", columns.LONG, SINCE),
    columns.Column("first_seen", columns.LONG, SINCE),
    columns.Column("last_seen", columns.LONG, SINCE),
    columns.Column("evidence", columns.ALONE, SINCE, columns.PairLines),
)

SWEEP_COLUMNS = (
    columns.Column("id", since=SINCE),
    columns.Column("state", since=SINCE),
    columns.Column("dry_run", since=SINCE),
    columns.Column("host", since=SINCE),
    columns.Column("started_at", since=SINCE),
    columns.Column("finished_at", since=SINCE),
    columns.Column("counts", since=SINCE, shape=columns.Pairs),
    columns.Column("fault", since=SINCE),
)


def _read(api: client.Client, orphan: str) -> dict[str, Any]:
    return dict(api.get(f"{PATH}/{orphan}"))


def _need(api: client.Client) -> None:
    api.need("services_and_orphans", "Orphans")


class ListOrphans(commands.Lister):
    """List orphans: accelerators, requests and allocations whose owner is gone."""

    example = "--kind arq_instance_gone --state confirmed --host node7 --limit 20"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        commands.add_list_options(parser)
        parser.add_argument("--kind", metavar="<kind>",
                            help="Of this kind, such as arq_instance_gone or host_gone.")
        parser.add_argument("--host", metavar="<host>", help="On this host.")
        parser.add_argument("--state", metavar="<state>",
                            help="In this state: seen, confirmed, cleaned, kept or failed.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        _need(self.api)
        found = commands.listed(self.api, parsed_args, PATH, "orphans", [
            (name, getattr(parsed_args, name)) for name in ("kind", "host", "state")])
        return columns.table(COLUMNS, commands.level(parsed_args), self.api.version, found)


class ShowOrphan(commands.ShowOne):
    """Show an orphan: why it is one, by which evidence, and what cleaning it does."""

    example = "0d8c5f5e-9b6a-4a53-8a68-5f1f0f0c7a44"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("orphan", metavar="<orphan>", help="ID of the orphan.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        _need(self.api)
        return columns.one(COLUMNS, self.api.version, _read(self.api, parsed_args.orphan))


class CleanOrphan(commands.Command):
    """Clean orphans that are confirmed; `orphan show` tells beforehand what is done."""

    example = "0d8c5f5e-9b6a-4a53-8a68-5f1f0f0c7a44"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("orphans", metavar="<orphan>", nargs="+", help="IDs of orphans.")
        commands.add_wait_options(parser, "they are cleaned, or it is known why they are not")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        _need(self.api)
        commands.each(parsed_args.orphans, lambda orphan: self.api.request(
            "POST", f"{PATH}/{orphan}/clean"))
        if parsed_args.wait:
            commands.each(parsed_args.orphans,
                          lambda orphan: self._wait(orphan, parsed_args.timeout))

    def _wait(self, orphan: str, timeout_s: float) -> None:
        def over() -> dict[str, Any] | None:
            found = _read(self.api, orphan)
            return None if found["state"] == "confirmed" else found

        found = commands.wait(over, timeout_s, f"Orphan {orphan} is not cleaned")
        if found["state"] != "cleaned":
            raise exceptions.CommandError(
                f"Orphan {orphan} was not cleaned, it is {found['state']}: {found['reason']}")


class SweepOrphans(commands.ShowOne):
    """Search for orphans now, on one host or everywhere; `orphan sweep show` tells the outcome."""

    example = "--host node7 --dry-run"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--host", metavar="<host>", help="On this host alone.")
        parser.add_argument("--dry-run", action="store_true",
                            help="Count what is found; record and clean nothing.")
        commands.add_wait_options(parser, "the search is over, and show what came of it")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        _need(self.api)
        body: dict[str, Any] = {"dry_run": parsed_args.dry_run}
        if parsed_args.host is not None:
            body["host"] = parsed_args.host
        began = self.api.request("POST", SWEEP, body=body).json()
        if not parsed_args.wait:
            return _sweep(self.api, began)
        return _sweep(self.api, self._wait(began["sweep"]["id"], parsed_args.timeout))

    def _wait(self, sweep: str, timeout_s: float) -> dict[str, Any]:
        def over() -> dict[str, Any] | None:
            found = dict(self.api.get(SWEEP))
            if found["sweep"]["id"] != sweep:
                raise exceptions.CommandError(
                    f"Another search has begun after {sweep}; only the last one is told of.")
            return None if found["sweep"]["state"] == "running" else found

        found = commands.wait(over, timeout_s, f"The search {sweep} is not over")
        if found["sweep"]["state"] == "failed":
            raise exceptions.CommandError(f"The search {sweep} failed: {found['sweep']['fault']}")
        return found


class ShowSweep(commands.ShowOne):
    """Show the last search for orphans: whether it is over, and what it found and did."""

    example = "-f json"

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        _need(self.api)
        return _sweep(self.api, self.api.get(SWEEP))


def _sweep(api: client.Client, answer: dict[str, Any]) -> commands.One:
    return columns.one(SWEEP_COLUMNS, api.version, answer["sweep"])
