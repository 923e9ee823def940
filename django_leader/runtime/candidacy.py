"""One candidacy: from the moment this process becomes a candidate in an election to the moment it is none any more.

NOT guaranteed here: that a request whose reply did not come was not executed, that a term lasts, or that the
application has stopped its work when it is over. ``machine`` and the scripts decide who may lead.

Several threads share a candidacy: the election thread (``run``), the threads that announce terms (``callbacks``), and
any thread or signal handler of the application that calls ``stop()`` and the like. There are two locks:

- ``changed``, a condition with a reentrant lock, protects what the candidate knows: the state of the machine, its
  events, the grant and its announcement. Any thread may feed the machine an event under it. The lock is never held
  across I/O or a callback. Readers of the state do not need it, because a state is immutable and is replaced as a
  whole.
- ``_io_lock`` protects the connection and what uses it (``_lease``, ``_actions``). One thread at a time holds it,
  carries out what the machine decides (``worker``), and does all I/O. That is the election thread, except for the
  release: it leaves from the thread that has nothing more to do before it, if the lock is free. A leader's election
  thread waits for its next heartbeat without this lock. It also sends its last request (``leave``) without it, because
  nothing is left to do then.
- A thread that holds ``_io_lock`` may take ``changed``. Only the election thread waits for ``_io_lock``, and it holds
  nothing then; other threads go on if they do not get it. So the two locks cannot deadlock.

Other invariants:

- ``is_leader()`` reads a ``Grant``, one for each term, without a lock. A reader that finds the deadline passed ends the
  grant. So the grant stays over even if a renewal that was accepted in time is published at that very moment; the
  machine then gets ``DeadlineObserved``.
- No exception ends the loop, only ``Stop`` does. The loop retries what fails.
- Every candidacy has an identity of its own (``_candidate_id``), so that two processes with the same instance id, or a
  process and its fork, exclude each other like any two candidates.
- A fork in C runs no hook, and greenlets go on in the child. So the loop checks the process id in each turn, and ends
  silently in a child. Nothing that still runs there applies an event, publishes, logs or calls back.
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
from django_leader.protocol.config import ValidConfig
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
    """What one process is and does in one election while it is a candidate."""

    def __init__(
        self, connect: Connect, config: ValidConfig, label: str, listeners: Listeners, publish: Publish, name: str = ""
    ) -> None:
        # Read by any thread. They never change, except that a forked child replaces ``_publish``.
        self._label, self._listeners, self._publish = label, listeners, publish
        self._timing = config.timing
        # Written under ``changed``, except by ``continue_as`` before this candidacy starts, and in a forked child. Any
        # thread reads the state and ``_applying`` without it.
        self._state = machine.State()
        self._events: deque[machine.AnyEvent] = deque()
        self._applying: int | None = None
        # Lines are added under ``changed``. Any thread writes them to the log, without it.
        self._log = TermLog(label, name, config.instance_id)
        # Written by the election thread when it begins, read by any thread.
        self._thread: threading.Thread | None = None
        # Only under ``changed``.
        self._successor: Candidacy | None = None
        # Set by any thread or signal handler, without a lock, and never reset.
        self._stop_asked = False
        # The I/O lock, and the threads other than the election thread that try it. Each adds and removes only itself.
        self._io_lock, self._io_threads = threading.Lock(), set[int]()
        # Any thread or signal handler sets it, without a lock.
        self._waker = Waker()
        # Only under ``_io_lock``, except ``channel.connected``, ``process`` at the beginning, the last request
        # (``leave``), ``_close`` and ``abandon``.
        self._lease = lease = open_lease(connect, config, self._waker)
        # Never changes.
        self._candidate_id = f"{config.instance_id}:{secrets.token_hex(NONCE_LENGTH // 2)}"
        # Only in the election thread: a grant reaches only that one.
        self._next_cell: Cell | None = None
        # The election thread calls ``ready``. The rest is called under ``changed``, except ``tell`` and ``abandon``.
        self._announcer = Announcer(
            label,
            listeners,
            deadline=lambda token: grant.cell[0] if (grant := self.grant).token == token else 0.0,
            expired=lambda: self.feed(machine.Tick()),
            gain_failed=lambda token: self.feed(machine.Resign(token, "callback-failed")),
            delivered=self._delivered,
        )
        # Any thread, without a lock.
        self.advice = Diagnostics(label, config, self._log.about)
        # Written by the thread that stops the candidacy, before it feeds ``Stop``; read under ``_io_lock``.
        self.hold = 0.0
        # Never changes.
        self.pid = os.getpid()
        # Only under ``_io_lock``, except at the beginning and at the end, when no other thread has anything to do.
        self._actions = Actions(
            lease, self._candidate_id, config, self._waker, self.advice, self.pid, lambda: self._state, self._apply
        )
        # Written under ``changed``, read by any thread without it.
        self.grant = NO_GRANT
        # The lock itself. Any thread waits on it for ``attempts``, ``ended`` and the grant; a forked child replaces it.
        self.changed = threading.Condition(threading.RLock())
        # Written under ``changed``, read by any thread without it.
        self.attempts = 0
        # Written by the election thread, read by any thread.
        self._ticked_at = clock.now()
        # Written under ``changed``, or in a forked child; read by any thread without it.
        self.ended = False

    def feed(self, event: machine.AnyEvent) -> None:
        """Feed ``event`` to the machine from another thread, and wake the election thread to act on it. Local."""
        self._apply(event)
        self._wake()

    def _wake(self) -> None:
        ended = self._state.ended
        if not (ended and ended.owes_release) or ended.delivered:  # if not, there is nothing to do yet
            self._waker.set()

    def stop(self, *, here: bool) -> None:
        """End the candidacy. With ``here`` the release leaves from this very thread, if the I/O lock is free."""
        self._apply(machine.Stop(), tell=False)  # a log handler may take long, and the next leader would wait for it
        self._let_go(here=here)
        self._tell()

    def ask_to_stop(self) -> None:
        """Make the election thread end the candidacy. Take no lock: for signal handlers."""
        self._stop_asked = True
        self._waker.set()

    def _let_go(self, *, here: bool = True) -> None:
        """Carry out a release that is due, so that the next leader need not wait for another thread to wake up."""
        # Only on an open connection, because the waiting thread may not have the time that it takes to connect. Not in
        # the child of a fork in C, because it must not touch what it has inherited.
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
        """Return whether ``ended`` waits for the caller: a callback, or a signal handler in a thread of ours."""
        here = threading.current_thread()
        depends = here is self._thread or here.ident in self._io_threads or here.ident == self._applying
        return depends or self._listeners.call_here()

    def _ours(self) -> bool:
        """Return whether this is the process of the candidacy, and not a child of it. Local, below a microsecond."""
        return self.pid == os.getpid()

    @property
    def idle(self) -> float:
        """Seconds since the election thread began a turn or the watcher checked the deadline: the longer of the two."""
        watcher = self._announcer.current if self._state.term else None
        return clock.now() - (min(self._ticked_at, watcher.looked_at) if watcher else self._ticked_at)

    @property
    def watch(self) -> ExpiryProof:
        """What the candidate has seen of the state in Redis. Local."""
        return self._state.watch

    @property
    def stopping(self) -> bool:
        """Whether the candidacy has ended, or is about to."""
        return self.ended or self._stop_asked or self._state.stopping

    def continue_as(self, successor: Candidacy) -> None:
        """Pass the highest token, and a loss that is still being delivered, to this process's next candidacy. Local."""
        if self._stop_asked:  # the election thread may not have seen it yet
            self._apply(machine.Stop())
        with self.changed:
            successor._state, self._successor = machine.inherited(self._state), successor

    def abandon(self) -> None:
        """In a forked child: use nothing of the parent's candidacy, and send nothing.

        The code that runs it may have been inherited, too: a loss callback that forked, or the greenlets of gevent.
        """
        self._state, self._publish, self.ended = machine.State(stopping=True), lambda grant: None, True
        # Greenlets may wait for the change. A thread that does not exist here may hold the lock.
        if self.changed.acquire(blocking=False):
            self.changed.notify_all()
            self.changed.release()
        self.changed = threading.Condition(threading.RLock())
        self._announcer.abandon()
        self._actions.end()
        self._lease.channel.abandon()
        self._waker.close()

    def close(self) -> None:
        """Close what the candidacy holds in this process. Local."""
        try:
            self._tell(at_last=True)
        finally:
            self._close()

    def _close(self) -> None:
        if not self._ours():
            self.abandon()
            return
        with self.changed, contextlib.ExitStack() as last:  # all of these, whichever raises
            last.callback(self.changed.notify_all)
            last.callback(setattr, self, "ended", True)
            for close in (self._waker.close, self._lease.channel.drop, self._actions.end, self._announcer.close):
                last.callback(close)

    def run(self) -> None:
        """Run the candidacy until ``Stop``. The calling thread is the election thread."""
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
            # Whatever a turn raises, and whatever the code that handles this raises.
            insist(self._take_turns, f"{self._label}: the election")
            if not self.advice.outage and self._state.watch.observation:
                with contextlib.suppress(Exception):
                    self._actions.leave()

    def _take_turns(self) -> None:
        while self._ours():  # in a child, a thread that does not exist there may hold the I/O lock
            self._ticked_at = clock.now()
            with self._io_lock:
                wait = self._turn()
            if wait is None:
                break
            self.advice.turn_ended(self._state, wait)
            if wait > 0:
                self._waker.wait(min(wait, 3600.0))

    def _turn(self) -> float | None:
        """Decide and carry out one action, under the I/O lock.

        Return the seconds to wait without the lock; None if nothing is left to do. Raise ``Forked`` in a child.
        """
        check(self.pid)
        try:
            self.advice.turn_began()
            self._actions.report_holder_death()
            if self._stop_asked and not self._state.stopping:
                self._apply(machine.Stop())
            if self._state.term or self._state.pending or self._state.ended:  # one of these may have run out
                self._apply(machine.Tick())
            check(self.pid)  # again, because other greenlets may run, and fork, while this one waits for a lock
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
            # If it is a bug, the election goes on, but not in a tight loop.
            return 0.0 if isinstance(error, RedisUnavailable) else min(PAUSE, self._timing.retry)

    def _failed(self, error: BaseException) -> None:
        if self._ours():  # in a child it failed because it is the parent's
            with contextlib.suppress(Exception):  # the text of an exception may raise another
                self.advice.failed(error, unexpected=not isinstance(error, RedisUnavailable))
            self._apply(machine.Failed(random.random()))

    def _apply(self, event: machine.AnyEvent, *, tell: bool = True) -> None:
        with (changed := self.changed):  # a child of a fork replaces it
            self._events.append(event)
            # If a signal handler has interrupted this very thread while it applies events, the loop below, which it has
            # interrupted, applies this one, too. In a child no thread applies it.
            if self._applying or not self._ours():
                return
            self._applying = threading.get_ident()
            try:
                while self._events and self._ours():  # announcing a term waits, and greenlets may fork meanwhile
                    self._apply_one(self._events.popleft())
            finally:
                self._applying = None
            changed.notify_all()
        if tell:
            self._tell()

    def _tell(self, *, at_last: bool = False) -> None:
        # Do not log if a stop was asked for: the signal handler that waits for us may have interrupted a thread that
        # holds the logging lock. Do not log while a thread applies an event: that thread calls this afterwards.
        if ((self._stop_asked or self._applying) and not at_last) or not self._ours():
            return
        self._announcer.tell()
        self._log.write()

    def _apply_one(self, event: machine.AnyEvent) -> None:
        before, after = self._state, machine.step(self._state, event, clock.now(), self._timing)
        if before.term and not after.term:
            assert after.ended
            token, reason = before.term.token, after.ended.reason
            # First of all, so that no interruption leaves ``is_leader()`` true, or the loss unannounced.
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
        except BaseException as error:  # a term that was not announced to the application must not go on
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
