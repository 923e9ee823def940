"""A graceful hand-over among many candidates: light ones of ours in event loops, and threads of all systems."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from benchmarks.fleet import Fleet, LightFleet
from benchmarks.peers import OURS, PORT, SYSTEMS, present
from benchmarks.report import SPREAD, Section, spread
from benchmarks.servers import Trouble
from benchmarks.stats import summarize

PROCESSES = 10
WARM_UP = 2
WHO = {100: (OURS, "python-redis-lock", "etcd", "kazoo", PORT), 1000: (OURS, "python-redis-lock", "etcd", "kazoo")}

LIGHT_PROCESSES = 3
LIGHT = (3, 99, 999)


@dataclass(frozen=True)
class Effort:
    """How many rounds."""

    ours: int = 40
    peers: int = 15
    slow: int = 8


def measure_light(rounds: int) -> Section:
    """Measure the protocol and the server, as far as the number of candidates matters to them."""
    section = Section(
        "Graceful hand-over, light candidates (ms)",
        "python -m benchmarks scale",
        f"Candidates of ours without threads: each has a connection and sends what any candidate sends, when it would,"
        f" and whoever is woken leads until it is stopped. Here {LIGHT_PROCESSES} processes have them all, in one event"
        " loop each, on the same cores as the server. From before the leader's release to the instant at which the"
        " next one knows its grant: the application's callbacks and their threads are not in it, so compare it only"
        " with itself. The fleets run side by side, each on a server of its own, and their rounds are interleaved.",
        ("light candidates", *SPREAD),
    )
    with contextlib.ExitStack() as stack:
        fleets = [LightFleet(LIGHT_PROCESSES, count // LIGHT_PROCESSES) for count in LIGHT]
        for fleet in fleets:
            stack.callback(fleet.close)
        turns = [[fleet.handover() for fleet in fleets] for _ in range(WARM_UP + rounds)][WARM_UP:]
    for count, times in zip(LIGHT, zip(*turns, strict=True), strict=True):
        summary = summarize(times)
        section.rows.append((f"{count:,}", *spread(summary)))
        section.values[f"handover light {count}"] = summary.median
    return section


def measure(effort: Effort) -> Section:
    """One system after the other: the idle ones of a thousand would disturb."""
    section = Section(
        "Graceful hand-over, many candidates in threads (ms)",
        "python -m benchmarks scale",
        f"From the leader's call of `stop()` until the next leader's gain callback. Threads in {PROCESSES} processes"
        " (fewer would wait for each other's GIL), on the same cores as the server. One system after the other. The"
        " direct port is measured with 100 only.",
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
