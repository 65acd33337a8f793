# SPDX-License-Identifier: Apache-2.0
"""`openstack accelerator device ...`: list, show, disable, enable, clean.

Attributes, which belong to deployables, have a module of their own.
"""

from __future__ import annotations

import argparse

from cyborg_lite.cli import client
from cyborg_lite.cli import columns
from cyborg_lite.cli import commands

PATH = "/devices"
DETAIL = client.SINCE["device_detail"]

COLUMNS = (
    columns.Column("uuid"),
    columns.Column("type"),
    columns.Column("vendor"),
    columns.Column("hostname"),
    columns.Column("std_board_info"),
    columns.Column("status", since=client.SINCE["device_status"]),
    columns.Column("host_state", columns.LONG, DETAIL),
    columns.Column("status_reason", columns.LONG, DETAIL),
    columns.Column("disabled_at", columns.LONG, DETAIL),
    columns.Column("driver_name", columns.LONG, DETAIL),
    columns.Column("pci_address", columns.LONG, DETAIL),
    columns.Column("numa_node", columns.LONG, DETAIL),
    columns.Column("model", columns.LONG),
    columns.Column("vendor_board_info", columns.LONG),
    columns.Column("created_at", columns.LONG),
    columns.Column("updated_at", columns.LONG),
    columns.Column("deployables", columns.ALONE, DETAIL, columns.Deployables),
)


class ListDevices(commands.Lister):
    """List devices: the cards, one by one, of all hosts."""

    example = "--host node7 --type GPU --long"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        commands.add_list_options(parser)
        parser.add_argument("--type", metavar="<type>", help="Of this type, such as GPU or FPGA.")
        parser.add_argument("--vendor", metavar="<vendor>",
                            help="Of this vendor, as the list shows it, such as 10de.")
        parser.add_argument("--host", metavar="<host>", help="On this host.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        found = commands.listed(self.api, parsed_args, PATH, "devices", [
            ("type", parsed_args.type), ("vendor", parsed_args.vendor),
            ("hostname", parsed_args.host)])
        return columns.table(COLUMNS, commands.level(parsed_args), self.api.version, found)


class ShowDevice(commands.ShowOne):
    """Show a device: where it sits, why it is disabled, what its deployables hold."""

    example = "4b1d5d1e-2f1c-4f0e-9b4e-6a0d3c5b7f21 --fit-width"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("device", metavar="<device>", help="UUID of the device.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        return columns.one(COLUMNS, self.api.version,
                           self.api.get(f"{PATH}/{parsed_args.device}"))


class DisableDevice(commands.Command):
    """Disable devices: instances keep what they have, nothing new is placed on them."""

    example = "4b1d5d1e-2f1c-4f0e-9b4e-6a0d3c5b7f21 --reason 'fan replaced on Tuesday'"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("devices", metavar="<device>", nargs="+", help="UUIDs of devices.")
        parser.add_argument("--reason", metavar="<text>",
                            help="Why, for those who find it disabled (2.7).")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        body = None
        if parsed_args.reason is not None:
            self.api.need("device_detail", "--reason")
            body = {"reason": parsed_args.reason}
        commands.each(parsed_args.devices, lambda uuid: self.api.request(
            "POST", f"{PATH}/{uuid}/disable", body=body))


class EnableDevice(commands.Command):
    """Enable devices that are disabled."""

    example = "4b1d5d1e-2f1c-4f0e-9b4e-6a0d3c5b7f21"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("devices", metavar="<device>", nargs="+", help="UUIDs of devices.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        commands.each(parsed_args.devices, lambda uuid: self.api.request(
            "POST", f"{PATH}/{uuid}/enable"))


class CleanDevice(commands.Command):
    """Clean the failed attach handles of devices again, so that they can be handed out (2.7)."""

    example = "4b1d5d1e-2f1c-4f0e-9b4e-6a0d3c5b7f21"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("devices", metavar="<device>", nargs="+", help="UUIDs of devices.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        self.api.need("device_detail", "Cleaning a device")
        commands.each(parsed_args.devices, lambda uuid: self.api.request(
            "POST", f"{PATH}/{uuid}/clean"))
