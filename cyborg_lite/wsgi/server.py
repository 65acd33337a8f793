# SPDX-License-Identifier: Apache-2.0
"""A threaded HTTP server for a WSGI application: HTTP/1.1, kept connections, no delay.

Nothing of ours is known here; the application comes as an argument.
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
import threading
import time
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

KEPT = 4096
"""Connections that wait for a request at a time; where there are more, answers close theirs."""

AGAIN_AFTER_S = 60.0
"""Once in so long the log says that there are too many connections."""

FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
FULL_PAUSE_S = 0.1


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
        self._http.keep_alive_conn_limit = min(KEPT, _files_for_connections() // 2)
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


def _files_for_connections() -> int:
    """Return the number of a file from which on none is a connection's: some are for the rest."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most - most // 8 if most != resource.RLIM_INFINITY else 2 ** 31


class _Door:
    """A listening socket that lets in no more than the process can hold, and never fails for it.

    cheroot would try again at once, each time with a trace in the log, and close nothing meanwhile.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._said_at: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def accept(self) -> tuple[socket.socket, Any]:
        """Return a connection and where it is from; BlockingIOError where there is none to take."""
        try:
            connection, peer = self._listener.accept()
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._say(error.strerror or str(error))
            time.sleep(FULL_PAUSE_S)  # it still waits, and would wake us at once
            raise BlockingIOError(errno.EAGAIN, error.strerror) from error
        if connection.fileno() < _files_for_connections():
            return connection, peer
        connection.close()
        self._say("the last files are for other uses")
        raise BlockingIOError(errno.EAGAIN, "no file to spare")

    def _say(self, why: str) -> None:
        now = time.monotonic()
        if self._said_at is None or now - self._said_at >= AGAIN_AFTER_S:
            self._said_at = now
            LOG.error("connections are refused or wait: there are as many as this process may open "
                      "files (%s). Raise its limit (LimitNOFILE in systemd), or look who opens so "
                      "many.", why)


class _OnListener(wsgi.Server):
    listener: socket.socket
    refusal: framing.Refusal
    max_request_header_size = framing.MAX_HEAD_SIZE
    ConnectionClass = framing.Connection

    def bind(self, *_: Any) -> _Door:
        """Take the socket that was made before the workers were."""
        listener = self.listener
        # inherited by connections on Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        door = self.socket = _Door(listener)
        self.bind_addr = listener.getsockname()[:2]
        return door

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
