# SPDX-License-Identifier: Apache-2.0
"""Other objects, put straight into a database before a case and taken out after it.

The one place, beside the reporters, that knows tables: one class a schema. Never timed.
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from tests.bench import meters

HOST_PREFIX = "bench-seed-"
DEVICES_PER_HOST = 64
CHUNK = 1000
_NAMESPACE = uuid.UUID("5d6f1c0e-52a5-4a37-8a57-2b1d7d0c7a11")


def seed_uuid(kind: str, number: int) -> str:
    """Return the uuid of the number-th seeded object of a kind; the same in every run."""
    return str(uuid.uuid5(_NAMESPACE, f"{kind}-{number}"))


class Seeder:
    """Bound ARQs, each of an instance of its own, and the devices that they hold."""

    def __init__(self, url: str, project_id: str, profile: str, resources: str,
                 trait: str | None) -> None:
        self._connection = meters.connect(url)
        self._mark = "?" if url.startswith("sqlite") else "%s"
        self._project_id = project_id
        self._profile = profile
        self._group = {f"resources:{resources}": "1",
                       **({f"trait:{trait}": "required"} if trait else {})}
        self._resources, self._trait = resources, trait
        self._now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)

    def seed(self, devices: int, arqs: int) -> None:
        """Put so many devices with one deployable each, and so many Bound ARQs on them."""
        self.unseed()
        devices = max(devices, 1)
        handles = max(1, -(-arqs // devices))
        self._seed(devices, handles, arqs)
        self._connection.commit()

    def unseed(self) -> None:
        """Take out whatever an earlier call put in."""
        for statement in self.removals:
            self._execute(statement)
        self._connection.commit()

    def close(self) -> None:
        """Take everything out and disconnect."""
        self.unseed()
        self._connection.close()

    removals: Sequence[str] = ()

    def _seed(self, devices: int, handles: int, arqs: int) -> None:
        raise NotImplementedError

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor()
        if values:
            cursor.execute(statement.replace("%s", self._mark), values)
        else:
            cursor.execute(statement)
        rows = list(cursor.fetchall()) if cursor.description else []
        cursor.close()
        return rows

    def _insert(self, table: str, columns: str, rows: Iterator[tuple[Any, ...]]) -> None:
        cursor = self._connection.cursor()
        names = columns.split()
        marks = ", ".join([self._mark] * len(names))
        quote = "" if self._mark == "?" else "`" if "pymysql" in type(
            self._connection).__module__ else '"'
        quoted = ", ".join(f"{quote}{name}{quote}" for name in names)
        statement = f"INSERT INTO {table} ({quoted}) VALUES ({marks})"
        waiting = list(rows)
        for start in range(0, len(waiting), CHUNK):
            cursor.executemany(statement, waiting[start:start + CHUNK])
        cursor.close()

    def _ids(self, table: str, condition: str) -> dict[str, int]:
        return {row[0]: row[1] for row in self._execute(
            f"SELECT uuid, id FROM {table} WHERE {condition}")}

    def _profile_id(self) -> int:
        rows = self._execute("SELECT id FROM device_profiles WHERE name = %s", (self._profile,))
        if not rows:
            raise LookupError(f"no device profile {self._profile} in this database")
        return int(rows[0][0])


class CyborgSeeder(Seeder):
    """The tables of openstack-cyborg 17."""

    _DEPLOYABLES = f"name LIKE '{HOST_PREFIX}%'"
    _OF_DEPLOYABLES = f"deployable_id IN (SELECT id FROM deployables WHERE {_DEPLOYABLES})"
    _OF_DEVICES = f"device_id IN (SELECT id FROM devices WHERE hostname LIKE '{HOST_PREFIX}%')"
    removals = (
        f"DELETE FROM extended_accelerator_requests WHERE hostname LIKE '{HOST_PREFIX}%'",
        f"DELETE FROM attach_handles WHERE {_OF_DEPLOYABLES}",
        f"DELETE FROM attributes WHERE {_OF_DEPLOYABLES}",
        f"DELETE FROM deployables WHERE {_DEPLOYABLES}",
        f"DELETE FROM controlpath_ids WHERE {_OF_DEVICES}",
        f"DELETE FROM devices WHERE hostname LIKE '{HOST_PREFIX}%'",
    )

    def _seed(self, devices: int, handles: int, arqs: int) -> None:
        now = self._now
        profile_id = self._profile_id()
        self._insert(
            "devices", "uuid type vendor model std_board_info vendor_board_info hostname status "
            "device_state created_at",
            ((seed_uuid("device", number), "FPGA", "0xABCD", "seed", '{"class": "seed"}', "seed",
              _host(number), "enabled", "available", now) for number in range(devices)))
        device_ids = self._ids("devices", f"hostname LIKE '{HOST_PREFIX}%'")
        self._insert(
            "controlpath_ids", "uuid device_id cpid_type cpid_info created_at",
            ((seed_uuid("path", number), device_ids[seed_uuid("device", number)], "PCI",
              json.dumps(_address(number, 0)), now) for number in range(devices)))
        path_ids = self._ids("controlpath_ids", self._OF_DEVICES)
        self._insert(
            "deployables", "uuid name num_accelerators device_id rp_uuid driver_name created_at",
            ((seed_uuid("deployable", number), f"{_host(number)}_seed{number}", handles,
              device_ids[seed_uuid("device", number)], seed_uuid("provider", number), "fake", now)
             for number in range(devices)))
        deployable_ids = self._ids("deployables", self._DEPLOYABLES)
        pairs = {"rc": self._resources, **({"traits1": self._trait} if self._trait else {})}
        self._insert(
            "attributes", "uuid deployable_id key value created_at",
            ((seed_uuid(f"attribute-{key}", number),
              deployable_ids[seed_uuid("deployable", number)], key, value, now)
             for number in range(devices) for key, value in pairs.items()))
        self._insert(
            "attach_handles", "uuid deployable_id cpid_id in_use attach_type attach_info "
            "created_at",
            ((seed_uuid("handle", number * handles + place),
              deployable_ids[seed_uuid("deployable", number)],
              path_ids[seed_uuid("path", number)], int(number * handles + place < arqs),
              "TEST_PCI", json.dumps(_address(number, place + 1)), now)
             for number in range(devices) for place in range(handles)))
        handle_ids = self._ids("attach_handles", self._OF_DEPLOYABLES)
        self._insert(
            "extended_accelerator_requests", "uuid project_id state device_profile_id "
            "device_profile_group_id hostname device_rp_uuid instance_uuid attach_handle_id "
            "substate deployable_id created_at",
            ((seed_uuid("arq", number), self._project_id, "Bound", profile_id, 0,
              _host(number // handles), seed_uuid("provider", number // handles),
              seed_uuid("instance", number), handle_ids[seed_uuid("handle", number)], "Initial",
              deployable_ids[seed_uuid("deployable", number // handles)], now)
             for number in range(arqs)))


class CyborgLiteSeeder(Seeder):
    """Our own tables."""

    _DEPLOYABLES = f"name LIKE '{HOST_PREFIX}%'"
    _OF_DEPLOYABLES = f"deployable_id IN (SELECT id FROM deployables WHERE {_DEPLOYABLES})"
    removals = (
        f"DELETE FROM arqs WHERE hostname LIKE '{HOST_PREFIX}%'",
        f"DELETE FROM attach_handles WHERE {_OF_DEPLOYABLES}",
        f"DELETE FROM attributes WHERE {_OF_DEPLOYABLES}",
        f"DELETE FROM deployables WHERE {_DEPLOYABLES}",
        f"DELETE FROM devices WHERE hostname LIKE '{HOST_PREFIX}%'",
        f"DELETE FROM hosts WHERE name LIKE '{HOST_PREFIX}%'",
    )

    def _seed(self, devices: int, handles: int, arqs: int) -> None:
        now = self._now
        # in step with Placement, as far as the service knows, for longer than any run
        later = now + datetime.timedelta(days=30)
        profile_id = self._profile_id()
        hosts = dict.fromkeys(_host(number) for number in range(devices))
        self._insert(
            "hosts", "uuid name status resource_provider_name digest last_seen drivers "
            "generation synced_generation synced_at sync_attempts sync_due_at created_at",
            ((seed_uuid("host", number), name, "enabled", name, "seed", now, "[]", 1, 1, later, 0,
              later, now) for number, name in enumerate(hosts)))
        self._insert(
            "devices", "uuid hostname address type vendor model std_board_info "
            "vendor_board_info driver status created_at",
            ((seed_uuid("device", number), _host(number), f"seed-{number}", "FPGA", "0xABCD",
              "seed", '{"class": "seed"}', "seed", "fake_driver", "enabled", now)
             for number in range(devices)))
        device_ids = self._ids("devices", f"hostname LIKE '{HOST_PREFIX}%'")
        self._insert(
            "deployables", "uuid device_id name rp_uuid driver_name num_accelerators prepares "
            "cleans created_at",
            ((seed_uuid("deployable", number), device_ids[seed_uuid("device", number)],
              f"{_host(number)}_seed{number}", seed_uuid("provider", number), "fake_driver",
              handles, False, False, now) for number in range(devices)))
        deployable_ids = self._ids("deployables", self._DEPLOYABLES)
        pairs = {"rc": self._resources, **({"trait0": self._trait} if self._trait else {})}
        self._insert(
            "attributes", "uuid deployable_id key value origin created_at",
            ((seed_uuid(f"attribute-{key}", number),
              deployable_ids[seed_uuid("deployable", number)], key, value, "agent", now)
             for number in range(devices) for key, value in pairs.items()))
        self._insert(
            "attach_handles", "uuid deployable_id type info state arq_uuid created_at",
            ((seed_uuid("handle", number * handles + place),
              deployable_ids[seed_uuid("deployable", number)], "TEST_PCI",
              json.dumps(_address(number, place + 1), sort_keys=True, separators=(",", ":")),
              *(("in_use", seed_uuid("arq", number * handles + place))
                if number * handles + place < arqs else ("free", None)), now)
             for number in range(devices) for place in range(handles)))
        self._insert(
            "arqs", "uuid project_id state device_profile_id device_profile_name "
            "device_profile_group_id device_profile_group instance_uuid migration_uuid "
            "set_position hostname device_rp_uuid resumes created_at",
            ((seed_uuid("arq", number), self._project_id, "Bound", profile_id, self._profile, 0,
              json.dumps(self._group), seed_uuid("instance", number), "", 0,
              _host(number // handles), seed_uuid("provider", number // handles), False, now)
             for number in range(arqs)))


KINDS: dict[str, type[Seeder]] = {"cyborg": CyborgSeeder, "cyborg-lite": CyborgLiteSeeder}


def servers(arqs: int) -> dict[str, str]:
    """Return the host of each instance that `seed` makes with so many ARQs, 16 a device."""
    return {seed_uuid("instance", number): _host(number // 16) for number in range(arqs)}


def _host(number: int) -> str:
    return f"{HOST_PREFIX}{number // DEVICES_PER_HOST}"


def _address(number: int, place: int) -> dict[str, str]:
    return {"domain": f"{number >> 16 & 0xffff:04x}", "bus": f"{number >> 8 & 0xff:02x}",
            "device": f"{number & 0xff:02x}", "function": f"{place:x}"}
