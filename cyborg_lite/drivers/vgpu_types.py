# SPDX-License-Identifier: Apache-2.0
"""Types of mediated devices and vGPUs: their names, the kernel's texts about them, arithmetic.

Pure: no file is read here, and no card is known by its name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from collections.abc import Sequence
from fractions import Fraction

_SHORT = re.compile(
    r"(?P<gpu>[A-Za-z0-9]+(?:-[A-Za-z][A-Za-z0-9]*)*)-(?:(?P<slices>[1-9])-)?"
    r"(?P<gigabytes>0|[1-9][0-9]{0,3})(?P<series>[ABCQ])(?P<suffix>[A-Z0-9]{0,8})")

SERIES = "QCBA"
"""Workstation, compute, business, applications: what can do most comes first."""

DEFAULT_PARTS = 4
"""Into how many a device is cut when nobody says which type is wanted, if it can be."""


@dataclasses.dataclass(frozen=True, slots=True)
class TypeName:
    """What the name of an NVIDIA vGPU type tells.

    slices: of a type that lives in a MIG partition, the compute slices of that; None otherwise.
    """

    short: str
    gpu: str
    slices: int | None
    memory_mib: int
    series: str
    suffix: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """A type that a device could be cut into, and into how many of it at most."""

    key: str
    name: str
    at_most: int


def short_name(name: str) -> str:
    """Return the last word: a product's name before it may have any number of words."""
    words = name.split()
    return words[-1] if words else ""


def parse_name(name: str) -> TypeName | None:
    """Return what a full or short name tells; None for a name that is built otherwise."""
    match = _SHORT.fullmatch(short_name(name))
    if match is None:
        return None
    gigabytes = int(match["gigabytes"])
    return TypeName(
        short=match[0], gpu=match["gpu"], slices=int(match["slices"]) if match["slices"] else None,
        # the smallest types are called 0B and 0Q and have half a gigabyte
        memory_mib=gigabytes * 1024 or 512, series=match["series"], suffix=match["suffix"])


def is_meant(wanted: str, key: str, name: str) -> bool:
    """Say whether an operator's word means the type: its id, its full or its short name.

    The id of an NVIDIA type may be given as `nvidia-556` or as the number alone.
    """
    word = " ".join(wanted.split()).casefold()
    known = {key, key.removeprefix("nvidia-"), " ".join(name.split())}
    if parse_name(name) is not None:
        known.add(short_name(name))
    return bool(word) and word in {each.casefold() for each in known}


def parse_creatable(text: str | None) -> dict[int, str]:
    """Return {id: full name} of the lines `<id> : <name>`; other lines mean nothing."""
    found: dict[int, str] = {}
    for line in (text or "").splitlines():
        number, colon, name = line.partition(":")
        if colon and re.fullmatch(r"[0-9]{1,10}", number.strip()) and name.strip():
            found[int(number)] = " ".join(name.split())
    return found


def parse_description(text: str | None) -> dict[str, int]:
    """Return the numbers of a type's description: max_instance, and framebuffer in MiB."""
    found: dict[str, int] = {}
    for part in re.split(r"[,\n]", text or ""):
        key, _, value = part.partition("=")
        match = re.fullmatch(r"([0-9]{1,9})\s*[Mm]?[Bb]?", value.strip())
        if match and key.strip() in ("max_instance", "framebuffer"):
            found[key.strip()] = int(match[1])
    return found


def sensible(choices: Iterable[Choice]) -> Choice | None:
    """Return the type to take when nobody says which.

    Never one for MIG partitions; of the series that can do most; cut into four, else into the
    next number above, else into as many as can be.
    """
    known = [(each, parse_name(each.name)) for each in choices if each.at_most > 0]
    known = [(each, parts) for each, parts in known if parts is None or parts.slices is None]

    def order(pair: tuple[Choice, TypeName | None]) -> tuple[int, int, int, str, str]:
        choice, parts = pair
        enough = choice.at_most >= DEFAULT_PARTS
        return (SERIES.index(parts.series) if parts else len(SERIES),
                0 if enough else 1, choice.at_most if enough else -choice.at_most,
                # plain types before those with a suffix
                parts.suffix if parts else "", choice.key)

    return min(known, key=order)[0] if known else None


def room(total_mib: int, used_mib: Sequence[int], wanted_mib: int) -> int:
    """Return how many more of one size fit beside what is there.

    All of one size share the memory evenly. Of mixed sizes each takes a share of the whole that
    is a power of two, as NVIDIA documents it for the mixed-size mode.
    """
    if wanted_mib <= 0 or total_mib < wanted_mib:
        return 0
    if all(size == wanted_mib for size in used_mib):
        return max(0, total_mib // wanted_mib - len(used_mib))
    free = 1 - sum((_share(total_mib, size) for size in used_mib), Fraction())
    return max(0, int(free / _share(total_mib, wanted_mib)))


def _share(total_mib: int, size_mib: int) -> Fraction:
    if not 0 < size_mib <= total_mib:
        return Fraction(1)
    return Fraction(1, 1 << ((total_mib // size_mib).bit_length() - 1))
