"""SIGTERM: the elections hand over first, and then happens what would have happened without us.

NOT guaranteed here: anything while the main thread does not run Python code. A handler in Python runs only there, so a
process that hangs in C ends by SIGKILL, where SIGTERM alone would have ended it before. The setting turns this off.

- Nothing is put over a handler in C, or over a signal that is ignored.
- The handler takes no lock, and calls the handler before it at once: whatever that waits for, such as the lock of a
  log, may be held by the very code that the signal has interrupted.
- Where there was none, the process ends by the signal, as before, when the elections have handed over or ``PATIENCE``
  is over. Until then the main thread stands still, unless it is the one that hands over, or cannot wait: gevent runs
  the handler in its hub.
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
from types import FrameType
from typing import Any

from . import clock

PATIENCE = 1.0
"""Seconds for which a hand-over may delay the end. Supervisors wait for several times as long before they kill."""
LOOK = 0.002
"""Seconds between two looks at whether that is done."""


class Sigterm:
    """Of this process. ``ask`` has the elections hand over, without a lock; ``busy`` tells whether one still does.

    ``here``: whether one does so in the calling thread.
    """

    def __init__(self, ask: Callable[[], Any], busy: Callable[[], bool], here: Callable[[], bool]) -> None:
        self._ask, self._busy, self._here = ask, busy, here
        self._handler: Any = None
        self._previous: Any = None
        self._pid = 0
        self._ending = False
        self._masks: dict[int, set[Any]] = {}
        """Of the threads that fork, the signals that they had blocked."""

    def chain(self) -> None:
        """Takes the place of the handler, once in a process. Local; does nothing but in the main thread."""
        if self._pid == os.getpid() or threading.current_thread() is not threading.main_thread():
            return
        previous = signal.getsignal(signal.SIGTERM)
        if previous != signal.SIG_DFL and not callable(previous):
            return
        # Each handler knows its own: whoever has chained behind the one of a parent calls that one from a child's.
        self._handler, self._previous, self._pid = partial(self._handle, previous), previous, os.getpid()
        self._ending = False  # of a parent that has forked in C meanwhile
        with suppress(ValueError):  # a sub-interpreter, as mod_wsgi makes them, handles no signal
            signal.signal(signal.SIGTERM, self._handler)

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
        mask = self._masks.pop(threading.get_ident(), None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def finish(self) -> None:
        """Called where an election has handed over: if the end of this very thread waits for that, it comes now."""
        if self._ending and self._pid == os.getpid() and threading.current_thread() is threading.main_thread():
            self._wait(self._pid)

    def _handle(self, previous: Any, number: int, frame: FrameType | None) -> Any:
        ours = self._pid == os.getpid()  # if not, a fork in C has told nobody
        if ours:
            with suppress(Exception):  # nothing of ours keeps the application's handler from being called
                self._ask()
        if callable(previous):
            return previous(number, frame)
        if not ours or self._ending:
            return _end()
        self._ending = True
        if self._here() or threading.current_thread() is not threading.main_thread():
            # It goes on only when this handler has returned.
            _thread.start_new_thread(self._wait, (os.getpid(),))
        else:
            self._wait(os.getpid())
        return None

    def _wait(self, pid: int) -> None:
        try:
            until = clock.now() + PATIENCE
            while pid == os.getpid() and self._busy() and clock.now() < until:
                time.sleep(LOOK)
        finally:
            if pid == os.getpid():  # the signal was not meant for a child that was forked in C meanwhile
                _end()


def _end() -> None:
    # Returns only where the kernel lets nobody die of a signal without a handler: process 1 of a container.
    with suppress(ValueError):  # in another thread than the main one, which then handles it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
