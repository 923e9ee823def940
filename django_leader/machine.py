"""The election as a pure function: what a candidate knows, what happens to it, and what it does next.

NOT guaranteed here: that nobody else leads. This module keeps one process honest about its own lease; that two
processes never hold one is the work of the scripts in ``lua/`` and of three assumptions: over one lease our boot
clock is at most the margin slower than real time, Redis runs a script atomically, and Redis does not forget (a
flush, a restart without persistence or a failover can start a second history while an old lease still runs).
Outside of them only the fencing token protects, and only where the other system checks it.

Why a term is safe inside of them:

- A deadline is counted from the instant *before* the request left (``asked_at``), so it is never later than the
  instant at which the server lets the lease go, whatever the network did to the request or its reply.
- ``step`` looks at the clock before it looks at the event. A renewal whose reply comes after the deadline meets a
  term that has already ended, and there is no way back from ``ended`` to ``term``: the next term is a new grant
  with a new token.
- A reply that never comes is ``Failed``, which changes neither the term nor the deadline. A grant whose reply was
  lost makes nobody leader; the next campaign of the same candidacy is granted anew.
- No campaign starts while the loss callbacks of the last term still run, so gain and loss come strictly in pairs.

Instants are seconds on the boot clock. ``chance`` is a random number in [0, 1) that the caller drew, so that the
same events always give the same state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from .config import Timing
from .records import Answer

Reason = Literal["resigned", "expired", "taken", "data-lost", "callback-failed"]

HAIR = 0.001
"""Seconds that a follower waits beyond the lease's end, which Redis counts in whole milliseconds."""
SPREAD = 0.00005
"""Seconds per candidate over which the attempts on one expiry spread: about a third of the time of a script."""
LONGEST_SPREAD = 0.02
SECOND_CHANCE = 0.005
"""Seconds that the second of two woken followers leaves to the first: a few round trips of 0.1 to 1 ms each."""
FIRST_BACKOFF = 0.05
"""Seconds after a first failure. It doubles with each further one, up to the retry interval."""


class Term(NamedTuple):
    """One leadership: the token that it was granted and the instant up to which the grant is certain."""

    token: int
    deadline: float


@dataclass(frozen=True)
class Ended:
    """The last term while something is still owed for it: its loss callbacks, or its release."""

    term: Term
    reason: Reason
    owes_release: bool
    delivered: bool = False


@dataclass(frozen=True)
class State:
    """All that a candidate knows. ``term`` and ``ended`` are never both set."""

    term: Term | None = None
    ended: Ended | None = None
    next_at: float = 0.0
    """When the next request is due."""
    not_before: float = 0.0
    """Whoever resigned stands back until then, whatever wakes it."""
    floor: int = 0
    """The highest token ever seen: a server that has forgotten it must still grant a higher one."""
    failures: int = 0
    """Requests that failed in a row."""
    setbacks: int = 0
    """Terms that a gain callback ended in a row."""
    leader: str = ""
    """The candidacy that was last seen to lead."""
    stopping: bool = False


class Campaigned(NamedTuple):
    """A campaign was answered."""

    asked_at: float
    answer: Answer
    chance: float


class Renewed(NamedTuple):
    """A renewal was answered."""

    asked_at: float
    answer: Answer


class Failed(NamedTuple):
    """A request failed, or its outcome is unknown."""

    chance: float


class Tick(NamedTuple):
    """Time has passed."""


class Woken(NamedTuple):
    """A leader let go: campaign now, or a little later if another one was woken first."""

    place: int = 0


class Broken(NamedTuple):
    """Somebody who asked saw the term with this token after its deadline: it must not go on."""

    token: int


class Resign(NamedTuple):
    """The term with this token ends by our own will. Another term is not touched."""

    token: int
    reason: Reason


class Delivered(NamedTuple):
    """The loss callbacks of the term with this token have returned."""

    token: int


class Released(NamedTuple):
    """The release was sent. Its outcome does not matter: what it missed, time does."""


class Stop(NamedTuple):
    """Take part no longer."""


AnyEvent = Campaigned | Renewed | Failed | Tick | Woken | Broken | Resign | Delivered | Released | Stop


class Plan(NamedTuple):
    """What to do next. A ``wait`` lasts until ``until``, and any event cuts it short."""

    act: Literal["campaign", "renew", "release", "leave", "wait"]
    until: float = math.inf
    listen: bool = False
    """Whether to wait at Redis, where other processes can wake us, and not only at home."""


