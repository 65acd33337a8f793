# SPDX-License-Identifier: Apache-2.0
"""Services that live or don't, and orphans: what the API asks and gets."""

from __future__ import annotations

from dataclasses import field

from cyborg_lite.messages.arqs import Page
from cyborg_lite.messages.message import message


@message
class Service:
    """A conductor, or the agent of a host. state: up, down or gone. status: enabled or disabled."""

    id: str
    binary: str
    host: str
    state: str
    status: str
    last_seen: str | None = None
    version: str | None = None
    drivers: list[str] = field(default_factory=list)
    disabled_reason: str | None = None


@message
class ServiceQuery:
    """Which services to list; what is None does not restrict."""

    binary: str | None = None
    host: str | None = None
    state: str | None = None
    status: str | None = None
    page: Page | None = None


@message
class Orphan:
    """Something whose owner is gone, and why we think so.

    object: uuid of what it is. reason: one sentence. evidence: what was asked, and the answer.
    action: what cleaning it does. state: seen, confirmed, cleaned, kept or failed.
    """

    id: str
    kind: str
    object: str
    reason: str
    action: str
    state: str
    host: str | None = None
    evidence: dict[str, str] = field(default_factory=dict)
    first_seen: str | None = None
    last_seen: str | None = None


@message
class OrphanQuery:
    """Which orphans to list; what is None does not restrict."""

    kind: str | None = None
    host: str | None = None
    state: str | None = None
    page: Page | None = None


@message
class Sweep:
    """One search for orphans. state: running, done or failed. counts: by what was done.

    fault: why it failed.
    """

    id: str
    state: str
    dry_run: bool
    host: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    fault: str | None = None
