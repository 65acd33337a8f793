# SPDX-License-Identifier: Apache-2.0
"""A service that does nothing: it answers a boot's requests at once and tells Nova at once.

What a boot costs against it is the generator's own cost. It checks nothing and stores nothing
but what its own answers need.
"""

from __future__ import annotations

import json
import sys
import threading
import uuid
from typing import Any
from urllib import parse

from tests.bench import serving
from tests.bench import wire

HOSTNAME = "null-host"
PROVIDER = "6e756c6c-0000-4000-8000-000000000001"
HANDLES = 1024


class NullService:
    """Canned answers of the accelerator API; bound ARQs are known until they are deleted."""

    def __init__(self, address: str, nova_url: str) -> None:
        self._nova_url = nova_url
        self._local = threading.local()
        self._bound: dict[str, list[dict[str, Any]]] = {}
        self._server = serving.Server(address, self.answer)
        self.address = self._server.address

    def start(self) -> None:
        """Answer from now on."""
        self._server.start()

    def stop(self) -> None:
        """Accept no more connections."""
        self._server.stop()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Answer one request."""
        parts = parse.urlsplit(path)
        query = parse.parse_qs(parts.query)
        noun = parts.path.rpartition("/")[2]
        if noun == "deployables":
            return 200, {"deployables": [{"rp_uuid": PROVIDER, "name": f"{HOSTNAME}_null",
                                          "num_accelerators": HANDLES, "created_at": None}]}
        if noun in ("devices", "device_profiles"):
            return 200, {noun: [{"name": name, "created_at": None}
                                for name in query.get("name", [])]}
        if noun != "accelerator_requests":
            return 404, {}
        instance = query.get("instance", [""])[0]
        if method == "POST":
            wanted = json.loads(body)["device_profile_name"].rpartition("-")[2]
            return 201, {"arqs": [_arq(str(uuid.uuid4()), "Initial")
                                  for _ in range(int(wanted))]}
        if method == "PATCH":
            self._bind(json.loads(body))
            return 202, None
        if method == "DELETE":
            self._bound.pop(instance, None)
            return 204, None
        return 200, {"arqs": self._bound.get(instance, [])}

    def _bind(self, patches: dict[str, list[dict[str, str]]]) -> None:
        events = []
        for arq, patch in patches.items():
            instance = next(op["value"] for op in patch if op["path"] == "/instance_uuid")
            self._bound.setdefault(instance, []).append(_arq(arq, "Bound"))
            events.append({"name": "accelerator-request-bound", "server_uuid": instance,
                           "tag": arq, "status": "completed"})
        nova = getattr(self._local, "nova", None)
        if nova is None:
            nova = self._local.nova = wire.Connection(self._nova_url)
        nova.request("POST", "/os-server-external-events", {"events": events})


def _arq(arq: str, state: str) -> dict[str, Any]:
    return {"uuid": arq, "state": state, "created_at": None}


def main() -> None:
    """Serve until standard input ends; prints the address first."""
    service = NullService("127.0.0.1:0", sys.argv[1])
    service.start()
    print(service.address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
