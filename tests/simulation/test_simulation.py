"""The whole protocol against all faults at once; and the proof that the simulation finds what is wrong."""

from __future__ import annotations

import itertools
import os
import random
import re

import pytest

from .bugs import BUGS
from .bugs_of_jobs import BUGS_OF_JOBS, RARE, rare
from .episode import FoundError, Result, episode
from .protocol import Rules
from .world import ViolationError

pytestmark = pytest.mark.timeout(600)  # it computes, beside other tests
STEPS = 100_000 if os.environ.get("CI") == "true" else 50_000
"""At least; twice: with fixed seeds, and with others each time. ``make simulate`` takes as many as it is told."""
STEPS_OF_JOBS = STEPS // 2
ENOUGH = 300_000
"""Steps in which a planted bug must be found."""
SOON = {
    "a claim is sent again before the first is too old": 63,
    "a death says something in a quarantine": 29,
    "a death says something right after a reclaim": 67,
    "a join is told by counters alone": 46,
    "a lease counts though its confirmation did not come": 38,
    "a process that does not exist here is taken for dead": 22,
    "a release compares nothing": 61,
    "a run starts although its term is over": 34,
    "a stale leader takes an order": 29,
    "an order is not for one term": 59,
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


@pytest.mark.parametrize("bug", BUGS_OF_JOBS)
def test_a_planted_bug_of_jobs_is_found(bug: str) -> None:
    plant, kinds, rule = BUGS_OF_JOBS[bug]
    rules, steps = plant(), 0
    for seed in itertools.count(SOON.get(bug, 0)):
        try:
            steps += episode(seed, rules, kinds, brief=False, jobs=True).steps
        except FoundError as error:
            found = error
            break
        assert steps < ENOUGH, "not found"
    assert re.search(f" s: {rule}: ", found.what)


@pytest.mark.parametrize("bug", RARE)
def test_a_rare_bug_of_jobs_is_found_in_its_history(bug: str) -> None:
    found = []
    for seed in range(5):  # it depends on who leads
        rare(bug, Rules(), seed)
        try:
            rare(bug, RARE[bug][0](), seed)
        except ViolationError as error:
            found.append(str(error))
    assert found
    assert all(": J1: started twice" in what for what in found)
