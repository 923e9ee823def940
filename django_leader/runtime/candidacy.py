"""One candidacy: from the moment this process takes part in an election to the moment it no longer does.

NOT guaranteed here: that a request whose reply did not come was not executed, that a term lasts, or that the
application has stopped its work when it is over. Who may lead is decided by ``machine`` and by the scripts.

- Any thread may feed the machine, under one lock that is never held across I/O or a callback.
- Whoever is at the desk, one thread at a time, carries out what the machine decides (``actions``), and does all I/O.
  That is the election thread (``run``), but for the release: it leaves from the thread that has nothing more to do
  before it. A leader's election thread waits away from the desk, and leaves from there, when nothing is left to do.
- What ``is_leader()`` reads is a ``Grant``, one for each term. Whoever is told that the term is over ends it, so that
  it stays over even if a renewal, accepted in time, is published at that very moment; the machine then hears of it.
- No exception ends the loop, only ``Stop`` does; what fails is tried again.
- Every candidacy has an identity of its own (``me``), so that two processes that were given one instance id, or a
  process and its fork, exclude each other like any two.
- A fork in C tells nobody, and greenlets go on in the child. So the loop asks in each turn whose process this is, and
  ends in a child without a word; nothing that still runs there applies an event, publishes, logs or calls back.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import threading
from collections import deque

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol import machine
from django_leader.protocol.config import Config
from django_leader.protocol.expiry import ExpiryProof
from django_leader.protocol.records import NONCE_LENGTH
from django_leader.redis.connector import Connect
from django_leader.system import clock
from django_leader.system.forks import Forked, check
from django_leader.system.starts import insist
from django_leader.system.threads import PAUSE
from django_leader.system.waker import Waker

from .announcer import Announcer
from .diagnostics import Diagnostics
from .grant import NO_GRANT, Cell, Grant, Publish, new_cell
from .listeners import Listeners
from .local import open_lease
from .term_log import TermLog
from .worker import Actions


class Candidacy:
    """What one process is and does in one election while it takes part."""

    def __init__(
        self, connect: Connect, config: Config, label: str, listeners: Listeners, publish: Publish, name: str = ""
    ) -> None:
        self._label, self._listeners, self._publish = label, listeners, publish
        self._timing = config.timing
        self._state = machine.State()
        self._events: deque[machine.AnyEvent] = deque()
        self._applying: int | None = None
        self._log = TermLog(label, name, config.instance_id)
        self._thread: threading.Thread | None = None
        self._successor: Candidacy | None = None
        self._stop_asked = False
        self._io_lock, self._io_threads = threading.Lock(), set[int]()
        self._waker = Waker()
        self._lease = lease = open_lease(connect, config, self._waker)
        self._candidate_id = f"{config.instance_id}:{secrets.token_hex(NONCE_LENGTH // 2)}"
        self._next_cell: Cell | None = None
        self._announcer = Announcer(
            label,
            listeners,
            deadline=lambda token: grant.cell[0] if (grant := self.grant).token == token else 0.0,
            expired=lambda: self.feed(machine.Tick()),
            gain_failed=lambda token: self.feed(machine.Resign(token, "callback-failed")),
            delivered=self._delivered,
        )
        self.advice = Diagnostics(label, config, self._log.about)
        self.hold = 0.0
        self.pid = os.getpid()
        self._actions = Actions(
            lease, self._candidate_id, config, self._waker, self.advice, self.pid, lambda: self._state, self._apply
        )
        self.grant = NO_GRANT
        self.changed = threading.Condition(threading.RLock())
        self.attempts = 0
        self._ticked_at = clock.now()
        self.ended = False

    def feed(self, event: machine.AnyEvent) -> None:
        """Tells the machine from another thread, and has the election thread act on it. Local."""
        self._apply(event)
        self._wake()

    def _wake(self) -> None:
        ended = self._state.ended
        if not (ended and ended.owes_release) or ended.delivered:  # if not, there is nothing to do yet
            self._waker.set()

    def stop(self, *, here: bool) -> None:
        """Takes part no longer. With ``here`` the release leaves from this very thread, if nobody is at the desk."""
        self._apply(machine.Stop(), tell=False)  # a log may take its time, which the next leader would wait for
        self._let_go(here=here)
        self._tell()

    def ask_to_stop(self) -> None:
        """Has the election thread take part no longer. Takes no lock: for signal handlers."""
        self._stop_asked = True
        self._waker.set()

    def _let_go(self, *, here: bool = True) -> None:
        """Carries out a release that is due, since whoever waits for it need not wait for another thread to wake up."""
        # To connect may take longer than whoever waits has time; and what a fork in C inherits is not touched.
        if here and not self.ended and self._lease.channel.connected and self._ours():
            acquired, thread = False, threading.get_ident()
            self._io_threads.add(thread)
            try:
                acquired = self._io_lock.acquire(blocking=False)
                todo = machine.plan(self._state, clock.now())
                if acquired and todo.act == "release":
                    self._actions.do(todo, self.hold)
            except (Exception, Forked) as error:  # forked: in a child the caller goes on, with nothing to release
                self._failed(error)
            finally:
                if acquired:
                    self._io_lock.release()
                self._io_threads.discard(thread)
        self._wake()

    def runs_here(self) -> bool:
        """Whether ``ended`` waits for the caller: a callback, or a signal handler in a thread of ours."""
        here = threading.current_thread()
        depends = here is self._thread or here.ident in self._io_threads or here.ident == self._applying
        return depends or self._listeners.call_here()

    def _ours(self) -> bool:
        """Whether this is the process that takes part, and not a child of it. Local, below a microsecond."""
        return self.pid == os.getpid()

    @property
    def idle(self) -> float:
        """Seconds since its threads last came round, of the one that has not for longest."""
        watcher = self._announcer.current if self._state.term else None
        return clock.now() - (min(self._ticked_at, watcher.looked_at) if watcher else self._ticked_at)

    @property
    def watch(self) -> ExpiryProof:
        """What it has seen of the state in Redis. Local."""
        return self._state.watch

    @property
    def stopping(self) -> bool:
        """Whether it has ended, or is about to."""
        return self.ended or self._stop_asked or self._state.stopping

    def continue_as(self, successor: Candidacy) -> None:
        """Tells this process's next candidacy the highest token, and of a loss that is still being delivered. Local."""
        if self._stop_asked:  # the election thread may not have come to it yet
            self._apply(machine.Stop())
        with self.changed:
            successor._state, self._successor = machine.inherited(self._state), successor
            self.changed.notify_all()

    def abandon(self) -> None:
        """In a forked child: nothing of the parent's candidacy is used, and nothing is sent.

        What runs it may have been inherited, too: a loss callback that forked, or the greenlets of gevent.
        """
        self._state, self._publish, self.ended = machine.State(stopping=True), lambda grant: None, True
        # Greenlets may wait for the change. A lock that is held may be that of a thread that is not here.
        if self.changed.acquire(blocking=False):
            self.changed.notify_all()
            self.changed.release()
        self.changed = threading.Condition(threading.RLock())
        self._announcer.abandon()
        self._actions.end()
        self._lease.channel.abandon()
        self._waker.close()

    def close(self) -> None:
        """Gives back what it holds at home. Local."""
        try:
            self._tell(at_last=True)
        finally:
            self._close()

    def _close(self) -> None:
        if not self._ours():
            self.abandon()
            return
        with self.changed, contextlib.ExitStack() as last:  # whatever raises
            last.callback(self.changed.notify_all)
            last.callback(setattr, self, "ended", True)
            for close in (self._waker.close, self._lease.channel.drop, self._actions.end, self._announcer.close):
                last.callback(close)

    def run(self) -> None:
        """Takes part until ``Stop``. The calling thread is the election thread."""
        self._thread = threading.current_thread()
        try:
            with contextlib.suppress(Exception):  # then it publishes no process, and is taken over when its lease ends
                self._actions.begin()
            self._loop()
        except BaseException:  # Ctrl-C, say: end as after a stop
            self.feed(machine.Stop())
            self._loop()
            raise
        finally:
            self.close()

    def _loop(self) -> None:
        with contextlib.suppress(Forked):
            # Whatever is raised there, and by what handles that.
            insist(self._take_turns, f"{self._label}: the election")
            if not self.advice.outage and self._state.watch.observation:
                with contextlib.suppress(Exception):
                    self._actions.leave()

    def _take_turns(self) -> None:
        while self._ours():  # in a child the desk may be held by a thread that is not there
            self._ticked_at = clock.now()
            with self._io_lock:
                wait = self._turn()
            if wait is None:
                break
            self.advice.turn_ended(self._state, wait)
            if wait > 0:
                self._waker.wait(min(wait, 3600.0))

    def _turn(self) -> float | None:
        """Decides and carries out one thing, at the desk. Gives how long to wait away from it; None: no more to do.

        Raises ``Forked`` in a child.
        """
        check(self.pid)
        try:
            self.advice.turn_began()
            self._actions.report_holder_death()
            if self._stop_asked and not self._state.stopping:
                self._apply(machine.Stop())
            if self._state.term or self._state.pending or self._state.ended:  # of which one may have run out
                self._apply(machine.Tick())
            check(self.pid)  # again: greenlets take turns at a lock, too
            todo = machine.plan(self._state, clock.now())
            if todo.act == "leave":
                return None
            if todo.listen or todo.act in ("campaign", "poll"):
                if not self._announcer.ready():
                    return self._timing.retry
                self._next_cell = self._next_cell or new_cell(0.0)
            return self._actions.do(todo, self.hold)
        except Exception as error:
            self._failed(error)
            # If it is a bug, the show goes on, but not in a tight loop.
            return 0.0 if isinstance(error, RedisUnavailable) else min(PAUSE, self._timing.retry)

    def _failed(self, error: BaseException) -> None:
        if self._ours():  # if not, it failed because it is the parent's
            with contextlib.suppress(Exception):  # the text of an exception may raise another
                self.advice.failed(error, unexpected=not isinstance(error, RedisUnavailable))
            self._apply(machine.Failed(random.random()))

    def _apply(self, event: machine.AnyEvent, *, tell: bool = True) -> None:
        with (changed := self.changed):  # a child of a fork replaces it
            self._events.append(event)
            # Applied by this very thread, in which a signal handler feeds us; or by nobody, in a child.
            if self._applying or not self._ours():
                return
            self._applying = threading.get_ident()
            try:
                while self._events and self._ours():  # to announce a term waits, and greenlets fork meanwhile
                    self._apply_one(self._events.popleft())
            finally:
                self._applying = None
            changed.notify_all()
        if tell:
            self._tell()

    def _tell(self, *, at_last: bool = False) -> None:
        # Whoever waits for us in a signal handler may have interrupted whoever logs. Whoever applies tells behind it.
        if ((self._stop_asked or self._applying) and not at_last) or not self._ours():
            return
        self._announcer.tell()
        self._log.write()

    def _apply_one(self, event: machine.AnyEvent) -> None:
        before, after = self._state, machine.step(self._state, event, clock.now(), self._timing)
        if before.term and not after.term:
            assert after.ended
            token, reason = before.term.token, after.ended.reason
            # First of all, so that nothing that interrupts us leaves it true, or the application untold.
            self.grant.end()
            if self._announcer.end(token, reason):
                self._events.append(machine.Delivered(token))
            self._log.lost(token, reason, min(clock.now(), before.term.deadline))
        self._state = after
        self.attempts += machine.decided(event, after)
        if before.term and after.term:
            if not self.grant.extend(after.term.deadline):
                self._events.appendleft(machine.DeadlineObserved(after.term.token))
        elif after.term:
            self._begin(after.term)
        if change := self._log.leads(after.leader, self._candidate_id):
            self._announcer.changed(*change)

    def _begin(self, term: machine.Term) -> None:
        try:
            cell, self._next_cell = self._next_cell or new_cell(0.0), None
            cell[0] = term.deadline
            self.grant = Grant(term.token, cell)
            self._publish(self.grant)
            self._announcer.begin(term.token)
            self._log.gained(term.token)
        except BaseException as error:  # a term of which the application has not been told must not go on
            self._events.append(machine.Resign(term.token, "callback-failed"))
            self._log.cannot_lead(error)
            if not isinstance(error, Exception):
                raise

    def _delivered(self, token: int) -> None:
        with self.changed:
            self._apply(machine.Delivered(token), tell=False)
            successor = self._successor
        self._let_go()
        self._tell()
        if successor:
            successor._delivered(token)
