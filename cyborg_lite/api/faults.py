# SPDX-License-Identifier: Apache-2.0
"""Every error as JSON of one shape, and the outermost layer, which lets no other out.

No decisions about what is an error: those are raised elsewhere.
"""

from __future__ import annotations

import http
import json
import logging
import time
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from oslo_context import context as oslo_context

from cyborg_lite import auth
from cyborg_lite import errors
from cyborg_lite.api import microversions
from cyborg_lite.api import request_lines

LOG = logging.getLogger(__name__)

Headers = list[tuple[str, str]]
StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

VERSION = "cyborg_lite.version"
"""Key in the WSGI environment: the minor version, or the error that its header is."""

_OURS = "cyborg_lite.fault"
"""Key in the WSGI environment: the detail of an error that is worded already."""

_FOREIGN: dict[int, tuple[type[errors.Error], str]] = {
    401: (errors.Unauthorized, "The request needs a valid token in X-Auth-Token."),
    413: (errors.TooLarge,
          "The body is larger than [oslo_middleware] max_request_body_size allows."),
    503: (errors.Unavailable, "A service that is needed for this does not answer; try again."),
}
"""Errors that come from middleware of others: which of ours they are."""


def internal() -> errors.Error:
    """Return what the client learns of an error that nobody expected."""
    return errors.Error("An unexpected error; the service's log has the details under the "
                        "request id.")


def version_of(environ: dict[str, Any]) -> int:
    """Return the microversion of the request; VersionNotAcceptable."""
    version = environ[VERSION]
    if isinstance(version, errors.Error):
        raise version
    return int(version)


def refused(code: int, reason: str) -> tuple[Headers, bytes]:
    """Return headers and body of the answer to what an HTTP server can't read as a request."""
    environ: dict[str, Any] = {}
    error = _by_status(code)(f"The request can't be read: {reason}")
    error.status = code
    body = _body(error, environ)
    return _completed(_headers(error, body), environ, microversions.MINIMUM), body


class Fault:
    """An error as a WSGI application."""

    def __init__(self, error: errors.Error) -> None:
        self._error = error

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ[_OURS] = self._error.detail
        body = _body(self._error, environ)
        start_response(_status_line(self._error.status), _headers(self._error, body))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


class Outermost:
    """Wraps the whole stack: version headers on every reply, every error as JSON, a log line."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        began = time.perf_counter()
        # a thread serves many: whoever came before is forgotten
        with auth.call_context({}):
            body, status, headers = self._answered(environ)
            request_lines.write(environ, int(status[:3]), environ.get(_OURS),
                                time.perf_counter() - began)
        start_response(status, headers)
        return body

    def _answered(self, environ: dict[str, Any]) -> tuple[list[bytes], str, Headers]:
        minor = _negotiate(environ)
        started: list[Any] = []

        def start(status: str, headers: Headers, exc_info: Any = None) -> Callable[..., None]:
            started[:] = [status, headers]
            return lambda chunk: None

        try:
            _check_path(environ)
            body = _collect(self._app(environ, start))
            status, headers = started
        except errors.Error as error:
            body = list(Fault(error)(environ, start))
        except Exception:
            LOG.exception("%s %s failed", environ["REQUEST_METHOD"], environ.get("PATH_INFO"))
            body = list(Fault(internal())(environ, start))
        status, headers = started
        code = int(status[:3])
        if code >= 400 and _OURS not in environ:
            body, headers = self._translated(code, environ, headers)
        return body, status, _completed(headers, environ, minor)

    def _translated(self, code: int, environ: dict[str, Any],
                    headers: Headers) -> tuple[list[bytes], Headers]:
        """Return body and headers of an error that somebody else worded."""
        kind, detail = _FOREIGN.get(code, (_by_status(code), ""))
        error = kind(detail)
        error.status = code
        environ[_OURS] = error.detail
        body = _body(error, environ)
        own = _headers(error, body)
        names = {name.lower() for name, _ in own}
        kept = [(name, value) for name, value in headers if name.lower() not in names]
        return ([] if environ["REQUEST_METHOD"] == "HEAD" else [body]), kept + own


def _negotiate(environ: dict[str, Any]) -> int:
    """Put the version into the environment, once for all layers; returns the one to name."""
    try:
        minor = microversions.negotiate(environ.get("HTTP_OPENSTACK_API_VERSION"))
    except errors.VersionNotAcceptable as error:
        environ[VERSION] = error
        return microversions.MINIMUM
    environ[VERSION] = minor
    return minor


def _check_path(environ: dict[str, Any]) -> None:
    """Refuse an address that no layer below could read."""
    try:
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8")
    except UnicodeError as error:
        raise errors.Invalid("The path of the address is not UTF-8.") from error
    if not path.isprintable():
        raise errors.Invalid("The path of the address has a control character.")


def _collect(chunks: Iterable[bytes]) -> list[bytes]:
    try:
        return list(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close:
            close()


def _completed(headers: Headers, environ: dict[str, Any], minor: int) -> Headers:
    names = {name.lower() for name, _ in headers}
    vary = [value for name, value in headers if name.lower() == "vary"]
    kept = [(name, value) for name, value in headers if name.lower() != "vary"]
    kept += microversions.headers(minor)
    if "cache-control" not in names:
        # whose answer it is, says a header that caches do not look at
        kept.append(("Cache-Control", "no-store"))
    kept.append(("Vary", ", ".join([*vary, microversions.HEADER])))
    if "x-openstack-request-id" not in names:
        kept.append(("x-openstack-request-id", _request_id(environ)))
    return kept


def _request_id(environ: dict[str, Any]) -> str:
    if request_lines.REQUEST_ID not in environ:
        environ[request_lines.REQUEST_ID] = oslo_context.generate_request_id()
    return str(environ[request_lines.REQUEST_ID])


def _headers(error: errors.Error, body: bytes) -> Headers:
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if isinstance(error, errors.Unavailable):
        headers.append(("Retry-After", str(error.retry_after_s)))
    if isinstance(error, errors.MethodNotAllowed):
        headers.append(("Allow", ", ".join(error.allowed)))
    return headers


def _body(error: errors.Error, environ: dict[str, Any]) -> bytes:
    side = "Client" if error.status < 500 else "Server"
    return json.dumps({
        "error_message": {"faultcode": side, "faultstring": error.detail, "debuginfo": None},
        "errors": [{
            "request_id": _request_id(environ), "code": f"accelerator.{error.slug}",
            "status": error.status, "title": error.title, "detail": error.detail, "links": []}],
    }).encode()


def _status_line(code: int) -> str:
    return f"{code} {http.HTTPStatus(code).phrase}"


def _by_status(code: int) -> type[errors.Error]:
    """Return the plainest error of that status."""
    own = (kind for kind in errors.BY_SLUG.values() if kind.status == code)
    return next(own, errors.Invalid if code < 500 else errors.Error)
