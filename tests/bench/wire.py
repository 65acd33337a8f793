# SPDX-License-Identifier: Apache-2.0
"""A light HTTP/1.1 client on one kept connection; the generator's own cost must stay small.

Knows nothing of accelerators, tokens or cases.
"""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib import parse


class WireError(Exception):
    """The server closed the connection, timed out or answered no HTTP."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of one answer; `headers` is the raw block, for `header()`."""

    status: int
    headers: bytes
    body: bytes

    def json(self) -> Any:
        """Return the decoded body, None for an empty one."""
        return json.loads(self.body) if self.body else None

    def header(self, name: str) -> str | None:
        """Return the value of a header, whatever its case."""
        value = _header(self.headers, name.lower().encode())
        return None if value is None else value.decode("latin-1")


class Connection:
    """One kept connection to one server; not to be shared between threads."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None,
                 timeout_s: float = 120.0) -> None:
        parts = parse.urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is not an http:// address")
        self._address = (parts.hostname, parts.port or 80)
        self._base = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._head = "".join(f"{name}: {value}\r\n" for name, value in {
            "Host": parts.netloc, "Accept": "application/json", **(headers or {})}.items())
        self._socket: socket.socket | None = None
        self._rest = b""

    def request(self, method: str, path: str, body: Any = None) -> Answer:
        """Send one request, its body as JSON, and read the answer; raises WireError."""
        content = b"" if body is None else json.dumps(body).encode()
        kind = "Content-Type: application/json\r\n" if content else ""
        message = (f"{method} {self._base}{path} HTTP/1.1\r\n{self._head}{kind}"
                   f"Content-Length: {len(content)}\r\n\r\n").encode() + content
        was_open = self._socket is not None
        try:
            return self._exchange(method, message)
        except _Closed as error:
            self.close()
            if not was_open:
                raise WireError(f"{method} {path}: connection closed") from error
        # a server may close an idle connection at any moment: once more on a new one
        try:
            return self._exchange(method, message)
        except _Closed as error:
            self.close()
            raise WireError(f"{method} {path}: connection closed twice") from error

    def close(self) -> None:
        """Forget the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._rest = None, b""

    def _exchange(self, method: str, message: bytes) -> Answer:
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, self._timeout_s)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(message)
            return self._read(method)
        except TimeoutError as error:
            self.close()
            raise WireError(f"no answer within {self._timeout_s:g} s") from error
        except (ConnectionResetError, BrokenPipeError) as error:
            raise _Closed from error
        except OSError as error:
            self.close()
            raise WireError(str(error)) from error

    def _read(self, method: str) -> Answer:
        head = self._until(b"\r\n\r\n")
        try:
            status = int(head[9:12])
        except ValueError as error:
            self.close()
            raise WireError(f"not HTTP: {head[:40]!r}") from error
        length = _header(head, b"content-length")
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif length is not None:
            body = self._exactly(int(length))
        elif (_header(head, b"transfer-encoding") or b"").lower() == b"chunked":
            body = self._chunks()
        else:
            body = self._to_the_end()
        if (_header(head, b"connection") or b"").lower() == b"close":
            self.close()
        return Answer(status, head, body)

    def _more(self) -> None:
        if self._socket is None:
            raise _Closed
        data = self._socket.recv(262144)
        if not data:
            raise _Closed
        self._rest += data

    def _until(self, mark: bytes) -> bytes:
        while (end := self._rest.find(mark)) < 0:
            self._more()
        found, self._rest = self._rest[:end], self._rest[end + len(mark):]
        return found

    def _exactly(self, length: int) -> bytes:
        parts, missing = [self._rest[:length]], length - len(self._rest)
        self._rest = self._rest[length:]
        while missing > 0:
            self._more()
            parts.append(self._rest[:missing])
            self._rest, missing = self._rest[missing:], missing - len(self._rest)
        return b"".join(parts)

    def _chunks(self) -> bytes:
        parts = []
        while length := int(self._until(b"\r\n").split(b";")[0], 16):
            parts.append(self._exactly(length))
            self._until(b"\r\n")
        while self._until(b"\r\n"):
            pass
        return b"".join(parts)

    def _to_the_end(self) -> bytes:
        try:
            while True:
                self._more()
        except _Closed:
            body = self._rest
            self.close()
            return body


class _Closed(Exception):
    """The peer closed the connection before it answered."""


def _header(head: bytes, name: bytes) -> bytes | None:
    place = head.lower().find(b"\r\n" + name + b":")
    if place < 0:
        return None
    start = place + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start:end if end >= 0 else None].strip()
