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

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction
from typing import Any

from . import clock
from .log import log

LONGEST_LOOK = 0.5
"""Seconds between two looks at the deadline."""
HEAD_START = 0.0002
"""Seconds in which the gain callback begins, and which we would otherwise take from it: whoever has the GIL lets go of
it only when it waits, or after 5 ms."""

Callback = Callable[[], Any]


class Listeners:
    """What the application wants to be told: functions of the token, of token and reason, of the two leaders.

    ``after_callback`` is called behind each of them, in the same thread; not in a child that the callback has forked,
    because it may close what the child shares with its parent, such as a connection to a database.
    """

    def __init__(self, after_callback: Callback) -> None:
        self._after_callback = after_callback
        self.on_gain: list[Callable[[int], Any]] = []
        self.on_loss: list[Callable[[int, str], Any]] = []
        self.on_loss_last: list[Callable[[int, str], Any]] = []
        self.on_change: list[Callable[[str, str], Any]] = []

    def gained(self, token: int) -> list[Callback]:
        """What to run when the term ``token`` begins."""
        return [self._call(function, token) for function in self.on_gain]

    def lost(self, token: int, reason: str) -> list[Callback]:
        """What to run when it has ended. Integrations come last: theirs may wait for what their gain started."""
        return [self._call(function, token, reason) for function in (*self.on_loss, *self.on_loss_last)]

    def changed(self, previous: str, current: str) -> list[Callback]:
        """What to run when another process leads."""
        return [self._call(function, previous, current) for function in self.on_change]

    def _call(self, function: Callable[..., Any], *args: Any) -> Callback:
        def call() -> None:
            pid = os.getpid()
            try:
                function(*args)
            finally:
                if pid == os.getpid():
                    self._after_callback()

        return call


def plain(callback: Callback) -> Callback:
    """``callback``, or if it gives a coroutine, one that runs that in an event loop of its own."""
    if iscoroutinefunction(callback) or iscoroutinefunction(getattr(callback, "__call__", None)):  # noqa: B004
        return lambda: asyncio.run(callback())
    return callback


class TermDelivery:
    """The gain and the loss of one term: strictly paired, each callback once.

    ``deadline`` gives the instant up to which a term lasts; after it ``expired`` is called until ``end`` was.
    ``gain_failed`` is called when a gain callback raised, ``delivered`` when the loss callbacks have returned. All but
    ``expired`` take the token of the term. None of these is called, and no callback run, in another process than the
    one that made this.
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
        self._token: int | None = None
        self._reason: str | None = None
        self._cancelled = False
        self._pid = os.getpid()
        self.looked_at = clock.now()
        """When the watcher last looked at the deadline, at least twice a second while the term lasts."""
        self._gain: list[tuple[Callback, threading.Lock]] = []
        self._gun = _locked()  # for the first gain thread
        self._watcher = threading.Thread(target=self._watch, name=f"{name} term", daemon=True)
        self._first_gain = threading.Thread(target=self._run_first_gain, name=f"{name} gain", daemon=True)

    def prepare(self) -> None:
        """Starts the threads, which wait. Raises ``RuntimeError`` when none can be started."""
        self._watcher.start()
        try:
            self._first_gain.start()
        except RuntimeError:
            self.cancel()
            raise

    def begin(self, token: int) -> None:
        """The term has begun: it is watched from now on, and the gain callbacks run. Local, takes ``HEAD_START``."""
        if not self._ours():
            return
        self._gain = [(callback, _locked()) for callback in self._listeners.gained(token)]
        self._token, self.looked_at = token, clock.now()
        self._gun.release()
        try:
            time.sleep(HEAD_START)
        finally:
            with self._changed:
                self._changed.notify_all()
        for gain in self._gain[1:]:
            if not self._ours():
                return
            try:
                threading.Thread(target=self._run_gain, args=gain, name=f"{self._name} gain", daemon=True).start()
            except RuntimeError:
                log(logging.ERROR, "%s: no thread could be started for a gain callback", self._name)
                gain[1].release()
                self._gain_failed(token)

    def end(self, reason: str) -> bool:
        """The term is over: the loss callbacks may run. Gives whether there are none to wait for. Local."""
        nothing = not (self._listeners.on_loss or self._listeners.on_loss_last)
        with self._changed:
            self._reason = self._reason or reason
            if not nothing:  # if there is, the watcher's next look is soon enough
                self._changed.notify_all()
        return nothing

    def cancel(self) -> None:
        """There will be no term. Local."""
        with self._changed:
            if self._token is None and not self._cancelled:
                self._gun.release()
            self._cancelled = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """In a forked child: nobody is told anything. Takes no lock, since a thread that is not there may hold it."""
        self._cancelled = True

    def runs_here(self) -> bool:
        """Whether the caller is a loss callback of this term."""
        return threading.current_thread() is self._watcher

    def _ours(self) -> bool:
        # Asked wherever other greenlets may have run, or a callback: one of these may have forked.
        return self._pid == os.getpid()

    def _watch(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._token is not None or self._cancelled)
        if self._token is None:
            return
        while not self._cancelled:
            self.looked_at = clock.now()
            with self._changed:
                left = self._deadline(self._token) - self.looked_at
                if self._reason is None and left > 0:
                    self._changed.wait(min(left, LONGEST_LOOK))
                if self._reason is not None:
                    break
            if not self._ours():  # whose deadline is void, but not over
                return
            if self._deadline(self._token) <= clock.now():
                run(self._expired, f"{self._name}: the end of the term")
        if self._reason is None:
            return
        for _, begun in self._gain:
            begun.acquire()
        for callback in self._listeners.lost(self._token, self._reason):
            if self._ours():
                run(callback, f"{self._name}: a loss callback")
        if self._ours():
            self._delivered(self._token)

    def _run_first_gain(self) -> None:
        self._gun.acquire()
        if self._gain:
            self._run_gain(*self._gain[0])

    def _run_gain(self, callback: Callback, begun: threading.Lock) -> None:
        if not self._ours():
            return
        begun.release()
        if not run(callback, f"{self._name}: a gain callback") and self._token is not None and self._ours():
            self._gain_failed(self._token)


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
        log(logging.ERROR, "%s raised", what, exc_info=error)
        return False
    return True


class News:
    """Runs what is given to it in order, in a thread that lives only as long as there is something to run.

    In another process than the one that made this, it runs nothing.
    """

    def __init__(self, name: str) -> None:
        self._name, self._pid = name, os.getpid()
        self._lock = threading.Lock()
        self._waiting: deque[Callback] = deque()
        self._busy = False

    def put(self, callbacks: Sequence[Callback]) -> None:
        """Runs ``callbacks`` after those given before. At interpreter exit no thread starts, so not at all. Local."""
        with self._lock:
            self._waiting.extend(callbacks)
            if self._busy or not self._waiting or self._pid != os.getpid():
                return
            self._busy = True
        try:
            threading.Thread(target=self._work, name=f"{self._name} news", daemon=True).start()
        except RuntimeError:
            self._busy = False

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._pid != os.getpid():
                    self._busy = False
                    return
                callback = self._waiting.popleft()
            run(callback, f"{self._name}: a callback")
