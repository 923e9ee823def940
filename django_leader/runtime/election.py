"""``LeaderElection``: one process in one election, as the application sees it.

NOT guaranteed here:

- That no other process works on as if it led. ``is_leader()`` is true only while this process holds the lease. But a
  process that is paused between this check and a write can still write late. Where that matters, pass ``fencing_token``
  to the system you write to, and make it reject any token lower than the highest it has seen.
- That a term lasts. Redis, the network or a starved process can end any term at any time.
- That there is always a leader. While Redis is unreachable, no candidate can be elected.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

from django_leader.exceptions import LeaderError
from django_leader.protocol.config import Config
from django_leader.protocol.machine import Resign
from django_leader.system import clock
from django_leader.system.forks import unsupported
from django_leader.system.log import log
from django_leader.system.starts import Start, starts

from .candidacy import Candidacy
from .fenced import Fencing
from .grant import NO_GRANT, Grant
from .jobs import Access, JobLoop
from .lifecycle import lifecycle
from .listeners import Changed, Gained, Listeners, Lost, Pair, RunCoroutine, run_coroutine
from .queries import Client, in_thread, source
from .runs import JobSpec, Runs
from .waits import wait
from .work import Factory, checked

Callback = TypeVar("Callback", bound=Callable[[], Any])
Work = TypeVar("Work", bound=Factory)


class LeaderElection(Fencing):
    """This process in one election. One object per process and election. To make one is local.

    Any thread may use it where nothing else is said. ``client`` (or a function that returns it, called when Redis is
    first needed) says where Redis is and how to log in; its connections are not used. ``config`` is by default
    ``Config()``. ``name`` is for logs and errors.
    ``after_callback`` is called after each callback, in its thread. ``run_coroutine`` runs the coroutine that a
    callback has returned, in the same thread. ``is_leader()`` calls ``when_idle`` while this process is no candidate,
    until it returns True. ``jobs`` returns the jobs that the leader runs; local.
    ``prepare`` is called before each candidacy, in the thread that starts it and in the election thread.

    Raise ``ConfigError`` for a client of another kind, such as that of a Redis Cluster. If ``client`` is a function,
    the methods that need Redis raise that instead, and whatever the function raises. ``Config`` itself raises
    ``ConfigError`` for a bad value.
    """

    def __init__(
        self,
        client: Client | Callable[[], Client],
        config: Config | None = None,
        *,
        name: str = "default",
        after_callback: Callable[[], Any] = lambda: None,
        run_coroutine: RunCoroutine = run_coroutine,
        when_idle: Callable[[], bool] | None = None,
        jobs: Callable[[], Sequence[JobSpec]] = lambda: (),
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        """The alias of the election."""
        self.label = f"LEADER_ELECTIONS[{name!r}]"
        """What logs and errors call the election."""
        self._given = config or Config()
        self._connect = source(client)
        self._listeners = Listeners(after_callback, run_coroutine)
        self._when_idle = when_idle
        self._jobs, self._prepare, self.runs = jobs, prepare, Runs(self.label, self._listeners)
        """For this package: the runs of jobs that go on in this process."""
        self._listeners.has_jobs, self._listeners.claims_slots = lambda: bool(jobs()), self._claims_slots
        self._forget()
        lifecycle.add(self)

    def _forget(self) -> None:
        self._pid = os.getpid()
        self.config = self._given.validate()
        """The settings that are used, with the defaults filled in; ``config.timing`` has the durations in seconds.

        A forked child has others: an instance id that was not given is generated anew there.
        """
        self._timing = self.config.timing
        self._start: Start | None = None
        self._bodies: list[int] = []
        """The threads whose guarded bodies a release waits for."""
        self.asked = False
        """For this package: whether ``ask_to_stop()`` was the last request to this election."""
        self._know_nothing()

    def override(self, grant: Grant | None) -> None:
        """For this package: answer the local questions by ``grant`` in tests; start nothing. None ends that. Local."""
        with lifecycle.starting:  # a candidacy that begins at this moment must not publish its own grant over ours
            candidacy = self._candidacy
            with candidacy.shared.changed if candidacy else nullcontext():
                self.overridden = grant
                self._publish(candidacy.shared.grant if candidacy else NO_GRANT)

    def wait_for_leadership(self, timeout: float | None = 0.0) -> bool:
        """Block until this process leads, or ``timeout`` seconds are over (None: no limit) and one attempt has ended.

        Return whether it leads. Return at once when ``start()`` was not called, and in a callback or receiver of this
        election, which the next term may wait for. Any thread.

        An attempt ends at once when Redis is unreachable, when another process leads, and while the last leader's
        ``hold`` goes on. When no process leads, but the last leader did not resign or Redis lost data, it ends when
        that state is proved to be over: after a lease, or a quarantine if that is longer. The call may exceed the
        timeout by that time and four operations (connect, log in, choose the database, ask).
        """
        if not self._listeners.call_here():
            wait(self._timing, timeout, self.is_leader, self._current, lambda: bool(self._start and self._start.waits))
        return self.is_leader()

    def on_become_leader(self, callback: Callback) -> Callback:
        """Call ``callback`` at the beginning of each later term, in a thread of its own; it may run for long.

        When it raises, or gets no thread, the term ends: a leader that failed to start its work must not keep the
        lease. A coroutine function runs in an event loop of its own, in that thread. Under gevent and eventlet it is
        refused at the beginning of each term, and that term ends.

        Return ``callback``, so that this is usable as a decorator. To register is local; any thread.
        """
        self._listeners.on_gain.append(lambda token: callback())
        return callback

    def on_lose_leadership(self, callback: Callback) -> Callback:
        """Call ``callback`` at the end of each term that was announced, after ``is_leader()`` turned false.

        The callbacks run one after the other, in one thread of the term, which is none of the application. Until they
        have returned, a leader that ended its term voluntarily keeps the lease (while it lasts), and this process does
        not campaign again. What one raises is logged, and the next one is called. Coroutine functions run as those of
        ``on_become_leader``. Under gevent and eventlet they are not run, and an error is logged at each end.

        A callback that is registered during a term is called at its end. Return ``callback``, so that this is usable as
        a decorator. To register is local; any thread.
        """
        self._listeners.on_loss.append(lambda token, reason: callback())
        return callback

    def while_leading(self, work: Work) -> Work:
        """Enter a context manager at the beginning of each later term, and leave it at its end.

        ``work`` is called with the fencing token, and returns a context manager or an asynchronous one. It is called,
        entered and left in one thread of its own (an asynchronous one in one event loop). Entering and leaving never
        overlap, and the next term begins only when it has been left. The term can end while it is being entered,
        however long that takes; it is then left right afterwards. The lease is released, or runs out, as with
        ``on_lose_leadership``.

        If ``work`` raises, returns no context manager, or raises when it is entered, it is not left, and the term ends.
        If an asynchronous one ends before its term (a task group in which a task has failed), the term ends, too. Under
        gevent and eventlet an asynchronous one is refused, and the term ends. What it raises when it is left is logged.

        Return ``work``, so that this is usable as a decorator. Raise ``TypeError`` at once for a generator function
        without ``contextlib.contextmanager``, and for what cannot be called. To register is local; any thread.
        """
        self._listeners.works.append(checked(work))
        return work

    def listen(self, gained: Gained, lost: Lost, changed: Changed, what: str = "a gain callback") -> None:
        """Register callbacks with the token, with token and reason, and with the instance ids (previous, current).

        For integrations. ``gained`` and ``lost`` are like the callbacks of ``on_become_leader`` and
        ``on_lose_leadership``, but in pairs: ``lost`` is called after all callbacks of ``on_lose_leadership``, when
        ``gained`` has returned or raised, and only if it was called in this term. ``what`` names ``gained`` in the log.

        ``gained`` has a thread of its own. ``lost`` runs in the thread of the loss callbacks. ``changed`` runs in a
        third thread, once for each change of leader and in their order; what it raises is logged.
        To register is local; any thread.
        """
        self._listeners.pairs.append(Pair(gained, lost, what))
        self._listeners.on_change.append(changed)

    def start(self) -> None:
        """Become a candidate, in a daemon thread. Local: that thread is the first to connect.

        Do nothing if this process is a candidate already, at its exit, and while a test overrides the election. On a
        platform that supports no elections (Windows), log a warning and do nothing else.
        Any thread, but no signal handler, because that may have interrupted a thread that holds a lock of this method.

        Called in the main thread, it makes SIGTERM hand over first (``handle_sigterm``). Called in the fork server of
        ``multiprocessing``, which imports the main program, it takes effect in each child of the fork server. If the
        system starts no thread now, the election begins when it does; ``starts`` says which threads try that again.

        Raise ``ImproperlyConfigured`` when the election's settings cannot be used. Without Django's settings, raise
        what the function ``client`` raises, and ``ConfigError`` when it has returned a client of another kind. Raise
        ``OSError`` when this process has no file descriptor left; it is no candidate then.
        """
        if lifecycle.defer(self):
            return
        candidacy = self._begin()
        if candidacy is None:
            return
        # The thread references the election, so that it can be stopped even if nothing else references it.
        self._start = Start(partial(self._run_candidacy, candidacy), f"{self.label} election")
        starts.start(self._start)

    def run(self) -> None:
        """Be a candidate in the calling thread until another thread or a signal handler calls ``stop()``.

        The calling thread sends what the thread of ``start()`` would send: one round trip for each heartbeat or poll.
        Any thread; called in the main thread, it makes SIGTERM hand over first, as ``start()`` does.

        Raise ``LeaderError`` if this process is a candidate already, is at its exit, or may not be one: on a platform
        that supports no elections, or while a test overrides the election. Raise it, too, if the caller is a callback
        or receiver of this election, which the end of the last term may wait for. Raise ``ImproperlyConfigured``,
        ``ConfigError`` and ``OSError`` like ``start()``. Raise what a signal handler raises in the calling thread, such
        as ``KeyboardInterrupt``, when the candidacy has ended as by ``stop()``.
        """
        if why := unsupported():
            raise LeaderError(f"{self.label}: this process cannot participate: {why}")
        if self._listeners.call_here():
            text = "run() was called by a callback or receiver of this election; call start() there"
            raise LeaderError(f"{self.label}: {text}")
        candidacy = self._begin()
        if candidacy is None and self.overridden:
            raise LeaderError(f"{self.label}: a test overrides this election; call run() outside of the override")
        if candidacy is None and lifecycle.exiting:
            raise LeaderError(f"{self.label}: this process is exiting, so it cannot become a candidate")
        if candidacy is None:
            raise LeaderError(f"{self.label}: this process is a candidate already; call run() or start() once")
        try:
            self._run_candidacy(candidacy)
        finally:
            self.asked = False  # what the caller does next is not known
            lifecycle.sigterm.finish()

    def _claims_slots(self, token: int) -> JobLoop | None:
        """Return what claims the slots of the jobs in the term that has just begun. Local."""
        access = self.access()
        return JobLoop(self.runs, self._jobs, access) if access and access.term.token == token else None

    def access(self) -> Access | None:
        """For this package: return what claims of slots need, None if this process does not lead. Local."""
        candidacy, term = self._candidacy, self.term()
        led = candidacy.shared.state.term if candidacy else None
        if candidacy is None or term is None or led is None or led.token != term.token:
            return None
        return Access(self._connect(), self.config, candidacy.shared, term, led.began)

    def _run_candidacy(self, candidacy: Candidacy) -> None:
        with suppress(Exception):
            self._prepare()  # again, because it may have been too early
        candidacy.run()

    def import_client(self) -> None:
        """For this package: import what connects to Redis, for a later ``start()`` in another thread or a forked child.

        Local, connects to nothing. Raise ``ImproperlyConfigured`` and ``ConfigError`` like ``start()``.
        """
        self._connect()

    def handle_exit(self) -> None:
        """For this package: make this process hand over when it ends and, in the main thread, at SIGTERM. Local.

        ``start()`` does it, too, but may be called in another thread.
        """
        lifecycle.begin(sigterm=self.config.handle_sigterm)

    def _begin(self) -> Candidacy | None:
        if not (self.overridden or lifecycle.exiting):
            # Before the lock, because the application's functions make the client, and may log.
            self._connect()
            self._prepare()
        with lifecycle.starting:
            if self._pid != os.getpid():
                self.after_fork()  # a fork in C, which runs no hook
            last = self._candidacy
            if (last and not last.stopping) or self.overridden or lifecycle.exiting:
                return None
            self.handle_exit()
            new = Candidacy(self._connect(), self.config, self.label, self._listeners, self._publish, self.name)
            if last:
                last.continue_as(new)  # before another thread can feed it a Stop, which this would overwrite
            self._candidacy, self._grant = new, new.shared.grant
            self.asked = False
            if last:
                with (changed := last.shared.changed):  # threads that wait for leadership go on with the new candidacy
                    changed.notify_all()
            return new

    def stop(self, *, hold: float = 0.0, timeout: float | None = None) -> None:
        """End the candidacy: end the term, run the loss callbacks, release the lease and wake the next leader.

        Return when that is done: after two round trips and some 15 ms in which the next leader has the processor, or at
        the latest after ``timeout`` seconds (default: the lease and two operations). From a callback or receiver of
        this election, a body under ``@leader_required``, or a signal handler that interrupts ``run()`` or another
        ``stop()``, return at once; the end follows when these have returned.
        ``hold``: seconds for which no process leads after that; ``protocol/hold.py`` says by which clocks it ends.
        Idempotent, any thread; afterwards ``start()`` works again.
        """
        self.asked = False
        if candidacy := self._current():
            bound = self._timing.ttl + 2 * self._timing.operation if timeout is None else timeout
            self._stop(candidacy, hold, bound)
        # Also if the candidacy has ended before this call, since SIGTERM may have asked for that.
        lifecycle.sigterm.finish()

    def _stop(self, candidacy: Candidacy, hold: float, bound: float) -> None:
        if self._start and self._start.cancel():  # it still waited for a thread
            candidacy.close()
            return
        here, until = self.runs_here, clock.now() + bound
        candidacy.stop(hold, here=not here and bound >= self._timing.operation)
        if not here:
            candidacy.shared.wait_for_end(until)

    async def astop(self, *, hold: float = 0.0, timeout: float | None = None) -> None:
        """Like ``stop()``, for an event loop. In a callback or receiver of this election it returns at once, too."""
        stop = partial(self.stop, hold=hold, timeout=timeout)
        if self.runs_here:
            stop()
        else:
            await in_thread(stop)

    def ask_to_stop(self) -> None:
        """For this package: like ``stop()``, but wait for nothing and take no lock, in signal handlers. Local."""
        if candidacy := self._current():
            self.asked = True
            candidacy.ask_to_stop()
            if self._start and self._start.cancel():  # it still waited for a thread, so no thread holds a lock of it
                candidacy.close()

    def resume(self) -> None:
        """For this package: become a candidate again if ``ask_to_stop()`` was the last request. Local.

        Raise like ``start()``.
        """
        if self.asked:
            log(logging.INFO, "%s: this process has survived SIGTERM, and is a candidate again", self.label)
            self.start()

    def explain_wait(self, seconds: float) -> None:
        """For this package: log if this process, before it ends, waits ``seconds`` for loss callbacks. Local."""
        if candidacy := self._current():
            candidacy.shared.explain_wait(seconds)

    @property
    def runs_here(self) -> bool:
        """For this package: whether the election ends only when the calling thread goes on. Local.

        That is a thread in ``run()``, in a callback or receiver, or in a guarded body.
        """
        in_body = threading.get_ident() in self._bodies
        return in_body or (self._candidacy is not None and self._candidacy.runs_here())

    def attach(self, lost: Lost) -> Callable[[], None]:
        """For this package: make the loss callbacks and the release wait until ``lost(token, reason)`` has returned.

        For what the calling thread does until it calls the function that is returned. Local.
        """
        bodies, on_loss, thread = self._bodies, self._listeners.on_loss, threading.get_ident()
        bodies.append(thread)
        on_loss.insert(0, lost)

        def detach() -> None:
            on_loss.remove(lost)
            bodies.remove(thread)

        return detach

    def resign(self) -> bool:
        """Give up leadership and let another process lead. Return False if this one does not lead. Local; any thread.

        Return before the loss callbacks have run; ``is_leader()`` is False by then. The election thread gives the lease
        back when they have returned. Before them, a body under ``@leader_required`` is interrupted, and must have ended
        (``on_loss="continue"``: it goes on). This process does not campaign before that, nor in the first
        ``config.timing.retry`` seconds (2 by default). If no other process leads by then, it may lead again. While a
        test says who leads, do nothing and return False.
        """
        token = self.fencing_token
        if self._candidacy is None or token is None or self.overridden:
            return False
        self._candidacy.feed(Resign(token, "resigned"))
        return True

    def after_fork(self) -> None:
        """For this package: be no leader in a child, and use nothing of the parent's candidacy. Local."""
        if self._candidacy:
            self._candidacy.abandon()
        self.runs.forget()
        self._forget()
