# SPDX-License-Identifier: Apache-2.0
"""What the OpenStack client asks of a plugin: its name, its client, its global options.

No command here; and nothing heavy is imported, for every `openstack` command loads this module.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyborg_lite.cli import client

API_NAME = "cyborg_lite"
"""The client's attribute. Not `accelerator`: that one is taken, by python-openstackclient from
version 10 on and by python-cyborgclient before, and of two only one would be used."""

API_VERSION_OPTION = "os_cyborg_lite_api_version"
"""Asked for and never set: the microversion is that of --os-accelerator-api-version."""

DEFAULT_API_VERSION = "2"
API_VERSIONS = ("2",)


class DeliberateDuplicates(logging.Filter):
    """Keeps quiet the warning about a command that ours is meant to replace.

    The entry points of our commands are in the group `openstack.extension`, which is loaded last,
    so ours are the ones that run. The client says of every replaced command that there are two.
    Were the order the other way round, the warning would be seen.
    """

    OURS = "cyborg_lite.cli."

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is to be seen."""
        modules = record.args.get("modules") if isinstance(record.args, dict) else None
        return not (isinstance(modules, str)
                    and modules.rpartition(", ")[2].startswith(self.OURS))


logging.getLogger("cliff.commandmanager").addFilter(DeliberateDuplicates())


def make_client(instance: Any) -> client.Client:
    """Return what the commands ask the service with."""
    from cyborg_lite.cli import client

    return client.Client(instance.sdk_connection)


def build_option_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add no global option."""
    return parser
