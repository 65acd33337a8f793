# SPDX-License-Identifier: Apache-2.0
"""Who works on something, and until when: a conductor's time-limited right. No queries here."""

from __future__ import annotations

import dataclasses
import datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Owner:
    """The conductor that acts, and until when others leave its work alone."""

    conductor: str
    lease_until: datetime.datetime
