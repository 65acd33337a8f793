# SPDX-License-Identifier: Apache-2.0
"""Life of a process: signals, worker processes, and what is printed when it cannot start.

What a service does is in `services.py`. SIGTERM and SIGINT stop after the work in hand, SIGHUP
calls `reload`, SIGUSR2 writes a Guru Meditation Report. With one worker there is no parent
process; with several, the parent only starts, restarts and signals them.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NoReturn
from typing import Protocol

from oslo_config import cfg
from oslo_reports import guru_meditation_report

from cyborg_lite import config
from cyborg_lite import config_check

LOG = logging.getLogger(__name__)

RESTART_PAUSE_S = 1.0
"""A worker that died sooner than this after its start waits so long for its successor."""

PARENT_CHECK_S = 5.0
"""How often a worker looks whether its parent is alive, and a parent after its workers."""

BAD_CONFIGURATION = 78
"""Exit status of a worker that no successor could do better than (EX_CONFIG of sysexits.h)."""

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
PASSED_ON = frozenset({signal.SIGHUP, signal.SIGUSR2})
HANDLED = frozenset({*STOP_SIGNALS, *PASSED_ON, signal.SIGCHLD})


class CannotStart(Exception):
    """Something an operator has to mend; the text says what, and it is all that is printed."""


class Service(Protocol):
    """What runs in a process."""

    def start(self) -> None:
        """Begin; returns once it serves."""

    def stop(self) -> None:
        """Take no new work and return when the work in hand is done."""

    def reload(self) -> None:
        """The configuration has changed."""


class _Signals:
    """Signals of this process, in the order they came; made in the main thread."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        for number in HANDLED:
            signal.signal(number, lambda *_: None)
            signal.siginterrupt(number, False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def wait(self, timeout_s: float | None) -> int | None:
        """Return the next signal that is handled here; None when the time is over."""
        self._reader.settimeout(timeout_s)
        try:
            number = self._reader.recv(1)[0]
        except TimeoutError:
            return None
        return number if number in HANDLED else None

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What distinguishes one program from the next.

    build: called once, before workers are started: checks, binds the socket, and returns what
    makes the service of one worker, and how many workers there are to be.
    set_defaults: defaults that differ in this program.
    """

    name: str
    build: Callable[[cfg.ConfigOpts], tuple[Callable[[], Service], int]]
    cli_options: Sequence[Any] = ()
    set_defaults: Callable[[cfg.ConfigOpts], None] = lambda conf: None


def main(program: Program, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a program to its end and leave the process: 0, or 1 when it could not start."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        conf = configure(program, given)
        config.set_up_logging(conf)
        make, workers = program.build(conf)
        run = _Run(program, conf, given, make)
        if workers == 1:
            run.service()
        elif not run.supervise(workers):
            sys.exit(1)
    except (CannotStart, cfg.Error) as error:
        _complain(program, error)
        sys.exit(1)
    sys.exit(0)


def configure(program: Program, arguments: list[str]) -> cfg.ConfigOpts:
    """Return the global configuration object with every option read once.

    Raises CannotStart, naming group, option and value.
    """
    try:
        config_check.check(arguments, program.name, program.cli_options, program.set_defaults)
        cfg.CONF.register_cli_opts(program.cli_options)
        program.set_defaults(config.register(cfg.CONF))
        return config.load(arguments, program=program.name)
    except cfg.Error as error:
        raise CannotStart(str(error)) from error


def _complain(program: Program, error: Exception) -> None:
    print(f"{program.name}: {error}", file=sys.stderr)


class _Run:
    """One program on its way from start to end."""

    def __init__(self, program: Program, conf: cfg.ConfigOpts, arguments: list[str],
                 make: Callable[[], Service]) -> None:
        self._program = program
        self._conf = conf
        self._arguments = arguments
        self._make = make

    def service(self, parent: int | None = None) -> None:
        """Serve until told to stop, or until the `parent` process is gone."""
        signals = _Signals()
        _unblock()
        _report_on_demand(self._conf)
        service = self._make()
        service.start()
        LOG.info("%s %s is ready pid=%d", self._program.name, config.version(), os.getpid())
        while True:
            number = signals.wait(None if parent is None else PARENT_CHECK_S)
            if parent is not None and os.getppid() != parent:
                LOG.error("The parent process %d is gone; stopping too", parent)
                break
            if number in STOP_SIGNALS:
                LOG.info("%s: finishing the work in hand", signal.Signals(number).name)
                break
            if number == signal.SIGHUP:
                self._reload(service)
        service.stop()
        signals.close()
        LOG.info("%s stopped pid=%d", self._program.name, os.getpid())

    def _reload(self, service: Service) -> None:
        """Take over what is mutable; on a bad file say what is wrong and change nothing."""
        try:
            config_check.check(self._arguments, self._program.name, self._program.cli_options,
                               self._program.set_defaults)
        except (cfg.Error, SystemExit) as error:
            LOG.error("The configuration was not read again, the old one stays. %s", error)
            return
        changed = self._conf.mutate_config_files()
        LOG.info("The configuration was read again; changed: %s", ", ".join(sorted(
            f"[{group or 'DEFAULT'}] {name}" for group, name in changed)) or "nothing")
        try:
            service.reload()
        except Exception:
            LOG.exception("The new configuration could not be put to use in full")

    # --- several workers ---

    def supervise(self, count: int) -> bool:
        """Keep `count` workers alive until told to stop; then stop them and wait for them.

        Returns False, without being told, when the configuration lets none of them start.
        """
        signals = _Signals()
        workers: dict[int, float] = {}
        for _ in range(count):
            self._start_worker(workers, signals)
        stopping = hopeless = False
        while workers:
            number = signals.wait(PARENT_CHECK_S)
            if number in STOP_SIGNALS:
                stopping = True
            if number in STOP_SIGNALS or number in PASSED_ON:
                _signal_all(workers, signal.SIGTERM if stopping else number)
            for pid, started, status in _ended(workers):
                if status == BAD_CONFIGURATION and not hopeless:
                    stopping = hopeless = True
                    _signal_all(workers, signal.SIGTERM)
                elif not stopping:
                    LOG.error("Worker pid=%d ended with status %d; starting another", pid, status)
                    if time.monotonic() - started < RESTART_PAUSE_S:
                        time.sleep(RESTART_PAUSE_S)
                    self._start_worker(workers, signals)
        signals.close()
        return not hopeless

    def _start_worker(self, workers: dict[int, float], signals: _Signals) -> None:
        parent = os.getpid()
        # a signal that comes before the child has handlers of its own waits until it has
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        pid = os.fork()
        if pid:
            _unblock()
            workers[pid] = time.monotonic()
            return
        status = 1
        try:
            signals.close()
            self.service(parent)
            status = 0
        except CannotStart as error:
            _complain(self._program, error)
        except cfg.Error as error:
            _complain(self._program, error)
            status = BAD_CONFIGURATION
        except BaseException:
            LOG.exception("A worker of %s failed", self._program.name)
        finally:
            logging.shutdown()
            # no clean-up of the parent's: this process is a copy
            os._exit(status)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def _ended(workers: dict[int, float]) -> list[tuple[int, float, int]]:
    """Forget the workers that ended; returns pid, start and exit status of each."""
    ended = []
    for pid in list(workers):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            ended.append((pid, workers.pop(pid), os.waitstatus_to_exitcode(status)))
    return ended


def _signal_all(workers: dict[int, float], number: int) -> None:
    for pid in workers:
        os.kill(pid, number)


def _report_on_demand(conf: cfg.ConfigOpts) -> None:
    guru_meditation_report.TextGuruMeditation.setup_autorun(_Version(), conf=conf)


class _Version:
    """The little that a Guru Meditation Report wants to know about us."""

    def vendor_string(self) -> str:
        return "OpenStack"

    def product_string(self) -> str:
        return config.PROJECT

    def version_string_with_package(self) -> str:
        return config.version()
