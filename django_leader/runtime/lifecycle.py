"""What happens to the elections of a process when it ends, and when it forks.

NOT guaranteed here: a hand-over when the process is killed, or ends without running any of the hooks below
(``os._exit``, an end that its server forces). The lease then runs out, unless a candidate on the same host claims it.

- All ways in which a process ends lead to one stop, which does nothing the second time: ``atexit``; the finalizers of
  ``multiprocessing``, which are the only hooks that a child of it runs; SIGTERM (``sigterm``), after which some servers
  run neither; and an ASGI server's lifespan (``asgi``).
- The process may go on when its main thread has ended. It waits for threads, in exit handlers, and for its child
  processes. So the stop runs after ``atexit`` and after what ``multiprocessing`` does there, whichever is last. Exit
  handlers run in the reverse order of their registration. So an exit handler that was registered before this module was
  imported runs after the stop, and if it waits, it waits without the election.
- When a server has ended, its process ends, so the stop runs first of all. There the work of a leader may be a child
  process that only a loss callback ends. Any other process waits for such a child and keeps leading, until SIGTERM or
  ``stop()`` ends the election.
- At the end of the interpreter no thread is started.
- A child never runs the stop of its parent, because none of the parent's elections runs in the child.
- The fork server of ``multiprocessing`` imports what its children need, also the main program, and does no work itself.
  An election that such an import starts there starts in each child of the fork server, as it does where the children
  import the main program themselves (spawn).
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from contextlib import suppress
from typing import Any, Protocol

from django_leader.system import clock
from django_leader.system.forks import in_fork_server, register, unsupported
from django_leader.system.log import log, way_to
from django_leader.system.sigterm import SLOW, Sigterm

EXIT_TIMEOUT = 2.0
"""Seconds that the end of the interpreter waits for a graceful hand-over: less than any server's kill timeout."""
FIRST, LAST = 1000, -1000
"""The priorities of our finalizers: before those that end what callbacks may need, and after the wait for children."""


class Election(Protocol):
    """The part of an election that this module uses."""

    label: str

    @property
    def running(self) -> bool:
        """Whether this process is a candidate."""

    @property
    def runs_here(self) -> bool:
        """Whether the election goes on only when the calling thread does."""

    def start(self) -> None:
        """Become a candidate."""

    def stop(self, *, timeout: float | None) -> None:
        """End the candidacy."""

    def ask_to_stop(self) -> None:
        """Have the candidacy end some time soon. Take no lock."""

    def resume(self) -> None:
        """Become a candidate again if ``ask_to_stop`` was the last request."""

    def explain_wait(self, seconds: float) -> None:
        """Log if this process waits for loss callbacks before it ends, for another ``seconds`` at most."""

    def after_fork(self) -> None:
        """In a child: use nothing of the parent's candidacy."""


