# SPDX-License-Identifier: Apache-2.0
"""The note of what is ours survives crashes; what can't be read is never taken for empty."""

from __future__ import annotations

import json
import os
import pathlib
import threading

import pytest

from cyborg_lite.drivers import handle_records


def a_record(parent: str = "0000:41:00.4", **more: str) -> handle_records.Record:
    return handle_records.Record(
        card="0000:41:00.0", parent=parent, type_id="nvidia-469", name="NVIDIA A100-10C",
        info={"asked_type": "nvidia-469", **more})


def records(folder: pathlib.Path) -> handle_records.HandleRecords:
    return handle_records.HandleRecords(str(folder), "nvidia_gpu_driver")


def test_what_is_put_is_found_by_the_next_process(tmp_path: pathlib.Path) -> None:
    records(tmp_path / "new").put("u1", a_record(vgpu_mark="m"))
    records(tmp_path / "new").put("u2", a_record("0000:41:00.5"))
    records(tmp_path / "new").drop("u2")
    records(tmp_path / "new").drop("never")

    assert records(tmp_path / "new").all() == {"u1": a_record(vgpu_mark="m")}


def test_without_a_file_nothing_is_ours(tmp_path: pathlib.Path) -> None:
    assert records(tmp_path).all() == {}
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 2, "handles": {}}',
                                  '{"version": 1, "handles": {"u": {}}}',
                                  '{"version": 1, "handles": {"u": {"card": "c", "parent": "p",'
                                  ' "type_id": "t", "name": "n", "info": 3}}}'])
def test_a_file_that_can_not_be_read_is_an_error_and_stays(
        tmp_path: pathlib.Path, text: str) -> None:
    """Taken for empty, every vGPU in use would be a stranger's."""
    path = tmp_path / "nvidia_gpu_driver.json"
    path.write_text(text)

    with pytest.raises(handle_records.Unusable, match="can't be read"):
        records(tmp_path).all()
    with pytest.raises(handle_records.Unusable):
        records(tmp_path).put("u1", a_record())

    assert path.read_text() == text


def test_a_half_written_file_of_a_crash_is_ignored(tmp_path: pathlib.Path) -> None:
    records(tmp_path).put("u1", a_record())
    (tmp_path / "nvidia_gpu_driver.json.new").write_text('{"version": 1, "han')

    records(tmp_path).put("u2", a_record("0000:41:00.5"))

    assert set(records(tmp_path).all()) == {"u1", "u2"}


def test_a_field_of_a_later_version_is_ignored(tmp_path: pathlib.Path) -> None:
    records(tmp_path).put("u1", a_record())
    path = tmp_path / "nvidia_gpu_driver.json"
    data = json.loads(path.read_text())
    data["handles"]["u1"]["from_the_future"] = 1
    path.write_text(json.dumps(data))

    assert records(tmp_path).all() == {"u1": a_record()}


def test_the_preflight_knows_and_writes_nothing(tmp_path: pathlib.Path) -> None:
    records(tmp_path).put("u1", a_record())
    checking = handle_records.HandleRecords(str(tmp_path), "nvidia_gpu_driver", read_only=True)

    assert checking.all() == {}
    with pytest.raises(handle_records.Unusable):
        checking.put("u2", a_record())


def test_threads_of_two_drivers_with_one_file_lose_nothing(tmp_path: pathlib.Path) -> None:
    """A reload makes a driver anew while calls to the old one are under way."""
    def fill(name: str) -> None:
        own = records(tmp_path)
        for number in range(20):
            own.put(f"{name}{number}", a_record())

    threads = [threading.Thread(target=fill, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(records(tmp_path).all()) == 60
