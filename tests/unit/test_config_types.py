# SPDX-License-Identifier: Apache-2.0
"""Groups that other options name: [vgpu_<type>] and [mdev_<type>], as drivers get them."""

from __future__ import annotations

import pathlib

import pytest
from oslo_config import cfg

from cyborg_lite import config
from cyborg_lite.agent import settings

TEXT = """
[agent]
device_config_dir = {folder}
[gpu_devices]
enabled_vgpu_types = nvidia-35, A100-1-5C,NVIDIA RTX Pro 6000 Blackwell DC-3Q
[vgpu_nvidia-35]
device_addresses = 0000:84:00.0,0000:85:00.0
[vgpu_NVIDIA RTX Pro 6000 Blackwell DC-3Q]
device_addresses = 0000:ca:00.0
[mdev]
created_by = nova
enabled_types = mtty-2
[mdev_mtty-2]
device_addresses = mtty
resource_class = CUSTOM_SERIAL
traits = CUSTOM_LAB
"""


def read(folder: pathlib.Path, text: str) -> settings.Settings:
    path = folder / "cyborg-lite.conf"
    path.write_text(text.format(folder=folder / "devices.d"))
    return settings.read(config.load(["--config-file", str(path)], cfg.ConfigOpts()))


def test_each_enabled_type_has_a_group_of_its_own(tmp_path: pathlib.Path) -> None:
    options = read(tmp_path, TEXT).options

    assert options["gpu_devices"]["types"] == {
        "nvidia-35": {"device_addresses": ["0000:84:00.0", "0000:85:00.0"]},
        "A100-1-5C": {"device_addresses": []},
        "NVIDIA RTX Pro 6000 Blackwell DC-3Q": {"device_addresses": ["0000:ca:00.0"]}}
    assert options["mdev"]["types"] == {"mtty-2": {
        "device_addresses": ["mtty"], "resource_class": "CUSTOM_SERIAL",
        "traits": ["CUSTOM_LAB"]}}
    assert options["mdev"]["created_by"] == "nova"


def test_without_types_there_are_no_groups(tmp_path: pathlib.Path) -> None:
    options = read(tmp_path, "").options

    assert options["gpu_devices"]["types"] == options["mdev"]["types"] == {}
    assert options["mdev"]["created_by"] == "agent"


def test_somebody_else_who_makes_mediated_devices_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(cfg.Error, match="Valid values"):
        read(tmp_path, "[mdev]\ncreated_by = libvirt\n")
