# SPDX-License-Identifier: Apache-2.0
"""What a conductor asks of an agent."""

from __future__ import annotations

from dataclasses import field

from cyborg_lite.messages.message import message
from cyborg_lite.messages.partitions import LayoutWish


@message
class HandleTask:
    """One handle to prepare or to clean, keyed by its uuid: repeating it is harmless."""

    handle_uuid: str
    deployable_name: str
    device_address: str
    driver: str
    type: str
    info: dict[str, str]
    instance_uuid: str | None = None


@message
class HandleResult:
    """What became of one task; error is None when it was done.

    gone: it could not be done because the host has no such function.
    """

    handle_uuid: str
    error: str | None = None
    gone: bool = False


@message
class HostIntent:
    """What should exist on a host.

    prepare: handles that an ARQ holds and that need host work. clean: handles that were given
    back and not cleaned yet. layouts: how devices shall be split, before anything else is done.
    """

    prepare: list[HandleTask] = field(default_factory=list)
    clean: list[HandleTask] = field(default_factory=list)
    layouts: list[LayoutWish] = field(default_factory=list)
