# SPDX-License-Identifier: Apache-2.0
"""Bytes on a connection to our own HTTP server, before the real application.

What no client library would send; what comes back is an answer of the API, and only one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import resource
import socket
import threading
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from cyborg_lite.api import faults
from cyborg_lite.wsgi import framing
from cyborg_lite.wsgi import server

WHO = "X-User-Id: u\r\nX-Project-Id: p\r\nX-Roles: admin\r\n"
JSON = WHO + "Content-Type: application/json\r\n"
PROFILE = b'[{"name": "wired", "groups": [{"resources:FPGA": "1"}]}]'
PATIENCE_S = 20
THREADS = 4

Talk = Callable[[bytes], list[tuple[http.client.HTTPResponse, bytes]]]


@pytest.fixture(scope="module")
def address(shared_application: faults.Application) -> Iterator[tuple[str, int]]:
    listener = server.listen("127.0.0.1", 0)
    serving = server.Server(listener, shared_application, THREADS, faults.refused)
    address: tuple[str, int] = listener.getsockname()
    serving.start()
    yield address
    serving.stop()


@pytest.fixture
def talk(address: tuple[str, int]) -> Talk:
    """Send bytes, say that no more will come, and return every answer with its body."""
    def talk(sent: bytes) -> list[tuple[http.client.HTTPResponse, bytes]]:
        with socket.create_connection(address, PATIENCE_S) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answers = []
            with connection.makefile("rb") as stream:
                while stream.peek(1):
                    answer = http.client.HTTPResponse(_Stream(stream), method=_method(sent))
                    answer.begin()
                    answers.append((answer, answer.read()))
            return answers
    return talk


class _Stream:
    """What http.client takes for a socket: it must not read beyond its own answer."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    def makefile(self, _: str) -> object:
        return _Unclosed(self._stream)


