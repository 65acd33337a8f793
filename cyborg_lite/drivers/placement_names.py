# SPDX-License-Identifier: Apache-2.0
"""Names of resource classes and traits as operators write them, and as Placement takes them.

Pure: no option and no file here; whoever asks says where a bad name stood.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

import os_resource_classes
import os_traits

LENGTH = 255


def resource_class(text: str) -> str:
    """Return the standard class of this name, or a custom one. Raises ValueError for no name."""
    name = text.strip().upper()
    return name if name in os_resource_classes.STANDARDS else custom(name)


def traits(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the traits of these names, sorted; one that is no standard trait is custom."""
    names = (text.strip().upper() for text in texts if text.strip())
    return tuple(sorted({name if name in _standard_traits() else custom(name) for name in names}))


def custom(text: str) -> str:
    """Return CUSTOM_ and the text, with _ for what Placement doesn't take. Raises ValueError."""
    # an upper-case form of a letter may lie outside A-Z; such a letter becomes _ as well
    plain = re.sub(r"[^A-Z0-9_]", "_", text.upper().removeprefix("CUSTOM_"))
    if not plain.strip("_") or len(plain) + len("CUSTOM_") > LENGTH:
        raise ValueError(f"{text!r} is no name that Placement takes: letters, digits and _, "
                         f"at most {LENGTH} with CUSTOM_")
    return f"CUSTOM_{plain}"


@functools.cache
def _standard_traits() -> frozenset[str]:
    return frozenset(os_traits.get_traits())
