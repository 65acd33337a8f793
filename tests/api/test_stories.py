# SPDX-License-Identifier: Apache-2.0
"""Every *.yaml beside this is one story, told in order to the real application.

`RP_UUID` in a story stands for the provider of the first card on node1. A story that needs more
than the two cards has it in `MORE`; `SPLIT_UUID` is a card on node2 that is split.
"""

from __future__ import annotations

import pathlib
import unittest

import pytest
import yaml
from gabbi import handlers
from gabbi import suitemaker

from cyborg_lite.api import faults
from tests.fixtures import builders
from tests.fixtures import cloud as clouds
from tests.fixtures import split_cards

HERE = pathlib.Path(__file__).parent
STORIES = sorted(HERE.glob("*.yaml"))


def split_card(cloud: clouds.Cloud) -> None:
    """A second host, with a card that is split into seven."""
    card = split_cards.Card()
    card.split({"1g.5gb": 7})
    cloud.client.report(split_cards.Agent([card], "node2").report())


MORE = {"partitioning": split_card}


def test_there_are_stories() -> None:
    assert STORIES


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_story(story: pathlib.Path, cloud: clouds.Cloud,
               application: faults.Application) -> None:
    MORE.get(story.stem, lambda cloud: None)(cloud)
    text = (story.read_text().replace("RP_UUID", builders.rp_uuid())
            .replace("SPLIT_UUID", split_cards.uuid_of(host="node2")))
    suite = suitemaker.test_suite_from_dict(
        unittest.TestLoader(), story.stem, yaml.safe_load(text), str(HERE), "api.example.org",
        None, None, lambda: application, handlers=[each() for each in handlers.RESPONSE_HANDLERS],
        test_loader_name="stories")
    result = unittest.TestResult()

    suite.run(result)

    assert result.testsRun == len(suite._tests)
    assert not result.skipped
    wrong = [f"{step.test_data['name']}: {trace.strip().splitlines()[-1]}"
             for step, trace in result.failures + result.errors]
    assert not wrong, "\n".join(wrong)
