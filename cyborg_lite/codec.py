# SPDX-License-Identifier: Apache-2.0
"""Messages to plain JSON values and back, by their annotations.

No transport here and no list of messages: what a dataclass says of its fields is all there is.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from typing import Any
from typing import get_args
from typing import get_origin
from typing import get_type_hints
from typing import Union


def encode(value: Any) -> Any:
    """Turn messages, nested in lists and dicts, into plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: encode(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def decode(hint: Any, data: Any) -> Any:
    """Rebuild a value of type `hint` from plain JSON values.

    A field that we don't know is ignored, a missing one takes its default.
    Raises TypeError when the data does not fit.
    """
    return _decoder(hint)(data)


@functools.cache
def _field_names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


@functools.cache
def _decoder(hint: Any) -> Callable[[Any], Any]:
    if hint is Any:
        return lambda data: data
    if dataclasses.is_dataclass(hint):
        return _message_decoder(typing.cast(type, hint))
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = _decoder(next(arg for arg in args if arg is not type(None)))
        return lambda data: None if data is None else inner(data)
    if origin is list:
        item = _decoder(args[0])
        return lambda data: [item(entry) for entry in _checked(list, data)]
    if origin is dict:
        item = _decoder(args[1])
        return lambda data: {key: item(entry) for key, entry in _checked(dict, data).items()}
    if hint is float:
        return lambda data: float(_checked((int, float), data))
    return lambda data: _checked(hint, data)


def _message_decoder(cls: type) -> Callable[[Any], Any]:
    hints = get_type_hints(cls)
    fields = [(name, _decoder(hints[name])) for name in _field_names(cls)]

    def decode_message(data: Any) -> Any:
        _checked(dict, data)
        return cls(**{name: build(data[name]) for name, build in fields if name in data})

    return decode_message


def _checked(kind: Any, data: Any) -> Any:
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is int):
        raise TypeError(f"expected {kind}, got {type(data).__name__}")
    return data
