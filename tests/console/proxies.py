# SPDX-License-Identifier: Apache-2.0
"""What stands between browser and service, and does what proxies do."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from cyborg_lite.api import faults
from tests.console import browser as browsers


class Proxy:
    """An application between browser and service, which answers by itself while it is told to."""

    def __init__(self, application: faults.Application) -> None:
        self._application = application
        self.answer: tuple[str, bytes] | None = None
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def await_questions(self, browser: browsers.Browser, number: int) -> None:
        """Wait until the page has asked so many more; it asks when it has drawn the answer."""
        wanted = len(self.asked) + number
        browser.until(lambda: len(self.asked) >= wanted, f"{number} more questions")

    def __call__(self, environ: dict[str, Any],
                 start_response: faults.StartResponse) -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith("/v2"):
            return self._application(environ, start_response)
        self.asked.append(environ["PATH_INFO"] + "?" + environ["QUERY_STRING"])
        self.may_answer.wait(browsers.WITHIN_S)
        if self.answer is None:
            return self._application(environ, start_response)
        status, body = self.answer
        start_response(status, [("Content-Type", "text/html"),
                                ("Content-Length", str(len(body)))])
        return [body]
