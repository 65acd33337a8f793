# SPDX-License-Identifier: Apache-2.0
"""How the files of the console are served; what they do in a browser, tests/console says."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable

import pytest
import webob
from oslo_config import cfg

from cyborg_lite import buses
from cyborg_lite import config
from cyborg_lite import rpc
from cyborg_lite import states
from cyborg_lite.api import app
from cyborg_lite.api import console
from cyborg_lite.api import microversions

Ask = Callable[..., webob.Response]

NOAUTH = "[api]\nauth_strategy = noauth\n"


@pytest.fixture
def ask(tmp_path: pathlib.Path) -> Ask:
    """Send one request to the whole stack, whose conductor is away."""
    def ask(path: str, text: str = NOAUTH, method: str = "GET",
            headers: dict[str, str] | None = None, **environ: str) -> webob.Response:
        file = tmp_path / "cyborg-lite.conf"
        file.write_text(text)
        conf = config.load(["--config-file", str(file)], cfg.ConfigOpts())
        application = app.make_app(conf, rpc.ConductorClient(buses.LocalBus(), 30))
        return webob.Request.blank(path, method=method, headers=headers or {},
                                   environ=environ).get_response(application)
    return ask


def with_keystone(address: str, more: str = "") -> str:
    return f"[keystone_authtoken]\nauth_type = none\nwww_authenticate_uri = {address}\n{more}"


def policy(reply: webob.Response) -> dict[str, str]:
    header = reply.headers["Content-Security-Policy"]
    return dict(part.split(" ", 1) for part in header.split("; "))


def test_the_page_needs_no_token_and_no_conductor(ask: Ask) -> None:
    reply = ask("/console/", with_keystone("http://k:5000"))

    assert reply.status_int == 200
    assert reply.content_type == "text/html"
    assert b"<main" in reply.body


def test_a_path_without_its_slash_leads_to_the_page_below_any_prefix(ask: Ask) -> None:
    reply = ask("/console", SCRIPT_NAME="/accelerator")

    assert reply.status_int == 302
    # webob would complete it
    assert dict(reply.headerlist)["Location"] in (
        "console/", "http://localhost/accelerator/console/")


@pytest.mark.parametrize(("name", "kind"), [
    ("index.html", "text/html"), ("main.js", "text/javascript"), ("console.css", "text/css"),
    ("icon.svg", "image/svg+xml"), ("settings.json", "application/json")])
def test_a_file_says_what_it_is(ask: Ask, name: str, kind: str) -> None:
    reply = ask(f"/console/{name}")

    assert (reply.status_int, reply.content_type) == (200, kind)
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert reply.headers["Cache-Control"] == "no-cache"
    assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("path", [
    "/console/../app.py", "/console/..%2fapp.py", "/console/%2e%2e/app.py", "/console//etc/passwd",
    "/console/main.js/", "/console/../../config.py", "/console/nothing.js", "/console/.",
    "/console/main.py", "/console/%5c..%5capp.py", "/console/sub/main.js"])
def test_what_is_no_file_of_the_page_is_404(ask: Ask, path: str) -> None:
    reply = ask(path)

    assert reply.status_int == 404
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.json["errors"][0]["code"] == "accelerator.not-found"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_the_page_is_only_read(ask: Ask, method: str) -> None:
    reply = ask("/console/", method=method)

    assert reply.status_int == 405
    assert reply.headers["Allow"] == "GET, HEAD"


def test_head_has_the_headers_of_get_and_no_body(ask: Ask) -> None:
    head, get = ask("/console/main.js", method="HEAD"), ask("/console/main.js")

    assert head.body == b""
    assert (head.headers["ETag"], head.headers["Content-Length"]) == (
        get.headers["ETag"], str(len(get.body)))


def test_a_browser_that_has_the_file_is_not_sent_it_again(ask: Ask) -> None:
    tag = ask("/console/main.js").headers["ETag"]

    reply = ask("/console/main.js", headers={"If-None-Match": f'"other", W/{tag}'})

    assert (reply.status_int, reply.body) == (304, b"")
    assert ask("/console/main.js", headers={"If-None-Match": '"other"'}).status_int == 200
    assert ask("/console/console.css").headers["ETag"] != tag


def test_the_page_may_ask_this_service_and_keystone_alone(ask: Ask) -> None:
    found = policy(ask("/console/", with_keystone("https://k.example.org:5000/identity")))

    assert found["default-src"] == "'none'"
    assert found["script-src"] == found["style-src"] == "'self'"
    assert found["connect-src"] == "'self' https://k.example.org:5000"
    assert found["frame-ancestors"] == found["base-uri"] == found["form-action"] == "'none'"
    assert (found["require-trusted-types-for"], found["trusted-types"]) == ("'script'", "'none'")
    assert "unsafe" not in str(found)


@pytest.mark.parametrize(("text", "url", "sources"), [
    (with_keystone("http://k:5000"), "http://k:5000/v3", "'self' http://k:5000"),
    (with_keystone("http://k:5000/v3/"), "http://k:5000/v3", "'self' http://k:5000"),
    (with_keystone("http://[::1]:5000"), "http://[::1]:5000/v3", "'self' http://[::1]:5000"),
    (with_keystone("http://k", "[console]\nkeystone_url = https://c.example/identity/v3\n"),
     "https://c.example/identity/v3", "'self' https://c.example"),
    (with_keystone("http://k", "[console]\nkeystone_url = /identity\n"), "/identity/v3", "'self'"),
    (with_keystone("http://k", "[console]\nkeystone_url =\n"), "", "'self'"),
    (with_keystone("k:5000; script-src *"), "", "'self'"),
    (NOAUTH, "", "'self'")])
def test_where_browsers_sign_in(ask: Ask, text: str, url: str, sources: str) -> None:
    reply = ask("/console/settings.json", text)

    assert json.loads(reply.body)["keystone_url"] == url
    assert policy(reply)["connect-src"] == sources


@pytest.mark.parametrize("bad", ["keystone.example.org", "ftp://k", "http://k; script-src *",
                                 "javascript:alert(1)", "https://user:secret@k/", "http://"])
def test_an_address_that_no_browser_could_use_ends_the_start(ask: Ask, bad: str) -> None:
    with pytest.raises(cfg.Error, match="keystone_url"):
        ask("/console/", f"{NOAUTH}[console]\nkeystone_url = {bad}\n")


def test_the_page_can_be_switched_off(ask: Ask) -> None:
    assert ask("/console/", f"{NOAUTH}[console]\nenabled = false\n").status_int == 404
    assert ask("/consoles").status_int == 404


# --- the files --------------------------------------------------------------------------------


def sources(suffix: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in console.FOLDER.glob(f"*{suffix}")}


def test_every_file_has_a_type() -> None:
    assert {path.suffix for path in console.FOLDER.iterdir()} <= set(console.TYPES)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    """A version of a library, a font, a picture: everything comes with the service."""
    allowed = {"http://www.w3.org/2000/svg"}

    assert {address for text in (*sources(".js").values(), *sources(".html").values(),
                                 *sources(".css").values(), *sources(".svg").values())
            for address in re.findall(r"https?://[\w./-]+", text)} <= allowed


def test_modules_import_what_is_there() -> None:
    known = sources(".js")

    for name, text in known.items():
        for wanted in re.findall(r"from \"\./([\w-]+\.js)\"", text):
            assert wanted in known, f"{name} imports {wanted}"


def test_modules_are_asked_for_at_once_and_not_one_after_the_other() -> None:
    (page,) = sources(".html").values()

    assert set(re.findall(r'rel="modulepreload" href="([\w-]+\.js)"', page)) == {
        *sources(".js")} - {"main.js"}


def test_text_never_becomes_markup_or_code() -> None:
    for name, text in sources(".js").items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b"
                             r"|new Function|localStorage|document\.cookie|console\.", text), name


def test_the_page_asks_for_a_version_that_the_service_has() -> None:
    (wanted,) = re.findall(r'MICROVERSION = "2\.(\d+)"', sources(".js")["service.js"])

    assert microversions.since("partitioning") <= int(wanted) <= microversions.MAXIMUM


def test_the_page_knows_every_state_of_an_arq() -> None:
    (marks,) = re.findall(r"const MARKS = \{(.*?)\}", sources(".js")["arqs.js"], re.DOTALL)

    assert set(re.findall(r"(\w+):", marks)) == set(states.ARQ_STATES)
