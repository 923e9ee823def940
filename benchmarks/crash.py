"""The leader is killed: on the host of a candidate, and as if on another host, where nobody can see it die."""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import dataclass

from benchmarks.fleet import Fleet
from benchmarks.limits import Death
from benchmarks.peers import KEY, OURS, SYSTEMS, TTL, ours, present
from benchmarks.report import SPREAD, Section, spread
from benchmarks.servers import Redis, Trouble
from benchmarks.stats import number, summarize

OURS_ELSEWHERE = 3
"""Fleets of ours that are killed at a time: more rounds in the same time."""


@dataclass(frozen=True)
class Effort:
    """How many rounds."""

    here: int = 20
    elsewhere: int = 4


def measure_here(effort: Effort) -> Section:
    """Measure the death of a leader on a host where others see it."""
    section = Section(
        "Crash on the same host, 3 processes (ms)",
        "python -m benchmarks crash",
        "From the leader's SIGKILL until the next leader's gain callback; rounds interleaved. A new process takes the"
        " place of the dead one.",
        ("", *SPREAD),
    )
    takes_over = hasattr(ours.config(), "same_host_takeover")
    if not takes_over:
        section.left_out["the take-over"] = "this version has none: two rounds"
    with contextlib.ExitStack() as stack:
        death, fleet = Death(), Fleet(OURS)
        stack.callback(death.close)
        stack.callback(fleet.close)
        seen, replaced = [], []
        for _ in range(effort.here if takes_over else 2):
            seen.append(death.measure())
            fleet.settle()
            time.sleep(0.3)  # so that the new process has met the leader
            began = fleet.kill()
            replaced.append((fleet.succeed() - began) * 1000)
    limit, own = summarize(seen), summarize(replaced)
    section.rows = [
        ("a pidfd tells a process of the death of another", *spread(limit)),
        ("django-leader", *spread(own)),
    ]
    section.rows.append(("django-leader, fraction of the TTL", number(own.median / TTL / 1000), "", "", "", ""))
    section.values = {"pidfd": limit.median, "crash here": own.median, "crash here of TTL": own.median / TTL / 1000}
    return section


def measure_elsewhere(effort: Effort) -> Section:
    """Measure the death of a leader whose lease must run out. All systems wait at the same time."""
    section = Section(
        "Crash elsewhere, 3 processes (fraction of the TTL)",
        "python -m benchmarks crash",
        "The same, where nobody can see the leader die: ours with `same_host_takeover=False`. All systems at the same"
        " time: they only wait. Below, what ours took above what was left of the lease when the leader was killed.",
        ("system", *SPREAD),
    )
    fleets: list[Fleet] = []
    taken: dict[str, list[float]] = {name: [] for name in present()}
    late: list[float] = []
    try:
        for name in present():
            for _ in range(OURS_ELSEWHERE if name == OURS else 1):
                try:
                    fleets.append(Fleet(name, **({"takeover": False} if name == OURS else {})))
                except Trouble as error:
                    section.left_out[SYSTEMS[name].label] = str(error)
        for _ in range(effort.elsewhere):
            for fleet, seconds, left in _round(fleets, section):
                taken[fleet.name].append(seconds / TTL)
                if fleet.name == OURS:
                    late.append((seconds - left) * 1000)
    finally:
        for fleet in fleets:
            fleet.close()
    found = {name: summarize(fractions) for name, fractions in taken.items() if fractions}
    for name, summary in sorted(found.items(), key=lambda item: item[1].median):
        section.rows.append((SYSTEMS[name].label, *spread(summary)))
    if late:
        section.rows.append(("django-leader: later than the lease (ms)", *spread(summarize(late))))
        section.values["crash elsewhere late"] = summarize(late).median
    if peers := [summary.median for name, summary in found.items() if name != OURS]:
        section.values["crash peer of TTL"] = min(peers)
    return section


def _round(fleets: list[Fleet], section: Section) -> list[tuple[Fleet, float, float]]:
    """Each leader is killed at an instant of its own; the times come from the processes, so nobody need watch them."""
    for fleet in fleets:
        fleet.settle()
    began: dict[Fleet, tuple[float, float]] = {}
    start = time.monotonic()
    for wait, fleet in sorted(((random.uniform(0, TTL), fleet) for fleet in fleets), key=lambda pair: pair[0]):
        time.sleep(max(0.0, start + wait - time.monotonic()))
        left = 0.0
        if isinstance(fleet.server, Redis) and fleet.name == OURS:
            left = float(str(fleet.server.client.pttl(KEY))) / 1000
        began[fleet] = (fleet.kill(), left)
    results = []
    for fleet, (at, left) in began.items():
        try:
            results.append((fleet, fleet.succeed() - at, left))
        except Trouble as error:
            section.left_out[fleet.system.label] = str(error)
            fleets.remove(fleet)
            fleet.close()
    return results
