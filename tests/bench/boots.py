# SPDX-License-Identifier: Apache-2.0
"""Nova's calls for one server with accelerators, from the profile to the delete, many times.

Knows the public API alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from tests.bench import nova
from tests.bench import targets
from tests.bench import tokens
from tests.bench import wire

UNTIL_EVENT = "until_event"
"""From the first request until the bind is answered and Nova has each event."""

STEPS = ("get_profile", "post", "patch", "event", "get_instance", "delete_instance")
EVENT_TIMEOUT_S = 60.0
MOST_ERRORS = 5


class BootFailed(Exception):
    """A step did not answer as Nova needs it."""


@dataclasses.dataclass(frozen=True)
class Site:
    """One target, with what a boot needs to know of it."""

    target: targets.Target
    identity: tokens.Identity
    events: nova.Events
    providers: list[str]
    capacity: int

    def connection(self, timeout_s: float = 120.0) -> wire.Connection:
        """Open a connection that says who we are."""
        return wire.Connection(self.target.url, self.identity.headers, timeout_s)


def profile_name(accelerators: int) -> str:
    """Return the name of the device profile that boots of this size use."""
    return f"bench-{accelerators}"


def make_profile(site: Site, accelerators: int) -> None:
    """Create the device profile unless it is there."""
    connection = site.connection()
    name = profile_name(accelerators)
    found = _expect(connection.request("GET", f"/device_profiles?name={name}"), 200)
    if not found["device_profiles"]:
        group = {f"resources:{site.target.resources}": str(accelerators)}
        if site.target.trait:
            group[f"trait:{site.target.trait}"] = "required"
        _expect(connection.request("POST", "/device_profiles",
                                   [{"name": name, "groups": [group]}]), 201)
    connection.close()


def find_providers(target: targets.Target, connection: wire.Connection) -> tuple[list[str], int]:
    """Return the providers of the target's host, by the deployables' names, and their handles."""
    found = _expect(connection.request("GET", "/deployables"), 200)["deployables"]
    prefix = "".join(letter if letter.isalnum() or letter in "-_" else "_"
                     for letter in target.hostname or "")
    mine = [one for one in found if one["rp_uuid"]
            and (one["rp_uuid"] in target.providers if target.providers
                 else one["name"].startswith(prefix + "_"))]
    if not mine:
        raise BootFailed(f"{target.name} lists no deployable of host {target.hostname} that has "
                         f"a provider, among {len(found)}")
    return ([one["rp_uuid"] for one in mine], sum(one["num_accelerators"] for one in mine))


def boot(site: Site, connection: wire.Connection, accelerators: int, provider: str) -> dict[
        str, float]:
    """Do what Nova does for one server; returns the ms of each step and until the event.

    Raises BootFailed or WireError, after deleting what there is.
    """
    instance = str(uuid.uuid4())
    made: list[str] = []
    try:
        return _boot_steps(site, connection, accelerators, provider, instance, made)
    except (BootFailed, wire.WireError):
        # as Nova cleans up: whatever of it is there
        connection.close()
        connection.request("DELETE", f"/accelerator_requests?instance={instance}")
        if made:
            connection.request("DELETE", f"/accelerator_requests?arqs={','.join(made)}")
        raise
    finally:
        site.events.forget(instance)


def _boot_steps(site: Site, connection: wire.Connection, accelerators: int, provider: str,
                instance: str, made: list[str]) -> dict[str, float]:
    times: dict[str, float] = {}
    began_wall, began = time.time(), time.perf_counter()
    moment = began

    def done(step: str) -> None:
        nonlocal moment
        now = time.perf_counter()
        times[step] = (now - moment) * 1000
        moment = now

    name = profile_name(accelerators)
    _expect(connection.request("GET", f"/device_profiles?name={name}"), 200)
    done("get_profile")
    arqs = _expect(connection.request("POST", "/accelerator_requests",
                                      {"device_profile_name": name}), 201)["arqs"]
    done("post")
    made += [arq["uuid"] for arq in arqs]
    if len(arqs) != accelerators:
        raise BootFailed(f"POST made {len(arqs)} ARQs, {accelerators} were asked for")
    patch = [{"op": "add", "path": "/hostname", "value": site.target.hostname},
             {"op": "add", "path": "/device_rp_uuid", "value": provider},
             {"op": "add", "path": "/instance_uuid", "value": instance}]
    _expect(connection.request("PATCH", "/accelerator_requests",
                               {arq["uuid"]: patch for arq in arqs}), 202)
    done("patch")
    told = site.events.wait(instance, accelerators, EVENT_TIMEOUT_S)
    if told is None:
        raise BootFailed(f"no event within {EVENT_TIMEOUT_S:g} s")
    # the event may well have come before the answer to the bind
    patched = (moment - began) * 1000
    times[UNTIL_EVENT] = max(patched, (told - began_wall) * 1000)
    times["event"] = times[UNTIL_EVENT] - patched
    moment = time.perf_counter()
    bound = _expect(connection.request(
        "GET", f"/accelerator_requests?instance={instance}"), 200)["arqs"]
    done("get_instance")
    if [arq["state"] for arq in bound] != ["Bound"] * accelerators:
        raise BootFailed(f"after the event the ARQs are {[arq['state'] for arq in bound]}")
    _expect(connection.request("DELETE", f"/accelerator_requests?instance={instance}"), 204)
    done("delete_instance")
    return times


def run(site: Site, *, concurrency: int, accelerators: int, count: int, budget_s: float,
        read_meters: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """Boot `count` servers, or as many as start within the budget, from several threads.

    Returns units, wall_s, samples, errors and the meters before and after.
    """
    samples: dict[str, list[float]] = {name: [] for name in (UNTIL_EVENT, *STEPS)}
    errors: list[str] = []
    tickets = itertools.count()
    lock = threading.Lock()
    started = threading.Barrier(concurrency + 1)

    def work() -> None:
        connection = site.connection()
        with contextlib.suppress(wire.WireError):
            # the connection is made before the clock runs
            connection.request("GET", f"/device_profiles?name={profile_name(accelerators)}")
        started.wait()
        while (number := next(tickets)) < count and time.perf_counter() < end:
            try:
                times = boot(site, connection, accelerators,
                             site.providers[number % len(site.providers)])
            except (BootFailed, wire.WireError) as error:
                with lock:
                    errors.append(str(error))
                    if len(errors) >= MOST_ERRORS:
                        return
                continue
            with lock:
                for name, value in times.items():
                    samples[name].append(value)
        connection.close()

    end = time.perf_counter() + 3600
    threads = [threading.Thread(target=work, daemon=True) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    before = read_meters()
    began = time.perf_counter()
    end = began + budget_s
    started.wait()
    for thread in threads:
        thread.join()
    wall_s = time.perf_counter() - began
    return {"units": len(samples[UNTIL_EVENT]), "wall_s": wall_s, "samples": samples,
            "errors": errors, "before": before, "after": read_meters()}


def _expect(answer: wire.Answer, status: int) -> Any:
    if answer.status != status:
        raise BootFailed(f"answered {answer.status} instead of {status}: {answer.body[:300]!r}")
    return answer.json()
