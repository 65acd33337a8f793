# SPDX-License-Identifier: Apache-2.0
"""How devices are split: shown, wished for, and made so by their agents. No SQL, no HTTP.

Arithmetic and judgement are in `partition_wishes.py`. Whether a wish is met is computed from what
the host reports, never set.
"""

from __future__ import annotations

import collections
import datetime
import logging
from collections.abc import Sequence

from cyborg_lite import auth
from cyborg_lite import errors
from cyborg_lite import layout_plans
from cyborg_lite import layouts
from cyborg_lite import messages
from cyborg_lite.conductor import arqs
from cyborg_lite.conductor import partition_wishes
from cyborg_lite.db import leases
from cyborg_lite.db import liveness
from cyborg_lite.db import partitioning as rows
from cyborg_lite.db import session

LOG = logging.getLogger(__name__)

BATCH = 100

ASK_AGAIN_S = 15
"""Until a silent agent is asked again."""

GIVE_UP_S = 600
"""Until a wish that waits, for a host that is dead, say, may be replaced by another."""

LOOK_AFTER_S = 90
"""Until a wish that an agent says is met, and no report confirms, is looked at again: longer than
agents look at their hardware."""


AS_BEFORE = ("(What the device has is given out as before. To try again, set this layout again "
             "while nobody has an attach handle of the device; to leave it so, the one that it "
             "has.)")

UNTIL_SET_AGAIN = ("(None of its attach handles is given out until a layout is applied: set this "
                   "one again, or the one that the device has.)")


# --- what the API asks ------------------------------------------------------------------------


def show(database: session.Database, uuid: str, every_layout: bool,
         horizon: liveness.Horizon = liveness.NOBODY_IS_DOWN) -> messages.Partitioning:
    """How a device is, shall be and can be split. horizon: which hosts are down. NotFound."""
    split = rows.get(database, uuid, horizon)
    if split is None or split.reported is None or split.reported.scheme == partition_wishes.NONE:
        return messages.Partitioning(scheme=partition_wishes.NONE, state="unsupported")
    reported = split.reported
    return messages.Partitioning(
        scheme=reported.scheme, fault=_fault(split),
        state="failed" if split.has_failed else "applied" if split.is_as_wished else "applying",
        current=partition_wishes.current_of(reported),
        desired=partition_wishes.from_rows(
            reported, (split.wish if split.given_up is None else split.given_up) or ()),
        profiles=partition_wishes.profiles_of(reported),
        layouts=partition_wishes.layouts_of(reported, every=every_layout))


def _fault(split: rows.Split) -> str | None:
    """Why the wish could not be met, or what it waits for, or what the driver says now."""
    if split.has_failed:
        return f"{split.fault} {AS_BEFORE if split.is_as_wished else UNTIL_SET_AGAIN}"
    if split.withheld is not None:
        return (f"What is shown is what host {split.hostname} reported last; since then its agent "
                f"withholds the device: {split.withheld}")
    if split.is_as_wished:
        return split.reported_fault
    if not split.synced:
        return ("It waits for Placement to learn that nothing of the device may be given out; "
                f"host {split.hostname} is not in order there yet.")
    if _would_destroy(split):
        return ("It waits: partitions that exist would have to go, and attach handles of the "
                "device are in use.")
    if split.host_state != liveness.UP:
        return (f"Host {split.hostname} is {split.host_state}: its agent was last heard of at "
                f"{session.text(split.last_seen)}. It splits the device when it is back.")
    if split.is_silent:
        return (f"The agent of host {split.hostname} has not said yet that it is done; it is "
                f"asked every {ASK_AGAIN_S} s.")
    return split.reported_fault


