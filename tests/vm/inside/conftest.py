# SPDX-License-Identifier: Apache-2.0
"""Fixtures inside the virtual machine. Every test must leave the devices as it found them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.vm.inside import kernel
from tests.vm.inside import lab


def _state() -> dict[str, object]:
    """What a test could leave behind."""
    found: dict[str, object] = {"mdevs": kernel.mdevs()}
    for address in os.listdir(kernel.PCI / "devices"):
        vfs = kernel.vfs_of(address) if address in lab.WITH_VFS else []
        override = kernel.text(kernel.place(address) / "driver_override")
        found[address] = (kernel.driver_of(address), override, vfs)
    return found


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Fail a test that leaves a device, a driver or a virtual function behind."""
    before = _state()
    yield
    assert _state() == before, "the test left this behind"


@pytest.fixture
def events() -> Iterator[kernel.Events]:
    """The kernel's events from now on."""
    with kernel.Events() as found:
        yield found
