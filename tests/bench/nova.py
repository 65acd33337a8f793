# SPDX-License-Identifier: Apache-2.0
"""What takes Nova's place: a recorder of external events, our own or one that runs already.

Serves the version documents and the events address, nothing more of Nova.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from typing import Protocol

from tests.bench import serving
from tests.bench import wire


class Events(Protocol):
    """Says when Nova had been told of a server's accelerators."""

    def wait(self, instance_uuid: str, count: int, timeout_s: float) -> float | None:
        """Return the moment (time.time()) of the count-th event, None when it did not come."""

    def forget(self, instance_uuid: str) -> None:
        """Drop what is known of a server."""


class Recorder:
    """A tiny Nova: records events in memory. Use as a context manager."""

    def __init__(self, address: str) -> None:
        self._seen: dict[str, list[float]] = {}
        self._waiting: dict[str, tuple[int, threading.Event]] = {}
        self._lock = threading.Lock()
        self.requests = 0
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
        bare = path.rstrip("/")
        if method == "GET" and bare in ("", "/v2.1"):
            document = {"id": "v2.1", "status": "CURRENT", "version": "2.96",
                        "min_version": "2.1", "updated": "2013-07-23T11:33:21Z",
                        "links": [{"rel": "self", "href": f"http://{self.address}/v2.1/"}]}
            return 200, {"version": document} if bare else {"versions": [document]}
        return 404, {"itemNotFound": {"code": 404, "message": "not here"}}

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
