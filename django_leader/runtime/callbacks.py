"""Tells the application: the gain of a term, its loss, and a change of leader, each in a thread of its own.

NOT guaranteed here: that the application's work has stopped when the term is over. Work that must not outlive its
lease asks ``is_leader()``, or hands its fencing token to whoever can refuse it.

A term has a *watcher*, which does no I/O, and a thread for each gain callback:

- The loss is announced within milliseconds of the deadline, even while the election thread hangs in a connect.
  The watcher looks at least twice a second, since a suspend stretches what a thread waits but not the lease.
- A gain callback may run for hours. It delays neither a heartbeat nor another callback nor the loss callbacks.
- The watcher and the first gain thread are started while a follower has time, and then wait for their term: a
  hand-over does not have to start them, and at interpreter exit, when no thread can be started, they are there.
- When its term has ended, the watcher has nothing more to watch, and runs the loss callbacks itself, in order.
- In a child of a fork, where the thread that forked goes on, or all greenlets, nothing is told and nothing called.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from django_leader.system import clock
from django_leader.system.log import log
from django_leader.system.starts import Start, insist, starts
from django_leader.system.threads import OwnThread

from .listeners import Callback, Listeners
from .work import Gain

LONGEST_LOOK = 0.5
"""Seconds between two looks at the deadline."""
HEAD_START = 0.0002
"""Seconds in which the gain callback begins, and which we would otherwise take from it: whoever has the GIL lets go of
it only when it waits, or after 5 ms."""


class TermDelivery:
    """The gain and the loss of one term: strictly paired, each callback once.

    ``deadline`` gives the instant up to which a term lasts; after it ``expired`` is called until ``end`` was.
    ``gain_failed`` is called when a gain callback raised, ``delivered`` when the loss callbacks have returned. All but
    ``expired`` take the token of the term. None of these is called, and no callback run, in another process than the
    one that made this. The last three are called again until they return, so calling them twice must do no harm.
    """

    def __init__(
        self,
        name: str,
        listeners: Listeners,
        *,
        deadline: Callable[[int], float],
        expired: Callback,
        gain_failed: Callable[[int], Any],
        delivered: Callable[[int], Any],
    ) -> None:
        self._name, self._listeners = name, listeners
        self._deadline, self._expired = deadline, expired
        self._gain_failed, self._delivered = gain_failed, delivered
        self._changed = threading.Condition()
        self.token: int | None = None
        """Of the term, when it has begun."""
        self._reason: str | None = None
        self._cancelled = False
        self._pid = os.getpid()
        self.looked_at = clock.now()
        """When the watcher last looked at the deadline, at least twice a second while the term lasts."""
        self._gain: list[tuple[Gain, threading.Lock]] = []
        self._gun = _locked()  # for the first gain thread
        self._watcher = OwnThread(self._watch, f"{name} term")
        self._first_gain = OwnThread(self._run_first_gain, f"{name} gain")

    def prepare(self) -> None:
        """Starts the threads, which wait. Raises ``RuntimeError`` or ``MemoryError`` when none can be started."""
        try:
            self._watcher.start()
            self._first_gain.start()
        except BaseException:
            self.cancel()
            raise

    def begin(self, token: int) -> None:
        """The term has begun: it is watched from now on, and the gain callbacks run. Local, takes ``HEAD_START``.

        Raise ``RuntimeError`` where some of them get no thread; the term is watched all the same.
        """
        if not self._ours():
            return
        self._gain = [(gain, _locked()) for gain in self._listeners.gained(token)]
        self.token, self.looked_at, started = token, clock.now(), 1
        try:
            self._gun.release()
            try:
                time.sleep(HEAD_START)
            finally:
                with self._changed:
                    self._changed.notify_all()
            for gain in self._gain[1:]:
                if not self._ours():
                    return
                OwnThread(partial(self._run_gain, *gain), f"{self._name} gain").start()
                started += 1
        except (RuntimeError, MemoryError) as error:
            raise RuntimeError(f"no thread could be started for a gain callback: {error}") from error
        finally:
            for skipped, begun in self._gain[started:]:  # or the watcher would wait for them for ever
                skipped.skip()
                with suppress(RuntimeError):
                    begun.release()

    def end(self, reason: str) -> bool:
        """The term is over: the loss callbacks may run. Gives whether there are none to wait for. Local."""
        nothing = not self._listeners.tells_loss
        with self._changed:
            self._reason = self._reason or reason
            if not nothing:  # if there is, the watcher's next look is soon enough
                self._changed.notify_all()
        return nothing

    def cancel(self) -> None:
        """There will be no term. Local."""
        with self._changed:
            if self.token is None and not self._cancelled:
                self._gun.release()
            self._cancelled = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """In a forked child: nobody is told anything. Takes no lock, since a thread that is not there may hold it."""
        self._cancelled = True

    def _ours(self) -> bool:
        # Asked wherever other greenlets may have run, or a callback: one of these may have forked.
        return self._pid == os.getpid()

    def _watch(self) -> None:
        insist(self._wait_for_end, f"{self._name}: the watcher of a term")
        if self.token is None or self._reason is None or not self._ours():
            return
        for _, begun in self._gain:
            begun.acquire()
        for callback in self._listeners.lost(self.token, self._reason):
            if self._ours():
                run(callback, f"{self._name}: a loss callback")
        insist(partial(self._unless_forked, self._delivered), f"{self._name}: the end of a term")

    def _wait_for_end(self) -> None:
        """Wait for the term to begin, and to end, or for there being none here any more."""
        with self._changed:
            self._changed.wait_for(lambda: self.token is not None or self._cancelled)
        while self.token is not None and not self._cancelled and self._ours():
            self.looked_at = clock.now()
            with self._changed:
                left = self._deadline(self.token) - self.looked_at
                if self._reason is None and left > 0:
                    self._changed.wait(min(left, LONGEST_LOOK))
                if self._reason is not None:
                    return
            if self._ours() and self._deadline(self.token) <= clock.now():  # in a child it is void, but not over
                self._expired()
                with self._changed:
                    if self._reason is None:  # something failed: not in a tight loop
                        self._changed.wait(LONGEST_LOOK)

    def _run_first_gain(self) -> None:
        self._gun.acquire()
        if self._gain:
            self._run_gain(*self._gain[0])

    def _run_gain(self, gain: Gain, begun: threading.Lock) -> None:
        if not self._ours():
            return
        with suppress(RuntimeError):  # ``begin`` was interrupted, and did not know that this thread runs
            begun.release()
        if not run(gain, f"{self._name}: {gain.what}"):
            gain.skip()  # its coroutine may never have begun, and the watcher would wait for its end for ever
            insist(partial(self._unless_forked, self._gain_failed), f"{self._name}: the end of a term")

    def _unless_forked(self, tell: Callable[[int], Any]) -> None:
        if self.token is not None and self._ours():
            tell(self.token)


def _locked() -> threading.Lock:
    """A lock that is held, for another thread to release once. An ``Event`` takes longer to make and to set."""
    lock = threading.Lock()
    lock.acquire()
    return lock


def run(callback: Callback, what: str) -> bool:
    """Runs ``callback``; whatever it raises is logged. Gives whether it returned."""
    try:
        callback()
    except BaseException as error:
        log(logging.ERROR, "%s raised an exception", what, exc_info=error)
        return False
    return True


class SerialExecutor:
    """Runs what is given to it in order, in a thread that lives only as long as there is something to run.

    In another process than the one that made this, it runs nothing.
    """

    def __init__(self, name: str) -> None:
        self._name, self._pid = name, os.getpid()
        self._lock = threading.Lock()
        self._waiting: deque[Callback] = deque()
        self._busy = False

    def put(self, callbacks: Sequence[Callback]) -> None:
        """Have ``callbacks`` run after those given before, from the next ``go`` on. Local, logs nothing."""
        with self._lock:
            self._waiting.extend(callbacks)

    def go(self) -> None:
        """Run what was given. Local, but may log: hold no lock.

        If no thread can be started, it runs when one can. At interpreter exit none starts, so it does not run at all.
        """
        with self._lock:
            if self._busy or not self._waiting or self._pid != os.getpid():
                return
            self._busy = True
        name = f"{self._name} news"
        starts.start(Start(partial(insist, self._work, name), name))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._pid != os.getpid():
                    self._busy = False
                    return
                callback = self._waiting.popleft()
            run(callback, f"{self._name}: a callback")
