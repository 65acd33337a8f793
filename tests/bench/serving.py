# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 server with kept connections, for our own stand-ins.

It reads by hand, since the standard library's handler costs more than all the rest of a request.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any

Answerer = Callable[[str, str, bytes], tuple[int, Any]]
"""Takes method, path and body; returns the status and what to send as JSON (None: nothing)."""


class Server:
    """Answers on an address (host:port, port 0 for any free one) from threads."""

    def __init__(self, address: str, answer: Answerer) -> None:
        host, _, port = address.rpartition(":")
        self._server = _Threads((host, int(port)), _Handler)
        self._server.answer = answer
        self.address = "{}:{}".format(*self._server.server_address[:2])
        self._thread = threading.Thread(target=self._server.serve_forever,
                                        kwargs={"poll_interval": 0.05}, daemon=True)

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Accept no more; connections that are open end with their clients."""
        self._server.shutdown()
        self._server.server_close()


class _Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    answer: Answerer


class _Handler(socketserver.BaseRequestHandler):
    server: _Threads

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b""
        while True:
            while (end := data.find(b"\r\n\r\n")) < 0:
                if not (more := self._more()):
                    return
                data += more
            head, data = data[:end], data[end + 4:]
            length = _length(head)
            while len(data) < length:
                if not (more := self._more()):
                    return
                data += more
            body, data = data[:length], data[length:]
            method, path = head.decode("latin-1").split(" ", 2)[:2]
            status, content = self.server.answer(method, path, body)
            self.request.sendall(_http(status, content))

    def _more(self) -> bytes:
        try:
            return self.request.recv(65536)
        except OSError:
            return b""


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _http(status: int, body: Any) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    length = "" if status == 204 else f"Content-Length: {len(content)}\r\n"
    return (f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n{length}"
            "\r\n").encode() + content
