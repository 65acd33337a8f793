# SPDX-License-Identifier: Apache-2.0
"""`openstack accelerator device profile ...`: list, show, set, unset.

What the options of set and unset mean as a patch is said in `profile_edits.py`.
"""

from __future__ import annotations

import argparse
from urllib import parse

from osc_lib import exceptions

from cyborg_lite.cli import client
from cyborg_lite.cli import columns
from cyborg_lite.cli import commands
from cyborg_lite.cli import profile_edits

PATH = "/device_profiles"

COLUMNS = (
    columns.Column("uuid"),
    columns.Column("name"),
    columns.Column("groups", shape=columns.Groups),
    columns.Column("description"),
    columns.Column("created_at", columns.LONG),
    columns.Column("updated_at", columns.LONG),
    columns.Column("etag", columns.ALONE, client.SINCE["device_profile_update"]),
    columns.Column("usage", columns.ALONE, client.SINCE["device_profile_usage"], columns.Usage),
)


def address(name_or_uuid: str) -> str:
    """Return the path of a device profile."""
    return f"{PATH}/{parse.quote(name_or_uuid, safe='')}"


class ListDeviceProfiles(commands.Lister):
    """List device profiles."""

    example = "--long --sort name"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        commands.add_list_options(parser)
        parser.add_argument("--name", action="append", metavar="<name>",
                            help="Of this name (repeat for several).")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        found = commands.listed(self.api, parsed_args, PATH, "device_profiles", [
            ("name", ",".join(parsed_args.name or ()) or None)])
        return columns.table(COLUMNS, commands.level(parsed_args), self.api.version, found)


class ShowDeviceProfile(commands.ShowOne):
    """Show a device profile."""

    example = "my-fpga --usage"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("device_profile", metavar="<device-profile>",
                            help="Device profile, by name or UUID.")
        parser.add_argument("--usage", action="store_true",
                            help="Show also what the cloud has and uses for each group (2.6).")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        if parsed_args.usage:
            self.api.need("device_profile_usage", "--usage")
        answer = self.api.request("GET", address(parsed_args.device_profile))
        # without its quotation marks, which a shell would take
        shown = {**answer.json()["device_profile"],
                 "etag": answer.headers.get("ETag", "").strip('"') or None}
        chosen = tuple(each for each in COLUMNS if parsed_args.usage or each.name != "usage")
        return columns.one(chosen, self.api.version, shown)


class _Edit(commands.Command):
    """What set and unset have in common."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("device_profile", metavar="<device-profile>",
                            help="Device profile, by name or UUID.")
        parser.add_argument(
            "--test", action="append", default=[], metavar="<path>=<value>",
            type=profile_edits.test,
            help="Change nothing unless this holds, such as /description=old; a value that "
                 "begins with [ or {, or is null, is JSON (repeat for several).")
        parser.add_argument(
            "--if-match", metavar="<etag>",
            help="Change nothing unless the profile is still the one of which "
                 "`device profile show` told this etag.")
        return parser

    def change(self, parsed_args: argparse.Namespace,
               patch: list[profile_edits.Operation]) -> None:
        """Send a patch; CommandError for one that changes nothing."""
        if not profile_edits.changes(patch):
            raise exceptions.CommandError("Nothing to change was given; see the options of "
                                          f"`openstack help {self.cmd_name}`.")
        self.api.need("device_profile_update", "Changing a device profile")
        headers = {} if parsed_args.if_match is None else {
            "If-Match": profile_edits.quoted_tag(parsed_args.if_match)}
        self.api.request("PATCH", address(parsed_args.device_profile), body=patch,
                         headers=headers)


class SetDeviceProfile(_Edit):
    """Change a device profile (2.4).

    Accelerator requests that exist keep what they were created with.
    """

    example = "my-fpga --key 0:resources:FPGA=2 --test /groups/0/resources:FPGA=1"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--name", metavar="<name>", help="New name.")
        parser.add_argument("--description", metavar="<text>", help="New description.")
        parser.add_argument(
            "--group", action="append", default=[], metavar="<key>=<value>[,...]",
            type=profile_edits.group, help="Groups instead of all present ones (repeat for "
            "several), such as resources:FPGA=1,trait:CUSTOM_MY_TRAIT=required.")
        parser.add_argument(
            "--add-group", action="append", default=[], metavar="<key>=<value>[,...]",
            type=profile_edits.group, help="Group after the present ones (repeat for several).")
        parser.add_argument(
            "--key", action="append", default=[], metavar="<group>:<key>=<value>",
            type=profile_edits.group_entry, help="Value of one key in the group of that number; "
            "the first is 0 (repeat for several).")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        self.change(parsed_args, profile_edits.set_patch(
            tests=parsed_args.test, name=parsed_args.name, description=parsed_args.description,
            groups=parsed_args.group, added=parsed_args.add_group, entries=parsed_args.key))


class UnsetDeviceProfile(_Edit):
    """Remove the description, groups or keys of groups from a device profile (2.4)."""

    example = "my-fpga --description --key 0:trait:CUSTOM_MY_TRAIT"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--description", action="store_true", help="Remove the description.")
        parser.add_argument(
            "--group", action="append", default=[], metavar="<group>",
            type=profile_edits.position,
            help="Remove the group of that number; the first is 0 (repeat for several).")
        parser.add_argument(
            "--key", action="append", default=[], metavar="<group>:<key>",
            type=profile_edits.group_key,
            help="Remove one key from the group of that number (repeat for several).")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        self.change(parsed_args, profile_edits.unset_patch(
            tests=parsed_args.test, description=parsed_args.description,
            groups=parsed_args.group, entries=parsed_args.key))
