"""A graceful hand-over among a hundred and a thousand candidates: threads, in ten processes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from benchmarks.fleet import Fleet
from benchmarks.peers import OURS, PORT, SYSTEMS, present
from benchmarks.report import SPREAD, Section, spread
from benchmarks.servers import Trouble
from benchmarks.stats import summarize

PROCESSES = 10
WARM_UP = 2
WHO = {100: (OURS, "python-redis-lock", "etcd", "kazoo", PORT), 1000: (OURS, "python-redis-lock", "etcd", "kazoo")}


@dataclass(frozen=True)
class Effort:
    """How many rounds."""

    ours: int = 40
    peers: int = 15
    slow: int = 8


def measure(effort: Effort) -> Section:
    """One system after the other: the idle ones of a thousand would disturb."""
    section = Section(
        "Graceful hand-over, many candidates (ms)",
        "python -m benchmarks scale",
        f"Light candidates: threads in {PROCESSES} processes (fewer would wait for each other's GIL), on the same cores"
        " as the server. One system after the other. The direct port is measured with 100 only.",
        ("system, candidates", *SPREAD),
    )
    there = present()
    for count, names in WHO.items():
        for name in names:
            if name in there:
                rounds = effort.ours if name == OURS else effort.slow if SYSTEMS[name].slow else effort.peers
                _one(section, name, count, rounds)
    return section


def _one(section: Section, name: str, count: int, rounds: int) -> None:
    label = f"{SYSTEMS[name].label}, {count:,}"
    try:
        with contextlib.closing(Fleet(name, PROCESSES, count // PROCESSES)) as fleet:
            times = [fleet.handover() for _ in range(WARM_UP + rounds)][WARM_UP:]
    except Trouble as error:
        section.left_out[label] = str(error)
        return
    summary = summarize(times)
    section.rows.append((label, *spread(summary)))
    section.values[f"handover {count}" if name == OURS else f"handover {count} {name}"] = summary.median
