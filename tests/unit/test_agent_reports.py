# SPDX-License-Identifier: Apache-2.0
"""What is reported of a device: what the agent fills in, and what the digest tells."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import random
from typing import Any

import pytest

from cyborg_lite import codec
from cyborg_lite import messages
from cyborg_lite.agent import reports
from cyborg_lite.drivers import fake
from tests.fixtures.scripted import a_device
from tests.fixtures.scripted import a_worker
from tests.fixtures.scripted import scripted
from tests.fixtures.scripted import the_hardware

# --- digest -----------------------------------------------------------------------------------


def test_the_digest_does_not_depend_on_any_order() -> None:
    handles = [messages.ReportedHandle(type="TEST_PCI", info={"n": str(n)}) for n in range(6)]
    deployables = [messages.ReportedDeployable(
        name=f"d{n}", resource_class="FPGA", handles=handles, traits=["A", "B", "C"])
        for n in range(3)]
    devices = [a_device(address="0000:41:00.0", deployables=deployables),
               a_device(address="0000:42:00.0", deployables=[])]

    shuffled = []
    order = random.Random(7)
    for device in reversed(devices):
        parts = [dataclasses.replace(
            each, handles=order.sample(handles, 6), traits=["C", "A", "B"])
            for each in order.sample(deployables, 3)] if device.deployables else []
        shuffled.append(dataclasses.replace(device, deployables=parts))

    assert reports.digest_of(devices, ["x", "y"]) == reports.digest_of(shuffled, ["y", "x"])


@pytest.mark.parametrize("change", [
    {"model": "20b5"}, {"numa_node": 1}, {"deployables": []}, {"vendor_board_info": "x"}])
def test_the_digest_tells_every_change(change: dict[str, Any]) -> None:
    assert reports.digest_of([a_device()], []) != reports.digest_of([a_device(**change)], [])


def test_a_failed_driver_changes_the_digest(tmp_path: pathlib.Path) -> None:
    own = scripted()
    machine = the_hardware(tmp_path, own=own)
    before = machine.discover().digest

    own.answer = RuntimeError("dead")

    assert machine.discover().digest != before


def test_the_digest_is_the_same_for_the_report_that_has_travelled(
        tmp_path: pathlib.Path) -> None:
    found = the_hardware(tmp_path, {"fake": {}}, fake_driver=fake.FakeDriver).discover()

    travelled = codec.decode(list[messages.ReportedDevice],
                           json.loads(json.dumps(codec.encode(found.devices))))

    assert reports.digest_of(travelled, []) == found.digest
    assert len(found.digest) == 64


# --- steps -------------------------------------------------------------------------------------


def test_deployables_of_a_driver_with_the_ability_need_both_steps(tmp_path: pathlib.Path) -> None:
    (device,) = the_hardware(tmp_path, own=a_worker(lambda *_: None, a_device())).discover().devices

    assert (device.deployables[0].prepares, device.deployables[0].cleans) == (True, True)


def test_what_the_driver_says_about_its_deployable_counts(tmp_path: pathlib.Path) -> None:
    device = a_device()
    told = [dataclasses.replace(device.deployables[0], cleans=True)]
    worker = a_worker(lambda *_: None, dataclasses.replace(device, deployables=told))

    (found,) = the_hardware(tmp_path, own=worker).discover().devices

    assert (found.deployables[0].prepares, found.deployables[0].cleans) == (False, True)


@pytest.mark.parametrize(("knows", "steps"), [(True, (False, False)), (False, (True, True))])
def test_a_driver_that_knows_its_steps_may_say_that_neither_is_needed(
        knows: bool, steps: tuple[bool, bool], tmp_path: pathlib.Path) -> None:
    worker = a_worker(lambda *_: None, a_device())
    worker.knows_steps = knows

    (found,) = the_hardware(tmp_path, own=worker).discover().devices

    assert (found.deployables[0].prepares, found.deployables[0].cleans) == steps


def test_a_driver_that_promises_a_step_it_cannot_do_has_failed(tmp_path: pathlib.Path) -> None:
    device = a_device()
    told = [dataclasses.replace(device.deployables[0], cleans=True)]

    found = the_hardware(
        tmp_path, own=scripted(dataclasses.replace(device, deployables=told))).discover()

    assert found.failed_drivers == ["own"]
