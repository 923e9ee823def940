"""Two faults at once: something happens to the data while something else happens to those who need them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from .death_faults import ALL
from .faults import FAULTS, Since, fault
from .fleet import Fleet
from .server_faults import CLOCK_KINDS

OUTER = (
    "kill -9", "leaders killed in a row", "exit", "stop, start", "SIGSTOP beyond the lease", "SIGSTOP below the lease",
    "SIGSTOP of all",
    "leader cut off", "held both ways", "requests delivered late", "replies delivered late", "replies lost",
    "connection refused", "idle connections closed", "first read hangs", "slow network",
)  # fmt: skip
INNER = (
    "FLUSHALL", "server killed, back empty", "keys deleted", "key of a wrong type", "garbage", "clients killed",
    "scripts forgotten", "out of memory", "denied", "clock forward", "clock back",
)  # fmt: skip


def begin(fleet: Fleet, kind: str, rng: random.Random) -> tuple[Iterator[tuple[float, Since]], float]:
    """Begins a fault, and gives what heals it and how long it should last."""
    steps = ALL[kind](fleet, random.Random(rng.getrandbits(32)))
    return steps, next(steps)[0]


@fault("two at once")
def two(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    inner_kinds = [kind for kind in INNER if not (fleet.clock.missing and kind in CLOCK_KINDS)]
    kinds = rng.choice(OUTER), rng.choice(inner_kinds)
    fleet.note(" while ".join(reversed(kinds)))
    outer, seconds = begin(fleet, kinds[0], rng)
    start = time.monotonic()
    time.sleep(rng.uniform(0, seconds))
    for _ in range(rng.randint(1, 2)):
        inner, inner_seconds = begin(fleet, kinds[1], rng)
        time.sleep(inner_seconds if kinds[1] in CLOCK_KINDS else inner_seconds * rng.random())
        for _ in inner:
            pass
    yield max(0.0, start + seconds - time.monotonic()), "healed"
    for _ in outer:
        pass


EVERY = FAULTS
"""All kinds, those of the other modules as well."""
