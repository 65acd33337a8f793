# SPDX-License-Identifier: Apache-2.0
"""Nova's external events, as one call. When to send and when to give up is decided elsewhere.

What is asked of Nova about servers is in `clients/nova_questions.py`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import requests
from oslo_config import cfg

from cyborg_lite import errors
from cyborg_lite.clients import keystone

MICROVERSION = "2.82"
"""The first that knows accelerator-request-bound (the Ussuri release)."""

EVENT = "accelerator-request-bound"
DELIVERED = 200

_HAS_VERSION = re.compile(r"/v2(\.\d+)?(/|$)")


class Refused(errors.Error):
    """Nova finds the whole request wrong: it will not do better when repeated."""

    slug, title = "nova-refused", "Nova refused a request"


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """The news of one ARQ. status: completed or failed."""

    instance_uuid: str
    arq_uuid: str
    status: str


class Nova:
    """Safe to use from several threads."""

    def __init__(self, service: keystone.Service) -> None:
        self._service = service

    def send_bound(self, news: Sequence[Bound], request_id: str | None) -> list[int]:
        """Send it in one request; returns a status for each: 200 taken, 404, 422 or other not.

        404: Nova knows no such instance. 422: it has no host yet, or is deleted.
        Raises keystone.Away when nothing was taken, Refused when the request is wrong.
        """
        path = path_below(self._service, "/os-server-external-events")
        response = self._service.request("POST", path, MICROVERSION, request_id=request_id, body={
            "events": [{"name": EVENT, "server_uuid": entry.instance_uuid, "tag": entry.arq_uuid,
                        "status": entry.status} for entry in news]})
        if response.status_code == 207:
            return _codes(news, response)
        if response.status_code == 404:
            # none of the instances is known; then Nova answers so as a whole
            return [404] * len(news)
        if response.status_code >= 300:
            raise Refused(f"Nova answered {response.status_code} to POST {path}: "
                          f"{response.text[:500]}")
        return [DELIVERED] * len(news)


def path_below(service: keystone.Service, path: str) -> str:
    """Return the path as it is below the endpoint, which may lack the version; Away."""
    return path if _HAS_VERSION.search(service.endpoint()) else f"/v2.1{path}"


def _codes(news: Sequence[Bound], response: requests.Response) -> list[int]:
    # the answer has the events in the order of the request; its `status` is another one than ours
    answers: dict[tuple[str, str], list[int]] = {}
    try:
        for answer in response.json()["events"]:
            answers.setdefault((answer["server_uuid"], answer["tag"]), []).append(
                int(answer["code"]))
    except (ValueError, LookupError, TypeError) as error:
        raise keystone.Away("Nova's answer 207 has no codes for the events.") from error
    # an event without a code of its own was not taken
    return [codes.pop(0) if (codes := answers.get((entry.instance_uuid, entry.arq_uuid))) else 500
            for entry in news]


def from_conf(conf: cfg.ConfigOpts) -> Nova:
    """Return the client for `[nova]`; nothing is sent yet. Raises cfg.Error."""
    return Nova(keystone.service_from(conf, "nova", "Nova"))
