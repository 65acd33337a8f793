# SPDX-License-Identifier: Apache-2.0
"""Splits a card as wished: switches MIG mode, destroys and creates as planned, or goes back.

Which card, and as which vGPU types its partitions are offered, is known elsewhere.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping

from cyborg_lite import layout_plans
from cyborg_lite import layout_wishes
from cyborg_lite import layouts
from cyborg_lite import messages
from cyborg_lite.drivers import base
from cyborg_lite.drivers import nvidia_mig_cards
from cyborg_lite.drivers import nvml_mig
from cyborg_lite.drivers import privileged

LOG = logging.getLogger(__name__)


class Fault(Exception):
    """The card isn't split as wished; the text says why, what it has now, and what to do."""


class FaultAsBefore(Fault, base.AsBefore):
    """The card isn't split as wished, and has whole what it had."""


class _Broken(Exception):
    """A step was refused, so that what is there has to be looked at anew."""


class MigWork:
    """The changes of one card. look: asks NVML anew; raises nvidia_mig_cards.Unknown, Refused.

    busy: what carries vGPUs now, in words; nothing that exists is destroyed then.
    """

    def __init__(self, host: privileged.Host, look: Callable[[], nvidia_mig_cards.Card],
                 busy: Callable[[], str | None]) -> None:
        self._host = host
        self._look = look
        self._busy = busy

    def apply(self, wanted: Mapping[int, int], *, held: bool = False) -> None:
        """Make so many partitions of each profile ({id: count}) and no others. Raises Fault.

        A card that has just these is left alone. Everything is planned from what is there now,
        executed once, and compared. held: somebody has an attach handle of the card, so that only
        what a reboot took is made again.
        """
        wanted = {number: count for number, count in wanted.items() if count}
        card = self._asked()
        if card.is_blind:
            raise Fault("NVML shows places and partitions to privileged callers only: see that the "
                        "agent's helper has the rights of root ([privsep] helper_command)")
        if card.counts == wanted and card.is_whole:
            return
        _judge(card, wanted)
        busy = self._busy()
        if not (card.is_on and card.will_be_on):
            if busy:
                raise Fault(f"{busy}; MIG mode is not switched while one of them exists")
            card = self._switched_on(card)
        plan = layout_plans.plan(card.profiles, (each.instance for each in card.partitions), wanted)
        if plan.reason:
            raise _as_it_is(card)(plan.reason)
        if plan.destroyed and (busy or held):
            why = busy or f"attach handles of GPU {card.address} are in use"
            raise _as_it_is(card)(f"{why}; none of its partitions is destroyed meanwhile. It has "
                                  f"{card.describe()}")
        before = card
        try:
            self._execute(card.address, plan.steps)
            card = self._filled()
            if card.counts != wanted or not card.is_whole:
                card = self._filled()   # one odd answer is no proof
        except _Broken as trouble:
            self._go_back(before, plan, wanted, str(trouble))
            return
        if card.counts != wanted or not card.is_whole:
            raise Fault(f"every step was done, but the card has {card.describe()}: something else "
                        "splits it as well")
        LOG.info("GPU %s split into %s: %d kept, %d destroyed", card.address, card.describe(),
                 len(plan.kept), plan.destroyed)

    def _asked(self) -> nvidia_mig_cards.Card:
        try:
            return self._look()
        except (nvidia_mig_cards.Unknown, nvml_mig.Refused) as error:
            raise Fault(f"NVML doesn't say how the card is split ({error}); nothing was "
                        "changed") from error

    # --- MIG mode -----------------------------------------------------------------------------

    def _switched_on(self, card: nvidia_mig_cards.Card) -> nvidia_mig_cards.Card:
        try:
            outcome = self._host.set_mig_mode(card.address, True)
        except nvml_mig.Refused as error:
            after = self._asked()
            if not after.is_on:
                raise Fault(f"MIG mode can't be switched on ({error})"
                            + (f"; {after.waits}" if after.waits else "")) from error
            return after
        after = self._asked()
        if after.is_on:
            LOG.info("GPU %s: MIG mode is on", card.address)
            return after
        why = {nvml_mig.IN_USE: "processes use the GPU, such as DCGM or nvidia-persistenced: stop "
                                "them, disable its virtual functions if it has some, and ask again",
               nvml_mig.RESET_REQUIRED: "the GPU can't be reset while the host runs so"}.get(
                   outcome, f"NVML answers {outcome}" if outcome else "")
        raise Fault("; ".join(filter(None, [
            "MIG mode is not on" + (f": {why}" if why else ""), after.waits])))

    # --- steps --------------------------------------------------------------------------------

    def _execute(self, address: str, steps: Iterable[layout_plans.Step]) -> None:
        for step in steps:
            place = step.placement
            if step.action == layout_plans.CREATE:
                self._do("creating a partition", self._host.create_partition, address,
                         step.profile_id, place.start, place.size)
            elif step.instance_id is not None:
                for what in (self._host.empty_partition, self._host.destroy_partition):
                    self._do("destroying a partition", what, address, step.instance_id,
                             step.profile_id, place.start)

    def _filled(self) -> nvidia_mig_cards.Card:
        """Give each partition its compute instance; ids are known only after a new look."""
        card = self._again()
        if card.is_whole:
            return card
        for each in card.partitions:
            if each.is_empty:
                self._do("creating a compute instance", self._host.fill_partition, card.address,
                         each.instance.id, each.instance.profile_id,
                         each.instance.placement.start)
        return self._again()

    def _again(self) -> nvidia_mig_cards.Card:
        try:
            card = self._look()
        except (nvidia_mig_cards.Unknown, nvml_mig.Refused) as error:
            raise _Broken(f"looking at the card again ({error})") from error
        if card.is_blind:
            raise _Broken("looking at the card again (NVML shows its partitions no more)")
        return card

    @staticmethod
    def _do(what: str, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except nvml_mig.Refused as error:
            raise _Broken(f"{what} ({error})") from error

    # --- the way back -------------------------------------------------------------------------

    def _go_back(self, before: nvidia_mig_cards.Card, plan: layout_plans.Plan,
                 wanted: Mapping[int, int], trouble: str) -> None:
        """Make the partitions from before again, unless the wish came true. Raises Fault.

        Only what this plan made is destroyed: other partitions are somebody else's.
        """
        LOG.warning("GPU %s: %s failed; the layout from before is made again", before.address,
                    trouble)
        failed = f"{trouble} failed"
        try:
            card = self._again()
            if card.counts == wanted and card.is_whole:
                LOG.info("GPU %s: NVML reported an error, but the card is split as wished: %s",
                         before.address, card.describe())
                return
            if not card.is_on:
                raise _Broken("MIG mode went off meanwhile")
            self._execute(before.address, _way_back(before, card, plan))
            card = self._filled()
        except _Broken as more:
            raise Fault(f"{failed}; going back to {before.describe()} failed as well: {more}; "
                        f"{self._what_it_has()}") from None
        if _places(card) != _places(before) or not card.is_whole:
            raise Fault(f"{failed}; it could not go back to {before.describe()}: "
                        f"{self._what_it_has()}")
        raise FaultAsBefore(f"{failed}; the card has {before.describe()} as before")

    def _what_it_has(self) -> str:
        try:
            card = self._again()
        except _Broken:
            return "what the card has now can't be told"
        empty = sum(each.is_empty for each in card.partitions)
        return (f"the card has {card.describe()} now"
                + (f", {empty} of them without a compute instance" if empty else ""))


def _as_it_is(card: nvidia_mig_cards.Card) -> type[Fault]:
    """Return the fault of a card of which nothing was changed."""
    return FaultAsBefore if card.is_whole else Fault


def resolved(card: nvidia_mig_cards.Card, wished: Iterable[messages.PartitionCount]) -> (
        tuple[dict[int, int], list[tuple[int, str]]]):
    """Return how many of each profile, and the types that were named, by profile. Raises Fault."""
    ids = {each.name: each.id for each in card.profiles}
    wanted: collections.Counter[int] = collections.Counter()
    choices: list[tuple[int, str]] = []
    for each in wished:
        if each.profile not in ids:
            raise Fault(
                f"GPU {card.address} has no profile {each.profile!r}; it has "
                f"{', '.join(ids) or 'none'}")
        profile_id = ids[each.profile]
        wanted[profile_id] += max(each.count, 0)
        if each.vgpu_type is None:
            continue
        known = [kind.short_name for kind in card.types_of(profile_id)]
        # NVIDIA's vGPU software may start later than we do: it names its types then
        if card.types and each.vgpu_type not in known:
            raise Fault(
                f"partitions {each.profile} of GPU {card.address} hold no vGPUs of type "
                f"{each.vgpu_type!r}, but of {', '.join(known) or 'none'}")
        choices += [(profile_id, each.vgpu_type)] * max(each.count, 0)
    return dict(wanted), choices


def _judge(card: nvidia_mig_cards.Card, wanted: Mapping[int, int]) -> None:
    """Raise Fault for a wish that the card can't have in any way."""
    verdict = layout_wishes.check(
        card.profiles, {card.name_of(number): count for number, count in wanted.items()})
    if verdict.layout is None:
        near = "; ".join(str(each) for each in verdict.nearest)
        raise Fault(verdict.reason + (f" Nearest: {near}." if near else ""))


def _way_back(before: nvidia_mig_cards.Card, now: nvidia_mig_cards.Card,
              plan: layout_plans.Plan) -> list[layout_plans.Step]:
    there, wanted = _places(now), _places(before)
    ours = {(step.profile_id, step.placement) for step in plan.steps
            if step.action == layout_plans.CREATE}
    gone = [layout_plans.Step(layout_plans.DESTROY, *each.place, each.instance.id)
            for each in now.partitions if each.place in ours - wanted]
    new = [layout_plans.Step(layout_plans.CREATE, *place)
           for place in sorted(wanted - there, key=_largest_first)]
    return [*gone, *new]


def _places(card: nvidia_mig_cards.Card) -> set[layout_plans.Place]:
    return {each.place for each in card.partitions}


def _largest_first(place: layout_plans.Place) -> tuple[int, layouts.Placement]:
    return -place[1].size, place[1]
