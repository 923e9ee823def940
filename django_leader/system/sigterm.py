"""SIGTERM: the elections hand over first; then the process does what it would have done without this package.

NOT guaranteed here: anything while no thread can run Python code. A process that hangs in C and keeps the GIL ends by
SIGKILL, where SIGTERM alone would have ended it before. ``HANDLE_SIGTERM = False`` turns the handling off.

- This module never replaces a handler in C, and never handles a signal that is ignored.
- The handler takes no lock, and calls the previous handler at once, because the very code that the signal has
  interrupted may hold what it would wait for, such as the lock of a log. No interruption of ours is raised in either.
- If there was no previous handler, the process ends by the signal, as it would have, when the elections have handed
  over or after ``PATIENCE`` seconds. Until then the main thread waits, unless it is the thread that hands over, or runs
  a guarded body, which ends first, or cannot wait, because gevent and eventlet run the handler in their hub.
- If the hand-over takes longer than ``SLOW``, another thread says so in the log. Nothing waits for that thread, because
  the code that the signal has interrupted may hold the lock of the log.
- If the main thread waits in a system call and has missed the signal, the signal is sent again (``wakeup``). If the
  main thread hangs in C for so long that this does not help, and there was no previous handler, another thread does all
  this instead.
- The kernel does not end process 1 of a container by a signal without a handler. If nothing else ends that process, it
  becomes a candidate again after ``STAYS`` seconds.
- A process with a handler of its own may end when it has served what is under way, or go on, as where SIGTERM means to
  reload. If it still runs after ``DRAINS`` seconds, it becomes a candidate again. It does not where threads are
  greenlets, because gevent's hub would wait for a sleeping greenlet before the process ends.
- A forked child gets the previous handler back. SIGTERM is blocked until then, because Python forgets a signal that
  arrives between the fork and the child's own first instruction. A parent that sends SIGTERM to a child at once would
  then wait for its end for ever.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

from django_leader.exceptions import LeadershipLost

from . import clock
from .interruption import Interruptions, in_main_thread, shielded
from .threads import greenlets
from .wakeup import Wakeup

PATIENCE = 1.0
"""Seconds for which a hand-over may delay the end. Supervisors wait for several times as long before they kill."""
SLOW = 0.5
"""Seconds of a hand-over after which the log says what it waits for."""
STAYS = 60.0
"""Seconds after which a process that has survived SIGTERM becomes a candidate again: longer than supervisors wait until
they kill (Docker: 10 seconds, Kubernetes: 30 seconds)."""
DRAINS = 600.0
"""The same where the application handles SIGTERM: longer than servers drain. Load balancers and supervisors that are
configured to wait give them 2 to 5 minutes. A server that drains for longer may be elected and hands over again at its
end, which costs a term. A process that reloads and is the only candidate has no leader until then."""
CHECK_INTERVAL = 0.002
"""Seconds between two checks whether the hand-over is done."""


class Sigterm:
    """The handling of SIGTERM in this process.

    ``ask`` makes the elections hand over, without a lock. ``busy`` returns whether one still does, and ``here`` whether
    one does so in the calling thread. ``resume`` makes those that were asked candidates again. ``slow`` logs what the
    hand-over waits for, and takes the seconds for which it goes on at most.
    """

    def __init__(
        self,
        ask: Callable[[], Any],
        busy: Callable[[], bool],
        here: Callable[[], bool],
        resume: Callable[[], Any] = lambda: None,
        slow: Callable[[float], Any] = lambda seconds: None,
    ) -> None:
        self._ask, self._busy, self._here, self._resume, self._slow = ask, busy, here, resume, slow
        self._handler: Any = None
        self._previous: Any = None
        self._pid = 0
        self._ending = False
        self._survivals = 0
        self._wakeup = Wakeup(signal.SIGTERM, self._stands, self._hangs)
        self._masks: dict[int, set[Any]] = {}
        """For each thread that forks, the signals that it had blocked."""

    def chain(self) -> None:
        """Install our handler in place of the previous one, once in a process. Local, only in the main thread.

        Do nothing in any other thread.
        """
        if not in_main_thread():
            return
        if self._pid == os.getpid():
            self._wakeup.start()
            return
        previous = signal.getsignal(signal.SIGTERM)
        if previous != signal.SIG_DFL and not callable(previous):
            return
        # Each handler has its own previous handler. An application's handler that calls the one of a parent may itself
        # be called from a child's.
        self._handler, self._previous, self._pid = partial(self._handle, previous), previous, os.getpid()
        self._ending = False  # it may be that of a parent that has forked in C meanwhile
        with suppress(ValueError):  # a sub-interpreter, as mod_wsgi makes them, handles no signal
            signal.signal(signal.SIGTERM, self._handler)
            self._wakeup.start()

    @property
    def chained(self) -> bool:
        """Whether ``chain`` has been called in this process, and has taken effect. Local."""
        return self._pid == os.getpid()

    def wait(self) -> None:
        """Wait for the hand-over, for a server that has made the elections hand over and then ends this process.

        If it does not end the process, as where only an event loop has ended, the elections start again after ``STAYS``
        seconds.
        """
        self._wait_until_over(os.getpid())
        self._survived(os.getpid(), STAYS)

    def before_fork(self) -> None:
        """Block SIGTERM, in the thread that forks."""
        if self._pid == os.getpid():
            self._masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def after_fork(self) -> None:
        """Restore that thread's signal mask, in the parent and in the child. In the child, also undo ``chain``."""
        if self._pid and self._pid != os.getpid():
            if signal.getsignal(signal.SIGTERM) is self._handler:
                signal.signal(signal.SIGTERM, self._previous)
            self._pid, self._ending = 0, False
            self._wakeup.forget()
        mask = self._masks.pop(threading.get_ident(), None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def finish(self) -> None:
        """Go on with the end of the process, which SIGTERM asked for, when this thread has handed an election over.

        Wait for the other elections, at most ``PATIENCE``, and end the process. Do nothing without such a SIGTERM.
        """
        if self._ending and self._pid == os.getpid() and in_main_thread() and not self._here():
            self._wait(self._pid)

    def _handle(self, previous: Any, number: int, frame: FrameType | None) -> Any:
        ours = self._pid == os.getpid()  # if not, this is the child of a fork in C, which runs no hook
        # Before anything is asked for, because a second signal may come meanwhile, and ends the process at once.
        again, self._ending = self._ending, self._ending or (ours and not callable(previous))
        with _Shielded() as thread:
            if ours:
                self._wakeup.handled()
                with suppress(Exception):  # no error of this package may keep the application's handler from running
                    self._ask()
            if callable(previous):
                try:
                    thread.leaving = True  # from the next instruction on, if the handler raises
                    result = previous(number, frame)
                    thread.leaving = False
                    return result
                finally:
                    if ours and not greenlets():
                        self._survived(self._pid, DRAINS)
            if not ours or again:
                return _end()
            if not self._waits_here():
                with suppress(RuntimeError):  # no thread can be started: end at once
                    _thread.start_new_thread(self._wait, (os.getpid(),))
                    return None
            self._wait(os.getpid())
            return None

    def _waits_here(self) -> bool:
        """Return whether the elections can hand over while this handler waits."""
        if self._here() or not in_main_thread():
            return False
        try:
            time.sleep(CHECK_INTERVAL)
        except RuntimeError:  # the hub of eventlet
            return False
        return True

    def _wait(self, pid: int) -> None:
        try:
            self._wait_until_over(pid)
        finally:
            if pid == os.getpid():  # the signal was not meant for a child that was forked in C meanwhile
                _end()
                self._ending = False
                self._survived(pid, STAYS)

    def _wait_until_over(self, pid: int) -> None:
        now = clock.now()
        slow_at, until = now + SLOW, now + PATIENCE
        while pid == os.getpid() and self._busy() and (now := clock.now()) < until:
            if now >= slow_at:
                slow_at = until
                with suppress(RuntimeError):
                    _thread.start_new_thread(self._slow, (until - now,))
            time.sleep(CHECK_INTERVAL)

    def _survived(self, pid: int, stays: float) -> None:
        self._survivals += 1
        with suppress(RuntimeError):
            _thread.start_new_thread(self._resume_after_pause, (pid, self._survivals, stays))

    def _resume_after_pause(self, pid: int, survivals: int, stays: float) -> None:
        time.sleep(stays)
        if pid == os.getpid() and survivals == self._survivals:  # if not, there was another SIGTERM
            self._resume()

    def _stands(self) -> bool:
        return self._pid == os.getpid() and signal.getsignal(signal.SIGTERM) is self._handler

    def _hangs(self) -> None:
        """Do what the handler would do, in another thread, because the main thread does not get to run it."""
        if self._previous == signal.SIG_DFL and not self._ending:
            self._ending = True
            with suppress(Exception):
                self._ask()
            self._wait(os.getpid())


class _Shielded(shielded):
    """A shield that also holds back an interruption sent before it until the end of the block, which always runs."""

    def __enter__(self) -> Interruptions:
        self._came = False
        try:
            return super().__enter__()
        except LeadershipLost:
            self._came = True
            return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        super().__exit__(kind, *error)
        if self._came and (kind is None or issubclass(kind, Exception)):
            raise LeadershipLost


def _end() -> None:
    """End this process by SIGTERM. Return if the kernel does not end it, as it never ends process 1 of a container."""
    try:
        before: Any = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except ValueError:
        _end_from_thread()
        return
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def _end_from_thread() -> None:
    # ``signal.signal`` works in the main thread only, which may hang. Import late: that takes some milliseconds.
    import ctypes

    set_handler = ctypes.pythonapi.PyOS_setsig
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = set_handler(signal.SIGTERM, None)
    os.kill(os.getpid(), signal.SIGTERM)
    set_handler(signal.SIGTERM, before)