def step(state: State, event: AnyEvent, now: float, timing: Timing) -> State:
    """The state after ``event`` at ``now``. Pure."""
    known = state.ended
    state = _expire(state, now)
    match event:
        case Campaigned(asked_at, answer, chance):
            return _campaigned(state, asked_at, answer, chance, now, timing)
        case Renewed(asked_at, answer):
            return _renewed(state, asked_at, answer, now, timing)
        case Failed(chance):
            wait = min(timing.retry, FIRST_BACKOFF * 2 ** min(state.failures, 20)) * (0.5 + chance / 2)
            return replace(state, failures=state.failures + 1, next_at=max(now + wait, state.not_before))
        case Woken(place) if state.term is None:
            return replace(state, next_at=max(now + place * SECOND_CHANCE, state.not_before))
        case Broken(token) if state.term and state.term.token == token:
            return _end(state, "expired", owes_release=False, next_at=now)
        case Resign(token, reason) if state.term and state.term.token == token:
            return _resign(state, reason, now, timing)
        case Delivered(token) if known and state.ended and state.ended.term.token == token:
            ended = replace(state.ended, delivered=True)
            return replace(state, ended=ended if ended.owes_release else None)
        case Released() if known:
            return replace(state, ended=None)
        case Stop():
            state = replace(state, stopping=True)
            return _end(state, "resigned", owes_release=True, next_at=now) if state.term else state
    return state


def plan(state: State, now: float) -> Plan:
    """What a candidate in ``state`` does at ``now``. Pure."""
    state = _expire(state, now)
    if state.ended:
        if state.ended.delivered:
            return Plan("release")
        if state.ended.owes_release:
            return Plan("wait", state.ended.term.deadline)
    if state.stopping:
        return Plan("leave")
    if state.ended:
        return Plan("wait")
    if now >= state.next_at:
        return Plan("renew" if state.term else "campaign")
    until = min(state.next_at, state.term.deadline) if state.term else state.next_at
    return Plan("wait", until, listen=not state.failures)


def _expire(state: State, now: float) -> State:
    if state.term and now >= state.term.deadline:
        return _end(state, "expired", owes_release=False, next_at=now)
    if state.ended and state.ended.owes_release and not state.ended.delivered and now >= state.ended.term.deadline:
        # Work that does not end keeps the lease until it has run out: from here on there is nothing to give back.
        return replace(state, ended=replace(state.ended, owes_release=False))
    return state


def _end(state: State, reason: Reason, *, owes_release: bool, next_at: float) -> State:
    assert state.term
    return replace(state, term=None, ended=Ended(state.term, reason, owes_release), next_at=next_at, leader="")


def _resign(state: State, reason: Reason, now: float, timing: Timing) -> State:
    # Whoever resigns stands back for a while, so that another can take over; the longer, the more often in a row.
    setbacks = state.setbacks + 1 if reason == "callback-failed" else 0
    until = now + timing.retry * 2 ** min(max(setbacks - 1, 0), 5)
    return _end(replace(state, setbacks=setbacks, not_before=until), reason, owes_release=True, next_at=until)


def _campaigned(state: State, asked_at: float, answer: Answer, chance: float, now: float, timing: Timing) -> State:
    state = replace(state, failures=0, floor=max(state.floor, answer.token))
    if state.term or state.ended:
        return state
    if answer.verdict != "granted":
        spread = chance * min(LONGEST_SPREAD, SPREAD * answer.candidates)
        # A lock without a TTL is not ours; it has nothing that could run out.
        wait = min(timing.retry, answer.remaining + HAIR + spread) if answer.remaining >= 0 else timing.retry
        return replace(state, leader=answer.holder, next_at=now + wait)
    term = Term(answer.token, asked_at + timing.ttl - timing.margin)
    if state.stopping:
        return replace(state, ended=Ended(term, "resigned", owes_release=True, delivered=True))
    if now >= term.deadline:
        return replace(state, next_at=now)
    return replace(state, term=term, leader=answer.holder, next_at=asked_at + timing.heartbeat)


def _renewed(state: State, asked_at: float, answer: Answer, now: float, timing: Timing) -> State:
    state = replace(state, failures=0)
    if not state.term:
        return replace(state, floor=max(state.floor, answer.token))
    if answer.verdict == "renewed":
        if answer.token != state.term.token:
            return state
        deadline = max(state.term.deadline, asked_at + timing.ttl - timing.margin)
        return replace(state, term=Term(state.term.token, deadline), setbacks=0, next_at=asked_at + timing.heartbeat)
    taken = answer.holder not in ("", state.leader)
    reason: Reason = "taken" if taken else "data-lost"
    lost = _end(state, reason, owes_release=False, next_at=now + (timing.retry if taken else 0))
    return replace(lost, floor=max(state.floor, answer.token), leader=answer.holder)
