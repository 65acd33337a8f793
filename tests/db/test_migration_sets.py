# SPDX-License-Identifier: Apache-2.0
"""The two sets of ARQs of a migration, on the three databases."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from cyborg_lite import errors
from cyborg_lite import messages
from cyborg_lite import states
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import checks
from cyborg_lite.db import migration_sets
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases

OTHER = "node2"
LIMITS = checks.Limits(bind_s=1e6, sync_s=1e6, event_s=1e6)


@dataclasses.dataclass(frozen=True, slots=True)
class Moving:
    """An instance with ARQs on one host and, for its migration, as many on another."""

    instance: str
    migration: str
    source: list[str]
    destination: list[str]


def start(database: session.Database, requests: list[messages.BindRequest]) -> binds.Outcome:
    return binds.start(database, requests, builders.an_owner(), "req-1")


def two_hosts(database: session.Database, **deployable: object) -> None:
    builders.store(database, builders.a_report())
    builders.store(database, builders.a_report(host=OTHER, **deployable))


def for_destination(database: session.Database, instance: str, migration: str, number: int = 1, *,
                    kind: str | None = None) -> list[str]:
    found = builders.new_arqs(database, number)
    start(database, builders.bind_requests(
        found, instance, host=OTHER, provider=builders.rp_uuid(host=OTHER), migration=migration,
        migration_type=kind))
    return [arq.uuid for arq in found]


@pytest.fixture
def moving(database: session.Database) -> Moving:
    """A cold migration whose destination is bound."""
    two_hosts(database)
    instance, migration = builders.new_uuid(), builders.new_uuid()
    source = [arq.uuid for arq in builders.bound_arqs(database, 2, instance)]
    return Moving(instance, migration, source,
                  for_destination(database, instance, migration, 2))


def active(database: session.Database, instance: str) -> list[str]:
    return [arq.uuid for arq in
            arqs.list_arqs(database, messages.ArqQuery(instance_uuid=instance))]


def inactive(database: session.Database, moving: Moving) -> list[str]:
    return [arq.uuid for arq in arqs.list_arqs(database, messages.ArqQuery(
        instance_uuid=moving.instance, migration_uuid=moving.migration))]


def used(database: session.Database) -> collections.Counter[str]:
    return collections.Counter(
        str(row["state"]) for row in databases.all_rows(database, models.attach_handles))


def test_the_destinations_set_is_bound_beside_the_active_one(
        database: session.Database, moving: Moving) -> None:
    assert active(database, moving.instance) == moving.source
    assert inactive(database, moving) == moving.destination
    assert used(database) == {"in_use": 4, "free": 28}
    assert {row["arq_uuid"] for row in databases.all_rows(database, models.events)} == {
        *moving.source, *moving.destination}
    assert checks.find(database, LIMITS) == []


def test_both_sets_are_listed_when_asked_for(database: session.Database, moving: Moving) -> None:
    found = arqs.list_arqs(database, messages.ArqQuery(
        instance_uuid=moving.instance, all_sets=True))

    assert [arq.migration_uuid for arq in found] == [None, None] + [moving.migration] * 2


def test_repeating_the_bind_of_the_inactive_set_changes_nothing(
        database: session.Database, moving: Moving) -> None:
    requests = builders.bind_requests(
        [arqs.get(database, uuid, None) for uuid in moving.destination], moving.instance,
        host=OTHER, provider=builders.rp_uuid(host=OTHER), migration=moving.migration)

    assert start(database, requests) == binds.Outcome()


def test_a_migration_that_has_a_set_gets_no_second_one(
        database: session.Database, moving: Moving) -> None:
    with pytest.raises(errors.StateConflict, match=moving.migration):
        for_destination(database, moving.instance, moving.migration)


def test_an_instance_that_is_migrated_gets_no_second_active_set(
        database: session.Database, moving: Moving) -> None:
    with pytest.raises(errors.AlreadyHasArqs):
        start(database, builders.bind_requests(builders.new_arqs(database), moving.instance))


def test_an_instance_may_have_an_inactive_set_for_each_of_its_migrations(
        database: session.Database, moving: Moving) -> None:
    other = builders.new_uuid()

    more = for_destination(database, moving.instance, other)

    assert active(database, moving.instance) == moving.source
    assert [arq.uuid for arq in arqs.list_arqs(
        database, messages.ArqQuery(migration_uuid=other))] == more


def test_both_sets_may_be_on_one_host(database: session.Database) -> None:
    builders.store(database, builders.a_report())
    instance, migration = builders.new_uuid(), builders.new_uuid()
    source = [arq.uuid for arq in builders.bound_arqs(database, 1, instance)]
    found = builders.new_arqs(database)
    start(database, builders.bind_requests(found, instance, migration=migration))

    migration_sets.switch(database, instance, migration, "destination")
    migration_sets.end(database, instance, migration)

    assert active(database, instance) == [found[0].uuid] != source
    assert used(database) == {"in_use": 1, "free": 15}


@pytest.mark.parametrize("repeated", [1, 2])
def test_a_switch_exchanges_the_sets_and_both_keep_their_handles(
        database: session.Database, moving: Moving, repeated: int) -> None:
    for _ in range(repeated):
        found = migration_sets.switch(
            database, moving.instance, moving.migration, "destination")

    assert {arq.uuid: arq.migration_uuid for arq in found} == {
        **dict.fromkeys(moving.source, moving.migration),
        **dict.fromkeys(moving.destination)}
    assert active(database, moving.instance) == moving.destination
    assert used(database)["in_use"] == 4
    assert checks.find(database, LIMITS) == []


def test_a_switch_back_restores_the_source(database: session.Database, moving: Moving) -> None:
    migration_sets.switch(database, moving.instance, moving.migration, "destination")

    migration_sets.switch(database, moving.instance, moving.migration, "source")

    assert active(database, moving.instance) == moving.source
    assert inactive(database, moving) == moving.destination


def test_a_switch_of_a_migration_that_is_not_open_is_refused(
        database: session.Database, moving: Moving) -> None:
    for instance, migration in ((moving.instance, builders.new_uuid()),
                                (builders.new_uuid(), moving.migration)):
        with pytest.raises(errors.NotFound, match=migration):
            migration_sets.switch(database, instance, migration, "destination")


def test_a_switch_waits_until_the_destinations_set_is_bound(database: session.Database) -> None:
    two_hosts(database, prepares=True)
    instance, migration = builders.new_uuid(), builders.new_uuid()
    builders.bound_arqs(database, 1, instance)
    [under_way] = for_destination(database, instance, migration)

    with pytest.raises(errors.StateConflict, match=rf"{under_way} .* BindStarted"):
        migration_sets.switch(database, instance, migration, "destination")


@pytest.mark.parametrize(("switched", "stays"), [(False, "source"), (True, "destination")])
def test_the_end_frees_the_inactive_set_alone_however_often(
        database: session.Database, moving: Moving, switched: bool, stays: str) -> None:
    if switched:
        migration_sets.switch(database, moving.instance, moving.migration, "destination")

    for _ in range(2):
        found, _ = migration_sets.end(database, moving.instance, moving.migration)

    assert [arq.uuid for arq in found] == getattr(moving, stays)
    assert used(database) == {"in_use": 2, "free": 30}
    assert databases.all_rows(database, models.migrations) == []


def test_the_end_of_a_migration_nobody_knows_is_a_success(
        database: session.Database, moving: Moving) -> None:
    found, _ = migration_sets.end(database, moving.instance, builders.new_uuid())

    assert len(found) == 4


def test_a_migration_to_a_flavor_without_accelerators_has_an_empty_set(
        database: session.Database) -> None:
    two_hosts(database)
    instance, migration = builders.new_uuid(), builders.new_uuid()
    source = [arq.uuid for arq in builders.bound_arqs(database, 1, instance)]

    for _ in range(2):
        migration_sets.begin(database, instance, migration, None)
    migration_sets.switch(database, instance, migration, "destination")

    assert active(database, instance) == []
    migration_sets.switch(database, instance, migration, "source")
    assert active(database, instance) == source
    migration_sets.switch(database, instance, migration, "destination")
    assert migration_sets.end(database, instance, migration) == ([], False)
    assert used(database)["in_use"] == 0


def test_a_migration_from_a_flavor_without_accelerators_begins_with_an_empty_set(
        database: session.Database) -> None:
    two_hosts(database)
    instance, migration = builders.new_uuid(), builders.new_uuid()
    destination = for_destination(database, instance, migration)

    assert active(database, instance) == []
    migration_sets.switch(database, instance, migration, "destination")
    migration_sets.end(database, instance, migration)

    assert active(database, instance) == destination


def test_nothing_is_bound_for_a_migration_that_was_switched(
        database: session.Database) -> None:
    two_hosts(database)
    instance, migration = builders.new_uuid(), builders.new_uuid()
    migration_sets.begin(database, instance, migration, None)
    migration_sets.switch(database, instance, migration, "destination")

    with pytest.raises(errors.StateConflict, match="switched"):
        for_destination(database, instance, migration)


def test_a_migration_does_not_change_its_type(database: session.Database) -> None:
    instance, migration = builders.new_uuid(), builders.new_uuid()
    migration_sets.begin(database, instance, migration, "live")

    with pytest.raises(errors.StateConflict, match="begun as live"):
        migration_sets.begin(database, instance, migration, "cold")


def test_the_bind_of_a_cold_migration_is_not_repeated_as_a_live_one(
        database: session.Database, moving: Moving) -> None:
    requests = builders.bind_requests(
        [arqs.get(database, uuid, None) for uuid in moving.destination], moving.instance,
        host=OTHER, provider=builders.rp_uuid(host=OTHER), migration=moving.migration,
        migration_type="live")

    with pytest.raises(errors.StateConflict, match="begun as cold"):
        start(database, requests)


@pytest.mark.parametrize("kinds", [("live", "cold"), ("cold", "live")])
def test_one_migration_is_not_bound_as_two_types(
        database: session.Database, kinds: tuple[str, str]) -> None:
    two_hosts(database)
    instance, migration = builders.new_uuid(), builders.new_uuid()
    requests = [dataclasses.replace(request, migration_type=kind) for kind, request in zip(
        kinds, builders.bind_requests(
            builders.new_arqs(database, 2), instance, host=OTHER,
            provider=builders.rp_uuid(host=OTHER), migration=migration), strict=True)]

    with pytest.raises(errors.Invalid, match="one type"):
        start(database, requests)

    assert databases.all_rows(database, models.migrations) == []


def test_deleting_the_arqs_of_an_instance_frees_every_set(
        database: session.Database, moving: Moving) -> None:
    arqs.delete_of_instance(database, moving.instance)

    assert used(database) == {"free": 32}
    assert databases.all_rows(database, models.migrations) == []


def test_a_set_that_failed_is_bound_again_with_new_arqs(database: session.Database) -> None:
    two_hosts(database, handles=1)
    instance, migration = builders.new_uuid(), builders.new_uuid()
    source = [arq.uuid for arq in builders.bound_arqs(database, 1, instance)]
    failed = for_destination(database, instance, migration, 2)
    assert {arqs.get(database, one, None).state for one in failed} == {states.BIND_FAILED}
    assert active(database, instance) == source

    arqs.delete(database, failed, None, True)
    again = for_destination(database, instance, migration, 1)

    assert arqs.get(database, again[0], None).state == states.BOUND


def test_host_work_that_fails_for_the_destination_leaves_the_active_set_alone(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(prepares=True, cleans=True))
    instance, migration = builders.new_uuid(), builders.new_uuid()
    owner = builders.an_owner()
    sets = {}
    for key in (None, migration):
        found = builders.new_arqs(database)
        outcome = binds.start(database, builders.bind_requests(
            found, instance, migration=key), owner, None)
        [task] = outcome.tasks[builders.HOST]
        sets[key] = found[0].uuid, messages.HandleResult(
            handle_uuid=task.handle_uuid, error="no room" if key else None)

    binds.finish(database, [result for _, result in sets.values()], owner, owner, None)

    assert {key: arqs.get(database, uuid, None).state for key, (uuid, _) in sets.items()} == {
        None: states.BOUND, migration: states.BIND_FAILED}


# --- live migration ---------------------------------------------------------------------------


def a_vgpu_host(host: str, asked_type: str, product: str = "20f1") -> messages.HostReport:
    handles = [messages.ReportedHandle(type="MDEV", info={
        "domain": "0000", "bus": "41", "device": f"{number:x}", "function": "0",
        "asked_type": asked_type}) for number in range(4)]
    return builders.a_report([dataclasses.replace(
        builders.a_device("0000:41:00.0", deployables=[dataclasses.replace(
            builders.a_deployable("0000:41:00.0"), handles=handles)]),
        vendor="10de", std_board_info=f'{{"product_id": "{product}"}}')], host)


def live(database: session.Database, number: int = 1) -> dict[str, str]:
    """Bind two vGPUs on one host, `number` on another for a live migration; reasons by ARQ."""
    instance = builders.new_uuid()
    for host, migration, count in ((builders.HOST, None, 2), (OTHER, builders.new_uuid(), number)):
        outcome = start(database, builders.bind_requests(
            builders.new_arqs(database, count), instance, host=host, migration=migration,
            migration_type="live" if migration else None,
            provider=builders.rp_uuid("0000:41:00.0", host)))
    return outcome.failed


@pytest.mark.parametrize(("asked_type", "product", "number", "refusal"), [
    ("nvidia-556", "20f1", 2, None),
    ("nvidia-557", "20f1", 2, "nvidia-557 10de 20f1"),
    ("nvidia-556", "20b5", 2, "nvidia-556 10de 20b5"),
    ("nvidia-556", "20f1", 1, "the source has 1 x MDEV nvidia-556 10de 20f1 and the destination "
                              "nothing more"),
])
def test_a_live_destination_has_to_show_the_guest_the_same(
        database: session.Database, asked_type: str, product: str, number: int,
        refusal: str | None) -> None:
    builders.store(database, a_vgpu_host(builders.HOST, "nvidia-556"))
    builders.store(database, a_vgpu_host(OTHER, asked_type, product))

    reasons = live(database, number)

    if refusal is None:
        assert reasons == {}
    else:
        assert len(reasons) == number
        assert all(refusal in reason for reason in reasons.values())
        assert used(database) == {"in_use": 2, "free": 6}


# --- costs and races --------------------------------------------------------------------------


def test_switch_and_end_take_at_most_ten_statements_for_eight(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    builders.store(database, builders.a_report(host=OTHER, cleans=True))
    instance, migration = builders.new_uuid(), builders.new_uuid()
    builders.bound_arqs(database, 8, instance)
    with databases.counted(database) as binding:
        for_destination(database, instance, migration, 8)

    with databases.counted(database) as switching:
        migration_sets.switch(database, instance, migration, "destination")
    with databases.counted(database) as back:
        migration_sets.switch(database, instance, migration, "source")
    with databases.counted(database) as ending:
        migration_sets.end(database, instance, migration)

    assert len(switching) <= 10
    assert len(back) <= 10
    assert len(ending) <= 10
    assert len(binding) <= 16  # with the four of creating and looking for the profile


def test_an_end_with_handles_of_every_kind_takes_at_most_ten_statements_for_eight(
        database: session.Database) -> None:
    """Two kinds of cards, of each one handle less than before: free, to clean, and gone."""
    def a_report(handles: int) -> messages.HostReport:
        return builders.a_report([builders.a_device(name, deployables=[
            builders.a_deployable(name, handles, cleans=cleans)])
            for name, cleans in (("Fake0", True), ("Fake1", False))], host=OTHER)

    builders.store(database, a_report(4))
    instance, migration = builders.new_uuid(), builders.new_uuid()
    found = builders.new_arqs(database, 8)
    start(database, [request for number, name in enumerate(("Fake0", "Fake1"))
                     for request in builders.bind_requests(
                         found[number::2], instance, host=OTHER, migration=migration,
                         provider=builders.rp_uuid(name, OTHER))])
    builders.store(database, a_report(3))

    with databases.counted(database) as ending:
        migration_sets.end(database, instance, migration)

    assert len(ending) <= 10
    assert used(database) == {"cleaning": 4, "free": 3}
    [host] = databases.all_rows(database, models.hosts)
    assert host["digest"] is None


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_of_two_sets_bound_for_one_migration_at_once_one_is_refused(
        database: session.Database) -> None:
    two_hosts(database)
    instance, migration = builders.new_uuid(), builders.new_uuid()
    builders.bound_arqs(database, 1, instance)
    wishes = [builders.bind_requests(
        builders.new_arqs(database), instance, host=OTHER,
        provider=builders.rp_uuid(host=OTHER), migration=migration) for _ in range(4)]

    def attempt(requests: list[messages.BindRequest]) -> str:
        try:
            start(database, requests)
        except errors.StateConflict:
            return "refused"
        return "bound"

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(attempt, wishes))

    assert sorted(outcomes) == ["bound"] + ["refused"] * 3


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_switches_and_ends_at_one_time_leave_one_whole_active_set(
        database: session.Database, moving: Moving) -> None:
    def act(number: int) -> None:
        try:
            if number % 3:
                migration_sets.switch(database, moving.instance, moving.migration,
                                      ("source", "destination")[number % 2])
            elif number > 6:
                migration_sets.end(database, moving.instance, moving.migration)
        except errors.NotFound:
            pass

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(act, range(12)))

    assert active(database, moving.instance) in (moving.source, moving.destination)
    assert used(database) == {"in_use": 2, "free": 30}
    assert checks.find(database, LIMITS) == []


@contextlib.contextmanager
def just_before(database: session.Database, words: str,
                act: Callable[[], object]) -> Iterator[None]:
    """Act, once, before the first statement of the block that has these words."""
    done: list[str] = []

    def before(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if words in statement and not done:
            done.append(statement)
            act()

    sa.event.listen(database.engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", before)
    assert done


@pytest.mark.parametrize("ends", ["end", "delete"])
def test_what_is_bound_for_a_migration_while_it_ends_goes_with_it(
        server_database: session.Database, ends: str) -> None:
    database = server_database
    two_hosts(database)
    instance, migration = builders.new_uuid(), builders.new_uuid()
    migration_sets.begin(database, instance, migration, None)

    with just_before(database, "DELETE FROM migrations",
                     lambda: for_destination(database, instance, migration)):
        if ends == "end":
            migration_sets.end(database, instance, migration)
        else:
            arqs.delete_of_instance(database, instance)

    assert used(database)["in_use"] == 0
    assert checks.find(database, LIMITS) == []


def test_what_is_bound_for_a_migration_while_it_is_switched_is_switched_to(
        server_database: session.Database) -> None:
    database = server_database
    two_hosts(database)
    instance, migration = builders.new_uuid(), builders.new_uuid()
    migration_sets.begin(database, instance, migration, None)
    destination: list[str] = []

    with just_before(database, "FROM migrations", lambda: destination.extend(
            for_destination(database, instance, migration))):
        migration_sets.switch(database, instance, migration, "destination")

    assert active(database, instance) == destination
