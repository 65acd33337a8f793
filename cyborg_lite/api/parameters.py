# SPDX-License-Identifier: Apache-2.0
"""What a value from outside may be: WSME user types for parameters, and JSON bodies.

No resource's rules here, no request objects: a value comes in, a clean one or Invalid comes out.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from typing import Any
from urllib import parse

from wsme import types as wsme_types
from wsme.rest import args as wsme_args

from cyborg_lite import errors

MAX_DEPTH = 32
"""Nesting of a body; what any route wants is below 6."""

MAX_NAMES = 1000
"""Entries of one comma-separated parameter."""

MAX_PARAMETERS = MAX_NAMES + 100
"""Query parameters of one request: the entries of a list may come one by one."""

_TOO_DEEP = f"The body is nested deeper than {MAX_DEPTH} levels."
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_KEY = 2**31 - 1

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_LINE_BREAKS = re.compile("[\t\n\r]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1"
                   r"[0-9a-fA-F]{12}")
_DIGITS = re.compile(r"[0-9]{1,10}")


def shown(value: object) -> str:
    """Write a value into an error text: printable, and not longer than a line."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- parameter types --------------------------------------------------------------------------
# `frombasetype` raises ValueError, whose text says what is allowed; `convert` adds the rest.
# `schema` says the same to machines, as JSON Schema.


class Text(wsme_types.UserType):  # type: ignore[misc]
    """One line of text; pattern: what it has to match, described in words for the error."""

    basetype = str
    name = "text"

    def __init__(self, pattern: str | None = None, allowed: str = "",
                 longest: int = 255, lines: bool = False) -> None:
        self._pattern = re.compile(pattern) if pattern else None
        self._allowed = allowed
        self._longest = longest
        self._lines = lines

    def frombasetype(self, value: str) -> str:
        if not value and not self._lines:
            raise ValueError("is empty")
        if len(value) > self._longest:
            raise ValueError(f"has {len(value)} characters; {self._longest} are allowed")
        if not self._lines and _LINE_BREAKS.search(value):
            raise ValueError("has a line break or a tab")
        if self._pattern and not self._pattern.fullmatch(value):
            raise ValueError(f"is not allowed: {self._allowed}")
        return value

    def schema(self) -> dict[str, Any]:
        limits: dict[str, Any] = {"minLength": 0 if self._lines else 1, "maxLength": self._longest}
        if self._pattern:
            limits["pattern"] = f"^(?:{self._pattern.pattern})$"
        return {"type": "string", **limits}


class Uuid(wsme_types.UserType):  # type: ignore[misc]
    """A uuid, in lower case with hyphens from here on."""

    basetype = str
    name = "uuid"

    def frombasetype(self, value: str) -> str:
        if not is_uuid(value):
            raise ValueError("is not a uuid")
        return str(uuid.UUID(value))

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "uuid"}


class Integer(wsme_types.UserType):  # type: ignore[misc]
    """A positive number that fits a key of the database."""

    basetype = str
    name = "integer"

    def frombasetype(self, value: str) -> int:
        if not _DIGITS.fullmatch(value) or not 0 < int(value) <= _LARGEST_KEY:
            raise ValueError(f"is not a whole number from 1 to {_LARGEST_KEY}")
        return int(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": 1, "maximum": _LARGEST_KEY}


class Limit(wsme_types.UserType):  # type: ignore[misc]
    """How many entries are wanted: any positive number, as the service cuts it anyway."""

    basetype = str
    name = "limit"

    def frombasetype(self, value: str) -> int:
        digits = value.lstrip("0")
        if not digits.isascii() or not digits.isdigit():
            raise ValueError("is not a whole number from 1 on")
        return int(digits) if len(digits) < 10 else _LARGEST_KEY

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": 1}


class OneOf(wsme_types.UserType):  # type: ignore[misc]
    """One of a few words."""

    basetype = str
    name = "enum"

    def __init__(self, *words: str) -> None:
        self._words = words

    def frombasetype(self, value: str) -> str:
        if value not in self._words:
            raise ValueError(f"is not allowed: {' or '.join(self._words)}")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self._words)}


class Flag(wsme_types.UserType):  # type: ignore[misc]
    """true or false, as JSON, Python and shells write them."""

    basetype = str
    name = "flag"

    def frombasetype(self, value: str) -> bool:
        found = {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
        if found is None:
            raise ValueError("is not allowed: true or false")
        return found

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Several(wsme_types.UserType):  # type: ignore[misc]
    """Values separated by commas, each once however often it is given."""

    basetype = str
    name = "list"

    def __init__(self, item: wsme_types.UserType) -> None:
        self._item = item

    def frombasetype(self, value: str) -> list[Any]:
        parts = value.split(",")
        if len(parts) > MAX_NAMES:
            raise ValueError(f"has {len(parts)} entries; {MAX_NAMES} are allowed")
        return list(dict.fromkeys(self._item.frombasetype(part.strip()) for part in parts))

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self._item.schema(), "minItems": 1,
                "maxItems": MAX_NAMES}


