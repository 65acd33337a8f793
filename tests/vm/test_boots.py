# SPDX-License-Identifier: Apache-2.0
"""Which boot is tried again, with a shell script in the place of QEMU. No machine is booted."""

from __future__ import annotations

import pathlib

import pytest

from tests.vm import machine

REACHES = f"echo '{machine.STARTS}'; sh $OUT/command; echo $? > $OUT/status"
BREAKS = "echo broken >&2; exit 1"


@pytest.fixture
def boot(tmp_path: pathlib.Path):
    """Run with a script per boot; returns the outcome or what was raised, and the boots made."""
    shown: list[str] = []

    def run(*scripts: str, command: str = "exit 0", reach_s: float = 20, run_s: float = 20):
        cases = "\n".join(f"{number}) {script};;" for number, script in enumerate(scripts, 1))
        program = tmp_path / "qemu"
        program.write_text(
            f"cd {tmp_path}\nOUT={tmp_path}/out\necho boot >> boots\n"
            f"case $(wc -l < boots) in\n{cases}\nesac\n")
        try:
            outcome = machine.run(["sh", str(program)], tmp_path, command, shown.append,
                                  reach_s=reach_s, run_s=run_s)
        except machine.NeverReached as error:
            outcome = error
        return outcome, len((tmp_path / "boots").read_text().split())

    run.shown = shown
    return run


def test_the_exit_status_of_the_command_is_the_outcome(boot):
    assert boot(REACHES, command="exit 5") == (machine.Outcome(True, 5), 1)


def test_what_the_command_says_is_shown(boot):
    boot(REACHES, command="echo one line")
    assert boot.shown == ["one line"]


def test_a_boot_that_breaks_before_the_command_is_tried_again(boot):
    assert boot(BREAKS, BREAKS, REACHES) == (machine.Outcome(True, 0), 3)


def test_a_boot_that_hangs_before_the_command_is_tried_again(boot):
    assert boot("exec sleep 600", REACHES, reach_s=1) == (machine.Outcome(True, 0), 2)


def test_after_three_boots_without_the_command_the_reasons_are_told(boot):
    error, boots = boot(BREAKS, BREAKS, BREAKS, REACHES)
    assert boots == machine.BOOTS == 3
    assert str(error).count("broken") == 3


def test_a_machine_that_dies_in_its_command_is_not_started_again(boot):
    outcome, boots = boot(f"echo '{machine.STARTS}'", REACHES)
    assert (outcome.reached, outcome.status, boots) == (True, None, 1)
    assert outcome.reason == "the machine ended before its command did"


def test_a_command_that_hangs_is_ended_and_not_started_again(boot):
    outcome, boots = boot(f"echo '{machine.STARTS}'; exec sleep 600", REACHES, run_s=1)
    assert (outcome.reached, outcome.status, boots) == (True, None, 1)
    assert outcome.reason == "the command did not end in 1 s"
