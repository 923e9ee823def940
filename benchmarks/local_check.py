"""``is_leader()`` beside a bare function that compares the same clock, in turns, in one run."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from time import clock_gettime

import redis

from django_leader.clock import BOOT_CLOCK, now
from django_leader.election import LeaderElection
from django_leader.grant import Cell, Grant, PidCell, new_cell

LOOPS, TURNS = 50_000, 40
DEADLINE = now() + 1e6


def bare() -> bool:
    """The least that a deadline needs."""
    return clock_gettime(BOOT_CLOCK) < DEADLINE


def main() -> None:
    """Prints nanoseconds per call, the loop's own included: the best of several turns."""
    functions: dict[str, Callable[[], bool]] = {
        "a bare function that compares the clock": bare,
        "is_leader(), leading": _leading(new_cell),
        "is_leader(), leading, without MADV_WIPEONFORK": _leading(PidCell),
        "is_leader(), not leading": LeaderElection(redis.Redis()).is_leader,
    }
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(TURNS):
        for name, function in functions.items():
            best[name] = min(best[name], timeit.timeit(function, number=LOOPS) / LOOPS * 1e9)
    limit = best["a bare function that compares the clock"]
    print("\nThe local check                                  ns per call   ratio")
    for name, nanoseconds in best.items():
        print(f"  {name:<46} {nanoseconds:11.0f} {nanoseconds / limit:7.2f}")


def _leading(cell: Callable[[float], Cell]) -> Callable[[], bool]:
    election = LeaderElection(redis.Redis())
    election._grant = Grant(1, cell(DEADLINE))
    assert election.is_leader()
    return election.is_leader
