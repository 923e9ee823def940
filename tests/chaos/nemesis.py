"""Does one harm after the other, by a seed, and waits each time until one leads again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from .faults import Fault
from .fleet import Death, Fleet
from .journal import now

PATIENCE = 30.0
"""Seconds that we wait for a leader beyond the bound, so that a recovery that is late can be told how late."""


def plan(rng: random.Random, kinds: Sequence[str], count: int) -> list[str]:
    """``count`` faults: every kind in turns, in a new order each time."""
    chosen: list[str] = []
    while len(chosen) < count:
        chosen += rng.sample(kinds, len(kinds))
    return chosen[:count]


def run(
    fleet: Fleet, rng: random.Random, kinds: Sequence[str], faults: dict[str, Fault], after: Callable[[int], bool]
) -> None:
    """Does ``kinds`` one after the other, and ends well. ``after`` is called behind each, and says whether to go on."""
    number, kind = 0, "the beginning"
    try:
        fleet.settle()
        for number, kind in enumerate(kinds, 1):
            harm(fleet, faults[kind], number, kind, rng.getrandbits(32))
            if not after(number):
                break
        fleet.finish()
    except AssertionError as error:  # something that had to happen did not, for a long time
        fleet.events.add("stuck", text=f"{number}, {kind}: {error}")


def harm(fleet: Fleet, fault: Fault, number: int, kind: str, seed: int) -> None:
    """One fault, and the recovery from it."""
    began = now()
    steps = fault(fleet, random.Random(seed))
    seconds, counts_from = next(steps)
    effective = now()
    time.sleep(seconds)
    for _ in steps:
        raise TypeError(f"{kind} yields twice")
    death = counts_from if isinstance(counts_from, Death) else Death(effective, claimable=False)
    since = now() if counts_from == "healed" else death.at
    bounds = {"bound": int(fleet.options.claim * 1e9) * death.claimable, "nobody_until": death.nobody_until}
    detail = ", ".join([*fleet.notes, f"seed {seed}"])
    fleet.notes.clear()
    try:
        since = recovered(fleet, since)
    finally:
        fleet.events.add("fault", number=number, kind=kind, began=began, since=since, detail=detail, **bounds)
    fleet.settle()


def recovered(fleet: Fleet, since: int) -> int:
    """Waits until one leads, and gives since when one could: later than ``since`` if the servers were not fit again."""
    until = now() + int((fleet.options.bound + PATIENCE) * 1e9)
    while not fleet.confirmed(since) and now() < until:
        if not fleet.fit():
            fleet.repaired()
            since = now()
        time.sleep(0.005)
    return since
