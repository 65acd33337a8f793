# SPDX-License-Identifier: Apache-2.0
"""Where a request begins and ends on its connection, and the refusal of one that cannot be read.

Stricter than cheroot: what a proxy before us may read differently is refused, so that no part of
a body is ever taken for a request. What the application makes of a request is not known here.
"""

from __future__ import annotations

import contextlib
import http
import re
from collections.abc import Callable
from typing import Any

from cheroot import server

MAX_HEAD_SIZE = 128 * 1024
"""Bytes of request line and headers; the largest query, a thousand uuids, is 46 KiB."""

Refusal = Callable[[int, str], tuple[list[tuple[str, str]], bytes]]
"""Makes headers and body of the answer to what is no request: status, reason -> both."""

_CRLF = b"\r\n"
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_TEXT = re.compile(rb"[\x00\r\n]")
_ONCE = (b"Content-Length", b"Host", b"Transfer-Encoding")
_ANSWERED_AS = {413: (431, ""), 501: (400, "Transfer-Encoding can be chunked alone."),
                505: (400, "HTTP/1.1 is spoken here.")}
"""cheroot's words that mean something else to a client: 413 is the body, 5xx our own fault."""


def plain(status: int, reason: str) -> tuple[list[tuple[str, str]], bytes]:
    """Refuse in one line of text."""
    return [("Content-Type", "text/plain; charset=utf-8")], f"{reason}\n".encode()


class HeaderReader(server.HeaderReader):
    """Reads each header once and whole; those that come again are joined, as RFC 9110 has it."""

    def __call__(self, rfile: Any, hdict: dict[bytes, bytes] | None = None) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {} if hdict is None else hdict
        while (line := rfile.readline()) != _CRLF:
            name, _, value = line.partition(b":")
            if (not line.endswith(_CRLF) or not _NAME.fullmatch(name)
                    or _NO_TEXT.search(value[:-2])):
                raise ValueError("A header is no name, colon and value on a line of its own.")
            name, value = name.title(), value.strip()
            if b"_" in name:
                continue  # to the application it would be the header with a hyphen
            if name in found:
                if name in _ONCE:
                    raise ValueError(f"Header {name.decode()} is given twice.")
                value = found[name] + b", " + value
            found[name] = value
        return found


class Request(server.HTTPRequest):
    """One request of a connection."""

    header_reader = HeaderReader()

    def read_request_headers(self) -> bool:
        """Refuse a body whose end is not clear; say so once there is an answer to write."""
        if not super().read_request_headers():  # type: ignore[no-untyped-call]
            return False
        length = self.inheaders.get(b"Content-Length")
        coding = self.inheaders.get(b"Transfer-Encoding")
        if length is not None and (coding is not None or not length.isdigit()):
            self.simple_response("400 Bad Request", "Content-Length is no plain number, or "
                                                    "stands beside Transfer-Encoding.")
            return False
        if coding is not None:
            # what the application leaves unread of it would be the next request
            self.close_connection = True
        return True

    def simple_response(self, status: str, msg: str = "") -> None:
        """Answer what cheroot refuses by itself, in the application's form, and say goodbye."""
        code = int(status[:3])
        code, reason = _ANSWERED_AS.get(code, (code, ""))
        phrase = http.HTTPStatus(code).phrase
        headers, body = self.server.refusal(code, reason or msg or phrase)
        lines = [f"{self.server.protocol} {code} {phrase}",
                 *(f"{name}: {value}" for name, value in headers
                   if name.lower() != "content-length"),
                 f"Content-Length: {len(body)}", "Connection: close"]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.close_connection = True
        with contextlib.suppress(OSError):  # nobody may be waiting for it any more
            self.conn.wfile.write(head if self._asks_for_head() else head + body)

    def _asks_for_head(self) -> bool:
        return getattr(self, "method", b"") == b"HEAD"


class Connection(server.HTTPConnection):
    """A connection of such requests."""

    RequestHandlerClass = Request
