"""The whole protocol against all faults at once; and the proof that the simulation finds what is wrong."""

from __future__ import annotations

import itertools
import os
import random

import pytest

from .bugs import BUGS
from .episode import FoundError, Result, episode
from .protocol import Rules

pytestmark = pytest.mark.timeout(600)  # it computes, beside other tests
STEPS = 100_000 if os.environ.get("CI") == "true" else 50_000
"""At least; twice: with fixed seeds, and with others each time. ``make simulate`` takes as many as it is told."""
STEPS_OF_JOBS = STEPS // 2
ENOUGH = 300_000
"""Steps in which a planted bug must be found."""
SOON = {
    "a death says something in a quarantine": 29,
    "a death says something right after a reclaim": 67,
    "a join is told by counters alone": 46,
    "a lease counts though its confirmation did not come": 38,
    "a process that does not exist here is taken for dead": 22,
    "a release compares nothing": 61,
    "no quarantine": 4,
    "the instant of a request is that of its confirmation": 52,
    "the token is only the time": 7,
}
"""For a bug that takes many seeds, or a long one, the seed to begin with. From any other it is found later."""


@pytest.mark.parametrize("jobs", [False, True], ids=["elections", "jobs"])
@pytest.mark.parametrize("first", [1, None], ids=["fixed seeds", "other seeds"])
def test_nothing_that_must_hold_is_broken(first: int | None, jobs: bool) -> None:
    seed = random.SystemRandom().randrange(2**40) if first is None else first
    print(f"first seed {seed}")  # noqa: T201
    total, rules = Result(), Rules()
    while total.steps < (STEPS_OF_JOBS if jobs else STEPS):
        total.add(episode(seed, rules, jobs=jobs))
        seed += 1
    assert total.slowest <= 1


def find(bug: str, *, brief: bool = False) -> FoundError:
    plant, kinds = BUGS[bug]
    rules, steps = plant(), 0
    for seed in itertools.count(SOON.get(bug, 0)):
        try:
            steps += episode(seed, rules, kinds, brief=brief).steps
        except FoundError as found:
            return found
        assert steps < ENOUGH, "not found"
    raise AssertionError


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    assert find(bug).what


def test_a_violation_is_told_with_its_seed_and_as_briefly_as_can_be() -> None:
    found = find("no quarantine", brief=True)
    lines = found.history
    assert str(found).startswith(f"seed {found.seed}: after ")
    assert lines[0].startswith("Setup(")
    assert sum(line.startswith("Fault(") for line in lines) <= 3
    assert "VIOLATION" in lines[-1]


def test_an_episode_is_the_same_each_time() -> None:
    once, again = (episode(7, Rules()) for _ in range(2))
    assert once == again
