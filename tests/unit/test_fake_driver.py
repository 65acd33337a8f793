# SPDX-License-Identifier: Apache-2.0
"""fake_driver: devices that are not there, for tests of everything else."""

from __future__ import annotations

import json
import pathlib

from cyborg_lite.drivers import fake
from tests.fixtures.scripted import the_hardware


def test_fake_driver_reports_what_existing_test_suites_expect(tmp_path: pathlib.Path) -> None:
    (device,) = the_hardware(tmp_path, fake_driver=fake.FakeDriver).discover().devices

    (deployable,) = device.deployables
    assert (device.type, device.vendor, device.model) == ("FPGA", "0xABCD", "miss model info")
    assert device.driver == "fake_driver"
    assert (deployable.name, deployable.resource_class) == ("FakeDevice", "FPGA")
    assert deployable.traits == ["CUSTOM_FAKE_DEVICE"]
    assert {handle.type for handle in deployable.handles} == {"TEST_PCI"}
    assert len({json.dumps(handle.info) for handle in deployable.handles}) == 16
    assert not deployable.prepares
    assert not deployable.cleans


def test_many_fake_devices_share_no_name_and_no_handle(tmp_path: pathlib.Path) -> None:
    options = {"fake": {"num_devices": 64, "num_handles": 300}}

    devices = the_hardware(tmp_path, options, fake_driver=fake.FakeDriver).discover().devices

    handles = [json.dumps(handle.info, sort_keys=True) for device in devices
               for deployable in device.deployables for handle in deployable.handles]
    assert len({device.address for device in devices}) == 64
    assert len(set(handles)) == len(handles) == 64 * 300


def test_more_fake_handles_leave_those_of_other_devices_alone(tmp_path: pathlib.Path) -> None:
    def infos(num_handles: int) -> list[dict[str, str]]:
        options = {"fake": {"num_devices": 2, "num_handles": num_handles}}
        devices = the_hardware(tmp_path, options, fake_driver=fake.FakeDriver).discover().devices
        return [handle.info for handle in devices[1].deployables[0].handles]

    assert infos(32)[:16] == infos(16)
