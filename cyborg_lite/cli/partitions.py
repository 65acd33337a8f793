# SPDX-License-Identifier: Apache-2.0
"""`openstack accelerator device partition ...`: list, show, plan, set (2.8).

Which layouts a device accepts, and what a split costs, is the service's to say; how it is drawn,
`partition_pictures.py`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from osc_lib import exceptions

from cyborg_lite.cli import client
from cyborg_lite.cli import columns
from cyborg_lite.cli import commands
from cyborg_lite.cli import partition_pictures as pictures

SINCE = client.SINCE["partitioning"]

COLUMNS = (
    columns.Column("scheme", since=SINCE),
    columns.Column("state", since=SINCE),
    columns.Column("fault", since=SINCE),
    columns.Column("current", since=SINCE),
    columns.Column("desired", since=SINCE, shape=pictures.Layout),
    columns.Column("profiles", since=SINCE, shape=pictures.Profiles),
    columns.Column("layouts", since=SINCE, shape=pictures.Choice),
)
"""How a device is split and can be split."""

PLAN_COLUMNS = (
    columns.Column("layout", since=SINCE, shape=pictures.PlannedLayout),
    columns.Column("kept", since=SINCE),
    columns.Column("steps", since=SINCE, shape=pictures.Steps),
)
"""What setting a layout does. A picture of how it is then is added where places are known."""

LAYOUT_COLUMNS = (
    columns.Column("id"),
    columns.Column("partitions", shape=pictures.Layout),
    columns.Column("slices_used"),
    columns.Column("memory_used_mib"),
    columns.Column("maximal"),
    columns.Column("is_now"),
)
"""A layout; `is_now` is current, desired or empty."""

BESIDE = 15
"""Characters of a table beside the picture: names of fields, and lines."""

_COUNTED = re.compile(r"(?P<profile>[^=,]+)(?:=(?P<count>[0-9]{1,4}))?(?:,(?P<type>[^=,]+))?")


def _path(device: str) -> str:
    return f"/devices/{device}/partitioning"


def read(api: client.Client, device: str, *, every: bool = False) -> dict[str, Any]:
    """Return how a device is split."""
    api.need("partitioning", "Partitions of a device")
    return dict(api.get(_path(device), [("all", "true")] if every else []))


def paper(parsed: argparse.Namespace) -> pictures.Paper:
    """Return what a table of this command is written on: the user's terminal, as a rule."""
    wide = parsed.max_width or (
        shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    return pictures.Paper(None if wide is None else wide - BESIDE, sys.stdout.encoding or "ascii")


def shown(api: client.Client, found: Mapping[str, Any], paper: pictures.Paper) -> commands.One:
    """Return names and values, with a picture of what exists."""
    names, values = columns.one(COLUMNS, api.version, found)
    places = pictures.Places(found["current"], pictures.units_of(found["profiles"]), paper=paper)
    return names, tuple(places if name == "current" else value
                        for name, value in zip(names, values, strict=True))


def partition(text: str) -> dict[str, Any]:
    """Return what `3g.20gb`, `1g.5gb=2` or `1g.5gb=2,A100-1-5C` says."""
    found = _COUNTED.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not <profile>[=<count>][,<vgpu-type>], such as 1g.5gb=2")
    said: dict[str, Any] = {"profile": found["profile"], "count": int(found["count"] or 1)}
    return said | ({"vgpu_type": found["type"]} if found["type"] else {})


class ListPartitions(commands.Lister):
    """List the layouts that a device accepts: the maximal ones, to which nothing can be added."""

    example = "4b1d5d1e-2f1c-4f0e-9b4e-6a0d3c5b7f21 --all"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("device", metavar="<device>", help="UUID of the device.")
        parser.add_argument("--all", action="store_true",
                            help="Every valid layout, also those that leave room.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        found = read(self.api, parsed_args.device, every=parsed_args.all)
        wanted, there = pictures.counted(found["desired"]), pictures.counted(found["current"])
        entries = []
        for each in found["layouts"]:
            parts = pictures.counted(each["partitions"])
            marks = {"current": parts == there, "desired": parts == wanted != there and wanted}
            entries.append({**each, "is_now": next(
                (name for name, holds in marks.items() if holds), "")})
        return columns.table(LAYOUT_COLUMNS, columns.SHORT, self.api.version, entries)


class ShowPartitions(commands.ShowOne):
    """Show how a device is split, in a picture of its memory, and how it can be."""

    example = "4b1d5d1e-2f1c-4f0e-9b4e-6a0d3c5b7f21"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("device", metavar="<device>", help="UUID of the device.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        return shown(self.api, read(self.api, parsed_args.device), paper(parsed_args))


class _Splits(commands.ShowOne):
    """What plan and set have in common: a layout that is asked for."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("device", metavar="<device>", help="UUID of the device.")
        wanted = parser.add_mutually_exclusive_group(required=True)
        wanted.add_argument("--layout", metavar="<id>",
                            help="A layout that `device partition list --all` shows; empty for no "
                                 "partition at all.")
        wanted.add_argument(
            "--partition", action="append", type=partition,
            metavar="<profile>[=<count>][,<vgpu-type>]",
            help="So many partitions of a profile, offered as a vGPU type (repeat for several).")
        return parser

    def _ask(self, parsed: argparse.Namespace, *, dry_run: bool) -> dict[str, Any]:
        body = ({"layout": parsed.layout} if parsed.layout is not None
                else {"partitions": parsed.partition})
        return dict(self.api.request(
            "PUT", _path(parsed.device), body=body,
            params=[("dry_run", "true")] if dry_run else []).json())

    def _planned(self, before: Mapping[str, Any], plan: Mapping[str, Any],
                 parsed: argparse.Namespace) -> commands.One:
        names, values = columns.one(PLAN_COLUMNS, self.api.version, plan)
        units = pictures.units_of(before["profiles"])
        if not units or any(step["placement"] is None for step in plan["steps"]):
            return names, values
        boxes = pictures.boxes_of(before["current"])
        after = pictures.boxes_after(boxes, plan)
        width = pictures.width_of([*boxes, *after])
        letters = pictures.letters_for([*sorted(boxes), *after])
        return ((*names, "before", "after"),
                (*values, pictures.Places(before["current"], units, width, paper(parsed), letters),
                 pictures.After(after, units, width, paper(parsed), letters)))


class PlanPartitions(_Splits):
    """Show what setting a layout would do to a device: which partitions go, come and stay where.

    Nothing is changed.
    """

    example = "4b1d5d1e-2f1c-4f0e-9b4e-6a0d3c5b7f21 --partition 3g.20gb --partition 1g.5gb=4"

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        before = read(self.api, parsed_args.device)
        return self._planned(before, self._ask(parsed_args, dry_run=True), parsed_args)


class SetPartitions(_Splits):
    """Split a device into partitions; none of those that exist may be in use.

    The plan is shown; with --wait, how the device is split at the end.
    """

    example = "4b1d5d1e-2f1c-4f0e-9b4e-6a0d3c5b7f21 --layout 9-14-19x2 --wait"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        commands.add_wait_options(parser, "the device is split so, or has failed to be")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        before = read(self.api, parsed_args.device)
        plan = self._ask(parsed_args, dry_run=False)
        if not parsed_args.wait:
            return self._planned(before, plan, parsed_args)
        wish = pictures.counted(plan["layout"]["partitions"])
        return shown(self.api, self._wait(parsed_args.device, wish, parsed_args.timeout),
                     paper(parsed_args))

    def _wait(self, device: str, wish: Mapping[str, int], timeout_s: float) -> dict[str, Any]:
        def over() -> dict[str, Any] | None:
            found = read(self.api, device)
            if pictures.counted(found["desired"]) != wish:
                raise exceptions.CommandError(
                    f"Device {device}: somebody has set another layout meanwhile, "
                    f"{pictures.layout(found['desired'])}.")
            if found["state"] == "failed":
                raise exceptions.CommandError(
                    f"Device {device} could not be split: {found['fault']}")
            return found if found["state"] == "applied" else None

        return commands.wait(over, timeout_s, f"Device {device} is not split")
