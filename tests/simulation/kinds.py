"""What can go wrong, as a list that is drawn from a seed, and from which any part can be left out.

Left out on purpose, since the protocol does not promise to survive it: two opposite steps of the server's clock within
a retry interval, between two looks of one candidate (``World.may_step``), clocks that are more than the margin wrong
over a lease, and a running process that is cloned. And a token may go back if Redis has forgotten it and its clock has
been set back to before it, so that only the processes know it (``World.began``): who was not there cannot.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from .process import LATEST
from .setup import Setup

WEIGHTS = {
    # of candidates
    "crash": 6,
    "crash-leader": 14,
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
}
KINDS = [*WEIGHTS]
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
OF_REPLICAS = {"promote", "split", "lag", "rejoin", "flap"}


class Fault(NamedTuple):
    """One fault: when, what, whom it hits (a number that is taken modulo), and two measures between 0 and 1."""

    at: float
    kind: str
    who: int
    size: float
    other: float


def draw_faults(setup: Setup, only: Sequence[str] = ()) -> list[Fault]:
    """The faults of an episode, in order; ``only`` of these kinds, if some are named."""
    rng = random.Random(f"faults {setup.seed}")
    ttl = setup.timing.ttl
    kinds = [*only] or rng.sample(KINDS, rng.randint(1, len(KINDS)))
    weights = [WEIGHTS[kind] for kind in kinds]
    spacing = ttl * rng.choice([0.1, 0.3, 1.0, 2.0])
    shortest = min(timing.ttl for timing in setup.timings)
    together = rng.choice([0.0, 0.3, 0.7])
    faults, now = [], ttl * rng.random()
    for _ in range(rng.randint(1, 30)):
        now += rng.expovariate(1 / (shortest / 10 if rng.random() < together else spacing))
        kind = rng.choices(kinds, weights)[0]
        faults.append(Fault(now, kind, rng.randrange(60), rng.random(), rng.random()))
        if kind.startswith("clock") and "link-cut" in kinds and rng.random() < 0.5:
            # Whoever has just been cut off may still lead when the others see what the clock shows.
            before = max(now - rng.random() * shortest, 0.0)
            faults.append(Fault(before, "link-cut", rng.randrange(60), rng.random() * 0.1, rng.random()))
        also = [other for other in WITH_A_DEATH if other in kinds]
        if kind == "crash-leader" and also and rng.random() < 0.7:
            near = max(now + rng.uniform(-2, 1) * LATEST, 0.0)
            faults.append(Fault(near, rng.choice(also), rng.randrange(60), rng.random(), rng.random()))
    return sorted(faults)
