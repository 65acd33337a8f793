# SPDX-License-Identifier: Apache-2.0
"""Makes the virtual functions that an operator wishes for, where there are none yet.

No card is known here. How many a card has got is changed only from none: to change another number
the kernel wants all of them gone first, and one of them may belong to a guest that is shut down.
"""

from __future__ import annotations

from cyborg_lite.drivers import base
from cyborg_lite.drivers import sysfs


class Impossible(Exception):
    """The wished number can't be had; the text says why and what to do."""


def wish_of(function: sysfs.PciFunction, environment: base.Environment) -> int | None:
    """Return how many its device file wants; None when it says nothing of them."""
    entry = environment.devices.entry_for(function)
    if entry is None or function.is_virtual or entry.offer not in ("vf", "vgpu", None):
        return None
    return entry.num_vfs


def arrange(function: sysfs.PciFunction, wanted: int, environment: base.Environment) -> bool:
    """Make so many virtual functions; return whether anything was changed. Raises Impossible."""
    reason = obstacle(function, wanted)
    if reason:
        raise Impossible(reason)
    if function.num_vfs == wanted:
        return False
    environment.host.set_num_vfs(function.address, wanted)
    made = environment.sysfs.fresh().number(f"{function.path}/sriov_numvfs")
    if made != wanted:
        raise Impossible(f"{function.address}: {wanted} virtual functions were asked for, its "
                         f"driver made {made}")
    return True


def obstacle(function: sysfs.PciFunction, wanted: int) -> str | None:
    """Return why this number can't be had; nothing is tried."""
    if function.num_vfs == wanted:
        return None
    if wanted > function.total_vfs:
        return (f"{function.address}: num_vfs is {wanted}, but it can have at most "
                f"{function.total_vfs}")
    if function.num_vfs:
        return (f"{function.address}: num_vfs is {wanted}, but it has {function.num_vfs}, which "
                "may belong to guests; when none does, write 0 to its sriov_numvfs")
    if function.driver is None or sysfs.is_vfio(function.driver):
        return (f"{function.address}: num_vfs is {wanted}, but virtual functions are made by its "
                f"host driver, and it is on {function.driver or 'none'}")
    return None
