# SPDX-License-Identifier: Apache-2.0
"""What is asked of Nova: which servers exist and where, their migrations, the compute services.

An answer that may be less than the whole truth raises keystone.Away; what it means is decided in
`conductor/`.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from cyborg_lite.clients import keystone
from cyborg_lite.clients import nova

MICROVERSION = "2.82"

PAGE = 1000
"""Servers of one answer; Nova's own [api] max_limit may be lower."""

MAX_PAGES = 1000

MAX_FILTER = 2500
"""Characters of one filter as it is sent: lines of requests are often limited to 4096."""

_ADDRESS = re.compile(r"[0-9.]+")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server. host: of its compute service, node: of its hypervisor; None while unplaced."""

    uuid: str
    status: str
    host: str | None
    node: str | None
    task_state: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class ComputeServices:
    """hosts: of every compute service, in lower case. complete: whether every cell answered."""

    hosts: frozenset[str]
    complete: bool


class Questions:
    """Every call may raise keystone.Away. Safe to use from several threads."""

    def __init__(self, service: keystone.Service, request_id: str | None = None) -> None:
        self._service = service
        self._request_id = request_id

    def for_request(self, request_id: str) -> Questions:
        """Return the same client, whose requests carry this request id."""
        return Questions(self._service, request_id)

    def servers_on(self, hosts: Collection[str]) -> dict[str, Server]:
        """Return servers by uuid: at least those on compute nodes of these names, or that are
        called so with a domain.

        One request for as many hosts as go into a filter, and for each thousand of servers.
        A server that is not there may exist nevertheless: its cell may be down.
        """
        found: dict[str, Server] = {}
        for pattern in node_filters(hosts):
            for server in self._list({"node": pattern}):
                found[server.uuid] = server
        return found

    def find_server(self, uuid: str) -> Server | None:
        """Return one server, or None when it is certain that Nova has none of this uuid.

        Nova tells strangers that a server does not exist, and lists none of a cell that is down.
        So it is asked in both ways: one that is hidden from both does not exist.
        """
        status, answer = self._get(f"/servers/{uuid}")
        if status == 200:
            return _server(_part(answer, "server"))
        fault = answer.get("itemNotFound")
        if status != 404 or not isinstance(fault, dict) or uuid not in str(fault.get("message")):
            raise keystone.Away(f"What answers {status} to GET /servers/{uuid} is not Nova.")
        listed = list(self._list({"uuid": uuid, "soft_deleted": "True"}))
        if any(server.uuid != uuid for server in listed):
            raise keystone.Away("Nova does not let our user filter the servers of all projects; "
                                "an administrator may.")
        return listed[0] if listed else None

    def migrations_of(self, server_uuid: str) -> dict[str, str]:
        """Return the statuses of a server's migrations by their uuids; what is old may lack."""
        return self._migrations({"instance_uuid": server_uuid})

    def migrations_on(self, host: str) -> dict[str, str]:
        """Return the statuses of migrations from or to a host by their uuids."""
        return self._migrations({"host": host})

    def compute_services(self) -> ComputeServices:
        """Return which compute services Nova has."""
        _, answer = self._get("/os-services?binary=nova-compute", only=200)
        services = _part(answer, "services")
        return ComputeServices(
            frozenset(str(service["host"]).lower() for service in services),
            # of a cell that is down Nova shows no more than the names
            all(service.get("status") != "UNKNOWN" and "id" in service for service in services))

    def has_compute_node(self, uuid: str) -> bool | None:
        """Whether Nova has a compute node of this uuid, which is that of its resource provider too;
        None when the answer does not say.
        """
        response = self._service.request(
            "GET", nova.path_below(self._service, f"/os-hypervisors/{uuid}"), MICROVERSION,
            request_id=self._request_id)
        try:
            answer = response.json()
        except ValueError:
            return None
        node, fault = (answer.get(part) if isinstance(answer, dict) else None
                       for part in ("hypervisor", "itemNotFound"))
        if response.status_code == 200 and isinstance(node, dict):
            return bool(node.get("id") == uuid)
        if response.status_code == 404 and isinstance(fault, dict) and uuid in str(
                fault.get("message")):
            return False
        return None

    def _list(self, filters: Mapping[str, str]) -> Iterator[Server]:
        marker: str | None = None
        for _ in range(MAX_PAGES):
            query = {"all_tenants": "True", "limit": str(PAGE), **filters}
            if marker:
                query["marker"] = marker
            _, answer = self._get(f"/servers/detail?{urllib.parse.urlencode(query)}", only=200)
            servers = [_server(entry) for entry in _part(answer, "servers")]
            yield from servers
            if not servers or not answer.get("servers_links"):
                return
            marker = servers[-1].uuid
        raise keystone.Away(f"Nova's list of servers does not end after {MAX_PAGES} pages.")

    def _migrations(self, filters: Mapping[str, str]) -> dict[str, str]:
        found: dict[str, str] = {}
        marker: str | None = None
        for _ in range(MAX_PAGES):
            query = {"limit": str(PAGE), **filters, **({"marker": marker} if marker else {})}
            _, answer = self._get(f"/os-migrations?{urllib.parse.urlencode(query)}", only=200)
            entries = _part(answer, "migrations")
            try:
                found |= {entry["uuid"]: str(entry["status"]) for entry in entries}
            except (LookupError, TypeError) as error:
                raise keystone.Away("Nova's migrations have no uuid or status.") from error
            if not entries or not answer.get("migrations_links"):
                return found
            marker = entries[-1]["uuid"]
        raise keystone.Away(f"Nova's list of migrations does not end after {MAX_PAGES} pages.")

    def _get(self, path: str, only: int | None = None) -> tuple[int, dict[str, Any]]:
        response = self._service.request(
            "GET", nova.path_below(self._service, path), MICROVERSION,
            request_id=self._request_id)
        try:
            answer = response.json()
        except ValueError as error:
            raise keystone.Away(f"What answers GET {path} is not Nova: no JSON.") from error
        if not isinstance(answer, dict) or only not in (None, response.status_code):
            raise keystone.Away(f"Nova answered {response.status_code} to GET {path}: "
                                f"{response.text[:200]}")
        return response.status_code, answer


