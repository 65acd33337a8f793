# SPDX-License-Identifier: Apache-2.0
"""How partitions of a device are written for reading: pictures of its memory, layouts, steps.

Pure: what is to be shown comes as the service tells it.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import string
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from cliff import columns as cliff_columns

NARROWEST = 4
"""Characters of one memory unit, with the line on its left."""

NEW = "new"
"""Written in the box of a partition that is to come."""

PLAIN = str.maketrans("┌┬┐└┴┘│─╌", "++++++|-.")
"""What terminals draw with that have no lines."""


@dataclasses.dataclass(frozen=True, slots=True)
class Paper:
    """What is drawn on. columns: characters beside each other, as many as wanted when None."""

    columns: int | None = None
    encoding: str = "utf-8"

    def drawn(self, text: str) -> str:
        """Return a picture in characters that there are."""
        try:
            text.encode(self.encoding)
        except (UnicodeEncodeError, LookupError):
            return text.translate(PLAIN)
        return text


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Box:
    """The memory units `start` to `start + size - 1`; lines: what is written in it."""

    start: int
    size: int
    lines: tuple[str, ...] = ()
    is_free: bool = False


def boxes_of(groups: Iterable[Mapping[str, Any]]) -> list[Box]:
    """Return a box for each partition whose place is known."""
    return [Box(place["start"], place["size"],
                tuple(text for text in (group["profile"], group["vgpu_type"]) if text))
            for group in groups for place in group["placements"]]


def boxes_after(boxes: Iterable[Box], plan: Mapping[str, Any]) -> list[Box]:
    """Return the boxes that there are once a plan is carried out; all places have to be known."""
    types: dict[str, set[str]] = collections.defaultdict(set)
    for part in plan["layout"]["partitions"]:
        types[part["profile"]].add(part["vgpu_type"] or "")
    there = {box.start: box for box in boxes}
    for one in plan["steps"]:
        place, profile = one["placement"], one["profile"]
        if one["action"] == "destroy":
            there.pop(place["start"], None)
        else:
            # which of several types gets which place, the plan does not say
            kind = next(iter(types[profile])) if len(types[profile]) == 1 else ""
            there[place["start"]] = Box(place["start"], place["size"], tuple(
                text for text in (profile, kind, NEW) if text))
    return sorted(there.values())


def units_of(profiles: Iterable[Mapping[str, Any]]) -> int:
    """Return how many memory units a device has: as far as its placements reach."""
    return max((place["start"] + place["size"] for profile in profiles
                for place in profile["placements"]), default=0)


def width_of(boxes: Iterable[Box]) -> int:
    """Return how many characters a memory unit needs, so that each text fits into its box."""
    return max([NARROWEST, *(math.ceil((len(line) + 3) / box.size)
                             for box in boxes for line in box.lines)])


def letters_for(boxes: Iterable[Box]) -> dict[tuple[str, ...], str]:
    """Return what stands for each kind of box on narrow paper."""
    return dict(zip(dict.fromkeys(box.lines for box in boxes), string.ascii_lowercase,
                    strict=False))


def picture(boxes: Iterable[Box], units: int, width: int = NARROWEST, paper: Paper = Paper(),
            letters: Mapping[tuple[str, ...], str] | None = None) -> str:
    """Draw the memory of a device, a number over each unit; what is free has dashed lines.

    width: of a unit at least, so that two pictures have one scale. On narrow paper boxes have
    letters, and lines below tell what they stand for; letters: so that two pictures have one key.
    Where even that has no room, there are words.
    """
    boxes = sorted(boxes)
    width = max(width, width_of(boxes))
    if paper.columns is None or units * width + 1 <= paper.columns:
        return paper.drawn(_drawn(_without_gaps(boxes, units), units, width))
    letters = letters_for(boxes) if letters is None else letters
    for width in (NARROWEST, len(str(units - 1)) + 1):
        if units * width + 1 <= paper.columns:
            short = [dataclasses.replace(box, lines=(letters.get(box.lines, "?"),))
                     for box in boxes]
            key = [f"{letters.get(lines, '?')}: {' '.join(lines)}"
                   for lines in dict.fromkeys(box.lines for box in boxes)]
            return "\n".join([
                paper.drawn(_drawn(_without_gaps(short, units), units, width)), *key])
    return "\n".join(f"{_units(box.start, box.size)}: {' '.join(box.lines) or 'free'}"
                     for box in _without_gaps(boxes, units))


def _drawn(row: Sequence[Box], units: int, width: int) -> str:
    inner = [box.size * width - 1 for box in row]
    height = max(len(box.lines) for box in row)
    ruler = "".join(f"{unit:<{width}}" for unit in range(units)).rstrip()
    edges = [("╌" if box.is_free else "─") * length
             for box, length in zip(row, inner, strict=True)]
    middle = ["│" + "│".join(
        f"{_indented(box.lines[line], length) if line < len(box.lines) else '':<{length}}"
        for box, length in zip(row, inner, strict=True)) + "│" for line in range(height)]
    return "\n".join([f" {ruler}", f"┌{'┬'.join(edges)}┐", *middle, f"└{'┴'.join(edges)}┘"])


def _indented(text: str, length: int) -> str:
    return f" {text}" if len(text) < length else text


def _without_gaps(boxes: Sequence[Box], units: int) -> list[Box]:
    row: list[Box] = []
    at = 0
    for box in (*boxes, Box(units, 0)):
        if box.start > at:
            row.append(Box(at, box.start - at, ("",), is_free=True))
        if box.size:
            row.append(box)
        at = box.start + box.size
    return row


# --- in words ---------------------------------------------------------------------------------


def layout(partitions: Iterable[Mapping[str, Any]]) -> str:
    """Write a layout as `3g.20gb + 2 x 1g.5gb (A100-1-5C)`."""
    return " + ".join(
        f"{str(part['count']) + ' x ' if part['count'] > 1 else ''}{part['profile']}"
        f"{_of_type(part)}" for part in partitions if part["count"]) or "none"


def _of_type(part: Mapping[str, Any]) -> str:
    kind = part.get("vgpu_type")
    return f" ({kind})" if kind and kind != part["profile"] else ""


def steps(plan: Iterable[Mapping[str, Any]]) -> list[str]:
    """Write steps as `create 2g.10gb in 0-1`, those without a place as `create 4 x A100-10C`."""
    found = []
    for what, alike in itertools.groupby(plan, lambda one: (
            one["action"], one["profile"], one["placement"])):
        action, profile, place = what
        number = len(list(alike))
        found.append(f"{action} {f'{number} x ' if number > 1 else ''}{profile}" + (
            f" in {_units(place['start'], place['size'])}" if place else ""))
    return found


def _units(start: int, size: int) -> str:
    return str(start) if size == 1 else f"{start}-{start + size - 1}"


def counted(partitions: Iterable[Mapping[str, Any]]) -> collections.Counter[str]:
    """Return how many partitions of each profile there are."""
    found: collections.Counter[str] = collections.Counter()
    for part in partitions:
        found[part["profile"]] += part["count"]
    return +found


# --- for tables -------------------------------------------------------------------------------


class Places(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """The partitions that exist: a picture of those with a place, a line for others.

    units: of the whole device. width, letters: as for a picture.
    """

    def __init__(self, value: list[dict[str, Any]], units: int, width: int = NARROWEST,
                 paper: Paper = Paper(),
                 letters: Mapping[tuple[str, ...], str] | None = None) -> None:
        super().__init__(value)
        self._units, self._width, self._paper, self._letters = units, width, paper, letters

    def human_readable(self) -> str:
        placed = [group for group in self._value if group["placements"]]
        lines = [layout([group]) for group in self._value if not group["placements"]]
        if self._units and (placed or not lines):
            lines.insert(0, picture(
                boxes_of(placed), self._units, self._width, self._paper, self._letters))
        return "\n".join(lines) or "none"


class After(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """The partitions that there would be, as a picture."""

    def __init__(self, boxes: Sequence[Box], units: int, width: int, paper: Paper,
                 letters: Mapping[tuple[str, ...], str]) -> None:
        super().__init__([{"profile": box.lines[0], "start": box.start, "size": box.size}
                          for box in boxes])
        self._boxes, self._units, self._width = boxes, units, width
        self._paper, self._letters = paper, letters

    def human_readable(self) -> str:
        return picture(self._boxes, self._units, self._width, self._paper, self._letters)


class Layout(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """A layout, on one line."""

    def human_readable(self) -> str:
        return layout(self._value)


class PlannedLayout(cliff_columns.FormattableColumn[dict[str, Any]]):
    """The layout of a plan, with its id."""

    def human_readable(self) -> str:
        return f"{self._value['id']}: {layout(self._value['partitions'])}"


class Steps(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """What a split does, a line a step."""

    def human_readable(self) -> str:
        return "\n".join(steps(self._value)) or "none"


class Profiles(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """What partitions there can be, a line a profile."""

    def human_readable(self) -> str:
        return "\n".join(self._line(each) for each in self._value) or "none"

    @staticmethod
    def _line(profile: Mapping[str, Any]) -> str:
        places = profile["placements"]
        size = places[0]["size"] if places else 0
        where = (f", {size} unit{'s' if size > 1 else ''} from "
                 f"{', '.join(str(place['start']) for place in places)}" if places else "")
        others = [name for name in profile["vgpu_types"] if name != profile["name"]]
        types = f"; {', '.join(others)}" if others else ""
        return (f"{profile['name']}: {profile['memory_mib']} MiB, at most "
                f"{profile['max_instances']}{where}{types}")


class Choice(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """How many layouts there are; which, is for a command of their own."""

    def human_readable(self) -> str:
        return (f"{len(self._value)} that are maximal; see `device partition list`"
                if self._value else "none")
