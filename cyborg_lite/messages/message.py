# SPDX-License-Identifier: Apache-2.0
"""What a message is: a frozen dataclass with keyword arguments alone."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import field

T = typing.TypeVar("T")


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def message(cls: type[T]) -> type[T]:
    """Make a class of annotated fields a message."""
    return dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(cls)
