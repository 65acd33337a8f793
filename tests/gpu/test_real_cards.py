# SPDX-License-Identifier: Apache-2.0
"""On a machine with a MIG-capable GPU: what NVML says of it, layouts.py, and what is published.

Nothing is changed. Elsewhere all of it is skipped, with one line that says why. A reading that was
taken on another machine is judged instead where TESTS_GPU_READING names its file.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.gpu import checks
from tests.gpu import reading


def read() -> reading.Found:
    taken = os.environ.get("TESTS_GPU_READING")
    if taken:
        of_elsewhere: reading.Found = json.loads(pathlib.Path(taken).read_text("utf-8"))
        return of_elsewhere
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.reading"], check=False, timeout=300, text=True,
        capture_output=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    if done.returncode:
        raise RuntimeError(f"reading ended with {done.returncode}\n{done.stderr}")
    found: reading.Found = json.loads(done.stdout)
    return found


FOUND = read()
SILENT = {address: why for address, told in FOUND["cards"].items()
          if (why := checks.why_not(address, told))}
CARDS = [address for address in FOUND["cards"] if address not in SILENT]
if not CARDS:
    pytest.skip("needs a MIG-capable GPU: " + "; ".join(
        [*FOUND["left_out"], *SILENT.values()] or ["no card of this machine has MIG"]),
        allow_module_level=True)

each_card = pytest.mark.parametrize("address", CARDS)


@each_card
def test_the_profiles_have_room_for_as_many_as_they_say(address: str) -> None:
    checks.profiles(checks.card_of(address, FOUND["cards"][address]))


@each_card
def test_the_layouts_are_those_that_trying_everything_finds(address: str) -> None:
    checks.all_layouts(checks.card_of(address, FOUND["cards"][address]))


@each_card
def test_a_published_card_has_the_published_places(address: str) -> None:
    told = FOUND["cards"][address]

    checks.published(checks.card_of(address, told), told["product"])


@each_card
def test_the_partitions_that_exist_are_a_valid_layout(address: str) -> None:
    checks.partitions(checks.card_of(address, FOUND["cards"][address]))


@each_card
def test_as_many_more_fit_as_nvml_says(address: str) -> None:
    told = FOUND["cards"][address]
    if told["room"] is None:
        pytest.skip(f"{address} tells no room while MIG mode is off")

    checks.room(checks.card_of(address, told),
                {int(number): count for number, count in told["room"].items()})


@each_card
def test_the_driver_reports_the_card(address: str) -> None:
    reported = FOUND["cards"][address]["reported"]
    if reported is None:
        pytest.skip(f"sysfs does not show {address} on nvidia, or our driver was not asked")

    assert reported == "yes"
