# SPDX-License-Identifier: Apache-2.0
"""`openstack accelerator orphan ...`, with a Placement and a Nova that knows no server."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from cyborg_lite import messages
from cyborg_lite.api import app
from cyborg_lite.wsgi import server
from tests.fixtures import builders
from tests.fixtures import cloud as clouds
from tests.fixtures import command_line
from tests.fixtures import nova as novas
from tests.fixtures import placement as placements

MISSING = "11111111-1111-4111-8111-111111111111"
MORE = """
[placement]
auth_type = admin_token
endpoint = {url}
token = admin
[reconcile]
enabled = false
dry_run = true
grace_period = 0
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clouds.Cloud]:
    folder: pathlib.Path = tmp_path_factory.mktemp("orphans")
    with placements.serving(folder) as placement, novas.serving() as nova:
        placement.make_compute_node(builders.HOST)
        nova.cloud.compute_hosts.append(builders.HOST)
        conf = clouds.configuration(
            folder, f"sqlite:///{folder}/test.sqlite", placement=placement.url, nova=nova.url,
            more=MORE.format(url=placement.url))
        with clouds.running(conf) as running:
            running.client.report(builders.a_report(1))
            yield running


@pytest.fixture(scope="module")
def openstack(cloud: clouds.Cloud, program: Callable[[str], command_line.OpenStack],
              ) -> Iterator[command_line.OpenStack]:
    """The client, for the service in this process."""
    listener = server.listen("127.0.0.1", 0)
    serving = server.Server(listener, app.make_app(cloud.conf, cloud.client), threads=4)
    with contextlib.ExitStack() as stack:
        serving.start()
        stack.callback(serving.stop)
        yield program(f"http://127.0.0.1:{listener.getsockname()[1]}/v2")


def test_what_a_deleted_server_left_is_found_told_and_cleaned(openstack, cloud):
    arq, = builders.bound_arqs(cloud.conductor.database)

    swept = openstack.several(
        "orphan sweep show", "orphan sweep --dry-run --wait -f json",
        "orphan list -f json", "orphan sweep --wait -f json", "orphan list --state seen -f json",
        "orphan sweep --wait --host node1 -f json",
        "orphan list --kind arq_instance_gone --host node1 --state confirmed --long -f json",
        "orphan sweep show -f json")

    counted, unrecorded, first, seen, second, confirmed, last = swept.documents
    assert "(HTTP 404)" in swept.errors
    assert len(swept.errors.splitlines()) == 1
    assert (counted["state"], counted["dry_run"], counted["counts"]["seen"]) == ("done", True, 1)
    assert unrecorded == []
    assert [each["object"] for each in seen] == [arq.uuid]
    assert len({counted["id"], first["id"], second["id"]}) == 3
    assert (second["host"], last) == ("node1", second)
    orphan, = confirmed
    assert (orphan["object"], orphan["state"], orphan["host"]) == (arq.uuid, "confirmed", "node1")
    assert orphan["reason"]
    assert orphan["action"]

    shown = openstack("orphan show", orphan["id"])
    cleaned = openstack("orphan clean", orphan["id"], "--wait")
    after = openstack.several("orphan list --state cleaned -f json",
                              "orphan list --state confirmed -f json",
                              f"orphan clean {orphan['id']} {MISSING}",
                              "orphan sweep --host nowhere")

    done, left = after.documents
    again, nowhere = after.errors.splitlines()
    assert "evidence" in shown.out
    assert (cleaned.status, cleaned.out, cleaned.errors) == (0, "", "")
    assert [each["id"] for each in done] == [orphan["id"]]
    assert left == []
    assert again.startswith("2 of 2 failed: ")
    assert "(HTTP 409)" in again
    assert "(HTTP 404)" in again
    assert "(HTTP 404)" in nowhere
    assert cloud.client.list_arqs(messages.ArqQuery(instance_uuid=arq.instance_uuid)) == []
