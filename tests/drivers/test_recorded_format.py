# SPDX-License-Identifier: Apache-2.0
"""The manifest format and its recorder: nothing is lost, nothing leaves the tree, no serials."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import strategies

from cyborg_lite.drivers import recorded
from cyborg_lite.drivers import sysfs
from tests.drivers import machines
from tests.drivers import record

PARTS = strategies.from_regex(r"[A-Za-z0-9:._-]{1,12}", fullmatch=True).filter(
    lambda part: part not in (".", ".."))
PATHS = strategies.lists(PARTS, min_size=1, max_size=4).map("/".join)
CONTENTS = strategies.binary(max_size=60).map(
    lambda content: content.decode("utf-8", "surrogateescape"))


@hypothesis.given(PATHS, CONTENTS)
def test_any_content_survives_the_manifest(path: str, content: str) -> None:
    entry = recorded.Entry(path, "file", content)

    assert list(recorded.parse(recorded.write([entry]))) == [entry]


@hypothesis.given(strategies.text(max_size=80))
def test_any_text_is_parsed_or_refused_by_line(text: str) -> None:
    entries: list[recorded.Entry] = []
    with contextlib.suppress(recorded.BadManifest):
        entries = list(recorded.parse(text))

    assert [entry for entry in entries if entry.path.startswith("/")] == []


@pytest.mark.parametrize("line", [
    "/etc/passwd = x", "../up = x", "a/../../up = x", "a -> /etc/passwd", "a -> ../b",
    "a/b -> ../../c", "a ->", "lonely", "a//b = x"])
def test_a_line_that_leads_out_or_says_nothing_is_refused(line: str) -> None:
    with pytest.raises(recorded.BadManifest, match="line 2"):
        list(recorded.parse(f"# a comment\n{line}\n"))


def test_unpacking_twice_gives_the_same_tree(tmp_path: pathlib.Path) -> None:
    manifest = tmp_path / "small.sysfs"
    manifest.write_text("a/b = one\na/c == two\na/l -> b\na/secret !\nempty/\n")

    for _ in range(2):
        root = pathlib.Path(recorded.unpack(manifest, tmp_path / "sys"))

    assert (root / "a/b").read_text() == "one\n"
    assert (root / "a/c").read_text() == "two"
    assert os.readlink(root / "a/l") == "b"
    assert (root / "a/secret").stat().st_mode & 0o777 == 0o200
    assert list((root / "empty").iterdir()) == []


def test_unpacking_never_writes_through_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sys").mkdir()
    (tmp_path / "sys/door").symlink_to(tmp_path)
    manifest = tmp_path / "evil.sysfs"
    manifest.write_text("door/owned = yes\n")

    with pytest.raises(recorded.BadManifest, match="leads out"):
        recorded.unpack(manifest, tmp_path / "sys")

    assert not (tmp_path / "owned").exists()


def test_a_recorded_tree_reads_like_the_one_it_was_recorded_from(tmp_path: pathlib.Path) -> None:
    original = machines.tree(
        tmp_path, machines.a_function("0000:41:00.0", total_vfs=4, num_vfs=1, group=7),
        machines.a_function("0000:41:00.1", physfn="0000:41:00.0", group=8))

    output = subprocess.run(
        [sys.executable, record.__file__, "--sysfs", original.root], check=True, text=True,
        capture_output=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).stdout
    (tmp_path / "copy.sysfs").write_text(output)
    copy = sysfs.Sysfs(recorded.unpack(tmp_path / "copy.sysfs", tmp_path / "copy"))

    assert len(original.pci_functions()) == 2
    assert copy.pci_functions() == original.pci_functions()


@pytest.mark.parametrize(("name", "text", "kept"), [
    ("serial", "S4EWNX0R\n", "00000000\n"), ("address", "3c:fd:fe:a1:b2:c3\n",
                                            "00:00:00:00:00:00\n"),
    ("address", "0000:41:00.0\n", "0000:41:00.0\n"), ("model", "X710\n", "X710\n")])
def test_the_recorder_zeroes_serial_numbers_and_nothing_else(name: str, text: str,
                                                             kept: str) -> None:
    assert record.without_secrets(name, text) == kept
