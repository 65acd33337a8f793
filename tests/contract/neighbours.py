# SPDX-License-Identifier: Apache-2.0
"""The corners of Nova's and Glance's APIs that an accelerator service and its clients meet.

Neither does any work: events are recorded, servers are those that a test declares, and every
image that is asked for exists.
"""

from __future__ import annotations

import http.server
import re
import threading
from typing import Any

from tests.fixtures import json_handler

MICROVERSION = "2.100"
_SERVER = re.compile(r"^/v2\.1/servers/([^/?]+)$")
_IMAGE = re.compile(r"^/image/v2/images/([^/?]+)$")


class Neighbours:
    """Serves Nova at `compute_url` and Glance at `image_url` until `stop()`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: list[dict[str, Any]] = []
        self._servers: dict[str, str] = {}
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._root = f"http://127.0.0.1:{self._http.server_port}"
        self.compute_url, self.image_url = f"{self._root}/v2.1", f"{self._root}/image"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the server."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def declare_server(self, uuid: str, name: str) -> None:
        """Let there be a server of that name."""
        self._servers[uuid] = name

    def server(self, uuid: str) -> dict[str, Any] | None:
        """Return a server as the API shows it, or None."""
        name = self._servers.get(uuid)
        return name and {"id": uuid, "name": name, "status": "ACTIVE", "links": []}

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return status and body of a GET without a query."""
        named = _SERVER.match(path)
        server = named and self.server(named[1])
        if server:
            return 200, {"server": server}
        if path in ("", "/v2.1"):
            version = {"id": "v2.1", "status": "CURRENT", "version": MICROVERSION,
                       "min_version": "2.1",
                       "links": [{"rel": "self", "href": self.compute_url + "/"}]}
            return 200, {"version": version} if path else {"versions": [version]}
        if path in ("/v2.1/servers", "/v2.1/servers/detail"):
            return 200, {"servers": []}
        if path in ("/image", "/image/v2"):
            return 200, {"versions": [{
                "id": "v2.16", "status": "CURRENT",
                "links": [{"rel": "self", "href": self.image_url + "/v2/"}]}]}
        if _IMAGE.match(path):
            return 200, {"id": path.rpartition("/")[2], "status": "active"}
        return 404, {"itemNotFound": {"code": 404, "message": "not here"}}

    def post(self, path: str, headers: dict[str, str],
             body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and body of a POST; what Nova refuses is refused here."""
        if path != "/v2.1/os-server-external-events":
            return 404, {"itemNotFound": {"code": 404, "message": "not here"}}
        if "x-auth-token" not in headers:
            return 401, {"error": {"code": 401, "message": "no token"}}
        if headers.get("openstack-api-version") != "compute 2.82":
            return 400, {"badRequest": {
                "code": 400, "message": "accelerator-request-bound needs compute 2.82"}}
        self._take(body["events"], headers)
        return 200, {"events": [{**event, "code": 200} for event in body["events"]]}

    def _take(self, events: list[dict[str, Any]], headers: dict[str, str]) -> None:
        with self._changed:
            self._events.extend({**event, "headers": headers} for event in events)
            self._changed.notify_all()

    def events_of(self, instance: str, arqs: set[str], within_s: float = 30) -> dict[str, str]:
        """Wait until each of the ARQs has had an event; returns the last status of each.

        Raises AssertionError, naming what is missing, after `within_s` seconds.
        """
        def found() -> dict[str, str]:
            return {event["tag"]: event["status"] for event in self._events
                    if event["server_uuid"] == instance and event["tag"] in arqs}
        with self._changed:
            complete = self._changed.wait_for(lambda: found().keys() == arqs, within_s)
            assert complete, (f"no accelerator-request-bound event for {arqs - found().keys()} "
                              f"of instance {instance} within {within_s:g} s")
            return found()

    def recorded(self, instance: str) -> list[dict[str, Any]]:
        """Return every event of an instance so far."""
        with self._changed:
            return [event for event in self._events if event["server_uuid"] == instance]


def _handler(api: Neighbours) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(json_handler.JsonHandler):
        def do_GET(self) -> None:
            self.reply(*api.get(self.path.partition("?")[0].rstrip("/")))

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.reply(*api.post(self.path, headers, self.body()))

    return Handler
