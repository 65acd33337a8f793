# SPDX-License-Identifier: Apache-2.0
"""Chance histories of one host: whatever comes in whatever order, the invariants hold.

One thread; what happens at the same moment is tested beside each function.
"""

from __future__ import annotations

import collections
import datetime
import random

import pytest
import sqlalchemy as sa

from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import checks
from cyborg_lite.db import device_detail
from cyborg_lite.db import devices
from cyborg_lite.db import handles
from cyborg_lite.db import heartbeats
from cyborg_lite.db import leases
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases

BIND_TIMEOUT_S = 120
LEASE_S = 70
CARDS = (
    # name, prepares, cleans
    ("Plain", False, False),
    ("Prepared", True, False),
    ("Disk", False, True),
    ("Slice", True, True),
)
HANDLES = 2
CONDUCTORS = [f"{number}" * 8 + "-0000-0000-0000-000000000000" for number in (1, 2)]

STEPS = 150
GONE = "there is no such function"


class Work:
    """Tasks for the host, and the lease under which a conductor asked for them."""

    def __init__(self, lease: leases.Owner, tasks: list[messages.HandleTask]) -> None:
        self.lease, self.tasks = lease, tasks

    def results(self, error: str | None) -> list[messages.HandleResult]:
        return [messages.HandleResult(handle_uuid=task.handle_uuid, error=error,
                                      gone=error == GONE) for task in self.tasks]


