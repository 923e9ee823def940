"""The slots of one job that the application calls itself: claimed in the thread that calls.

NOT guaranteed here: that every slot is run. Nobody calls for a slot that no call comes for. The next claim records it
as missed.

A call asks for the last slot. In one term the claims of a job are sent one after the other, by the driver that the loop
of the leader uses (``protocol.jobs``), so that no claim overtakes another, and one without an answer is sent again.
"""

from __future__ import annotations

import logging
import threading
from weakref import WeakSet

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.jobs import Decided, Going, Job, JobSession
from django_leader.protocol.session import Leave, Send
from django_leader.protocol.slots import End
from django_leader.redis.lease import Lease
from django_leader.system import clock
from django_leader.system.forks import register
from django_leader.system.log import log

from .jobs import Access, note_left_out
from .skips import Skips


class Claimer:
    """Claims the slots of one job in this process. Any thread."""

    def __init__(self, job: Job, label: str) -> None:
        self._job, self._label = job, label
        self.forget()
        _claimers.add(self)

    def forget(self) -> None:
        """Begin anew, in a forked child too, where no run goes on, and no thread is left to release the lock. Local."""
        self._lock = threading.Lock()
        # Under the lock:
        self._token = 0
        self._session: JobSession | None = None
        self._going: dict[str, Going] = {}
        """The last run, if it goes on."""
        self._last = ""
        """Its claim."""
        self._number = 0
        """Of runs that go on."""
        self._skips = Skips(self._label)

    def claim(self, access: Access) -> End | str:
        """Claim the last slot. Return how its run will have ended, but for the outcome; or why it is not run.

        A few round trips on a new connection; waits for another thread that does the same.
        """
        with self._lock:
            self._skips.flush(clock.now())
            if self._session is None or access.term.token != self._token:
                self._session = access.session([self._job], access.requests(), self._going)
                self._token = access.term.token
            lease = access.open()
            try:
                return self._claim(access, self._session, lease)
            except RedisUnavailable as error:
                self._session.failed(clock.now())
                log(logging.WARNING, "%s: the job %r cannot be started: %s", self._label, self._job.name, error)
                return "redis-unavailable"
            finally:
                lease.channel.drop()

    def _claim(self, access: Access, session: JobSession, lease: Lease) -> End | str:
        reason = "done"
        while True:
            now = clock.now()
            todo = session.next(now, access.shared.state.watch, now + access.term.lease_left)
            if isinstance(todo, Leave):
                return "not-leading"
            if not isinstance(todo, Send):
                return "undecided" if session.undecided else reason
            for one in session.reply(todo.request, lease.send(todo.request), clock.now()):
                note_left_out(self._skips, one, clock.now())
                if one.decision.verdict in ("run", "rerun"):
                    return self._start(access, session, one)
                reason = one.decision.verdict

    def _start(self, access: Access, session: JobSession, one: Decided) -> End | str:
        end = End(access.term.token, self._job.name, one.decision.slot, one.claim.claim_id, "failed-to-start", 0.0)
        if not access.term.is_current():
            session.ended(end._replace(error="the term was over"))
            return "not-leading"
        self._number, self._last = self._number + 1, end.claim_id
        self._going[self._job.name] = Going(clock.now(), self._number)
        return end

    def ended(self, access: Access, end: End) -> None:
        """Record the end of a run. One round trip on a new connection. Log it if that fails."""
        with self._lock:
            self._number -= 1
            last = self._going.pop(self._job.name, None)
            if last and self._last != end.claim_id:
                self._going[self._job.name] = last._replace(number=self._number)
            lease = access.open()
            try:
                lease.ask(access.requests().finish([end]))
            except RedisUnavailable as error:
                text = "%s: the end of the job %r could not be recorded: %s"
                log(logging.WARNING, text, self._label, self._job.name, error)
            finally:
                lease.channel.drop()


def _after_fork() -> None:
    for claimer in _claimers:
        claimer.forget()


_claimers: WeakSet[Claimer] = WeakSet()
"""Those of this process, for a forked child."""
register(after_in_child=_after_fork)
