"""A graceful hand-over between three processes: from the leader's call of ``stop()`` to the next gain callback.

The rounds of all systems are interleaved, so that the noise of the machine hits all alike. Each system has a server
of its own, and those that poll many times a second are frozen outside of their rounds.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass

from benchmarks.fleet import Fleet
from benchmarks.limits import WakeUp
from benchmarks.peers import OURS, SYSTEMS, System, present
from benchmarks.report import SPREAD, Section, spread
from benchmarks.servers import Trouble
from benchmarks.stats import summarize

BARE = "a bare BLPOP wake-up, 2 processes"


@dataclass(frozen=True)
class Effort:
    """How many rounds."""

    turns: int = 100
    slow: int = 10
    """Rounds of those who take about a second."""
    restless: int = 30
    """Rounds of those who are thawed for each."""

    def rounds(self, system: System) -> int:
        """How many it gets."""
        return min(self.turns, self.slow if system.slow else self.restless if system.restless else self.turns)


def measure(effort: Effort) -> Section:
    """Return the table, with what the aims and the picture need."""
    section = Section(
        "Graceful hand-over, 3 processes (ms)",
        "python -m benchmarks handover",
        "From the leader's call of `stop()` until the next leader's gain callback; rounds interleaved.",
        ("system", *SPREAD),
        left_out={SYSTEMS[name].label: SYSTEMS[name].missing for name in SYSTEMS if SYSTEMS[name].missing},
    )
    with contextlib.ExitStack() as stack:
        wakeup = WakeUp()
        stack.callback(wakeup.close)
        fleets: dict[str, Fleet] = {}
        for name, system in present().items():
            try:
                fleets[name] = Fleet(name)
                stack.callback(fleets[name].close)
                fleets[name].freeze()
            except Trouble as error:
                section.left_out[system.label] = str(error)
        taken = _turns(fleets, wakeup, effort, section)
    _fill(section, taken)
    return section


def _turns(fleets: dict[str, Fleet], wakeup: WakeUp, effort: Effort, section: Section) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {BARE: [], **{name: [] for name in fleets}}
    chosen = {name: set(random.sample(range(effort.turns), effort.rounds(SYSTEMS[name]))) for name in fleets}
    for turn in range(effort.turns):
        # In another order each time, so that nobody always comes behind the same one.
        for name in random.sample([*taken], len(taken)):
            if name == BARE:
                taken[name].append(wakeup.measure())
            elif turn in chosen[name] and SYSTEMS[name].label not in section.left_out:
                try:
                    with fleets[name].awake():
                        taken[name].append(fleets[name].handover())
                except Trouble as error:
                    section.left_out[SYSTEMS[name].label] = str(error)
    return taken


def _fill(section: Section, taken: dict[str, list[float]]) -> None:
    found = {name: summarize(times) for name, times in taken.items() if times}
    for name, summary in sorted(found.items(), key=lambda item: (item[0] != BARE, item[1].median)):
        label = name if name == BARE else SYSTEMS[name].label
        section.rows.append((label, *spread(summary)))
        section.samples[label] = taken[name]
    section.values["wake-up"] = found[BARE].median
    if OURS in found:
        section.values.update({"handover": found[OURS].median, "handover p99": found[OURS].p99})
    if peers := [summary.median for name, summary in found.items() if name not in (BARE, OURS)]:
        section.values["handover peer"] = min(peers)
