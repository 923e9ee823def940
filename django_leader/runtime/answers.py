"""What a process knows of itself in an election: the questions that need no Redis.

NOT guaranteed here: that an answer is still true when the caller acts on it. The process may be paused between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from django_leader.protocol.config import ValidConfig
from django_leader.protocol.hold import hold_left
from django_leader.protocol.records import instance_of
from django_leader.system import clock
from django_leader.system.clock import BOOT_CLOCK, clock_gettime

from .candidacy import Candidacy
from .grant import NO_GRANT, Grant
from .term import Term


class Answers:
    """The local part of ``LeaderElection``. Any thread may ask; nothing here takes a lock."""

    label: str
    config: ValidConfig
    _when_idle: Callable[[], bool] | None

    def _know_nothing(self) -> None:
        """Begin as a process that has never been a candidate. Local."""
        self._candidacy: Candidacy | None = None
        self._grant = NO_GRANT
        self.overridden: Grant | None = None
        """For this package: what ``override()`` was given last."""
        self._idle_hook = self._when_idle

    def _publish(self, grant: Grant) -> None:
        before, self._grant = self._grant, self.overridden or grant
        if before is not self._grant:
            before.wake()

    def is_leader(self) -> bool:
        """Return whether this process leads now. Local: no network, no lock, never raises. Any thread.

        In a signal handler, too, once the process is a candidate. Before that, a call may log why it is none, and log
        handlers take locks.
        """
        if clock_gettime(BOOT_CLOCK) < self._grant.cell[0]:
            return True
        if self._candidacy is None and self._idle_hook:
            self._call_idle_hook()
        return self._grant.cell[0] != 0.0 and self.lease_left > 0

    def _call_idle_hook(self) -> None:
        hook, self._idle_hook = self._idle_hook, None  # a log handler may ask, too
        if hook and not self.overridden:
            with suppress(Exception):
                if hook():
                    return
        self._idle_hook = hook

    @property
    def fencing_token(self) -> int | None:
        """The number of this process's term while it leads, else None. Local. Later terms have higher numbers."""
        grant = self._grant
        return grant.token if grant.left(clock_gettime(BOOT_CLOCK)) else None

    @property
    def lease_left(self) -> float:
        """Seconds until ``is_leader()`` turns false unless the lease is renewed; 0 when not leading. Local."""
        return self._grant.left(clock_gettime(BOOT_CLOCK))

    def term(self) -> Term | None:
        """Return the term in which this process leads now, None when it does not lead. Local; any thread.

        Take it once, where the work begins, and ask it from then on: ``is_leader()`` is true in a later term of this
        process, too, and a ``Term`` is not.
        """
        grant = self._grant
        return Term(self.label, grant, lambda: self._grant) if grant.left(clock_gettime(BOOT_CLOCK)) else None

    @property
    def instance_id(self) -> str:
        """The name of this process in the election. Local."""
        return self.config.instance_id

    def get_instance_id(self) -> str:
        """Return ``instance_id``. Local."""
        return self.instance_id

    @property
    def running(self) -> bool:
        """Whether this process is a candidate. Local."""
        return self._current() is not None

    def _current(self) -> Candidacy | None:
        """Return the candidacy of this process; None if it is no candidate. Local."""
        candidacy = self._candidacy
        goes_on = candidacy and not candidacy.shared.ended and candidacy.shared.ours()
        return candidacy if goes_on else None

    @property
    def outage(self) -> str:
        """Why Redis could not be asked when it was last tried; empty if it answered, or for no candidate. Local."""
        return candidacy.diagnostics.outage if (candidacy := self._current()) else ""

    @property
    def last_tick(self) -> float | None:
        """Seconds since the slower of its threads last ran, for health checks; None when it is no candidate. Local.

        The election thread runs at every heartbeat or poll (see ``RETRY_INTERVAL``). The watcher of the deadline
        counts, too.
        """
        return candidacy.idle if (candidacy := self._current()) else None

    @property
    def delay(self) -> float:
        """Seconds by which this process was late for its last heartbeat or poll: how starved it is. Local."""
        return candidacy.diagnostics.delay if (candidacy := self._current()) else 0.0

    @property
    def hold_left(self) -> float:
        """Seconds for which the last leader's ``hold`` goes on, as this candidate can prove; 0 if none does. Local."""
        return hold_left(candidacy.shared.state.watch, clock.now()) if (candidacy := self._current()) else 0.0

    @property
    def grant(self) -> Grant:
        """For this package: the last term, by which the local questions are answered. Local."""
        return self._grant

    @property
    def seen_leader(self) -> str:
        """For this package: the instance id of the leader that this process has seen last; ``""`` if none. Local."""
        return instance_of(candidacy.shared.state.leader) if (candidacy := self._current()) else ""
