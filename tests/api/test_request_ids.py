# SPDX-License-Identifier: Apache-2.0
"""Under which id a request is found in the log, and which one other services are told."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import webob
from oslo_context import context as oslo_context

from cyborg_lite.api import faults
from cyborg_lite.db import models
from tests.fixtures import builders
from tests.fixtures import cloud as clouds

THEIRS = "req-11111111-2222-3333-4444-555555555555"
NOVA = {"X-User-Id": "u", "X-Project-Id": "p", "X-Roles": "admin", "X-Service-Roles": "service"}

Line = tuple[str, str, oslo_context.RequestContext]


class Lines(logging.Handler):
    """Lines of the API with their level and the context that oslo.log shows with them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[Line] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage(), oslo_context.get_current()))


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    logger, handler = logging.getLogger("cyborg_lite.api"), Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.lines
    logger.setLevel(before)
    logger.removeHandler(handler)


def ask(application: faults.Application, method: str, path: str, body: Any = None,
        **headers: str) -> webob.Response:
    request = webob.Request.blank(path, method=method, headers=NOVA | headers,
                                  environ={"REMOTE_ADDR": "127.0.0.1"})
    if body is not None:
        request.content_type, request.json_body = "application/json", body
    return request.get_response(application)


def a_bind(application: faults.Application) -> dict[str, Any]:
    """The body of a bind of a new ARQ."""
    ask(application, "POST", "/v2/device_profiles",
        [{"name": "one", "groups": [{"resources:FPGA": "1"}]}])
    made = ask(application, "POST", "/v2/accelerator_requests", {"device_profile_name": "one"})
    values = {"hostname": builders.HOST, "device_rp_uuid": builders.rp_uuid(),
              "instance_uuid": builders.new_uuid()}
    return {made.json["arqs"][0]["uuid"]: [
        {"op": "add", "path": f"/{name}", "value": value} for name, value in values.items()]}


@pytest.mark.parametrize("theirs", [THEIRS, None])
def test_nova_is_told_the_id_of_whoever_began_it(
        cloud: clouds.Cloud, application: faults.Application, theirs: str | None) -> None:
    headers = {"X-OpenStack-Request-ID": theirs} if theirs else {}

    reply = ask(application, "PATCH", "/v2/accelerator_requests", a_bind(application), **headers)

    assert reply.status_int == 202
    with cloud.conductor.database.reading() as connection:
        told = connection.scalar(sa.select(models.events.c.request_id))
    assert told == (theirs or reply.headers["x-openstack-request-id"])


def test_a_change_is_a_line_with_the_ids_of_the_request_and_who_asked(
        application: faults.Application, lines: list[Line]) -> None:
    body = a_bind(application)
    lines.clear()

    reply = ask(application, "PATCH", "/v2/accelerator_requests", body,
                **{"X-OpenStack-Request-ID": THEIRS})

    [(level, text, context)] = lines
    assert level == "INFO"
    assert text.startswith("PATCH /v2/accelerator_requests 202 ")
    assert text.endswith(" ms from 127.0.0.1")
    assert context.request_id == reply.headers["x-openstack-request-id"]
    assert context.global_request_id == THEIRS
    assert (context.user_id, context.project_id) == ("u", "p")


def test_a_refusal_is_a_line_with_its_reason(
        application: faults.Application, lines: list[Line]) -> None:
    reply = ask(application, "GET", f"/v2/devices/{builders.new_uuid()}")

    [(level, text, context)] = lines
    assert (level, reply.status_int) == ("INFO", 404)
    assert text.endswith(f": {reply.json['errors'][0]['detail']}")
    assert context.request_id == reply.headers["x-openstack-request-id"]


def test_what_only_reads_is_a_line_for_those_who_look_closely(
        application: faults.Application, lines: list[Line]) -> None:
    ask(application, "GET", "/v2/devices?hostname=node1")

    [(level, text, _)] = lines
    assert level == "DEBUG"
    assert text.startswith("GET /v2/devices?hostname=node1 200 ")


def test_nobody_is_taken_for_the_one_before_him(
        application: faults.Application, lines: list[Line]) -> None:
    ask(application, "GET", "/v2/devices")
    lines.clear()
    before = oslo_context.get_current()

    reply = ask(application, "POST", "/healthcheck")

    [(_, text, context)] = lines
    assert text.startswith("POST /healthcheck 405 ")
    assert context.user_id is None
    assert context.request_id == reply.headers["x-openstack-request-id"]
    assert oslo_context.get_current() is before


def test_what_a_client_makes_up_is_one_line_and_no_longer_than_need_be(
        application: faults.Application, lines: list[Line]) -> None:
    ask(application, "GET", "/v2/devices/%0aERROR%20all%20is%20lost")
    ask(application, "GET", "/v2/devices?hostname=" + "x" * 5000)

    for _, text, _ in lines:
        assert text.isprintable()
        assert len(text) < 1200
