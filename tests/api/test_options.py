# SPDX-License-Identifier: Apache-2.0
"""Options of the API: what is taken over while it serves, and what keeps it from starting."""

from __future__ import annotations

import pathlib
import sys

import pytest
import webob
from oslo_config import cfg

from cyborg_lite.api import app
from cyborg_lite.api import faults
from tests.fixtures import cloud as clouds


def test_the_largest_page_follows_its_option(
        cloud: clouds.Cloud, application: faults.Application) -> None:
    file = pathlib.Path(cloud.conf.config_file[0])
    file.write_text(f"{file.read_text()}\n[api]\nmax_limit = 1\n")

    cloud.conf.mutate_config_files()
    reply = webob.Request.blank("/v2/devices", headers={
        "OpenStack-API-Version": "accelerator 2.10"}).get_response(application)

    assert len(reply.json["devices"]) == 1
    assert [link["rel"] for link in reply.json["devices_links"]] == ["next"]


def test_a_cache_of_tokens_without_its_library_ends_the_start(
        cloud: clouds.Cloud, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "memcache", None)
    conf = clouds.configuration(tmp_path, "sqlite://", more=(
        "[keystone_authtoken]\nauth_type = none\nmemcached_servers = cache:11211\n"))
    conf.set_override("auth_strategy", "keystone", group="api")

    with pytest.raises(cfg.Error, match=r"memcached_servers = cache:11211: .* extra memcached"):
        app.make_app(conf, cloud.client)


@pytest.mark.parametrize(("more", "said"), [
    ("", True), ("auth_type = none", False), ("auth_section = nova", False)])
def test_that_nobody_can_check_tokens_is_said_at_the_start(
        more: str, said: bool, cloud: clouds.Cloud, tmp_path: pathlib.Path,
        caplog: pytest.LogCaptureFixture) -> None:
    conf = clouds.configuration(tmp_path, "sqlite://", more=f"[keystone_authtoken]\n{more}\n")
    conf.set_override("auth_strategy", "keystone", group="api")

    app.make_app(conf, cloud.client)

    assert ("[keystone_authtoken] auth_type is not set" in caplog.text) is said
