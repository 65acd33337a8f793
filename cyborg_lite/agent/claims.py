# SPDX-License-Identifier: Apache-2.0
"""That one agent alone speaks for a host: what it is known by, and what it may do until accepted.

Who has a host, the conductors decide; nothing is discovered or repaired here.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from typing import IO

from cyborg_lite import errors
from cyborg_lite import rpc

LOG = logging.getLogger(__name__)

BOOT_ID = "sys/kernel/random/boot_id"
"""Below proc_root: a uuid that the kernel draws at each boot (random(4))."""


class NameInUse(Exception):
    """Another agent of this machine runs under the same name; the text says what to do."""


def agent_id(proc_root: str, host: str) -> str | None:
    """The same as long as this machine runs, another on any other; None where it has no boot id.

    So an agent that starts again is the same to the conductors, and a copy of its disk is not.
    """
    try:
        with open(os.path.join(proc_root, BOOT_ID), encoding="ascii") as stream:
            boot_id = stream.read().strip()
    except (OSError, ValueError):
        return None
    return hashlib.sha256(f"{boot_id} {host}".encode()).hexdigest() if boot_id else None


def hold_name(state_path: str, host: str) -> IO[str] | None:
    """Hold a host's name on this machine until what is returned is closed. NameInUse.

    None, and a warning, where nothing can be written below `state_path`.
    """
    path = os.path.join(state_path, f"agent-{host}.lock")
    try:
        os.makedirs(state_path, mode=0o750, exist_ok=True)
        stream = open(path, "a", encoding="ascii")  # noqa: SIM115
    except OSError as error:
        LOG.warning("[agent] state_path: %s can't be written (%s): nothing keeps a second agent "
                    "of host %s from starting on this machine", path, error.strerror, host)
        return None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.close()
        raise NameInUse(
            f"[DEFAULT] host = {host}: another agent of this machine runs under that name and "
            f"holds {path}. Stop it, or give this one another name and [agent] state_path."
        ) from error
    return stream


class Claim:
    """Whether conductors take this agent's word for its host. Calls are answered only then.

    serve: begins to answer calls for the host, and returns what ends it.
    """

    def __init__(self, host: str, identity: str | None, conductor: rpc.ConductorClient,
                 serve: Callable[[], Callable[[], None]]) -> None:
        self.identity = identity
        self.was_refused = False
        self._host = host
        self._conductor = conductor
        self._serve = serve
        self._stop_serving: Callable[[], None] | None = None
        self._ended = False
        self._lock = threading.Lock()

    def make(self) -> None:
        """Claim the host unless it is had already. HostTaken, Unavailable."""
        if self._stop_serving is not None:
            return
        try:
            self._conductor.claim_host(self._host, self.identity)
        except errors.HostTaken as error:
            self.refused(error)
            raise
        except errors.TooOld:
            pass  # it believes every agent
        self.granted()

    def granted(self) -> None:
        """A conductor takes what this agent says."""
        with self._lock:
            if self.was_refused:
                LOG.info("host=%s this agent is the one that speaks for it now", self._host)
            self.was_refused = False
            if self._stop_serving is None and not self._ended:
                self._stop_serving = self._serve()

    def refused(self, error: errors.HostTaken) -> None:
        """Another agent has the host: answer no more calls, and say so once."""
        with self._lock:
            if not self.was_refused:
                LOG.error("host=%s is refused to this agent, which does nothing until it is "
                          "accepted: %s", self._host, error.detail)
            self.was_refused = True
            stop, self._stop_serving = self._stop_serving, None
        if stop is not None:
            # a call in hand may take long, and beats must not wait for it
            threading.Thread(target=stop, name="agent-refused", daemon=True).start()

    def check(self) -> None:
        """Raise Unavailable while another agent has the host."""
        if self.was_refused:
            raise errors.Unavailable(f"This agent does not speak for host {self._host}.")

    def end(self) -> None:
        """Answer no more calls, for good; returns when those in hand are done."""
        with self._lock:
            self._ended = True
            stop, self._stop_serving = self._stop_serving, None
        if stop is not None:
            stop()
