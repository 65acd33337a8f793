# SPDX-License-Identifier: Apache-2.0
"""Recorded machines: a text manifest of a sysfs tree, written from one and unpacked into one.

No driver reads this: it reads the unpacked tree through `sysfs.py`, as it reads the real one.

A manifest has one line per file or link, paths below the root of sysfs, `#` starts a comment:

    bus/pci/devices/0000:41:00.0 -> ../../../devices/pci0000:40/0000:41:00.0
    devices/pci0000:40/0000:41:00.0/vendor = 0x10de
    devices/pci0000:40/0000:41:00.0/remove !
    kernel/iommu_groups/

`=` is a file whose text ends with a newline, `==` one whose text doesn't; `!` a file that can't
be read; a path with a slash at its end is an empty directory. In texts a newline is `\\n`, a
backslash `\\\\`, and any other byte outside of printable ASCII `\\xNN`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable
from collections.abc import Iterator

_LINE = re.compile(r"(?P<path>\S(?:.*?\S)??)(?: (?P<sign>->|==|=)(?: (?P<value>.*))?| (?P<no>!))?")
_ESCAPE = re.compile(r"\\(n|\\|x[0-9a-f]{2})")


class BadManifest(ValueError):
    """A line can't be understood, or would lead out of the tree."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One line. kind: link, file, unreadable or directory. value: the target or the content."""

    path: str
    kind: str
    value: str = ""


def parse(text: str) -> Iterator[Entry]:
    """Yield the entries of a manifest; BadManifest names the line."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            try:
                yield _entry(line)
            except ValueError as error:
                raise BadManifest(f"line {number}, {line!r}: {error}") from error


def write(entries: Iterable[Entry]) -> str:
    """Return the manifest of entries, by path."""
    return "".join(f"{_line(entry)}\n" for entry in sorted(entries, key=lambda entry: entry.path))


def unpack(manifest: str | os.PathLike[str], root: str | os.PathLike[str]) -> str:
    """Make the tree of a manifest file below `root`, which is made too; returns the root.

    What is there already is replaced, so unpacking twice is harmless.
    """
    place = pathlib.Path(root)
    place.mkdir(parents=True, exist_ok=True)
    entries = list(parse(pathlib.Path(manifest).read_text(encoding="ascii")))
    for entry in entries:
        _make(place, entry)
    return str(place)


def _entry(line: str) -> Entry:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("it is neither a link, a file nor a directory")
    path, sign, value = match["path"], match["sign"], match["value"] or ""
    _check(path)
    if match["no"]:
        return Entry(path, "unreadable")
    if sign is None:
        if not path.endswith("/"):
            raise ValueError("only a directory stands alone, and ends with a slash")
        return Entry(path.rstrip("/"), "directory")
    if sign == "->":
        _check_target(path, value)
        return Entry(path, "link", value)
    return Entry(path, "file", _unescaped(value) + ("\n" if sign == "=" else ""))


def _check(path: str) -> None:
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.rstrip("/").split("/")):
        raise ValueError("a path must stay below the root")


def _check_target(path: str, target: str) -> None:
    landing = os.path.normpath(os.path.join(os.path.dirname(path), target))
    if not target or target.startswith("/") or landing == ".." or landing.startswith("../"):
        raise ValueError("a link must stay below the root")


def _line(entry: Entry) -> str:
    if entry.kind == "link":
        return f"{entry.path} -> {entry.value}"
    if entry.kind == "unreadable":
        return f"{entry.path} !"
    if entry.kind == "directory":
        return f"{entry.path}/"
    sign = "=" if entry.value.endswith("\n") else "=="
    return f"{entry.path} {sign} {_escaped(entry.value.removesuffix(chr(10)))}".rstrip(" ")


def _escaped(text: str) -> str:
    def escape(character: str) -> str:
        if character == "\n":
            return "\\n"
        if character == "\\":
            return "\\\\"
        return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))

    escaped = re.sub(r"[^ -~]|\\", lambda match: escape(match[0]), text)
    # a blank at either end would be lost on the line
    return re.sub(r"^ | $", r"\\x20", escaped)


def _unescaped(text: str) -> str:
    plain = {"n": b"\n", "\\": b"\\"}
    parts = _ESCAPE.split(text)
    content = b"".join(
        part.encode("ascii") if index % 2 == 0
        else plain.get(part) or bytes([int(part[1:], 16)])
        for index, part in enumerate(parts))
    return content.decode("utf-8", "surrogateescape")


def _make(root: pathlib.Path, entry: Entry) -> None:
    path = root / entry.path
    if entry.kind == "directory":
        path.mkdir(parents=True, exist_ok=True)
        return
    # a manifest with a link where another line has a directory must not write through it
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise BadManifest(f"{entry.path} leads out of the tree")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.exists():
        path.unlink()
    if entry.kind == "link":
        path.symlink_to(entry.value)
    elif entry.kind == "unreadable":
        path.touch(mode=0o200)
    else:
        path.write_bytes(entry.value.encode("utf-8", "surrogateescape"))
        path.chmod(0o444)
