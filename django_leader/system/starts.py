"""The start of threads: at once or, while the system refuses to make a thread, as soon as it makes one again.

A container has a limit of processes, and a busy neighbour may reach it for a moment. Python then raises
``RuntimeError`` ("can't start new thread"). What was to run waits here.

NOT guaranteed here: when it runs. No thread of ours can wait for the end of the shortage, because none can be started.
So threads of the application try again: when Python collects garbage, when the process forks, and where ``retry`` is
called (at a request, and while a thread waits for leadership). A process that does none of these, and for example only
sleeps, starts nothing.
"""

from __future__ import annotations

import _thread
import gc
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from . import clock
from .forks import register
from .log import log
from .threads import PAUSE, OwnThread, survives

SILENCE = 60.0
"""Seconds between two log lines about a call that keeps raising."""


class Start:
    """A thread that runs once, now or later. ``cancel`` and the thread claim it, and only the first claim succeeds."""

    def __init__(self, run: Callable[[], Any], name: str) -> None:
        self.name, self._run, self._pid = name, run, os.getpid()
        self._free = [True]

    @property
    def waits(self) -> bool:
        """Whether it has neither begun nor been cancelled. Local."""
        return bool(self._free)

    def cancel(self) -> bool:
        """Prevent it from running. Return False if it has begun. Local, takes no lock."""
        return self._claim()

    def start(self) -> None:
        """Start the thread. Raise what ``Thread.start`` raises; a thread that runs all the same does no harm."""
        if self._free and self._pid == os.getpid():
            OwnThread(self._work, self.name).start()

    def _claim(self) -> bool:
        try:
            return self._free.pop()  # atomic
        except IndexError:
            return False

    def _work(self) -> None:
        if self._pid == os.getpid() and self._claim():
            self._run()


class Starts:
    """The starts of this process. One object, made at import."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        # Under the lock:
        self._waiting: list[Start] = []
        self._helped = False
        """Whether a thread starts what waits."""
        # Without the lock, also in a callback of the garbage collector: a late or a second try does no harm.
        self._next_try = 0.0

    def start(self, start: Start) -> None:
        """Start a thread, now or later. Local; does not raise if no thread can be started.

        At the end of the interpreter, when no thread can be started any more, it never starts.
        """
        try:
            start.start()
        except (RuntimeError, MemoryError) as error:
            if not at_the_end(error):
                self._put_off(start, error)
        except BaseException:  # a signal handler raised, and it is not known whether the thread runs
            self._put_off(start, None)
            raise

    def waits(self, start: Start) -> bool:
        """Return whether ``start`` was refused, and is tried again later. Local."""
        return start in self._waiting

    @property
    def busy(self) -> bool:
        """Whether anything waits for a thread. Local."""
        return bool(self._waiting)

    def retry(self, *args: Any) -> None:
        """Start what waits, if a thread can be started now. Local; takes no lock, never raises, tries every ``PAUSE``.

        ``args``: whatever the hooks that call it are given.
        """
        if not self._waiting or self._helped or clock.now() < self._next_try:
            return
        self._next_try = clock.now() + PAUSE
        try:
            # Garbage may be collected anywhere, also under a lock of ``threading``, so this must not take one.
            _thread.start_new_thread(self._help, ())
        except (RuntimeError, MemoryError):
            return

    def after_fork(self) -> None:
        """In a child: start nothing of the parent's."""
        self._unhook()
        self._forget()

    def _put_off(self, start: Start, error: Exception | None) -> None:
        if self._pid != os.getpid():
            self.after_fork()  # a fork in C, which runs no hook
        with self._lock:
            first = not self._waiting
            self._waiting.append(start)
            if self._collected not in gc.callbacks:
                gc.callbacks.append(self._collected)
        self._next_try = clock.now() + PAUSE
        if first and error:
            log(
                logging.WARNING,
                "%s: not started yet: %s. It starts as soon as the system can start a thread, which is tried again at "
                "the next requests and in between. Check the process limits of the container (pids) and of the user "
                "(ulimit -u).",
                start.name,
                error,
            )

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            self.retry()

    def _help(self) -> None:
        if self._pid != os.getpid():
            self.after_fork()  # a fork in C: a thread that does not exist here may hold the lock
            return
        with self._lock:
            if self._helped:
                return
            self._helped = True
        insist(self._work_off, "LEADER_ELECTIONS: the start of the threads that the system refused")

    def _work_off(self) -> None:
        """Start what waits, one after the other, until nothing does."""
        while self._pid == os.getpid():
            with self._lock:
                self._waiting = [start for start in self._waiting if start.waits]
                if not self._waiting:
                    self._helped = False
                    self._unhook()
                    return
                start = self._waiting[0]
            try:
                start.start()
            except (RuntimeError, MemoryError):
                time.sleep(PAUSE)
                continue
            with self._lock:
                self._waiting.remove(start)
            log(logging.INFO, "%s: started because the system can start threads again", start.name)
        self.after_fork()

    def _unhook(self) -> None:
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)


def at_the_end(error: Exception) -> bool:
    """Return whether no thread could be started because the interpreter ends: see ``start_new_thread``. Pure."""
    return "interpreter shutdown" in str(error)


def insist(call: Callable[[], Any], what: str) -> None:
    """Call ``call`` again, ``PAUSE`` seconds later each time, until it returns. For threads of this package.

    For a call that must not be lost, and whose error means a bug or a shortage that passes (no memory, no descriptor).
    Log, at most every ``SILENCE`` seconds, that ``what`` failed. Raise what the thread is not to survive.
    """
    logged_at = -math.inf
    while True:
        try:
            call()
            return
        except BaseException as error:
            if not survives(error):
                raise
            if time.monotonic() >= logged_at + SILENCE:
                logged_at = time.monotonic()
                log(
                    logging.ERROR,
                    "%s failed, and is tried again every %s seconds until it succeeds. The cause is a lack of memory "
                    "or file descriptors, or a bug in django_leader: see the traceback.",
                    what,
                    PAUSE,
                    exc_info=error,
                )
        time.sleep(PAUSE)


starts = Starts()
register(after_in_parent=starts.retry, after_in_child=starts.after_fork)
