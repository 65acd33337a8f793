# SPDX-License-Identifier: Apache-2.0
"""Requests to the accelerator API: the microversion both speak, pages, errors in one line.

What is asked for, and how an answer is shown, is said by the commands.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from urllib import parse

from osc_lib import exceptions

NEWEST = 10
"""The newest microversion, 2.NEWEST, that these commands understand."""

SINCE: Mapping[str, int] = {
    "arq_project_id": 1,
    "device_profile_by_name": 2,
    "device_status": 3,
    "device_profile_update": 4,
    "queries": 5,
    "device_profile_usage": 6,
    "device_detail": 7,
    "partitioning": 8,
    "instance_operations": 9,
    "services_and_orphans": 10,
}
"""The microversion 2.N that brought what these commands make use of."""

OPTION = "--os-accelerator-api-version"

Params = Sequence[tuple[str, str]]

_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")


def looks_like_id(text: str) -> bool:
    """Say whether a text is a uuid, with or without its dashes: no name needs finding then."""
    return _UUID.fullmatch(text) is not None


class Client:
    """The API as one run of a command uses it. connection: of openstacksdk."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @functools.cached_property
    def _adapter(self) -> Any:
        return self.connection.accelerator

    # --- the microversion ----------------------------------------------------------------------

    @functools.cached_property
    def _served(self) -> int:
        """The newest that the service speaks; 0 for one that doesn't say."""
        data = self._adapter.get_endpoint_data()
        newest = data.max_microversion if data is not None else None
        return int(newest[1]) if newest else 0

    @functools.cached_property
    def version(self) -> int:
        """The N of microversion 2.N: the one that the user chose, else the newest of both."""
        chosen = self._adapter.default_microversion
        if chosen:
            return min(int(str(chosen).partition(".")[2] or 0), self._served)
        return min(NEWEST, self._served)

    def supports(self, slug: str) -> bool:
        """Say whether requests get what the microversion of that slug brought."""
        return self.version >= SINCE[slug]

    def need(self, slug: str, what: str) -> None:
        """Raise CommandError, which says what to do, unless `slug` is supported."""
        if not self.supports(slug):
            raise exceptions.CommandError(
                needed(what, SINCE[slug], self.version, self._served))

    # --- requests ------------------------------------------------------------------------------

    def request(self, method: str, path: str, *, params: Params = (), body: Any = None,
                headers: Mapping[str, str] | None = None) -> Any:
        """Return the answer; CommandError, in one line, for a refusal. path: below /v2."""
        more: dict[str, Any] = {} if body is None else {"json": body}
        answer = self._adapter.request(
            path, method, params=list(params), headers=dict(headers or {}),
            microversion=f"2.{self.version}", raise_exc=False, **more)
        if answer.status_code >= 400:
            raise Refused(answer.status_code, refusal(answer))
        return answer

    def get(self, path: str, params: Params = ()) -> Any:
        """Return the JSON of a GET."""
        return self.request("GET", path, params=params).json()

    def entries(self, path: str, name: str, params: Params = (),
                at_most: int | None = None) -> list[dict[str, Any]]:
        """Return the entries of a list, of as many pages as that takes. name: in the answer."""
        found: list[dict[str, Any]] = []
        following: Params | None = params
        while following is not None and (at_most is None or len(found) < at_most):
            answer = self.get(path, following)
            found += answer[name]
            following = next_page(answer.get(f"{name}_links"))
        return found[:at_most]

    # --- names ---------------------------------------------------------------------------------

    def server_id(self, name_or_id: str) -> str:
        """Return the uuid of an instance; Nova is asked for a name alone."""
        if looks_like_id(name_or_id):
            return name_or_id
        return str(self.connection.compute.find_server(name_or_id, ignore_missing=False).id)

    def project_id(self, name_or_id: str) -> str:
        """Return the id of a project; Keystone is asked for a name alone."""
        if looks_like_id(name_or_id):
            return name_or_id
        return str(self.connection.identity.find_project(name_or_id, ignore_missing=False).id)

    def image_id(self, name_or_id: str) -> str:
        """Return the uuid of an image; Glance is asked for a name alone."""
        if looks_like_id(name_or_id):
            return name_or_id
        return str(self.connection.image.find_image(name_or_id, ignore_missing=False).id)

    def deployable(self, name_or_uuid: str) -> dict[str, Any]:
        """Return a deployable; CommandError for a name that none has, or several have."""
        if looks_like_id(name_or_uuid):
            return dict(self.get(f"/deployables/{name_or_uuid}"))
        found = self.entries("/deployables", "deployables", [
            ("filters.field", "name"), ("filters.value", name_or_uuid)])
        if len(found) != 1:
            raise exceptions.CommandError(
                f"{len(found) or 'No'} deployables have the name {name_or_uuid!r}; give the uuid "
                "of one, which `openstack accelerator deployable list` shows.")
        return found[0]


class Refused(exceptions.CommandError):
    """The service refused a request."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{text} (HTTP {status})")
        self.status = status
        self.text = text

    @property
    def passes(self) -> bool:
        """Say whether a service, or a proxy before it, can't answer for a while."""
        return self.status in (502, 503, 504)


# --- pure -------------------------------------------------------------------------------------


def needed(what: str, since: int, spoken: int, served: int) -> str:
    """Say that `what` needs a microversion that is not spoken, and what to do."""
    text = f"{what}: microversion 2.{since} of the accelerator API is needed"
    if served < since:
        return (f"{text}; this service speaks up to 2.{served}. Upgrade the service, or do "
                "without.")
    return f"{text}; {OPTION} asks for 2.{spoken}. Give it 2.{since} or later, or leave it out."


def next_page(links: Iterable[Mapping[str, str]] | None) -> Params | None:
    """Return the parameters of the link to the next page.

    Its address is left alone: it may be one by which this client cannot reach the service.
    """
    for link in links or ():
        if link.get("rel") == "next":
            return parse.parse_qsl(parse.urlsplit(link["href"]).query, keep_blank_values=True)
    return None


def refusal(answer: Any) -> str:
    """Return what an answer with an error says, in one line."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    return " ".join((_detail(body) or answer.reason or "no reason is given").split())


def _detail(body: Any) -> str | None:
    """Return the text of an error's body, in the form of ours, of Cyborg's or of keystone's."""
    if not isinstance(body, dict):
        return None
    listed = body.get("errors")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict):
        return str(listed[0].get("detail") or listed[0].get("title"))
    for key, text in (("error_message", "faultstring"), ("error", "message")):
        inner = body.get(key)
        if isinstance(inner, dict) and inner.get(text):
            return str(inner[text])
        if isinstance(inner, str):
            return inner
    return None
