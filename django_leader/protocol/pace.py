"""How long a follower waits between two polls: the retry interval in a small fleet, longer in a large one.

NOT guaranteed here: that some candidate polls within a certain time. Each candidate polls at the latest when the lease
that it has seen ends. Usually some candidate polls sooner, but not if all of them last polled at the same instant.

Up to a hundred candidates together poll as often as ``FULL_RATE_CANDIDATES`` of them would. A candidate acts for all on
what it sees, so they need not poll more often, and neither Redis nor their hosts have more to do. In a still larger
fleet each candidate polls as rarely as it may.
"""

from __future__ import annotations

from .config import Timing
from .expiry import ExpiryProof
from .records import Answer

FULL_RATE_CANDIDATES = 32
"""Up to so many candidates each poll once per retry interval."""
MAX_INTERVALS = 4
"""Retry intervals between two polls of one candidate, at most."""


def usual(candidates: int, timing: Timing) -> float:
    """Return the seconds between two polls of one of ``candidates`` candidates while all is well. Pure.

    If that is more than the retry interval, it is less than what is always left of a lease that is renewed on time.
    """
    longest = min(MAX_INTERVALS * timing.retry, 0.9 * (timing.ttl - timing.heartbeat))
    return max(timing.retry, min(timing.retry * candidates / FULL_RATE_CANDIDATES, longest))


def pause(answer: Answer, watch: ExpiryProof, last: float, jitter: float, timing: Timing) -> float:
    """Return the seconds until the next poll, after an answer that ``watch`` has observed. Pure.

    ``last``: the seconds between the last poll and this one. Only a candidate that can tell when the lease is over, and
    sees it renewed on time, polls rarely. Its pauses grow by ``jitter``, because all candidates may have polled at the
    same instant: at the end of the last lease.
    """
    longest = usual(answer.candidates, timing)
    if answer.verdict != "held" or not watch.steady or answer.remaining <= longest:
        return timing.retry
    return min(longest, max(last, timing.retry) * (1 + jitter))
