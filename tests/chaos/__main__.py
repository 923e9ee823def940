"""``python -m tests.chaos --faults 1000 --seed 7``: harms a fleet in every way known, and tells whether it held."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from .checker import SECOND
from .fleet import Options
from .run import Trial, chaos, table

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
    parser.add_argument("--alone", type=float, default=0.125, help="the share without same-host take-over")
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
    trial = Trial(seed, given.faults, tuple(given.only), given.sentinel)
    report = chaos(options, trial, folder, say)
    say(table(report))
    for violation in report.violations[:SHOWN]:
        say(f"{violation.at / SECOND:.6f} {violation.what}: {violation.text}")
    if report.violations or given.keep:
        say(f"the logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return int(bool(report.violations))


if __name__ == "__main__":
    sys.exit(main())
