"""The loop of one candidacy, and all its I/O: do what the session says, until nothing is left to do.

NOT guaranteed here: that a request was executed, or was not, when its reply did not come. The session then feeds
``Failed`` to the machine, and time does the rest.

- The *I/O lock* protects the connection, the session and the watch over the leader's process. One thread at a time
  holds it and does all I/O. That is the election thread, except for the release: it leaves from the thread that has
  nothing more to do before it, if the lock is free. A leader's election thread waits for its next heartbeat without
  this lock.
- A thread that holds the I/O lock may take the lock of the shared state. Only the election thread waits for the I/O
  lock, and it holds nothing then; other threads go on if they do not get it. So the two locks cannot deadlock.
- No exception ends the loop, only ``Stop`` does. The loop retries what fails.
- A fork in C runs no hook, and greenlets go on in the child. So the loop checks the process id in each turn, and ends
  silently in a child.
- A candidate watches the process of a leader on its host, and feeds the death of that process to the machine.
"""

from __future__ import annotations

import contextlib
import random
import threading

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol import machine
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.records import Answer, utc_now
from django_leader.protocol.session import Leave, Send, Session, Wait
from django_leader.redis.channel import ConnectionClosed
from django_leader.redis.lease import Lease
from django_leader.redis.limits import TooLong
from django_leader.system import clock
from django_leader.system.forks import Forked, check
from django_leader.system.pidfd import HolderWatch, Identity, boot_time, clocks, own, same_boot
from django_leader.system.starts import insist
from django_leader.system.threads import PAUSE
from django_leader.system.waker import Waker

from .hooks import Hooks
from .state import SharedState

LONGEST_WAIT = 3600.0
"""Seconds of one wait, at most."""
LEADS_NEXT = ("campaign", "poll", "BLPOP")
"""Requests after which this candidate may lead, for which it must be ready."""