def node_filters(hosts: Collection[str]) -> Iterator[str]:
    """Yield regular expressions for `node`, each as long as may be, that find all these hosts.

    Nova escapes | where its database is MySQL, so a choice is said as parts that may each be
    there or not: it finds more names than those, which does no harm.
    """
    names = sorted({host if _ADDRESS.fullmatch(host) else host.partition(".")[0]
                    for host in hosts})
    while names:
        taken = len(names)
        while len(urllib.parse.quote(_choice(names[:taken]))) > MAX_FILTER and taken > 1:
            taken = taken * 3 // 4
        yield _choice(names[:taken])
        names = names[taken:]


def _choice(names: list[str]) -> str:
    # what the first and the last of the sorted names have in common, all have
    both = list(zip(names[0], names[-1], strict=False))
    same = next((index for index, (one, other) in enumerate(both) if one != other), len(both))
    common = names[0][:same]
    parts = "".join(f"({_literal(name[len(common):])})?" for name in names if name != common)
    return f"^{_literal(common)}{parts}([.].*)?$"


def _literal(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", lambda found: f"[{found[0]}]", text)


def _part(answer: Mapping[str, Any], name: str) -> Any:
    if answer.get(name) is None:
        raise keystone.Away(f"Nova's answer has no {name!r}.")
    return answer[name]


def _server(entry: Mapping[str, Any]) -> Server:
    try:
        status = str(entry["status"])
        if status == "UNKNOWN":
            # its cell is down: nothing else of it is known
            return Server(uuid=entry["id"], status=status, host=None, node=None, task_state=None)
        return Server(uuid=entry["id"], status=status, task_state=entry["OS-EXT-STS:task_state"],
                      host=entry["OS-EXT-SRV-ATTR:host"],
                      node=entry["OS-EXT-SRV-ATTR:hypervisor_hostname"])
    except (LookupError, TypeError) as error:
        raise keystone.Away(
            "Nova does not show our user on which hosts servers are; an administrator sees it."
        ) from error


def from_conf(conf: cfg.ConfigOpts) -> Questions:
    """Return the client for `[nova]`; nothing is sent yet. Raises cfg.Error."""
    return Questions(keystone.service_from(conf, "nova", "Nova"))
