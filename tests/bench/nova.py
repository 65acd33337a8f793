# SPDX-License-Identifier: Apache-2.0
"""What takes Nova's place: a recorder of external events, our own or one that runs already.

Serves the version documents and the events address, nothing more of Nova.
"""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Any
from typing import Protocol
from urllib import parse

from tests.bench import serving
from tests.bench import wire


class Events(Protocol):
    """Says when Nova had been told of a server's accelerators."""

    def wait(self, instance_uuid: str, count: int, timeout_s: float) -> float | None:
        """Return the moment (time.time()) of the count-th event, None when it did not come."""

    def forget(self, instance_uuid: str) -> None:
        """Drop what is known of a server."""


class Recorder:
    """A tiny Nova: records events in memory. Use as a context manager.

    servers: host by uuid, of those that exist, all of them active and at home.
    """

    def __init__(self, address: str) -> None:
        self._seen: dict[str, list[float]] = {}
        self._waiting: dict[str, tuple[int, threading.Event]] = {}
        self._lock = threading.Lock()
        self.requests = 0
        self.servers: dict[str, str] = {}
        self._server = serving.Server(address, self.answer)
        self.address = self._server.address

    def __enter__(self) -> Recorder:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.stop()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Answer one request as Nova would."""
        if method == "POST" and path.endswith("/os-server-external-events"):
            events = json.loads(body)["events"]
            self.record(events)
            return 200, {"events": [{**event, "code": 200} for event in events]}
        if method == "GET" and "/v2.1/" in path:
            found = self._found(*path.partition("?")[::2])
            if found is not None:
                return found
        bare = path.rstrip("/")
        if method == "GET" and bare in ("", "/v2.1"):
            document = {"id": "v2.1", "status": "CURRENT", "version": "2.96",
                        "min_version": "2.1", "updated": "2013-07-23T11:33:21Z",
                        "links": [{"rel": "self", "href": f"http://{self.address}/v2.1/"}]}
            return 200, {"version": document} if bare else {"versions": [document]}
        return 404, {"itemNotFound": {"code": 404, "message": "not here"}}

    def _found(self, path: str, query: str) -> tuple[int, Any] | None:
        """Answer what a sweep asks: servers of hosts, compute services, migrations."""
        asked = dict(parse.parse_qsl(query))
        if (one := re.search(r"/servers/([0-9a-f-]{36})$", path)) is not None:
            # whatever else is asked for is being booted at this moment
            return 200, {"server": {
                "id": one[1], "status": "BUILD", "OS-EXT-STS:task_state": "spawning",
                "OS-EXT-SRV-ATTR:host": None, "OS-EXT-SRV-ATTR:hypervisor_hostname": None}}
        if path.endswith("/servers/detail"):
            named = re.compile(asked.get("node", ""))
            hosts = {host for host in set(self.servers.values()) if named.search(host)}
            found = [{"id": uuid, "status": "ACTIVE", "OS-EXT-STS:task_state": None,
                      "OS-EXT-SRV-ATTR:host": host,
                      "OS-EXT-SRV-ATTR:hypervisor_hostname": host}
                     for uuid, host in self.servers.items() if host in hosts]
            limit, marker = int(asked.get("limit", 1000)), asked.get("marker")
            first = 1 + next((place for place, one in enumerate(found) if one["id"] == marker), -1)
            more = [{"rel": "next", "href": "more"}] if first + limit < len(found) else []
            return 200, {"servers": found[first:first + limit], "servers_links": more}
        if path.endswith("/os-services"):
            return 200, {"services": [
                {"id": host, "host": host, "binary": "nova-compute", "status": "enabled",
                 "state": "up"} for host in sorted(set(self.servers.values()))]}
        if path.endswith("/os-migrations"):
            return 200, {"migrations": []}
        return None

    def record(self, events: list[dict[str, Any]]) -> None:
        """Note the events and wake those who wait for them."""
        moment = time.time()
        with self._lock:
            self.requests += 1
            for event in events:
                instance = str(event.get("server_uuid"))
                seen = self._seen.setdefault(instance, [])
                seen.append(moment)
                wanted = self._waiting.get(instance)
                if wanted and len(seen) >= wanted[0]:
                    wanted[1].set()

    def wait(self, instance_uuid: str, count: int, timeout_s: float) -> float | None:
        """Return when the count-th event came; None after the time-out."""
        with self._lock:
            seen = self._seen.setdefault(instance_uuid, [])
            if len(seen) >= count:
                return seen[count - 1]
            come = threading.Event()
            self._waiting[instance_uuid] = (count, come)
        come.wait(timeout_s)
        with self._lock:
            self._waiting.pop(instance_uuid, None)
            return seen[count - 1] if len(seen) >= count else None

    def forget(self, instance_uuid: str) -> None:
        """Drop what is known of a server, so that memory stays small."""
        with self._lock:
            self._seen.pop(instance_uuid, None)


class RemoteRecorder:
    """A recorder that runs elsewhere: GET <url>?instance=&count=&timeout=.

    It answers 200 and {"events": [{"t": <unix time>, ...}]} once the events are there.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._local = threading.local()

    def wait(self, instance_uuid: str, count: int, timeout_s: float) -> float | None:
        """Return when the count-th event came; None after the time-out."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = wire.Connection(self._url)
        answer = connection.request(
            "GET", f"?instance={instance_uuid}&count={count}&timeout={timeout_s:g}")
        if answer.status != 200:
            return None
        return float(answer.json()["events"][count - 1]["t"])

    def forget(self, instance_uuid: str) -> None:
        """Nothing: the other side keeps what it likes."""
