# SPDX-License-Identifier: Apache-2.0
"""What the agent may ask its privileged helper about partitions, and what comes back through it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from cyborg_lite.drivers import nvml_mig
from cyborg_lite.drivers import privileged
from tests.drivers.nvidia_mig import lab

Start = Callable[..., lab.Lab]

HELPER = """
import sys
from oslo_config import cfg
from oslo_privsep import priv_context
from cyborg_lite.drivers import nvidia_mig_cards, nvml_mig, privileged
cfg.CONF([], project="test")
privileged.CONTEXT.start(priv_context.Method.FORK)
host, card = privileged.Host(), sys.argv[1]
try:
    print("mode", host.set_mig_mode(card, True))
    host.create_partition(card, 9, 4, 4)
    told = nvidia_mig_cards.of(card, host.look_at_partitions([card])[card])
    [made] = told.partitions
    host.fill_partition(card, made.instance.id, 9, 4)
    print(told.describe(), told.types is None, len(told.profiles))
    host.destroy_partition(card, made.instance.id, 9, 4)
except Exception as error:
    print(type(error).__module__, type(error).__name__, error.code, error)
privileged.CONTEXT.stop()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start the helper")
def test_looks_changes_and_refusals_come_through_the_helper(host: Start) -> None:
    there = host(lab.A100)

    output = subprocess.run(
        [sys.executable, "-c", HELPER, lab.CARD], check=True, text=True, capture_output=True,
        timeout=60, env={**there.nvml.environment(),
                         "PYTHONPATH": os.pathsep.join(sys.path)}).stdout

    assert output.splitlines() == [
        "mode 0", "3g.20gb True 7",
        "cyborg_lite.drivers.nvml_mig Refused 19 nvmlGpuInstanceDestroy: "
        "NVML Error with code 19 (in use by processes, compute instances, vGPUs or virtual "
        "functions)"]
    assert there.partitions() == [("3g.20gb", 4)]


@pytest.mark.parametrize("ask", [
    lambda host: host.look_at_partitions(["41:00.0"]),
    lambda host: host.set_mig_mode("../41:00.0", True),
    lambda host: host.create_partition("0000:41:00.0\n", 9, 4, 4),
    lambda host: host.create_partition(lab.CARD, -1, 4, 4),
    lambda host: host.create_partition(lab.CARD, "9", 4, 4),
    lambda host: host.create_partition(lab.CARD, 9, 2 ** 33, 4),
    lambda host: privileged.change_partition(lab.CARD, "wipe", 1, 2, 3)])
def test_what_is_no_plain_part_is_refused(host: Start,
                                          ask: Callable[[privileged.Host], None]) -> None:
    there = host(lab.A100)

    with pytest.raises(privileged.Refused):
        ask(there.kernel)

    assert there.nvml.calls() == []


def test_a_partition_that_is_another_one_by_now_is_not_destroyed(host: Start) -> None:
    there = host(lab.A100)
    there.apply("3g.20gb")
    [number] = [each.id for each in there.device().partitioning.partitions]

    with pytest.raises(nvml_mig.Refused, match="is another one by now"):
        there.kernel.destroy_partition(lab.CARD, number, 14, 4)
    with pytest.raises(nvml_mig.Refused, match="is another one by now"):
        there.kernel.empty_partition(lab.CARD, number, 9, 0)

    assert there.partitions() == [("3g.20gb", 4)]