class Repeated(wsme_types.UserType):  # type: ignore[misc]
    """A parameter that may be given several times; its handler gets a list."""

    basetype = str
    name = "repeated"

    def __init__(self, item: wsme_types.UserType) -> None:
        self._item = item

    def frombasetype(self, value: str) -> Any:
        return self._item.frombasetype(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self._item.schema(), "minItems": 1}


class Many(Several):
    """Values separated by commas, or the parameter given several times, or both."""

    name = "many"


def is_uuid(value: str) -> bool:
    """Say whether a text is a uuid, with or without hyphens."""
    return bool(_UUID.fullmatch(value))


def convert(kind: wsme_types.UserType, what: str, value: Any) -> Any:
    """Return the clean value; Invalid says what `what` was and what is allowed."""
    if isinstance(kind, Integer) and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise errors.Invalid(f"{what} {shown(value)} is not a text.")
    try:
        return wsme_args.from_param(kind, value)
    except ValueError as error:
        raise errors.Invalid(f"{what} {shown(value)} {error}.") from error


def optional(kind: wsme_types.UserType, what: str, value: Any) -> Any:
    """Like `convert`, but null stays None."""
    return None if value is None else convert(kind, what, value)


# --- the query string -------------------------------------------------------------------------


def query(query_string: str) -> dict[str, list[str]]:
    """Return the parameters of a WSGI QUERY_STRING, each with its values in order; Invalid."""
    if not query_string:
        return {}
    try:
        pairs = parse.parse_qsl(query_string.encode("latin-1").decode("utf-8"),
                                keep_blank_values=True, errors="strict",
                                max_num_fields=MAX_PARAMETERS)
    except UnicodeError as error:
        raise errors.Invalid("The query of the address is not UTF-8.") from error
    except ValueError as error:
        raise errors.Invalid(
            f"The address has more than {MAX_PARAMETERS} query parameters.") from error
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if _FORBIDDEN.search(name) or _FORBIDDEN.search(value):
            raise errors.Invalid(f"Query parameter {shown(name)} has a control character.")
        found.setdefault(name, []).append(value)
    return found


def with_filters(given: dict[str, Any], fields: list[str] | None,
                 values: list[str] | None) -> dict[str, Any]:
    """Join `filters.field=F&filters.value=V` pairs with what plain parameters say; Invalid."""
    fields, values = fields or [], values or []
    if len(fields) != len(values):
        raise errors.Invalid(f"filters.field is given {len(fields)} times and filters.value "
                             f"{len(values)} times; each filter needs both.")
    wanted = dict(given)
    for field, value in zip(fields, values, strict=True):
        if wanted.setdefault(field, value) != value:
            raise errors.Invalid(f"The filters want {field} to be {shown(wanted[field])} and "
                                 f"{shown(value)} at once.")
    return wanted


# --- JSON bodies ------------------------------------------------------------------------------


def json_body(raw: bytes) -> Any:
    """Parse a body and look at every value in it once; Invalid.

    Refused: what is not JSON in UTF-8, a key twice in one object, NaN and its kin, numbers beyond
    64 bits, control characters and lone surrogates, deep nesting.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_object,
                           parse_constant=_no_constant)
    except UnicodeError as error:
        raise errors.Invalid("The body is not UTF-8.") from error
    except RecursionError as error:
        raise errors.Invalid(_TOO_DEEP) from error
    except json.JSONDecodeError as error:
        raise errors.Invalid(f"The body is not JSON: {error}.") from error
    except ValueError as error:  # a number with thousands of digits
        raise errors.Invalid("The body has a number beyond 64 bits.") from error
    _check(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore
        raise errors.Invalid(f"The body has the key {shown(twice)} twice in one object.")
    return found


def _no_constant(word: str) -> Any:
    raise errors.Invalid(f"The body has {word}, which is no JSON number.")


def _check(top: Any) -> None:
    level = [top]
    for _depth in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            _check_one(value, below)
        level = below
    if level:
        raise errors.Invalid(_TOO_DEEP)


def _check_one(value: Any, below: list[Any]) -> None:
    if isinstance(value, str):
        if _FORBIDDEN.search(value):
            raise errors.Invalid(f"Text {shown(value)} has a control character or half a "
                                 "surrogate pair.")
    elif isinstance(value, dict):
        below.extend(value)
        below.extend(value.values())
    elif isinstance(value, list):
        below.extend(value)
    elif isinstance(value, int):
        if abs(value) > _LARGEST_INTEGER:
            raise errors.Invalid("The body has a number beyond 64 bits.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise errors.Invalid("The body has a number beyond 64 bits.")
