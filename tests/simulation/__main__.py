"""The simulation for as long as it is told: ``python -m tests.simulation --seconds 600 --jobs 2``."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator

from .episode import BATCH, FoundError, Result, batch


def _batches(first: int, jobs: int, with_jobs: bool | None) -> Iterator[tuple[Result, list[FoundError]]]:
    starts = itertools.count(first, BATCH)
    if jobs == 1:
        yield from (batch(start, with_jobs) for start in starts)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        waiting = [pool.apply_async(batch, (next(starts), with_jobs)) for _ in range(2 * jobs)]
        while True:
            yield waiting.pop(0).get()
            waiting.append(pool.apply_async(batch, (next(starts), with_jobs)))


def main() -> int:
    """Gives the exit status: 1 if something that must hold did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--steps", type=int, help="stop after so many steps (default: 1,000,000)")
    parser.add_argument("--seconds", type=float, help="stop after so many seconds")
    parser.add_argument("--seed", type=int, help="the first seed; each episode has one (default: random)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--with-jobs", action="store_true", default=None, help="each leader has jobs (default: in turn)")
    only.add_argument("--without-jobs", action="store_false", dest="with_jobs", help="no leader has jobs")
    options = parser.parse_args()
    steps = options.steps or (sys.maxsize if options.seconds else 1_000_000)
    first = random.SystemRandom().randrange(2**40) if options.seed is None else options.seed
    print(f"first seed {first}", flush=True)  # noqa: T201

    started = said = time.monotonic()
    result, found = Result(), list[FoundError]()
    for more, wrong in _batches(first, options.jobs, options.with_jobs):
        result.add(more)
        found += wrong
        now = time.monotonic()
        if (found and not options.keep_going) or result.steps >= steps or now - started >= (options.seconds or 1e9):
            break
        if now - said > 30:
            said = now
            print(f"{result.steps:,} steps, {len(found)} violations", flush=True)  # noqa: T201
    _report(result, found, time.monotonic() - started)
    return 1 if found else 0


def _report(result: Result, found: list[FoundError], seconds: float) -> None:
    lines = [
        f"{result.steps:,} steps in {result.episodes:,} episodes, {result.steps / seconds:,.0f} steps/s",
        "faults: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(result.faults.items())),
        f"longest time to a leader after the last fault: {result.slowest:.0%} of what is allowed"
        f" (seed {result.slowest_seed})",
        f"{result.inherited:,} terms began on the death of the last leader",
        "jobs: " + ", ".join(f"{what} {count:,}" for what, count in sorted(result.jobs.items())),
        f"{len(found)} violations",
    ]
    if found:
        lines += [f"  seed {error.seed}: {error.what}" for error in found[:20]]
        lines.append(str(min(found, key=lambda error: len(error.history))))
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