class Worker:
    """The I/O of one candidacy."""

    def __init__(self, lease: Lease, shared: SharedState, config: ValidConfig, waker: Waker, hooks: Hooks) -> None:
        # Never change.
        self._shared, self._timing, self._waker, self._hooks = shared, config.timing, waker, hooks
        self._publishes_process = config.same_host_takeover
        # The I/O lock, and the threads other than the election thread that try it. Each adds and removes only itself.
        self._io_lock, self._io_threads = threading.Lock(), set[int]()
        # Only under the I/O lock, except ``channel.connected``, and at the beginning and the end, when no other thread
        # has anything to do.
        self.lease = lease
        self.session = Session(
            shared,
            shared.candidate_id,
            config,
            shared.pid,
            hooks,
            random=random.random,
            wall=utc_now,
            clocks=clocks,
            follow=self._follow,
        )
        self._holder = HolderWatch()
        self._identity: Identity | None = None
        # Written by the election thread, read by any thread.
        self.turned_at = clock.now()

    def run(self, label: str) -> None:
        """Take turns until the candidacy has ended. The calling thread is the election thread.

        Return in a child, too, without doing anything there.
        """
        with contextlib.suppress(Exception):  # then it publishes no process, and is taken over when its lease ends
            self.begin()
        with contextlib.suppress(Forked):
            # Whatever a turn raises, and whatever the code that handles this raises.
            insist(self._take_turns, f"{label}: the election")

    def begin(self) -> None:
        """Determine the identity of this process, before the first campaign publishes it. Local."""
        if self._publishes_process and (identity := own()):
            self._identity, self.session.process = identity, identity.to_text()

    def release(self) -> None:
        """Carry out a release that is due, so that the next leader need not wait for another thread to wake up.

        One round trip in the calling thread, if it gets the I/O lock and there is a connection; otherwise local.
        """
        shared = self._shared
        # Only on an open connection, because the waiting thread may not have the time that it takes to connect. Not in
        # the child of a fork in C, because it must not touch what it has inherited.
        if shared.ended or not self.lease.channel.connected or not shared.ours():
            return
        acquired, thread = False, threading.get_ident()
        self._io_threads.add(thread)
        try:
            acquired = self._io_lock.acquire(blocking=False)
            while acquired and machine.plan(shared.state, clock.now()).act == "release":
                self._act()
        except (Exception, Forked) as error:  # forked: in a child the caller goes on, with nothing to release
            self._failed(error)
        finally:
            if acquired:
                self._io_lock.release()
            self._io_threads.discard(thread)

    def runs_here(self) -> bool:
        """Return whether the calling thread is in ``release``. Local."""
        return threading.get_ident() in self._io_threads

    def close(self) -> None:
        """Close what is held in this process. Local, any thread, when no thread takes turns any more."""
        self._holder.forget()
        self.lease.channel.drop()

    def abandon(self) -> None:
        """Close what a forked child has inherited, without a message to the server. Local."""
        self._holder.forget()
        self.lease.channel.abandon()

    def _take_turns(self) -> None:
        while self._shared.ours():  # in a child, a thread that does not exist there may hold the I/O lock
            self.turned_at = clock.now()
            with self._io_lock:
                wait = self._turn()
            if wait is None:
                break
            self._hooks.turn_ended(self._shared.state, wait)
            if wait > 0:
                # While loss callbacks run there is nothing to do, but ``turned_at`` must show that this thread runs.
                self._waker.wait(min(wait, self._timing.retry if self._shared.state.ended else LONGEST_WAIT))

    def _turn(self) -> float | None:
        """Decide and carry out one action. Return the seconds to wait without the lock; None if nothing is left to do.

        Raise ``Forked`` in a child.
        """
        shared = self._shared
        check(shared.pid)
        try:
            self._hooks.turn_began()
            self._report_holder_death()
            if shared.stop_asked and not shared.state.stopping:
                shared.apply(machine.Stop())
            if shared.state.phase != "following":  # what it waits for may have run out
                shared.apply(machine.Tick())
            check(shared.pid)  # again, because other greenlets may run, and fork, while this one waits for a lock
            return self._act()
        except Exception as error:
            self._failed(error)
            # If it is a bug, the election goes on, but not in a tight loop.
            return min(PAUSE, self._timing.retry)

    def _act(self) -> float | None:
        """Do what the session says next. Return as ``_turn`` does."""
        todo = self.session.next(clock.now(), self.lease.channel.connection)
        if isinstance(todo, Leave):
            return None
        request = todo.request if isinstance(todo, Send) else todo.at_redis
        if request and request.template.name in LEADS_NEXT and not self._shared.ready():
            return self._timing.retry
        return self._wait(todo) if isinstance(todo, Wait) else self._send(todo)

    def _send(self, todo: Send) -> float:
        request = todo.request
        try:
            if todo.alone:
                self.lease.channel.cancel_wait()
            reply = self.lease.send(request, todo.wait, todo.until)
            self.session.reply(request, reply, clock.now(), self.lease.channel.number)
        except RedisUnavailable as error:
            self.lease.channel.drop()  # it may be a garbled reply
            self.session.failed(request, error, closed=isinstance(error, ConnectionClosed))
        return 0.0

    def _wait(self, todo: Wait) -> float:
        self._begin_again()
        if todo.at_redis is None:
            if todo.connect:
                with contextlib.suppress(RedisUnavailable):
                    self.lease.channel.open()
            return todo.until - clock.now()
        try:
            element = self.lease.wait(todo.at_redis, todo.until, exact=todo.exact)
            self.session.reply(todo.at_redis, element, clock.now(), self.lease.channel.number)
        except RedisUnavailable as error:
            if not self._shared.state.blpop_refused:
                self._hooks.wait_refused(error)
            self.lease.channel.drop()
            self.session.failed(todo.at_redis, too_long=isinstance(error.__context__, TooLong))
        return 0.0

    def _begin_again(self) -> None:
        """Have the next request publish the process anew if the wall clock was stepped. Local, 1 µs if it was not."""
        identity = self._identity
        if identity and not same_boot(identity, identity._replace(booted=boot_time())):
            self.begin()

    def _follow(self, answer: Answer, asked_at: float) -> tuple[str, int] | None:
        """Watch the process that leads, or whose lease has run out. Return its term, once, if it is dead."""
        if self.session.process and answer.verdict in ("held", "expired"):
            self._holder.follow((answer.holder, answer.token), answer.process, asked_at, answer.version)
        else:
            self._holder.forget()
        return self._dead()

    def _dead(self) -> tuple[str, int] | None:
        term = self._holder.dead()
        self._waker.also = self._holder.fd
        return term if term != self._shared.state.dead else None

    def _report_holder_death(self) -> None:
        """Feed the death of the leader's process to the machine, once."""
        if term := self._dead():
            self._shared.apply(machine.HolderDied(*term))

    def _failed(self, error: BaseException) -> None:
        if self._shared.ours():  # in a child it failed because it is the parent's
            with contextlib.suppress(Exception):  # the text of an exception may raise another
                self._hooks.failed(error, unexpected=not isinstance(error, RedisUnavailable))
            self.session.failed(None)
