# SPDX-License-Identifier: Apache-2.0
"""Every error that crosses a layer: its HTTP status and its stable slug.

No HTTP objects here, no logging: `api/expose.py` turns these into replies, `rpc.py` carries them.

Error (500)
 |- Invalid (400)            the request itself is wrong
 |   |- AlreadyHasArqs       an instance that has ARQs is bound more; 409 from 2.9 on
 |- Unauthorized (401)
 |- Forbidden (403)
 |   |- ServiceTokenMissing
 |- NotFound (404)
 |- MethodNotAllowed (405)
 |- VersionNotAcceptable (406)
 |- Conflict (409)
 |   |- StateConflict        the object is in a state that does not allow this
 |   |- InUse                something still refers to it
 |   |- Duplicate            name, uuid or key is taken
 |   |- BindFailed           known before the answer: no handle, wrong host, disabled
 |   |- ChangedMeanwhile     somebody else changed it since it was read
 |   |- NotProgrammable
 |   |- HostTaken            another agent speaks for this host
 |- PreconditionFailed (412)  If-Match or a test operation does not hold
 |- TooLarge (413)
 |- NotJson (415)
 |- NotResolved (423)        `bind_state=resolved` while a bind is under way
 |- Unavailable (503)        conductor, database or broker does not answer
     |- DeadlinePassed       the caller was told that it failed; nothing was done
     |- AgentUnavailable     the host's agent does not answer, or could not do it
     |- TooOld               a peer of an earlier release does not know the call
"""

from __future__ import annotations

from collections.abc import Iterable


class Error(Exception):
    """Base of all: `detail` is one or two sentences that an operator can act on."""

    status = 500
    slug = "internal"
    title = "Internal error"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail or self.title


class Invalid(Error):
    status, slug, title = 400, "invalid", "Invalid request"


class AlreadyHasArqs(Invalid):
    """Clients of Cyborg know it as 400; from microversion 2.9 on it is 409, as what it is."""

    slug, title = "already-has-arqs", "The instance has accelerator requests already"


class Unauthorized(Error):
    status, slug, title = 401, "unauthorized", "Authentication required"


class Forbidden(Error):
    status, slug, title = 403, "forbidden", "Forbidden"


class ServiceTokenMissing(Forbidden):
    slug, title = "service-token-missing", "A service token is required"


class NotFound(Error):
    status, slug, title = 404, "not-found", "Not found"


class MethodNotAllowed(Error):
    status, slug, title = 405, "method-not-allowed", "Method not allowed"

    def __init__(self, detail: str = "", allowed: Iterable[str] = ()) -> None:
        super().__init__(detail)
        self.allowed = tuple(sorted(allowed))


class VersionNotAcceptable(Error):
    status, slug, title = 406, "version-not-acceptable", "Version not acceptable"


class Conflict(Error):
    status, slug, title = 409, "conflict", "Conflict"


class StateConflict(Conflict):
    slug, title = "state-conflict", "The state does not allow this"


class InUse(Conflict):
    slug, title = "in-use", "Still in use"


class Duplicate(Conflict):
    slug, title = "duplicate", "It exists already"


class BindFailed(Conflict):
    slug, title = "bind-failed", "The bind failed"


class ChangedMeanwhile(Conflict):
    slug, title = "changed-meanwhile", "It was changed meanwhile"


class NotProgrammable(Conflict):
    slug, title = "not-programmable", "This deployable cannot be programmed"


class HostTaken(Conflict):
    slug, title = "host-taken", "Another agent speaks for this host"


class PreconditionFailed(Error):
    status, slug, title = 412, "precondition-failed", "A precondition does not hold"


class TooLarge(Error):
    status, slug, title = 413, "too-large", "The request body is too large"


class NotJson(Error):
    status, slug, title = 415, "not-json", "The request body must be JSON"


class NotResolved(Error):
    status, slug, title = 423, "not-resolved", "A bind is still under way"


class Unavailable(Error):
    status, slug, title = 503, "unavailable", "The service is not available at the moment"
    retry_after_s = 5


class DeadlinePassed(Unavailable):
    slug, title = "deadline-passed", "The deadline of the call has passed; nothing was done"


class AgentUnavailable(Unavailable):
    slug, title = "agent-unavailable", "The agent of the host does not answer"


class TooOld(Unavailable):
    slug, title = "too-old", "A service has to be upgraded first"


def _tree(root: type[Error]) -> Iterable[type[Error]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


BY_SLUG: dict[str, type[Error]] = {cls.slug: cls for cls in _tree(Error)}


def from_slug(slug: str, detail: str) -> Error:
    """Return the error that a peer named; a slug that we don't know is a plain `Error`."""
    return BY_SLUG.get(slug, Error)(detail)
