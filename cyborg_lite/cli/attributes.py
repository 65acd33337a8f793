# SPDX-License-Identifier: Apache-2.0
"""`openstack accelerator device attribute ...`: list, create, set, unset.

What a trait attribute does in Placement is the service's.
"""

from __future__ import annotations

import argparse
from typing import Any

from osc_lib import exceptions

from cyborg_lite.cli import client
from cyborg_lite.cli import columns
from cyborg_lite.cli import commands

PATH = "/attributes"

COLUMNS = (
    columns.Column("uuid"),
    columns.Column("deployable_id"),
    columns.Column("key"),
    columns.Column("value"),
    columns.Column("created_at", columns.LONG),
    columns.Column("updated_at", columns.LONG),
)


def number_of(api: client.Client, deployable: str) -> str:
    """Return the number by which attributes know a deployable, given so, by name or uuid.

    The service shows it as the root of a deployable that is below no other.
    """
    if deployable.isdecimal():
        return deployable
    found = api.deployable(deployable)
    if found["parent_id"] is not None or found["root_id"] is None:
        raise exceptions.CommandError(
            f"The number of deployable {deployable} is not known, for it is below another; find "
            "it as deployable_id in `openstack accelerator device attribute list`.")
    return str(found["root_id"])


def of_deployable(api: client.Client, number: str) -> dict[str, dict[str, Any]]:
    """Return the attributes of a deployable, by key."""
    return {each["key"]: each for each in api.entries(
        PATH, "attributes", [("deployable_id", number)])}


def key_and_value(text: str) -> tuple[str, str]:
    """Return both sides of `key=value`."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not <key>=<value>")
    return key, value


def _add_deployable(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("deployable", metavar="<deployable>",
                        help="Deployable, by name, UUID or number.")


class ListAttributes(commands.Lister):
    """List attributes of deployables."""

    example = "--deployable node7_FakeDevice"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        commands.add_list_options(parser)
        parser.add_argument("--deployable", metavar="<deployable>",
                            help="Of this deployable, by name, UUID or number.")
        parser.add_argument("--key", metavar="<key>", help="With this key.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        number = parsed_args.deployable and number_of(self.api, parsed_args.deployable)
        found = commands.listed(self.api, parsed_args, PATH, "attributes", [
            ("deployable_id", number), ("key", parsed_args.key)])
        return columns.table(COLUMNS, commands.level(parsed_args), self.api.version, found)


class CreateAttribute(commands.ShowOne):
    """Add an attribute to a deployable; a key that begins with trait becomes a trait."""

    example = "node7_FakeDevice trait_rack CUSTOM_RACK_12"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_deployable(parser)
        parser.add_argument("key", metavar="<key>", help="Key, unique in its deployable.")
        parser.add_argument("value", metavar="<value>", help="Value.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        number = number_of(self.api, parsed_args.deployable)
        made = create(self.api, number, parsed_args.key, parsed_args.value)
        return columns.one(COLUMNS, self.api.version, made)


def create(api: client.Client, number: str, key: str, value: str) -> dict[str, Any]:
    """Create an attribute and return it."""
    return dict(api.request("POST", PATH, body={
        "deployable_id": int(number), "key": key, "value": value}).json())


class SetAttribute(commands.Command):
    """Set attributes of a deployable: those that are there get the value, others are added.

    Those that its agent reports, such as trait0, stay as they are.
    """

    example = "node7_FakeDevice room=north trait_rack=CUSTOM_RACK_12"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_deployable(parser)
        parser.add_argument("attributes", metavar="<key>=<value>", nargs="+", type=key_and_value,
                            help="Attributes.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        number = number_of(self.api, parsed_args.deployable)
        present = of_deployable(self.api, number)
        for key, value in parsed_args.attributes:
            set_one(self.api, number, present.get(key), key, value)


def set_one(api: client.Client, number: str, present: dict[str, Any] | None, key: str,
            value: str) -> None:
    """Give a key its value. The service changes none in place, so the old one is deleted first.

    When the new one is refused the old one is put back.
    """
    if present is not None:
        if present["value"] == value:
            return
        api.request("DELETE", f"{PATH}/{present['uuid']}")
    try:
        create(api, number, key, value)
    except client.Refused as error:
        if present is not None:
            _put_back(api, number, present, error)
        raise


def _put_back(api: client.Client, number: str, present: dict[str, Any],
              reason: client.Refused) -> None:
    try:
        create(api, number, present["key"], present["value"])
    except client.Refused as error:
        raise exceptions.CommandError(
            f"{reason} The old value of {present['key']}, {present['value']!r}, is deleted and "
            f"could not be put back: {error}") from error


class UnsetAttribute(commands.Command):
    """Remove attributes from a deployable; those that an agent reports stay."""

    example = "node7_FakeDevice room trait_rack"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_deployable(parser)
        parser.add_argument("keys", metavar="<key>", nargs="+", help="Keys.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        present = of_deployable(self.api, number_of(self.api, parsed_args.deployable))
        missing = [key for key in parsed_args.keys if key not in present]
        if missing:
            raise exceptions.CommandError(
                f"Deployable {parsed_args.deployable} has no attribute {', '.join(missing)}; "
                f"it has {', '.join(sorted(present)) or 'none'}.")
        commands.each(parsed_args.keys, lambda key: self.api.request(
            "DELETE", f"{PATH}/{present[key]['uuid']}"))
