"""One term of this process, as the work that it does in that term sees it.

NOT guaranteed here: that nothing happens after the end of the term. A process may be paused between a check and what
follows it. Where that matters, pass ``token`` to the system that you write to, and make it reject any token lower than
the highest it has seen.

A thread that waits for the end watches the deadline itself, so it needs no other thread of this package to run in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from django_leader.exceptions import LeadershipLost
from django_leader.system import clock
from django_leader.system.clock import BOOT_CLOCK, clock_gettime

from .callbacks import LONGEST_UNCHECKED
from .grant import Grant


class Term:
    """One term of this process in one election. ``LeaderElection.term()`` returns it.

    It belongs to that term alone. Once it is over it stays over, also when this process is elected again, and in every
    child that is forked. All its members are local, and any thread may use them.
    """

    __slots__ = ("_current", "_grant", "_over", "label")

    def __init__(self, label: str, grant: Grant, current: Callable[[], Grant]) -> None:
        self.label = label
        """What logs and errors call the election."""
        self._grant, self._current = grant, current
        # Set by any thread, and never reset. In tests an override may end and an earlier one count again.
        self._over = False

    @property
    def token(self) -> int:
        """The fencing token of the term, also when it is over. Local."""
        return self._grant.token

    @property
    def lease_left(self) -> float:
        """Seconds until the term is over unless the lease is renewed; 0.0, for good, once it is over. Local."""
        left = self._grant.left(clock_gettime(BOOT_CLOCK)) if self._grant is self._current() else 0.0
        if self._over or not left:
            self._over = True
            return 0.0
        return left

    def is_current(self) -> bool:
        """Return whether this process leads in this very term. Local: no network, no lock, never raises."""
        return self.lease_left > 0

    @property
    def lost(self) -> Lost:
        """The end of the term, as an event to wait for. Local."""
        return Lost(self)

    def raise_if_lost(self) -> None:
        """Raise ``LeadershipLost``, which names the election and the token, if the term is over. Local."""
        if not self.is_current():
            why = f" (reason: {self._grant.reason})" if self._grant.reason else ""
            raise LeadershipLost(
                f"{self.label}: the term with token {self.token} is over{why}, and another process may lead. Write "
                "nothing more, and end this work"
            )

    def __repr__(self) -> str:
        return f"<Term {self.token} of {self.label}, {'current' if self.is_current() else 'over'}>"


class Lost:
    """The end of a term, in the manner of a ``threading.Event`` that this package alone sets."""

    __slots__ = ("_term",)

    def __init__(self, term: Term) -> None:
        self._term = term

    def is_set(self) -> bool:
        """Return whether the term is over. Local."""
        return not self._term.is_current()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the term is over, or for ``timeout`` seconds (None: no limit). Return whether it is over.

        Return within milliseconds of the end, also if the election thread hangs. After a suspend of the machine that
        has outlasted the lease, return within half a second. Local; any thread, no event loop.
        """
        until = clock.now() + (math.inf if timeout is None else timeout)
        while left := self._term.lease_left:
            rest = until - clock.now()
            if rest <= 0:
                return False
            # In slices, because a suspend stretches the wait but not the lease, and a fork in C wakes no greenlet.
            self._term._grant.wait(min(left, rest, LONGEST_UNCHECKED))
        return True
