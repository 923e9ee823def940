"""The driver of the jobs of one term, without its I/O: what to claim, when, and what an answer means.

NOT guaranteed here:

- That what was decided is started. The caller starts a run only while its own term still stands (J2, in ``slots``).
- That a slot is claimed at its very instant. The server's clock is reckoned from the last answer, and the claim is then
  late by up to the time that this answer took.

The caller (``runtime.jobs``, and the simulation) asks ``next`` what to do, in one thread. It sends the request and
passes what comes back to ``reply``, or calls ``failed``. It calls ``ended`` when a run has ended. It asks again, too,
after each answer to the candidate, because the server's clock may have been set since the wait was reckoned.

- At most one request is under way. A request that failed is tried again only when the first is too old to be executed
  (``not_after``), because a copy that comes late must not follow a later claim (J7).
- The ends of runs leave before claims, so that a claim finds the last run of its job ended.
- Of the slots of a job that are due only the last is claimed. The script records the others as missed (J4).
- While as many runs go on as there may, only jobs whose run goes on are claimed, because those start none. The slots of
  the others stay due, the earliest first. A claim that is made is never put off.
- Of the runs of a job at most ``MOST_RUNS`` go on, and all but the last of them are hung (J8).
- A term begins with a claim of the last slot of each job, whatever became of that slot. So does the time after a loss
  of data. This makes the records this memory's own, and only slots of the lost time stay in doubt (J6).
- A claim that has no answer yet keeps its slot and its id until it has one (J7).
- With ``MIN_REPLICAS`` an answer counts when ``WAIT``, which follows on the same connection, says so (J9).
- Orders to run a job now are taken when no claim is under way or without an answer, so that the two do not overlap. The
  session remembers those that were started, because a message may come twice when data were restored (J11). It need not
  wait for replicas, because no other process may take an order of this term.

Instants are seconds on the boot clock, slots are milliseconds on the server's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from .config import Timing
from .expiry import ExpiryProof
from .machine import FIRST_BACKOFF
from .orders import Order
from .schedule import Schedule
from .session import Leave, Send, Wait
from .slots import (
    MOST_CLAIMS,
    Claim,
    Decision,
    Decisions,
    End,
    InDoubt,
    LastRun,
    SlotRequests,
    Taken,
    Verdict,
    new_claim_id,
)
from .template import Request

LONGEST_GRACE = 600.0
"""Seconds after its slot up to which a run may start, at most, where the job does not say it: ten minutes, which is
longer than a restart of most servers takes."""
MOST_RUNS = 3
"""Runs of a job that go on at a time in a process, at most, if the earlier ones are hung."""
COUNTED = ("run", "missed", "overlapped", "in-doubt", "unknown")
"""The verdicts by which the claim has decided its slot."""
MOST_ORDERS = 100
"""Orders that wait at a time. Any program that writes to Redis can cause some."""


class Job(NamedTuple):
    """A job, as far as its slots go."""

    name: str
    schedule: Schedule
    grace: float | None = None
    """Seconds after a slot up to which its run may start. None: half of the time since the slot before, at most ten
    minutes."""
    in_doubt: InDoubt = "skip"
    max_run: float = math.inf
    """Seconds after which a run counts as hung."""

    def grace_of(self, slot: int, before: int) -> float:
        """Return the grace of ``slot``, which follows the slot ``before``. Local."""
        return min((slot - before) / 2000, LONGEST_GRACE) if self.grace is None else self.grace


class Decided(NamedTuple):
    """What became of the slot of a job, or of an order to run it now."""

    job: Job
    claim: Claim
    decision: Decision
    order: Order | None = None
    """Of an order, the slot is the instant at which it was given."""


class Going(NamedTuple):
    """The last run of a job, which goes on in this process."""

    since: float
    number: int = 1
    """How many runs of the job go on, with this one."""
    begun: bool = True
    """Whether it does more than wait for its jitter."""


class _Entry:
    """A job in this term."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.claim: Claim | None = None
        """A claim that has no answer yet."""
        self.due: float = 0
        """The next slot to claim; 0: the last one, because this term does not know what became of it."""
        self.own_last = 0
        self.waits_since = math.inf
        """Since when the slot is due and not claimed, because too many runs go on."""


