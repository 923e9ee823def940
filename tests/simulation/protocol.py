"""The one place that knows how the protocol is spoken: what a request carries, and which event its reply becomes.

``Rules`` are the protocol's parts as the simulated candidates use them. A planted bug is a changed part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django_leader.protocol import machine, requests, scripts
from django_leader.protocol.config import Config, Timing, inbox, lifetime
from django_leader.protocol.records import Answer, LeaderInfo, Preconditions

from .process import Process, identity

KEYS = tuple(Config().keys)
LOCK, _, STATE, _, _, WAKE = (key.encode() for key in KEYS)
NAMES = ("campaign", "poll", "renew", "reclaim", "release")
INFO = LeaderInfo("i", "h")


def keys(script: str) -> tuple[str, ...]:
    """Those that the script is given."""
    if script == "renew":
        return (*KEYS[:3], inbox(Config().keys, "i"))
    return KEYS[:4] if script == "poll" else KEYS


def sources() -> dict[str, str]:
    """The scripts as they are."""
    return {name: scripts.script(name, scripts.FLAGS).source for name in NAMES}


@dataclass(frozen=True)
class Rules:
    """The protocol: the machine, the scripts, and what the process around them takes care of."""

    step: Callable[[machine.State, machine.AnyEvent, float, Timing], machine.State] = machine.step
    plan: Callable[[machine.State, float], machine.Plan] = machine.plan
    preconditions: Callable[[machine.State, float, Timing], Preconditions] = machine.preconditions
    scripts: dict[str, str] = field(default_factory=sources)
    timing: Callable[[Timing], Timing] = lambda timing: timing
    fork_guard: bool = True
    waits: bool = True
    identity: Callable[[Process], str] = identity
    dead: Callable[[Process], bool] = lambda process: process.dead
    seen: bool = True
    """Whether only the death of a process counts that was seen on the same machine."""


class Call(NamedTuple):
    """A request: which script, and what it is given behind the echo. ``then`` is asked if it gives no answer."""

    act: str
    script: str
    args: tuple[Any, ...]
    then: Call | None = None


class Asker(NamedTuple):
    """Who asks."""

    me: str
    timing: Timing
    rules: Rules
    process: str
    """What it publishes of its process."""
    hold: float = 0.0
    """Seconds for which its release holds."""
    clocks: str = ""
    """What it publishes with that."""


def call(asker: Asker, act: str, state: machine.State, asked_at: float, *, connected: bool) -> Call:
    """What a candidate in ``state`` asks, for a plan's ``act``."""
    me, timing, rules, process, hold, clocks = asker
    if act in ("campaign", "poll"):
        preconditions = rules.preconditions(state, asked_at, timing)
        full = Call("campaign", "campaign", requests.campaign_arguments(timing, me, preconditions, INFO, process))
        lean = Call("campaign", "poll", (me, lifetime(timing)), full)
        return lean if connected and act == "poll" else full
    if act in ("renew", "confirm"):
        term = state.term or state.pending
        assert term
        confirm = act == "confirm"
        preconditions = rules.preconditions(state, asked_at, timing)
        arguments = requests.reclaim_arguments(timing, me, term.token, INFO, preconditions, process, confirm=confirm)
        closer = Call(act, "reclaim", arguments)
        lean = Call(act, "renew", (me, term.token, math.floor(timing.ttl * 1000), "{}"), closer)
        return lean if connected and not confirm else closer
    ended = state.ended
    token, reason = (ended.term.token, ended.reason) if ended and ended.owes_release else (0, "")
    preconditions = rules.preconditions(state, asked_at, timing)
    how: dict[str, Any] = {"leave": act == "leave", "hold": hold, "clocks": clocks if hold else ""}
    arguments = requests.release_arguments(timing, me, token, reason, preconditions, **how)
    return Call(act, "release", arguments)


def parse(call: Call, reply: bytes, timing: Timing) -> Answer | None:
    """What a script answered to a campaign or a renewal; None if it was unsure."""
    if call.script != "renew":
        return None if reply.endswith(b"\nunsure") else requests.parse(reply)
    me, token, *_ = call.args
    return requests.parse_renewed(reply, me, token, timing)


def event(call: Call, answer: Answer | None, asked_at: float, jitter: float) -> machine.AnyEvent:
    """What the machine is told of an answer."""
    if call.script == "release":
        return machine.Released()
    if answer is None:
        return machine.Failed(jitter)
    if call.act == "campaign":
        return machine.Campaigned(asked_at, answer, jitter)
    return machine.Renewed(asked_at, answer)


def waits(answer: Answer | None, timing: Timing) -> bool:
    """Whether replicas must have the outcome before it counts."""
    return bool(timing.replicas and answer and answer.verdict in ("granted", "renewed"))
