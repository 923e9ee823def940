"""Bugs of jobs that are planted, as those in ``bugs``: a changed driver of claims, or a changed script."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from django_leader.protocol.config import Config
from django_leader.protocol.expiry import ExpiryProof
from django_leader.protocol.jobs import Decided, Job, JobSession
from django_leader.protocol.orders import Order
from django_leader.protocol.schedule import Every
from django_leader.protocol.session import Leave, Send, Wait
from django_leader.protocol.slots import Claim, Decisions, End, LastRun

from .bugs import changed
from .episode import play
from .kinds import Fault
from .protocol import Rules
from .setup import Setup
from .world import World


class LocalClock(JobSession):
    """It goes by the clock of its host, which the server's clock was compared with only once."""

    _offset: float | None = None

    def _server_ahead(self, watch: ExpiryProof) -> float:
        if self._offset is None and watch.observation:
            self._offset = watch.observation.offset_min
        return self._offset or 0.0


class Hasty(JobSession):
    """It tries again at once."""

    def failed(self, now: float) -> None:
        self._unconfirmed = None
        self._pause(now)


class ClaimsFirst(JobSession):
    """It sends the ends of runs when nothing else is to be done."""

    def next(self, now: float, watch: ExpiryProof, deadline: float) -> Send | Wait | Leave:
        ends, self._ends = self._ends, deque[End]()
        todo = super().next(now, watch, deadline)
        self._ends = ends
        return todo if isinstance(todo, Send) else super().next(now, watch, deadline)


class Unconfirmed(JobSession):
    """It does not wait for replicas."""

    def _answered(self, answer: Decisions, now: float) -> list[Decided]:
        decided = super()._answered(answer, now)
        if self._unconfirmed:
            self._unconfirmed = None
            return self._decide(answer)
        return decided


class Forgetful(JobSession):
    """It does not name what it has started itself."""

    def _claim(self, entry: Any, at: int, now: float) -> Claim:
        return super()._claim(entry, at, now)._replace(own_last=0)


class ForgetsOrders(JobSession):
    """It does not know which orders it has carried out."""

    def ordered(self, order: Order) -> None:
        self._started.clear()
        super().ordered(order)


class Unlimited(JobSession):
    """It claims whatever is due, however many runs go on."""

    def next(self, now: float, watch: ExpiryProof, deadline: float) -> Send | Wait | Leave:
        self._threads = math.inf
        return super().next(now, watch, deadline)


class Piling(JobSession):
    """It starts a run beside any number of those that hang."""

    def _last_run(self, job: Job, now: float) -> LastRun:
        found = super()._last_run(job, now)
        return "hung" if found == "blocks" else found


RECORD = "local known = record ~= nil and record ~= false"
LAST = "if slot <= record.last then"
LED = " and state[2] == token and state[4] == candidate_id"
EARLY = "if slot > now + AHEAD then return decision('early') end"