class JobSession:
    """The jobs of one term. For one thread at a time.

    ``going``: the last run of each job, if it goes on in this process, by the name of the job. The caller keeps it.
    ``threads``: how many runs may go on at a time. Hung ones, and those that wait for their jitter, are not counted.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        requests: SlotRequests,
        timing: Timing,
        going: Mapping[str, Going],
        await_replicas: Request,
        new_id: Callable[[], str] = new_claim_id,
        threads: float = math.inf,
    ) -> None:
        self._entries = [_Entry(job) for job in jobs]
        self._max_run = {entry.job.name: entry.job.max_run for entry in self._entries}
        self._threads = threads
        self.put_off = 0
        """How many jobs have a slot that is due and is not claimed, because too many runs go on."""
        self.waits_since = math.inf
        """Since when one of these waits, at the longest."""
        self._requests, self._timing, self._going, self._new_id = requests, timing, going, new_id
        self._await_replicas = await_replicas
        self._memory = ""
        self._sent: list[_Entry] = []
        """The jobs whose claims are under way, or wait for replicas."""
        self._unconfirmed: Decisions | None = None
        """What counts as soon as enough replicas have it."""
        self._ends: deque[End] = deque()
        self._sent_ends = 0
        self._orders: dict[str, Order] = {}
        """What waits, by the id of the order; the oldest first."""
        self._started: set[str] = set()
        """The ids of the orders that this term has started."""
        self._free: float = 0
        """Runs that may be started now."""
        self._seen_at, self._ahead = -math.inf, 0.0
        """When the last claims were answered, and how far the server's clock was ahead of ours then, at least."""
        self._too_old_at = -math.inf
        """When the last request is too old to be executed."""
        self._not_before, self._failures = -math.inf, 0
        self._last_try = False
        """Whether ends were sent after the term and have no answer."""

    def next(self, now: float, watch: ExpiryProof, deadline: float) -> Send | Wait | Leave:
        """Return what to do now. Local.

        ``watch``: what the candidate has seen of the server's clock. ``deadline``: of the term; when it is over, only
        the ends of runs are still sent.
        """
        if now >= deadline:
            return self._last_ends()
        if self._unconfirmed:
            return Send(self._await_replicas)
        if now < self._not_before:
            return Wait(self._not_before)
        if self._ends:
            return self._finish()
        ahead = self._server_ahead(watch)
        at = math.floor((now + ahead) * 1000)
        due = [entry for entry in self._entries if entry.claim or entry.due <= at]
        self._sent = self._choose(due, now)
        if self._sent:
            self._too_old_at = now + self._timing.operation
            not_after = min(self._too_old_at, deadline) + ahead
            return Send(
                self._requests.claim([self._claim(entry, at, now) for entry in self._sent], not_after, self._memory)
            )
        until = min((entry.due / 1000 - ahead for entry in self._entries if entry.due > at), default=math.inf)
        if self._orders:
            order = next(iter(self._orders.values()))
            last_run = self._known(order)
            if self._free > 0 or last_run != "over":
                self._too_old_at = now + self._timing.operation
                return Send(self._requests.take(order, last_run, min(self._too_old_at, deadline) + ahead))
        return Wait(min(until, self._hung_at(now)) if self.put_off or self._orders else until)

    def _known(self, order: Order) -> Literal["over", "goes-on", "absent"]:
        """Return what is known here of the last run of the job that is to be run. Local."""
        if self._job(order) is None:
            return "absent"
        return "goes-on" if order.name in self._going else "over"

    def _choose(self, due: list[_Entry], now: float) -> list[_Entry]:
        """Return which jobs to claim. First those whose claim has no answer, then those that are due for longest."""
        chosen: list[_Entry] = []
        self.put_off, self.waits_since = 0, math.inf
        free = self._threads - sum(self._counts(name, now) for name in self._going)
        for entry in sorted(due, key=lambda entry: (entry.claim is None, entry.due)):
            starts = self._last_run(entry.job, now) in ("over", "hung")
            if starts and free <= 0 and entry.claim is None:
                entry.waits_since = min(entry.waits_since, now)
                self.put_off, self.waits_since = self.put_off + 1, min(self.waits_since, entry.waits_since)
            elif len(chosen) < MOST_CLAIMS:
                entry.waits_since = math.inf
                chosen.append(entry)
                free -= starts
        self._free = free
        return chosen

    def _counts(self, name: str, now: float) -> bool:
        """Return whether the last run of a job is one of those that go on. Local."""
        going = self._going[name]
        return going.begun and now - going.since <= self._max_run.get(name, math.inf)

    def _hung_at(self, now: float) -> float:
        """Return when the next of the runs that go on is hung. Local."""
        counted = [name for name in self._going if self._counts(name, now)]
        return min((self._going[name].since + self._max_run.get(name, math.inf) for name in counted), default=math.inf)

    def _last_run(self, job: Job, now: float) -> LastRun:
        going = self._going.get(job.name)
        if going is None:
            return "over"
        if now - going.since <= job.max_run:
            return "goes-on"
        return "hung" if going.number < MOST_RUNS else "blocks"

    def _last_ends(self) -> Send | Leave:
        """Send the ends once the term is over. What fails then is not tried again, because a release may wait."""
        if not self._ends or self._last_try:
            return Leave()
        self._last_try = True
        return self._finish()

    def _finish(self) -> Send:
        self._sent_ends = min(len(self._ends), MOST_CLAIMS)
        return Send(self._requests.finish([self._ends[index] for index in range(self._sent_ends)]))

    def reply(self, request: Request, reply: Any, now: float) -> list[Decided]:
        """Return what was decided by ``reply``, which came at ``now``: of ``run`` and ``rerun`` start the runs. Local.

        Raise ``GarbledReply`` if it is no reply to ``request``; call ``failed`` then.
        """
        meaning = request.read(reply)
        if isinstance(meaning, Decisions):
            return self._answered(meaning, now)
        if isinstance(meaning, Taken):
            return self._took(meaning, now)
        if request is self._await_replicas:
            return self._confirmed(meaning, now)
        for _ in range(self._sent_ends):
            self._ends.popleft()
        self._failures, self._last_try = 0, False
        return []

    def failed(self, now: float) -> None:
        """Note that the request failed, or that its outcome is unknown. Local."""
        self._unconfirmed = None
        self._pause(now)
        self._not_before = max(self._not_before, self._too_old_at)

    def ended(self, end: End) -> None:
        """Note that a run has ended, or could not be started. Local."""
        self._ends.append(end)
        self._last_try = False

    def want(self, slot: int, before: int) -> None:
        """Have ``next`` claim ``slot`` of the only job, whatever its schedule says. Local.

        ``before``: the slot before that one. A claim that has no answer yet is sent again instead (J7).
        """
        [entry] = self._entries
        entry.claim = entry.claim or self._new_claim(entry.job, slot, before)

    def ordered(self, order: Order) -> None:
        """Note an order to run a job now. Do nothing if one of its id was received before. Local."""
        if order.order_id not in self._started and len(self._orders) < MOST_ORDERS:
            self._orders.setdefault(order.order_id, order)

    @property
    def undecided(self) -> bool:
        """Whether a claim has no answer yet. Local."""
        return any(entry.claim for entry in self._entries)

    def unsent(self) -> list[End]:
        """Return the ends that no answer has confirmed. Local."""
        return list(self._ends)

    def _server_ahead(self, watch: ExpiryProof) -> float:
        """Return by how many seconds the server's clock is ahead of ours, at least, as the last answer says."""
        seen = watch.observation
        return seen.offset_min if seen and seen.asked_at > self._seen_at else self._ahead

    def _claim(self, entry: _Entry, at: int, now: float) -> Claim:
        job = entry.job
        if entry.claim is None:
            slot = job.schedule.latest(at)
            entry.claim = self._new_claim(job, slot, job.schedule.latest(slot - 1))
        entry.claim = entry.claim._replace(last_run=self._last_run(job, now), own_last=entry.own_last)
        return entry.claim

    def _new_claim(self, job: Job, slot: int, before: int) -> Claim:
        return Claim(job.name, slot, before, self._new_id(), job.grace_of(slot, before), job.in_doubt)

    def _job(self, order: Order) -> Job | None:
        return next((entry.job for entry in self._entries if entry.job.name == order.name), None)

    def _took(self, taken: Taken, now: float) -> list[Decided]:
        self._seen_at, self._ahead = now, taken.at - now
        if taken.verdict in ("stale", "late"):
            self._pause(now)
            return []
        self._failures, order = 0, self._orders.pop(next(iter(self._orders)))
        job = self._job(order)
        if job is None or taken.verdict not in ("run", "overlapped"):
            return []
        verdict: Verdict = "run" if taken.verdict == "run" else "overlapped"
        self._started.add(order.order_id)
        claim = Claim(job.name, taken.given, 0, order.order_id, 0.0)
        return [Decided(job, claim, Decision(verdict, taken.given, 1, 0, 0, "none"), order)]

    def _answered(self, answer: Decisions, now: float) -> list[Decided]:
        self._seen_at, self._ahead = now, answer.at - now
        if answer.verdict == "decided" and self._timing.replicas:
            self._unconfirmed = answer
            return []
        if answer.verdict == "decided":
            return self._decide(answer)
        if answer.verdict == "forgotten":
            self._memory = answer.memory
            for entry in self._entries:
                entry.due = 0
        else:
            self._pause(now)
        return []

    def _confirmed(self, replicas: int, now: float) -> list[Decided]:
        answer, self._unconfirmed = self._unconfirmed, None
        if answer and replicas >= self._timing.replicas:
            return self._decide(answer)
        self._pause(now)
        return []

    def _decide(self, answer: Decisions) -> list[Decided]:
        self._failures, decided = 0, []
        for entry, decision in zip(self._sent, answer.each, strict=True):
            claim, entry.claim = entry.claim, None
            assert claim
            if decision.verdict in COUNTED:
                entry.own_last = claim.slot
            elif decision.verdict == "rerun":
                entry.own_last = max(entry.own_last, decision.slot)
            if decision.verdict not in ("early", "rerun"):
                entry.due = next_slot(entry.job.schedule, max(claim.slot, decision.last))
            elif decision.verdict == "early":
                entry.due = claim.slot
            decided.append(Decided(entry.job, claim, decision))
        return decided

    def _pause(self, now: float) -> None:
        self._not_before = now + min(FIRST_BACKOFF * 2.0 ** min(self._failures, 16), self._timing.retry)
        self._failures += 1


def next_slot(schedule: Schedule, after: int) -> float:
    """Return the next slot; infinity if there is none that a schedule can name, as behind a forged record. Local."""
    try:
        return schedule.next(after)
    except (ValueError, ArithmeticError, StopIteration, OSError):
        return math.inf
