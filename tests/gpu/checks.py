# SPDX-License-Identifier: Apache-2.0
"""What must hold of any card that NVML tells of: of its profiles, places, layouts and partitions.

For real cards and for played ones; each check raises AssertionError and says what it met.
"""

from __future__ import annotations

import collections
import re
from typing import Any

from cyborg_lite import layout_plans
from cyborg_lite import layout_wishes
from cyborg_lite import layouts
from cyborg_lite.drivers import nvidia_mig_cards
from tests.nvml import oracle
from tests.nvml import stand_in

Told = dict[str, Any]

MOST_PLACED = 20_000
"""More sets of partitions are not tried one by one; the profiles are tried in groups then."""

NAME = re.compile(r"[0-9]+g\.[0-9]+gb([+-].+)?")
OLDEST = range(5)
"""NVML's indexes of the profiles that every driver knows."""


def why_not(address: str, told: Told) -> str | None:
    """Why a card tells too little to be checked; None where it does not."""
    if "error" in told:
        return None
    if told["blind"]:
        return (f"{address} tells places of partitions to root only, in a container with "
                "NVIDIA_MIG_CONFIG_DEVICES")
    if not told["mode"][0] and not any(places for *_, places in told["profiles"]):
        return f"{address} names no places while MIG mode is off"
    return None


def card_of(address: str, told: Told) -> nvidia_mig_cards.Card:
    assert "error" not in told, f"{address} could not be read: {told['error']}"
    card = nvidia_mig_cards.of(address, told)
    assert card is not None
    return card


def profiles(card: nvidia_mig_cards.Card) -> None:
    """They differ, are named as published, and have room for as many as they say."""
    assert card.profiles
    for field in ("id", "name"):
        values = [getattr(each, field) for each in card.profiles]
        assert len(set(values)) == len(values), values
    for profile in card.profiles:
        assert NAME.fullmatch(profile.name), profile
        assert profile.placements, profile
        assert len({place.size for place in profile.placements}) == 1, profile
        most = layout_plans.arrange([profile], {profile.id: profile.max_instances})
        assert most is not None, profile
        assert layout_wishes.check([profile], {profile.name: profile.max_instances}).layout


def all_layouts(card: nvidia_mig_cards.Card) -> None:
    """They are those that trying everything finds, and need no more slices than there are."""
    slices = max(each.slices for each in card.profiles)
    for layout in layouts.all_layouts(card.profiles):
        assert layout.slices_used <= slices, layout
    for group in _groups(list(card.profiles)):
        placed = oracle.everything(group)
        found = {oracle.counts_of(each) for each in layouts.all_layouts(group)}
        assert found == {oracle.as_counts(each) for each in placed}, [one.name for one in group]


def _groups(known: list[layouts.Profile]) -> list[list[layouts.Profile]]:
    """All of them where that is not too many; else the plain ones with those of each suffix."""
    if oracle.at_most(known, MOST_PLACED):
        return [known]
    suffixes = collections.defaultdict(list)
    for profile in known:
        suffixes[profile.name.partition("gb")[2]].append(profile)
    plain = suffixes.pop("", [])
    return [plain + others for others in suffixes.values()] or [plain]


def published(card: nvidia_mig_cards.Card, product: str) -> None:
    """What is published of cards with this product id holds; drivers may know more, or less."""
    facts = next((one for one in stand_in.mig_cards().values()
                  if product in one.get("pci_device_ids", ())), None)
    if facts is None:
        return
    by_id = {each["id"]: each for each in facts["profiles"]}
    for profile in card.profiles:
        known = by_id.get(profile.id)
        if known is None:
            continue    # newer than what is published
        assert (profile.slices, profile.max_instances) == (known["slices"], known["max"]), profile
        assert {(place.start, place.size) for place in profile.placements} == {
            (start, known["size"]) for start in known["starts"]}, profile
    oldest = {each["id"] for each in facts["profiles"] if each["index"] in OLDEST}
    assert oldest <= {profile.id for profile in card.profiles}


def partitions(card: nvidia_mig_cards.Card) -> None:
    """Those that exist lie in places of their profiles, side by side, and are a valid layout."""
    by_id = {each.id: each for each in card.profiles}
    used: set[int] = set()
    for each in card.partitions:
        place = each.instance.placement
        assert place in by_id[each.instance.profile_id].placements, each
        units = set(range(place.start, place.start + place.size))
        assert not units & used, each
        used |= units
    wish = {card.name_of(number): count for number, count in card.counts.items()}
    verdict = layout_wishes.check(card.profiles, wish)
    assert verdict.layout is not None, verdict.reason


def room(card: nvidia_mig_cards.Card, told: dict[int, int]) -> None:
    """As many more of each plain profile fit as NVML says."""
    there = [each.place for each in card.partitions]
    for profile in card.profiles:
        if not profile.name.endswith("gb"):
            continue    # which engines are left is not told
        assert oracle.room(list(card.profiles), there, profile.id) == told[profile.id], profile
