"""What the log says of slots that were not run: of each job and reason the first at once, and then how many followed.

NOT guaranteed here: that each slot has a line. The stream of runs in Redis tells of each.

A job whose run takes an hour and whose period is a second has 3,600 slots that are not run. They make a line at once,
and then one with their number every ten minutes, and in the end.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import NamedTuple

from django_leader.system.log import log

QUIET = 600.0
"""Seconds after a line of a job and a reason in which that reason is not said of that job again."""


class Why(NamedTuple):
    """Why a slot was not run."""

    level: int
    text: str
    """What follows "the job 'x'"."""


class _Tally:
    """What was not said of one job and reason since ``said_at``."""

    def __init__(self, said_at: float, slot: datetime) -> None:
        self.said_at, self.count = said_at, 0
        self.first = self.last = slot


class Skips:
    """The slots of one term that were not run. For one thread at a time. ``now``: seconds on the boot clock."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._tallies: dict[tuple[str, Why], _Tally] = {}

    def note(self, name: str, first: datetime, last: datetime, why: Why, now: float) -> None:
        """Log that the slots of a job from ``first`` to ``last`` were not run, or count them. Local."""
        self.flush(now)
        if tally := self._tallies.get((name, why)):
            tally.first = tally.first if tally.count else first
            tally.last, tally.count = last, tally.count + 1
            return
        self._tallies[name, why] = _Tally(now, last)
        if first == last:
            log(why.level, "%s: the slot %s of the job %r %s", self._label, first, name, why.text)
        else:
            log(why.level, "%s: for the slots from %s to %s the job %r %s", self._label, first, last, name, why.text)

    @property
    def due(self) -> float:
        """When something is to be said by ``flush``. Local."""
        return min((tally.said_at + QUIET for tally in self._tallies.values() if tally.count), default=math.inf)

    def flush(self, now: float = math.inf) -> None:
        """Log what was counted, if it was counted for long enough; without ``now``, in any case. Local."""
        for (name, why), tally in list(self._tallies.items()):
            if now < tally.said_at + QUIET:
                continue
            del self._tallies[name, why]
            if tally.count:
                self._tallies[name, why] = _Tally(now, tally.last)
                text = "%s: %d more times, for slots from %s to %s, the job %r %s"
                log(why.level, text, self._label, tally.count, tally.first, tally.last, name, why.text)
