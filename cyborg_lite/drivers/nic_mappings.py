# SPDX-License-Identifier: Apache-2.0
"""Which network and which functions each port of a NIC has, as the operator's options say.

Pure: no port is looked at here. The syntax is Cyborg's: `physnet1:eth2|eth3`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from cyborg_lite.drivers import base
from cyborg_lite.drivers import placement_names

NETWORKS, FUNCTIONS = "physical_device_mappings", "function_device_mappings"


def parse(values: Iterable[str], option: str) -> dict[str, tuple[str, ...]]:
    """Return the keys of each port, a port being an interface's name or a PCI address.

    Raises base.ConfigurationError, which names the option.
    """
    ports: dict[str, list[str]] = {}
    seen: set[str] = set()
    for value in values:
        key, colon, rest = (part.strip() for part in value.partition(":"))
        devices = [each.strip() for each in rest.split("|")]
        if not colon or not key or not all(devices):
            raise base.ConfigurationError(
                f"{option}: {value!r} is no mapping; write a name, a colon, and interfaces or PCI "
                "addresses with | between them, such as physnet1:eth2|eth3")
        if key in seen:
            raise base.ConfigurationError(
                f"{option}: {key!r} stands there twice; write it once, with all its interfaces")
        seen.add(key)
        try:
            placement_names.custom(key)
        except ValueError as error:
            raise base.ConfigurationError(f"{option}: {error}") from error
        for device in devices:
            ports.setdefault(device.lower() if ":" in device else device, []).append(key)
    return {port: tuple(sorted(keys)) for port, keys in ports.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Mappings:
    """By port, an interface's name or a PCI address: its network, and its functions."""

    networks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    functions: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def network_of(self, ports: Iterable[str]) -> str | None:
        """Return the network of the first of a port's names that has one."""
        return next((self.networks[port] for port in ports if port in self.networks), None)

    def functions_of(self, ports: Iterable[str]) -> tuple[str, ...]:
        """Return all functions that a port has under any of its names."""
        return tuple(sorted({each for port in ports for each in self.functions.get(port, ())}))


def of_types(types: Mapping[str, Mapping[str, Any]]) -> Mappings:
    """Return the mappings of all NIC types, each a group of the configuration, together."""
    networks: dict[str, str] = {}
    functions: dict[str, tuple[str, ...]] = {}
    for name, values in types.items():
        option = f"[{name}] {NETWORKS}"
        for port, keys in parse(values.get(NETWORKS) or (), option).items():
            found = {*keys, *([networks[port]] if port in networks else ())}
            if len(found) > 1:
                raise base.ConfigurationError(
                    f"{option}: {port} is in {' and '.join(sorted(found))}; a port is in one "
                    "physical network")
            networks[port] = keys[0]
        for port, keys in parse(values.get(FUNCTIONS) or (), f"[{name}] {FUNCTIONS}").items():
            functions[port] = tuple(sorted({*functions.get(port, ()), *keys}))
    return Mappings(networks, functions)
