# SPDX-License-Identifier: Apache-2.0
"""The line that the log gets for a request. What is answered is decided elsewhere.

What changed something, or was refused, is INFO; what only read is DEBUG. No bodies, no tokens.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib import parse

from cyborg_lite import auth

LOG = logging.getLogger(__name__)

READS = frozenset({"GET", "HEAD", "OPTIONS"})
LONGEST = 500
"""Characters of an address or of a refusal: a request may name hundreds of servers."""

REQUEST_ID = "openstack.request_id"
GLOBAL_REQUEST_ID = "openstack.global_request_id"
"""Keys that oslo.middleware puts into the WSGI environment."""


def write(environ: dict[str, Any], code: int, refusal: str | None, seconds: float) -> None:
    """Write the line under the request's own id, as long as its caller's context is current.

    code: the answer's status. refusal: why, where it is an error.
    """
    method = environ["REQUEST_METHOD"]
    level = logging.DEBUG if method in READS and code < 400 else logging.INFO
    if not LOG.isEnabledFor(level):
        return
    call = auth.current_call()
    if call["request_id"] != environ.get(REQUEST_ID):
        # nobody was let in: whoever the context is of, it is not of this request
        call = {"request_id": environ.get(REQUEST_ID),
                "global_request_id": environ.get(GLOBAL_REQUEST_ID)}
    with auth.call_context(call):
        LOG.log(level, "%s %s %d %.0f ms from %s%s", _printable(method), _address(environ), code,
                seconds * 1000, environ.get("REMOTE_ADDR") or "-",
                f": {_printable(refusal)}" if refusal else "")


def _address(environ: dict[str, Any]) -> str:
    path = parse.quote(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""),
                       safe="/:@!$&'()*+,;=~", encoding="latin-1", errors="replace")
    query = environ.get("QUERY_STRING")
    return _printable(f"{path}?{query}" if query else path)


def _printable(text: str) -> str:
    """Return it as one line of the log, whatever a client put into it."""
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in short)
