# SPDX-License-Identifier: Apache-2.0
"""`openstack accelerator arq ...`: create, list, show, bind, unbind, delete.

Whether a bind is possible is the service's to say.
"""

from __future__ import annotations

import argparse
import dataclasses

from osc_lib import exceptions

from cyborg_lite.cli import client
from cyborg_lite.cli import columns
from cyborg_lite.cli import commands

PATH = "/accelerator_requests"
SETS = client.SINCE["instance_operations"]

COLUMNS = (
    columns.Column("uuid"),
    columns.Column("state"),
    columns.Column("device_profile_name"),
    columns.Column("instance_uuid"),
    columns.Column("attach_handle_type"),
    columns.Column("attach_handle_info", shape=columns.Pairs),
    columns.Column("hostname", columns.LONG),
    columns.Column("device_rp_uuid", columns.LONG),
    columns.Column("project_id", columns.LONG),
    columns.Column("created_at", columns.LONG),
    columns.Column("updated_at", columns.LONG),
    columns.Column("active", columns.LONG, SETS),
    columns.Column("migration_uuid", columns.LONG, SETS),
    columns.Column("device_profile_group_id", columns.ALONE),
    columns.Column("attach_handle_uuid", columns.ALONE),
)


OF_SETS = tuple(dataclasses.replace(column, level=columns.SHORT)
                if column.name in ("active", "migration_uuid") else column for column in COLUMNS)
"""The same where both sets of a migration may be beside each other."""


def _shown(api: client.Client, uuid: str) -> commands.One:
    return columns.one(COLUMNS, api.version, api.get(f"{PATH}/{uuid}"))


def bind_patch(hostname: str, instance_uuid: str, device_rp_uuid: str,
               project_id: str | None = None) -> list[dict[str, str]]:
    """Return the operations that bind an ARQ."""
    values = {"hostname": hostname, "instance_uuid": instance_uuid,
              "device_rp_uuid": device_rp_uuid, "project_id": project_id}
    return [{"op": "add", "path": f"/{name}", "value": value}
            for name, value in values.items() if value is not None]


UNBIND_PATCH = [{"op": "remove", "path": path}
                for path in ("/hostname", "/instance_uuid", "/device_rp_uuid")]


class CreateArq(commands.ShowOne):
    """Create accelerator requests: one for each accelerator that a device profile asks for."""

    example = "my-fpga -f value -c uuid"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("device_profile", metavar="<device-profile>",
                            help="Name of the device profile.")
        # python-openstackclient takes both and does nothing with them
        parser.add_argument("--group-id", help=argparse.SUPPRESS)
        parser.add_argument("--image-uuid", help=argparse.SUPPRESS)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        made = self.api.request("POST", PATH, body={
            "device_profile_name": parsed_args.device_profile}).json()["arqs"]
        if len(made) > 1:
            self.log.warning(
                "%d accelerator requests were created; the first is shown, the others are %s",
                len(made), " ".join(arq["uuid"] for arq in made[1:]))
        return columns.one(COLUMNS, self.api.version, made[0])


class ListArqs(commands.Lister):
    """List accelerator requests: yours, or all those of the cloud for an administrator."""

    example = "--host node7 --state Bound --state BindFailed --sort created_at:desc --limit 20"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        commands.add_list_options(parser)
        parser.add_argument("--instance", action="append", metavar="<instance>",
                            help="Those of this instance, by name or ID (repeat for several: 2.5); "
                                 "during a migration both sets (2.9).")
        parser.add_argument("--migration", metavar="<uuid>",
                            help="The inactive set of this migration alone (2.9).")
        parser.add_argument("--state", action="append", metavar="<state>",
                            help="In this state, such as Bound (repeat for several) (2.5).")
        parser.add_argument("--host", metavar="<host>", help="Bound to this host (2.5).")
        parser.add_argument("--project", metavar="<project>",
                            help="Of this project, by name or ID; administrators only (2.5).")
        parser.add_argument("--device-profile", metavar="<name>",
                            help="Created from this device profile (2.5).")
        parser.add_argument("--resource-provider", metavar="<uuid>",
                            help="Bound to this resource provider (2.5).")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        api = self.api
        wanted = {
            "--state": ("state", ",".join(parsed_args.state or ()) or None),
            "--host": ("hostname", parsed_args.host),
            "--project": ("project_id", parsed_args.project),
            "--device-profile": ("device_profile_name", parsed_args.device_profile),
            "--resource-provider": ("device_rp_uuid", parsed_args.resource_provider)}
        given = [option for option, (_, value) in wanted.items() if value is not None]
        if len(parsed_args.instance or ()) > 1:
            given.append("--instance for several")
        if given:
            api.need("queries", " and ".join(given))
        if parsed_args.project:
            wanted["--project"] = ("project_id", api.project_id(parsed_args.project))
        instances = [api.server_id(name) for name in parsed_args.instance or ()]
        sets: list[tuple[str, str | None]] = []
        if parsed_args.migration:
            api.need("instance_operations", "--migration")
            sets = [("migration", parsed_args.migration)]
        elif instances and api.supports("instance_operations"):
            sets = [("sets", "all")]
        found = commands.listed(api, parsed_args, PATH, "arqs", [
            ("instance", ",".join(instances) or None), *sets, *wanted.values()])
        return columns.table(OF_SETS if sets else COLUMNS, commands.level(parsed_args),
                             api.version, found)


