"""The thread of the jobs of one term in a simulated process: what a process does around a ``JobSession``.

It sends one request at a time on a connection of its own, starts a run only while its own term still stands, and goes
on to tell how runs have ended when the term is over.
"""

from __future__ import annotations

import math
import random
from functools import partial
from typing import TYPE_CHECKING, Any

from django_leader.protocol import machine
from django_leader.protocol.config import Timing
from django_leader.protocol.jobs import Decided, Going, Job
from django_leader.protocol.orders import Order
from django_leader.protocol.session import Leave, Send
from django_leader.protocol.slots import End, Outcome, SlotRequests

from .candidate import ALARM_ROUNDING, Candidate, Clock, Sent

if TYPE_CHECKING:
    from .server import Server

FAILS_TO_START = 0.02
"""How often a run cannot be started."""
FAILS_EARLY = 0.5
"""How often a request that is under way for long ends by an error before the timeout of the operation."""


class Run:
    """One run of a job in a process."""

    def __init__(
        self, job: Job, slot: int, claim_id: str, token: int, began: float, order: Order | None = None
    ) -> None:
        self.job, self.slot, self.claim_id, self.token, self.order = job, slot, claim_id, token, order
        self.began = began
        """By the clock of its process."""
        self.ended_at = math.inf
        """The true instant at which its process has seen it end."""

    def hung(self, local: float) -> bool:
        """Whether it counts as hung when the clock of its process shows ``local``."""
        return local - self.began > self.job.max_run


class Worker:
    """The jobs of one term."""

    def __init__(self, candidate: Candidate, term: machine.Term) -> None:
        world, config = candidate.world, candidate.config
        self.world, self.candidate, self.process, self.token = world, candidate, candidate.process, term.token
        self.name, self.numbers, self.delay = f"{candidate.name}'s jobs", candidate.numbers, 0.0
        self.rng = random.Random(f"jobs {candidate.id} {term.token} {world.setup.seed}")
        self.session = world.rules.jobs(
            world.setup.jobs,
            SlotRequests(config.keys, candidate.id, term.token, term.began),
            config.timing,
            self.process.going,
            candidate.session.requests.await_replicas(),
            lambda: f"c{world.number()}",
            world.setup.threads,
        )
        self.request: Sent | None = None
        self.connected: tuple[Server, int, int] | None = None
        self.claimed: Sent | None = None
        """The claims that were answered last."""
        self.late_until = 0.0
        """When what this thread sends is delivered, whatever becomes of the candidate's own requests."""
        self._alarm = 0
        self.gave_up = False
        """Whether the last end that it was given could not be told after the term: the next term has it."""
        if self.process.worker:
            for end in self.process.worker.session.unsent():
                self.session.ended(end)
                world.ledger.passes_on(self, end)
        self.process.worker = self

    @property
    def clock(self) -> Clock:
        """That of the process."""
        return self.candidate.clock

    @property
    def timing(self) -> Timing:
        """That of the candidate."""
        return self.candidate.timing

    @property
    def link(self) -> str:
        """The network of the process."""
        if self.late_until > self.world.now:
            return "held"
        return "good" if self.world.calm else self.candidate.link

    @property
    def held_until(self) -> float:
        """When what it sends is delivered, while its link is held."""
        return max(self.late_until, self.candidate.held_until)

    def stands(self) -> bool:
        """Return whether its own term is certain now."""
        return self.candidate.local() < self._deadline()

    def _deadline(self) -> float:
        term = self.candidate.state.term
        own = term is not None and term.token == self.token and self.candidate.alive
        return term.deadline if term and own else -math.inf

    def go_on(self) -> None:
        """Do what the session says, until there is something to wait for."""
        if self.request or self.process.frozen or self.process.dead:
            return
        self._alarm += 1
        local = self.candidate.local()
        todo = self.session.next(local, self.candidate.state.watch, self._deadline())
        if isinstance(todo, Send):
            self._send(Sent(self, todo.request, self.world.now))
        elif isinstance(todo, Leave):
            self.gave_up = True
        elif not math.isinf(todo.until):
            self.world.at(self.clock.true(max(todo.until, local)) + ALARM_ROUNDING, self._alarmed, self._alarm)

    def _alarmed(self, alarm: int) -> None:
        if alarm == self._alarm:
            self._do(self.go_on)

    def _do(self, action: Any) -> None:
        if self.process.frozen:
            self.process.asleep.append(action)
        elif not self.process.dead:
            action()

    def _send(self, sent: Sent) -> None:
        self.request = sent
        self.world.ledger.sends(self, sent)
        self.world.send(sent)
        if self.link == "late" and self.rng.random() < FAILS_EARLY:  # the connection ends, and the request goes on
            sent.closed = sent.used and self.rng.random() < 0.5
            self.world.after(self.rng.random() * self.timing.operation, self.answered, sent)

    def answered(self, sent: Sent) -> None:
        """Act on the reply, or on the end of the wait for it. Only the first of the two counts."""
        if sent is self.request:
            self._do(partial(self._answered, sent))

    def _answered(self, sent: Sent) -> None:
        if sent is not self.request:
            return
        self.request = None
        if sent.reply is None:
            self.connected = None
            if sent.closed and sent.name not in ("WAIT", "claim", "take"):
                self._send(Sent(self, sent.request, self.world.now))  # on a new connection, as ``Runner`` does
                return
            self.session.failed(self.candidate.local())
        else:
            self.connected = sent.connection
            self.claimed = sent if sent.name == "claim" else self.claimed
            for decided in self.session.reply(sent.request, sent.reply, self.candidate.local()):
                self._decided(decided, sent)
        self.go_on()

    def _decided(self, decided: Decided, sent: Sent) -> None:
        decision, ledger = decided.decision, self.world.ledger
        ledger.counts[f"orders {decision.verdict}" if decided.order else decision.verdict] += 1
        if decision.verdict not in ("run", "rerun"):
            return
        if self.world.rules.own_term and not self.stands():
            ledger.counts["not started"] += 1
            return
        local = self.candidate.local()
        run = Run(decided.job, decision.slot, decided.claim.claim_id, self.token, local, decided.order)
        if self.rng.random() < FAILS_TO_START:
            self._tell(run, "failed-to-start")
            return
        if decided.order:
            ledger.carries_out(self, run, decided.order, sent)
        else:
            ledger.starts(self, run, decision.verdict, sent)
        self.process.all[run.job.name].append(run)
        self.process.runs[run.job.name] = run
        self._count(run.job.name)
        self.world.after(self.world.setup.takes(self.rng), self._over, run)

    def _over(self, run: Run) -> None:
        self._do(partial(self._ended, run))

    def _ended(self, run: Run) -> None:
        run.ended_at = self.world.now
        name = run.job.name
        self.process.all[name].remove(run)
        if self.process.runs.get(name) is run:
            del self.process.runs[name]
        self._count(name)
        self._tell(run, "ok" if self.rng.random() < 0.8 else "failed")

    def _count(self, name: str) -> None:
        """Have the sessions know what goes on of a job."""
        self.process.going.pop(name, None)
        if last := self.process.runs.get(name):
            self.process.going[name] = Going(last.began, len(self.process.all[name]))

    def _tell(self, run: Run, outcome: Outcome) -> None:
        """Have the end told by the thread of this term, or by that of a later one."""
        worker = self.process.worker or self
        took = self.candidate.local() - run.began
        self.world.ledger.ends(worker, run)
        worker.gave_up = False
        who = run.token, run.job.name, run.slot, run.claim_id
        worker.session.ended(End(*who, outcome, took, "e" * (took > 1), run.order))
        worker.go_on()
