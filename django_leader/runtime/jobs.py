"""The loop that claims the slots of the jobs in one term, and starts their runs.

NOT guaranteed here: that slots are claimed on time in a starved process. See ``runs`` for what becomes of a run.

A term with jobs has one thread more, a gain thread (``callbacks``), which runs ``JobLoop``. It has a connection of its
own, so a slow claim delays no heartbeat. Between two slots it sleeps, and only an event wakes it: the end of a run, the
end of the term, a step of the server's clock, an order to run a job now. It survives every exception.

When the term ends voluntarily, the loop goes on while runs go on and the lease lasts. Until then the lease is not
released, as with loss callbacks.

The session and the connection belong to the thread of the loop. What it shares with the threads of the runs, ``runs``
says; with the election, ``state``.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.jobs import MOST_ORDERS, MOST_RUNS, Decided, Going, Job, JobSession, next_slot
from django_leader.protocol.orders import Order
from django_leader.protocol.requests import Requests
from django_leader.protocol.session import Leave, Send
from django_leader.protocol.slots import MOST_CLAIMS, End, SlotRequests
from django_leader.redis.connector import Connect
from django_leader.redis.lease import Lease
from django_leader.system import clock
from django_leader.system.forks import Forked
from django_leader.system.log import log
from django_leader.system.starts import insist
from django_leader.system.starvation import green

from .local import open_lease
from .runs import JobSpec, Previous, Run, Runs, instant
from .skips import Skips, Why
from .state import SharedState
from .term import Term

NOT_RUN = {
    "missed": Why(logging.WARNING, "was not run: it could not be claimed before its grace was over"),
    "overlapped": Why(logging.WARNING, "was not run: the last run still goes on"),
    "unknown": Why(logging.INFO, "was not run: there is no record of the job, which is new, or whose record was lost"),
    "waiting": Why(logging.WARNING, "waits: a later one was decided before the server's clock was set back"),
    "in-doubt": Why(logging.WARNING, "was not run: Redis has lost data, so it may have been started before"),
    "left out": Why(logging.WARNING, "was not run: no process has claimed them before a later one was due"),
    "blocked": Why(
        logging.ERROR,
        f"was not run: {MOST_RUNS} of its runs hang, and no other is started in this process before one of them ends; "
        "find out what they wait for, and restart the process",
    ),
}
"""What the log says of a slot that was decided otherwise than by a run; and of those that were left out before it."""
GREEN = (
    "%s: these jobs are not run in this process, because they are coroutine functions: %s. Coroutines cannot run under "
    "gevent or eventlet; make plain functions of them"
)
PATIENCE = 5.0
"""Seconds for which a slot may wait for a thread before the log says so."""
NAMED = 10
"""Jobs that keep the others waiting that are named, at most."""
NOT_ENDED = ("hung", "in-doubt", "unreported")


class Access(NamedTuple):
    """What the claims of one term need."""

    connect: Connect
    config: ValidConfig
    shared: SharedState
    term: Term
    began: float
    """Of the term: ``Answer.began``."""

    def requests(self) -> SlotRequests:
        """Return the requests of the term. Local."""
        return SlotRequests(self.config.keys, self.shared.candidate_id, self.term.token, self.began)

    def session(self, jobs: Sequence[Job], requests: SlotRequests, going: Mapping[str, Going]) -> JobSession:
        """Return the driver of these jobs. Local."""
        wait = Requests(self.config).await_replicas()
        return JobSession(jobs, requests, self.config.timing, going, wait, threads=self.config.job_threads)

    def open(self) -> Lease:
        """Return a connection of its own, which is made when it is needed. Local."""
        return open_lease(self.connect, self.config)


class JobLoop:
    """What claims the slots of one term. ``run`` does it, in a gain thread; ``end`` says that the term is over."""

    def __init__(self, runs: Runs, specs: Callable[[], Sequence[JobSpec]], access: Access) -> None:
        # Never change.
        self._runs, self._registered, self._access = runs, specs, access
        self._shared, self._term, self._requests = access.shared, access.term, access.requests()
        # Set by any thread, and never reset.
        self._over = False
        # The election thread adds, the thread of ``run`` removes.
        self._orders: deque[Order] = deque(maxlen=MOST_ORDERS)
        # Only in the thread of ``run``.
        self._lease = access.open()
        self._going: dict[str, Going] = {}
        self._specs: dict[str, JobSpec] = {}
        self._session = self._begin([])
        self._unreachable = False
        self._skips = Skips(runs.label)
        self._said_late = False

    def _begin(self, specs: Sequence[JobSpec]) -> JobSession:
        refused = [spec.job.name for spec in specs if spec.coroutine] if green() else []
        if refused:
            log(logging.ERROR, GREEN, self._runs.label, ", ".join(refused))
            specs = [spec for spec in specs if not spec.coroutine]
        self._specs = {spec.job.name: spec for spec in specs}
        return self._access.session([spec.job for spec in specs], self._requests, self._going)

    what = "the jobs"

    @property
    def said(self) -> str:
        """What it is, for the log."""
        names = ", ".join(self._runs.names())
        return f"the thread of the jobs ({names})" if names else "the thread of the jobs"

    def end(self) -> None:
        """Say that the term is over. Local, any thread."""
        self._over = True
        self._runs.wake()

    def _ordered(self, order: Order) -> None:
        self._orders.append(order)
        self._runs.wake()

    def run(self) -> None:
        """Claim slots and start runs until the term is over; then wait for the runs while the lease lasts."""
        self._session = self._begin(self._registered())
        self._runs.enter(self.record)
        self._shared.clock_stepped, self._shared.ordered = self._runs.wake, self._ordered
        try:
            with suppress(Forked):
                insist(self._take_turns_until_over, f"{self._runs.label}: the jobs")
        finally:
            self._lease.channel.drop()
            if self._shared.ours():
                self._skips.flush()
                self._runs.leave(self._session.unsent())

    def record(self, ends: Sequence[End]) -> bool:
        """Record the ends of runs that have outlasted their term. One round trip on a new connection.

        Return whether that was done.
        """
        lease = self._access.open()
        try:
            for first in range(0, len(ends), MOST_CLAIMS):
                lease.ask(self._requests.finish(ends[first : first + MOST_CLAIMS]))
            return True
        except (RedisUnavailable, Forked) as error:
            text = "%s: the end of the job %r could not be recorded: %s"
            log(logging.WARNING, text, self._runs.label, ends[0].name, error)
            return False
        finally:
            lease.channel.drop()

    def _take_turns_until_over(self) -> None:
        try:
            self._take_turns()
        except Exception:
            if not self._over:
                raise
            # A release waits for this thread, so a fault is not tried again.
            text = "%s: the ends of runs were not recorded, because of a fault of this package"
            log(logging.ERROR, text, self._runs.label, exc_info=True)

    def _take_turns(self) -> None:
        while self._shared.ours():
            ends, going = self._runs.take()
            for end in ends:
                self._session.ended(end)
            while self._orders:
                self._session.ordered(self._orders.popleft())
            self._going.clear()
            self._going.update(going)
            now = clock.now()
            deadline = 0.0 if self._over else now + self._term.lease_left
            todo = self._session.next(now, self._shared.state.watch, deadline)
            if isinstance(todo, Send):
                self._send(todo)
            elif not isinstance(todo, Leave):
                self._skips.flush(now)
                until = min(todo.until, self._skips.due, self._say_late(now))
                self._runs.wait(until - clock.now())
            elif (left := min(self._runs.hung_at() - clock.now(), self._lease_left())) > 0:
                self._runs.wait(left)
            else:
                return

    def _say_late(self, now: float) -> float:
        """Log, once a term, that slots wait for a thread. Return when to ask again, at the latest."""
        session, config = self._session, self._access.config
        if self._said_late or now < session.waits_since + PATIENCE:
            return math.inf if self._said_late else session.waits_since + PATIENCE
        self._said_late = True
        text = "%s: jobs start late: %d wait for one of the %d threads for jobs (JOB_THREADS), which are busy with %s"
        names = ", ".join(self._runs.names()[:NAMED])
        log(logging.WARNING, text, self._runs.label, session.put_off, config.job_threads, names)
        return math.inf

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
                log(logging.WARNING, "%s: no job can be started: %s", self._runs.label, error)
            return
        except BaseException:
            self._lease.channel.drop()
            self._session.failed(clock.now())
            raise
        if self._unreachable:
            self._unreachable = False
            log(logging.INFO, "%s: jobs can be started again", self._runs.label)
        for one in decided:
            try:
                self._act(one)
            except Exception:  # the others were granted, too
                text = "%s: the job %r was not started, because of a fault of this package"
                log(logging.ERROR, text, self._runs.label, one.job.name, exc_info=True)

    def _act(self, decided: Decided) -> None:
        name, decision = decided.job.name, decided.decision
        self._note(decided)
        order = decided.order
        if decision.verdict not in ("run", "rerun"):
            return
        who = self._term.token, name, decision.slot, decided.claim.claim_id
        end = End(*who, "failed-to-start", 0.0, order=order)
        if not self._term.is_current():
            log(logging.INFO, "%s: the job %r was not started: the term ended before", self._runs.label, name)
            if order or decided.claim.in_doubt == "skip":  # otherwise the next leader starts it
                self._session.ended(end._replace(error="the term ended before"))
            return
        if decision.last_outcome in NOT_ENDED:
            text = "%s: the run of the job %r for the slot %s has no known end: %s"
            log(logging.WARNING, text, self._runs.label, name, instant(decision.last_slot), decision.last_outcome)
        known = decision.last_outcome != "none"
        previous = Previous(instant(decision.last_slot), decision.last_outcome) if known else None
        run = Run(name, instant(decision.slot), decision.attempt, previous, self._term, order.by if order else "")
        try:
            self._runs.start(self._specs[name], run, end)
        except (RuntimeError, MemoryError) as error:
            self._session.ended(end._replace(error=str(error)))
            log(logging.ERROR, "%s: the job %r was not started: %s", self._runs.label, name, error)

    def _note(self, decided: Decided) -> None:
        """Log which slots were not run, and what becomes of orders."""
        (job, claim, decision, order), now = decided, clock.now()
        if order:
            text = "%s: %s has asked to run the job %r now: %s"
            log(logging.INFO, text, self._runs.label, order.by, job.name, decision.verdict)
            return
        note_left_out(self._skips, decided, now)
        if decision.verdict in NOT_RUN:
            blocked = decision.verdict == "overlapped" and claim.last_run == "blocks"
            why = NOT_RUN["blocked" if blocked else decision.verdict]
            self._skips.note(job.name, instant(decision.slot), instant(decision.slot), why, now)


def note_left_out(skips: Skips, decided: Decided, now: float) -> None:
    """Log that slots before the one that was claimed were not claimed, if there are any. Local."""
    job, claim, since = decided.job, decided.claim, decided.decision.since
    if since:
        first = min(next_slot(job.schedule, since), claim.before)
        skips.note(job.name, instant(int(first)), instant(claim.before), NOT_RUN["left out"], now)
