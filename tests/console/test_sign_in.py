# SPDX-License-Identifier: Apache-2.0
"""Who gets in, how, and what is left of it afterwards: with a real Keystone and a real browser."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from tests.console import browser as browsers
from tests.console import conftest
from tests.console import scene
from tests.fixtures import keystone as keystones

Keys = browsers.Keys


def type_password(browser: browsers.Browser, user: str, password: str, project: str) -> None:
    """Fill the form and send it, with the keyboard alone; the page puts it at the user."""
    browser.one("input[name=user]:focus")
    browser.press(user, Keys.TAB, password, Keys.TAB, project, Keys.ENTER)


def kept(browser: browsers.Browser) -> dict[str, str] | None:
    found = browser.script("return JSON.stringify({...sessionStorage, ...localStorage,"
                           " cookie: document.cookie})")
    session = json.loads(found).get("accelerator-console")
    return json.loads(session) if session else None


def is_good(world: conftest.World, token: str) -> bool:
    """Whether Keystone knows the token."""
    request = urllib.request.Request(f"{world.keystone.url}/auth/tokens", headers={
        "X-Auth-Token": world.token("admin", "admin"), "X-Subject-Token": token})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False


def test_a_wrong_password_is_refused_in_the_words_of_keystone(
        browser: browsers.Browser, world: conftest.World) -> None:
    browser.open(world.url)

    type_password(browser, "member", "wrong", "demo")

    browser.sees("The request you have made requires authentication.", "[role=alert]")
    assert kept(browser) is None
    assert browser.script("return document.activeElement.name") == "password"
    browser.picture("sign-in-refused")


def test_a_project_that_the_user_is_not_in_is_refused_in_the_words_of_keystone(
        browser: browsers.Browser, world: conftest.World) -> None:
    browser.open(world.url)

    type_password(browser, "member", keystones.PASSWORD, "admin")

    browser.sees("The request you have made requires authentication.", "[role=alert]")


def test_a_user_gets_in_with_the_keyboard_and_a_reload_keeps_the_session(
        browser: browsers.Browser, world: conftest.World) -> None:
    browser.open(world.url)
    browser.picture("sign-in")

    type_password(browser, "admin", keystones.PASSWORD, "admin")

    browser.sees("Hosts", "h1")
    assert browser.text(".who") == "admin in admin Sign out"
    assert browser.script("return document.activeElement.tagName") == "H1"
    browser.driver.refresh()
    browser.sees("Hosts", "h1")


def test_signing_out_forgets_the_token_and_revokes_it(
        browser: browsers.Browser, world: conftest.World) -> None:
    browser.open(world.url)
    type_password(browser, "member", keystones.PASSWORD, "demo")
    browser.sees("Sign out")
    session = kept(browser)
    assert session is not None
    assert is_good(world, session["token"])

    browser.tab_to(".who button")
    browser.press(Keys.ENTER)

    browser.sees("Sign in", "h1")
    browser.hears("Signed out")
    assert kept(browser) is None
    browser.until(lambda: not is_good(world, session["token"]), "the token revoked")


def test_a_token_without_a_project_may_nothing_and_the_service_says_so(
        browser: browsers.Browser, world: conftest.World) -> None:
    browser.open(world.url)

    type_password(browser, "member", keystones.PASSWORD, "")

    browser.sees("Policy does not allow cyborg:service:get_all to be performed", "[role=alert]")


def test_a_token_that_is_no_longer_good_leads_back_to_the_sign_in(
        browser: browsers.Browser, visit: conftest.Visit) -> None:
    visit("arqs")
    browser.script("const s = JSON.parse(sessionStorage.getItem('accelerator-console'));"
                   "s.token = 'long gone'; sessionStorage.setItem('accelerator-console',"
                   " JSON.stringify(s))")

    browser.driver.refresh()

    browser.sees("The request needs a valid token in X-Auth-Token.", "[role=alert]")
    browser.sees("Sign in", "h1")
    assert kept(browser) is None


def test_a_token_that_ends_in_mid_work_leads_back_to_the_work(
        browser: browsers.Browser, visit: conftest.Visit, world: conftest.World) -> None:
    uuid = world.scene.device(scene.H100)
    visit(f"devices/{uuid}")
    browser.script("const real = fetch; window.fetch = async () => { window.fetch = real;"
                   " return new Response('{}', { status: 401 }); };"
                   "document.querySelector('.layout input').click();")

    browser.one(".actions .main").click()
    browser.sees("Sign in again, and you are back where you were.")
    assert kept(browser) is None
    type_password(browser, "admin", keystones.PASSWORD, "admin")

    browser.sees("NVIDIA H100-80GB", "h1")
    assert browser.driver.current_url == f"{world.url}#/devices/{uuid}"


def test_a_browser_whose_clock_is_wrong_keeps_its_session(
        browser: browsers.Browser, world: conftest.World) -> None:
    browser.open(world.url)
    type_password(browser, "admin", keystones.PASSWORD, "admin")
    browser.sees("Sign out")
    # as if the clock went a day ahead of Keystone's
    with browser.before_each_page(
            "const R = Date; Date = class extends R {"
            " constructor(...a) { super(...(a.length ? a : [R.now() + 864e5])); }};"):
        browser.driver.refresh()

        browser.sees("Hosts", "h1")


def test_a_pasted_token_gets_in_without_keystone_and_stays_valid(
        browser: browsers.Browser, world: conftest.World) -> None:
    token = world.token("member", "demo")
    browser.open(world.url)
    browser.tab_to("summary")
    browser.press(Keys.ENTER)
    browser.tab_to("input[name=token]")
    browser.press("two words", Keys.ENTER)
    browser.sees("This is no token", "[role=alert]")
    browser.one("input[name=token]").clear()
    browser.one("input[name=token]").send_keys("unknown", Keys.ENTER)
    browser.sees("The request needs a valid token in X-Auth-Token.", "[role=alert]")

    browser.one("input[name=token]").clear()
    browser.one("input[name=token]").send_keys(token, Keys.ENTER)

    browser.sees("A pasted token Sign out", ".who")
    browser.one(".who button").click()
    browser.sees("Sign in", "h1")
    assert is_good(world, token)


def test_a_keystone_that_does_not_allow_the_page_is_explained(
        browser: browsers.Browser, world: conftest.World) -> None:
    browser.open(world.url.replace("127.0.0.1", "localhost"))

    type_password(browser, "member", keystones.PASSWORD, "demo")

    said = browser.sees("Keystone can't be reached from this page", "[role=alert]")
    assert "[cors] allowed_origin" in said
    assert any("CORS" in line for line in browser.complaints())
