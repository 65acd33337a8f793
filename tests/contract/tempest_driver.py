# SPDX-License-Identifier: Apache-2.0
"""Runs the API tests of cyborg-tempest-plugin in their environment; writes outcomes as JSON lines.

It imports nothing of ours and changes nothing in the tests. TEMPEST_CONFIG_DIR names the directory
of tempest.conf.
"""

import json
import pathlib
import sys
import unittest
from typing import Any

import cyborg_tempest_plugin
from cyborg_tempest_plugin.tests import api


class Outcomes(unittest.TestResult):
    """Writes one line for each test that ended."""

    def __init__(self, out: Any) -> None:
        super().__init__()
        self._out = out

    def _write(self, test: Any, outcome: str, why: str = "") -> None:
        name = test.id().partition("[")[0]  # tempest adds its marks in brackets
        self._out.write(json.dumps({"test": name, "outcome": outcome, "why": why}) + "\n")
        self._out.flush()

    def addSuccess(self, test: Any) -> None:
        self._write(test, "passed")

    def addSkip(self, test: Any, reason: str) -> None:
        self._write(test, "skipped", reason)

    def addFailure(self, test: Any, err: Any) -> None:
        self._write(test, "failed", _text(err))

    def addError(self, test: Any, err: Any) -> None:
        self._write(test, "failed", _text(err))


def _text(err: Any) -> str:
    return f"{err[0].__name__}: {err[1]}"


def main() -> None:
    out = sys.stdout
    # what tests print must not come between the outcomes
    sys.stdout = sys.stderr
    top = pathlib.Path(cyborg_tempest_plugin.__file__).parents[1]
    suite = unittest.TestLoader().discover(str(pathlib.Path(api.__file__).parent),
                                           top_level_dir=str(top))
    suite.run(Outcomes(out))


if __name__ == "__main__":
    main()
