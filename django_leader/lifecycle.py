"""What happens to the elections of a process when it ends, and when it forks.

NOT guaranteed here: a hand-over when the process is killed, or ends without running ``atexit`` (SIGTERM with Python's
default action, ``os._exit``). The lease then runs out, unless a candidate on the same host claims it.

Nothing here installs a signal handler, and at the end of the interpreter no thread is started.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Any, Protocol

from . import clock

EXIT_TIMEOUT = 2.0
"""Seconds that the end of the interpreter waits for a graceful hand-over: less than any server's kill timeout."""


class Election(Protocol):
    """What is asked of an election here."""

    @property
    def running(self) -> bool:
        """Whether this process takes part."""

    def stop(self, *, timeout: float | None) -> None:
        """Takes part no longer."""

    def after_fork(self) -> None:
        """In a child: nothing of the parent's candidacy is used."""


class Lifecycle:
    """The elections of this process. One object, made at import."""

    def __init__(self) -> None:
        self._elections: weakref.WeakSet[Any] = weakref.WeakSet()
        self.starting = threading.Lock()
        """Held while a candidacy begins: also two threads that find themselves in a fork take turns."""
        self.exiting = False
        """Whether the end of the interpreter has begun."""

    def add(self, election: Election) -> None:
        """Has ``election`` told of forks and of the end, as long as it lives."""
        self._elections.add(election)

    def after_fork(self) -> None:
        """In the child of ``os.fork``, before anything else runs there."""
        self.starting = threading.Lock()
        for election in list(self._elections):
            election.after_fork()

    def exit(self) -> None:
        """At the end of the interpreter: stops all, in parallel, within ``EXIT_TIMEOUT``."""
        self.exiting = True
        running = [election for election in list(self._elections) if election.running]
        until = clock.now() + EXIT_TIMEOUT
        for timeout in (0.0, EXIT_TIMEOUT):  # tell all first, then wait for each
            for election in running:
                election.stop(timeout=min(timeout, max(0.0, until - clock.now())))


lifecycle = Lifecycle()
os.register_at_fork(after_in_child=lifecycle.after_fork)
atexit.register(lifecycle.exit)
