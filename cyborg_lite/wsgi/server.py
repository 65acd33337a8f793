# SPDX-License-Identifier: Apache-2.0
"""A threaded HTTP server for a WSGI application: HTTP/1.1, kept connections, no delay.

Nothing of ours is known here; the application comes as an argument.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from cheroot import wsgi

from cyborg_lite.wsgi import framing

LOG = logging.getLogger(__name__)

BACKLOG = 512
IDLE_TIMEOUT_S = 75
"""A kept connection that is silent so long is closed: longer than clients keep theirs."""

DRAIN_S = 60
"""What is in hand when the server stops may take so long."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket that processes made by fork can share; OSError if it is taken."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                flags=socket.AI_PASSIVE)[0][0]
    return socket.create_server((host, port), family=family, backlog=BACKLOG,
                                dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6())


class Server:
    """Serves one application on one listening socket, in threads of its own.

    refusal: how to answer what is no request, and so never reaches the application.
    """

    def __init__(self, listener: socket.socket, application: Callable[..., Any],
                 threads: int, refusal: framing.Refusal = framing.plain) -> None:
        self._http = _OnListener(
            listener.getsockname()[:2], application, numthreads=threads, max=threads,
            request_queue_size=BACKLOG, timeout=IDLE_TIMEOUT_S, shutdown_timeout=DRAIN_S)
        self._http.listener = listener
        self._http.refusal = refusal
        self._http.server_name = "cyborg-lite"
        self._thread = threading.Thread(target=self._http.serve, name="http", daemon=True)

    def start(self) -> None:
        """Accept connections."""
        self._http.prepare()
        # another worker may have taken the connection that woke this one: never wait for the next
        self._http.socket.setblocking(False)
        self._thread.start()

    def stop(self) -> None:
        """Accept no more, answer what is in hand, and return."""
        self._http.stop()
        self._thread.join(DRAIN_S)


class _OnListener(wsgi.Server):
    listener: socket.socket
    refusal: framing.Refusal
    keep_alive_conn_limit = 4096
    max_request_header_size = framing.MAX_HEAD_SIZE
    ConnectionClass = framing.Connection

    def bind(self, *_: Any) -> socket.socket:
        """Take the socket that was made before the workers were."""
        listener = self.listener
        # inherited by connections on Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = listener
        self.bind_addr = listener.getsockname()[:2]
        return listener

    def process_conn(self, conn: Any) -> None:
        """Let a new connection wait for its first byte with the idle ones, not in a worker.

        Browsers open some beforehand; each would keep a thread until it is timed out.
        """
        if conn.last_used is None:
            self.put_conn(conn)
        else:
            super().process_conn(conn)

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Send cheroot's own messages where ours go."""
        LOG.log(level, "%s", msg, exc_info=traceback)
