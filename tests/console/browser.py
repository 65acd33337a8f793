# SPDX-License-Identifier: Apache-2.0
"""A real Chromium without a window, and what a person does with it: keys, and looking.

Nothing is waited for by time: each wait is for something that the page shows.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from selenium import webdriver
from selenium.common import exceptions
from selenium.webdriver.chrome import service as chrome_service
from selenium.webdriver.common import keys
from selenium.webdriver.remote import webelement
from selenium.webdriver.support import wait

from tests.fixtures import servers

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
PICTURES = CHECKOUT / ".test-artifacts" / "console"
"""Where screenshots are in CI, or when CYBORG_LITE_PICTURES is set; git ignores it."""

WITHIN_S = 20
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", "--force-color-profile=srgb", "--lang=en-GB",
         "--window-size=1280,900")

Element = webelement.WebElement
Keys = keys.Keys


def _found(*names: str) -> str:
    path = os.environ.get("PATH", "") + ":/usr/bin"
    program = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if program is None:
        servers.missing(names[0])
    assert program is not None
    return program


class Browser:
    """One tab. Elements are looked for by CSS selectors."""

    def __init__(self, profile: pathlib.Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = _found("chromium", "google-chrome")
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = chrome_service.Service(executable_path=_found("chromedriver"),
                                        log_output=str(profile.with_suffix(".log")))
        self.driver = webdriver.Chrome(options=options, service=driver)
        self.driver.set_script_timeout(WITHIN_S)
        # Tab at the end of the page leads out of it, where nobody would come back from
        self.driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
        self._width: int | None = None

    def quit(self) -> None:
        self.driver.quit()

    def open(self, url: str, session: str | None = None) -> None:
        """Show an address of the console, with nothing remembered from before but a session."""
        self.driver.get(url.partition("#")[0].rstrip("/") + "/icon.svg")
        self.script("sessionStorage.clear(); if (arguments[0])"
                    " sessionStorage.setItem('accelerator-console', arguments[0]);", session)
        self.driver.get(url)

    def look(self, url: str) -> str:
        """Load an address as if for the first time; returns what its view says."""
        self.driver.get("about:blank")
        self.driver.get(url)
        self.one("main:not([aria-busy]) h1")
        return self.text()

    # --- looking ------------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Return the first true value; AssertionError with what the page shows instead."""
        def ask(_: object) -> Any:
            with contextlib.suppress(exceptions.StaleElementReferenceException,
                                     exceptions.NoSuchElementException):
                return condition()
            return None
        try:
            return wait.WebDriverWait(self.driver, WITHIN_S, 0.05).until(ask)
        except exceptions.TimeoutException:
            raise AssertionError(f"not seen: {what}; the page shows:\n{self.text()}") from None

    def all(self, selector: str) -> list[Element]:
        found: list[Element] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> Element:
        """The first such element, when it is there."""
        found: Element = self.until(lambda: next(iter(self.all(selector)), None), selector)
        return found

    def attribute(self, selector: str, name: str) -> str:
        """An attribute of the first such element, once it is there; read at one blow."""
        found: str = self.until(lambda: self.script(
            "return document.querySelector(arguments[0])?.getAttribute(arguments[1])",
            selector, name), f"{name} of {selector}")
        return found

    def text(self, selector: str = "body") -> str:
        """What is to be read there; nothing where there is no such element."""
        return " ".join(str(self.script(
            "return document.querySelector(arguments[0])?.innerText ?? ''", selector)).split())

    def sees(self, words: str, selector: str = "body") -> str:
        """Wait until words are to be read there; returns all that is."""
        def found() -> str | None:
            text = self.text(selector)
            return text if words in text else None
        seen: str = self.until(found, f"{words!r} in {selector}")
        return seen

    def hears(self, words: str) -> None:
        """Wait until a screen reader is told so."""
        self.until(lambda: words in str(self.script(
            "return document.getElementById('live').textContent")), f"{words!r} announced")

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def in_page(self, text: str, *arguments: Any) -> Any:
        """The value of an async function's body that may import modules of the page."""
        return self.driver.execute_async_script(
            f"const done = arguments[arguments.length - 1];"
            f"(async (...given) => {{ {text} }})(...arguments).then(done, (e) => done(String(e)));",
            *arguments)

    def has_keyboard(self, selector: str) -> bool:
        """Whether the keyboard is there."""
        return bool(self.script(
            "return document.activeElement.matches(arguments[0])", selector))

    def focused(self) -> Element:
        found: Element = self.driver.switch_to.active_element
        return found

    def complaints(self) -> list[str]:
        """What the browser has against the page since it was asked last; refusals are none."""
        return [entry["message"] for entry in self.driver.get_log("browser")
                if entry["level"] in ("SEVERE", "WARNING")
                and "Failed to load resource: the server responded" not in entry["message"]]

    def picture(self, name: str) -> None:
        """Keep how the whole page looks now: in CI, and for whoever asked for pictures."""
        if not (os.environ.get("CI") or os.environ.get("CYBORG_LITE_PICTURES")):
            return
        PICTURES.mkdir(parents=True, exist_ok=True)
        layout = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})
        with self._as_large_as(layout["cssLayoutViewport"]["clientWidth"],
                               max(int(layout["cssContentSize"]["height"]), 400)):
            shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {})
        (PICTURES / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    @contextlib.contextmanager
    def before_each_page(self, source: str) -> Iterator[None]:
        """Run a script before those of every page that is opened meanwhile."""
        script = self.driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": source})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)

    @contextlib.contextmanager
    def in_a_hurry(self) -> Iterator[None]:
        """With pages whose timers go fifty times as fast; what they wait for does not change."""
        with self.before_each_page("const real = setTimeout;"
                                   "setTimeout = (act, ms) => real(act, ms / 50);"):
            yield

    @contextlib.contextmanager
    def in_the_dark(self) -> Iterator[None]:
        """As somebody sees it who prefers dark pages."""
        def prefer(scheme: str) -> None:
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
                "features": [{"name": "prefers-color-scheme", "value": scheme}]})
        prefer("dark")
        try:
            yield
        finally:
            prefer("light")

    @contextlib.contextmanager
    def narrow(self, width: int = 390) -> Iterator[None]:
        """On a screen as wide as a telephone's."""
        with self._as_large_as(width, 844):
            self._width = width
            yield
            self._width = None

    @contextlib.contextmanager
    def _as_large_as(self, width: int, height: int) -> Iterator[None]:
        def resize(width: int, height: int) -> None:
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
                "width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})
        resize(width, height)
        try:
            yield
        finally:
            if self._width:
                resize(self._width, 844)
            else:
                self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    # --- keys ---------------------------------------------------------------------------------

    def press(self, *pressed: str) -> None:
        """Press keys where the keyboard is."""
        webdriver.ActionChains(self.driver).send_keys(*pressed).perform()

    def tab_to(self, selector: str, at_most: int = 60) -> Element:
        """Press Tab until the element has the keyboard."""
        for _ in range(at_most):
            self.press(Keys.TAB)
            if self.has_keyboard(selector):
                return self.focused()
        raise AssertionError(f"Tab does not lead to {selector}")
