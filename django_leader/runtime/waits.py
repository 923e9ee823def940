"""How a thread of the application waits until its process leads.

NOT guaranteed here: that the process still leads when the waiting thread goes on.
"""

from __future__ import annotations

from functools import partial

from django_leader.protocol.config import Timing
from django_leader.system import clock
from django_leader.system.starts import Start, starts
from django_leader.system.threads import PAUSE

from .candidacy import Candidacy
from .listeners import Listeners


class Waits:
    """The part of an election that waits. Any thread."""

    _timing: Timing
    _listeners: Listeners
    _candidacy: Candidacy | None
    _start: Start | None

    @property
    def running(self) -> bool:
        """Whether this process is a candidate. Local."""
        raise NotImplementedError

    def is_leader(self) -> bool:
        """Return whether this process leads now. Local."""
        raise NotImplementedError

    def wait_for_leadership(self, timeout: float | None = 0.0) -> bool:
        """Block until this process leads, or ``timeout`` seconds are over (None: no limit) and one attempt has ended.

        Return whether it leads. Return at once when ``start()`` was not called, and in a callback or receiver of this
        election, which the next term may wait for.

        An attempt ends at once when Redis is unreachable, when another process leads, and while the last leader's
        ``hold`` goes on. When no process leads, but the last leader did not resign or Redis lost data, it ends when
        that state is proved to be over: after a lease, or a quarantine if that is longer. The call may exceed the
        timeout by that time and four operations (connect, log in, choose the database, ask).
        """
        timing = self._timing
        until = clock.now() + (float("inf") if timeout is None else timeout)
        proof = max(timing.ttl, timing.quarantine) + timing.retry
        first_attempt, watching = until + proof + 4 * timing.operation, False
        if self._listeners.call_here():
            return self.is_leader()
        while (candidacy := self._candidacy) and self.running and not self.is_leader():
            attempts, watch = candidacy.attempts, candidacy.watch
            if watch.version and not watching:
                # The state may last longer than this process would have set it for. Only the first state that is found
                # counts, because a state that is replaced again and again would put off the end for ever.
                watching, first_attempt = True, max(first_attempt, watch.expires_at + 4 * timing.operation)
            left = (until if attempts else first_attempt) - clock.now()
            if left <= 0:
                break
            longest = 3600.0
            if self._start and self._start.waits:
                starts.retry()
                longest = PAUSE
            with (changed := candidacy.changed):
                changed.wait_for(partial(self._has_changed, candidacy, attempts), min(left, longest))
        return self.is_leader()

    def _has_changed(self, candidacy: Candidacy, attempts: int) -> bool:
        others = candidacy.ended or candidacy is not self._candidacy
        return others or candidacy.attempts != attempts or self.is_leader()
