# SPDX-License-Identifier: Apache-2.0
"""Plays the one corner of Nova's API that takes external events, and remembers them."""

from __future__ import annotations

import http.server
import json
import threading
import time
from typing import Any

EVENTS_PATH = "/v2.1/os-server-external-events"


class Recorder:
    """Listens on a free loopback port. Use as a context."""

    def __init__(self) -> None:
        self._came = threading.Condition()
        self._events: dict[str, tuple[float, dict[str, Any]]] = {}
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(200, {"version": {
                    "id": "v2.1", "status": "CURRENT", "version": "2.96", "min_version": "2.1",
                    "links": [{"rel": "self", "href": recorder.url}]}})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path != EVENTS_PATH:
                    self._answer(404, {"itemNotFound": {"message": self.path}})
                    return
                events = [{**event, "code": 200} for event in body["events"]]
                recorder._take(events)
                self._answer(200, {"events": events})

            def _answer(self, status: int, document: dict[str, Any]) -> None:
                text = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Stay silent."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """What `[nova] endpoint` is to be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v2.1"

    def __enter__(self) -> Recorder:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, arq_uuid: str, within_s: float) -> tuple[float, dict[str, Any]]:
        """Return when (`time.monotonic`) and what came for the ARQ; TimeoutError."""
        with self._came:
            if not self._came.wait_for(lambda: arq_uuid in self._events, within_s):
                raise TimeoutError(f"no event for ARQ {arq_uuid} within {within_s:g} s")
            return self._events[arq_uuid]

    def _take(self, events: list[dict[str, Any]]) -> None:
        with self._came:
            for event in events:
                self._events.setdefault(event["tag"], (time.monotonic(), event))
            self._came.notify_all()
