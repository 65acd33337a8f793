# SPDX-License-Identifier: Apache-2.0
"""What should exist on a host, as an agent asks when it starts: on the three databases."""

from __future__ import annotations

import sqlalchemy as sa

from cyborg_lite import messages
from cyborg_lite.db import arqs
from cyborg_lite.db import binds
from cyborg_lite.db import handles
from cyborg_lite.db import models
from cyborg_lite.db import session
from tests.fixtures import builders
from tests.fixtures import databases


def start(database: session.Database, number: int) -> list[messages.Arq]:
    """ARQs in BindStarted, whose handles need host work."""
    found = builders.new_arqs(database, number)
    binds.start(database, builders.bind_requests(found), builders.an_owner(), None)
    return found


def test_handles_that_are_held_are_to_prepare_and_given_back_ones_to_clean(
        database: session.Database) -> None:
    builders.store(database, builders.a_report(prepares=True, cleans=True))
    reserved, bound, missing, given_back = start(database, 4)
    rows = {str(row["arq_uuid"]): row
            for row in databases.all_rows(database, models.attach_handles)}
    with database.writing() as connection:
        for arq, state in ((bound, "in_use"), (missing, "missing")):
            connection.execute(sa.update(models.attach_handles).values(state=state).where(
                models.attach_handles.c.arq_uuid == arq.uuid))
    arqs.unbind(database, [given_back.uuid])

    with databases.counted(database) as statements:
        intent = handles.intent_of(database, builders.HOST)

    assert {task.handle_uuid for task in intent.prepare} == {
        rows[arq.uuid]["uuid"] for arq in (reserved, bound, missing)}
    assert {task.handle_uuid for task in intent.clean} == {rows[given_back.uuid]["uuid"]}
    assert intent.prepare[0].driver == "fake_driver"
    assert intent.prepare[0].info["bus"] == "0c"
    assert all(task.instance_uuid for task in intent.prepare)
    assert len(statements) == 1


def test_another_hosts_handles_and_those_without_host_work_are_left_out(
        database: session.Database) -> None:
    builders.store(database, builders.a_report())
    builders.bound_arqs(database, 2)

    assert handles.intent_of(database, builders.HOST) == messages.HostIntent()
    assert handles.intent_of(database, "elsewhere") == messages.HostIntent()
