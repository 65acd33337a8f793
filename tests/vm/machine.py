# SPDX-License-Identifier: Apache-2.0
"""The virtual machine: its devices, one boot, and which boot may be tried again.

No knowledge of what runs inside. A boot that did not reach its command is started again, a few
times; one that did never is, whatever became of the command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import IO

from tests.vm import asks

BOOTS = 3
REACH_S = 120
RUN_S = 900

STARTS = "@@ the command starts"

DRIVES = {"nd1": 16, "nd2": 16, "nd3": 16, "nd4": 16, "nd5": 16}
"""Backing files of the namespaces, in MiB."""

KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr audit=0 apparmor=0 no_timer_check "
    # a stable clock: with the time stamp counter the guest's ran seven times too fast
    "tsc=unstable clocksource=acpi_pm rcupdate.rcu_expedited=1 random.trust_cpu=on "
    "cryptomgr.notests raid=noautodetect intel_iommu=on iommu=nopt")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one boot. status: exit status of the command; None when it left none."""

    reached: bool
    status: int | None
    reason: str = ""


class NeverReached(Exception):
    """No boot reached the command; the text says why for each."""


def run(start: Sequence[str], folder: pathlib.Path, command: str, show: Callable[[str], None], *,
        reach_s: float = REACH_S, run_s: float = RUN_S) -> Outcome:
    """Boot until the command was reached, and return what became of it.

    start: the words that start the machine; folder: its run folder, where `out` is shared.
    Raises NeverReached.
    """
    reasons = []
    for number in range(1, BOOTS + 1):
        _empty_out(folder, command)
        outcome = _boot(start, folder, show, reach_s, run_s)
        if outcome.reached:
            return outcome
        reasons.append(f"boot {number}: {outcome.reason}")
        show(reasons[-1])
    raise NeverReached("; ".join(reasons))


def _empty_out(folder: pathlib.Path, command: str) -> None:
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    (folder / "out/command").write_text(command)


def _boot(start: Sequence[str], folder: pathlib.Path, show: Callable[[str], None],
          reach_s: float, run_s: float) -> Outcome:
    reached = threading.Event()
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context((folder / "machine.log").open("w"))
        answering = stack.enter_context(asks.answering(folder))
        process = stack.enter_context(subprocess.Popen(
            start, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
            errors="replace"))
        stack.callback(process.kill)
        answering.start(process)
        reader = threading.Thread(
            target=_read, args=(process.stdout, reached, show), daemon=True)
        reader.start()
        late = _wait(process, reached, reach_s, run_s)
        process.kill()
        process.wait()
        reader.join()
    if not reached.is_set():
        told = (folder / "machine.log").read_text().strip()
        return Outcome(False, None, late or f"the machine ended before its command. {told}")
    status = folder / "out/status"
    if not status.exists():
        return Outcome(True, None, late or "the machine ended before its command did")
    return Outcome(True, int(status.read_text()))


def _read(stream: IO[str], reached: threading.Event, show: Callable[[str], None]) -> None:
    for line in stream:
        if line.strip() == STARTS:
            reached.set()
        else:
            show(line.rstrip())


def _wait(process: subprocess.Popen[str], reached: threading.Event, reach_s: float,
          run_s: float) -> str:
    """Wait for the end; returns why it was not waited for longer."""
    deadline = time.monotonic() + reach_s
    while not reached.wait(0.2) and process.poll() is None:
        if time.monotonic() > deadline:
            return f"the command was not reached in {reach_s:.0f} s"
    try:
        process.wait(run_s)
    except subprocess.TimeoutExpired:
        return f"the command did not end in {run_s:.0f} s"
    return ""


def drives(folder: pathlib.Path) -> Iterator[str]:
    """Make the empty backing files; yields QEMU's arguments for them."""
    for name, size in DRIVES.items():
        path = folder / f"{name}.raw"
        with path.open("wb") as stream:
            stream.truncate(size << 20)
        yield from ("-drive", f"id={name},file={path},format=raw,if=none,discard=unmap")