def set_layout(database: session.Database, uuid: str, layout_id: str | None,
               partitions: Sequence[messages.PartitionCount] | None,
               dry_run: bool) -> tuple[messages.PartitioningPlan, bool]:
    """Wish for a layout; returns what that does, and whether anything was stored.

    NotFound, Invalid, StateConflict for a device that can't be split, InUse, ChangedMeanwhile.
    The same wish again changes nothing, unless it failed: then it is tried again.
    """
    split = rows.get(database, uuid)
    if split is None or split.reported is None or split.reported.scheme == partition_wishes.NONE:
        raise errors.StateConflict(
            f"Device {uuid} has no partitions: its driver does not say how it can be split.")
    try:
        layout = partition_wishes.judge(split.reported, layout_id, partitions)
    except errors.Invalid as error:
        raise errors.Invalid(f"Device {uuid} can't be split so. {error.detail}") from error
    wish = partition_wishes.to_rows(split.reported, layout)
    key = partition_wishes.key_of_wish(wish)
    # what an agent may have changed, it looks at before anything is given out again
    key_now = (partition_wishes.key_of_report(split.reported, wish) if split.is_certain
               else rows.UNCERTAIN)
    if _is_wished(split, key):
        return partition_wishes.plan(split.reported, layout), False
    if not split.is_as_wished and not split.has_failed and not _is_stuck(split):
        raise errors.ChangedMeanwhile(
            f"Device {uuid} is being split in another way, {_described(split)}; wait until that "
            f"is applied, has failed, or has been waiting for {GIVE_UP_S // 60} minutes.")
    # what a reboot took from servers, and could not be made again, may be tried again under them
    must_be_free = key != key_now and (split.wished_key != key or _would_destroy(split))
    if must_be_free:
        rows.check_free(split, split.busy)
    plan = partition_wishes.plan(split.reported, layout)
    if dry_run:
        return plan, False
    try:
        rows.set_wish(database, split, wish, key, key_now, auth.current_call()["user_id"],
                      must_be_free=must_be_free)
    except errors.ChangedMeanwhile:
        again = rows.get(database, uuid)
        if again is None or not _is_wished(again, key):
            raise
        return plan, False
    LOG.info("device=%s host=%s layout %s wished for, was %s: %d kept, %d steps, generation %d",
             uuid, split.hostname, layout.id, split.reported_key, plan.kept, len(plan.steps),
             split.generation + 1)
    return plan, True


def _is_stuck(split: rows.Split) -> bool:
    """Whether a wish waits so long that another may take its place."""
    return (not split.asking and split.wished_at is not None
            and session.now() - split.wished_at > datetime.timedelta(seconds=GIVE_UP_S))


def _is_wished(split: rows.Split, key: str) -> bool:
    return split.wished_key == key and not split.has_failed


def _described(split: rows.Split) -> str:
    return layouts.describe((one.profile, one.count) for one in partition_wishes.from_rows(
        split.reported, split.wish or ()))


# --- having it done ---------------------------------------------------------------------------


def wishes_of(database: session.Database, hostname: str) -> list[messages.LayoutWish]:
    """The layouts that a host shall have, for an agent that starts.

    One that Placement has not learned of yet is left out: the conductor asks for it then. So is
    one that would cost partitions of a device in use.
    """
    return [_wish(split) for split in rows.wishes_of(database, hostname)
            if not _would_destroy(split)]


def _wish(split: rows.Split) -> messages.LayoutWish:
    return messages.LayoutWish(
        device_address=split.address, driver=split.driver, generation=split.generation,
        partitions=partition_wishes.from_rows(split.reported, split.wish or ()),
        held=bool(split.busy), model=split.model)


def apply_due(binder: arqs.Binder) -> int:
    """Have agents split what shall be split, one call a host; returns how many devices."""
    lease = binder.owner()
    by_host: dict[str, list[rows.Split]] = collections.defaultdict(list)
    for split in rows.take_due(binder.database, lease, binder.clock(), BATCH):
        by_host[split.hostname].append(split)
    for hostname, splits in by_host.items():
        binder.in_background(_apply_on_host, binder, lease, hostname, splits,
                             pool=binder.cleaning_pool)
    return sum(map(len, by_host.values()))