BUGS_OF_JOBS: dict[str, tuple[Callable[[], Rules], tuple[str, ...], str]] = {
    # What is wrong, the faults that show it, and the rule that is broken.
    "slots are claimed by the local clock": (
        lambda: Rules(jobs=LocalClock, scripts=changed("claim", EARLY, "")),
        ("clock-back", "clock-hour"),
        "J3",
    ),
    "claims do not compare the token": (
        lambda: Rules(scripts=changed("claim", LED, "")),
        ("late-claims",),
        "J2",
    ),
    "a claim is a key that expires": (
        lambda: Rules(scripts=changed("claim", LAST, "if slot <= record.last and now < record.started + 500 then")),
        ("resign", "crash-leader"),
        "J1",
    ),
    "the last run is known to its process only": (
        lambda: Rules(scripts=changed("claim", LAST, "if slot <= own_last then")),
        ("resign",),
        "J1",
    ),
    "a claim names no memory": (
        lambda: Rules(scripts=changed("claim", "if ARGV[5] ~= memory then", "if false then")),
        ("flush", "link-late"),
        "J6",
    ),
    "a leader does not say what it has started": (lambda: Rules(jobs=Forgetful), ("flush", "lose-slots"), "J[16]"),
    "a claim is sent again before the first is too old": (lambda: Rules(jobs=Hasty), ("link-late",), "J7"),
    "a run starts although its term is over": (lambda: Rules(own_term=False), ("link-slow", "resign", "pause"), "J2"),
    "ends are sent after claims": (lambda: Rules(jobs=ClaimsFirst), ("link-lossy", "link-mute"), "J7"),
    "a stale leader takes an order": (
        lambda: Rules(scripts=changed("take", " and state[2] == ARGV[3] and state[4] == ARGV[2]", "")),
        ("order", "late-claims", "resign"),
        "J2",
    ),
    "an order is not for one term": (
        lambda: Rules(scripts=changed("take", "found[2] ~= ARGV[3] or ", "")),
        ("order", "resign", "link-lossy"),
        "J11",
    ),
    "an order is taken however old it is": (
        lambda: Rules(scripts=changed("take", "if now > number(found[3]) then", "if false then")),
        ("order", "link-slow"),
        "J11",
    ),
    "a leader does not know which orders it has carried out": (
        lambda: Rules(jobs=ForgetsOrders),
        ("order", "restart-old"),
        "J11",
    ),
    "an order that was withdrawn is taken": (
        lambda: Rules(scripts=changed("take", "local open = found[1] == 'waiting'", "local open = true")),
        ("order", "link-slow"),
        "J11",
    ),
    "claims wait for no thread": (lambda: Rules(jobs=Unlimited), ("resign",), "J8"),
    "any number of runs may hang": (lambda: Rules(jobs=Piling), ("resign",), "J8"),
    "claims are not confirmed by replicas": (lambda: Rules(jobs=Unconfirmed), ("split", "lag"), "J9"),
}

RARE: dict[str, tuple[Callable[[], Rules], int, int, tuple[tuple[float, str, int, float], ...]]] = {
    # What is wrong; candidates and the period of their job; and a history that shows it: when, what, whom, how long.
    # Random faults take too long to show it. The first leads from the tenth second on, or the second does.
    "a grant forgets what earlier ones knew of the clock": (
        lambda: Rules(scripts=changed("campaign", "math.max(now, reckoned, began)", "math.max(now, reckoned)")),
        3,
        1,
        (
            (15.0, "crash", 1, 12.0),  # so it is a new process that never saw the clock as it was
            (25.2, "clock-back", 0, 6.0),
            (26.5, "resign", 0, 0.0),
            (26.5, "resign", 1, 0.0),
            (28.0, "lose-slots", 0, 0.0),
            (28.1, "resign", 0, 0.0),
            (28.1, "resign", 1, 0.0),
        ),
    ),
    "nothing is added to the doubt": (
        lambda: Rules(scripts=changed("claim", "1000, 2000, 3, 5000", "1000, 0, 3, 5000")),
        2,
        5,
        (
            (15.0, "crash", 1, 4.96),
            (19.95, "clock-second", 0, 0.0),  # so the slot of the twentieth second is claimed early
            (20.1, "lose-slots", 0, 0.0),
            (20.3, "resign", 0, 0.0),
        ),
    ),
}


def rare(bug: str, rules: Rules, seed: int) -> None:
    """Play the history that shows a rare bug. Raise ``ViolationError``."""
    _, candidates, period, history = RARE[bug]
    timing = Config(instance_id="i", hostname="h", lock_ttl=10, heartbeat_interval=1, retry_interval=1).validate()
    jobs = (Job("job", Every(period)),)
    setup = Setup((timing,), candidates, 0.0, 0.001, 0.0002, 1, 0.0, False, 1, 1.0, 32, 1, seed, jobs)
    faults = [Fault(at, kind, who, 0.9, 0.0, lasts, number) for number, (at, kind, who, lasts) in enumerate(history)]
    play(setup, faults, World(setup, rules))
