"""How a thread of the application waits until its process leads.

NOT guaranteed here: that the process still leads when the waiting thread goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from django_leader.protocol.config import Timing
from django_leader.system import clock
from django_leader.system.starts import starts
from django_leader.system.threads import PAUSE

from .candidacy import Candidacy


def wait(
    timing: Timing,
    timeout: float | None,
    leads: Callable[[], bool],
    candidacy: Callable[[], Candidacy | None],
    refused: Callable[[], bool],
) -> None:
    """Block as ``LeaderElection.wait_for_leadership`` says. Any thread.

    ``leads``: whether this process leads. ``candidacy`` returns its candidacy, which another one may follow, or None
    while it is no candidate. ``refused``: whether the candidacy still waits for a thread.
    """
    until = clock.now() + (float("inf") if timeout is None else timeout)
    proof = max(timing.ttl, timing.quarantine) + timing.retry
    first_attempt, watching = until + proof + 4 * timing.operation, False
    while (known := candidacy()) and not leads():
        attempts, watch = known.shared.attempts, known.shared.state.watch
        if watch.version and not watching:
            # The state may last longer than this process would have set it for. Only the first state that is found
            # counts, because a state that is replaced again and again would put off the end for ever.
            watching, first_attempt = True, max(first_attempt, watch.expires_at + 4 * timing.operation)
        left = (until if attempts else first_attempt) - clock.now()
        if left <= 0:
            break
        longest = 3600.0
        if refused():
            starts.retry()
            longest = PAUSE

        def has_changed(known: Candidacy = known, attempts: int = attempts) -> bool:
            return candidacy() is not known or known.shared.attempts != attempts or leads()

        with (changed := known.shared.changed):
            changed.wait_for(has_changed, min(left, longest))
