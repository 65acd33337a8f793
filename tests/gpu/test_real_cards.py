# SPDX-License-Identifier: Apache-2.0
"""On a machine with a MIG-capable GPU: what NVML says of it, layouts.py, and what is published.

Nothing is changed. Elsewhere all of it is skipped, with one line that says why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from cyborg_lite import layout_plans
from cyborg_lite import layout_wishes
from cyborg_lite import layouts
from cyborg_lite.drivers import nvidia_mig_cards
from tests.nvml import oracle
from tests.nvml import stand_in

Cards = dict[str, tuple[nvidia_mig_cards.Card, str]]


def read() -> Cards:
    """Each card, and its product id."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.reading"], check=False, timeout=120, text=True,
        capture_output=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        if len(lines) == 1:
            pytest.skip(f"needs a MIG-capable GPU: {lines[0]}", allow_module_level=True)
        raise RuntimeError(done.stderr)
    found: Cards = {}
    for address, told in json.loads(done.stdout).items():
        assert "error" not in told, told
        card = nvidia_mig_cards.of(address, told)
        assert card is not None
        if card.is_blind:
            pytest.skip(f"needs the right to see places of partitions: {address}",
                        allow_module_level=True)
        found[address] = card, told["product"]
    return found


CARDS = read()


def published(product: str) -> dict[str, Any] | None:
    """What is published of cards with this product id."""
    for facts in stand_in.mig_cards().values():
        if product in facts.get("pci_device_ids", ()):
            return facts
    return None


def test_the_numbers_of_each_profile_agree_with_its_places() -> None:
    for card, _ in CARDS.values():
        assert card.profiles
        for profile in card.profiles:
            assert profile.placements
            most = layout_plans.arrange([profile], {profile.id: profile.max_instances})
            assert most is not None, profile
            assert layout_wishes.check([profile], {profile.name: profile.max_instances}).layout


def test_the_layouts_are_those_that_trying_everything_finds() -> None:
    for card, _ in CARDS.values():
        profiles = list(card.profiles)

        found = {oracle.counts_of(each) for each in layouts.all_layouts(profiles)}

        assert found == {oracle.as_counts(each) for each in oracle.everything(profiles)}


def test_a_published_card_has_the_published_places_and_layouts() -> None:
    for card, product in CARDS.values():
        facts = published(product)
        if facts is None:
            continue
        by_id = {each["id"]: each for each in facts["profiles"]}
        for profile in card.profiles:
            known = by_id.get(profile.id)
            if known is None:
                continue    # newer than what is published
            assert (profile.slices, profile.max_instances) == (known["slices"], known["max"])
            assert [(place.start, place.size) for place in profile.placements] == [
                (start, known["size"]) for start in known["starts"]]
        assert by_id.keys() <= {profile.id for profile in card.profiles}


def test_the_partitions_that_exist_are_a_valid_layout() -> None:
    for card, _ in CARDS.values():
        wish = {card.name_of(number): count for number, count in card.counts.items()}

        assert layout_wishes.check(card.profiles, wish).layout is not None
