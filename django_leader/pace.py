"""How long a follower waits before it looks again: one of a few the retry interval, one of many longer.

NOT guaranteed here: that somebody looks within a certain time. Each sees every lease before its end, by then at the
latest; sooner only if what it waits for did not happen to all of them at once.

Up to a hundred candidates together look as often as ``CROWD`` of them would. What one of them sees it acts on for all,
so they need not look more often, and neither Redis nor their hosts have more to do. Of still more each looks as rarely
as it may.
"""

from __future__ import annotations

from .config import Timing
from .records import Answer
from .watch import Watch

CROWD = 32
"""Candidates that are not too many to look once per retry interval each."""
RAREST = 4
"""Retry intervals between two looks of one, at the most."""


def usual(candidates: int, timing: Timing) -> float:
    """Seconds between two looks of one of so many candidates while all is well. Pure.

    If more than the retry interval, then less than what is always left of a lease that is renewed on time.
    """
    rarest = min(RAREST * timing.retry, 0.9 * (timing.ttl - timing.heartbeat))
    return max(timing.retry, min(timing.retry * candidates / CROWD, rarest))


def pause(answer: Answer, watch: Watch, last: float, chance: float, timing: Timing) -> float:
    """Seconds until the next look, after an answer that ``watch`` has observed. ``last``: those until this one. Pure.

    Rarely looks only who can tell when the lease is over, and sees it renewed on time. Pauses grow by ``chance``, since
    all may have looked at the same instant: at the end of the last lease.
    """
    longest = usual(answer.candidates, timing)
    if answer.verdict != "held" or not watch.steady or answer.remaining <= longest:
        return timing.retry
    return min(longest, max(last, timing.retry) * (1 + chance))
