"""The interruption of a thread by ``LeadershipLost``: in the guarded bodies that it runs, and never in our own code.

NOT guaranteed here: that a body ends, or when. Code in C that does not come back to Python gets the exception late.
Code that swallows ``BaseException``, or has replaced our SIGINT handler by its own, is not ended at all. Where threads
are greenlets, a body is interrupted only when it comes back from our code: the system knows no thread to interrupt.

- Bodies may be nested. Each has a ``Scope``. A body that is *due* must end, and with it the bodies inside it. So the
  exception is raised in the innermost body, and raised again in the next one, until it has been raised in the body that
  is due. If an inner body, or the code around it, swallows the exception, the outer body is interrupted all the same.
- Our own code runs behind a shield (``shielded``). If a body becomes due meanwhile, the exception is raised when the
  thread leaves the shield.
- The main thread is interrupted by SIGINT, which ends even a blocking system call. The handler checks whether there is
  a shield. A signal that arrives just before such a call does not end it (see ``wakeup``). So the interrupting thread
  calls ``repeat`` until the body has ended, which sends the signal again if its handler has not run.
- In another thread Python raises the exception when that thread runs again. The exception is sent under a lock, and
  only while there is no shield. When a shield goes up, the thread waits for an exception that was sent just before.
- A thread is *leaving* if its application has raised an exception of its own in its SIGTERM handler. Its bodies end by
  that exception, and a second one would break off the cleanup. So they are interrupted only if that is urgent.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from django_leader.exceptions import LeadershipLost

from . import clock
from .threads import greenlets

Result = TypeVar("Result")

NOWHERE = 1_000_000
"""Deeper than any body."""
BELATED = 1.0
"""Seconds after a repetition of our SIGINT in which another SIGINT counts as ours, while the body has not ended: longer
than the main thread needs to run the handler for both. A Ctrl-C in that time has no effect of its own."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
"""Seconds until our SIGINT is sent again, and again: they double up to the second number. Code in C may get it, too."""


class Scope:
    """One guarded body. ``left`` returns the seconds after which it will be due."""

    def __init__(self, left: Callable[[], float]) -> None:
        self.left = left
        # Under the lock of its thread's ``Interruptions``:
        self.due = self.urgent = False
        self.raised_at = NOWHERE
        """The number of bodies around, and including, the one in which the exception was last raised."""


