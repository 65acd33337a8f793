# SPDX-License-Identifier: Apache-2.0
"""Reads every option once, so that a bad one is found at the start. No option is defined here.

oslo.config looks at a value when it is first used, which may be hours after the start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from oslo_config import cfg
from oslo_log import log

from cyborg_lite import config

LIBRARIES = ("oslo.db", "oslo.log", "oslo.messaging", "oslo.middleware.cors",
             "oslo.middleware.healthcheck", "oslo.middleware.http_proxy_to_wsgi",
             "oslo.middleware.sizelimit", "oslo.policy", "oslo.privsep",
             "oslo.reports", "keystonemiddleware.auth_token")
"""Whose options are in our files too, by their name in the namespace `oslo.config.opts`."""


class BadOption(cfg.Error):
    """An option has a value that it cannot have; the text names group, option and value."""


def check(arguments: list[str], program: str, cli_options: Sequence[Any] = (),
          set_defaults: Callable[[cfg.ConfigOpts], None] = lambda _: None) -> None:
    """Read every option, ours and the libraries', as these arguments give it.

    Raises BadOption for the first bad one; cfg.Error for files that cannot be read at all.
    """
    conf = cfg.ConfigOpts()
    conf.register_cli_opts(cli_options)
    config.register(conf)
    theirs = list(_library_options())
    for group, option in theirs:
        with contextlib.suppress(cfg.DuplicateOptError):
            conf.register_opt(option, group)
    set_defaults(conf)
    config.load(arguments, conf, program=program)
    for group, option in (*_own_options(), *theirs):
        try:
            _value(conf, group, option)
        except cfg.NoSuchOptError:
            continue  # of an authentication plugin, whose loader registers and checks them
        except (ValueError, cfg.Error) as error:
            raw = _as_text(arguments, program, cli_options, group, option)
            reason = str(error).rpartition("is not valid: ")[2]
            raise BadOption(
                f"[{group or 'DEFAULT'}] {option.name} = {raw}: {reason}") from error


def _own_options() -> Iterator[tuple[str | None, Any]]:
    for group, ours in config.list_options():
        yield from ((group, option) for option in ours)


def _library_options() -> Iterator[tuple[str | None, Any]]:
    for point in metadata.entry_points(group="oslo.config.opts"):
        if point.name in LIBRARIES:
            for where, theirs in point.load()():
                name = where if where is None or isinstance(where, str) else where.name
                # what is required is so only where its library is used
                yield from ((name, option) for option in theirs if not option.required)


def _value(conf: cfg.ConfigOpts, group: str | None, option: Any) -> Any:
    return (conf[group] if group else conf)[option.dest]


def _as_text(arguments: list[str], program: str, cli_options: Sequence[Any], group: str | None,
             option: Any) -> str:
    """Return what the files say for an option whose value could not be understood."""
    conf = cfg.ConfigOpts()
    conf.register_cli_opts(cli_options)
    log.register_options(conf)
    conf.register_opt(cfg.MultiStrOpt(
        option.name, dest=option.dest, secret=option.secret,
        deprecated_opts=option.deprecated_opts), group)
    conf(arguments, project=config.PROJECT, prog=program)
    values = _value(conf, group, option) or [""]
    return "***" if option.secret else str(values if option.multi else values[-1])
