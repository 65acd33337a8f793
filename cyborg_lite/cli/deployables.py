# SPDX-License-Identifier: Apache-2.0
"""`openstack accelerator deployable ...`: list, show, program.

Attributes have a module of their own.
"""

from __future__ import annotations

import argparse

from cyborg_lite.cli import columns
from cyborg_lite.cli import commands

PATH = "/deployables"

COLUMNS = (
    columns.Column("uuid"),
    columns.Column("name"),
    columns.Column("device_id"),
    columns.Column("num_accelerators", columns.LONG),
    columns.Column("rp_uuid", columns.LONG),
    columns.Column("driver_name", columns.LONG),
    columns.Column("parent_id", columns.LONG),
    columns.Column("root_id", columns.LONG),
    columns.Column("created_at", columns.LONG),
    columns.Column("updated_at", columns.LONG),
    columns.Column("bitstream_id", columns.ALONE),
    columns.Column("attributes_list", columns.ALONE),
)


class ListDeployables(commands.Lister):
    """List deployables: the parts of devices that are offered, each a resource provider."""

    example = "--long --sort name"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        commands.add_list_options(parser)
        parser.add_argument("--name", metavar="<name>", help="Of this name.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        filters = [] if parsed_args.name is None else [
            ("filters.field", "name"), ("filters.value", parsed_args.name)]
        found = commands.listed(self.api, parsed_args, PATH, "deployables", filters)
        return columns.table(COLUMNS, commands.level(parsed_args), self.api.version, found)


class ShowDeployable(commands.ShowOne):
    """Show a deployable."""

    example = "node7_FakeDevice"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("deployable", metavar="<deployable>",
                            help="Deployable, by name or UUID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        return columns.one(COLUMNS, self.api.version, self.api.deployable(parsed_args.deployable))


class ProgramDeployable(commands.ShowOne):
    """Program a deployable, which is an FPGA, with an image."""

    example = "node7_FPGA my-bitstream"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("deployable", metavar="<deployable>",
                            help="Deployable, by name or UUID.")
        parser.add_argument("image", metavar="<image>", help="Image, by name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        uuid = self.api.deployable(parsed_args.deployable)["uuid"]
        patch = [{"op": "replace", "path": "/program",
                  "value": [{"image_uuid": self.api.image_id(parsed_args.image)}]}]
        answer = self.api.request("PATCH", f"{PATH}/{uuid}/program", body=patch)
        return columns.one(COLUMNS, self.api.version, answer.json())
