# SPDX-License-Identifier: Apache-2.0
"""Every view for everybody: names, roles, contrast, narrow screens, the keyboard's way in."""

from __future__ import annotations

import pytest

from tests.console import browser as browsers
from tests.console import conftest
from tests.console import scene

Keys = browsers.Keys

FAULTS = """
const seen = (node) => node.checkVisibility({ visibilityProperty: true });
const named = (node) => node.getAttribute('aria-label') || node.labels?.length
  || document.getElementById(node.getAttribute('aria-labelledby') ?? '') || node.textContent.trim();
const faults = [];
const say = (what, node) => faults.push(`${what}: ${node.outerHTML.slice(0, 120)}`);
const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);
if (!document.documentElement.lang) faults.push('no language');
if (all('main').length !== 1) faults.push('not one main');
if (all('h1').length !== 1) faults.push('not one h1');
for (const node of all('input, select, button, a, summary')) if (!named(node)) say('no name', node);
for (const node of all('section, [role=region], [role=group], nav, [role=search], form[role]'))
  if (!named(node)) say('no name', node);
for (const node of all('a')) if (!node.hasAttribute('href')) say('no link', node);
for (const node of all('svg')) if (node.getAttribute('role') === 'img'
  ? !node.getAttribute('aria-label') : !node.closest('[aria-hidden]')) say('no text', node);
for (const node of all('img')) if (!node.hasAttribute('alt')) say('no text', node);
for (const node of all('table')) {
  if (!node.caption) say('no caption', node);
  if ([...node.querySelectorAll('th')].some((th) => !th.scope)) say('no scope', node);
}
for (const node of all('fieldset')) if (node.firstElementChild?.tagName !== 'LEGEND')
  say('no legend', node);
for (const node of document.querySelectorAll('[tabindex]')) if (node.tabIndex > 0)
  say('own order', node);
const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
if (new Set(ids).size !== ids.length) faults.push('an id twice');
for (const name of ['for', 'aria-labelledby', 'aria-describedby'])
  for (const node of document.querySelectorAll(`[${name}]`))
    if (!document.getElementById(node.getAttribute(name))) say(`${name} leads nowhere`, node);
const landmarks = all('section, nav, [role=search]').map((node) => `${node.tagName} ${
  node.getAttribute('aria-label') ?? document.getElementById(
    node.getAttribute('aria-labelledby'))?.textContent}`);
for (const node of all('[role=region]')) landmarks.push(`SECTION ${node.ariaLabel}`);
if (new Set(landmarks).size !== landmarks.length) faults.push(`twice: ${landmarks.join()}`);
let level = 0;
for (const node of all('h1, h2, h3, h4')) {
  const own = Number(node.tagName[1]);
  if (own > level + 1) say('a level is left out', node);
  level = own;
}
if (!document.querySelector('[role=status][aria-live=polite]')) faults.push('nobody announces');
return faults;
"""

CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const rgba = (text) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
};
const over = ([r, g, b, a], below) => [r, g, b].map((one, i) => one * a + below[i] * (1 - a));
const light = (colour) => colour.slice(0, 3).map((one) => one / 255).map((one) =>
  one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
  .reduce((sum, one, i) => sum + one * [0.2126, 0.7152, 0.0722][i], 0);
const ratio = (one, other) => {
  const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const ground = (node) => {
  if (!node) return [255, 255, 255];
  const own = rgba(getComputedStyle(node).backgroundColor);
  return own[3] === 1 ? own.slice(0, 3) : over(own, ground(node.parentElement));
};
const weak = new Set();
const check = (colour, below, least, node) => {
  const found = ratio(over(rgba(colour), below), below);
  if (found < least) weak.add(`${found.toFixed(2)} ${node.className?.baseVal ?? node.className} `
    + node.textContent.trim().slice(0, 30));
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !node.checkVisibility({ opacityProperty: true }))
    continue;
  if (node.closest('.out-of-sight, .skip, noscript, option')) continue;
  const style = getComputedStyle(node);
  const rect = node.parentElement.querySelector(':scope > rect');
  if (node.namespaceURI.endsWith('svg')) {
    const below = node.parentElement.classList.contains('block')
      ? rgba(getComputedStyle(rect).fill) : ground(node.closest('svg').parentElement);
    check(style.fill, below.slice(0, 3), 4.5, node);
  } else check(style.color, ground(node), 4.5, node);
}
for (const node of document.querySelectorAll('input:not([type=radio], [type=checkbox]), select,'
  + ' button:not(.plain)')) if (node.checkVisibility())
  check(getComputedStyle(node).borderTopColor, ground(node.parentElement), 3, node);
return [...weak];
"""


def judge(browser: browsers.Browser) -> None:
    # colours fade into each other for an eighth of a second
    browser.until(lambda: browser.script("return document.getAnimations().length === 0"), "rest")
    assert browser.script(FAULTS) == []
    assert browser.script(CONTRAST) == []


@pytest.mark.parametrize("path", [
    "sign-in", "hosts", "devices", "card", "types", "arqs", "refused"])
def test_a_view_has_names_order_and_contrast_and_fits_a_narrow_screen(
        visit: conftest.Visit, browser: browsers.Browser, world: conftest.World,
        path: str) -> None:
    def show() -> None:
        if path == "sign-in":
            browser.open(world.url)
            browser.one("h1")
        elif path == "refused":
            visit("hosts", "member", "demo")
        elif path == "card":
            visit(f"devices/{world.scene.device(scene.HELD)}")
            browser.script("document.querySelector('.layout input').click()")
            browser.one(".actions .main").send_keys(Keys.ENTER)
            browser.one(".plan [role=alert]")
        elif path == "types":
            visit(f"devices/{world.scene.device(scene.RTX)}")
            browser.script("document.querySelector('[data-layout=\"47x4\"] input').click()")
            browser.one(".types select")
        else:
            visit(path)

    show()
    judge(browser)
    with browser.in_the_dark():
        judge(browser)
        browser.picture(f"{path}-dark")
    # 640: a screen of 1280 at 200 %; 320: the same at 400 %, or a small telephone
    for width in (640, 320):
        with browser.narrow(width):
            assert browser.script("return document.documentElement.scrollWidth") <= width
            browser.picture(f"{path}-narrow")


def test_the_first_tab_leads_past_the_navigation(visit: conftest.Visit) -> None:
    browser = visit("hosts")

    browser.press(Keys.TAB)
    assert browser.text(":focus") == "Skip to the content"
    browser.press(Keys.ENTER)

    assert browser.script("return document.activeElement.id") == "main"
    browser.press(Keys.TAB)
    assert browser.text(":focus") == "Refresh"


def test_what_has_the_keyboard_is_marked(visit: conftest.Visit) -> None:
    browser = visit("arqs")

    for selector in ("nav a", ".who button", ".head button", "input[name=instance]", "select"):
        browser.tab_to(selector)
        assert browser.script("const s = getComputedStyle(document.activeElement);"
                              "return [s.outlineStyle, s.outlineWidth]") == ["solid", "3px"]


def test_the_navigation_says_where_one_is_and_the_title_too(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit(f"devices/{world.scene.device(scene.H100)}")

    assert browser.one("nav [aria-current]").text == "Devices"
    assert browser.driver.title == f"NVIDIA H100-80GB {scene.H100} \u2013 Accelerators"


def test_nothing_moves_for_those_who_want_that(
        visit: conftest.Visit, world: conftest.World) -> None:
    browser = visit(f"devices/{world.scene.device(scene.H100)}")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "features": [{"name": "prefers-reduced-motion", "value": "reduce"}]})
    try:
        assert browser.script(
            "return [...document.querySelectorAll('*')].filter((node) => {"
            " const s = getComputedStyle(node);"
            " return s.animationName !== 'none' || s.transitionDuration !== '0s'; }).length") == 0
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
