# SPDX-License-Identifier: Apache-2.0
"""Limit, marker and order of every list, and the link to the next page.

Which keys a list can be sorted by is known where it is read; nothing is sorted here.
"""

from __future__ import annotations

from typing import Any
from urllib import parse

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.api import expose
from cyborg_lite.api import parameters

PARAMETERS = {
    "limit": parameters.Limit(), "marker": parameters.Uuid(),
    "sort_key": parameters.Repeated(parameters.Text()),
    "sort_dir": parameters.Repeated(parameters.OneOf("asc", "desc")),
    "sort": parameters.Several(parameters.Text()),
}


def page_from(call: expose.Call, given: dict[str, Any], max_limit: int) -> messages.Page | None:
    """Return the page that a request asks for; None, which is all, before there were pages.

    It is one entry longer than the client gets: whether there is a next page is then known.
    """
    if not call.supports("queries"):
        return None
    limit = min(given.get("limit") or max_limit, max_limit)
    return messages.Page(limit=limit + 1, marker=given.get("marker"), sort=_sort(given))


def _sort(given: dict[str, Any]) -> list[list[str]]:
    keys, directions = given.get("sort_key") or [], given.get("sort_dir") or []
    together = given.get("sort") or []
    if together and (keys or directions):
        raise errors.Invalid("Give either sort, or sort_key with sort_dir.")
    if together:
        return [list(_pair(entry)) for entry in together]
    if not keys and len(directions) == 1:
        keys = ["created_at"]
    if len(directions) > len(keys):
        raise errors.Invalid(f"sort_dir is given {len(directions)} times and sort_key "
                             f"{len(keys)} times; each direction needs its key.")
    return [[key, direction] for key, direction in zip(
        keys, [*directions, *["asc"] * len(keys)], strict=False)]


def _pair(entry: str) -> tuple[str, str]:
    key, colon, direction = entry.partition(":")
    return key, direction if colon else "asc"


def reply(call: expose.Call, name: str, entries: list[dict[str, Any]],
          page: messages.Page | None) -> dict[str, Any]:
    """Return a list as `{name: [...]}`, with `<name>_links` where lists have pages."""
    if page is None or page.limit is None:
        return {name: entries}
    shown = entries[:page.limit - 1]
    links = []
    if len(entries) > len(shown):
        links = [_next(call, shown[-1].get("uuid") or shown[-1]["id"])]
    return {name: shown, f"{name}_links": links}


def _next(call: expose.Call, marker: str) -> dict[str, str]:
    kept = [(name, value) for name, values in parameters.query(call.query).items()
            for value in values if name != "marker"]
    path = call.route.partition(" ")[2].lstrip("/")
    return call.link(f"{path}?{parse.urlencode([*kept, ('marker', marker)])}", "next")
