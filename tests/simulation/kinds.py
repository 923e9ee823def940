"""What can go wrong, as a list that is drawn from a seed, and from which any part can be left out.

What undoes a fault may be worse than the fault: a clock that steps back, is seen, and steps forth again. Random faults
hardly ever undo each other, so each may be followed by its opposite. And their sizes and distances are those of the
protocol itself, a little more or less, since that is where its comparisons are.

Left out on purpose, since the protocol does not promise to survive it: two opposite steps of the server's clock within
a retry interval, between two polls of one candidate (``World.may_step``), clocks that are more than the margin wrong
over a lease, a running process that is cloned, and a replica that goes and returns between two scripts while resets of
the counters hide its joins (``Mischief._replicas``). And a token may go back if Redis has forgotten it and its clock
has been set back to before it, so that only the processes know it (``World.began``): who was not there cannot.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from .process import NOT_AFTER
from .setup import Setup

WEIGHTS = {
    # of candidates
    "crash": 6,
    "crash-leader": 14,
    "cut-leader": 6,
    "last-words": 4,
    "pause": 6,
    "resign": 4,
    "callback-failed": 1,
    "stop": 4,
    "fork": 2,
    "broken": 1,
    "drift": 3,
    "link-cut": 4,
    "link-mute": 4,
    "link-lossy": 4,
    "link-slow": 4,
    "link-late": 5,
    # of the server
    "restart-empty": 4,
    "restart-old": 4,
    "failover": 4,
    "flush": 4,
    "lose-key": 4,
    "lose-lock": 4,
    "lose-state": 4,
    "clock-little": 5,
    "clock-forth": 3,
    "clock-back": 3,
    "server-drift": 2,
    "hang": 4,
    "down": 3,
    "refuse": 2,
    # of replicas
    "promote": 6,
    "split": 8,
    "lag": 4,
    "rejoin": 4,
    "flap": 4,
    "leave": 4,
    "resetstat": 4,
}
KINDS = [*WEIGHTS]
OF_JOBS = {"clock-second": 4, "clock-hour": 4, "lose-slots": 6, "forge-record": 1, "late-claims": 6, "order": 12}
"""Kinds that concern jobs, and their weights."""
UNDO = "undo"
"""The opposite of an earlier fault, if that has one: the clock goes back, a link is mended, and so on."""
WITH_A_DEATH = (
    "flush",
    "restart-empty",
    "restart-old",
    "failover",
    "promote",
    "split",
    "link-late",
    "pause",
    "lose-state",
)
"""Faults that are drawn together with the death of a leader, when what is left of its lease may be claimed."""
OF_REPLICAS = {"promote", "split", "lag", "rejoin", "flap", "leave", "resetstat"}

THEMES = (
    ("clock-back", "clock-forth", "clock-little", "cut-leader", "link-slow", "stop"),
    ("promote", "split", "rejoin", "flap", "leave", "resetstat", "link-cut"),
    ("crash-leader", "last-words", "flush", "restart-old", "failover", "link-late", "pause"),
)
"""Kinds that do their worst together. Some episodes have no others: among all kinds they would hardly ever meet."""
THEMES_OF_JOBS = (
    (
        "clock-hour",
        "clock-second",
        "flush",
        "lose-slots",
        "lose-state",
        "restart-old",
        "crash-leader",
        "resign",
        "stop",
    ),
    (
        "link-late",
        "link-lossy",
        "late-claims",
        "lose-slots",
        "flush",
        "clock-second",
        "resign",
        "crash-leader",
        "pause",
    ),
    ("promote", "split", "rejoin", "lag", "link-late", "clock-second", "crash-leader", "resign"),
    ("order", "restart-old", "flush", "lose-key", "link-late", "link-lossy", "resign", "stop", "crash-leader", "pause"),
)


class Fault(NamedTuple):
    """One fault: when, what, whom it hits (a number that is taken modulo), and two measures between 0 and 1."""

    at: float
    kind: str
    who: int
    size: float
    other: float
    seconds: float = 0.0
    """How long it lasts, or how large it is: about as much as a duration of the protocol. 0: by ``size``."""
    number: int = 0
    """Which it is of its episode, or which of them it undoes."""

    def lasts(self, longest: float) -> float:
        """Return its duration in seconds, ``longest`` at most if the protocol has nothing to do with it."""
        return self.seconds or self.size * longest


def draw_duration(setup: Setup, rng: random.Random) -> float:
    """Return a duration that the protocol compares something with, or one near it, or one between two of them."""
    timing = rng.choice(setup.timings)
    slack = timing.margin / 2
    if rng.random() < 0.5:
        return rng.uniform(slack, rng.choice([timing.retry, timing.ttl]))
    choice = [slack, timing.margin, timing.operation, timing.heartbeat, timing.retry, timing.ttl - timing.margin]
    length = rng.choice([*choice, timing.retry + timing.operation, timing.ttl, timing.quarantine])
    little = rng.choice([0.0, 0.001, slack / 10, slack, timing.operation])
    return max(length + rng.choice([-1, 1]) * little, 0.001)


def draw_faults(setup: Setup, only: Sequence[str] = ()) -> list[Fault]:
    """The faults of an episode, in order; ``only`` of these kinds, if some are named."""
    rng = random.Random(f"faults {setup.seed}")
    ttl = setup.timing.ttl
    theme: Sequence[str] = rng.choice(THEMES) if rng.random() < 0.4 else KINDS
    if setup.jobs:
        theme = rng.choice([*THEMES, *THEMES_OF_JOBS]) if rng.random() < 0.6 else [*KINDS, *OF_JOBS]
    kinds = [*only] or rng.sample(theme, rng.randint(1, len(theme)))
    weights = [(WEIGHTS | OF_JOBS)[kind] for kind in kinds]
    spacing = ttl * rng.choice([0.1, 0.3, 1.0, 2.0])
    shortest = min(timing.ttl for timing in setup.timings)
    together, undone, exact = (
        rng.choice([0.0, 0.3, 0.7]),
        rng.choice([0.0, 0.0, 0.3, 0.8]),
        rng.choice([0.0, 0.0, 0.5, 0.9]),
    )
    faults, now = [], ttl * rng.random()
    for number in range(rng.randint(1, 30)):
        now += rng.expovariate(1 / (shortest / 10 if rng.random() < together else spacing))
        kind = rng.choices(kinds, weights)[0]
        clock = kind.startswith("clock")
        seconds = draw_duration(setup, rng) if rng.random() < (max(exact, 0.7) if clock else exact) else 0.0
        faults.append(Fault(now, kind, rng.randrange(60), rng.random(), rng.random(), seconds, number))
        if rng.random() < (max(undone, 0.7) if clock else undone):
            faults.append(Fault(now + draw_duration(setup, rng), UNDO, 0, 0.0, 0.0, 0.0, number))
        if clock and "cut-leader" in kinds and rng.random() < 0.5:
            # Its last renewal tells the others when its lease ends, by whatever clock.
            soon = now + rng.random() * shortest / 2
            faults.append(Fault(soon, "cut-leader", 0, rng.uniform(0.4, 1), rng.random()))
        if clock and "link-cut" in kinds and rng.random() < 0.5:
            # Whoever has just been cut off may still lead when the others see what the clock shows.
            before = max(now - rng.random() * shortest, 0.0)
            faults.append(Fault(before, "link-cut", rng.randrange(60), rng.random() * 0.1, rng.random()))
        also = [other for other in WITH_A_DEATH if other in kinds]
        if kind == "crash-leader" and also and rng.random() < 0.7:
            near = max(now + rng.uniform(-2, 1) * NOT_AFTER, 0.0)
            faults.append(Fault(near, rng.choice(also), rng.randrange(60), rng.random(), rng.random()))
    return sorted(faults)
