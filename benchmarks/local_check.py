"""The check that a program makes before it works as the leader, beside a bare function that compares a clock."""

from __future__ import annotations

import contextlib

from benchmarks.fleet import Fleet
from benchmarks.peers import OURS, SYSTEMS, present
from benchmarks.report import Section
from benchmarks.servers import Trouble
from benchmarks.stats import number

GUARDED = "a bare function that compares a clock and the process id"


def measure(turns: int) -> Section:
    """Each in its own process while it leads, its bare function in the same one, in turns: the best of all."""
    section = Section(
        "The local check (ns per call, its loop included: the best of several)",
        "python -m benchmarks local",
        "The bare function is measured in the same process, in turns. One that is not to be true in a forked child"
        " asks for the process id, too; ours has a page that Linux wipes there, the others have nothing.",
        ("system", "check", "bare function", "ratio", "depends on"),
    )
    with contextlib.ExitStack() as stack:
        fleets = {}
        for name, system in present().items():
            try:
                fleets[name] = Fleet(name, 2 if name == OURS else 1)
                stack.callback(fleets[name].close)
            except Trouble as error:
                section.left_out[system.label] = str(error)
        best: dict[tuple[str, bool], tuple[float, float]] = {}
        guarded: list[tuple[float, float]] = []
        for _ in range(turns):
            for name, fleet in fleets.items():
                for process in fleet.processes:
                    process.tell(f"time {50 if SYSTEMS[name].check == 'network' else 20_000}")
                    told = process.hear()
                    check, bare = best.get((name, process is fleet.leader), (float("inf"),) * 2)
                    best[name, process is fleet.leader] = (min(check, told["check"]), min(bare, told["bare"]))
                    guarded.append((told["guarded"], told["bare"]))
    for (name, leading), (check, bare) in sorted(best.items(), key=lambda item: item[1][0]):
        what = f"{SYSTEMS[name].label}{'' if leading else ', not leading'}"
        section.rows.append((what, number(check), number(bare), number(check / bare), SYSTEMS[name].check))
    if guarded:
        check, bare = map(min, zip(*guarded, strict=True))
        section.rows.append((GUARDED, number(check), number(bare), number(check / bare), "deadline"))
        section.values["check guarded"] = check
    if (OURS, True) in best:
        section.values["check"], section.values["bare"] = best[OURS, True]
    deadlines = [best[name, True][0] for name in fleets if name != OURS and SYSTEMS[name].check == "deadline"]
    if deadlines:
        section.values["check peer"] = min(deadlines)
    return section
