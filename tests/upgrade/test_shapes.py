# SPDX-License-Identifier: Apache-2.0
"""What crosses RPC, against what was written down for each version of it.

A change of a message or a method fails here until it has a line in the history of `rpc.py`, a
higher minor version and a file of its own: `python3 -m tests.upgrade.test_shapes` writes it.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import pathlib
from typing import Any

import pytest

from cyborg_lite import messages
from cyborg_lite import rpc

HERE = pathlib.Path(__file__).parent
VERSIONS = sorted(HERE.glob("shapes-*.json"))


def shapes() -> dict[str, Any]:
    """Every message with its fields, every remote function with its arguments."""
    return {
        "messages": {
            name: {field.name: {"type": str(field.type), "optional": _has_default(field)}
                   for field in dataclasses.fields(kind)}
            for name, kind in sorted(vars(messages).items())
            if isinstance(kind, type) and dataclasses.is_dataclass(kind)},
        "functions": {
            f"{client.__name__}.{name}": str(inspect.signature(function))
            for client in (rpc.ConductorClient, rpc.AgentClient)
            for name, function in sorted(vars(client).items())
            if hasattr(function, "__wrapped__")}}


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return not (field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING)


def test_the_shapes_are_those_that_were_written_down_for_this_version() -> None:
    assert json.loads((HERE / f"shapes-{rpc.VERSION}.json").read_text()) == shapes()


def test_this_version_has_its_line_in_the_history() -> None:
    assert f"\n{rpc.VERSION}  " in str(rpc.__doc__)


@pytest.mark.parametrize("file", VERSIONS, ids=lambda file: file.stem)
def test_no_field_of_an_earlier_version_changed_or_went_and_new_ones_may_be_missing(
        file: pathlib.Path) -> None:
    earlier, now = json.loads(file.read_text())["messages"], shapes()["messages"]
    for name, fields in earlier.items():
        for field, shape in fields.items():
            assert now[name][field]["type"] == shape["type"], (name, field)
        for field in set(now[name]) - set(fields):
            assert now[name][field]["optional"], (name, field)


if __name__ == "__main__":
    (HERE / f"shapes-{rpc.VERSION}.json").write_text(
        json.dumps(shapes(), indent=1, sort_keys=True) + "\n")
