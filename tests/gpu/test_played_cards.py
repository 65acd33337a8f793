# SPDX-License-Identifier: Apache-2.0
"""The reading and the checks of real cards, on played ones: no odd machine may make them stumble.

What holds of real cards is in `test_real_cards.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pynvml
import pytest

from tests.drivers.nvidia_mig import lab
from tests.gpu import checks
from tests.gpu import reading
from tests.nvml import stand_in

Start = Callable[..., lab.Lab]

A100, H100, H200 = "A100-40GB", "H100-80GB", "H200-141GB"
CARD = lab.CARD
PLACES = "nvmlDeviceGetGpuInstancePossiblePlacements_v2"
PROFILES = "nvmlDeviceGetGpuInstanceProfileInfoV"


@pytest.fixture
def host(nvml_library: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Start]:
    """Start a host with such cards; this process sees its NVML."""
    with contextlib.ExitStack() as stack:
        def start(*cards: Any, **how: Any) -> lab.Lab:
            made = lab.Lab(nvml_library, tmp_path, *cards, **how)
            stack.enter_context(made.nvml.here())
            return made.boot()
        yield start


def found(there: lab.Lab) -> reading.Found:
    """As it comes out of the process that reads."""
    answer: reading.Found = json.loads(json.dumps(reading.found(pynvml, there.root)))
    return answer


def all_hold(address: str, told: checks.Told) -> None:
    assert checks.why_not(address, told) is None
    card = checks.card_of(address, told)
    checks.profiles(card)
    checks.all_layouts(card)
    checks.published(card, told["product"])
    checks.partitions(card)
    if told["room"] is not None:
        checks.room(card, {int(number): count for number, count in told["room"].items()})
    assert told["reported"] == "yes"


def a_card(model: str, *more: dict[str, Any], without: tuple[str, ...] = ()) -> stand_in.Card:
    """A published card, of a driver that knows these profiles more and those not."""
    card = stand_in.Card(model)
    card.facts = {**card.facts, "profiles": [
        each for each in card.profiles if each["name"] not in without] + list(more)}
    return card


def variant(model: str, suffix: str, number: int, index: int, most: int) -> dict[str, Any]:
    """Its smallest profile with a suffix that the card is not published with."""
    plain = stand_in.mig_cards()[model]["profiles"][0]
    return {**plain, "name": plain["name"] + suffix, "id": number, "index": index, "max": most}


# --- cards as they are ------------------------------------------------------------------------

@pytest.mark.parametrize("model", ["A30-24GB", H200, "RTX-PRO-6000-Blackwell-96GB"])
def test_a_card_whose_mode_is_off_is_checked(host: Start, model: str) -> None:
    answer = found(host(model))

    assert answer["left_out"] == []
    assert answer["cards"][CARD]["mode"] == [0, 0]
    all_hold(CARD, answer["cards"][CARD])


def test_a_card_that_is_split_is_checked_with_the_room_it_has_left(host: Start) -> None:
    there = host(H100)
    there.apply("3g.40gb", "1g.20gb", "1g.10gb")

    told = found(there)["cards"][CARD]

    assert told["room"]["19"] > 0
    all_hold(CARD, told)


def test_a_driver_with_profiles_that_are_not_published_yet(host: Start) -> None:
    answer = found(host(a_card(H200, variant(H200, "+gfx", 47, 10, 7),
                               variant(H200, "-me", 67, 13, 7),
                               variant(H200, "+me.all", 65, 15, 1))))

    assert len(answer["cards"][CARD]["profiles"]) == 10
    all_hold(CARD, answer["cards"][CARD])


def test_a_driver_that_is_older_than_some_profiles(host: Start) -> None:
    answer = found(host(a_card(A100, without=("1g.5gb+me", "1g.10gb"))))

    assert len(answer["cards"][CARD]["profiles"]) == 5
    all_hold(CARD, answer["cards"][CARD])


def test_names_without_the_word_mig(nvml_library: pathlib.Path, tmp_path: pathlib.Path) -> None:
    there = lab.Lab(nvml_library, tmp_path, H200)
    cards = there.nvml.folder / "cards"
    cards.write_text(cards.read_text("utf-8").replace("|MIG ", "|"), "utf-8")
    with there.nvml.here():
        all_hold(CARD, found(there.boot())["cards"][CARD])


# --- cards that can't be checked --------------------------------------------------------------

def test_who_is_not_root_is_told_so(host: Start) -> None:
    there = host(H200)
    there.nvml.happen("unprivileged", value=1)

    told = found(there)["cards"][CARD]

    assert "tells places of partitions to root only" in (checks.why_not(CARD, told) or "")


@pytest.mark.parametrize(("call", "code"), [(PLACES, 3), (PROFILES, 3)])
def test_a_driver_that_is_silent_while_the_mode_is_off(host: Start, call: str, code: int) -> None:
    there = host(H200)

    with there.nvml.failing(";".join(f"{call}:{nth}={code}" for nth in range(1, 16))):
        told = found(there)["cards"][CARD]

    assert checks.why_not(CARD, told) == f"{CARD} names no places while MIG mode is off"


def test_places_that_are_missing_while_the_mode_is_on_are_no_excuse(host: Start) -> None:
    there = host(H200)
    there.apply("7g.141gb")

    with there.nvml.failing(f"{PLACES}:1=3"):
        told = found(there)["cards"][CARD]

    with pytest.raises(AssertionError, match=r"name='1g.18gb'"):
        checks.profiles(checks.card_of(CARD, told))


def test_cards_that_can_not_be_read_do_not_hide_the_others(host: Start) -> None:
    there = host("T4", H100, A100)
    there.nvml.happen("lost", card=1, value=1)

    answer = found(there)

    assert list(answer["cards"]) == [lab.address_of(2)]
    assert answer["left_out"] == ["card 1 can't be read (GPU is lost)"]
    all_hold(lab.address_of(2), answer["cards"][lab.address_of(2)])


def test_an_answer_that_nobody_expected_is_said_with_its_call(host: Start) -> None:
    there = host(H200)

    with there.nvml.failing(f"{PROFILES}:3=999"):
        told = found(there)["cards"][CARD]

    assert checks.why_not(CARD, told) is None
    with pytest.raises(AssertionError, match="nvmlDeviceGetGpuInstanceProfileInfo: Unknown"):
        checks.card_of(CARD, told)


@pytest.mark.parametrize(("code", "text"), [(9, "Driver Not Loaded"), (18, "mismatch"),
                                            (12, "Shared Library Not Found")])
def test_without_nvml_there_is_nothing_to_read(host: Start, code: int, text: str) -> None:
    there = host(H200)

    with there.nvml.failing(f"nvmlInitWithFlags:1={code}"):
        answer = found(there)

    assert answer["cards"] == {}
    assert text in answer["left_out"][0]


# --- what must be noticed ---------------------------------------------------------------------

def test_a_card_that_is_not_as_published_is_noticed(host: Start) -> None:
    odd = a_card(H200)
    odd.facts["profiles"] = [{**each, "starts": [0, 4], "max": 2} if each["name"] == "2g.35gb"
                             else each for each in odd.profiles]

    told = found(host(odd))["cards"][CARD]

    with pytest.raises(AssertionError, match=r"2g\.35gb"):
        checks.published(checks.card_of(CARD, told), told["product"])


def test_room_that_is_not_there_is_noticed(host: Start) -> None:
    there = host(H100)
    there.apply("3g.40gb")
    told = found(there)["cards"][CARD]

    with pytest.raises(AssertionError, match=r"1g\.10gb"):
        checks.room(checks.card_of(CARD, told), {
            int(number): count - (number == "19") for number, count in told["room"].items()})


# --- the process ------------------------------------------------------------------------------

def in_a_process(there: lab.Lab, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], check=False, text=True, capture_output=True, timeout=120,
        env={**there.nvml.environment(), "PYTHONPATH": os.pathsep.join(sys.path)})


def test_the_process_reads_and_changes_nothing(host: Start) -> None:
    there = host(A100, H200)
    there.apply("3g.20gb")
    before = there.changes()

    done = in_a_process(there, "-m", "tests.gpu.reading", there.root)

    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["cards"]) == [CARD, lab.address_of(1)]
    assert there.changes() == before


def test_whatever_would_change_a_card_is_out_of_reach(host: Start) -> None:
    there = host(A100)

    done = in_a_process(there, "-c", "import pynvml\nfrom tests.gpu import reading\n"
                        "reading.allow_reading_alone(pynvml)\npynvml.nvmlInit()\n"
                        "card = pynvml.nvmlDeviceGetHandleByIndex(0)\n"
                        "pynvml.nvmlDeviceSetMigMode(card, 1)")

    assert "these tests change nothing" in done.stderr
    assert there.changes() == []


def test_a_reading_of_a_machine_without_packages_is_judged_on_another(
        host: Start, tmp_path: pathlib.Path) -> None:
    there = host("T4", H200, a_card(A100))
    without = "import sys; sys.modules['oslo_privsep'] = None"
    done = in_a_process(there, "-c", f"{without}; from tests.gpu import reading; reading.main()")
    assert done.returncode == 0, done.stderr
    (tmp_path / "reading").write_text(done.stdout, "utf-8")

    judged = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs",
         "tests/gpu/test_real_cards.py"], check=False, text=True, capture_output=True, timeout=120,
        env={**os.environ, "TESTS_GPU_READING": str(tmp_path / "reading")})

    assert judged.returncode == 0, judged.stdout
    assert "8 passed, 4 skipped" in judged.stdout
