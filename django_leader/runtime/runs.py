"""The runs of jobs in this process: what goes on, in a thread of its own for each, and what has ended.

NOT guaranteed here:

- That a run ends with its term. Its code must ask (``Run.raise_if_lost``), or write with ``Run.token``.
- That the end of a run is recorded. If Redis cannot be asked then, the slot stays in doubt, or is ``unreported``.

A run that outlasts its term is a run without one. It is told so, and its end is recorded when it comes: by the loop of
the next term (``jobs``), or by its own thread if there is none.

What is shared, and under what: ``Runs._changed`` protects what goes on and what has ended. Each run touches only its
own. In a child of a fork nothing goes on, because none of these threads is there.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, NamedTuple

from django_leader.protocol.jobs import Going, Job
from django_leader.protocol.slots import LONGEST_ERROR, End, Outcome
from django_leader.system import clock
from django_leader.system.log import log
from django_leader.system.threads import OwnThread

from .listeners import Listeners
from .term import Term

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
LATEST = 250_000_000_000_000
"""Milliseconds since the epoch, in the year 9892: later slots are forged, and no ``datetime`` has them."""
Record = Callable[[Sequence[End]], bool]
"""Tells Redis of ends. Returns whether it has."""


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
    requested_by: str = ""
    """Who has asked for a run outside of the schedule (``leader_jobs --run``). Empty for the run of a slot.

    ``scheduled_for`` is then the instant at which it was asked for, and ``previous`` is None.
    """

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
    coroutine: bool = False
    """Whether ``call`` returns a coroutine."""


class _Going(NamedTuple):
    """A run that goes on in this process."""

    end: End
    """How it will have ended, but for the outcome."""
    since: float
    max_run: float
    begun: bool
    """Whether its function was called. Before that it waits for its jitter."""
    pid: int
    """The process in which it goes on: its children have a copy of the thread."""


class Runs:
    """What goes on of the jobs of one election in this process, and what has ended."""

    def __init__(self, label: str, listeners: Listeners) -> None:
        self.label, self._listeners = label, listeners
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a forked child too, where no run of the parent goes on. Local."""
        self._changed = threading.Condition()
        # Under the lock:
        self._going: dict[str, _Going] = {}
        """The last run of each job, while it goes on."""
        self._numbers: Counter[str] = Counter()
        """How many runs of each job go on, hung ones that were overtaken included."""
        self._ended: deque[End] = deque()
        """What no loop has taken yet."""
        self._loops = 0
        """How many loops take ends now: the last one, and for a moment one of the term before."""
        self._record: Record = lambda ends: False
        """Tells Redis of ends without a loop."""
        self._woken = False

    def wake(self) -> None:
        """Have the loop look again. Local, any thread."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def names(self) -> list[str]:
        """Return the jobs whose last run goes on. Local."""
        with self._changed:
            return sorted(self._going)

    def hung_at(self) -> float:
        """Return the instant at which all that goes on will be hung; minus infinity if nothing goes on. Local."""
        with self._changed:
            return max((going.since + going.max_run for going in self._going.values()), default=-math.inf)

    def start(self, spec: JobSpec, run: Run, end: End) -> None:
        """Start a run in a thread of its own. Raise ``RuntimeError`` or ``MemoryError`` if none can be started."""
        going = _Going(end, clock.now(), spec.job.max_run, not spec.jitter, os.getpid())
        with self._changed:
            self._going[end.name] = going
            self._numbers[end.name] += 1
        try:
            OwnThread(partial(self._run, spec, run, going), f"{self.label} job {run.name}").start()
        except BaseException:
            self._over(going)
            raise

    def take(self) -> tuple[list[End], dict[str, Going]]:
        """Return what has ended since the last call, and the last run of each job if it goes on, by name. Local.

        Together, because a claim must not find a run neither going on nor ended.
        """
        with self._changed:
            ends, self._woken = list(self._ended), False
            self._ended.clear()
            known = self._going.items()
            return ends, {name: Going(going.since, self._numbers[name], going.begun) for name, going in known}

    def wait(self, seconds: float) -> None:
        """Wait so long, or until something has changed. Local."""
        with self._changed:
            if not self._woken:
                self._changed.wait(min(max(seconds, 0.0), threading.TIMEOUT_MAX))

    def enter(self, record: Record) -> None:
        """Leave the ends of runs to a loop from now on. ``record``: what tells Redis of them without a loop. Local."""
        with self._changed:
            self._loops, self._record = self._loops + 1, record

    def leave(self, unsent: Sequence[End]) -> None:
        """Have the threads of the runs record their ends. What could not be sent is kept for the next loop."""
        with self._changed:
            self._ended.extendleft(reversed(unsent))
            self._loops -= 1
        if not unsent:  # otherwise Redis has just failed, and a release may wait for the caller
            self._record_alone()

    def _run(self, spec: JobSpec, run: Run, going: _Going) -> None:
        jitter = 0.0 if run.requested_by else spec.jitter
        if jitter and run.term.lost.wait(spread(run.name, run.scheduled_for, jitter)):
            log(logging.INFO, "%s: the job %r was not started: the term ended before", self.label, run.name)
            self._over(going, going.end._replace(error="the term ended before"))
            return
        began = clock.now()
        with self._changed:
            if self._going.get(run.name) is going:
                self._going[run.name] = going._replace(since=began, begun=True)
        outcome, error = self._outcome(spec, run, going)
        if os.getpid() == going.pid:
            self._over(going, going.end._replace(outcome=outcome, took=clock.now() - began, error=error))

    def _outcome(self, spec: JobSpec, run: Run, going: _Going) -> tuple[Outcome, str]:
        try:
            self._listeners.call(spec.call, run)()
        except BaseException as raised:
            if os.getpid() != going.pid:
                raise  # a child that the job has forked ends as it likes
            log(logging.ERROR, "%s: the job %r failed", self.label, run.name, exc_info=raised)
            return "failed", text_of(raised)
        return "ok", ""

    def _over(self, going: _Going, end: End | None = None) -> None:
        with self._changed:
            self._numbers[going.end.name] -= 1
            known = self._going.get(going.end.name)
            if known and known.end is going.end:
                del self._going[going.end.name]
            if end:
                self._ended.append(end)
            self._woken = True
            self._changed.notify_all()
        self._record_alone()

    def _record_alone(self) -> None:
        """Record what has ended if no loop does it; keep it for the next loop if that fails."""
        with self._changed:
            ends = [] if self._loops else list(self._ended)
            if not ends:
                return
            self._ended.clear()
        if not self._record(ends):
            with self._changed:
                self._ended.extendleft(reversed(ends))


def text_of(raised: BaseException) -> str:
    """Return an exception as a text, whatever its own text does. Local."""
    try:
        return f"{type(raised).__name__}: {raised}"[:LONGEST_ERROR]
    except Exception:
        return type(raised).__name__


def instant(slot: int) -> datetime:
    """Return a slot as an aware datetime in UTC. Local."""
    return EPOCH + timedelta(milliseconds=min(slot, LATEST))


def spread(name: str, slot: datetime, jitter: float) -> float:
    """Return the seconds by which this slot of this job starts later: the same in all processes. Local."""
    digest = hashlib.blake2b(f"{slot.isoformat()} {name}".encode(), digest_size=8).digest()
    return jitter * int.from_bytes(digest, "big") / 2**64
