# SPDX-License-Identifier: Apache-2.0
"""Which versions list a device that offers nothing. Why it is withheld is its driver's business."""

from __future__ import annotations

import pytest
import webob

from cyborg_lite.api import faults
from tests.fixtures import builders
from tests.fixtures import cloud as clouds


@pytest.mark.parametrize(("version", "reasons"), [
    ("2.6", [None, None]), ("2.7", [None, None, "it is in MIG mode"])])
def test_a_withheld_device_is_listed_from_2_7_on(
        cloud: clouds.Cloud, application: faults.Application, version: str,
        reasons: list[str | None]) -> None:
    cloud.client.report(builders.a_report(
        2, withheld={"0000:41:00.0": "it is in MIG mode"}, withheld_type="GPU"))

    reply = webob.Request.blank("/v2/devices", headers={
        "X-Roles": "admin", "X-Project-Id": "p", "X-User-Id": "u",
        "OpenStack-API-Version": f"accelerator {version}"}).get_response(application)

    assert [device.get("status_reason") for device in reply.json["devices"]] == reasons
