"""SIGTERM: the elections hand over first, and then happens what would have happened without us.

NOT guaranteed here: anything while no thread can run Python code. A process that hangs in C and keeps the GIL ends by
SIGKILL, where SIGTERM alone would have ended it before. The setting turns this off.

- Nothing is put over a handler in C, or over a signal that is ignored.
- The handler takes no lock, and calls the handler before it at once: whatever that waits for, such as the lock of a
  log, may be held by the very code that the signal has interrupted. No interruption of ours is raised in either.
- Where there was none, the process ends by the signal, as before, when the elections have handed over or ``PATIENCE``
  is over. Until then the main thread stands still, unless it is the one that hands over, or runs a guarded body, which
  ends first, or cannot wait: gevent and eventlet run the handler in their hub.
- If the main thread waits in a system call and has missed the signal, it is sent again (``wakeup``). If it hangs in C
  for longer than that helps, and there was no handler, another thread does all this in its place.
- The kernel does not end process 1 of a container by a signal without a handler. If nobody ends it otherwise, it takes
  part again after ``STAYS``.
- A process with a handler of its own may end when it has served what is under way, or go on, as where SIGTERM means to
  reload. If it still runs after ``DRAINS``, it takes part again, but not where threads are greenlets: before it ends,
  gevent's hub would wait for one that sleeps.
- A forked child has the handler of before again. Until it has, SIGTERM waits: Python forgets what a child is told
  between the fork and its own first instruction, so that whoever ends a child at once would wait for it for ever.
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
from types import BuiltinFunctionType, FrameType
from typing import Any

from django_leader.exceptions import LeadershipLost

from . import clock
from .interruption import Interruptions, in_main_thread, shielded
from .wakeup import Wakeup

PATIENCE = 1.0
"""Seconds for which a hand-over may delay the end. Supervisors wait for several times as long before they kill."""
STAYS = 60.0
"""Seconds after which a process that has survived SIGTERM takes part again: longer than supervisors wait (Docker: 10,
Kubernetes: 30) until they kill."""
DRAINS = 600.0
"""The same where the application handles SIGTERM: longer than servers drain. Load balancers and supervisors that are
told to wait give them 2 to 5 minutes. A server that drains for longer may be elected and hands over again at its end,
which costs a term; a process that reloads and is alone has no leader until then."""
LOOK = 0.002
"""Seconds between two looks at whether that is done."""


class Sigterm:
    """Of this process. ``ask`` has the elections hand over, without a lock; ``busy`` tells whether one still does.

    ``here``: whether one does so in the calling thread. ``resume`` has those that were asked take part again.
    """

    def __init__(
        self,
        ask: Callable[[], Any],
        busy: Callable[[], bool],
        here: Callable[[], bool],
        resume: Callable[[], Any] = lambda: None,
    ) -> None:
        self._ask, self._busy, self._here, self._resume = ask, busy, here, resume
        self._handler: Any = None
        self._previous: Any = None
        self._pid = 0
        self._ending = False
        self._survivals = 0
        self._wakeup = Wakeup(signal.SIGTERM, self._stands, self._hangs)
        self._masks: dict[int, set[Any]] = {}
        """Of the threads that fork, the signals that they had blocked."""

    def chain(self) -> None:
        """Takes the place of the handler, once in a process. Local; does nothing but in the main thread."""
        if not in_main_thread():
            return
        if self._pid == os.getpid():
            self._wakeup.start()
            return
        previous = signal.getsignal(signal.SIGTERM)
        if previous != signal.SIG_DFL and not callable(previous):
            return
        # Each handler knows its own: whoever has chained behind the one of a parent calls that one from a child's.
        self._handler, self._previous, self._pid = partial(self._handle, previous), previous, os.getpid()
        self._ending = False  # of a parent that has forked in C meanwhile
        with suppress(ValueError):  # a sub-interpreter, as mod_wsgi makes them, handles no signal
            signal.signal(signal.SIGTERM, self._handler)
            self._wakeup.start()

    @property
    def chained(self) -> bool:
        """Whether ``chain`` has been called in this process, and not for nothing. Local."""
        return self._pid == os.getpid()

    def wait(self) -> None:
        """Called by a server that has had the elections asked, before it ends this process: wait for the hand-over.

        If it does not end it, as where only an event loop is over, the elections take part again after ``STAYS``.
        """
        self._wait_until_over(os.getpid())
        self._survived(os.getpid(), STAYS)

    def before_fork(self) -> None:
        """In the thread that forks."""
        if self._pid == os.getpid():
            self._masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def after_fork(self) -> None:
        """In that thread, on both sides. A child is as if we had never been here."""
        if self._pid and self._pid != os.getpid():
            if signal.getsignal(signal.SIGTERM) is self._handler:
                signal.signal(signal.SIGTERM, self._previous)
            self._pid, self._ending = 0, False
            self._wakeup.forget()
        mask = self._masks.pop(threading.get_ident(), None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def finish(self) -> None:
        """Called where an election has handed over: if the end of this very thread waits for that, it comes now."""
        if self._ending and self._pid == os.getpid() and in_main_thread() and not self._here():
            self._wait(self._pid)

    def _handle(self, previous: Any, number: int, frame: FrameType | None) -> Any:
        ours = self._pid == os.getpid()  # if not, a fork in C has told nobody
        with _Shielded() as thread:
            if ours:
                self._wakeup.handled()
                with suppress(Exception):  # nothing of ours keeps the application's handler from being called
                    self._ask()
            if callable(previous):
                try:
                    thread.leaving = True  # from the next instruction on, if the handler raises
                    result = previous(number, frame)
                    thread.leaving = False
                    return result
                finally:
                    if ours and isinstance(_thread.start_new_thread, BuiltinFunctionType):
                        self._survived(self._pid, DRAINS)
            if not ours or self._ending:
                return _end()
            self._ending = True
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
            time.sleep(LOOK)
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
        until = clock.now() + PATIENCE
        while pid == os.getpid() and self._busy() and clock.now() < until:
            time.sleep(LOOK)

    def _survived(self, pid: int, stays: float) -> None:
        self._survivals += 1
        with suppress(RuntimeError):
            _thread.start_new_thread(self._take_part_again, (pid, self._survivals, stays))

    def _take_part_again(self, pid: int, survivals: int, stays: float) -> None:
        time.sleep(stays)
        if pid == os.getpid() and survivals == self._survivals:  # if not, there was another SIGTERM
            self._resume()

    def _stands(self) -> bool:
        return self._pid == os.getpid() and signal.getsignal(signal.SIGTERM) is self._handler

    def _hangs(self) -> None:
        """Do what the handler would do, in another thread than the main one, which does not come to it."""
        if self._previous == signal.SIG_DFL and not self._ending:
            self._ending = True
            with suppress(Exception):
                self._ask()
            self._wait(os.getpid())


class _Shielded(shielded):
    """Also an interruption that was sent before waits until the end of the block, which is run in any case."""

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
    """End this process by SIGTERM. Return if the kernel does not: it never ends process 1 of a container so."""
    try:
        before: Any = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except ValueError:
        _end_from_thread()
        return
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def _end_from_thread() -> None:
    # Python restores the default in the main thread only, and that may hang. Import late: it takes some milliseconds.
    import ctypes

    set_handler = ctypes.pythonapi.PyOS_setsig
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = set_handler(signal.SIGTERM, None)
    os.kill(os.getpid(), signal.SIGTERM)
    set_handler(signal.SIGTERM, before)
