# SPDX-License-Identifier: Apache-2.0
"""What all commands have in common: their client, options for pages, tokens of services.

No noun here.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import TypeVar

from osc_lib import exceptions
from osc_lib.command import command

from cyborg_lite.cli import client
from cyborg_lite.cli import columns

One = tuple[tuple[str, ...], tuple[Any, ...]]
"""Names and values of the fields of one object."""

class _WholeExamples(argparse.HelpFormatter):
    """Leaves paragraphs that are indented as they are, for an example to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            part if part.startswith("  ") else super(_WholeExamples, self)._fill_text(
                part, width, indent) for part in text.split("\n\n"))


class Accelerator:
    """What a command of ours adds to one of osc-lib's.

    example: the arguments of a call that is shown in the help. The docstring is the help's text.
    """

    example = ""
    app: Any
    cmd_name: str | None

    @property
    def api(self) -> client.Client:
        """The service."""
        found: client.Client = self.app.client_manager.cyborg_lite
        return found

    def get_epilog(self) -> str:
        """Return an example, which follows the options in the help, and whose command it is."""
        whose: str = super().get_epilog()  # type: ignore[misc]
        return f"Example:\n\n  openstack {self.cmd_name} {self.example}\n\n{whose}".rstrip()

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return a parser whose help leaves the example on one line."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)  # type: ignore[misc]
        formatter: Any = parser.formatter_class
        help_formatter: Any = type("Help", (_WholeExamples, formatter), {})
        parser.formatter_class = help_formatter
        return parser


class Command(Accelerator, command.Command):
    """A command that writes nothing."""


class Lister(Accelerator, command.Lister):
    """A command that writes rows."""


class ShowOne(Accelerator, command.ShowOne):
    """A command that writes one object's fields."""


# --- several objects --------------------------------------------------------------------------


def each(things: Iterable[str], do: Callable[[str], Any]) -> None:
    """Do something to each; CommandError names those that refused, after all have been tried."""
    failed: list[str] = []
    things = list(things)
    for thing in things:
        try:
            do(thing)
        except client.Refused as error:
            failed.append(str(error))
    if failed:
        count = f"{len(failed)} of {len(things)} failed: " if len(things) > 1 else ""
        raise exceptions.CommandError(count + " ".join(failed))


# --- waiting ----------------------------------------------------------------------------------

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0

T = TypeVar("T")


def add_wait_options(parser: argparse.ArgumentParser, until: str) -> None:
    """Add --wait and --timeout. until: how the help names the end."""
    parser.add_argument("--wait", action="store_true", help=f"Wait until {until}.")
    parser.add_argument("--timeout", type=positive, default=300, metavar="<seconds>",
                        help="Wait no longer (default: 300).")


def wait(look: Callable[[], T | None], timeout_s: float, what: str) -> T:
    """Look again and again until there is something, with growing pauses, and return that.

    A service that is restarted meanwhile is waited for. what: is said when it takes too long.
    """
    until = time.monotonic() + timeout_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            found = look()
        except client.Refused as error:
            if not error.passes or time.monotonic() > until:
                raise
            found = None
        if found is not None:
            return found
        if time.monotonic() > until:
            raise exceptions.CommandError(f"{what} after {timeout_s:g} s; it goes on.")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


# --- lists ------------------------------------------------------------------------------------


def add_list_options(parser: argparse.ArgumentParser) -> None:
    """Add --long, and what says which page of a list is shown."""
    parser.add_argument("--long", action="store_true", help="Show more columns.")
    parser.add_argument(
        "--limit", type=positive, metavar="<number>",
        help="Show at most so many; without it all are shown, page after page (2.5).")
    parser.add_argument("--marker", metavar="<uuid>",
                        help="Begin after this one, the last of the page before (2.5).")
    parser.add_argument(
        "--sort", metavar="<key>[:<direction>][,...]",
        help="Sort in the service by these keys, each asc (the default) or desc (2.5).")


def level(parsed: argparse.Namespace) -> int:
    """Return which columns a list shows."""
    return columns.LONG if parsed.long else columns.SHORT


def positive(text: str) -> int:
    """Return a number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def listed(api: client.Client, parsed: argparse.Namespace, path: str, name: str,
           filters: Iterable[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """Return the entries that options ask for; a filter that is None does not restrict."""
    page = [(key, getattr(parsed, key)) for key in ("limit", "marker", "sort")
            if getattr(parsed, key) is not None]
    if page:
        api.need("queries", " and ".join(f"--{key}" for key, _ in page))
    params = [(key, value) for key, value in filters if value is not None]
    return api.entries(path, name, [*params, *((key, str(value)) for key, value in page)],
                       at_most=parsed.limit)


# --- tokens of services -----------------------------------------------------------------------

SERVICE_TOKEN = "OS_SERVICE_TOKEN"  # noqa: S105 the name of a variable
SERVICE_CLOUD = "OS_SERVICE_CLOUD"


def add_service_options(parser: argparse.ArgumentParser) -> None:
    """Add what gives a service token; the token itself is no option, for others can read those."""
    parser.add_argument(
        "--service-cloud", metavar="<cloud>", default=os.environ.get(SERVICE_CLOUD),
        help="Entry of clouds.yaml with the user of a service, such as nova, whose token the "
             f"request carries beside yours (Env: {SERVICE_CLOUD}). A token that you have "
             f"already is taken from {SERVICE_TOKEN}.")


def with_service_token(api: client.Client, parsed: argparse.Namespace, method: str, path: str,
                       **more: Any) -> Any:
    """Ask for what needs a service token; CommandError says how to give one that is missing."""
    token = os.environ.get(SERVICE_TOKEN)
    if parsed.service_cloud:
        token = _token_of(parsed.service_cloud)
    headers = {"X-Service-Token": token} if token else {}
    try:
        return api.request(method, path, headers=headers, **more)
    except client.Refused as error:
        if error.status == 403 and not token:
            raise exceptions.CommandError(
                f"{error} No service token was sent: name a service user with --service-cloud, "
                f"or set {SERVICE_TOKEN}.") from error
        raise


def _token_of(cloud: str) -> str:
    from openstack import config

    return str(config.OpenStackConfig().get_one(cloud=cloud).get_session().get_token())
