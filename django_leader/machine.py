"""The election as a pure function: what a candidate knows, what happens to it, and what it does next.

NOT guaranteed here: that nobody else leads. This module keeps one process honest about its own lease; that two
processes never hold one is the work of it and of the scripts in ``lua/`` together, and of assumptions: over one lease
our boot clock is wrong by a small part of the margin at most, Redis runs a script atomically, and where Redis has
replicas ``MIN_REPLICAS`` makes every grant known to most servers. Outside of them only the fencing token protects,
and only where the other system checks it.

Why one process leads at a time. Say that a grant to B follows one to A:

- *A's deadline* is counted from the instant before its request left (``asked_at``), so it is never later than the
  end of what the server was asked for. ``step`` looks at the clock before it looks at the event: a renewal whose
  reply comes after the deadline meets a term that has already ended, and nothing leads from ``ended`` to ``term``.
- *A's state is there when B's request is executed.* Either A has released it, and had ended before; or B claims it.
  A claim names the version of the state that B has proved to be over on its own clock (``watch``). A renewal makes
  another version, and the claim void. Or it names A and its token, and A's process is dead (``process``): then nothing
  of A leads, whatever its deadline. What it has sent and is executed later finds that the state is not its own, or,
  when data were lost meanwhile, sets a state that binds everybody for as long as B's lease can last (``reclaim.lua``).
- *A's state is lost.* The first step of anybody on what is left finds no state, another server's, or an older one,
  and sets a quarantine, which lasts longer than any lease that was granted before the loss, and has to be claimed
  like any other state. A itself may set its state again while its lease lasts, which is then the only one: the server
  does not execute what comes later, and a reply counts only before the old deadline.
- *A reply never comes*: ``Failed``, which changes neither the term nor the deadline. A grant whose reply was lost
  makes nobody leader; the next campaign of the same candidacy is granted anew, and an earlier one that is executed
  later is refused.
- *With replicas* a grant is confirmed by a second step before it counts (``pending``). It fails if a replica has joined
  since, as that replica may have confirmed the last lease of another primary.

No campaign starts while the loss callbacks of the last term still run, so gain and loss come strictly in pairs.

Instants are seconds on the boot clock. ``chance`` is a random number in [0, 1) that the caller drew: same events,
same state.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from . import pace
from .config import Timing
from .events import (
    AnyEvent as AnyEvent,
)
from .events import (
    Broken as Broken,
)
from .events import (
    Campaigned as Campaigned,
)
from .events import (
    Delivered as Delivered,
)
from .events import (
    Died as Died,
)
from .events import (
    Failed as Failed,
)
from .events import (
    Reason as Reason,
)
from .events import (
    Released as Released,
)
from .events import (
    Renewed as Renewed,
)
from .events import (
    Resign as Resign,
)
from .events import (
    Stop as Stop,
)
from .events import (
    Tick as Tick,
)
from .events import (
    Woken as Woken,
)
from .records import Answer, Claim
from .watch import NOTHING_SEEN, Watch

HAIR = 0.001  # seconds beyond the end of a lease, which Redis counts in whole milliseconds
SPREAD = 0.00005  # seconds per candidate, over which the attempts on one expiry spread: a third of a script's time
LONGEST_SPREAD = 0.02
FIRST_BACKOFF = 0.05  # seconds; it doubles with each further failure, up to the retry interval


class Term(NamedTuple):
    """One leadership: the token that it was granted and the instant up to which the grant is certain."""

    token: int
    deadline: float


class Ended(NamedTuple):
    """The last term while something is still owed for it: its loss callbacks, or its release."""

    term: Term
    reason: Reason
    owes_release: bool
    delivered: bool = False


class State(NamedTuple):
    """All that a candidate knows. At most one of ``pending``, ``term`` and ``ended`` is set."""

    term: Term | None = None
    ended: Ended | None = None
    pending: Term | None = None
    """Granted, and not yet confirmed."""
    next_at: float = 0.0  # when the next request is due
    not_before: float = 0.0  # whoever resigned stands back until then, whatever wakes it
    floor: int = 0
    """The highest token ever seen: a server that has forgotten it must still grant a higher one."""
    failures: int = 0  # requests that failed in a row
    setbacks: int = 0  # terms that a gain callback ended in a row
    leader: str = ""
    """The candidacy that was last seen to lead."""
    watch: Watch = NOTHING_SEEN
    untold: tuple[int, str] = (0, "")
    """Token and reason of the last term, until the history has its end."""
    looks: bool = False
    """Whether another one led when Redis was last asked, so that a look is enough."""
    dead: tuple[str, int] = ("", 0)
    """Holder and token of the last term whose process was seen to die."""
    stopping: bool = False


class Plan(NamedTuple):
    """What to do next. A ``wait`` lasts until ``until``, and any event cuts it short."""

    act: Literal["campaign", "look", "confirm", "renew", "release", "leave", "wait"]
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
            term = state.term or state.pending  # which is worth some tries more before it ends
            longest = min(timing.retry, max(FIRST_BACKOFF, (term.deadline - now) / 4)) if term else timing.retry
            wait = min(longest, FIRST_BACKOFF * 2 ** min(state.failures, 20)) * (0.5 + chance / 2)
            later = max(now + wait, state.not_before)
            return state._replace(failures=state.failures + 1, next_at=later, looks=False)
        case Woken() if state.term is None and state.pending is None:
            return state._replace(next_at=max(now, state.not_before), looks=False)
        case Died(holder, token) if state.term is None and state.pending is None:
            return state._replace(dead=(holder, token), next_at=max(now, state.not_before), looks=False)
        case Broken(token) if state.term and state.term.token == token:
            return _end(state, "expired", owes_release=False, next_at=now)
        case Resign(token, reason) if state.term and state.term.token == token:
            return _resign(state, reason, now, timing)
        case Delivered(token) if known and state.ended and state.ended.term.token == token:
            ended = state.ended._replace(delivered=True)
            return state._replace(ended=ended if ended.owes_release else None)
        case Released() if known:
            return state._replace(ended=None)
        case Stop():
            state = state._replace(stopping=True)
            if state.pending:
                return state._replace(pending=None, ended=_unannounced(state.pending))
            return _end(state, "resigned", owes_release=True, next_at=now) if state.term else state
    return state


def claim(state: State, asked_at: float, timing: Timing) -> Claim:
    """What a request that leaves at ``asked_at`` says. Pure."""
    ended = state.ended.term if state.ended and state.ended.owes_release else None
    if term := state.term or state.pending or ended:  # at its end somebody else may lead
        return Claim(state.floor, state.watch.version, state.watch.server_time(term.deadline, most=False))
    latest = state.watch.server_time(asked_at + timing.operation + timing.margin, most=True)
    return Claim(state.floor, state.watch.over(asked_at), latest, state.untold, state.dead)


def inherited(state: State) -> State:
    """Return what the next candidacy of the same process begins with. Pure.

    It does not campaign before the loss callbacks of the last term have returned. The last candidacy gives the lease of
    that term back itself.
    """
    ended = state.ended
    undelivered = ended._replace(owes_release=False) if ended and not ended.delivered else None
    return State(floor=state.floor, ended=undelivered, watch=state.watch, untold=state.untold)


def heeds(state: State, now: float) -> bool:
    """Whether a candidate that waits at Redis campaigns when it is woken. Pure: ``plan`` of ``Woken``, for less."""
    return not (state.term or state.pending or state.ended or state.stopping) and now >= state.not_before


def decided(event: AnyEvent, after: State) -> bool:
    """Whether ``event`` ended an attempt to lead. Who must still watch or confirm has not been turned down. Pure."""
    if after.term is not None or isinstance(event, Failed):
        return True
    if not isinstance(event, Campaigned) or after.watch.over(event.asked_at):
        return False
    answer = event.answer
    # A state of which more is left than it lasts: the server's clock was set back, so its word is worth nothing.
    held = answer.verdict == "held" and answer.remaining <= answer.span
    # A hold that goes on by the proof turns down, also where the server's clock says that it is over.
    return held or answer.verdict == "foreign" or answer.held_since is not None


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
        if state.term or state.pending:
            return Plan("renew" if state.term else "confirm")
        return Plan("look" if state.looks and not state.watch.over(now) else "campaign")
    if state.term:
        return Plan("wait", min(state.next_at, state.term.deadline))
    return Plan("wait", state.next_at, listen=not state.failures)


def _expire(state: State, now: float) -> State:
    if state.term and now >= state.term.deadline:
        return _end(state, "expired", owes_release=False, next_at=now)
    if state.pending and now >= state.pending.deadline:
        return state._replace(pending=None)
    if state.ended and state.ended.owes_release and not state.ended.delivered and now >= state.ended.term.deadline:
        # Work that does not end keeps the lease until it has run out: from here on there is nothing to give back.
        ended = state.ended._replace(owes_release=False)
        return state._replace(ended=ended, untold=(ended.term.token, ended.reason))
    return state


def _end(state: State, reason: Reason, *, owes_release: bool, next_at: float) -> State:
    assert state.term
    untold = state.untold if owes_release else (state.term.token, reason)  # a release tells the history
    ended = Ended(state.term, reason, owes_release)
    return state._replace(term=None, ended=ended, untold=untold, next_at=next_at, leader="")


def _unannounced(term: Term) -> Ended:
    """A grant of which nobody was told, and that is given back."""
    return Ended(term, "resigned", owes_release=True, delivered=True)


def _resign(state: State, reason: Reason, now: float, timing: Timing) -> State:
    # Whoever resigns stands back for a while, so that another can take over; the longer, the more often in a row.
    setbacks = state.setbacks + 1 if reason == "callback-failed" else 0
    until = now + timing.retry * 2 ** min(max(setbacks - 1, 0), 5)
    return _end(state._replace(setbacks=setbacks, not_before=until), reason, owes_release=True, next_at=until)


def _observe(state: State, asked_at: float, answer: Answer, now: float, pause: float) -> State:
    watch = state.watch.observe(asked_at, answer, now, pause)
    return state._replace(watch=watch, failures=0, floor=max(state.floor, answer.token))


def _gap(state: State, timing: Timing) -> float:
    """Seconds from the last look to this one, as planned."""
    look = state.watch.look
    return max(timing.retry, state.next_at - look.asked_at) if state.looks and look else timing.retry


def _campaigned(state: State, asked_at: float, answer: Answer, chance: float, now: float, timing: Timing) -> State:
    gap = _gap(state, timing)
    state = _observe(state, asked_at, answer, now, gap + timing.operation)._replace(untold=(0, ""), looks=False)
    if state.term or state.ended or state.pending:
        return state
    if answer.verdict != "granted":
        # What is not ours cannot be claimed: its holder lets it run out, or renews it.
        over_at = now + answer.remaining if answer.verdict in ("foreign", "late") else state.watch.over_at
        spread = chance * min(LONGEST_SPREAD, SPREAD * answer.candidates)
        pause = pace.pause(answer, state.watch, gap, chance, timing)
        next_at = min(asked_at + pause, max(over_at, now) + HAIR + spread)
        return state._replace(leader=answer.holder, next_at=next_at, looks=answer.verdict == "held")
    term = Term(answer.token, asked_at + timing.ttl - timing.margin)
    if state.stopping:
        return state._replace(ended=_unannounced(term))
    if now >= term.deadline:
        return state._replace(next_at=now)
    if timing.replicas:
        return state._replace(pending=term, next_at=now)
    return state._replace(term=term, leader=answer.holder, next_at=asked_at + timing.heartbeat)


def _renewed(state: State, asked_at: float, answer: Answer, now: float, timing: Timing) -> State:
    state = _observe(state, asked_at, answer, now, timing.retry + timing.operation)
    term = state.term or state.pending
    if not term:
        return state
    if answer.verdict == "late":  # or the server's clock was set: now we know what it shows
        return state._replace(next_at=now)
    if answer.verdict == "renewed":
        if answer.token != term.token:
            return state
        deadline = max(term.deadline, asked_at + timing.ttl - timing.margin)
        lasts = state._replace(term=Term(term.token, deadline), next_at=asked_at + timing.heartbeat)
        return lasts._replace(pending=None, leader=answer.holder) if state.pending else lasts._replace(setbacks=0)
    if state.pending:
        return state._replace(pending=None, next_at=now)
    taken = answer.holder not in ("", state.leader)
    reason: Reason = "taken" if taken else "quarantined" if answer.verdict == "quarantined" else "data-lost"
    lost = _end(state, reason, owes_release=False, next_at=now + (timing.retry if taken else 0))
    return lost._replace(leader=answer.holder)
