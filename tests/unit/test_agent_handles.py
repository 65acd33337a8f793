# SPDX-License-Identifier: Apache-2.0
"""Work on handles: one result a task, one call at a time for each handle."""

from __future__ import annotations

import dataclasses
import pathlib
import threading

import pytest

from cyborg_lite import buses
from cyborg_lite import codec
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite.agent import hardware
from cyborg_lite.drivers import handle_slots
from tests.drivers.machines import a_function
from tests.drivers.machines import tree
from tests.fixtures.scripted import a_place
from tests.fixtures.scripted import a_task
from tests.fixtures.scripted import a_worker
from tests.fixtures.scripted import Catalogue
from tests.fixtures.scripted import scripted
from tests.fixtures.scripted import the_hardware

DEADLINE_S = 20


def test_each_task_has_its_result_and_an_exception_is_its_error(tmp_path: pathlib.Path) -> None:
    done: list[tuple[str, str]] = []

    def act(work: str, task: messages.HandleTask) -> None:
        if task.handle_uuid == "bad":
            raise OSError("the card does not answer")
        done.append((work, task.handle_uuid))

    machine = the_hardware(tmp_path, own=a_worker(act), idle=scripted())

    results = machine.handles.prepare([
        a_task("own", "one"), a_task("own", "bad"), a_task("own", "two"), a_task("idle", "three"),
        a_task("gone", "four")])
    machine.handles.clean([a_task("own", "one")])

    assert [(result.handle_uuid, result.error) for result in results] == [
        ("one", None), ("bad", "the card does not answer"), ("two", None), ("three", None),
        ("four", "driver gone is not at work on this host; enabled are own, idle")]
    assert done == [("prepare", "one"), ("prepare", "two"), ("clean", "one")]


@pytest.mark.parametrize(("address", "kind", "gone"), [
    ("0000:41:00.0", "PCI", False), ("0000:42:00.0", "PCI", True), ("0000:42:00.0", "MDEV", True),
    ("0000:42:00.0", "TEST_PCI", False), (None, "MDEV", False)])
def test_a_clean_step_that_fails_tells_when_the_host_has_no_such_function(
        tmp_path: pathlib.Path, address: str | None, kind: str, gone: bool) -> None:
    def act(work: str, task: messages.HandleTask) -> None:
        raise RuntimeError("no answer")

    reader = tree(tmp_path, a_function("0000:41:00.0"))
    machine = hardware.Hardware(["own"], {}, a_place(reader.root), Catalogue(own=a_worker(act)))
    info = handle_slots.address_info(address) if address else {"parent": "mtty"}
    task = dataclasses.replace(a_task("own"), type=kind, info=info)

    assert [result.gone for result in machine.handles.clean([task])] == [gone]
    assert [result.gone for result in machine.handles.clean(
        [dataclasses.replace(task, driver="not enabled")])] == [gone]
    assert [result.gone for result in machine.handles.prepare([task])] == [False]


def test_an_exception_without_text_is_an_error_with_its_name(tmp_path: pathlib.Path) -> None:
    def act(work: str, task: messages.HandleTask) -> None:
        raise ValueError

    (result,) = the_hardware(tmp_path, own=a_worker(act)).handles.clean([a_task("own")])

    assert result.error == "ValueError"


def test_a_repeated_call_for_a_handle_waits_for_the_first_and_others_do_not(
        tmp_path: pathlib.Path) -> None:
    entered, release, log = threading.Event(), threading.Event(), []

    def act(work: str, task: messages.HandleTask) -> None:
        log.append(f"{work} {task.handle_uuid} begins")
        if work == "prepare" and task.handle_uuid == "one":
            entered.set()
            assert release.wait(DEADLINE_S)
        log.append(f"{work} {task.handle_uuid} ends")

    machine = the_hardware(tmp_path, own=a_worker(act))
    first = threading.Thread(target=machine.handles.prepare, args=([a_task("own", "one")],))
    second = threading.Thread(target=machine.handles.clean, args=([a_task("own", "one")],))
    first.start()
    assert entered.wait(DEADLINE_S)
    second.start()

    machine.handles.prepare([a_task("own", "two")])
    release.set()
    for thread in (first, second):
        thread.join(DEADLINE_S)

    assert log == ["prepare one begins", "prepare two begins", "prepare two ends",
                   "prepare one ends", "clean one begins", "clean one ends"]


def test_nothing_more_is_done_once_the_caller_was_told_it_failed(tmp_path: pathlib.Path) -> None:
    done: list[str] = []

    def act(work: str, task: messages.HandleTask) -> None:
        done.append(task.handle_uuid)

    def check_deadline() -> None:
        # the first takes until nobody waits for it any more
        if done:
            raise errors.DeadlinePassed()

    machine = hardware.Hardware(["own"], {}, a_place(str(tmp_path)),
                                Catalogue(own=a_worker(act)), check_deadline=check_deadline)

    with pytest.raises(errors.DeadlinePassed):
        machine.handles.prepare([a_task("own", "one"), a_task("own", "two")])

    assert done == ["one"]


def test_a_repetition_waits_for_long_work_no_longer_than_its_caller(
        tmp_path: pathlib.Path) -> None:
    begun, finish = threading.Event(), threading.Event()
    late: list[bool] = []

    def act(work: str, task: messages.HandleTask) -> None:
        begun.set()
        assert finish.wait(20)

    def check_deadline() -> None:
        if late:
            raise errors.DeadlinePassed()

    machine = hardware.Hardware(["own"], {}, a_place(str(tmp_path)),
                                Catalogue(own=a_worker(act)), check_deadline=check_deadline)
    first = threading.Thread(target=machine.handles.clean, args=([a_task("own")],))
    first.start()
    assert begun.wait(20)
    late.append(True)

    with pytest.raises(errors.DeadlinePassed):
        machine.handles.clean([a_task("own")])

    assert first.is_alive()
    finish.set()
    first.join(20)


def test_a_long_clean_does_not_keep_the_next_call_from_other_handles(
        tmp_path: pathlib.Path) -> None:
    begun, finish = threading.Event(), threading.Event()
    done: list[str] = []

    def act(work: str, task: messages.HandleTask) -> None:
        if task.handle_uuid == "long":
            begun.set()
            assert finish.wait(20)
        done.append(task.handle_uuid)
        finish.set()

    machine = the_hardware(tmp_path, own=a_worker(act))
    first = threading.Thread(target=machine.handles.clean, args=([a_task("own", "long")],))
    first.start()
    assert begun.wait(20)

    results = machine.handles.clean([a_task("own", "long"), a_task("own", "other")])

    first.join(20)
    assert done == ["other", "long", "long"]
    assert {result.handle_uuid: result.error for result in results} == {
        "long": None, "other": None}


def test_a_call_that_arrives_too_late_does_nothing(tmp_path: pathlib.Path) -> None:
    done: list[str] = []
    machine = the_hardware(tmp_path, own=a_worker(lambda work, task: done.append(work)))

    class Endpoint:
        @buses.exposed
        def prepare(self, tasks: list[messages.HandleTask]) -> list[messages.HandleResult]:
            return machine.handles.prepare(tasks)

    reply = buses.Dispatcher(Endpoint()).dispatch(
        "prepare", {"deadline": 1.0}, {"tasks": codec.encode([a_task("own")])})

    assert reply["error"]["slug"] == errors.DeadlinePassed.slug
    assert done == []