def devices() -> list[str]:
    """Return QEMU's arguments for the devices that the tests look at."""
    sriov = "max_ioqpairs=10,msix_qsize=11,sriov_max_vfs=4,sriov_vq_flexible=8,sriov_vi_flexible=8"
    wanted = [
        # first of all, else it misses what comes before it
        "intel-iommu,intremap=on,caching-mode=on",
        "pcie-root-port,id=rp1,bus=pcie.0,chassis=1,addr=0x4",
        "pcie-root-port,id=rp2,bus=pcie.0,chassis=2,addr=0x5",
        "pxb-pcie,id=far,bus=pcie.0,bus_nr=128,numa_node=1,addr=0x6",
        "pcie-root-port,id=rp3,bus=far,chassis=3,addr=0x0",
        "nvme-subsys,id=subsys0,nqn=lab0",
        f"nvme,id=nvme0,serial=LAB0001,subsys=subsys0,bus=rp1,{sriov}",
        "nvme-ns,drive=nd1,bus=nvme0,nsid=1,shared=on",
        "nvme-ns,drive=nd2,bus=nvme0,nsid=2,shared=off",
        "nvme-ns,drive=nd3,bus=nvme0,nsid=3,shared=on,detached=on",
        asks.PLUGGED["plugged"],
        "igb,bus=rp3,netdev=wire,mac=52:54:00:00:00:01",
        # multifunction: both functions share one IOMMU group
        "edu,bus=pcie.0,addr=0x10",
        "edu,bus=pcie.0,addr=0x11",
        "edu,bus=pcie.0,addr=0x12.0,multifunction=on",
        "edu,bus=pcie.0,addr=0x12.1",
    ]
    return [word for device in wanted for word in ("-device", device)]


def command_line(qemu: Sequence[str], kernel: pathlib.Path, initramfs: pathlib.Path,
                 root: pathlib.Path, project: pathlib.Path,
                 firmware: Sequence[pathlib.Path], folder: pathlib.Path) -> list[str]:
    """Return the words that start the machine."""
    shared = "security_model=none"
    return [
        *qemu, *(word for path in firmware for word in ("-L", str(path))), "-machine", "q35",
        # never KVM: where it can be opened it may still not work
        "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-smp", "1", "-m", "768",
        "-object", "memory-backend-ram,id=near,size=640M",
        "-object", "memory-backend-ram,id=away,size=128M",
        "-numa", "node,nodeid=0,cpus=0,memdev=near", "-numa", "node,nodeid=1,memdev=away",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(kernel), "-initrd", str(initramfs), "-append", KERNEL_ARGUMENTS,
        "-chardev", f"file,id=log,path={folder / 'console.log'}", "-serial", "chardev:log",
        "-chardev", "stdio,id=shown,signal=off", "-serial", "chardev:shown",
        "-qmp", f"unix:{folder / 'qmp'},server=on,wait=off",
        "-netdev", "hubport,id=wire,hubid=0", *drives(folder), *devices(),
        "-drive", f"id=root,file={root},format=raw,if=none,readonly=on",
        "-device", "virtio-blk-pci,drive=root,bus=pcie.0,addr=0x18",
        "-fsdev", f"local,id=project,path={project},{shared},readonly=on",
        "-device", "virtio-9p-pci,fsdev=project,mount_tag=project,bus=pcie.0",
        "-fsdev", f"local,id=out,path={folder / 'out'},{shared}",
        "-device", "virtio-9p-pci,fsdev=out,mount_tag=out,bus=pcie.0",
        "-device", "virtio-serial-pci,bus=pcie.0,addr=0x19",
        "-chardev", f"socket,id=asked,path={folder / 'asked'},server=on,wait=off",
        "-device", f"virtserialport,chardev=asked,name={asks.PORT}",
    ]


def shown(words: Sequence[str]) -> str:
    """Return a command line as one can type it."""
    return shlex.join(words)
