# SPDX-License-Identifier: Apache-2.0
"""cyborg-lite-status upgrade check: is this installation ready? Repairs nothing."""

from __future__ import annotations

import sys

import sqlalchemy as sa
from oslo_config import cfg
from oslo_db import exception as db_exc
from oslo_upgradecheck import common_checks
from oslo_upgradecheck import upgradecheck

from cyborg_lite import config
from cyborg_lite import config_check
from cyborg_lite.db import migrate
from cyborg_lite.db import session

NAME = "cyborg-lite-status"

SUCCESS = upgradecheck.Code.SUCCESS
WARNING = upgradecheck.Code.WARNING
FAILURE = upgradecheck.Code.FAILURE


class Checks(upgradecheck.UpgradeCommands):
    """Each function is one line of the printed table."""

    def _configuration(self) -> upgradecheck.Result:
        try:
            config_check.check(_files(), NAME)
        except cfg.Error as error:
            return upgradecheck.Result(FAILURE, str(error))
        return upgradecheck.Result(SUCCESS)

    def _database(self) -> upgradecheck.Result:
        if not cfg.CONF.database.connection:
            return upgradecheck.Result(
                WARNING, "[database] connection is not set: only a conductor's host needs it.")
        try:
            engine = session.from_conf(cfg.CONF, lambda: None).engine
            found, complaint = migrate.version(engine), migrate.complaint(engine)
        except (cfg.Error, db_exc.DBError, sa.exc.SQLAlchemyError,
                migrate.NotInstalled) as error:
            return upgradecheck.Result(FAILURE, str(error))
        if complaint:
            return upgradecheck.Result(FAILURE, complaint)
        return upgradecheck.Result(SUCCESS, f"revision {found}")

    _upgrade_checks = (
        ("Configuration", _configuration),
        ("Database schema", _database),
        ("Policy file is YAML",
         (common_checks.check_policy_json, {"conf": cfg.CONF})),
    )


def main() -> None:
    """0 all well, 1 a warning, 2 a failure, 255 an error nobody expected."""
    upgradecheck.register_cli_options(cfg.CONF, Checks())
    try:
        config.load(sys.argv[1:], program=NAME)
    except cfg.Error as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        sys.exit(upgradecheck.Code.FAILURE)
    sys.exit(upgradecheck.run(cfg.CONF))


def _files() -> list[str]:
    """The files that this run reads, as arguments."""
    conf = cfg.CONF
    return [*(f"--config-file={name}" for name in conf.config_file or ()),
            *(f"--config-dir={name}" for name in conf.config_dir or ())]
