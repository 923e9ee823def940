"""What must hold of jobs, by the rules J1 to J11 of ``django_leader.protocol.slots``: what was claimed, run and told.

The ledger sees what no process sees: each execution of a claim, with the records before and after it, and each start at
its true instant. What the rules do not guarantee is left out here and nowhere else: see ``_excused`` and ``_void``.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from django_leader.protocol.jobs import COUNTED, MOST_RUNS
from django_leader.protocol.orders import Order
from django_leader.protocol.slots import AHEAD, Claim, Decision, Decisions, End

from . import protocol
from .candidate import Sent
from .store import Stream
from .witness import WRONG

if TYPE_CHECKING:
    from .jobs import Run, Worker
    from .server import Server
    from .world import World

STARTS = 3
"""How often a slot may be started with ``rerun``, where no data were lost."""
UNTOLD = ("in-doubt", "unreported", "hung", "missed")
"""What may become of a run of which nobody has told the end."""


class Record(NamedTuple):
    """The record of a job, as far as it matters here."""

    last: int
    slot: int
    claim: str
    attempt: int
    outcome: str


class Start(NamedTuple):
    """One start of a slot."""

    run: Run
    at: float
    """The true instant at which its claim was executed."""
    shown: float
    """What the server's clock showed then."""
    server: Server
    """Where that was. A primary that was replaced unawares goes on, and what it is told is lost."""


class Ordered:
    """One order to run a job now."""

    def __init__(self, token: int, not_after: float) -> None:
        self.token, self.not_after = token, not_after
        """The term that may carry it out, and the server's time up to which it may be begun."""
        self.started = False
        self.withdrawn = math.inf
        """The true instant at which an operator was told that nobody will begin it."""


class Execution(NamedTuple):
    """What was there before a script of jobs ran."""

    records: dict[bytes, bytes]
    entries: int
    state: dict[bytes, bytes]


