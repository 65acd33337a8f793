# SPDX-License-Identifier: Apache-2.0
"""cyborg-lite-manage sweep: one sweep in this process, printed. What it does is the conductors'."""

from __future__ import annotations

import datetime
import getpass
import os
import sys
import time
from collections.abc import Sequence

from oslo_config import cfg

from cyborg_lite import auth
from cyborg_lite import buses
from cyborg_lite import errors
from cyborg_lite.conductor import orphan_judgement
from cyborg_lite.conductor import orphans
from cyborg_lite.conductor import service
from cyborg_lite.db import liveness
from cyborg_lite.db import orphan_candidates
from cyborg_lite.db import session

DONE, FAILED, LEFT = 0, 1, 3
"""Exit statuses: nothing is left, the sweep could not be done, orphans are left."""

SETTLED = ("checked", "cleaned", *orphan_judgement.KINDS)
WAIT_S = 1.0


def run(conf: cfg.ConfigOpts, database: session.Database) -> int:
    """Sweep as the command line says; returns the exit status."""
    conductor = service.Conductor(conf, buses.LocalBus())
    try:
        conductor.reconciler.horizon = lambda: _horizon(conf, database)
        # the id that Nova and Placement are told is the one of the log
        with auth.call_context({}):
            return _sweep(conductor.reconciler, conf.command.only_host,
                          dry_run=conf.command.dry_run)
    finally:
        conductor.stop()


def _sweep(reconciler: orphans.Reconciler, host: str | None, *, dry_run: bool) -> int:
    asked_by = f"{_user()} with cyborg-lite-manage"
    sweep = reconciler.sweep_here(host, dry_run, asked_by, _print)
    while sweep.state == "running":
        # one that was begun before is not over; its conductor may be dead
        if not reconciler.work_once(only=sweep.id if dry_run else None):
            print(f"sweep {sweep.id} waits for another one", file=sys.stderr)
            time.sleep(WAIT_S)
        sweep = reconciler.sweep_here(host, dry_run, asked_by, _print)
    if sweep.state == "failed":
        raise errors.Error(f"The sweep ended: {sweep.fault}")
    print(", ".join(f"{name} {number}" for name, number in sorted(sweep.counts.items())) or
          "nothing was looked at")
    return LEFT if set(sweep.counts) - set(SETTLED) else DONE


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        return f"user {os.getuid()}"


def _print(verdicts: Sequence[orphan_judgement.Verdict]) -> None:
    for verdict in verdicts:
        finding = verdict.finding
        print(f"{verdict.sighting.state} {finding.kind} {finding.object} host={finding.host}: "
              f"{finding.reason}")


def _horizon(conf: cfg.ConfigOpts, database: session.Database) -> liveness.Horizon:
    """As conductors count silence; where none runs nobody could hear hosts, so none is silent."""
    options, heard = conf.conductor, orphan_candidates.last_heard(database)
    down = datetime.timedelta(seconds=options.service_down_time)
    if heard is None or heard < session.now() - down:
        return liveness.NOBODY_IS_DOWN
    return liveness.Horizon(
        down_before=heard - down,
        gone_before=heard - max(down, datetime.timedelta(
            seconds=conf.reconcile.host_gone_after)))
