"""``is_leader()`` beside a bare function that compares the same clock, in turns, in one run."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from time import clock_gettime

import redis

from django_leader.candidacy import Candidacy
from django_leader.clock import BOOT_CLOCK, now
from django_leader.election import LeaderElection
from django_leader.process import Grant, PidLatch, new_latch

LOOPS, TURNS = 50_000, 40
DEADLINE = now() + 1e6


def bare() -> bool:
    """The least that a deadline needs."""
    return clock_gettime(BOOT_CLOCK) < DEADLINE


def main() -> None:
    """Prints nanoseconds per call, the loop's own included: the best of several turns."""
    functions: dict[str, Callable[[], bool]] = {
        "a bare function that compares the clock": bare,
        "is_leader(), leading": _leading(new_latch),
        "is_leader(), leading, without MADV_WIPEONFORK": _leading(PidLatch),
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


def _leading(latch: Callable[[], object]) -> Callable[[], bool]:
    election = LeaderElection(redis.Redis())
    candidacy = Candidacy.__new__(Candidacy)
    candidacy.grant = Grant(1, DEADLINE, latch())  # type: ignore[arg-type]
    election._grants = candidacy
    assert election.is_leader()
    return election.is_leader
