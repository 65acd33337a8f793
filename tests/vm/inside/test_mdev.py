# SPDX-License-Identifier: Apache-2.0
"""mdev_driver on parents of the kernel's own: made, run out, made again, removed."""

from __future__ import annotations

import pytest

from cyborg_lite.drivers import mdev
from cyborg_lite.drivers import mdev_work
from tests.vm.inside import agent
from tests.vm.inside import kernel
from tests.vm.inside import lab

MTTY = {"mdev": {"enabled_types": ["mtty-2"]}}


@pytest.fixture
def hosted(tmp_path):
    """Make an agent with the driver; every device that it leaves goes afterwards."""
    with kernel.no_mdevs_after():
        yield lambda **wishes: agent.Agent(mdev.MdevDriver, tmp_path / "state", **wishes)


def test_every_parent_is_offered(hosted):
    found = hosted().discover()
    assert {"mtty", "mdpy", "mbochs", lab.CARD, lab.OTHER_CARD, *lab.PAIR} <= set(found)


def test_the_wanted_type_is_offered_as_often_as_it_fits(hosted):
    host = hosted(options=MTTY)
    assert set(host.discover()) == {"mtty"}
    assert len(host.handles("mtty")) == lab.MTTY_PORTS // lab.MTTY_TYPES["mtty-2"]


def test_a_handle_becomes_a_device_of_its_uuid_and_is_removed(hosted):
    host = hosted(options=MTTY)
    host.discover()
    task = host.tasks("mtty")[0]
    for _ in range(2):
        host.driver.prepare(task)
        assert kernel.mdev_kind(task.handle_uuid) == ("mtty", "mtty-2")
    for _ in range(2):
        host.driver.clean(task)
        assert task.handle_uuid not in kernel.mdevs()


def test_all_handles_can_be_had_and_not_one_more(hosted):
    host = hosted(options=MTTY)
    host.discover()
    tasks = host.tasks("mtty")
    for task in tasks:
        host.driver.prepare(task)
    assert kernel.available("mtty", "mtty-2") == 0
    one_more = host.task("mtty", host.handles("mtty")[0])
    with pytest.raises(mdev_work.WorkFailed, match="no room for another mtty-2"):
        host.driver.prepare(one_more)
    assert one_more.handle_uuid not in kernel.mdevs()
    host.discover()
    assert len(host.handles("mtty")) == len(tasks)


def test_what_others_have_made_is_not_offered(hosted):
    host = hosted(options=MTTY)
    with kernel.mdev("mtty", "mtty-2"):
        host.discover()
        assert len(host.handles("mtty")) == lab.MTTY_PORTS // 2 - 1


def test_a_card_in_use_is_offered_as_the_type_that_it_holds(hosted):
    host = hosted()
    with kernel.mdev(lab.CARD, "nvidia-472"):
        host.discover()
        assert [handle.info["asked_type"] for handle in host.handles(lab.CARD)] == ["nvidia-472"]


def test_after_a_restart_what_is_needed_is_made_again(hosted):
    host = hosted(options=MTTY)
    host.discover()
    task = host.tasks("mtty")[0]
    host.driver.prepare(task)
    kernel.remove_mdev(task.handle_uuid)
    started_again = hosted(options=MTTY)
    started_again.driver.prepare(task)
    assert kernel.mdev_kind(task.handle_uuid) == ("mtty", "mtty-2")


def test_what_nobody_needs_goes_and_what_others_made_stays(hosted):
    host = hosted(options=MTTY)
    host.discover()
    needed, unneeded = host.tasks("mtty")[:2]
    host.driver.prepare(needed)
    host.driver.prepare(unneeded)
    with kernel.mdev("mtty", "mtty-1") as others:
        started_again = hosted(options=MTTY)
        started_again.driver.remove_unneeded([unneeded.handle_uuid, others])
        assert {needed.handle_uuid, others} <= kernel.mdevs()
        assert unneeded.handle_uuid not in kernel.mdevs()


def test_a_device_that_a_guest_has_is_not_waited_for(hosted):
    host = hosted(options=MTTY)
    host.discover()
    task = host.tasks("mtty")[0]
    host.driver.prepare(task)
    pauses = []
    work = mdev_work.MdevWork(host.environment, host.driver._records, wait=pauses.append)
    with kernel.open_in_vfio(task.handle_uuid), pytest.raises(
            mdev_work.WorkFailed, match="a guest has it open"):
        work.clean(task)
    assert len(pauses) == mdev_work.TRIES - 1
    work.clean(task)
    assert task.handle_uuid not in kernel.mdevs()
