"""One episode: a time of faults, then a calm one in which somebody must lead. And what is left of it when it fails."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from unittest import mock

from django_leader.protocol import machine, pace

from . import protocol
from .faults import Mischief
from .kinds import OF_REPLICAS, Fault, draw_faults
from .setup import Setup, draw_jobs, draw_setup
from .world import ViolationError, World, longest_pause


@dataclass
class Result:
    """What became of an episode, or of many."""

    steps: int = 0
    episodes: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    """The longest time to a leader after the last fault, as a part of what is allowed."""
    slowest_seed: int = 0
    inherited: int = 0
    """Terms that began for a candidate that had seen the process of the last leader die."""
    jobs: Counter[str] = field(default_factory=Counter)
    """What became of jobs."""

    def add(self, other: Result) -> None:
        """Both together."""
        self.steps += other.steps
        self.episodes += other.episodes
        self.faults += other.faults
        self.inherited += other.inherited
        self.jobs += other.jobs
        if other.slowest > self.slowest:
            self.slowest, self.slowest_seed = other.slowest, other.slowest_seed


class FoundError(AssertionError):
    """A violation, with all that is needed to see it again."""

    def __init__(self, seed: int, what: str, history: list[str], steps: int = 0) -> None:
        self.seed, self.what, self.history, self.steps = seed, what, history, steps
        super().__init__("\n".join([f"seed {seed}: {what}", *history]))

    def __reduce__(self) -> tuple[type, tuple[int, str, list[str], int]]:
        return FoundError, (self.seed, self.what, self.history, self.steps)


def play(setup: Setup, faults: Sequence[Fault], world: World) -> Result:
    """Plays an episode in ``world``. Raises ``ViolationError``."""
    with (
        mock.patch.object(pace, "FULL_RATE_CANDIDATES", setup.crowd),
        mock.patch.object(machine, "plan", world.rules.plan),
    ):
        return _play(setup, faults, world)


def _play(setup: Setup, faults: Sequence[Fault], world: World) -> Result:
    timing = world.timing
    mischief = Mischief(world)
    for number in range(setup.candidates):
        world.start("abcdefgh"[number])
    for fault in faults:
        world.at(fault.at, mischief.apply, fault)
    world.run((faults[-1].at if faults else 0.0) + timing.ttl * random.Random(setup.seed).random())
    mischief.calm()

    poll = max(longest_pause(candidate.timing) for candidate in world.candidates)
    allowed = timing.ttl + timing.quarantine + poll + slack(setup, world)
    while world.now < world.troubled + allowed:
        world.run(world.troubled + allowed)  # which something belated may have put off meanwhile
    leader = next((candidate for candidate in world.candidates if candidate.leads(world.now)), None)
    if leader is None:
        world.violated(f"nobody leads {allowed:.3f} s after the last fault, at {world.troubled:.4f}")
    # And whoever leads goes on to lead: nothing is wrong any more.
    world.run(world.now + 2 * timing.ttl, lambda: not leader.leads(world.now))
    if not leader.leads(world.now):
        world.violated(f"{leader.name} loses its term though nothing is wrong: {leader.state.ended}")
    world.ledger.finish(leader, world.troubled)
    slowest = max(world.began_at - world.troubled, 0.0) / allowed
    return Result(world.steps, 1, world.faults, slowest, setup.seed, world.inherited, world.ledger.counts)


def slack(setup: Setup, world: World) -> float:
    """Seconds for what is under way when the calm begins: requests to time out, callbacks, back-offs."""
    waiting = [c.clock.true(c.state.not_before) - world.now for c in world.candidates if not c.state.stopping]
    return (
        (8 if setup.servers > 1 else 4) * world.timing.operation
        + world.timing.margin
        + 5 * setup.callback
        + 0.1
        + max(min(waiting), 0.0)
    )


def episode(
    seed: int, rules: protocol.Rules, only: Sequence[str] = (), *, brief: bool = True, jobs: bool = False
) -> Result:
    """Plays the episode of ``seed``. Raises ``FoundError``, with a history: if ``brief``, as short as can be."""
    setup = draw_setup(seed, replicated=not OF_REPLICAS.isdisjoint(only))
    setup = draw_jobs(setup) if jobs else setup
    faults = draw_faults(setup, only)
    world = World(setup, rules)
    try:
        return play(setup, faults, world)
    except ViolationError as error:
        if brief:
            setup, faults = shrink(setup, faults, rules)
        raise tell(setup, faults, rules, str(error), world.steps) from None


def tell(setup: Setup, faults: list[Fault], rules: protocol.Rules, what: str, steps: int) -> FoundError:
    """Plays an episode that fails once more, and writes down what happens."""
    world = World(setup, rules, record=True)
    try:
        play(setup, faults, world)
    except ViolationError as error:
        what = str(error)
    return FoundError(setup.seed, what, [str(setup), *map(str, faults), *(world.history or ())], steps)


def shrink(setup: Setup, faults: list[Fault], rules: protocol.Rules) -> tuple[Setup, list[Fault]]:
    """An episode that fails as well, with as few faults and candidates as it needs."""

    def fails(setup: Setup, faults: list[Fault]) -> bool:
        try:
            play(setup, faults, World(setup, rules))
        except ViolationError:
            return True
        return False

    few = replace(setup, crowd=pace.FULL_RATE_CANDIDATES)
    setup = few if fails(few, faults) else setup
    size = max(len(faults) // 2, 1)
    while faults:
        start = 0
        while start < len(faults):
            fewer = faults[:start] + faults[start + size :]
            if fails(setup, fewer):
                faults = fewer
            else:
                start += size
        if size == 1:
            break
        size = max(size // 2, 1)
    for change in ({"sloppiness": 0.0}, {"candidates": 2}, {"candidates": 3}, {"callback": 0.001}):
        if fails(smaller := replace(setup, **change), faults):
            setup = smaller
    return setup, faults


BATCH = 50
"""Episodes that are played in one go."""


def batch(first: int, jobs: bool | None = None) -> tuple[Result, list[FoundError]]:
    """Plays the episodes of ``BATCH`` seeds, from ``first`` on: with jobs, without them, or (None) in turn."""
    result, found = Result(), []
    for seed in range(first, first + BATCH):
        try:
            result.add(episode(seed, protocol.Rules(), jobs=bool(seed % 2) if jobs is None else jobs))
        except FoundError as error:
            found.append(error)
            result.steps += error.steps
    return result, found
