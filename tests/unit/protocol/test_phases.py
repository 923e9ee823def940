"""The table in the docstring of ``machine``: which event leads from which phase to which."""

from __future__ import annotations

from typing import get_args

from django_leader.protocol import machine
from django_leader.protocol.machine import (
    AnyEvent,
    Campaigned,
    DeadlineObserved,
    Delivered,
    Failed,
    HolderDied,
    Released,
    Renewed,
    Resign,
    State,
    Stop,
    Tick,
    Unsure,
    WaitEnded,
    Woken,
    step,
)

from .test_machine import CONFIRMING, OTHER, TIMING, granted, held, leader, pending, refused, renewed


def _samples() -> dict[str, list[State]]:
    """States of each phase, with whatever else a candidate may know."""
    end = step(leader(), Resign(1, "resigned"), 101.0, TIMING)
    found: dict[str, list[State]] = {
        "following": [State(), step(State(), Campaigned(100.0, held(), 0.0), 100.1, TIMING)],
        "pending": [pending()],
        "leading": [leader()],
        "ending": [end, step(end, Delivered(1), 101.0, TIMING), step(leader(), Tick(), 200.0, TIMING)],
    }
    for phase, states in found.items():
        assert {state.phase for state in states} == {phase}
        states += [state._replace(stopping=True) for state in states if phase in ("following", "ending")]
    return found


def _events(name: str) -> list[AnyEvent]:
    answers = [
        granted(5),
        held(),
        renewed(1),
        renewed(5),
        refused("", verdict="quarantined"),
        refused("", verdict="late"),
    ]
    answers.append(refused(token=9))
    made: dict[str, list[AnyEvent]] = {
        "Campaigned": [Campaigned(101.0, answer, 0.0) for answer in answers],
        "Renewed": [Renewed(101.0, answer) for answer in answers],
        "Unsure": [Unsure()],
        "Failed": [Failed(0.5)],
        "WaitEnded": [WaitEnded(refused=True), WaitEnded(refused=False)],
        "Tick": [Tick()],
        "Woken": [Woken()],
        "HolderDied": [HolderDied(OTHER, 1)],
        "DeadlineObserved": [DeadlineObserved(1), DeadlineObserved(2)],
        "Resign": [Resign(1, "resigned"), Resign(2, "resigned")],
        "Delivered": [Delivered(1), Delivered(2)],
        "Released": [Released()],
        "Stop": [Stop()],
    }
    return made[name]


def test_the_table_of_the_docstring_is_what_step_does() -> None:
    """While no instant passes at which something runs out by itself. The last row is when one does."""
    phases, events = ["following", "pending", "leading", "ending"], [kind.__name__ for kind in get_args(AnyEvent)]
    rows = [["event", *phases]]
    for name in [*events, "(deadline)"]:
        now, cells = (101.0 if name != "(deadline)" else 300.0), list[str]()
        for phase in phases:
            after = {
                step(state, event, now, timing).phase
                for timing in (TIMING, CONFIRMING)
                for state in _samples()[phase]
                for event in _events(name if name != "(deadline)" else "Tick")
            }
            cells.append(", ".join(one for one in phases if one in after - {phase}) or "-")
        rows.append([name, *cells])
    table = [f"    {row[0]:<16}  {row[1]:<24}  {row[2]:<18}  {row[3]:<7}  {row[4]}".rstrip() for row in rows]
    assert "\n".join(table) in (machine.__doc__ or ""), "\n" + "\n".join(table)