class ShowArq(commands.ShowOne):
    """Show an accelerator request."""

    example = "7d0d1d3c-6f5a-4c3f-8f0e-0c2b7c3a9e11"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("arq", metavar="<arq>", help="UUID of the accelerator request.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        return _shown(self.api, parsed_args.arq)


class BindArq(commands.ShowOne):
    """Bind an accelerator request to an instance.

    This is what Nova does; the request needs the token of a service.
    """

    example = "ARQ node7 my-server RESOURCE_PROVIDER --service-cloud nova"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("arq", metavar="<arq>", help="UUID of the accelerator request.")
        parser.add_argument("hostname", metavar="<host>", help="Host of the accelerator.")
        parser.add_argument("server", metavar="<instance>", help="Instance, by name or ID.")
        parser.add_argument("resource_provider", metavar="<resource-provider>",
                            help="UUID of the accelerator's resource provider.")
        parser.add_argument("--project", metavar="<project>",
                            help="Project that owns it from now on, by name or ID; "
                                 "administrators only (2.1).")
        commands.add_service_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        api, project = self.api, None
        if parsed_args.project:
            api.need("arq_project_id", "--project")
            project = api.project_id(parsed_args.project)
        patch = bind_patch(parsed_args.hostname, api.server_id(parsed_args.server),
                           parsed_args.resource_provider, project)
        commands.with_service_token(api, parsed_args, "PATCH", PATH,
                                    body={parsed_args.arq: patch})
        return _shown(api, parsed_args.arq)


class UnbindArq(commands.ShowOne):
    """Take the accelerator of an accelerator request from its instance.

    This is what Nova does; the request needs the token of a service.
    """

    example = "ARQ --service-cloud nova"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("arq", metavar="<arq>", help="UUID of the accelerator request.")
        commands.add_service_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.One:
        commands.with_service_token(self.api, parsed_args, "PATCH", PATH,
                                    body={parsed_args.arq: UNBIND_PATCH})
        return _shown(self.api, parsed_args.arq)


class DeleteArq(commands.Command):
    """Delete accelerator requests.

    For one that is bound, and for those of an instance, the token of a service is needed.
    """

    example = "--instance my-server --service-cloud nova"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("arqs", metavar="<arq>", nargs="*",
                            help="UUIDs of accelerator requests.")
        parser.add_argument("--instance", metavar="<instance>",
                            help="Instead: all those of this instance, by name or ID.")
        parser.add_argument("--migration", metavar="<uuid>",
                            help="Of the instance, the inactive set of this migration alone, which "
                                 "is over then (2.9).")
        commands.add_service_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        if bool(parsed_args.arqs) == bool(parsed_args.instance):
            raise exceptions.CommandError("Give either accelerator requests or --instance.")
        params = ([("arqs", ",".join(parsed_args.arqs))] if parsed_args.arqs else
                  [("instance", self.api.server_id(parsed_args.instance))])
        if parsed_args.migration:
            if parsed_args.arqs:
                raise exceptions.CommandError("--migration needs --instance beside it.")
            self.api.need("instance_operations", "--migration")
            params.append(("migration", parsed_args.migration))
        commands.with_service_token(self.api, parsed_args, "DELETE", PATH, params=params)