class Lifecycle:
    """The elections of this process. One object, made at import."""

    def __init__(self) -> None:
        self._elections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._finalized = 0
        self._deferred: list[Election] = []
        """The elections that start in each child of this process, which is a fork server."""
        self.starting = threading.Lock()
        """Held while a candidacy begins, so that also two threads that detect a fork do so one after the other."""
        self.exiting = False
        """Whether the end of the interpreter has begun."""
        self.server = False
        """Whether a server runs in this process, so that the end of its main thread is the end of the process."""
        self._left = False
        """Whether ``atexit`` has called us while ``multiprocessing`` still had to wait for child processes."""
        self.sigterm = Sigterm(
            ask=self._ask_to_stop,
            busy=lambda: bool(self._running()),
            here=lambda: any(election.runs_here for election in self._running()),
            resume=self._resume,
            slow=self._explain_wait,
        )

    def add(self, election: Election) -> None:
        """Notify ``election`` of forks and of the end of the process, as long as it lives."""
        self._elections.add(election)

    def begin(self, *, sigterm: bool) -> None:
        """Prepare this process for its end, before an election starts in it, with ``sigterm`` also by SIGTERM. Local.

        Only the main thread can handle SIGTERM. A call from another thread leaves SIGTERM as it is.
        """
        if in_fork_server():
            return
        if sigterm:
            self.sigterm.chain()
        if self._finalized != os.getpid():
            # Import it now, if no other code has: it ends child processes at exit, and a leader's work may import it
            # later.
            from multiprocessing.util import register_after_fork

            self._finalized = os.getpid()
            self._finalize()
            # Every child of multiprocessing clears the registered finalizers and calls this hook afterwards, so
            # register again.
            register_after_fork(self, Lifecycle._finalize)

    def _finalize(self) -> None:
        from multiprocessing.util import Finalize

        Finalize(None, self._before_children, exitpriority=FIRST)
        Finalize(None, self._behind_children, exitpriority=LAST)

    def _before_children(self) -> None:
        from multiprocessing import active_children

        if self.server:
            self._exit_and_say_so()
        elif any(not child.daemon for child in active_children()):
            for election in self._running():
                text = "%s: the main thread has ended, and the process waits for its child processes; "
                log(logging.INFO, text + "it is a candidate until these have ended", election.label)

    def _behind_children(self) -> None:
        from multiprocessing import parent_process

        if self._left or parent_process():  # a child runs no atexit, unless it was spawned
            self._exit_and_say_so()

    def at_exit(self) -> None:
        """Handle ``atexit``, which calls its handlers in the reverse order of their registration."""
        util: Any = sys.modules.get("multiprocessing.util")
        if self.server or self._finalized != os.getpid() or util is None or util.is_exiting():
            self._exit_and_say_so()
        else:
            self._left = True  # the exit handler of multiprocessing, which was registered before ours, is still to come

    def _exit_and_say_so(self) -> None:
        for election in self._running():
            log(logging.INFO, "%s: the process ends, and is no longer a candidate", election.label)
        self.exit()

    def defer(self, election: Election) -> bool:
        """Return whether ``election`` must not start here. Local.

        In a fork server it then starts in each child. On a platform that does not support elections, it never starts.
        """
        if why := unsupported():
            log(logging.WARNING, "%s: this process is not participating: %s", election.label, why)
            return True
        if not in_fork_server():
            return False
        if not self._deferred:
            from multiprocessing.util import register_after_fork

            register_after_fork(self, Lifecycle._start_deferred)
        if election not in self._deferred:
            self._deferred.append(election)
            text = "%s: starts in each child of this process, which is the fork server of multiprocessing"
            log(logging.INFO, text, election.label)
        return True

    def _start_deferred(self) -> None:
        # multiprocessing calls this while it sets up a child, and in the children of a child.
        deferred, self._deferred = self._deferred, []
        for election in deferred:
            try:
                election.start()
            except Exception:  # no error of this package may keep the child from its work
                log(logging.ERROR, "%s: not started in this child process", election.label, exc_info=True)

    def after_fork(self) -> None:
        """In the child of ``os.fork``, before anything else runs there."""
        self.starting = threading.Lock()
        self._left = False
        self.sigterm.after_fork()
        for election in list(self._elections):
            election.after_fork()

    def stop(self) -> None:
        """Stop all elections, in parallel, within ``EXIT_TIMEOUT``."""
        running, begun = self._running(), clock.now()
        for timeout in (0.0, SLOW, EXIT_TIMEOUT):  # ask all first, then wait for each
            for election in running:
                election.stop(timeout=max(0.0, begun + timeout - clock.now()))
            if timeout == SLOW:
                self._explain_wait(begun + EXIT_TIMEOUT - clock.now())

    def exit(self) -> None:
        """At the end of the interpreter: stop all elections, and let none start any more."""
        self.exiting = True
        self.stop()
        self.sigterm.finish()  # SIGTERM may have asked for this end, and the elections may have ended before it

    def _ask_to_stop(self) -> None:
        # A signal handler calls this, so it takes no lock, and does not log.
        for election in self._running():
            with suppress(Exception):  # the others are asked all the same
                election.ask_to_stop()

    def _explain_wait(self, seconds: float) -> None:
        for election in self._running():
            election.explain_wait(seconds)

    def _resume(self) -> None:
        for election in list(self._elections):
            try:
                election.resume()
            except Exception as error:  # the others become candidates again all the same
                text = "%s: could not start again after SIGTERM: %s. Call its start(), or restart the process"
                log(logging.ERROR, text, election.label, way_to(error))  # without a text that may hold a secret

    def _running(self) -> list[Any]:
        return [election for election in list(self._elections) if election.running]


lifecycle = Lifecycle()
register(
    before=lifecycle.sigterm.before_fork,
    after_in_parent=lifecycle.sigterm.after_fork,
    after_in_child=lifecycle.after_fork,
)
atexit.register(lifecycle.at_exit)
