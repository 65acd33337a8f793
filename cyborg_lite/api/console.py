# SPDX-License-Identifier: Apache-2.0
"""/console: the page that administrators look at, as files, without a token.

What the page shows it asks of the public API, as any client does; nothing is decided here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from oslo_config import cfg

from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite.api import authentication
from cyborg_lite.api import faults

LOG = logging.getLogger(__name__)

PATH = "/console"
FOLDER = pathlib.Path(__file__).with_name("console_files")
START = "index.html"
SETTINGS = "settings.json"

TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
    ".json": "application/json",
}


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """What one name answers with."""

    kind: str
    body: bytes

    @property
    def tag(self) -> str:
        """The ETag: another body has another."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


def keystone_url(conf: cfg.ConfigOpts) -> str:
    """Return where browsers sign in, up to and with /v3; empty where they can't by password."""
    given = conf.console.keystone_url
    if given is None:
        authentication.register_options(conf)
        given = conf[authentication.GROUP].www_authenticate_uri or ""
    if given and not re.fullmatch(config.KEYSTONE_URL, given):
        LOG.warning("[keystone_authtoken] www_authenticate_uri = %s is no address that a browser "
                    "could use; set [console] keystone_url.", given)
        return ""
    given = given.rstrip("/")
    return given if not given or given.endswith("/v3") else f"{given}/v3"


def content_security_policy(keystone: str) -> str:
    """Return what the page may load and whom it may ask: this service and Keystone."""
    origin = re.match(r"https?://[^/]+", keystone)
    asked = f"'self' {origin[0]}" if origin else "'self'"
    return "; ".join((
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'",
        f"connect-src {asked}", "base-uri 'none'", "form-action 'none'",
        "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'"))


def files(conf: cfg.ConfigOpts) -> dict[str, File]:
    """Return everything that can be asked for below PATH, by name."""
    found = {path.name: File(TYPES[path.suffix], path.read_bytes())
             for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}
    settings = {"keystone_url": keystone_url(conf), "auth_strategy": conf.api.auth_strategy}
    found[SETTINGS] = File(TYPES[".json"], json.dumps(settings).encode())
    found[""] = found[START]
    return found


class Console:
    """Serves PATH and what is below it, passes everything else on."""

    def __init__(self, app: faults.Application, conf: cfg.ConfigOpts) -> None:
        self._app = app
        self._files = files(conf)
        self._headers = [
            ("Cache-Control", "no-cache"),
            ("Content-Security-Policy", content_security_policy(keystone_url(conf))),
            ("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"), ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin")]

    def __call__(self, environ: dict[str, Any],
                 start_response: faults.StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path != PATH and not path.startswith(f"{PATH}/"):
            return self._app(environ, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return self._refuse(errors.MethodNotAllowed(
                f"{PATH} takes GET and HEAD.", allowed=("GET", "HEAD")), environ, start_response)
        if path == PATH:
            # a relative one, so that it is right below any prefix of a proxy
            start_response("302 Found", [*self._headers, ("Location", f"{PATH[1:]}/"),
                                         ("Content-Length", "0")])
            return []
        file = self._files.get(path[len(PATH) + 1:])
        if file is None:
            return self._refuse(errors.NotFound("The console has no such file."), environ,
                                start_response)
        return self._send(file, environ, start_response)

    def _refuse(self, error: errors.Error, environ: dict[str, Any],
                start_response: faults.StartResponse) -> Iterable[bytes]:
        return faults.Fault(error)(environ, lambda status, headers: start_response(
            status, [*self._headers, *headers]))

    def _send(self, file: File, environ: dict[str, Any],
              start_response: faults.StartResponse) -> Iterable[bytes]:
        headers = [*self._headers, ("ETag", file.tag)]
        known = {tag.strip().removeprefix("W/")
                 for tag in environ.get("HTTP_IF_NONE_MATCH", "").split(",")}
        if known & {file.tag, "*"}:
            start_response("304 Not Modified", headers)
            return []
        start_response("200 OK", [*headers, ("Content-Type", file.kind),
                                  ("Content-Length", str(len(file.body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [file.body]


def served(app: faults.Application, conf: cfg.ConfigOpts) -> faults.Application:
    """Put the page before an application, unless [console] enabled is false."""
    return Console(app, conf) if conf.console.enabled else app
