"""The announcement of the gain of a term, of its loss, and of a change of leader, each in a thread of its own.

NOT guaranteed here: that the application's work has stopped when the term is over. Work that must not outlive its
lease asks ``is_leader()``, or hands its fencing token to a system that can refuse it.

A term has a *watcher*, which does no I/O, and a thread for each gain callback:

- The loss is announced within milliseconds of the deadline, even while the election thread hangs in a connect.
  The watcher checks the deadline at least twice a second, because a suspend stretches the wait of a thread but not the
  lease.
- A gain callback may run for hours. It delays neither a heartbeat nor another callback nor the loss callbacks. Only the
  loss function of its own pair (``listen``) waits for it, behind all loss callbacks, and so does the next campaign.
- A follower starts the watcher and the first gain thread while it has time, and they wait for their term. So a
  hand-over does not have to start them, and they exist at interpreter exit, when no thread can be started.
- When its term has ended, the watcher has nothing more to watch, and runs the loss callbacks itself, in order.
- In a child of a fork, where the thread that forked goes on, or all greenlets, nothing is announced and no callback is
  called.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from django_leader.system import clock
from django_leader.system.log import Logged, log
from django_leader.system.starts import Start, insist, starts
from django_leader.system.threads import OwnThread

from .listeners import Callback, Listeners, TermCalls
from .work import Gain, locked

LONGEST_UNCHECKED = 0.5
"""Seconds between two checks of the deadline."""
HEAD_START = 0.0002
"""Seconds for which ``begin`` sleeps so that the gain callback can begin. Without that sleep the callback waits for the
GIL, because a thread that holds the GIL releases it only when it waits, or after 5 ms. On two processors a hand-over
was measured to take a seventh longer without it."""


class TermDelivery:
    """The gain and the loss of one term: strictly paired, each callback once.

    ``deadline`` returns the instant up to which a term lasts. After that instant ``expired`` is called until ``end``
    has been called. ``gain_failed`` is called when a gain callback has raised, ``delivered`` when the loss callbacks
    have returned. All except ``expired`` take the token of the term. None of them is called, and no callback is run, in
    another process than the one that made this object. ``expired``, ``gain_failed`` and ``delivered`` are called again
    until they return, so calling them twice must do no harm.
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
        """The token of the term, once it has begun."""
        self._reason: str | None = None
        self._cancelled = False
        self._pid = os.getpid()
        self.checked_at = clock.now()
        """When the watcher last checked the deadline: at least twice a second while the term lasts."""
        self._calls: TermCalls | None = None
        self._first_gain_may_run = locked()  # released when the first gain thread is to run
        self._watcher = OwnThread(self._watch, f"{name} term")
        self._first_gain = OwnThread(self._run_first_gain, f"{name} gain")

    def start_threads(self) -> None:
        """Start the threads, which wait. Raise ``RuntimeError`` or ``MemoryError`` when none can be started."""
        try:
            self._watcher.start()
            self._first_gain.start()
        except BaseException:
            self.cancel()
            raise

    def begin(self, token: int) -> None:
        """Begin the term: watch it from now on, and run the gain callbacks. Local, takes ``HEAD_START``.

        Raise ``RuntimeError`` if some callbacks get no thread. The term is watched all the same.
        """
        if not self._ours():
            return
        self._calls = calls = TermCalls(self._listeners, token, self._name)
        self.token, self.checked_at, started = token, clock.now(), 1
        try:
            self._first_gain_may_run.release()
            try:
                time.sleep(HEAD_START)
            finally:
                with self._changed:
                    self._changed.notify_all()
            for gain in calls.gains[1:]:
                if not self._ours():
                    return
                OwnThread(partial(self._run_gain, gain), f"{self._name} gain").start()
                started += 1
        except (RuntimeError, MemoryError) as error:
            raise RuntimeError(f"no thread could be started for a gain callback: {error}") from error
        finally:
            for skipped in calls.gains[started:]:  # otherwise the watcher would wait for them for ever
                skipped.skip()

    def end(self, reason: str) -> bool:
        """End the term, so that the loss callbacks run. Return whether there are none to wait for. Local."""
        nothing = not self._listeners.tells_loss
        with self._changed:
            self._reason = self._reason or reason
            if not nothing:  # otherwise the watcher's next check is soon enough
                self._changed.notify_all()
        return nothing

    def cancel(self) -> None:
        """Let the threads end, because there will be no term. Local."""
        with self._changed:
            if self.token is None and not self._cancelled:
                self._first_gain_may_run.release()
            self._cancelled = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """In a forked child: announce nothing. Take no lock, because a thread that does not exist here may hold it."""
        self._cancelled = True

    def _ours(self) -> bool:
        # Checked wherever other greenlets, or a callback, may have run, because one of these may have forked.
        return self._pid == os.getpid()

    def _watch(self) -> None:
        insist(self._wait_for_end, f"{self._name}: the watcher of a term")
        if self._calls is None or self._reason is None or not self._ours():
            return
        for gain in self._calls.gains:
            gain.begun.acquire()
        for callback in self._calls.losses(self._reason):
            if self._ours():
                call_logged(callback, f"{self._name}: a loss callback")
        insist(partial(self._unless_forked, self._delivered), f"{self._name}: the end of a term")

    def _wait_for_end(self) -> None:
        """Wait until the term has begun and ended, was cancelled, or is that of another process."""
        with self._changed:
            self._changed.wait_for(lambda: self.token is not None or self._cancelled)
        while self.token is not None and not self._cancelled and self._ours():
            self.checked_at = clock.now()
            with self._changed:
                left = self._deadline(self.token) - self.checked_at
                if self._reason is None and left > 0:
                    self._changed.wait(min(left, LONGEST_UNCHECKED))
                if self._reason is not None:
                    return
            # In a child the deadline reads as 0, although the term is not over.
            if self._ours() and self._deadline(self.token) <= clock.now():
                self._expired()
                with self._changed:
                    if self._reason is None:  # something failed: not in a tight loop
                        self._changed.wait(LONGEST_UNCHECKED)

    def _run_first_gain(self) -> None:
        self._first_gain_may_run.acquire()
        if self._calls and self._calls.gains:
            self._run_gain(self._calls.gains[0])

    def _run_gain(self, gain: Gain) -> None:
        if self._ours() and not call_logged(gain, f"{self._name}: {gain.what}"):
            insist(partial(self._unless_forked, self._gain_failed), f"{self._name}: the end of a term")

    def _unless_forked(self, tell: Callable[[int], Any]) -> None:
        if self.token is not None and self._ours():
            tell(self.token)


def call_logged(callback: Callback, what: str) -> bool:
    """Call ``callback``, and log what it raises, except ``Logged``. Return whether it returned."""
    try:
        callback()
    except Logged:
        return False
    except BaseException as error:
        log(logging.ERROR, "%s raised an exception", what, exc_info=error)
        return False
    return True


class SerialExecutor:
    """An executor that runs callbacks in order, in a thread that lives only as long as there is one to run.

    In another process than the one that made it, it runs nothing.
    """

    def __init__(self, name: str) -> None:
        self._name, self._pid = name, os.getpid()
        self._lock = threading.Lock()
        self._waiting: deque[Callback] = deque()
        self._busy = False

    def put(self, callbacks: Sequence[Callback]) -> None:
        """Queue ``callbacks`` behind those given before. The next ``go`` runs them. Local, logs nothing."""
        with self._lock:
            self._waiting.extend(callbacks)

    def go(self) -> None:
        """Run the queued callbacks. Local, but may log: hold no lock.

        If no thread can be started, they run when one can. At interpreter exit none can, so they do not run at all.
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
            call_logged(callback, f"{self._name}: a callback")
