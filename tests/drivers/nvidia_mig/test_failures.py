# SPDX-License-Identifier: Apache-2.0
"""Any call of NVML that fails, a process that dies, a host that starts anew, while a card is split.

After each the card has the wish or what it had before, or the fault says what it has; the report
says what the card has; and the same wish again makes it true.
"""

from __future__ import annotations

import collections
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

from cyborg_lite.drivers import base
from cyborg_lite.drivers import nvidia_mig_work
from tests.drivers.nvidia_mig import lab
from tests.nvml import asking  # noqa: F401  the binding is loaded before calls are counted

Start = Callable[..., lab.Lab]

OLD = ("3g.20gb", "2g.10gb", "1g.5gb")
NEW = ("4g.20gb", "1g.5gb*3")

KILLED = -9

APPLY = """
    import sys
    from cyborg_lite.drivers import base, nvidia_mig, privileged, sysfs
    from tests.drivers.nvidia_mig import lab
    privileged.run_here()
    driver = nvidia_mig.NvidiaMigDriver(base.Environment(
        sysfs.Sysfs(sys.argv[1]), state_path=sys.argv[2]))
    driver.apply_layout(lab.wish(*sys.argv[3:]))
"""


def counts(parts: tuple[str, ...]) -> dict[str, int]:
    return {each.profile: each.count for each in lab.wish(*parts).partitions}


def has(there: lab.Lab) -> dict[str, int]:
    return dict(collections.Counter(name for name, _ in there.partitions()))


def is_whole(there: lab.Lab) -> bool:
    told = there.kernel.look_at_partitions([lab.CARD])[lab.CARD]
    return all(each[4] for each in told["partitions"])


SMALL_OLD, SMALL_NEW = ("2g.12gb", "1g.6gb"), ("1g.6gb*3",)


Parts = tuple[str, ...]
CARDS = [(lab.A100, ("2g.10gb", "1g.5gb"), ("1g.5gb*3",)),
         (lab.A100_80, ("2g.20gb", "1g.10gb"), ("1g.10gb*3",)),
         (lab.H100, ("2g.20gb", "1g.10gb"), ("1g.10gb*3",)),
         (lab.H200, ("2g.35gb", "1g.18gb"), ("1g.18gb*3",))]
"""Card, the layout before, and the one that is wished for."""


@pytest.mark.parametrize(("model", "start", "wished", "code"), [
    *((lab.A30, SMALL_OLD, SMALL_NEW, code) for code in ("19", "4", "3", "999!")),
    *((lab.A30, (), SMALL_NEW, code) for code in ("19", "4", "999!")),
    *((*card, code) for card in CARDS for code in ("19", "999!"))], ids=str)
def test_whichever_call_fails_once_the_old_layout_or_the_wish_is_there(
        host: Start, model: str, start: Parts, wished: Parts, code: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    there = host(model)

    def from_the_start() -> None:
        there.nvml.happen("reset")
        if start:
            there.apply(*start)

    from_the_start()
    before = len(there.nvml.calls())
    there.apply(*wished)
    number = len(there.nvml.calls()) - before
    monkeypatch.setenv("STAND_IN_NVML_LOG", "")
    faults = said_so = 0
    for nth in range(1, number + 1):
        from_the_start()
        fault = ""
        with there.nvml.failing(f"*:{nth}={code}"):
            try:
                there.apply(*wished)
            except Exception as error:
                fault = str(error)
                faults += 1
                said_so += isinstance(error, base.AsBefore)

        assert has(there) == counts(start if fault else wished), (nth, fault)
        assert is_whole(there), (nth, fault)
        there.apply(*wished)
        assert has(there) == counts(wished), nth
    assert faults
    assert said_so


@pytest.mark.parametrize("call", lab.CHANGES[1:4])
def test_a_call_that_fails_for_good_leaves_what_the_fault_says(host: Start, call: str) -> None:
    there = host(lab.A100)
    there.apply(*OLD)
    failing = ";".join(f"{call}:{nth}=999" for nth in range(1, 15))

    with there.nvml.failing(failing), pytest.raises(nvidia_mig_work.Fault) as fault:
        there.apply(*NEW)

    assert isinstance(fault.value, base.AsBefore) == (
        has(there) == counts(OLD) and is_whole(there))
    said = str(fault.value).rpartition("the card has ")[2]
    said, _, rest = said.partition(" now")
    names = {name if number == 1 else f"{number}x{name}" for name, number in has(there).items()}
    assert set(said.removesuffix(" as before").split(" + ")) == (names or {"no partitions"})
    assert ("without a compute instance" in rest) == (not is_whole(there))
    there.apply(*NEW)
    assert has(there) == counts(NEW)


def test_a_partition_that_was_not_seen_before_is_not_destroyed_on_the_way_back(
        host: Start) -> None:
    there = host(lab.A30)
    there.apply(*SMALL_OLD)
    call = "nvmlDeviceGetGpuInstanceProfileInfoV"
    before = there.nvml.calls().count(call)
    there.discover()
    a_look = there.nvml.calls().count(call) - before

    # the look that the plan is made of misses the profile of the larger partition
    with there.nvml.failing(f"{call}:{a_look + 2}=3"), \
            pytest.raises(nvidia_mig_work.Fault) as fault:
        there.apply(*SMALL_NEW)

    assert "the card has 2g.12gb + 1g.6gb now" in str(fault.value)
    assert has(there) == counts(SMALL_OLD)


def test_a_card_that_is_lost_meanwhile_is_said_to_be_unknown(host: Start) -> None:
    there = host(lab.A100)
    there.apply(*OLD)
    failing = "nvmlGpuInstanceDestroy:1=15;" + ";".join(
        f"nvmlDeviceGetHandleByPciBusId_v2:{nth}=15" for nth in range(3, 15))

    with there.nvml.failing(failing), pytest.raises(nvidia_mig_work.Fault) as fault:
        there.apply(*NEW)

    assert "what the card has now can't be told" in str(fault.value)


def apply_in_a_process(there: lab.Lab, fail: str, parts: tuple[str, ...]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(APPLY), there.root, str(there.folder / "state"),
         *parts], env={**there.nvml.environment(fail), "PYTHONPATH": ":".join(sys.path)},
        check=False, timeout=60, capture_output=True)
    return done.returncode


KILLS = [f"{call}:{nth}=kill" for call in lab.CHANGES[1:] for nth in (1, 3)]


@pytest.mark.parametrize("fail", KILLS)
def test_an_agent_killed_in_a_call_is_continued_by_the_next(host: Start, fail: str) -> None:
    there = host(lab.A100)
    there.apply(*OLD)

    assert apply_in_a_process(there, fail, NEW) == KILLED
    there.restart()
    there.apply(*NEW)

    assert has(there) == counts(NEW)
    assert is_whole(there)


@pytest.mark.parametrize(("model", "old", "new"), [
    (lab.A100, OLD, NEW), (lab.H100, ("3g.40gb", "2g.20gb"), ("4g.40gb", "1g.10gb*3"))])
@pytest.mark.parametrize("fail", KILLS[::3])
def test_a_host_that_starts_anew_in_the_middle_gets_the_whole_wish(
        host: Start, model: str, old: tuple[str, ...], new: tuple[str, ...], fail: str) -> None:
    there = host(model)
    there.apply(*old)

    assert apply_in_a_process(there, fail.replace(":3", ":2"), new) == KILLED
    there.reboot()
    between = has(there)
    there.apply(*new)

    assert between == {}
    assert has(there) == counts(new)
    assert is_whole(there)
