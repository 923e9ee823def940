"""What an episode starts from, drawn from its seed."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from django_leader.protocol import pace
from django_leader.protocol.config import Config, Timing, ValidConfig
from django_leader.protocol.jobs import Job
from django_leader.protocol.schedule import Every


@dataclass(frozen=True)
class Setup:
    """What an episode starts from."""

    configs: tuple[ValidConfig, ...]
    """Of the candidates in turn: while a configuration is rolled out, there are two."""
    candidates: int
    sloppiness: float
    """How likely a term is to end by a resignation."""
    callback: float
    """Seconds that a loss callback takes, in the mean."""
    latency: float
    servers: int
    skew: float
    """Seconds by which the clocks of the servers differ, at the most."""
    proxy: bool
    """Whether connections end at a proxy, and outlive the server behind it."""
    hosts: int
    silent: float
    """How likely a process is to publish nothing of itself, and to watch nobody."""
    crowd: int
    """Of more candidates than this each polls more rarely."""
    clones: int
    """How many machines look like each host, as if resumed from one snapshot. Each has its own processes."""
    seed: int
    jobs: tuple[Job, ...] = ()
    """Of each leader; none in many episodes."""
    long: float = 0.0
    """How likely a run of a job takes longer than its period."""
    threads: float = math.inf
    """How many runs may go on in a process at a time."""

    @property
    def timings(self) -> tuple[Timing, ...]:
        """Those of the configurations."""
        return tuple(config.timing for config in self.configs)

    @property
    def timing(self) -> Timing:
        """That with the longest lease."""
        return max(self.timings)

    def takes(self, rng: random.Random) -> float:
        """Return how many seconds a run takes."""
        if rng.random() >= self.long:
            return rng.random() * 0.2
        return rng.choice([rng.uniform(0.2, 3.0), rng.uniform(2.0, 10.0), 1000.0])

    @property
    def drift(self) -> float:
        """By how much a clock may run too fast or too slow: less than half of every margin over its lease."""
        return 0.45 * min(timing.margin / timing.ttl for timing in self.timings)


def draw_jobs(setup: Setup) -> Setup:
    """The same, with jobs."""
    rng = random.Random(f"jobs {setup.seed}")
    jobs: list[Job] = []
    for period in rng.choice([(1,), (1, 5), (1, 2, 60), (1, 1, 5, 60)]):
        offset = rng.choice([0, rng.randrange(1000 * min(period, 20))])
        jobs.append(
            Job(
                f"every {period} s, {len(jobs)}",
                Every(period, offset / 1000),
                rng.choice([None, None, rng.uniform(0, period), 3600.0]),
                rng.choice(["skip", "skip", "rerun"]),
                rng.choice([math.inf, rng.uniform(0.5, 5)]),
            )
        )
    long = rng.choice([0.0, 0.1, 0.5])
    return replace(setup, jobs=tuple(jobs), long=long, threads=rng.choice([math.inf, math.inf, 1, 2]))


def draw_setup(seed: int, *, replicated: bool = False) -> Setup:
    """A configuration: any that is valid, or any with replicas."""
    rng = random.Random(f"setup {seed}")
    configs = []
    for _ in range(rng.choice([1, 1, 2])):
        ttl = rng.choice([0.5, 1.0, 2.0, 5.0, 10.0])
        config = Config(
            instance_id="i",
            hostname="h",
            lock_ttl=ttl,
            heartbeat_interval=ttl * rng.choice([0.1, 0.2, 0.3, 1 / 3, 0.5, 0.7]),
            retry_interval=ttl * rng.choice([0.1, 0.2, 0.5, 1.0, 1.5]),
        )
        configs.append(config.validate())
    replicas = rng.choice([0, 0, 0, 2, 2, 4] if not replicated else [2, 2, 4])
    longest = max(config.timing.ttl for config in configs)
    quarantine = longest * rng.choice([1, 1, 1.5, 3])
    return Setup(
        tuple(replace(config, quarantine=quarantine, min_replicas=replicas // 2) for config in configs),
        rng.randint(2, 5),
        rng.choice([0.0, 0.0, 0.1, 0.4]),
        longest * rng.choice([0.001, 0.01, 0.2]),
        rng.choice([0.0002, 0.001, 0.003]),
        replicas + 1,
        longest * rng.choice([0.0, 0.001, 0.02, 2.0]),
        rng.random() < 0.3 and not replicas,
        rng.choice([1, 1, 2, 5]),
        rng.choice([0.0, 0.0, 0.3, 1.0]),
        rng.choice([1, 2, pace.FULL_RATE_CANDIDATES]),
        2 if rng.random() < 0.15 else 1,
        seed,
    )