def _apply_on_host(binder: arqs.Binder, lease: leases.Owner, hostname: str,
                   splits: list[rows.Split]) -> None:
    """Ask the agent, and write what it answers. A silent one is asked again later."""
    if binder.clock() > lease.lease_until:
        return  # it waited for a thread so long that it is somebody else's
    faults: dict[int, str | None] = {}
    as_before: set[int] = set()
    asked = []
    for split in splits:
        if split.answered:
            faults[split.id] = (f"The agent of host {hostname} said that it was done, but the "
                                "device reports another layout.")
        elif not _would_destroy(split):
            asked.append(split)
    if asked:
        answers, as_before = _answers(binder, hostname, asked)
        faults |= answers
    _write(binder, lease, hostname, splits, faults, as_before, {split.id for split in asked})


def _answers(binder: arqs.Binder, hostname: str, splits: Sequence[rows.Split],
             ) -> tuple[dict[int, str | None], set[int]]:
    """Faults by id, and the ids of devices that are as they were. Neither tells of a silent one."""
    try:
        results = binder.agents.apply_layouts(
            agent_host=hostname, wishes=[_wish(split) for split in splits])
    except errors.TooOld:
        # it was not asked at all
        return dict.fromkeys((split.id for split in splits), (
            f"The agent of host {hostname} is too old to split devices; upgrade it and set the "
            "layout again.")), {split.id for split in splits}
    except errors.Unavailable as error:
        LOG.info("host=%s does not answer; %d devices wait to be split: %s", hostname,
                 len(splits), error.detail)
        return {}, set()
    except errors.Error as error:
        return dict.fromkeys((split.id for split in splits), error.detail), set()
    ids = {(split.address, split.generation): split.id for split in splits}
    found = {ids[one.device_address, one.generation]: one for one in results
             if (one.device_address, one.generation) in ids}
    return ({number: one.fault for number, one in found.items()},
            {number for number, one in found.items() if one.fault and one.is_as_before})


def _write(binder: arqs.Binder, lease: leases.Owner, hostname: str,
           splits: Sequence[rows.Split], faults: dict[int, str | None],
           as_before: set[int], asked: set[int]) -> None:
    moment = binder.clock()
    if faults:
        stands = {split.id: stand for split in splits if split.id in as_before
                  and (stand := stand_of(split)) is not None}
        ours = rows.finish(binder.database, hostname, faults, lease,
                           moment + datetime.timedelta(seconds=LOOK_AFTER_S), stands,
                           partition_wishes.is_met)
        binder.wake_sync()
        for split in splits:
            if split.id in ours and faults[split.id]:
                LOG.error("device=%s host=%s generation %d could not be split as %s: %s. %s",
                          split.device_uuid, hostname, split.generation, _described(split),
                          str(faults[split.id]).rstrip("."),
                          "What it has is given out as before" if split.id in stands else
                          "Set another layout, or the same one to try again")
    silent = [split.id for split in splits if split.id not in faults]
    if silent:
        rows.postpone(binder.database, silent, lease,
                      moment + datetime.timedelta(seconds=ASK_AGAIN_S),
                      None if asked.isdisjoint(silent) else hostname)


def stand_of(split: rows.Split) -> rows.Stand | None:
    """What a device that could not be split otherwise goes on with, if it offers anything.

    While somebody has a handle of it, the wish may be what gives him his partition back. What an
    agent did before it was asked this time, it counts as from before too.
    """
    if (split.reported is None or not split.reported.partitions or split.busy
            or split.reported_key == rows.UNCERTAIN or not split.is_recent):
        return None
    wish = partition_wishes.what_is(split.reported)
    return rows.Stand(wish=wish, key=partition_wishes.key_of_wish(wish),
                      reported_key=split.reported_key)


def _would_destroy(split: rows.Split) -> bool:
    """Whether the wish costs partitions while somebody uses the device.

    A wish is only taken while nobody does, so this is what somebody did by hand since.
    """
    if not split.busy or split.reported is None:
        return False
    wish = partition_wishes.from_rows(split.reported, split.wish or ())
    if {one.profile for one in wish} - {
            one.name for one in partition_wishes.profiles_of(split.reported)}:
        return True
    try:
        plan = partition_wishes.plan(split.reported, messages.Layout(
            id="", partitions=wish, slices_used=0, memory_used_mib=0, maximal=False))
    except errors.InUse:
        return True
    return any(step.action == layout_plans.DESTROY for step in plan.steps)
