"""The one place that knows how the protocol is spoken: what a request carries, and which event its reply becomes.

``Rules`` are the protocol's parts as the simulated candidates use them. A planted bug is a changed part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django_leader import lease, machine
from django_leader.config import Config, Timing
from django_leader.records import Answer, Claim, LeaderInfo

KEYS = tuple(Config().keys)
LOCK, _, STATE, _, _, WAKE = (key.encode() for key in KEYS)
NAMES = ("campaign", "renew", "release")
INFO = LeaderInfo("i", "h")


def sources() -> dict[str, str]:
    """The scripts as they are."""
    return {name: lease.script(name, lease.FLAGS).source for name in NAMES}


def parse(answer: Answer) -> Answer:
    """An answer as it came. What is planted in its place reads more into it."""
    return answer


@dataclass(frozen=True)
class Rules:
    """The protocol: the machine, the scripts, and what the process around them takes care of."""

    step: Callable[[machine.State, machine.AnyEvent, float, Timing], machine.State] = machine.step
    plan: Callable[[machine.State, float], machine.Plan] = machine.plan
    claim: Callable[[machine.State, float, Timing], Claim] = machine.claim
    answer: Callable[[Answer], Answer] = parse
    scripts: dict[str, str] = field(default_factory=sources)
    timing: Callable[[Timing], Timing] = lambda timing: timing
    fork_guard: bool = True


class Call(NamedTuple):
    """A request: which script, and what it is given behind the echo."""

    act: str
    script: str
    args: tuple[Any, ...]


def call(act: str, me: str, state: machine.State, asked_at: float, timing: Timing, rules: Rules) -> Call:
    """What a candidate in ``state`` asks, for a plan's ``act``."""
    if act == "campaign":
        claim = rules.claim(state, asked_at, timing)
        return Call(act, act, lease.campaign_arguments(timing, me, claim, INFO))
    if act in ("renew", "confirm"):
        term = state.term or state.pending
        assert term
        return Call(act, "renew", lease.renew_arguments(timing, me, term.token, INFO, confirm=act == "confirm"))
    ended = state.ended
    token, reason = (ended.term.token, ended.reason) if ended and ended.owes_release else (0, "")
    leave, floor = act == "leave" or state.stopping, max(state.floor, token)
    return Call(act, "release", lease.release_arguments(timing, me, token, reason, floor=floor, leave=leave, hold=0))


def event(call: Call, reply: Any, asked_at: float, chance: float, rules: Rules) -> machine.AnyEvent:
    """What the machine is told of a reply."""
    if call.script == "release":
        return machine.Released()
    answer = rules.answer(lease.parse(reply))
    if call.act == "campaign":
        return machine.Campaigned(asked_at, answer, chance)
    return machine.Renewed(asked_at, answer)


def must_wait(call: Call, reply: Any, timing: Timing) -> int:
    """How many replicas must have the outcome before it counts."""
    if call.script == "release" or not timing.replicas:
        return 0
    return timing.replicas if lease.parse(reply).verdict in ("granted", "renewed") else 0


def heir(state: machine.State) -> machine.State:
    """What the next candidacy of the same process knows, once the last loss is delivered."""
    return machine.State(floor=state.floor, watch=state.watch, untold=state.untold)
