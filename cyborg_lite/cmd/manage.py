# SPDX-License-Identifier: Apache-2.0
"""cyborg-lite-manage: thin calls of what lives elsewhere. No SQL here."""

from __future__ import annotations

import argparse
import datetime
import sys
from typing import Any
from typing import NoReturn

import sqlalchemy as sa
from oslo_config import cfg
from oslo_db import exception as db_exc

from cyborg_lite import config
from cyborg_lite import errors
from cyborg_lite.cmd import process
from cyborg_lite.cmd import sweeping
from cyborg_lite.db import checks
from cyborg_lite.db import migrate
from cyborg_lite.db import orphans
from cyborg_lite.db import purge
from cyborg_lite.db import session

NAME = "cyborg-lite-manage"

NO_IMPORT = (
    "This release imports nothing from the database of OpenStack Cyborg. Store the device profiles "
    "with openstack accelerator device profile list --long -f json, make them again here, and move "
    "host by host: servers get new accelerator requests. The page \"For users of Cyborg\" has the "
    "steps.")

STUCK_FACTOR = 2
"""Something counts as stuck after so many times the interval in which it should have been done."""


def main() -> None:
    """Run one command.

    Exit status 0 when all is well, 1 when not, 2 for wrong arguments; 3 when orphans are left.
    """
    try:
        sys.exit(_run(sys.argv[1:]))
    except (process.CannotStart, cfg.Error) as error:
        print(f"{NAME}: {error}", file=sys.stderr)
    except errors.Error as error:
        print(f"{NAME}: {error.detail}", file=sys.stderr)
    except (migrate.NotInstalled, migrate.UnknownRevision) as error:
        print(f"{NAME}: {error}", file=sys.stderr)
    except (db_exc.DBError, sa.exc.SQLAlchemyError) as error:
        # the statement is nothing that an operator could mend
        print(f"{NAME}: {str(error).splitlines()[0]}", file=sys.stderr)
    sys.exit(1)


def _run(arguments: list[str]) -> int:
    command = cfg.SubCommandOpt("command", title="commands", handler=_add_commands)
    conf = process.configure(
        process.Program(name=NAME, build=_nothing_to_serve, cli_options=(command,)), arguments)
    config.set_up_logging(conf)
    if conf.command.run is _import_cyborg:
        _import_cyborg()
    if not conf.database.connection:
        raise process.CannotStart(
            "[database] connection is not set. Name the configuration file that has it with "
            "--config-file.")
    database = session.from_conf(conf, lambda: None)
    if getattr(conf.command, "db_command", None) not in ("upgrade", "version"):
        complaint = migrate.complaint(database.engine)
        if complaint:
            raise process.CannotStart(complaint)
    status: int = conf.command.run(conf, database)
    return status


def _nothing_to_serve(conf: cfg.ConfigOpts) -> Any:
    raise NotImplementedError


def _add_commands(commands: Any) -> None:
    db = commands.add_parser("db", help="the schema and its rows").add_subparsers(
        dest="db_command", required=True)
    upgrade = db.add_parser("upgrade", help="bring the schema to a revision")
    upgrade.add_argument("revision", nargs="?", default=migrate.HEAD,
                         help="default: the newest that this release knows")
    upgrade.set_defaults(run=_upgrade)
    db.add_parser("version", help="print the revision of the schema").set_defaults(run=_version)
    purge_parser = db.add_parser(
        "purge", help="delete rows that nothing needs: records of hosts that are silent and "
                      "empty, and of orphans that were cleaned")
    purge_parser.add_argument("--older-than", type=_days, default=_days("30"), metavar="DAYS",
                              help="silent, or cleaned, for more days than this (default 30)")
    purge_parser.add_argument("--max-rows", type=_rows, default=1000,
                              help="delete at most so many (default 1000)")
    purge_parser.add_argument("--dry-run", action="store_true", help="only print them")
    purge_parser.set_defaults(run=_purge)
    sweep_parser = commands.add_parser(
        "sweep", help="look for orphans now, and clean those that are confirmed; exit status 3 "
                      "when some are left")
    sweep_parser.add_argument("--dry-run", action="store_true", help="only print them")
    sweep_parser.add_argument("--host", dest="only_host", help="look at this one alone")
    sweep_parser.set_defaults(run=sweeping.run)
    commands.add_parser("check", help="look for rows that contradict the invariants; repairs "
                                      "nothing").set_defaults(run=_check)
    commands.add_parser("import-cyborg", help="not in this release; says what to do instead"
                        ).set_defaults(run=_import_cyborg)


def _import_cyborg() -> NoReturn:
    raise process.CannotStart(NO_IMPORT)


def _days(text: str) -> datetime.timedelta:
    try:
        days = datetime.timedelta(days=float(text))
    except (ValueError, OverflowError):
        days = datetime.timedelta()
    if days <= datetime.timedelta():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days above 0")
    return days


def _rows(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows")
    return int(text)


def _upgrade(conf: cfg.ConfigOpts, database: session.Database) -> int:
    before, after = migrate.upgrade(database.engine, conf.command.revision)
    print(f"{before or 'empty'} -> {after}" if before != after else f"{after}: nothing to do")
    return 0


def _version(conf: cfg.ConfigOpts, database: session.Database) -> int:
    print(migrate.version(database.engine) or "empty")
    return 0


def _purge(conf: cfg.ConfigOpts, database: session.Database) -> int:
    before = session.now() - conf.command.older_than
    hosts = purge.silent_hosts(database, before, conf.command.max_rows)
    accounts = orphans.old_accounts(database, before, conf.command.max_rows)
    for host in hosts:
        print(host)
    if conf.command.dry_run:
        print(f"{len(hosts)} hosts would be deleted")
        if accounts:
            print(f"{len(accounts)} records of cleaned orphans would be deleted")
    else:
        print(f"{purge.delete_hosts(database, hosts, before)} hosts deleted")
        if accounts:
            print(f"{orphans.delete_accounts(database, accounts)} records of cleaned orphans "
                  "deleted")
    return 0


def _check(conf: cfg.ConfigOpts, database: session.Database) -> int:
    options = conf.conductor
    findings = checks.find(database, checks.Limits(
        bind_s=STUCK_FACTOR * options.bind_timeout,
        sync_s=STUCK_FACTOR * options.placement_sync_interval,
        event_s=STUCK_FACTOR * options.event_give_up))
    for finding in findings:
        print(f"invariant {finding.invariant}: {finding.what}")
    print(f"{len(findings)} findings")
    return 1 if findings else 0
