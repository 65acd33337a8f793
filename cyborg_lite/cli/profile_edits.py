# SPDX-License-Identifier: Apache-2.0
"""What options of `device profile set` and `unset` say, as a JSON patch. Pure.

Whether a profile may look so is the service's to say.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

Operation = dict[str, Any]


def group(text: str) -> dict[str, str]:
    """Return the group that `key=value,key=value` describes."""
    found: dict[str, str] = {}
    for part in text.split(","):
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            raise argparse.ArgumentTypeError(
                f"{part!r} is not <key>=<value>; a group is written "
                "resources:FPGA=1,trait:CUSTOM_MY_TRAIT=required")
        if key.strip() in found:
            raise argparse.ArgumentTypeError(f"{key.strip()} is there twice")
        found[key.strip()] = value.strip()
    return found


def position(text: str) -> int:
    """Return the number of a group; the first is 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of a group; the first is 0")
    return int(text)


def group_key(text: str) -> tuple[int, str]:
    """Return the group's number and the key of `<group>:<key>`."""
    number, sign, key = text.partition(":")
    if not sign or not key or not number.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not <group>:<key>, such as 0:trait:CUSTOM_MY_TRAIT")
    return int(number), key


def group_entry(text: str) -> tuple[int, str, str]:
    """Return the group's number, key and value of `<group>:<key>=<value>`."""
    left, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not <group>:<key>=<value>, such as 0:resources:FPGA=2")
    return (*group_key(left), value)


def test(text: str) -> Operation:
    """Return the operation for `<path>=<value>`: a text, or JSON when it looks like that."""
    path, sign, value = text.partition("=")
    if not sign or not path.startswith("/"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not <path>=<value>, such as /description=old or "
            "/groups/0/resources:FPGA=1")
    wanted: Any = value
    if value == "null" or value.startswith(("[", "{")):
        try:
            wanted = json.loads(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"the value of {text!r} is no JSON: {error}") from error
    return {"op": "test", "path": path, "value": wanted}


def _path(number: int, key: str) -> str:
    escaped = key.replace("~", "~0").replace("/", "~1")
    return f"/groups/{number}/{escaped}"


def set_patch(*, tests: Iterable[Operation] = (), name: str | None = None,
              description: str | None = None, groups: Iterable[dict[str, str]] = (),
              added: Iterable[dict[str, str]] = (),
              entries: Iterable[tuple[int, str, str]] = ()) -> list[Operation]:
    """Return a patch that sets what is given; tests come first, then groups as a whole."""
    patch = list(tests)
    replaced = list(groups)
    if replaced:
        patch.append({"op": "add", "path": "/groups", "value": replaced})
    patch += [{"op": "add", "path": "/groups/-", "value": each} for each in added]
    patch += [{"op": "add", "path": _path(number, key), "value": value}
              for number, key, value in entries]
    patch += [{"op": "add", "path": f"/{field}", "value": value}
              for field, value in (("name", name), ("description", description))
              if value is not None]
    return patch


def unset_patch(*, tests: Iterable[Operation] = (), description: bool = False,
                groups: Iterable[int] = (),
                entries: Iterable[tuple[int, str]] = ()) -> list[Operation]:
    """Return a patch that removes what is given.

    Numbers of groups are those before the patch: keys go first, and groups from the last on.
    """
    patch = list(tests)
    patch += [{"op": "remove", "path": _path(number, key)} for number, key in entries]
    patch += [{"op": "remove", "path": f"/groups/{number}"}
              for number in sorted(set(groups), reverse=True)]
    if description:
        patch.append({"op": "add", "path": "/description", "value": None})
    return patch


def quoted_tag(text: str) -> str:
    """Return an entity tag as the header has it; the quotation marks may be left out."""
    return text if text == "*" or text.endswith('"') else f'"{text}"'


def changes(patch: Iterable[Operation]) -> bool:
    """Say whether a patch does more than test."""
    return any(operation["op"] != "test" for operation in patch)
