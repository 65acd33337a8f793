# SPDX-License-Identifier: Apache-2.0
"""The example bodies of the API reference: what the real application is sent and answers.

CYBORG_LITE_WRITE_SAMPLES=1 writes them (tox -e samples); otherwise they are compared.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import webob

from cyborg_lite import config
from cyborg_lite.api import faults
from tests.fixtures import builders
from tests.fixtures import cloud as clouds
from tests.fixtures import split_cards

SAMPLES = pathlib.Path(__file__).resolve().parents[2] / "api-ref" / "source" / "samples"
WRITE = bool(os.environ.get("CYBORG_LITE_WRITE_SAMPLES"))
AGAIN = "write it again: tox -e samples"

HEADERS = {"X-User-Id": "admin", "X-Project-Id": "f5d2c1f0a1b44b1e8a7f4a7c2d5e9b10",
           "X-Roles": "admin", "X-Service-Roles": "service", "Content-Type": "application/json",
           "OpenStack-API-Version": "accelerator latest"}
INSTANCE = "22222222-2222-2222-2222-222222222222"
MOVED = "55555555-5555-5555-5555-555555555555"
MIGRATION = "44444444-4444-4444-4444-444444444444"
IMAGE = "33333333-3333-3333-3333-333333333333"

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REQUEST_ID = re.compile(rf"req-{_UUID.pattern}")
_TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
_SOME_TIME = "2026-01-15T12:00:00+00:00"
_SOME_REQUEST_ID = "req-8e2f1bd0-0c1f-4a53-9e7c-5d2b6a7f3c41"


class Walk:
    """Sends requests and keeps the bodies of both sides under a name."""

    def __init__(self, application: faults.Application) -> None:
        self._application = application
        self._uuids: dict[str, str] = {}
        self.samples: dict[str, str] = {}

    def send(self, name: str, method: str, path: str, body: Any = None, *,
             status: int = 200) -> Any:
        """Return the decoded answer, which has to have that status."""
        reply = webob.Request.blank(
            path, method=method, base_url="http://accelerator.example.org", headers=HEADERS,
            body=json.dumps(body).encode() if body is not None else b"",
        ).get_response(self._application)
        assert reply.status_int == status, reply.text
        if body is not None:
            self._keep(f"{name}-request", body)
        if reply.body:
            self._keep(f"{name}-response", reply.json)
            return reply.json
        return None

    def _keep(self, name: str, body: Any) -> None:
        text = json.dumps(body, indent=4, ensure_ascii=False) + "\n"
        text = _REQUEST_ID.sub("REQUEST_ID", text)
        text = text.replace(json.dumps(config.version()), '"1.0.0"')
        text = _TIME.sub(_SOME_TIME, _UUID.sub(self._steady, text))
        self.samples[f"{name}.json"] = text.replace("REQUEST_ID", _SOME_REQUEST_ID)

    def _steady(self, match: re.Match[str]) -> str:
        """Return a uuid that is the same in every run: the n-th that was seen."""
        number = len(self._uuids)
        return self._uuids.setdefault(
            match[0], str(uuid.uuid5(uuid.NAMESPACE_URL, f"sample {number}")))


def walk(application: faults.Application, cloud: clouds.Cloud) -> dict[str, str]:
    """Live through what the reference shows; returns the samples by file name."""
    steps = Walk(application)
    send = steps.send
    send("versions", "GET", "/")
    send("version", "GET", "/v2")

    group = {"resources:FPGA": "1", "trait:CUSTOM_FAKE_DEVICE": "required"}
    profile = send("device-profile-create", "POST", "/v2/device_profiles", [{
        "name": "fpga", "description": "One FPGA", "groups": [group]}], status=201)
    send("device-profile-list", "GET", "/v2/device_profiles")

    path = "/v2/accelerator_requests"
    arq = send("arq-create", "POST", path, {"device_profile_name": "fpga"},
               status=201)["arqs"][0]["uuid"]
    send("arq-bind", "PATCH", path, {arq: [
        {"path": "/hostname", "op": "add", "value": builders.HOST},
        {"path": "/device_rp_uuid", "op": "add", "value": builders.rp_uuid()},
        {"path": "/instance_uuid", "op": "add", "value": INSTANCE}]}, status=202)
    send("arq-list", "GET", f"{path}?instance={INSTANCE}")
    send("arq-show", "GET", f"{path}/{arq}")
    _migrate(send, path)
    send("device-profile-show", "GET", f"/v2/device_profiles/{profile['uuid']}")
    send("device-profile-update", "PATCH", "/v2/device_profiles/fpga", [
        {"op": "test", "path": "/description", "value": "One FPGA"},
        {"op": "replace", "path": "/description", "value": "One FPGA for tests"}])

    device = send("device-list", "GET", "/v2/devices?limit=1")["devices"][0]["uuid"]
    send("device-disable", "POST", f"/v2/devices/{device}/disable", {"reason": "broken fan"})
    send("device-show", "GET", f"/v2/devices/{device}")

    deployable = send("deployable-list", "GET",
                      "/v2/deployables?limit=1")["deployables"][0]["uuid"]
    send("deployable-show", "GET", f"/v2/deployables/{deployable}")
    send("deployable-program", "PATCH", f"/v2/deployables/{deployable}/program", [
        {"path": "/program", "op": "replace", "value": [{"image_uuid": IMAGE}]}], status=409)

    attribute = send("attribute-create", "POST", "/v2/attributes", {
        "deployable_id": 1, "key": "trait_color", "value": "CUSTOM_GREEN"}, status=201)["uuid"]
    send("attribute-list", "GET", "/v2/attributes?key=trait_color")
    send("attribute-show", "GET", f"/v2/attributes/{attribute}")

    service = send("service-list", "GET", "/v2/services?limit=2")["services"][0]["id"]
    send("service-disable", "PUT", f"/v2/services/{service}", {
        "status": "disabled", "disabled_reason": "moves to another rack"})

    orphan = send("orphan-list", "GET", "/v2/orphans")["orphans"][0]["id"]
    send("orphan-show", "GET", f"/v2/orphans/{orphan}")
    send("orphan-sweep", "POST", "/v2/orphans/sweep", {"host": builders.HOST, "dry_run": True},
         status=202)

    send("arq-unbind", "PATCH", path, {arq: [
        {"path": "/hostname", "op": "remove"}, {"path": "/device_rp_uuid", "op": "remove"},
        {"path": "/instance_uuid", "op": "remove"}]}, status=202)
    _split(send, cloud)
    return steps.samples


def _split(send: Callable[..., Any], cloud: clouds.Cloud) -> None:
    """Split a card of a host that comes only now, so that nothing before shows it."""
    card = split_cards.Card(card="A30-24GB", scheme="mig")
    card.split({"2g.12gb": 1, "1g.6gb": 1})
    cloud.client.report(split_cards.Agent([card], "node2").report())
    path = f"/v2/devices/{split_cards.uuid_of(host='node2')}/partitioning"
    send("device-partitioning-set", "PUT", path, {"partitions": [
        {"profile": "2g.12gb", "count": 1}, {"profile": "1g.6gb", "count": 2}]}, status=202)
    card.split({"2g.12gb": 1, "1g.6gb": 2})
    cloud.client.report(split_cards.Agent([card], "node2").report())
    send("device-partitioning-show", "GET", path)


def _migrate(send: Callable[..., Any], path: str) -> None:
    """Migrate another instance than the one of `walk`, so that this one stays as it is."""
    for name, more in (("arq-bind", {}), ("arq-bind-migration", {
            "/migration_uuid": MIGRATION, "/migration_type": "cold"})):
        arq = send("arq-create", "POST", path, {"device_profile_name": "fpga"},
                   status=201)["arqs"][0]["uuid"]
        values = {"/hostname": builders.HOST, "/device_rp_uuid": builders.rp_uuid(),
                  "/instance_uuid": MOVED, **more}
        send(name, "PATCH", path, {arq: [
            {"path": key, "op": "add", "value": value} for key, value in values.items()]},
            status=202)
    send("arq-switch", "POST", f"{path}/action", {"switch_migration": {
        "instance_uuid": MOVED, "migration_uuid": MIGRATION, "to": "destination"}})
    send("arq-end", "POST", f"{path}/action", {"end_migration": {
        "instance_uuid": MOVED, "migration_uuid": MIGRATION}})


@pytest.fixture(scope="module")
def fresh(shared_application: faults.Application, shared_cloud: clouds.Cloud) -> dict[str, str]:
    """The samples as the application makes them now, by file name."""
    samples = walk(shared_application, shared_cloud)
    if WRITE:
        SAMPLES.mkdir(parents=True, exist_ok=True)
        for stale in SAMPLES.glob("*.json"):
            stale.unlink()
        for name, text in samples.items():
            (SAMPLES / name).write_text(text)
    return samples


def test_the_reference_has_these_samples_and_no_other(fresh: dict[str, str]) -> None:
    assert {path.name for path in SAMPLES.glob("*.json")} == set(fresh), AGAIN


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_a_sample_is_what_the_application_says(fresh: dict[str, str],
                                               path: pathlib.Path) -> None:
    assert path.read_text() == fresh[path.name], AGAIN
