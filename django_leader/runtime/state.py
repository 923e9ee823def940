"""What the threads of one candidacy share: the state of the machine, and what it means for the application.

NOT guaranteed here: that a term lasts, or that the application has stopped its work when it is over.

What is shared, and under what:

- ``changed``, a condition with a reentrant lock, protects the state, its events, the grant and its announcement. Any
  thread may apply an event under it. The lock is never held across I/O or a callback.
- Readers of the state do not need the lock, because a state is immutable and is replaced as a whole.
- ``is_leader()`` reads a ``Grant``, one for each term, without a lock. A reader that finds the deadline passed ends the
  grant. So the grant stays over even if a renewal that was accepted in time is published at that very moment; the
  machine then gets ``DeadlineObserved``.
- In the child of a fork nothing applies an event, publishes, logs or calls back. A fork in C runs no hook, and
  greenlets go on in the child, so the process id is compared.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from django_leader.protocol import machine
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.expiry import stepped
from django_leader.protocol.orders import Order
from django_leader.system import clock

from .announcer import Announcer
from .grant import NO_GRANT, Cell, Grant, Publish, new_cell
from .listeners import Listeners
from .term_log import TermLog


class SharedState:
    """The state of one candidacy. ``feed`` applies an event and wakes the election thread. ``delivered``: see there."""

    def __init__(
        self,
        config: ValidConfig,
        candidate_id: str,
        label: str,
        listeners: Listeners,
        publish: Publish,
        log: TermLog,
        *,
        feed: Callable[[machine.AnyEvent], None],
        delivered: Callable[[int], None],
    ) -> None:
        # Never change.
        self.pid, self.candidate_id = os.getpid(), candidate_id
        self._timing = config.timing
        # Only a forked child replaces it.
        self._publish = publish
        # The lock itself. Any thread waits on it for ``attempts``, ``ended`` and the grant; a forked child replaces it.
        self.changed = threading.Condition(threading.RLock())
        # Written under ``changed``, except by ``continue_as`` before this candidacy starts, and in a forked child. Any
        # thread reads them without it.
        self.state = machine.State()
        self.grant = NO_GRANT
        self.attempts = 0
        self.ended = False
        self.applying: int | None = None
        # Only under ``changed``.
        self._events = deque[machine.AnyEvent]()
        # Set by any thread or signal handler, without a lock, and never reset.
        self.stop_asked = False
        # Set by the thread of the jobs, called by the thread that applies an event. Local.
        self.clock_stepped: Callable[[], object] = lambda: None
        # Set by the thread of the jobs, called by the election thread. Local.
        self.ordered: Callable[[Order], object] = lambda order: None
        # Only in the election thread: a grant reaches only that one.
        self._next_cell: Cell | None = None
        # Lines are added under ``changed``. Any thread writes them to the log, without it.
        self._log = log
        # Any thread; two at the same time would log one line twice.
        self._explained = False
        # The election thread calls ``ready``. The rest is called under ``changed``, except ``tell`` and ``abandon``.
        self.announcer = Announcer(
            label,
            listeners,
            deadline=lambda token: grant.cell[0] if (grant := self.grant).token == token else 0.0,
            expired=lambda: feed(machine.Tick()),
            gain_failed=lambda token: feed(machine.Resign(token, "callback-failed")),
            delivered=delivered,
        )

    def ours(self) -> bool:
        """Return whether this is the process of the candidacy, and not a child of it. Local, below a microsecond."""
        return self.pid == os.getpid()

    def ready(self) -> bool:
        """Prepare the next term, for which threads must run. Return False if these cannot be started now. Local."""
        if not self.announcer.ready():
            return False
        self._next_cell = self._next_cell or new_cell(0.0)
        return True

    def apply(self, event: machine.AnyEvent, *, tell: bool = True) -> None:
        """Apply an event, and with ``tell`` log and announce what follows from it. Local, any thread."""
        with (changed := self.changed):  # a child of a fork replaces it
            self._events.append(event)
            # If a signal handler has interrupted this very thread while it applies events, the loop below, which it has
            # interrupted, applies this one, too. In a child no thread applies it.
            if self.applying or not self.ours():
                return
            self.applying = threading.get_ident()
            try:
                while self._events and self.ours():  # announcing a term waits, and greenlets may fork meanwhile
                    self._apply_one(self._events.popleft())
            finally:
                self.applying = None
            changed.notify_all()
        if tell:
            self.tell()

    def tell(self, *, at_last: bool = False) -> None:
        """Log what has happened, and announce a change of leader. Local, but may block in a log handler."""
        # Do not log if a stop was asked for: the signal handler that waits for us may have interrupted a thread that
        # holds the logging lock. Do not log while a thread applies an event: that thread calls this afterwards.
        if ((self.stop_asked or self.applying) and not at_last) or not self.ours():
            return
        self.announcer.tell()
        self._log.write()

    def explain_wait(self, seconds: float) -> None:
        """Log, once, if the process waits for loss callbacks before it ends, for another ``seconds`` at most. Local.

        Also log what has happened before, because it may be too late for that when the wait is over.
        """
        if not self._explained and self.state.ended and not self.state.ended.delivered:
            self._explained = True
            self._log.waits(seconds)
            self.tell(at_last=True)

    def wait_for_end(self, until: float) -> None:
        """Return when the candidacy is over, or at the instant ``until``."""
        with (changed := self.changed):
            changed.wait_for(lambda: self.ended, max(0.0, until - clock.now()))

    def end(self) -> None:
        """Record that the candidacy is over, and wake those who wait for that. Local."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def abandon(self) -> None:
        """In a forked child: be no leader, and announce nothing. Local, waits for no lock."""
        self.state, self._publish, self.ended = machine.State(stopping=True), lambda grant: None, True
        # Greenlets may wait for the change. A thread that does not exist here may hold the lock.
        if self.changed.acquire(blocking=False):
            self.changed.notify_all()
            self.changed.release()
        self.changed = threading.Condition(threading.RLock())
        self.announcer.abandon()

    def _apply_one(self, event: machine.AnyEvent) -> None:
        before, after = self.state, machine.step(self.state, event, clock.now(), self._timing)
        if before.term and not after.term:
            assert after.ended
            token, reason = before.term.token, after.ended.reason
            # First of all, so that no interruption leaves ``is_leader()`` true, or the loss unannounced.
            self.grant.end(reason)
            if self.announcer.end(token, reason):
                self._events.append(machine.Delivered(token))
            self._log.lost(token, reason, min(clock.now(), before.term.deadline))
        self.state = after
        if stepped(before.watch, after.watch):
            self.clock_stepped()
        self.attempts += machine.decided(event, after)
        if before.term and after.term:
            if not self.grant.extend(after.term.deadline):
                self._events.appendleft(machine.DeadlineObserved(after.term.token))
        elif after.term:
            self._begin(after.term)
        if change := self._log.leads(after.leader, self.candidate_id):
            self.announcer.changed(*change)

    def _begin(self, term: machine.Term) -> None:
        try:
            cell, self._next_cell = self._next_cell or new_cell(0.0), None
            cell[0] = term.deadline
            self.grant = Grant(term.token, cell)
            self._publish(self.grant)
            self.announcer.begin(term.token)
            self._log.gained(term.token)
        except BaseException as error:  # a term that was not announced to the application must not go on
            self._events.append(machine.Resign(term.token, "callback-failed"))
            self._log.cannot_lead(error)
            if not isinstance(error, Exception):
                raise
