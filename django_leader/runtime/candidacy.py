"""One candidacy: from the moment this process becomes a candidate in an election to the moment it is none any more.

NOT guaranteed here: that a request whose reply did not come was not executed, that a term lasts, or that the
application has stopped its work when it is over. ``machine`` and the scripts decide who may lead.

Several threads share a candidacy. The election thread runs ``worker``, which does the I/O. The threads that announce
terms (``callbacks``) and any thread or signal handler of the application call ``stop()`` and the like. What they share,
and under which lock, ``state`` says; who does I/O, and under which lock, ``worker`` says.

Every candidacy has an identity of its own (``candidate_id``), so that two processes with the same instance id, or a
process and its fork, exclude each other like any two candidates.
"""

from __future__ import annotations

import contextlib
import secrets
import threading

from django_leader.protocol import machine
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.records import NONCE_LENGTH
from django_leader.redis.connector import Connect
from django_leader.system import clock
from django_leader.system.waker import Waker

from .diagnostics import Diagnostics
from .grant import Publish
from .listeners import Listeners
from .local import open_lease
from .state import SharedState
from .term_log import TermLog
from .worker import Worker


class Candidacy:
    """What one process is and does in one election while it is a candidate."""

    def __init__(
        self, connect: Connect, config: ValidConfig, label: str, listeners: Listeners, publish: Publish, name: str = ""
    ) -> None:
        # None of these is ever replaced; each says itself which thread may do what with it.
        log = TermLog(label, name, config.instance_id)
        candidate_id = f"{config.instance_id}:{secrets.token_hex(NONCE_LENGTH // 2)}"
        self._label, self._listeners, self._waker = label, listeners, Waker()
        self.diagnostics = Diagnostics(label, config, log.about, lambda order: self.shared.ordered(order))
        self.shared = SharedState(
            config, candidate_id, label, listeners, publish, log, feed=self.feed, delivered=self._delivered
        )
        lease = open_lease(connect, config, self._waker)
        self._worker = Worker(lease, self.shared, config, self._waker, self.diagnostics)
        # Written by the election thread when it begins, read by any thread.
        self._thread: threading.Thread | None = None
        # Only under ``shared.changed``.
        self._successor: Candidacy | None = None

    def feed(self, event: machine.AnyEvent) -> None:
        """Feed ``event`` to the machine from another thread, and wake the election thread to act on it. Local."""
        self.shared.apply(event)
        self._wake()

    def _wake(self) -> None:
        ended = self.shared.state.ended
        if not (ended and ended.owes_release) or ended.delivered:  # if not, there is nothing to do yet
            self._waker.set()

    def stop(self, delay: float = 0.0, *, here: bool) -> None:
        """End the candidacy. With ``here`` the release leaves from this very thread, if the I/O lock is free.

        ``delay``: seconds for which no candidate may lead after the release.
        """
        # A log handler may take long, and the next leader would wait for it.
        self.shared.apply(machine.Stop(delay), tell=False)
        if here:
            self._worker.release()
        self._wake()
        self.shared.tell()

    def ask_to_stop(self) -> None:
        """Make the election thread end the candidacy. Take no lock: for signal handlers."""
        self.shared.stop_asked = True
        self._waker.set()

    def runs_here(self) -> bool:
        """Return whether ``ended`` waits for the caller: a callback, or a signal handler in a thread of ours."""
        here = threading.current_thread()
        depends = here is self._thread or self._worker.runs_here() or here.ident == self.shared.applying
        return depends or self._listeners.call_here()

    @property
    def idle(self) -> float:
        """Seconds since the election thread began a turn or the watcher checked the deadline: the longer of the two."""
        watcher = self.shared.announcer.current if self.shared.state.term else None
        turned_at = self._worker.turned_at
        return clock.now() - (min(turned_at, watcher.checked_at) if watcher else turned_at)

    @property
    def stopping(self) -> bool:
        """Whether the candidacy has ended, or is about to."""
        return self.shared.ended or self.shared.stop_asked or self.shared.state.stopping

    def continue_as(self, successor: Candidacy) -> None:
        """Pass the highest token, and a loss that is still being delivered, to this process's next candidacy. Local."""
        if self.shared.stop_asked:  # the election thread may not have seen it yet
            self.shared.apply(machine.Stop())
        with self.shared.changed:
            successor.shared.state, self._successor = machine.inherited(self.shared.state), successor

    def abandon(self) -> None:
        """In a forked child: use nothing of the parent's candidacy, and send nothing.

        The code that runs it may have been inherited, too: a loss callback that forked, or the greenlets of gevent.
        """
        self.shared.abandon()
        self._worker.abandon()
        self._waker.close()

    def close(self) -> None:
        """Close what the candidacy holds in this process. Local."""
        try:
            self.shared.tell(at_last=True)
        finally:
            self._close()

    def _close(self) -> None:
        if not self.shared.ours():
            self.abandon()
            return
        with self.shared.changed, contextlib.ExitStack() as last:  # all of these, whichever raises
            for close in (self.shared.end, self._waker.close, self._worker.close, self.shared.announcer.close):
                last.callback(close)

    def run(self) -> None:
        """Run the candidacy until ``Stop``. The calling thread is the election thread."""
        self._thread = threading.current_thread()
        try:
            self._worker.run(self._label)
        except BaseException:  # Ctrl-C, say: end as after a stop
            self.feed(machine.Stop())
            self._worker.run(self._label)
            raise
        finally:
            self.close()

    def _delivered(self, token: int) -> None:
        with self.shared.changed:
            self.shared.apply(machine.Delivered(token), tell=False)
            successor = self._successor
        self._worker.release()
        self._wake()
        self.shared.tell()
        if successor:
            successor._delivered(token)
