# SPDX-License-Identifier: Apache-2.0
"""Builds the stand-in for libnvidia-ml.so.1, describes cards to it, and plays the host around it.

What NVML answers is in stand_in.c; what is known of real cards in mig_cards.yaml, vgpu_hosts.yaml.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import pathlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

FOLDER = pathlib.Path(__file__).parent
SONAME = "libnvidia-ml.so.1"
NO_PROFILE = -1


@functools.cache
def mig_cards() -> dict[str, Any]:
    """What is published of each card, by name."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "mig_cards.yaml").read_text("utf-8"))
    return found


@functools.cache
def recorded() -> dict[str, Any]:
    """What was printed on real cards."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "recorded.yaml").read_text("utf-8"))
    return found


@functools.cache
def vgpu_hosts() -> dict[str, Any]:
    """The vGPU types of each card, by name of the card."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "vgpu_hosts.yaml").read_text("utf-8"))
    return found


def build(folder: pathlib.Path) -> pathlib.Path:
    """Compile the library into `folder`. No compiler: skipped, and in CI a failure."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        reason = "no C compiler (cc): the stand-in for NVML can't be built"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    library = folder / SONAME
    subprocess.run([compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-fvisibility=hidden",
                    "-shared", "-fPIC", f"-Wl,-soname,{SONAME}", "-o", str(library),
                    str(FOLDER / "stand_in.c"), "-lpthread"], check=True)
    return library


class Card:
    """One card on its way to the library: a published one, with what a test wants different."""

    def __init__(self, model: str, *, vgpu: bool = False, resets: bool = True,
                 memory_mib: int = 0) -> None:
        self.model = model
        self.facts: dict[str, Any] = mig_cards().get(model, {})
        self.vgpu = vgpu
        self.resets = resets
        biggest = max((one["memory_mib"] for one in self.profiles), default=16384)
        self.memory_mib = memory_mib or biggest

    @property
    def profiles(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.facts.get("profiles", [])
        return found

    @property
    def types(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = vgpu_hosts()[self.model]["types"] if self.vgpu else []
        return found

    def bus_id(self, index: int) -> str:
        """As NVML writes it: eight digits of domain."""
        return f"00000000:{0x41 + index:02X}:00.0"

    def lines(self, index: int) -> Iterator[str]:
        """The card as the library reads it."""
        device = int(self.facts.get("pci_device_ids", ["1eb8"])[0], 16)
        sriov = 1 if self.facts else 0
        yield _line(
            "card", f"NVIDIA {self.model}", f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, str(index))}",
            self.bus_id(index), hex(device << 16 | 0x10DE), "0x145910de", self.memory_mib,
            self.facts.get("units", 0), self.facts.get("slices", 0), int(bool(self.facts)),
            int(self.facts.get("keeps_mode", False)), int(self.resets),
            3 if self.vgpu else 0, sriov if self.vgpu else -1)
        for one in self.profiles:
            yield _line("profile", one["index"], one["id"], f"MIG {one['name']}", one["slices"],
                        one["max"], one["memory_mib"], one["sm"], *one["engines"], one["size"],
                        _joined(one["starts"]))
        for one in self.types:
            kind = "Compute" if one["name"].endswith(("C", "CME")) else "Quadro"
            yield _line("vgpu", one["id"], vgpu_hosts()[self.model]["prefix"] + one["name"], kind,
                        one["memory_mib"], one["max"], min(one["max"], 16), one["gi_profile"],
                        one["per_gi"], one["size"],
                        _joined(at * one["size"] for at in range(one["places"])))


def _line(*fields: object) -> str:
    return "|".join(str(field) for field in fields)


def _joined(numbers: Any) -> str:
    return ",".join(str(number) for number in numbers)


class Host:
    """A host with such cards: what its processes see, and what happens to it."""

    def __init__(self, library: pathlib.Path, folder: pathlib.Path, cards: Sequence[Card],
                 driver: str = "580.82.07") -> None:
        self.library = library
        self.cards = list(cards)
        self.folder = folder
        lines = [_line("driver", driver)]
        for index, card in enumerate(self.cards):
            lines += card.lines(index)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cards").write_text("\n".join(lines) + "\n", "utf-8")

    @property
    def variables(self) -> dict[str, str]:
        """The environment that names cards and state to the library."""
        return {"STAND_IN_NVML_CARDS": str(self.folder / "cards"),
                "STAND_IN_NVML_STATE": str(self.folder / "state"),
                "STAND_IN_NVML_LOG": str(self.folder / "log")}

    def environment(self, fail: str = "") -> dict[str, str]:
        """For a process of its own, which finds the library by its usual name."""
        path = os.pathsep.join(filter(None, [str(self.library.parent),
                                             os.environ.get("LD_LIBRARY_PATH", "")]))
        return {**os.environ, **self.variables, "LD_LIBRARY_PATH": path,
                "STAND_IN_NVML_FAIL": fail}

    @contextlib.contextmanager
    def here(self) -> Iterator[Host]:
        """This process sees the host: its next dlopen of the usual name finds the stand-in."""
        loaded = ctypes.CDLL(str(self.library), mode=ctypes.RTLD_GLOBAL)
        if not hasattr(ctypes.CDLL(SONAME), "stand_in"):
            # never let a test that creates and destroys reach a real card
            pytest.fail(f"this process has a real {SONAME} loaded; run these tests apart")
        before = dict(os.environ)
        os.environ.update(self.variables, STAND_IN_NVML_FAIL="")
        try:
            yield self
        finally:
            os.environ["STAND_IN_NVML_FAIL"] = ""
            while loaded.nvmlShutdown() == 0:
                pass
            for key in (*self.variables, "STAND_IN_NVML_FAIL"):
                os.environ.pop(key, None)
                if key in before:
                    os.environ[key] = before[key]

    @contextlib.contextmanager
    def failing(self, plan: str) -> Iterator[None]:
        """Calls of this process fail as planned, e.g. `nvmlGpuInstanceDestroy:1=19`."""
        os.environ["STAND_IN_NVML_FAIL"] = plan
        try:
            yield
        finally:
            os.environ["STAND_IN_NVML_FAIL"] = ""

    def happen(self, what: str, card: int = 0, value: int = 0) -> int:
        """Something outside the library: reboot, reset, vfs, clients, lost, hold, vgpu, ...

        Seen by all processes of the host; inside `here` only. Answers an NVML code.
        """
        code: int = ctypes.CDLL(str(self.library)).stand_in(what.encode(), card, value)
        return code

    def calls(self) -> list[str]:
        """Names of the calls that all processes have made."""
        log = self.folder / "log"
        return log.read_text("utf-8").split() if log.exists() else []
