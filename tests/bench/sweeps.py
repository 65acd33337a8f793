# SPDX-License-Identifier: Apache-2.0
"""Sweeps for orphans one after the other, while something else is measured.

Knows the public API of microversion 2.10; a target without it can't be swept.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.bench import boots
from tests.bench import wire

VERSION = {"OpenStack-API-Version": "accelerator 2.10"}
LOOK_EVERY_S = 0.1


class Sweeper:
    """Sweeps from its start until its end. Use as a context manager.

    took_ms: how long each whole sweep took. counts: those of the last one.
    """

    def __init__(self, site: boots.Site) -> None:
        self._connection = wire.Connection(site.target.url, {**site.identity.headers, **VERSION})
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.took_ms: list[float] = []
        self.counts: dict[str, int] = {}
        self.error: str | None = None

    def __enter__(self) -> Sweeper:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                began = time.perf_counter()
                self.counts = self._sweep()
                self.took_ms.append((time.perf_counter() - began) * 1000)
        except (boots.BootFailed, wire.WireError) as error:
            self.error = str(error)

    def _sweep(self) -> dict[str, int]:
        begun = self._expect(self._connection.request(
            "POST", "/orphans/sweep", {"dry_run": True}), 202)
        while True:
            found = self._expect(self._connection.request("GET", "/orphans/sweep"), 200)["sweep"]
            if found["state"] != "running":
                if found["state"] != "done":
                    raise boots.BootFailed(f"sweep {begun['sweep']['id']} {found['state']}")
                counts: dict[str, int] = found["counts"]
                return counts
            time.sleep(LOOK_EVERY_S)

    @staticmethod
    def _expect(answer: wire.Answer, status: int) -> Any:
        if answer.status != status:
            raise boots.BootFailed(
                f"a sweep answered {answer.status} instead of {status}: {answer.body[:300]!r}")
        return answer.json()
