"""The jobs of one election in this process: the loop that claims their slots in each term, and the threads of the runs.

NOT guaranteed here:

- That a run ends with its term. Its code must ask (``Run.raise_if_lost``), or write with ``Run.token``.
- That the end of a run is recorded. If Redis cannot be asked then, the slot stays in doubt, or is ``unreported``.
- That slots are claimed on time in a starved process.

A term with jobs has one thread more, a gain thread (``callbacks``), which runs ``JobLoop``. It has a connection of its
own, so a slow claim delays no heartbeat. Between two slots it sleeps, and only an event wakes it: the end of a run, the
end of the term, a step of the server's clock. It survives every exception.

Each run has a thread of its own, so a slow job delays no other. When the term ends voluntarily, the loop goes on while
runs go on and the lease lasts; until then the lease is not released, as with loss callbacks. What goes on after that is
a run without a term. It is told so, and its end is recorded when it comes: by the loop of the next term, or by its own
thread if there is none.

What is shared, and under what: ``JobRunner._changed`` protects what goes on and what has ended. The session and the
connection belong to the thread of the loop.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, NamedTuple

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.jobs import Decided, Job, JobSession
from django_leader.protocol.requests import Requests
from django_leader.protocol.session import Leave, Send
from django_leader.protocol.slots import LONGEST_ERROR, End, Outcome, SlotRequests
from django_leader.redis.connector import Connect
from django_leader.system import clock
from django_leader.system.forks import Forked
from django_leader.system.log import log
from django_leader.system.starts import insist
from django_leader.system.threads import OwnThread

from .listeners import Listeners
from .local import open_lease
from .state import SharedState
from .term import Term

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
NOT_RUN = {
    "missed": (logging.WARNING, "was not run: it could not be claimed before its grace was over"),
    "overlapped": (logging.WARNING, "was not run: the last run still goes on"),
    "unknown": (logging.INFO, "was not run: there is no record of the job, which is new, or whose record was lost"),
    "in-doubt": (logging.WARNING, "was not run: Redis has lost data, so it may have been started before"),
}
"""What the log says of a slot that was decided otherwise than by a run."""


class Previous(NamedTuple):
    """The run before, of the same job, in whatever process."""

    scheduled_for: datetime
    outcome: str
    """``ok``, ``failed``, ``failed-to-start``, ``in-doubt``, ``unreported``, ``missed`` or ``hung``.

    ``-`` while it goes on.
    """


@dataclass(frozen=True)
class Run:
    """One run of a job, as its function sees it. All members are local, and any thread may use them."""

    name: str
    """The name of the job."""
    scheduled_for: datetime
    """The slot: the instant for which the run was scheduled. Aware, in UTC."""
    attempt: int
    """1; more if an earlier start of this very slot was in doubt and the job has ``in_doubt="rerun"``."""
    previous: Previous | None
    """The run before; None if none is known."""
    term: Term
    """The term in which the run was started."""

    @property
    def token(self) -> int:
        """The fencing token of the term."""
        return self.term.token

    def is_lost(self) -> bool:
        """Return whether the term is over, so that another process may lead and run the next slot. Local."""
        return not self.term.is_current()

    def raise_if_lost(self) -> None:
        """Raise ``LeadershipLost`` if the term is over. Local."""
        self.term.raise_if_lost()


class JobSpec(NamedTuple):
    """A job that was registered."""

    job: Job
    call: Callable[[Run], Any]
    jitter: float = 0.0
    """Seconds over which the starts of the slots are spread, by the name and the slot."""


class _Going(NamedTuple):
    """A run that goes on in this process."""

    end: End
    """How it will have ended, but for the outcome."""
    since: float


class JobRunner:
    """The jobs of one election in this process, and what goes on of them.

    ``specs`` returns the jobs that are registered. Local.
    """

    def __init__(self, label: str, listeners: Listeners, specs: Callable[[], Sequence[JobSpec]]) -> None:
        self.label, self._listeners, self.specs = label, listeners, specs
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a forked child too, where no run of the parent goes on. Local."""
        self._pid = os.getpid()
        self._changed = threading.Condition()
        # Under the lock:
        self._going: dict[str, _Going] = {}
        """The last run of each job, while it goes on."""
        self._number = 0
        """Of runs that go on, hung ones that were overtaken included."""
        self._ended: deque[End] = deque()
        """What no loop has taken yet."""
        self._loop: JobLoop | None = None
        """The loop that runs now."""
        self._last: JobLoop | None = None
        """The loop that ran last, which knows how to reach Redis."""
        self._woken = False

    def any(self) -> bool:
        """Return whether there are jobs. Local."""
        return bool(self.specs())

    def loop(self, connect: Connect, config: ValidConfig, shared: SharedState, term: Term) -> JobLoop:
        """Return what claims the slots of ``term``, which has just begun. Local."""
        return JobLoop(self, connect, config, shared, term)

    def wake(self) -> None:
        """Have the loop look again. Local, any thread."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def since(self) -> dict[str, float]:
        """Return since when the last run of a job goes on, by name. Local."""
        with self._changed:
            return {name: going.since for name, going in self._going.items()}

    @property
    def busy(self) -> bool:
        """Whether a run goes on. Local."""
        return self._number > 0

    def start(self, spec: JobSpec, run: Run, end: End) -> None:
        """Start a run in a thread of its own. Raise ``RuntimeError`` or ``MemoryError`` if none can be started."""
        going = _Going(end, clock.now())
        with self._changed:
            self._going[end.name], self._number = going, self._number + 1
        try:
            OwnThread(partial(self._run, spec, run, going), f"{self.label} job {run.name}").start()
        except BaseException:
            self._over(going)
            raise

    def take_ends(self) -> list[End]:
        """Return what has ended since the last call. Local."""
        with self._changed:
            ends, self._woken = list(self._ended), False
            self._ended.clear()
            return ends

    def wait(self, seconds: float) -> None:
        """Wait so long, or until something has changed. Local."""
        with self._changed:
            if not self._woken:
                self._changed.wait(min(max(seconds, 0.0), threading.TIMEOUT_MAX))

    def enter(self, loop: JobLoop) -> None:
        """Have ``loop`` record the ends of runs. Local."""
        with self._changed:
            self._loop = self._last = loop

    def leave(self, loop: JobLoop, unsent: Sequence[End]) -> None:
        """Have the threads of the runs record their ends, and keep what could not be sent for the next loop. Local."""
        with self._changed:
            self._ended.extend(unsent)
            if self._loop is loop:
                self._loop = None

    def _run(self, spec: JobSpec, run: Run, going: _Going) -> None:
        outcome: Outcome = "ok"
        error = ""
        try:
            self._listeners.call(self._body, spec, run)()
        except BaseException as raised:
            if os.getpid() != self._pid:
                raise  # a child that the job has forked ends as it likes
            outcome, error = "failed", f"{type(raised).__name__}: {raised}"[:LONGEST_ERROR]
            log(logging.ERROR, "%s: the job %r failed", self.label, run.name, exc_info=raised)
        if os.getpid() == self._pid:
            end = going.end._replace(outcome=outcome, took=clock.now() - going.since, error=error)
            self._over(going, end)

    def _body(self, spec: JobSpec, run: Run) -> Any:
        if spec.jitter:
            run.term.lost.wait(spread(run.name, run.scheduled_for, spec.jitter))
            run.raise_if_lost()
        return spec.call(run)

    def _over(self, going: _Going, end: End | None = None) -> None:
        with self._changed:
            self._number -= 1
            if self._going.get(going.end.name) is going:
                del self._going[going.end.name]
            if end:
                self._ended.append(end)
            last = None if self._loop else self._last
            self._woken = True
            self._changed.notify_all()
        if last and (ends := self.take_ends()):
            last.record(ends)


class JobLoop:
    """What claims the slots of one term. ``run`` does it, in a gain thread; ``end`` says that the term is over."""

    def __init__(
        self, runner: JobRunner, connect: Connect, config: ValidConfig, shared: SharedState, term: Term
    ) -> None:
        # Never change.
        self._runner, self._connect, self._config = runner, connect, config
        self._shared, self._term = shared, term
        began = shared.state.term.began if shared.state.term else 0.0
        self._requests = SlotRequests(config.keys, shared.candidate_id, term.token, began)
        # Set by any thread, and never reset.
        self._over = False
        # Only in the thread of ``run``.
        self._lease = open_lease(connect, config)
        self._going: dict[str, float] = {}
        self._specs: dict[str, JobSpec] = {}
        self._session = self._begin([])
        self._unreachable = False

    def _begin(self, specs: Sequence[JobSpec]) -> JobSession:
        self._specs = {spec.job.name: spec for spec in specs}
        jobs, wait = [spec.job for spec in specs], Requests(self._config).await_replicas()
        return JobSession(jobs, self._requests, self._config.timing, self._going, wait)

    what = "the jobs"

    @property
    def said(self) -> str:
        """What it is, for the log."""
        return "the jobs (" + ", ".join(sorted(self._runner.since())) + ")"

    def end(self) -> None:
        """Say that the term is over. Local, any thread."""
        self._over = True
        self._runner.wake()

    def run(self) -> None:
        """Claim slots and start runs until the term is over; then wait for the runs while the lease lasts."""
        self._session = self._begin(self._runner.specs())
        self._runner.enter(self)
        self._shared.clock_stepped = self._runner.wake
        try:
            with suppress(Forked):
                insist(self._take_turns, f"{self._runner.label}: the jobs")
        finally:
            self._lease.channel.drop()
            if self._shared.ours():
                self._runner.leave(self, self._session.unsent())

    def record(self, ends: Sequence[End]) -> None:
        """Record the ends of runs that have outlasted their term. One round trip on a new connection."""
        lease = open_lease(self._connect, self._config)
        try:
            lease.ask(self._requests.finish(ends))
        except RedisUnavailable as error:
            text = "%s: the end of the job %r could not be recorded: %s"
            log(logging.WARNING, text, self._runner.label, ends[0].name, error)
        finally:
            lease.channel.drop()

    def _take_turns(self) -> None:
        while self._shared.ours():
            for end in self._runner.take_ends():
                self._session.ended(end)
            self._going.clear()
            self._going.update(self._runner.since())
            now = clock.now()
            deadline = 0.0 if self._over else now + self._term.lease_left
            todo = self._session.next(now, self._shared.state.watch, deadline)
            if isinstance(todo, Send):
                self._send(todo)
            elif not isinstance(todo, Leave):
                self._runner.wait(todo.until - clock.now())
            elif not self._runner.busy or (left := self._lease_left()) <= 0:
                return
            else:
                self._runner.wait(left)

    def _lease_left(self) -> float:
        """Return for how many seconds a term that has ended voluntarily still has its lease. Local."""
        ended = self._shared.state.ended
        return ended.term.deadline - clock.now() if ended else 0.0

    def _send(self, todo: Send) -> None:
        try:
            reply = self._lease.send(todo.request)
            decided = self._session.reply(todo.request, reply, clock.now())
        except RedisUnavailable as error:
            self._lease.channel.drop()
            self._session.failed(clock.now())
            if not self._unreachable:
                self._unreachable = True
                log(logging.WARNING, "%s: no job can be started: %s", self._runner.label, error)
            return
        except BaseException:
            self._lease.channel.drop()
            self._session.failed(clock.now())
            raise
        if self._unreachable:
            self._unreachable = False
            log(logging.INFO, "%s: jobs can be started again", self._runner.label)
        for one in decided:
            self._act(one)

    def _act(self, decided: Decided) -> None:
        name, decision = decided.job.name, decided.decision
        if decision.verdict in NOT_RUN:
            level, why = NOT_RUN[decision.verdict]
            log(level, "%s: the slot %s of the job %r %s", self._runner.label, instant(decision.slot), name, why)
        if decision.verdict not in ("run", "rerun"):
            return
        end = End(self._term.token, name, decision.slot, decided.claim.claim_id, "failed-to-start", 0.0)
        if not self._term.is_current():
            self._session.ended(end._replace(error="the term was over"))
            return
        known = decision.last_outcome != "none"
        previous = Previous(instant(decision.last_slot), decision.last_outcome) if known else None
        run = Run(name, instant(decision.slot), decision.attempt, previous, self._term)
        try:
            self._runner.start(self._specs[name], run, end)
        except (RuntimeError, MemoryError) as error:
            self._session.ended(end._replace(error=str(error)))
            log(logging.ERROR, "%s: the job %r was not started: %s", self._runner.label, name, error)


def instant(slot: int) -> datetime:
    """Return a slot as an aware datetime in UTC. Local."""
    return EPOCH + timedelta(milliseconds=slot)


def spread(name: str, slot: datetime, jitter: float) -> float:
    """Return the seconds by which this slot of this job starts later: the same in all processes. Local."""
    digest = hashlib.blake2b(f"{slot.isoformat()} {name}".encode(), digest_size=8).digest()
    return jitter * int.from_bytes(digest, "big") / 2**64
