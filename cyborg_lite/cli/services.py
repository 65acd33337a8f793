# SPDX-License-Identifier: Apache-2.0
"""`openstack accelerator service ...`: list, set (2.10).

When a service counts as down is the service's to say.
"""

from __future__ import annotations

import argparse

from osc_lib import exceptions

from cyborg_lite.cli import client
from cyborg_lite.cli import columns
from cyborg_lite.cli import commands

PATH = "/services"
AGENT = "cyborg-lite-agent"
SINCE = client.SINCE["services_and_orphans"]

COLUMNS = (
    columns.Column("id", since=SINCE),
    columns.Column("binary", since=SINCE),
    columns.Column("host", since=SINCE),
    columns.Column("status", since=SINCE),
    columns.Column("state", since=SINCE),
    columns.Column("last_seen", since=SINCE),
    columns.Column("disabled_reason", columns.LONG, SINCE),
    columns.Column("version", columns.LONG, SINCE),
    columns.Column("drivers", columns.LONG, SINCE, columns.Names),
)


class ListServices(commands.Lister):
    """List services, agents and conductors: whether they live, and take new binds."""

    example = "--state down --long"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        commands.add_list_options(parser)
        parser.add_argument("--binary", metavar="<binary>",
                            help="This program: cyborg-lite-agent or cyborg-lite-conductor.")
        parser.add_argument("--host", metavar="<host>", help="On this host.")
        parser.add_argument("--state", choices=("up", "down", "gone"), help="In this state.")
        parser.add_argument("--status", choices=("enabled", "disabled"), help="With this status.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        self.api.need("services_and_orphans", "Services")
        found = commands.listed(self.api, parsed_args, PATH, "services", [
            (name, getattr(parsed_args, name)) for name in ("binary", "host", "state", "status")])
        return columns.table(COLUMNS, commands.level(parsed_args), self.api.version, found)


class SetService(commands.Command):
    """Disable an agent, so that nothing new is bound on its host, or enable it.

    Instances keep what they have.
    """

    example = "node7 --disable --disable-reason 'new power supply'"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("service", metavar="<service>",
                            help="Agent, by the name of its host or ID.")
        status = parser.add_mutually_exclusive_group(required=True)
        status.add_argument("--enable", dest="status", action="store_const", const="enabled",
                            help="Let it take new binds.")
        status.add_argument("--disable", dest="status", action="store_const", const="disabled",
                            help="Let it take no new binds.")
        parser.add_argument("--disable-reason", metavar="<text>",
                            help="Why, for those who find it disabled.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        self.api.need("services_and_orphans", "Services")
        body = {"status": parsed_args.status}
        if parsed_args.disable_reason is not None:
            if parsed_args.status == "enabled":
                raise exceptions.CommandError("--disable-reason needs --disable beside it.")
            body["disabled_reason"] = parsed_args.disable_reason
        self.api.request("PUT", f"{PATH}/{_id_of(self.api, parsed_args.service)}", body=body)


def _id_of(api: client.Client, service: str) -> str:
    if client.looks_like_id(service):
        return service
    found = api.entries(PATH, "services", [("binary", AGENT), ("host", service)])
    if not found:
        raise exceptions.CommandError(
            f"No agent speaks for a host {service!r}; `openstack accelerator service list` shows "
            "those that there are.")
    return str(found[0]["id"])
