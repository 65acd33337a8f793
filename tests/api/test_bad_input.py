# SPDX-License-Identifier: Apache-2.0
"""Whatever is sent: a clear 4xx in JSON, never a 5xx, never a trace, and every list works after.

Each route of the table gets each kind of nonsense; the conductor behind is real.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib import parse

import pytest
import webob

from cyborg_lite.api import faults
from cyborg_lite.api import root
from tests.fixtures import builders
from tests.fixtures import cloud as clouds
from tests.fixtures import split_cards

ADMIN = {"X-User-Id": "admin", "X-Project-Id": "project0", "X-Roles": "admin",
         "X-Service-Roles": "service", "OpenStack-API-Version": "accelerator latest"}
SOME_UUID = "11111111-1111-1111-1111-111111111111"
UNKNOWN_UUID = "99999999-9999-9999-9999-999999999999"
LISTS = [route.path for route in root.ROUTES if route.handler == "get_all"]
BODIED = {
    "POST /v2/device_profiles": [{
        "name": "sweep", "description": "text", "uuid": SOME_UUID,
        "groups": [{"resources:FPGA": "1", "trait:CUSTOM_X": "required", "accel:y": "z"}]}],
    "POST /v2/accelerator_requests": {"device_profile_name": "sweep"},
    "PATCH /v2/accelerator_requests": {SOME_UUID: [
        {"path": "/hostname", "op": "add", "value": "node1"},
        {"path": "/device_rp_uuid", "op": "add", "value": builders.rp_uuid()},
        {"path": "/instance_uuid", "op": "add", "value": SOME_UUID},
        {"path": "/project_id", "op": "add", "value": "project1"},
        {"path": "/migration_uuid", "op": "add", "value": SOME_UUID},
        {"path": "/migration_type", "op": "add", "value": "live"}]},
    "POST /v2/accelerator_requests/action": {"switch_migration": {
        "instance_uuid": SOME_UUID, "migration_uuid": SOME_UUID, "to": "source"}},
    "PATCH /v2/accelerator_requests/{uuid}": {SOME_UUID: [{"path": "/hostname", "op": "remove"}]},
    "PATCH /v2/deployables/{uuid}/program": [
        {"path": "/program", "op": "replace", "value": [{"image_uuid": SOME_UUID}]}],
    "PATCH /v2/deployables/{uuid}/program/{uuid}": [
        {"path": "/program", "op": "replace", "value": [{"image_uuid": SOME_UUID}]}],
    "PUT /v2/services/{id}": {"status": "disabled", "disabled_reason": "text"},
    "PUT /v2/devices/{uuid}/partitioning": {"partitions": [
        {"profile": "3g.20gb", "count": 1, "vgpu_type": "A100-3-20C"}]},
    "POST /v2/attributes": {"deployable_id": 1, "key": "sweep", "value": "text"},
    "PATCH /v2/device_profiles/{uuid_or_name}": [
        {"op": "test", "path": "/name", "value": "sweep"},
        {"op": "add", "path": "/groups/-", "value": {"resources:FPGA": "1"}},
        {"op": "replace", "path": "/description", "value": "other"},
        {"op": "remove", "path": "/groups/1"}],
}
JSON_PATCH = ("PATCH /v2/device_profiles/{uuid_or_name}", "application/json-patch+json")
"""The one body that has another name beside application/json."""

BODYLESS_POSTS = {"POST /v2/devices/{uuid}/disable", "POST /v2/devices/{uuid}/enable",
                  "POST /v2/devices/{uuid}/clean", "POST /v2/orphans/{id}/clean",
                  "POST /v2/orphans/sweep"}
PROFILE = json.dumps(BODIED["POST /v2/device_profiles"]).encode()


def filled(path: str, segment: str) -> str:
    """A path with this in the place of each variable."""
    return re.sub(r"\{\w+\}", lambda _: segment, path)


RAW = {
    "nothing": b"",
    "no JSON": b"{",
    "two documents": b"{} {}",
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "deep lists": b"[" * 50_000 + b"]" * 50_000,
    "deep objects": b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
    "just too deep": b"[" * 40 + b"]" * 40,
    "not a number": b'{"deployable_id": NaN}',
    "infinite": b"[Infinity]",
    "an overflow": b"[1e999]",
    "thousands of digits": b"[" + b"9" * 5_000 + b"]",
    "beyond 64 bits": b"[9223372036854775808]",
    "half a surrogate": rb'{"device_profile_name": "\ud800"}',
    "half a surrogate as a key": rb'{"\udfff": 1}',
    "a NUL": rb'[{"name": "a\u0000b"}]',
    "a raw control character": b'["\x01"]',
    "a key twice": b'{"key": 1, "key": 2}',
    "null": b"null",
    "a number": b"1",
    "a truth": b"true",
    "a text": b'"text"',
    "an empty list": b"[]",
    "an empty object": b"{}",
    "a list of null": b"[null]",
    "a list of lists": b"[[]]",
    "two of something": b"[{}, {}]",
    "a null below": b'{"": null}',
    "another uuid": b'{"not-a-uuid": []}',
    "a uuid of null": f'{{"{SOME_UUID}": null}}'.encode(),
    "a uuid of nothing": f'{{"{SOME_UUID}": []}}'.encode(),
    "a uuid of nulls": f'{{"{SOME_UUID}": [null, null]}}'.encode(),
}

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**62, -2**62, 1.5, -0.0, 1e300, "", " ", "0", "-1", "1e3",
    "x", "x" * 256, "x" * 60_000, "a\nb", "\U0001f600" * 300, "\U0001f600", "\u202e", "\x7f",
    "'; DROP TABLE arqs; --", "../../etc/passwd", "%00", [], [[]], [None], {}, {"": ""},
    {"a": {"b": {"c": []}}}, SOME_UUID.upper(), "{" + SOME_UUID + "}"]

SEGMENTS = ["%ff", "%00", "%0a", "__class__", "get_all", "post", "_tree", "x" * 4_000, "%20",
            parse.quote("\U0001f600"), "'%20OR%201=1", "..%2f..", "a,b", "{uuid}", "null", "-1"]

QUERIES = ["%ff=1", "name=%ff", "name=%00", "instance=%00", "x=1", "x", "=", "&&&", "name=",
           "a=1&" * 2_000,
           "instance=x", "instance=" + "1" * 5_000, "arqs=", "arqs=,", "arqs=x,y", "value=,,",
           "arqs=" + ",".join([SOME_UUID] * 2_000), "bind_state=x", "bind_state=", "type=",
           "type=" + "x" * 300, "deployable_id=-1", "deployable_id=0", "deployable_id=1e3",
           "deployable_id=" + "9" * 400, "key=" + "k" * 300, "__body__={}", "_method=delete",
           "filters.field=name", "filters.value=x", "filters.field=x&filters.value=y",
           "filters[0].field=name", "filters=x", "name=a&name=b", "instance=a&instance=b",
           "limit=0", "limit=-1", "limit=x", "limit=", "marker=x", "marker=" + UNKNOWN_UUID,
           "sort_key=rowid", "sort_key=__class__", "sort_dir=up", "sort=uuid:up", "sort=",
           "sort_dir=asc&sort_dir=asc", "sort=uuid&sort_key=uuid", "state=x", "hostname=",
           "project_id=%00", "migration=x", "sets=", "sets=x", "migration=", "%F0%9F%98%80=1"]


@pytest.fixture
def send(shared_application: faults.Application) -> Iterator[Any]:
    """Send a request as administrator with a service token; the reply is checked for its form."""
    def send(method: str, path: str, body: bytes | None = None,
             headers: dict[str, str] | None = None) -> webob.Response:
        request = webob.Request.blank("/", method=method, body=body or b"",
                                      headers={"Content-Type": "application/json"} | ADMIN
                                      | (headers or {}))
        path, _, request.environ["QUERY_STRING"] = path.partition("?")
        request.environ["PATH_INFO"] = parse.unquote_to_bytes(path).decode("latin-1")
        reply = request.get_response(shared_application)
        assert_reply(reply, f"{method} {path[:100]} {(body or b'')[:200]!r}")
        return reply

    yield send
    for path in LISTS:
        assert send("GET", path).status_int == 200, path


def assert_reply(reply: webob.Response, what: str) -> None:
    assert reply.status_int < 500, f"{what}: {reply.text[:300]}"
    assert "Traceback" not in reply.text, what
    assert reply.headers["x-openstack-request-id"].startswith("req-")
    assert reply.headers["OpenStack-API-Minimum-Version"] == "2.0"
    assert "OpenStack-API-Version" in reply.headers["Vary"]
    if reply.status_int >= 400 and not what.startswith("HEAD "):
        assert_error(reply)


def assert_error(reply: webob.Response) -> None:
    assert reply.content_type == "application/json"
    found = json.loads(reply.body)
    message, (error,) = found["error_message"], found["errors"]
    assert message["faultcode"] == "Client"
    assert message["debuginfo"] is None
    assert message["faultstring"] == error["detail"]
    assert error["detail"]
    assert error["code"].startswith("accelerator.")
    assert error["status"] == reply.status_int
    assert error["request_id"] == reply.headers["x-openstack-request-id"]
    assert len(error["detail"]) < 1_000


def test_every_route_with_a_body_is_swept() -> None:
    bodied = {route.name for route in root.ROUTES if route.method in ("POST", "PATCH", "PUT")}
    assert bodied == set(BODIED) | BODYLESS_POSTS


@pytest.mark.parametrize("name", BODIED)
def test_a_body_that_is_nonsense_as_a_whole_is_refused(send: Any, name: str) -> None:
    send("POST", "/v2/device_profiles", PROFILE)
    method, path = filled(name, SOME_UUID).split()
    for kind, body in RAW.items():
        reply = send(method, path, body)
        assert 400 <= reply.status_int < 500, f"{kind}: {reply.status}"


@pytest.mark.parametrize("name", BODIED)
def test_nonsense_anywhere_in_a_good_body_is_understood_or_refused(send: Any, name: str) -> None:
    send("POST", "/v2/device_profiles", PROFILE)
    method, path = filled(name, SOME_UUID).split()
    for body in mutations(BODIED[name]):
        send(method, path, json.dumps(body).encode())


@pytest.mark.parametrize("scheme", ["mig", "mig-vgpu"])
def test_nonsense_in_a_layout_is_no_layout_of_a_card(
        send: Any, shared_cloud: clouds.Cloud, scheme: str) -> None:
    host = f"split-{scheme}"
    card = split_cards.Card(scheme=scheme)
    card.split({"1g.5gb": 7})
    shared_cloud.client.report(split_cards.Agent([card], host).report())
    path = f"/v2/devices/{split_cards.uuid_of(host=host)}/partitioning"
    good = [{"layout": "9x2"}, {"partitions": [
        {"profile": "3g.20gb", "count": 1, "vgpu_type": "A100-3-20C"},
        {"profile": "1g.5gb", "count": 2}]}]

    for body in itertools.chain.from_iterable(map(mutations, good)):
        reply = send("PUT", f"{path}?dry_run=true", json.dumps(body).encode())
        assert reply.status_int in (200, 400), (body, reply.text[:200])

    assert send("GET", f"{path}?all=true").json["desired"] == []


def test_nonsense_in_the_body_of_a_sweep_is_understood_or_refused(send: Any) -> None:
    for body in mutations({"host": "node1", "dry_run": True}):
        reply = send("POST", "/v2/orphans/sweep", json.dumps(body).encode())
        assert reply.status_int in (202, 400, 404), (body, reply.text[:200])


def mutations(good: Any) -> Iterator[Any]:
    """Replace each value, each key, and remove each, one at a time."""
    for where in places(good):
        for value in NASTY:
            yield changed(good, where, value)
    for where in places(good):
        if where and isinstance(where[-1], str):
            for key in ["", "x" * 300, "\U0001f600", " ", "resources:", "resources:fpga",
                        "resources:VCPU", "trait:", "trait:x", "accel:", "/x", "uuid"]:
                yield renamed(good, where, key)


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    for key, entry in entries:
        yield from places(entry, (*here, key))


def changed(good: Any, where: tuple[Any, ...], value: Any) -> Any:
    if not where:
        return value
    body = copy.deepcopy(good)
    holder = body
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    return body


def renamed(good: Any, where: tuple[Any, ...], key: str) -> Any:
    body = copy.deepcopy(good)
    holder = body
    for step in where[:-1]:
        holder = holder[step]
    holder[key] = holder.pop(where[-1])
    return body


@pytest.mark.parametrize("route", root.ROUTES, ids=lambda route: route.name)
def test_nonsense_in_the_path_is_refused(send: Any, route: root.Route) -> None:
    good = json.dumps(BODIED.get(route.name)).encode()
    for segment in SEGMENTS:
        if "{" in route.path:
            path = filled(route.path, segment)
        else:
            path = f"{route.path}/{segment}/{segment}/x"
        reply = send(route.method, path, good)
        assert 400 <= reply.status_int < 500, f"{segment[:50]}: {reply.status}"


@pytest.mark.parametrize("route", root.ROUTES, ids=lambda route: route.name)
def test_nonsense_in_the_query_is_refused(send: Any, route: root.Route) -> None:
    path = filled(route.path, SOME_UUID)
    good = json.dumps(BODIED.get(route.name)).encode()
    for query in QUERIES:
        reply = send(route.method, f"{path}?{query}", good)
        if query not in ("&&&", "=") and not query.startswith("name=a"):
            assert 400 <= reply.status_int < 500, f"{query[:50]}: {reply.status}"


@pytest.mark.parametrize("path", sorted({route.path for route in root.ROUTES}))
def test_a_method_that_a_path_has_not_is_405_with_allow(send: Any, path: str) -> None:
    here = {route.method for route in root.ROUTES if route.path == path}
    expected = here | ({"HEAD"} if "GET" in here else set())
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "FOO"} - expected:
        reply = send(method, filled(path, SOME_UUID))
        assert reply.status_int == 405, method
        assert reply.headers["Allow"] == ", ".join(sorted(expected))


@pytest.mark.parametrize("name", BODIED)
@pytest.mark.parametrize("kind", ["", "text/plain", "application/xml", "text/javascript",
                                  "application/x-www-form-urlencoded", "multipart/form-data",
                                  "application/json-patch+json", "nonsense", "\xff"])
def test_a_body_of_another_type_is_415(send: Any, name: str, kind: str) -> None:
    method, path = filled(name, SOME_UUID).split()
    reply = send(method, path, json.dumps(BODIED[name]).encode(), {"Content-Type": kind})
    assert (reply.status_int == 415) == ((name, kind) != JSON_PATCH)


def test_parameters_of_the_content_type_are_fine(send: Any) -> None:
    reply = send("POST", "/v2/accelerator_requests", b'{"device_profile_name": "x"}',
                 {"Content-Type": "application/json; charset=utf-8"})
    assert reply.status_int == 404


def test_what_clients_want_to_read_does_not_matter(send: Any) -> None:
    reply = send("GET", "/v2/devices", headers={"Accept": "text/html"})
    assert reply.status_int == 200
    assert reply.content_type == "application/json"


def test_a_body_that_is_too_large_is_413(send: Any) -> None:
    reply = send("POST", "/v2/device_profiles", b" " * 114_689)
    assert reply.status_int == 413


def test_a_body_of_unknown_length_is_413_when_it_gets_too_large(
        shared_application: faults.Application) -> None:
    request = webob.Request.blank("/v2/device_profiles", method="POST",
                                  headers={"Content-Type": "application/json"} | ADMIN)
    request.environ.update({"wsgi.input": io.BytesIO(b" " * 200_000),
                            "wsgi.input_terminated": True})
    request.environ.pop("CONTENT_LENGTH", None)

    reply = request.get_response(shared_application)

    assert reply.status_int == 413
    assert_reply(reply, "chunked")


def test_a_body_that_ends_early_is_400(shared_application: faults.Application) -> None:
    request = webob.Request.blank("/v2/device_profiles", method="POST",
                                  headers={"Content-Type": "application/json"} | ADMIN)
    request.environ.update({"wsgi.input": io.BytesIO(b"[{}"), "CONTENT_LENGTH": "50"})

    reply = request.get_response(shared_application)

    assert reply.status_int == 400
    assert_reply(reply, "short")


@pytest.mark.parametrize("version", ["", "x", "2", "2.", "2.-1", "2.99", "3.0", "1.0", "2.0.0",
                                     "02.0", "2.03", "accelerator", "accelerator 2.3 2.3",
                                     "accelerator  x", ",,,", "2.3\u00b2", "9" * 5_000])
def test_a_version_header_of_nonsense_is_406_or_none(send: Any, version: str) -> None:
    reply = send("GET", "/v2/devices", headers={"OpenStack-API-Version": version})
    assert reply.status_int == (406 if version.strip(",") else 200)


@pytest.mark.parametrize("roles", ["", ",", "\xff", "x" * 10_000, "admin\tmember"])
def test_roles_of_nonsense_are_no_roles(send: Any, roles: str) -> None:
    assert send("GET", "/v2/devices", headers={"X-Roles": roles}).status_int == 403


def test_head_answers_as_get_does_without_a_body(send: Any) -> None:
    for path in [*LISTS, "/v2/devices/x", "/v2/nothing", "/", "/v9"]:
        got = send("GET", path)
        reply = send("HEAD", path)
        assert (reply.status, reply.content_length) == (got.status, got.content_length), path
        assert reply.body == b""


def test_the_next_page_is_linked_with_the_query_as_it_was_given(send: Any) -> None:
    for deployable in (1, 2):
        send("POST", "/v2/attributes", json.dumps(
            {"deployable_id": deployable, "key": "\u00e9", "value": "v"}).encode())
    query = "limit=1&key=\u00e9".encode().decode("latin-1")

    reply = send("GET", f"/v2/attributes?{query}", headers={
        "OpenStack-API-Version": "accelerator 2.5"})

    assert "?limit=1&key=%C3%A9&marker=" in reply.json["attributes_links"][0]["href"]


@pytest.mark.parametrize("joined", [",", "&instance="])
def test_two_hundred_instances_and_more_can_be_asked_for_at_once(send: Any, joined: str) -> None:
    instances = joined.join(f"00000000-0000-4000-8000-{number:012}" for number in range(250))

    reply = send("GET", f"/v2/accelerator_requests?instance={instances}", headers={
        "OpenStack-API-Version": "accelerator 2.5"})

    assert (reply.status_int, reply.json["arqs"]) == (200, [])
