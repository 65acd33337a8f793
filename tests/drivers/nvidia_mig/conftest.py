# SPDX-License-Identifier: Apache-2.0
"""A host with cards, for each test of the driver; what it is, is in `lab.py`."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from tests.drivers.nvidia_mig import lab


@pytest.fixture
def host(nvml_library: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Callable[..., lab.Lab]]:
    """Start a host with such cards; this process sees its NVML."""
    with contextlib.ExitStack() as stack:
        def start(*cards: object, **how: object) -> lab.Lab:
            made = lab.Lab(nvml_library, tmp_path, *cards, **how)  # type: ignore[arg-type]
            stack.enter_context(made.nvml.here())
            return made.boot()
        yield start