class _Unclosed:
    def __init__(self, stream: object) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Leave the rest to the next answer."""


def _method(sent: bytes) -> str:
    return sent.partition(b" ")[0].decode("latin-1")


def get(path: str, headers: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: here\r\n{WHO}{headers}\r\n".encode("latin-1")


def post(headers: str, body: bytes, path: str = "/v2/device_profiles") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: here\r\n{JSON}{headers}\r\n".encode() + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize("headers", [
    "OpenStack-API-Version: accelerator 2.3\r\nOpenStack-API-Version: compute 2.90\r\n",
    "OpenStack-API-Version: compute 2.90\r\nopenstack-api-version: accelerator 2.3\r\n"])
def test_the_version_is_found_in_any_of_several_headers(talk: Talk, headers: str) -> None:
    (answer, _), = talk(get("/v2/devices", headers))

    assert answer.getheader("OpenStack-API-Version") == "accelerator 2.3"


@pytest.mark.parametrize(("sent", "status"), [
    (b"\x16\x03\x01\r\n\r\n", 400),
    (b"GET /v2/devices HTTP/1.1\nHost: here\n\n", 400),
    (get("//v2/devices"), 400),
    (get("http://here/v2/devices"), 400),
    (get("*"), 400),
    (get("/v2/devices#part"), 400),
    (get("/v2/devices?type=\xe9"), 400),
    (get("/v2/devices", method="get"), 400),
    (get("here:80", method="CONNECT"), 405),
    (get("/v2/devices").replace(b"HTTP/1.1", b"HTTP/2.0"), 400),
    (get("/v2/devices", "no colon\r\n"), 400),
    (get("/v2/devices", "Before-Colon : x\r\n"), 400),
    (get("/v2/devices", "X-Folded: a\r\n b\r\n"), 400),
    (get("/v2/devices", "X-Nul: a\x00b\r\n"), 400),
    (get("/v2/devices", "X-Return: a\rb\r\n"), 400),
    (get("/v2/devices", "Host: there\r\n"), 400),
    (post("Content-Length: x\r\n", PROFILE), 400),
    (post("Content-Length: -1\r\n", PROFILE), 400),
    (post("Content-Length: +57\r\n", PROFILE), 400),
    (post("Content-Length: 5_7\r\n", PROFILE), 400),
    (post(f"Content-Length: 3\r\nContent-Length: {len(PROFILE)}\r\n", PROFILE), 400),
    (post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", chunked(PROFILE)), 400),
    (post("Transfer-Encoding: gzip, chunked\r\n", chunked(PROFILE)), 400),
    (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunked(PROFILE)), 400),
    (post("Transfer-Encoding: chunked\r\n", b"zz\r\n[]\r\n0\r\n\r\n"), 400),
    (post("Transfer-Encoding: chunked\r\n", b"5\r\n[]\r\n0\r\n\r\n"), 400),
    (post(f"Content-Length: {len(PROFILE) + 9}\r\n", PROFILE), 400),
    (get("/v2/devices", f"X-Long: {'x' * framing.MAX_HEAD_SIZE}\r\n"), 431),
    (get(f"/v2/devices?{'x' * framing.MAX_HEAD_SIZE}"), 414),
])
def test_what_is_no_request_is_refused_in_the_words_of_the_api(
        talk: Talk, sent: bytes, status: int) -> None:
    (answer, body), = talk(sent)

    assert answer.status == status, body
    (error,) = json.loads(body)["errors"]
    assert error["status"] == status
    assert error["request_id"] == answer.getheader("x-openstack-request-id")
    assert answer.getheader("Content-Type") == "application/json"
    assert answer.getheader("OpenStack-API-Maximum-Version") == "2.10"
    assert "OpenStack-API-Version" in str(answer.getheader("Vary"))


@pytest.mark.parametrize("sent", [
    post("Transfer-Encoding: chunked\r\n", chunked(get("/v2/devices")), "/v2/nothing"),
    post("Transfer-Encoding: chunked\r\n", chunked(get("/v2/devices")), "/v2"),
    post("Transfer-Encoding: chunked\r\n", b"0\r\n" + get("/v2/devices")),
    post("Content-Length: 0\r\nContent-Length: 999\r\n", get("/v2/devices")),
    post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", chunked(get("/v2/devices"))),
], ids=["unread", "before the API", "a trailer", "two lengths", "length and coding"])
def test_no_part_of_a_body_is_taken_for_a_request(talk: Talk, sent: bytes) -> None:
    assert len(talk(sent)) == 1


def test_a_body_in_chunks_is_read(talk: Talk) -> None:
    (answer, body), = talk(post("Transfer-Encoding: chunked\r\n", chunked(PROFILE)))

    assert answer.status == 201, body


def test_a_connection_is_kept_after_a_body_that_nobody_read(talk: Talk) -> None:
    answers = talk(post(f"Content-Length: {len(PROFILE)}\r\n", PROFILE, "/v2/nothing")
                   + get("/v2/devices"))

    assert [answer.status for answer, _ in answers] == [404, 200]


def test_a_refused_head_has_no_body(talk: Talk) -> None:
    (answer, body), = talk(get("/v2/devices", "Host: there\r\n", method="HEAD"))

    assert (answer.status, body) == (400, b"")


def test_a_header_with_an_underscore_is_not_the_one_with_a_hyphen(talk: Talk) -> None:
    (answer, _), = talk(get("/v2/devices", "OpenStack_API_Version: accelerator 2.3\r\n"))

    assert answer.getheader("OpenStack-API-Version") == "accelerator 2.0"


# --- connections without a request ------------------------------------------------------------


def test_connections_that_say_nothing_keep_no_worker_from_others(
        address: tuple[str, int], talk: Talk) -> None:
    """As browsers open them beforehand, and whoever wants to block a service."""
    with contextlib.ExitStack() as silent:
        for _ in range(THREADS + 1):
            silent.enter_context(socket.create_connection(address, PATIENCE_S))

        ((answer, _),) = talk(get("/", "Connection: close\r\n"))

    assert answer.status == 200


def test_a_connection_that_says_nothing_does_not_hold_up_the_end(
        shared_application: faults.Application) -> None:
    listener = server.listen("127.0.0.1", 0)
    serving = server.Server(listener, shared_application, THREADS, faults.refused)
    serving.start()
    with (socket.create_connection(listener.getsockname(), PATIENCE_S),
          socket.create_connection(listener.getsockname(), PATIENCE_S) as after):
        after.sendall(get("/"))
        assert after.recv(12) == b"HTTP/1.1 200"  # by then the silent one is accepted too

        ending = threading.Thread(target=serving.stop, daemon=True)
        ending.start()
        ending.join(PATIENCE_S)

        assert not ending.is_alive()


# --- more connections than a process may have -------------------------------------------------


class _Heard(logging.Handler):
    """Says when something was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.some = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.some.set()


@pytest.fixture
def heard() -> Iterator[_Heard]:
    handler = _Heard()
    logging.getLogger(server.__name__).addHandler(handler)
    yield handler
    logging.getLogger(server.__name__).removeHandler(handler)


@contextlib.contextmanager
def files_at_most(count: int) -> Iterator[None]:
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def test_without_a_file_for_a_connection_it_waits_and_the_log_has_one_line(
        shared_application: faults.Application, heard: _Heard) -> None:
    listener = server.listen("127.0.0.1", 0)
    serving = server.Server(listener, shared_application, THREADS, faults.refused)
    serving.start()
    with socket.socket() as connection:
        connection.settimeout(PATIENCE_S)
        with files_at_most(1):
            connection.connect(listener.getsockname())
            assert heard.some.wait(PATIENCE_S)
        connection.sendall(get("/"))

        assert connection.recv(12) == b"HTTP/1.1 200"
    serving.stop()
    assert ["may open" in record.getMessage() for record in heard.records] == [True]


def test_the_last_files_of_a_process_are_for_what_it_opens_itself(
        address: tuple[str, int], talk: Talk, heard: _Heard) -> None:
    with socket.socket() as connection:
        connection.settimeout(PATIENCE_S)
        free = os.dup(connection.fileno())
        os.close(free)
        with files_at_most(free + 2):
            connection.connect(address)
            assert heard.some.wait(PATIENCE_S)
        assert connection.recv(1) == b""

    assert [answer.status for answer, _ in talk(get("/"))] == [200]