class History:
    """One host with four cards, two conductors, and Nova, which takes events when it likes."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.happened: list[str] = []
        self.database = session.Database("sqlite://", check_before_commit=buses.check_deadline)
        models.metadata.create_all(self.database.engine)
        self.passed_s = 0.0
        self.present = {name: HANDLES for name, *_ in CARDS}
        self.digest_sent: str | None = None
        self.preparing: list[Work] = []
        self.cleaning: list[Work] = []
        self.owed: collections.Counter[str] = collections.Counter()
        self.told: collections.Counter[str] = collections.Counter()
        # handles that may have a server's data on them
        self.dirty: set[str] = set()
        self.report()

    def play(self) -> None:
        """Take so many steps by chance, and look at everything after each."""
        pick = self.chance
        steps = {
            self.create: (2, lambda: (pick.randint(1, 2),)),
            self.bind: (8, lambda: (pick.randrange(99), pick.choice(CARDS), pick.randint(1, 2),
                                    pick.choice(CONDUCTORS))),
            self.unbind: (2, lambda: (pick.randrange(99),)),
            self.delete: (6, lambda: (pick.randrange(99), pick.random() < 0.3)),
            self.set_status: (3, lambda: (
                pick.randrange(9), pick.choice(["enabled", "enabled", "maintaining"]))),
            self.clean_again: (1, lambda: (pick.randrange(9),)),
            self.change: (4, lambda: (pick.choice(CARDS), pick.randint(0, HANDLES))),
            self.report: (6, tuple),
            self.flap: (2, tuple),
            self.prepared: (4, lambda: (
                pick.randrange(9), "no such type" if pick.random() < 0.2 else None)),
            self.cleaned: (3, lambda: (
                pick.randrange(9), pick.choice(["the disk refuses", GONE, *[None] * 10]))),
            self.take_over: (2, lambda: (pick.choice(CONDUCTORS),)),
            self.clean: (6, lambda: (pick.choice(CONDUCTORS),)),
            self.wait: (5, lambda: (pick.choice([5, LEASE_S + 1, BIND_TIMEOUT_S + 1]),)),
            self.crash: (0.2, tuple),
        }
        weights = [weight for weight, _ in steps.values()]
        for _ in range(STEPS):
            [(step, (_, arguments))] = pick.choices(list(steps.items()), weights)
            given = arguments()
            self.happened.append(f"{step.__name__}{given}")
            step(*given)
            self.the_tables_contradict_nothing()
            self.each_bind_that_is_over_has_its_event()
            self.nobody_gets_what_was_not_cleaned()
            self.what_is_under_way_can_be_taken_over()

    # --- what the rules use -------------------------------------------------------------------

    def moment(self) -> datetime.datetime:
        return session.now() + datetime.timedelta(seconds=self.passed_s)

    def lease(self, conductor_id: str) -> leases.Owner:
        return leases.Owner(conductor_id,
                            self.moment() + datetime.timedelta(seconds=LEASE_S))

    def rows(self, table: sa.Table) -> list[dict[str, object]]:
        return databases.all_rows(self.database, table)

    def some_arq(self, number: int) -> dict[str, object] | None:
        found = self.rows(models.arqs)
        return found[number % len(found)] if found else None

    def hear(self, outcome: binds.Outcome) -> None:
        for event in outcome.events:
            self.told[str(event["arq_uuid"])] += 1

    def used(self) -> None:
        """Servers that have a handle write on it."""
        cleans = {row["id"]: row["cleans"] for row in self.rows(models.deployables)}
        self.dirty |= {str(row["uuid"]) for row in self.rows(models.attach_handles)
                       if row["state"] == states.IN_USE and cleans[row["deployable_id"]]}

    # --- what users and Nova do ---------------------------------------------------------------

    def create(self, number: int) -> None:
        builders.new_arqs(self.database, number)

    def bind(self, first: int, card: tuple[str, bool, bool], together: int, by: str) -> None:
        found = self.rows(models.arqs)
        idle = [row for row in found if row["state"] not in (states.BOUND, states.BIND_STARTED)]
        # now and then one that is bound already
        found = idle if idle and first % 5 else found
        asked = found[first % (len(found) or 1):][:together]
        lease = self.lease(by)
        instance = self.instance_that_tries_again(asked) if first % 3 else None
        tries_again = instance is not None
        instance = instance or builders.new_uuid()
        requests = [messages.BindRequest(
            arq_uuid=str(row["uuid"]), hostname=builders.HOST, instance_uuid=instance,
            device_rp_uuid=builders.rp_uuid(card[0])) for row in asked]
        before = {str(row["uuid"]): row["state"] for row in asked}
        try:
            outcome = binds.start(self.database, requests, lease, None)
        except errors.StateConflict:
            assert any(state in (states.BOUND, states.BIND_STARTED) for state in before.values())
            return
        for arq in before:
            if tries_again:
                # of the try that failed Nova hears no more
                self.owed[arq] -= 1
                self.told[arq] -= 1
            self.owed[arq] += 1
        self.hear(outcome)
        self.preparing += [Work(lease, tasks) for tasks in outcome.tasks.values()]
        # a retry after a lost answer: what is under way or done is neither done nor told again
        again = binds.start(self.database, [request for request in requests
                                            if request.arq_uuid not in outcome.failed],
                            self.lease(by), None)
        assert again == binds.Outcome()

    def instance_that_tries_again(self, asked: list[dict[str, object]]) -> str | None:
        """Whose whole set of failed ARQs these are."""
        of_instance = [row for row in self.rows(models.arqs) if asked
                       and row["instance_uuid"] == asked[0]["instance_uuid"]]
        failed = {states.BIND_FAILED} == {row["state"] for row in asked}
        return str(asked[0]["instance_uuid"]) if failed and of_instance == asked else None

    def unbind(self, number: int) -> None:
        arq = self.some_arq(number)
        if arq is not None:
            arqs.unbind(self.database, [str(arq["uuid"])])
            self.forget(str(arq["uuid"]))

    def delete(self, number: int, by_instance: bool) -> None:
        arq = self.some_arq(number)
        if arq is None:
            return
        if by_instance and arq["instance_uuid"] is not None:
            arqs.delete_of_instance(self.database, str(arq["instance_uuid"]))
        else:
            arqs.delete(self.database, [str(arq["uuid"])], None, bound_too=True)
        left = {row["uuid"] for row in self.rows(models.arqs)}
        for uuid in [uuid for uuid in self.owed if uuid not in left]:
            self.forget(uuid)

    def forget(self, arq: str) -> None:
        """Nova is not told of a bind that is undone."""
        self.owed.pop(arq, None)
        self.told.pop(arq, None)

    def set_status(self, number: int, status: str) -> None:
        found = self.rows(models.devices)
        if found:
            devices.set_status(self.database, str(found[number % len(found)]["uuid"]), status)

    def clean_again(self, number: int) -> None:
        found = self.rows(models.devices)
        if found:
            device_detail.clean_again(self.database, str(found[number % len(found)]["uuid"]))

    # --- what the host does -------------------------------------------------------------------

    def change(self, card: tuple[str, bool, bool], left: int) -> None:
        """Handles vanish or return; the next heartbeat tells."""
        self.present[card[0]] = left

    def report(self) -> None:
        digest = ",".join(map(str, self.present.values()))
        beat = messages.Heartbeat(host=builders.HOST, resource_provider_name=builders.HOST,
                                  digest=digest)
        if not heartbeats.is_current(self.database, beat, session.now()):
            builders.store(self.database, builders.a_report([
                builders.a_device(name, deployables=[builders.a_deployable(
                    name, self.present[name], prepares=prepares, cleans=cleans)])
                for name, prepares, cleans in CARDS if self.present[name]], digest=digest))
        self.nothing_is_offered_that_the_host_does_not_have()

    def flap(self) -> None:
        """All cards vanish, and what was there returns."""
        present, self.present = self.present, dict.fromkeys(self.present, 0)
        self.report()
        self.present = present
        self.report()

    def nothing_is_offered_that_the_host_does_not_have(self) -> None:
        offered = collections.Counter(
            row["deployable_id"] for row in self.rows(models.attach_handles)
            if row["state"] == states.FREE)
        for row in self.rows(models.deployables):
            name = str(row["name"]).removeprefix(f"{builders.HOST}_")
            assert offered[row["id"]] <= self.present[name], f"{name} offers what is gone"
        there = {name for name, left in self.present.items() if left}
        cards = self.rows(models.devices)
        assert there <= {row["address"] for row in cards}
        kept = {row["deployable_id"] for row in self.rows(models.attach_handles)}
        kept_cards = {row["device_id"] for row in self.rows(models.deployables)
                      if row["id"] in kept}
        assert {row["address"] for row in cards
                if row["status"] == "enabled" and row["id"] not in kept_cards} <= there

    def prepared(self, number: int, error: str | None) -> None:
        if self.preparing:
            work = self.preparing.pop(number % len(self.preparing))
            self.hear(binds.finish(self.database, work.results(error), work.lease,
                                   self.lease(work.lease.conductor), None))

    def cleaned(self, number: int, error: str | None) -> None:
        """A clean step ends; it counts for who still has the lease that it began under."""
        if self.cleaning:
            work = self.cleaning.pop(number % len(self.cleaning))
            before = {row["uuid"] for row in self.rows(models.attach_handles)
                      if row["state"] == states.CLEANING
                      and (row["lease_owner"], row["lease_until"])
                      == (work.lease.conductor, work.lease.lease_until)}
            handles.finish_clean(self.database, builders.HOST, work.results(error), work.lease)
            if error is None:
                self.dirty -= {str(uuid) for uuid in before}

    # --- what conductors do by themselves, and what goes wrong --------------------------------

    def take_over(self, by: str) -> None:
        lease = self.lease(by)
        tasks, too_old = binds.take_unfinished(
            self.database, lease, self.moment(), BIND_TIMEOUT_S, 3)
        self.preparing += [Work(lease, found) for found in tasks.values()]
        if too_old:
            self.hear(binds.finish(self.database, [
                messages.HandleResult(handle_uuid=uuid, error="too late") for uuid in too_old],
                lease, self.lease(by), None))

    def clean(self, by: str) -> None:
        lease = self.lease(by)
        tasks = handles.take_to_clean(self.database, lease, self.moment(), 3)
        self.cleaning += [Work(lease, found) for found in tasks.values()]

    def wait(self, seconds: int) -> None:
        """Time passes for who looks for work; rows keep what they noted."""
        self.passed_s += seconds

    def crash(self) -> None:
        """A conductor dies: what it had begun never ends."""
        self.preparing.clear()
        self.cleaning.clear()

    # --- what always holds --------------------------------------------------------------------

    def the_tables_contradict_nothing(self) -> None:
        limits = checks.Limits(bind_s=1e6, sync_s=1e6, event_s=1e6)
        assert checks.find(self.database, limits) == []

    def each_bind_that_is_over_has_its_event(self) -> None:
        stored = collections.Counter(row["arq_uuid"] for row in self.rows(models.events))
        for row in self.rows(models.arqs):
            arq = str(row["uuid"])
            under_way = row["state"] == states.BIND_STARTED
            assert stored[arq] == self.told[arq] == self.owed[arq] - under_way

    def nobody_gets_what_was_not_cleaned(self) -> None:
        found = self.rows(models.attach_handles)
        offered = {str(row["uuid"]) for row in found if row["state"] in (
            states.FREE, states.RESERVED)}
        assert not offered & self.dirty
        self.used()

    def what_is_under_way_can_be_taken_over(self) -> None:
        assert all(row["lease_owner"] and row["lease_until"] for row in self.rows(models.arqs)
                   if row["state"] == states.BIND_STARTED)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_in_whatever_order_the_invariants_hold(seed: int) -> None:
    history = History(seed)
    try:
        history.play()
    except Exception:
        print("\n".join(history.happened))
        raise
    finally:
        history.database.dispose()