class Interruptions:
    """The interruptions of one thread. Any other thread calls ``interrupt``, the thread itself calls the rest."""

    def __init__(self) -> None:
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._lock: Any = threading.RLock()  # reentrant: a signal handler may interrupt its holder
        self.leaving = False
        # Written by the thread itself, under the lock where ``interrupt`` reads it:
        self._scopes: list[Scope] = []
        self._shields = 0
        self._handlers: list[Any] = []
        """Our handlers of SIGINT, the last installed last. Without any, an exception is sent."""
        self._sent = False
        """Whether a signal or an exception has been sent that may not have arrived."""
        self._repeat_at, self._pause = 0.0, 0.0
        """When to send that signal again, and how long to wait after that."""
        self._repeated_at = -BELATED
        """When it was last sent again, so that its handler may run twice."""

    def interrupt(self, scope: Scope, *, urgent: bool) -> None:
        """Make the body of ``scope`` end, if it has not ended yet. Local, from any other thread."""
        with self._lock:
            if scope not in self._scopes or (scope.due and (scope.urgent or not urgent)):
                return
            scope.due, scope.urgent = True, urgent
            if self._handlers:
                # Send one at a time, because its handler handles all that is due. A SIGINT without this flag is Ctrl-C.
                if not self._sent:
                    self._sent, self._pause = True, FIRST_PAUSE
                    self._repeat_at = clock.now() + self._pause
                    signal.pthread_kill(self._thread, signal.SIGINT)
            elif not (self._shields or greenlets()) and self._take():
                self._sent = True
                _raise_in(self._thread)

    def repeat(self) -> None:
        """Send the signal again if its handler has not run for a while. Local, from any other thread.

        Call it again and again until the body has ended. Do nothing in a thread that no signal interrupts.
        """
        with self._lock:
            # The scope goes under this lock before the handler does, so nothing is sent that another handler would get.
            sent = self._sent and self._scopes and self._handlers and clock.now() >= self._repeat_at
            if sent and signal.getsignal(signal.SIGINT) is self._handlers[-1]:
                self._repeated_at, self._pause = clock.now(), min(2 * self._pause, LONGEST_PAUSE)
                self._repeat_at = self._repeated_at + self._pause
                signal.pthread_kill(self._thread, signal.SIGINT)

    def run(self, body: Callable[[], Result], scope: Scope | None = None) -> Result:
        """Return what ``body`` returns. Call it behind a shield, which is down only while the body runs.

        Without a ``scope`` the body is interrupted only with those around it. Raise what the body raises, and
        ``LeadershipLost``.
        """
        shields, handler = self._shields, self._install() if scope else None
        with self._locked():
            self._sent = self._sent and bool(self._scopes)
            self.leaving = self.leaving and bool(self._scopes)
            if scope:
                self._scopes.append(scope)
        try:
            self._shields = 0
            self.check()
            return body()
        except LeadershipLost:
            with self._locked():
                self._sent = False
            raise
        finally:
            while True:
                try:
                    self._shields = shields  # first, because nothing is sent from here on
                    self._settle(scope)
                    break
                except LeadershipLost:  # it was on its way when the body ended by itself
                    continue
            self._restore(handler)

    def _settle(self, scope: Scope | None) -> None:
        with self._locked():  # a thread that was about to send has sent
            sent, self._sent = self._sent, self._sent and bool(self._handlers)
            if scope in self._scopes:
                self._scopes.remove(scope)
            if not any(other.due for other in self._scopes):
                self._repeated_at = -BELATED
            self.leaving = self.leaving and bool(self._scopes)
        if sent and not self._handlers:
            _let_it_come()

    def shield(self) -> None:
        """Begin our own code. Raise ``LeadershipLost`` if it was on its way."""
        before = self._shields
        try:
            with self._locked():
                self._shields = before + 1
                sent = self._sent and not self._handlers
                self._sent = self._sent and not sent
            if sent:
                _let_it_come()
        except LeadershipLost:
            self._shields = before
            raise

    def unshield(self, ends_by: type[BaseException] | None) -> None:
        """End our own code, by an exception of that type or by none. Raise ``LeadershipLost`` if it has waited."""
        with self._locked():
            self._shields -= 1
            if ends_by is LeadershipLost:
                self._take()  # this exception counts as the one that is due
        # ``SystemExit`` or Ctrl-C ends the bodies around us as well.
        if not self._shields and (ends_by is None or issubclass(ends_by, Exception)):
            self.check()

    def check(self) -> None:
        """Raise ``LeadershipLost`` if a body of this thread is due. Local."""
        with self._locked():
            taken = self._take()
        if taken:
            raise LeadershipLost

    @property
    def due(self) -> list[Scope]:
        """The bodies that are due, of which the innermost, or one around it, has not got the exception yet.

        While the thread leaves a body by a handler of its own, only the urgent ones.
        """
        level = len(self._scopes)
        return [s for s in self._scopes if s.due and s.raised_at > level and (s.urgent or not self.leaving)]

    def left(self) -> float | None:
        """Return the seconds after which a body of this thread will be due, or None if none will be."""
        level = len(self._scopes)
        return min((scope.left() for scope in self._scopes if scope.raised_at > level), default=None)

    def _take(self) -> bool:
        """Return whether to raise the exception now. It then counts as raised in the innermost body."""
        due = self.due
        for scope in due:
            scope.raised_at = len(self._scopes)
        return bool(due)

    def _locked(self) -> Any:
        # In the child of a fork, a thread that does not exist there may hold the lock.
        return self._lock if self._pid == os.getpid() else nullcontext()

    def _install(self) -> Any:
        """Install our SIGINT handler, in the main thread. Return it, or None if there is nothing to restore."""
        if not in_main_thread():
            import ctypes  # noqa: F401 - takes some milliseconds, which the interruption does not have

            return None
        previous = signal.getsignal(signal.SIGINT)
        if previous is None or previous in self._handlers or greenlets():  # None: one in C
            return None
        handler = partial(self._on_signal, previous)
        with suppress(ValueError):  # a sub-interpreter, as mod_wsgi makes them, handles no signal
            signal.signal(signal.SIGINT, handler)
            self._handlers.append(handler)
            return handler
        return None

    def _restore(self, handler: Any) -> None:
        if handler is not None:
            # This call runs our handler first, if the signal is under way.
            current: Any = signal.getsignal(signal.SIGINT)
            if current is handler:  # if not, the body has left one of its own there
                signal.signal(signal.SIGINT, handler.args[0])
            self._handlers.remove(handler)

    def _on_signal(self, previous: Any, number: int, frame: FrameType | None) -> Any:
        with self._locked():
            ours = (self._sent or clock.now() < self._repeated_at + BELATED) and self._pid == os.getpid()
            self._sent = False
        if ours:
            if not self._shields:
                self.check()
            return None
        if previous == signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return previous(number, frame) if callable(previous) else None


def in_main_thread() -> bool:
    """Return whether the caller runs in the main thread, so that it may handle signals. Local."""
    current, main = threading.current_thread(), threading.main_thread()
    # eventlet keeps a second module of threads, with another object for the main thread.
    is_copy = type(current).__name__ == type(main).__name__ and threading.get_native_id() == os.getpid()
    return current is main or is_copy


def _raise_in(thread: int) -> None:
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(LeadershipLost))


def _let_it_come() -> None:
    # Do not take it back with a null pointer: Python 3.11 would look for it for ever. Let it be raised instead.
    for _ in range(10):
        time.sleep(0)


_local = threading.local()


def here() -> Interruptions:
    """Return the interruptions of the calling thread. Local."""
    known: Interruptions | None = getattr(_local, "interruptions", None)
    if known is None or known._pid != os.getpid():
        known = _local.interruptions = Interruptions()
    return known


class shielded:  # noqa: N801 - a context manager, but no generator: an exception could hit what drives one
    """A block of our own code: no interruption of ours is raised in it. One that waits is raised after it."""

    def __enter__(self) -> Interruptions:
        self._here = here()
        self._here.shield()
        return self._here

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._here.unshield(kind)
