# SPDX-License-Identifier: Apache-2.0
"""Fixtures inside the virtual machine. Every test must leave the devices as it found them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.inside import kernel


def _state() -> dict[str, object]:
    """What a test could leave behind."""
    found: dict[str, object] = {"mdevs": kernel.mdevs()}
    for path in (kernel.PCI / "devices").iterdir():
        vfs = path / "sriov_numvfs"
        found[path.name] = (kernel.driver_of(path.name), kernel.text(path / "driver_override"),
                            kernel.text(vfs) if vfs.exists() else None)
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
