"""Time, the network, the server and the candidates; and what must hold at every step.

Only the world knows the true time. The candidates see their own clocks, the server sees its own, and an effective
lease is a stretch of true time in which ``is_leader()`` of one process would be true.

A step is an event that does something: a step of the machine, a script that the server runs, a fault.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NoReturn

from django_leader.protocol import machine, pace
from django_leader.protocol.config import Timing
from django_leader.protocol.requests import SERVER_TIMER

from . import protocol
from .candidate import ALARM_ROUNDING, Caller, Candidate, Clock, Sent
from .cluster import Cluster
from .jobs import Worker
from .ledger import Ledger
from .operator import Operators
from .process import Hosts
from .server import Server
from .setup import Setup
from .store import RedisError

SNAPSHOTS = 24
STALE = 1.05
"""Of what a candidate takes for the pause between two polls: more than any clock here is wrong by."""
MOST_CANDIDATES = 30
"""That count at a time, about."""
MOST_STEPS = 200_000
"""Of an episode. Ordinary ones have a thousand."""


class ViolationError(Exception):
    """Something that must hold does not."""


class World:
    """One episode."""

    def __init__(self, setup: Setup, rules: protocol.Rules, *, record: bool = False) -> None:
        self.setup, self.rules = setup, rules
        self.configs = [rules.config(config) for config in setup.configs]
        self.timing = max(config.timing for config in self.configs)
        self._started = 0
        self.sloppiness = setup.sloppiness
        self.rng = random.Random(f"world {setup.seed}")
        self.now, self.steps, self.calm = 0.0, 0, False
        self.troubled = 0.0
        """When the last thing happened that is out of the ordinary."""
        self.faults: Counter[str] = Counter()
        self.history: list[str] | None = [] if record else None
        self.cluster = Cluster(f"{setup.seed:x}", setup.servers, setup.skew, self.rng)
        self.snapshots: deque[tuple[float, Any]] = deque(maxlen=SNAPSHOTS)
        self.candidates: list[Candidate] = []
        self.hosts = Hosts(self)
        self.ledger, self.operators = Ledger(self), Operators(self)
        self.inherited = 0
        """How many terms began for a candidate that had seen the process of the last leader die."""
        self.token, self.began_at = 0, 0.0
        self.lost = False
        """Whether Redis has lost data since the last term began."""
        self.held_until = 0.0
        """The true instant before which nobody may lead, since the last leader's release holds."""
        self._queue: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        self._stepped: tuple[float, float] | None = None

    @property
    def server(self) -> Server:
        """The primary."""
        return self.cluster.primary

    # Time

    def at(self, when: float, action: Callable[..., object], *args: Any) -> None:
        """Has something happen at a true instant."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), action, args))

    def after(self, seconds: float, action: Callable[..., object], *args: Any) -> None:
        """Has something happen later."""
        self.at(self.now + seconds, action, *args)

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> bool:
        """Lets time pass, until ``stop`` says so. Gives whether it did."""
        queue, candidates = self._queue, self.candidates
        while queue and queue[0][0] <= until:
            self.now, _, action, args = heapq.heappop(queue)
            if self.steps > MOST_STEPS:
                self.violated(f"{self.steps} steps, and no end")
            action(*args)
            if sum(c.leads(self.now) for c in candidates) > 1:
                self._overlap()
            if stop is not None and stop():
                return True
        self.now = until
        return False

    # What must hold

    def violated(self, what: str) -> NoReturn:
        """Ends the episode."""
        self.note(f"VIOLATION: {what}")
        raise ViolationError(f"after {self.now:.6f} s: {what}")

    def _overlap(self) -> None:
        terms = [(c.name, c.state.term) for c in self.candidates if c.leads(self.now)]
        self.violated("two lead: " + ", ".join(f"{name} by {term}" for name, term in terms))

    def began(self, candidate: Candidate, token: int) -> None:
        """A term begins."""
        self.note(f"{candidate.name}: term {token} begins")
        # Excluded: Redis has forgotten the token, and its clock has been set back to before it.
        excused = self.lost and self.server.wall(self.now) * 1e6 <= self.token
        if token <= self.token and not excused:
            self.violated(f"{candidate.name} leads with token {token} after token {self.token}")
        if self.now < self.held_until and not self.lost:
            self.violated(f"{candidate.name} leads with token {token} while the last release holds")
        self.held_until = 0.0
        self.inherited += candidate.state.dead[1] == self.token > 0
        self.token, self.began_at, self.lost = max(token, self.token), self.now, self.lost and excused
        for other in self.candidates:
            if other is not candidate and other.works(self.now):
                self.violated(f"{candidate.name} leads with token {token} while {other.name} still ends its work")

    # Candidates

    def number(self) -> int:
        """A number that nobody else has."""
        return next(self._numbers)

    def start(self, name: str, before: Candidate | None = None) -> Candidate:
        """A new candidacy: in a new process, or in that of one ``before``, which has ended, if that still runs."""
        if before and before.process.dead:
            before = None
        rng = random.Random(f"{name} {self.setup.seed} {self.number()}")
        clock = before.clock if before else Clock(self.now, rng.uniform(0, 1000), self.rate(rng))
        state = machine.inherited(before.state) if before else machine.State()
        process = before.process if before else self.hosts.spawn(name)
        config = self.configs[self._started % len(self.configs)]
        candidate = Candidate(self, name, process, state, rng, clock, config)
        self._started += 1
        if before:
            before.continue_as(candidate)
        self.candidates.append(candidate)
        self.after(rng.random() * self.timing.retry * 0.1, candidate.go_on)
        return candidate

    def rate(self, rng: random.Random) -> float:
        """How fast a clock runs: over a lease less than half the margin wrong, as is assumed."""
        return 1 + rng.choice([0, rng.uniform(-1, 1)]) * self.setup.drift

    def gone(self, candidate: Candidate) -> None:
        """A candidate has ended."""
        self.candidates.remove(candidate)

    def callback_time(self, rng: random.Random) -> float:
        """How long the loss callbacks of one term take."""
        return rng.expovariate(1 / self.setup.callback) if not self.calm else self.setup.callback

    def works(self, candidate: Candidate, term: machine.Term) -> None:
        """Have the jobs of a term begin."""
        if self.setup.jobs:
            self.after(0.0, Worker(candidate, term).go_on)

    def asks(self, candidate: Candidate) -> None:
        """Have the jobs of a candidate ask what to do, because an answer may have told of another time."""
        worker = candidate.process.worker
        if worker and worker.candidate is candidate:
            worker.go_on()

    def witnesses(self, candidate: Candidate, took: float) -> None:
        """Note what an answer has told of the server's clock, unless it took so long that it says nothing."""
        if self.setup.jobs and candidate.ran[0] and took <= candidate.timing.retry + candidate.timing.operation:
            candidate.process.witness.saw(*candidate.ran)

    # Network

    def send(self, request: Sent) -> None:
        """Puts a request on the wire."""
        candidate, rng = request.candidate, request.candidate.rng
        there, back = self._delays(candidate, rng)
        # Connecting and waiting for the reply each have the timeout of an operation.
        patience = candidate.timing.operation * (1 if request.used or self.calm else 1 + rng.random())
        self.at(
            candidate.clock.true(candidate.clock.local(self.now) + patience) + ALARM_ROUNDING,
            candidate.answered,
            request,
        )
        if there is not None:
            self.after(there, self._execute, request, back)

    def _delays(self, candidate: Caller, rng: random.Random) -> tuple[float | None, float | None]:
        link = candidate.link
        usual, operation = self.setup.latency, self.timing.operation
        there, back = (usual * (0.5 + rng.random()) for _ in range(2))
        chance = rng.random()
        if link == "cut" or (link == "lossy" and chance < 0.3):
            return None, None
        if link == "mute" or (link == "lossy" and chance < 0.6):
            return there, None
        if link == "slow":
            return there + rng.random() * operation, back + rng.random() * operation
        if link == "held":
            return max(candidate.held_until - self.now, 0) + rng.random() * operation / 20, back
        if link == "late" and chance < 0.7:
            return rng.random() * 3 * self.timing.ttl, back
        return there, back

    def _execute(self, request: Sent, back: float | None) -> None:
        candidate = request.candidate
        server, life, number = request.connection or (self.cluster.find(), 0, self.number())
        if server.hung_until > self.now:
            self.at(server.hung_until + self.setup.latency * self.rng.random(), self._execute, request, back)
            return
        ended = life not in (0, server.lives) and not self.setup.proxy
        if server.down or server.master or ended or (request.name == "WAIT" and not request.used):
            self._fail(request, back or 0.0)
            return
        request.connection = (server, server.lives, number)
        request.executed, request.wall = self.now, server.wall(self.now)
        age = self.now - request.sent
        if age > candidate.timing.operation * 2:
            self.troubled = max(self.troubled, self.now)
        self.steps += 1
        reply, blocks = self._reply(server, request, age)
        if back is not None:
            self.after(blocks + back, self._answer, request, reply)
        elif candidate.link == "lossy":
            self._fail(request, self.rng.random() * self.timing.operation)

    def _fail(self, request: Sent, seconds: float) -> None:
        """End the connection: the reply, if there is one, is lost, and the candidate may be told why."""
        request.closed = request.used and self.rng.random() < 0.5
        self.after(seconds, self._answer, request, None)

    def _reply(self, server: Server, request: Sent, age: float) -> tuple[Any, float]:
        """Return the reply, and for how many seconds it is held back."""
        if request.request.template.is_script:
            return self._evaluate(server, request, age), 0.0
        name, what, *more = request.request.template.words
        if name == b"INFO":
            return server.store.cmd_info(what), 0.0
        replicas = self.cluster.wait(server)
        late = self.rng.random() * SERVER_TIMER
        return replicas, int(more[0]) / 1000 + late if replicas < int(what) else 0.0

    def _evaluate(self, server: Server, request: Sent, age: float) -> Any:
        name, reply = request.candidate.name, None
        known = self.ledger.before(server) if request.name in ("claim", "take", "finish") else None
        count, *words = request.request.words(b"%d" % request.number)
        keys, args = tuple(words[: int(count)]), tuple(words[int(count) :])
        try:
            reply = server.eval(self.now, self.rules.scripts[request.name], keys, args)
        except RedisError as error:
            self.note(f"server {server.name}, to {name}'s {request.name} of {age:.4f} s ago: {error}")
        else:
            if self.history is not None:
                self.note(
                    f"server {server.name}, to {name}'s {request.name} of {age:.4f} s ago {_brief(args)}: {reply}"
                )
        if reply is not None and known:
            self.ledger.after(server, request, reply, known)
        elif reply is not None and request.name in ("campaign", "reclaim"):
            self.ledger.tells(request, reply.split(b"\n", 2)[1].decode())
        self.wrote(server, keys[:1] if request.name == "post" else ())
        if request.name == "release" and reply and reply.endswith(b"released") and request.delay:
            # Less what clocks may be wrong by over such a time.
            self.held_until = request.sent + 0.98 * request.delay - 0.002
        return reply

    def wrote(self, server: Server, inboxes: tuple[bytes, ...] = ()) -> None:
        """Have what a script has written reach those for whom it is."""
        if self.rng.random() < 0.25:
            self.snapshots.append((self.now, server.store.copy()))
        self.cluster.wrote(server)
        for key in (protocol.WAKE, *inboxes):
            self._hand_out(server, key)

    def _answer(self, request: Sent, reply: Any) -> None:
        if request.candidate.request is request:
            request.reply = reply
            request.candidate.answered(request)

    def _hand_out(self, server: Server, key: bytes) -> None:
        """Answer the waits for elements of a list."""
        store = server.store
        while key in store.values and store.cmd_exists(key):  # it may have expired
            waits = [(c, c.wait) for c in self.candidates if c.listening and c.wait and key in c.wait.template.words]
            if not waits:
                return
            candidate, wait = self.rng.choice(waits)
            element = store.cmd_lpop(key)
            candidate.listening = False
            there, _ = self._delays(candidate, candidate.rng)
            if there is not None:
                self.after(there, candidate.received, wait, (key, element))

    # Faults of the server

    def loses(self, *, state: bool = True) -> None:
        """Note that records of jobs are lost, and the state, too."""
        self.lost = self.lost or state
        self.ledger.loses(state=state)

    def fault(self, kind: str) -> None:
        """Counts a fault."""
        self.note(f"FAULT: {kind}")
        self.faults[kind.split(" ")[0]] += 1
        self.steps += 1
        self.troubled = max(self.troubled, self.now)

    def may_step(self, seconds: float) -> bool:
        """Whether the server's clock may be set now.

        Excluded: two opposite steps between two polls of one candidate, which then sees a clock that was never set.
        Whoever has not polled since the last step must poll before the clock goes back, unless its last poll is too old
        to tell it anything.
        """
        if self._stepped is None or self._stepped[1] * seconds > 0:
            return True
        return all(
            c.polled is None
            or c.polled > self._stepped[0]
            or self.now - c.polled > STALE * (longest_pause(c.timing) + c.timing.operation)
            for c in self.candidates
        )

    def step_clock(self, seconds: float) -> None:
        """Sets the server's clock."""
        for server in self.cluster.nodes:
            server.offset += seconds
        if seconds < 0:
            self.ledger.set_back()
        self._stepped = (self.now, seconds)

    def note(self, line: str) -> None:
        """A line of the history, when somebody wants it."""
        if self.history is not None:
            self.history.append(f"{self.now:10.4f}  {line}")


def longest_pause(timing: Timing) -> float:
    """Seconds between two polls of a candidate, at the most."""
    return pace.usual(MOST_CANDIDATES, timing)


def _brief(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg for arg in args if not (isinstance(arg, bytes) and arg.startswith(b"{")))
