# SPDX-License-Identifier: Apache-2.0
"""`[pci] device_spec`: Nova's way to say which PCI functions are meant, parsed and matched.

Pure: no file is read and nothing is logged here; a spec doesn't know what can be offered.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from cyborg_lite.drivers import base
from cyborg_lite.drivers import placement_names
from cyborg_lite.drivers import sysfs

OPTION = "[pci] device_spec"
ANY = "*"

_PARTS = ("domain", "bus", "slot", "function")
_LIMITS = {"domain": 0xffffffff, "bus": 0xff, "slot": 0x1f, "function": 7}
_WIDTHS = {"domain": 4, "bus": 2, "slot": 2, "function": 1}
_MATCHING = frozenset({"vendor_id", "product_id", "address"})
_OURS = _MATCHING | {"resource_class", "traits"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """One entry: what a function must look like, and what its provider gets.

    vendor_id, product_id: four lower-case hex digits, or `*`.
    address: says whether it means the parts domain, bus, slot and function.
    single_address: the full address when it names one function; then its virtual functions, if
        it has some, are meant too.
    ignored: keys of Nova's, or tags, that mean nothing here.
    """

    vendor_id: str
    product_id: str
    address: Callable[[tuple[str, ...]], bool]
    single_address: str | None
    resource_class: str | None
    traits: tuple[str, ...]
    ignored: tuple[str, ...]

    def matches(self, function: sysfs.PciFunction) -> bool:
        """Say whether the function, or the physical function behind it, is meant."""
        if self.vendor_id not in (ANY, function.vendor):
            return False
        if self.product_id not in (ANY, function.product):
            return False
        if self.single_address is not None and function.physfn == self.single_address:
            return True
        match = sysfs.ADDRESS.fullmatch(function.address)
        return match is not None and self.address(match.groups())


class _Wrong(Exception):
    """Why an entry can't be used; `parse` adds the option and the value."""


def parse(values: Iterable[str]) -> tuple[DeviceSpec, ...]:
    """Read the values of the option, each a JSON object or a list of them.

    Raises base.ConfigurationError that names the option, the value and what is wrong with it.
    """
    specs: list[DeviceSpec] = []
    for value in values:
        try:
            specs.extend(_entry(entry) for entry in _entries(value))
        except _Wrong as wrong:
            raise base.ConfigurationError(f"{OPTION} = {value}: {wrong}") from wrong
    return tuple(specs)


def _entries(value: str) -> list[dict[str, Any]]:
    try:
        data = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"it is no JSON ({error})") from error
    entries = data if isinstance(data, list) else [data]
    if not all(isinstance(entry, dict) for entry in entries):
        raise _Wrong("it must be a JSON object or a list of JSON objects")
    return entries


def _entry(entry: dict[str, Any]) -> DeviceSpec:
    if "devname" in entry:
        raise _Wrong("devname can't be used, since interface names change; give the address")
    if not _MATCHING & entry.keys():
        raise _Wrong("an entry must have vendor_id, product_id or address; it has "
                     f"{', '.join(sorted(entry)) or 'nothing'}")
    address, single = _address(entry.get("address", ANY))
    return DeviceSpec(
        vendor_id=_hex(entry, "vendor_id"), product_id=_hex(entry, "product_id"),
        address=address, single_address=single,
        resource_class=_resource_class(entry.get("resource_class")),
        traits=_traits(entry.get("traits")),
        ignored=tuple(sorted(entry.keys() - _OURS)))


def _hex(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key, ANY)
    if not isinstance(value, str):
        raise _Wrong(f"{key} must be text, found {value!r}")
    text = value.strip().lower()
    if text == ANY:
        return ANY
    if not re.fullmatch(r"(0x)?[0-9a-f]{1,4}", text):
        raise _Wrong(f"{key} must be up to four hex digits or *, found {value!r}")
    return format(int(text, 16), "04x")


# --- addresses --------------------------------------------------------------------------------


def _address(value: Any) -> tuple[Callable[[tuple[str, ...]], bool], str | None]:
    if isinstance(value, str):
        return _glob(value)
    if isinstance(value, dict):
        return _expressions(value), None
    raise _Wrong("address must be text or an object of regular expressions for "
                 f"{', '.join(_PARTS)}; found {value!r}")


def _glob(value: str) -> tuple[Callable[[tuple[str, ...]], bool], str | None]:
    """`*:0a:00.*`; what is left out on the left, or left empty, is any."""
    front, _, function = value.partition(".")
    fields = front.split(":")
    if len(fields) > 3:
        raise _Wrong(f"address must look like domain:bus:slot.function, found {value!r}")
    texts = [*([""] * (3 - len(fields))), *fields, function]
    wanted = tuple(_part(name, text.strip(), value)
                   for name, text in zip(_PARTS, texts, strict=True))
    single = None if ANY in wanted else "{}:{}:{}.{}".format(*wanted)

    def matches(parts: tuple[str, ...]) -> bool:
        return all(want in (ANY, part) for want, part in zip(wanted, parts, strict=True))

    return matches, single


def _part(name: str, text: str, value: str) -> str:
    if text in ("", ANY):
        return ANY
    if not re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,8}", text) or int(text, 16) > _LIMITS[name]:
        raise _Wrong(f"{name} {text!r} of address {value!r} must be * or a hex number up to "
                     f"{_LIMITS[name]:x}; for ranges use an object of regular expressions")
    return format(int(text, 16), f"0{_WIDTHS[name]}x")


def _expressions(value: dict[str, Any]) -> Callable[[tuple[str, ...]], bool]:
    unknown = value.keys() - set(_PARTS)
    if unknown:
        raise _Wrong(f"address knows {', '.join(_PARTS)}, not {', '.join(sorted(unknown))}")
    compiled = [_expression(name, value.get(name, ".*")) for name in _PARTS]

    def matches(parts: tuple[str, ...]) -> bool:
        # from the start, but not to the end: Nova's rule
        return all(each.match(part) for each, part in zip(compiled, parts, strict=True))

    return matches


def _expression(name: str, text: Any) -> re.Pattern[str]:
    if not isinstance(text, str):
        raise _Wrong(f"{name} of address must be a regular expression, found {text!r}")
    try:
        return re.compile(text, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise _Wrong(f"{name} of address, {text!r}, is no regular expression: {error}") from error


# --- what Placement gets ----------------------------------------------------------------------


def _resource_class(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(f"resource_class must be text, found {value!r}")
    try:
        return placement_names.resource_class(value)
    except ValueError as error:
        raise _Wrong(f"resource_class {error}") from error


def _traits(value: Any) -> tuple[str, ...]:
    """Comma-separated text as in Nova, or a list; a name that is no standard one is custom."""
    items = value.split(",") if isinstance(value, str) else value
    if items is None:
        return ()
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise _Wrong(f"traits must be names separated by commas, or a list; found {value!r}")
    try:
        return placement_names.traits(items)
    except ValueError as error:
        raise _Wrong(f"traits {error}") from error
