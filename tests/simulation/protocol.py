"""The one place that knows how the protocol is spoken: what a request carries, and which event its reply becomes.

``Rules`` are the protocol's parts as the simulated candidates use them. A planted bug is a changed part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django_leader import machine
from django_leader.config import Config, Keys, Timing
from django_leader.lease import script
from django_leader.records import Answer

KEYS = Config().keys
NAMES = ("campaign", "renew", "release")


def sources() -> dict[str, str]:
    """The scripts as they are."""
    return {name: script(name).source for name in NAMES}


@dataclass(frozen=True)
class Rules:
    """The protocol: the machine, the scripts, and what the process around them takes care of."""

    step: Callable[[machine.State, machine.AnyEvent, float, Timing], machine.State] = machine.step
    plan: Callable[[machine.State, float], machine.Plan] = machine.plan
    scripts: dict[str, str] = field(default_factory=sources)
    timing: Callable[[Timing], Timing] = lambda timing: timing
    fork_guard: bool = True


class Call(NamedTuple):
    """A request: which script, and what it is given."""

    act: str
    keys: Keys
    args: tuple[Any, ...]
    token: int = 0


def call(act: str, me: str, state: machine.State, timing: Timing, *, hold: float = 0.0) -> Call:
    """What a candidate in ``state`` asks. ``act`` is campaign, renew, release or leave."""
    if act in ("release", "leave"):
        ended = state.ended
        token, reason = (ended.term.token, ended.reason) if ended and ended.owes_release else (0, "")
        leave = act == "leave" or state.stopping
        return Call("release", KEYS, ("0", me, token, reason, int(leave), math.ceil(hold * 1000)), token)
    token = state.term.token if act == "renew" and state.term else state.floor
    ttl = math.floor(timing.ttl * 1000)
    lifetime = math.ceil((timing.ttl + max(timing.retry, timing.heartbeat)) * 1000)
    return Call(act, KEYS, ("0", me, ttl, token, "{}", lifetime), token)


def event(request: Call, reply: Any, asked_at: float, chance: float) -> machine.AnyEvent:
    """What the machine is told of a reply."""
    if request.act == "release":
        return machine.Released()
    _, verdict, granted, holder, left, candidates, twin = reply
    answer = Answer(verdict.decode(), int(granted), holder.decode(), left / 1000, candidates, twin.decode())
    if request.act == "campaign":
        return machine.Campaigned(asked_at, answer, chance)
    return machine.Renewed(asked_at, answer)


def quarantine(timing: Timing) -> float:
    """Seconds for which nobody is granted after a loss of data."""
    return float(getattr(timing, "quarantine", 0.0))