class Ledger:
    """The jobs of one episode."""

    def __init__(self, world: World) -> None:
        self.world, self.counts = world, Counter[str]()
        self._jobs = {job.name: job for job in world.setup.jobs}
        self._starts = defaultdict[tuple[str, int], list[Start]](list)
        self._void = False
        """Whether something has happened for which nothing is guaranteed."""
        self._lost: list[tuple[float, float]] = []
        """When records were lost, and what the server's clock showed then."""
        self._forgot = -math.inf
        """When the state was lost last."""
        self._reckoned: dict[Sent, float] = {}
        """Of each request, when the server's clock was read by which it has its last instant."""
        self._set_back = -math.inf
        """When the server's clock was set back last, or another server's became that."""
        self._told: list[tuple[float, float]] = []
        """When candidates have told Redis what its clock has shown, and what that was."""
        self._ended: dict[str, float] = {}
        """By the id of the claim: when its end was told to the server that is the primary."""
        self._own: dict[tuple[int, str], int] = {}
        """By term and job: the last slot that a claim of this term has decided."""
        self._latest: Counter[str] = Counter()
        """By job: the latest slot that was decided, whatever became of the data."""
        self._claimed = set[str]()
        """The ids of all claims."""
        self._sent: dict[Worker, Sent] = {}
        self._orders: dict[str, Ordered] = {}
        self._due: dict[str, tuple[Worker, Run]] = {}
        """By the id of the claim: ends that are still to be told."""

    # What happens

    def loses(self, *, state: bool) -> None:
        """Note that records of jobs are lost; and the ``state``, too."""
        now = self.world.now
        self._lost.append((now, self.world.server.wall(now)))
        self._forgot = now if state else self._forgot
        runs = (run for candidate in self.world.candidates for run in candidate.process.runs.values())
        self.counts["losses with runs going on"] += any(runs)

    def set_back(self) -> None:
        """Note that the server's clock shows less than it did."""
        self._set_back = self.world.now

    def tells(self, sent: Sent, verdict: str) -> None:
        """Note what a campaign or a reclaim has told of the server's clock."""
        now, shown = self.world.now, sent.shown
        if verdict == "granted":
            shown = max(shown, self.world.server.wall(now))
        if verdict in ("granted", "quarantined", "renewed"):
            self._told.append((now, shown))

    def _clock_read_at(self, worker: Worker) -> float:
        """Return the true instant of the last answer by which a process reckons the server's clock."""
        seen = worker.candidate.state.watch.observation
        read = max(worker.session._seen_at, seen.asked_at if seen else -math.inf)
        return self.world.now - (worker.candidate.local() - read) * (1 + WRONG) if read > -math.inf else self.world.now

    def sends(self, worker: Worker, sent: Sent) -> None:
        """A request of jobs leaves."""
        again = worker in self._sent and self._sent[worker].request is sent.request
        self._sent[worker], self._reckoned[sent] = sent, self._clock_read_at(worker)
        if sent.name == "claim" and not again:
            local = worker.candidate.local()
            free = self.world.setup.threads - sum(not run.hung(local) for run in worker.process.runs.values())
            for claim in claims(sent):
                run, number = worker.process.runs.get(claim.name), len(worker.process.all[claim.name])
                known = (
                    "0" if run is None else "1" if not run.hung(local) else "hung" if number < MOST_RUNS else "blocks"
                )
                new = claim.claim_id not in self._claimed and known in ("0", "hung")
                self._claimed.add(claim.claim_id)
                free -= new
                if new and free < 0:
                    self._violated("J8", f"{worker.name} claims {claim.name}, and too many runs go on")
                if claim.last_run != known:
                    self._violated("J8", f"{worker.name} says {claim.last_run} of {claim.name}, not {known}")

    def ends(self, worker: Worker, run: Run) -> None:
        """A process has a run's end to tell."""
        self._due[run.claim_id] = worker, run

    def passes_on(self, worker: Worker, end: End) -> None:
        """The worker of a later term has an end that could not be told before."""
        if known := self._due.get(end.claim_id):
            self._due[end.claim_id] = worker, known[1]

    def starts(self, worker: Worker, run: Run, verdict: str, sent: Sent) -> None:
        """A run starts."""
        now, name = self.world.now, run.job.name
        self.world.note(f"{worker.name}: {verdict} {name} {run.slot} by {run.claim_id}")
        term, replicas = worker.candidate.state.term, worker.timing.replicas
        if not (worker.candidate.leads(now) and term and term.token == run.token):
            self._violated("J2", f"{worker.name} starts {name} {run.slot}, and does not lead by {run.token}")
        if replicas and (sent.name != "WAIT" or sent.reply < replicas):
            self._violated("J9", f"{worker.name} starts {name} {run.slot}, which too few replicas have")
        going = worker.process.runs.get(name)
        if going and not going.hung(worker.candidate.local()):
            self._violated("J8", f"{worker.name} starts {name} {run.slot} while {going.slot} goes on")
        if len(worker.process.all[name]) >= MOST_RUNS:
            self._violated("J8", f"{worker.name} starts {name} {run.slot} beside {MOST_RUNS} others that hang")
        busy = sum(not one.hung(worker.candidate.local()) for one in worker.process.runs.values())
        self.counts["starts in the last free thread"] += busy == self.world.setup.threads - 1
        self.counts["starts beyond the threads, by a claim that was sent again"] += busy >= self.world.setup.threads
        claimed = worker.claimed
        assert claimed
        assert claimed.connection
        start = Start(run, claimed.executed, claimed.wall, claimed.connection[0])
        starts = self._starts[name, run.slot]
        if starts:
            self._again(starts, start, verdict)
        starts.append(start)

    # Orders

    def orders(self, order: Order, token: int, not_after: float) -> None:
        """An operator gives an order."""
        self.world.note(f"an operator orders {order.order_id} of {token}, up to {not_after:.3f}")
        self._orders[order.order_id] = Ordered(token, not_after)

    def withdraws(self, order: Order) -> None:
        """An operator was told that nobody will begin it."""
        self._orders[order.order_id].withdrawn = self.world.now

    def carries_out(self, worker: Worker, run: Run, order: Order, sent: Sent) -> None:
        """J11: an order is carried out."""
        now, known, name = self.world.now, self._orders[order.order_id], run.job.name
        self.world.note(f"{worker.name}: runs {name} by {order.order_id}")
        term, what = worker.candidate.state.term, f"{worker.name} carries out {order.order_id}"
        if known.started:
            self._violated("J11", f"{what} once more")
        known.started = True
        if run.token != known.token:
            self._violated("J11", f"{what} by {run.token}, and {known.token} was meant")
        if not (worker.candidate.leads(now) and term and term.token == run.token):
            self._violated("J2", f"{what}, and does not lead by {run.token}")
        if sent.wall > known.not_after + 0.001:
            self._violated("J11", f"{what}, which it has taken {sent.wall - known.not_after:.3f} s too late")
        lost = any(at >= known.withdrawn for at, _ in self._lost) or len(self.world.cluster.nodes) > 1
        if sent.executed > known.withdrawn and not lost:
            self._violated("J11", f"{what}, which was withdrawn")
        if name in worker.process.runs:
            self._violated("J8", f"{what} while {worker.process.runs[name].slot} of {name} goes on")

    def _taken(self, server: Server, sent: Sent, reply: bytes, before: Execution) -> None:
        """J2, J11: only the term that leads is heard, and no slot is decided."""
        words, state, now = sent.request.words(b""), before.state, self.world.now
        verdict, worker = reply.split(b"\n")[1].decode(), sent.candidate
        self.counts[f"orders: {verdict}"] += 1
        if server.store.values.get(protocol.SLOTS, {}) != before.records:
            self._violated("J11", f"{worker.name} takes an order, and the record of a job has changed")
        if verdict in ("stale", "late"):
            if self._entries(server, before):
                self._violated("J2", f"an order that is {verdict} has written")
            return
        led = state[b"kind"] in (b"lease", b"reclaimed") and (state[b"token"], state[b"holder"]) == (words[6], words[5])
        if not led or float(state[b"until"]) <= server.wall(now) * 1000 - 1:
            self._violated("J2", f"{worker.name} takes an order, and does not lead")

    # Starts

    def _again(self, starts: list[Start], start: Start, verdict: str) -> None:
        run, last = start.run, starts[-1]
        which = f"{run.job.name} {run.slot}, first by {last.run.token} and then by {run.token}"
        lost = self._lost[-1][0] if self._lost else -math.inf
        if run.job.in_doubt == "skip":
            if not all(self._excused(one) for one in starts):
                self._violated("J1", f"started twice: {which}")
            self._excuse("told by nobody")
        elif last.run.token == run.token and last.run.ended_at < start.at:
            self._violated("J6", f"started again by the term that has seen it end: {which}")
        elif lost < last.at and last.server is start.server:
            if verdict != "rerun":
                self._violated("J1", f"claimed twice: {which}")
            if self._ended.get(last.run.claim_id, math.inf) < start.at:
                self._violated("J5", f"started again though its end was told: {which}")
            if sum(one.at > lost for one in starts) >= STARTS:
                self._violated("J5", f"started a fourth time: {which}")

    def _excused(self, start: Start) -> bool:
        """Whether nobody who saw the server's clock as it was has told so since data were lost.

        The clock was set back before that.
        """
        lost = [shown for at, shown in self._lost if at > start.at]
        return (
            bool(lost)
            and lost[-1] < start.shown
            and all(shown < start.shown for at, shown in self._told if at > max(self._forgot, start.at))
        )

    def _excuse(self, why: str) -> None:
        self.world.note(f"excused: {why}")
        self.counts[f"excused ({why})"] += not self._void
        self._void = True

    def _violated(self, rule: str, what: str) -> None:
        if not self._void:
            self.world.violated(f"{rule}: {what}")

    # Executions

    def before(self, server: Server) -> Execution:
        """What is there before a script of jobs runs."""
        values = server.store.values
        return Execution(dict(values.get(protocol.SLOTS, {})), _length(server), dict(values.get(protocol.STATE, {})))

    def after(self, server: Server, sent: Sent, reply: Any, before: Execution) -> None:
        """Check what a script of jobs has done."""
        self.counts[{"claim": "claims", "take": "orders taken"}.get(sent.name, "ends told")] += 1
        if sent.name == "finish":
            self._finished(server, sent)
            return
        if sent.name == "take":
            self._taken(server, sent, reply, before)
            return
        answer: Decisions = sent.request.read(reply)
        records, entries = server.store.values.get(protocol.SLOTS, {}), self._entries(server, before)
        if answer.verdict != "decided":
            self.counts[answer.verdict] += 1
            if records != before.records or entries:
                self._violated("J2", f"a claim that is {answer.verdict} has written")
            return
        self._admitted(server, sent, before.state)
        for claim, decision in zip(claims(sent), answer.each, strict=True):
            field = b"job:" + claim.name.encode()
            told = [entry for entry in entries if entry["name"] == claim.name]
            known = read(before.records.get(field))
            again = known is not None and known.claim == claim.claim_id  # it was not early when it was granted
            if not again and decision.verdict in COUNTED:
                self._on_time(claim, decision, server.wall(self.world.now) * 1000)
            self._one(server, sent, claim, decision)
            self._covered(sent, claim, decision, (known, read(records.get(field))), told)

    def _finished(self, server: Server, sent: Sent) -> None:
        count, *words = [word.decode() for word in sent.request.words(b"")]
        words = words[int(count) + 2 :]
        for first in range(0, len(words), 9):
            self._due.pop(words[first + 3], None)
            if server is self.world.server:
                self._ended[words[first + 3]] = self.world.now

    def _entries(self, server: Server, before: Execution) -> list[dict[str, str]]:
        stream = server.store.values.get(protocol.RUNS) or Stream()
        new = [fields for _, fields in stream[before.entries :]]
        return [dict(zip(*[iter(map(bytes.decode, fields))] * 2, strict=True)) for fields in new]

    def _admitted(self, server: Server, sent: Sent, state: dict[bytes, bytes]) -> None:
        """J2, J6, J7: only the term that leads is heard, and only by what it asks now."""
        words, now = sent.request.words(b""), self.world.now
        worker: Any = sent.candidate
        if (
            state[b"token"] != words[6]
            or state[b"holder"] != words[5]
            or state[b"kind"] not in (b"lease", b"reclaimed")
        ):
            self._violated("J2", f"{worker.name} does not lead, and is heard")
        if float(state[b"until"]) <= server.wall(now) * 1000 - 1:
            self._violated("J2", f"{worker.name} is heard after its lease")
        if state[b"memory"] != words[8]:
            self._violated("J6", f"{worker.name} is heard with what it knew before a loss of data")
        latest, operation, waits_for = self._sent[worker], worker.timing.operation, worker.request
        if waits_for and waits_for.request is sent.request:
            return
        if self._set_back >= self._reckoned[sent]:
            if any(at >= sent.sent for at, _ in self._lost):
                self._excuse("a claim came late, by a clock that was set back, and records were lost")
        elif latest.request is not sent.request and latest.sent - sent.sent < operation * (1 - WRONG):
            self._violated("J7", f"{worker.name} has gone on before its claim was too old")
        elif now - sent.sent > operation * (1 + WRONG) + 0.001:
            self._violated("J7", f"{worker.name} has given this claim up")

    def _on_time(self, claim: Claim, decision: Decision, shows: float) -> None:
        if claim.slot > shows + AHEAD * 1000:
            what = f"{claim.name} {claim.slot}: {decision.verdict}"
            self._violated("J3", f"{what}, {claim.slot - shows:.0f} ms ahead")

    def _one(self, server: Server, sent: Sent, claim: Claim, decision: Decision) -> None:
        """J3, J4, J6: the instant of one claim is right, and what its term says of itself."""
        shows, verdict = server.wall(self.world.now) * 1000, decision.verdict
        what = f"{claim.name} {claim.slot}: {verdict}"
        if verdict == "run" and shows - 1 > claim.slot + claim.grace * 1000:
            self._violated("J4", f"{what} after its grace")
        if verdict == "waiting" and decision.last <= shows:
            self._violated("J3", f"{what} for a time that has come")
        worker: Any = sent.candidate
        own = worker.token, claim.name
        if claim.own_last > self._own.get(own, 0):
            self._violated("J6", f"{what}, and {claim.own_last} was not decided by {worker.token}")
        self._latest[claim.name] = max(self._latest[claim.name], decision.last, claim.slot)
        if verdict in (*COUNTED, "rerun"):
            self._own[own] = max(self._own.get(own, 0), decision.slot)

    def _covered(
        self,
        sent: Sent,
        claim: Claim,
        decision: Decision,
        records: tuple[Record | None, Record | None],
        told: list[dict[str, str]],
    ) -> None:
        """J4: no slot is left out between the record before and the record after, and no run is forgotten."""
        before, after = records
        what = f"{claim.name} {claim.slot}: {decision.verdict}"
        last = before.last if before else 0
        older = claim.own_last > last
        covered = max(last, claim.own_last)
        for entry in told:
            slot = int(entry["slot"])
            if "since" in entry:
                self.counts[f"{entry['outcome']} (several)"] += 1
                if int(entry["since"]) > covered:
                    self._violated("J4", f"{what}, and nothing is told of {covered} to {entry['since']}")
                covered = max(covered, slot)
            elif slot == claim.slot and entry["outcome"] == decision.verdict and claim.before <= covered:
                covered = max(covered, slot)
            else:
                self.counts[f"runs {entry['outcome']}"] += 1
        if decision.verdict == "run" and claim.before <= covered:
            covered = max(covered, claim.slot)
        if after and not last <= after.last <= covered:
            self._violated("J4", f"{what}, and nothing is told of {covered} to {after.last}, after {last}")
        if not before or before.outcome != "-" or older:
            return
        still = after and (after.slot, after.claim, after.outcome) == (before.slot, before.claim, "-")
        again = (
            after and decision.verdict == "rerun" and (after.slot, after.attempt) == (before.slot, before.attempt + 1)
        )
        if (
            not still
            and not again
            and not any(int(entry["slot"]) == before.slot and entry["outcome"] in UNTOLD for entry in told)
        ):
            self._violated("J5", f"{what}, and nothing is told of the run of {before.slot}")
        self._unreported(claim, before, told)

    def _unreported(self, claim: Claim, before: Record, told: list[dict[str, str]]) -> None:
        """J7: what has begun, and was told to have ended, is not unreported."""
        starts = self._starts[claim.name, before.slot]
        if not any(entry["outcome"] == "unreported" for entry in told) or not starts:
            return
        last = starts[-1]
        if last.run.claim_id == before.claim and not any(at > last.at for at, _ in self._lost):
            self._violated("J7", f"{claim.name} {before.slot} is unreported, and was started")

    # At the end

    def finish(self, leader: Any, calm: float) -> None:
        """Check, when all has been well since the true instant ``calm``, that ends were told and slots decided."""
        world = self.world
        for worker, run in self._due.values():
            kept = worker.gave_up and any(end.claim_id == run.claim_id for end in worker.session.unsent())
            if run.ended_at < calm and not worker.process.dead and not kept:
                self._violated("J5", f"{worker.name} has never told the end of {run.job.name} {run.slot}")
        shows = world.server.wall(world.now)
        slack = AHEAD + leader.timing.retry + 4 * leader.timing.operation
        late = world.setup.long > 0 and world.setup.threads < math.inf  # slots wait for the end of runs
        for job in world.setup.jobs if world.began_at < world.now - slack and not late else ():
            due = job.schedule.latest(math.floor((shows - slack) * 1000))
            if self._latest[job.name] < due:
                self._violated("J4", f"{due} of {job.name} is not decided, only {self._latest[job.name]}")


def read(text: bytes | None) -> Record | None:
    """A record; None if it cannot be read."""
    words = dict(word.partition("=")[::2] for word in (text or b"").decode().partition(" process=")[0].split(" ")[1:])
    try:
        return Record(int(words["last"]), int(words["slot"]), words["claim"], int(words["attempt"]), words["outcome"])
    except (KeyError, ValueError):
        return None


def claims(sent: Sent) -> list[Claim]:
    """The claims in a request. Their ``last_run`` is the word for it."""
    words = [word.decode() for word in sent.request.words(b"")][10:]
    found = []
    for first in range(0, len(words), 8):
        name, slot, before, claim_id, grace, in_doubt, here, own_last = words[first : first + 8]
        policy: Any = in_doubt
        known: Any = here
        found.append(Claim(name, int(slot), int(before), claim_id, int(grace) / 1000, policy, known, int(own_last)))
    return found


def _length(server: Server) -> int:
    return len(server.store.values.get(protocol.RUNS) or ())
