"""The election as a pure function: what a candidate knows, what happens to it, and what it does next.

NOT guaranteed here: that nobody else leads. This module keeps one process honest about its own lease. That two
processes never hold one is the work of this module and of the scripts in ``lua/`` together, under these assumptions:
over one lease our boot clock is wrong by a small part of the margin at most; Redis runs a script atomically; and where
Redis has replicas, ``MIN_REPLICAS`` makes every grant known to most servers. Where an assumption does not hold, only
the fencing token protects, and only if the other system checks it.

Why one process leads at a time. Suppose that a grant to B follows a grant to A.

- *A's deadline* is its lease and no more, less a margin, from the instant before its request left (``asked_at``). The
  server sets the state later than that instant, and B sees it later still; B then waits for its whole duration, or has
  another proof that it is over (``expiry``). So A stops at least the margin before B is granted anything. The margin is
  what the clocks of both together may be wrong by. ``step`` looks at the clock before it looks at the event. So a
  renewal whose reply comes after the deadline meets a term that has already ended, and no event turns ``ended`` back
  into ``term``.
- *A's state is still there when B's request is executed.* There are three cases. A has released it, and had ended
  before. Or B names the version of the state, which B has proved to be over on its own clock (``expiry``); a renewal
  by A makes another version, and the proof void. Or B names A and its token, because A's process is dead
  (``pidfd``); then nothing of A leads, whatever its deadline. A request of A that is executed later finds that the
  state is not A's any more. If data were lost meanwhile, it sets a state that binds everybody for as long as B's
  lease can last (``reclaim.lua``).
- *A's state is lost.* The first campaign, reclaim or release finds no state, the state of another server, or an
  older one. (A poll grants nothing, and a renewal needs A's own state.) It sets a quarantine, which ends after every
  lease that was granted before the loss, unless it is configured to be off or shorter than the lease. It must be proved
  to be over like any other state. A itself may set its state again, but only within its old lease: the server
  refuses the request after that (``not_after``), and A ignores a reply that comes after its old deadline. So no other
  candidate was granted a lease meanwhile.
- *A reply never comes.* The event is ``Failed``, which changes neither the term nor the deadline. A grant whose reply
  was lost makes nobody leader. The next campaign of the same candidacy is granted anew, and an earlier campaign that is
  executed later is refused.
- *With replicas* a second step confirms a grant before it counts (``pending``). It fails if a replica has joined since,
  because that replica may have confirmed the last lease of another primary.

The phase of a candidate, and where an event leads (``-``: it stays; ``tests`` derive this table from ``step``). A
candidate that is ``pending`` has been granted a lease that replicas must confirm. One that is ``ending`` leads no more,
but its loss callbacks still run, or its lease is still to be given back. Events of a term that is over change no phase.

    event             following                 pending             leading  ending
    Campaigned        pending, leading, ending  -                   -        -
    Renewed           -                         following, leading  ending   -
    Unsure            -                         -                   -        -
    Failed            -                         -                   -        -
    WaitEnded         -                         -                   -        -
    Released          -                         -                   -        following
    Tick              -                         -                   -        -
    Woken             -                         -                   -        -
    HolderDied        -                         -                   -        -
    DeadlineObserved  -                         -                   ending   -
    Resign            -                         -                   ending   -
    Delivered         -                         -                   -        following
    Stop              -                         ending              ending   -
    (deadline)        -                         following           ending   -

No campaign starts while the loss callbacks of the last term still run, so gain and loss come strictly in pairs.

Instants are seconds on the boot clock. ``jitter`` is a random number in [0, 1) that the caller drew, so that the same
events make the same state.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from . import pace
from .config import Timing
from .expiry import NOTHING_SEEN, ExpiryProof
from .hold import DELAY
from .records import Answer, Preconditions

EXPIRY_ROUNDING = 0.001
"""Seconds after the end of a lease at which it is claimed, because Redis counts whole milliseconds."""
JITTER_PER_CANDIDATE = 0.00005
"""Seconds per candidate over which the attempts on one expired lease spread: a third of the time of a script."""
MAX_JITTER = 0.02
"""Seconds over which they spread, at most."""
FIRST_BACKOFF = 0.05
"""Seconds after the first failure until the next request. They double with each further failure, up to the retry
interval."""

SECOND_WAKE_UP = 0.01
"""Seconds for which a leader that leaves waits after it has woken a follower, before it wakes another one: several
times what a hand-over takes."""

Reason = Literal["resigned", "expired", "taken", "quarantined", "data-lost", "callback-failed"]


class Campaigned(NamedTuple):
    """A campaign or a poll was answered."""

    asked_at: float
    answer: Answer
    jitter: float
    dead: tuple[str, int] | None = None
    """Holder and token in the answer, if the holder's process has just been found dead."""


class Renewed(NamedTuple):
    """A renewal was answered."""

    asked_at: float
    answer: Answer


class Unsure(NamedTuple):
    """A poll or a lean renewal could not tell, and has changed nothing: send the full request."""


class Failed(NamedTuple):
    """A request failed, or its outcome is unknown."""

    jitter: float


class WaitEnded(NamedTuple):
    """A wait at Redis is over, or was refused."""

    refused: bool


class Tick(NamedTuple):
    """Time has passed."""


class Woken(NamedTuple):
    """A leader has released its lease: campaign now."""


class HolderDied(NamedTuple):
    """The process of the candidacy ``holder``, which was granted ``token``, is dead: none of its threads runs."""

    holder: str
    token: int


class DeadlineObserved(NamedTuple):
    """A reader of ``is_leader()`` saw the term with this token after its deadline: it must not go on."""

    token: int


class Resign(NamedTuple):
    """End the term with this token voluntarily. Another term is not touched."""

    token: int
    reason: Reason


class Delivered(NamedTuple):
    """The loss callbacks of the term with this token have returned."""

    token: int


class Released(NamedTuple):
    """The release was sent, or could not be. If it was not executed, the lease runs out."""


class Stop(NamedTuple):
    """End the candidacy."""

    delay: float = 0.0
    """Seconds for which no candidate may lead after the release. The longest that was asked for counts."""


Outcome = Campaigned | Renewed | Unsure | Failed | WaitEnded | Released
"""What became of an action of the candidate at Redis."""
News = Tick | Woken | HolderDied | DeadlineObserved | Resign | Delivered | Stop
"""What comes from elsewhere: other processes, the application, time."""
AnyEvent = Outcome | News
Phase = Literal["following", "pending", "leading", "ending"]


class Term(NamedTuple):
    """One leadership: its token, and the instant up to which the grant is certain."""

    token: int
    deadline: float
    began: float = 0.0
    """Seconds on the server's clock: ``Answer.began`` of the grant."""


class Ended(NamedTuple):
    """The last term, while its loss callbacks run or its release is due."""

    term: Term
    reason: Reason
    owes_release: bool
    """Whether the lease is to be given back."""
    delivered: bool = False
    """Whether the loss callbacks have returned."""


class State(NamedTuple):
    """All that a candidate knows. At most one of ``pending``, ``term`` and ``ended`` is set."""

    term: Term | None = None
    ended: Ended | None = None
    pending: Term | None = None
    """Granted, and not yet confirmed."""
    next_at: float = 0.0
    """When the next request is due."""
    not_before: float = 0.0
    """Until when a candidate that resigned does not campaign, even if it is woken."""
    highest_token: int = 0
    """The highest token ever seen. A server that has forgotten it must still grant a higher one."""
    failures: int = 0
    """Requests that failed in a row."""
    setbacks: int = 0
    """Terms in a row that a gain callback ended by an exception."""
    leader: str = ""
    """The candidacy that was last seen to lead. While this one leads, its own id."""
    watch: ExpiryProof = NOTHING_SEEN
    unrecorded_end: tuple[int, str] = (0, "")
    """Token and reason of the last term, until its end is written to the history."""
    poll_suffices: bool = False
    """Whether another candidate led when Redis was last asked, so that the next request may be a poll."""
    unsure: bool = False
    """Whether the last poll or lean renewal could not tell, so that the next request must be the full one."""
    candidates: int = 0
    """How many there were at the last campaign or poll."""
    blpop_refused: bool = False
    """Whether the last wait at Redis was refused or failed."""
    retry_blpop_at: float = 0.0
    """Until when this candidate does not wait at Redis, because it was refused."""
    dead: tuple[str, int] = ("", 0)
    """Holder and token of the last term whose process was seen to die."""
    stopping: bool = False
    """Whether the candidacy ends as soon as the last term is over and done with."""
    delay: float = 0.0
    """Seconds for which a release keeps any candidate from leading (``Stop``)."""
    leave_at: float = 0.0
    """When a candidate that stops leaves."""

    @property
    def phase(self) -> Phase:
        """Where the candidate stands: see the table at the top."""
        if self.term:
            return "leading"
        return "pending" if self.pending else "ending" if self.ended else "following"


class Plan(NamedTuple):
    """What to do next. A ``wait`` lasts until ``until``, and any event ends it early."""

    act: Literal["campaign", "poll", "confirm", "renew", "release", "leave", "wait"]
    until: float = math.inf
    listen: bool = False
    """Whether to wait at Redis, where other processes can wake this one, and not only on the local waker."""


def step(state: State, event: AnyEvent, now: float, timing: Timing) -> State:
    """Return the state after ``event`` at ``now``. Pure."""
    known = state.ended  # an end that this very step finds cannot have been delivered or released before
    state = _expire(state, now)
    match event:
        case Campaigned(asked_at, answer, jitter, dead):
            state = _campaigned(state, asked_at, answer, jitter, now, timing)
            return _woken(state._replace(leader=""), dead, now) if dead else state
        case Renewed(asked_at, answer):
            return _renewed(state, asked_at, answer, now, timing)
        case Failed(jitter):
            return _failed(state, jitter, now, timing)
        case Unsure():
            return state._replace(unsure=True)
        case WaitEnded(refused):
            retry_at = now + timing.retry if refused else state.retry_blpop_at
            return state._replace(blpop_refused=refused, retry_blpop_at=retry_at)
        case Woken() | HolderDied():
            return _woken(state, state.dead if isinstance(event, Woken) else (event.holder, event.token), now)
        case DeadlineObserved(token) if state.term and state.term.token == token:
            return _end(state, "expired", owes_release=False, next_at=now)
        case Resign(token, reason) if state.term and state.term.token == token:
            return _resign(state, reason, now, timing)
        case Delivered(token) if known and state.ended and state.ended.term.token == token:
            ended = state.ended._replace(delivered=True)
            return state._replace(ended=ended if ended.owes_release else None)
        case Released() if known:
            # A release with a delay wakes no follower, so none has to be woken once more.
            return state._replace(ended=None, leave_at=state.leave_at if state.delay else now + SECOND_WAKE_UP)
        case Stop(delay):
            return _stop(state._replace(stopping=True, delay=max(state.delay, delay)), now)
    return state


def preconditions(state: State, asked_at: float, timing: Timing) -> Preconditions:
    """Return what a request that leaves at ``asked_at`` says beside its purpose. Pure."""
    releasing = state.ended.term if state.ended and state.ended.owes_release else None
    if term := state.term or state.pending or releasing:
        # The earliest that the server's clock can show at the deadline, after which another candidate may lead.
        not_after = state.watch.server_time(term.deadline, upper=False)
        seen = state.highest_token, "", state.watch.version
        return Preconditions(*seen, not_after=not_after, began=term.began)
    return Preconditions(
        state.highest_token,
        expired_version=state.watch.expired_version(asked_at),
        # The latest that it can show when the candidate has given up waiting for the reply.
        not_after=state.watch.server_time(asked_at + timing.operation + timing.margin, upper=True),
        unrecorded_end=state.unrecorded_end,
        dead=state.dead,
        reckoned=state.watch.reckoned(asked_at),
    )


def inherited(state: State) -> State:
    """Return what the next candidacy of the same process begins with. Pure.

    It does not campaign before the loss callbacks of the last term have returned. The last candidacy gives the lease of
    that term back itself.
    """
    ended = state.ended
    undelivered = ended._replace(owes_release=False) if ended and not ended.delivered else None
    return State(
        highest_token=state.highest_token, ended=undelivered, watch=state.watch, unrecorded_end=state.unrecorded_end
    )


def decided(event: AnyEvent, after: State) -> bool:
    """Return whether ``event`` ended an attempt to lead. An attempt that must watch or confirm goes on. Pure."""
    if after.term is not None or isinstance(event, Failed):
        return True
    if not isinstance(event, Campaigned) or event.dead or after.watch.expired_version(event.asked_at):
        return False
    answer = event.answer
    # If more is left of a state than its whole duration, the server's clock was set back, so its answer does not count.
    held = answer.verdict == "held" and answer.remaining <= answer.duration
    # A delayed release that goes on by the proof ends the attempt, even if the server's clock says that it is over.
    return held or answer.verdict == "foreign" or answer.held_since is not None


def plan(state: State, now: float) -> Plan:
    """Return what a candidate in ``state`` does at ``now``. Pure."""
    state = _expire(state, now)
    if state.ended:
        if state.ended.delivered:
            return Plan("release")
        if state.ended.owes_release:
            return Plan("wait", state.ended.term.deadline)
    if state.stopping:
        return Plan("leave") if now >= state.leave_at else Plan("wait", state.leave_at)
    if state.ended:
        return Plan("wait")
    if now >= state.next_at:
        if state.term or state.pending:
            return Plan("renew" if state.term else "confirm")
        polls = state.poll_suffices and not state.unsure and not state.watch.expired_version(now)
        return Plan("poll" if polls else "campaign")
    if state.term:
        return Plan("wait", min(state.next_at, state.term.deadline))
    return Plan("wait", state.next_at, listen=not state.failures and now >= state.retry_blpop_at)


def _woken(state: State, dead: tuple[str, int], now: float) -> State:
    if state.term or state.pending:
        return state
    return state._replace(dead=dead, next_at=max(now, state.not_before), poll_suffices=False)


def _failed(state: State, jitter: float, now: float, timing: Timing) -> State:
    term = state.term or state.pending  # retry often enough for some more tries before it ends
    longest = min(timing.retry, max(FIRST_BACKOFF, (term.deadline - now) / 4)) if term else timing.retry
    wait = min(longest, FIRST_BACKOFF * 2 ** min(state.failures, 20)) * (0.5 + jitter / 2)
    later = max(now + wait, state.not_before)
    return state._replace(failures=state.failures + 1, next_at=later, poll_suffices=False)


def _expire(state: State, now: float) -> State:
    if state.term and now >= state.term.deadline:
        return _end(state, "expired", owes_release=False, next_at=now)
    if state.pending and now >= state.pending.deadline:
        return state._replace(pending=None)
    if state.ended and state.ended.owes_release and not state.ended.delivered and now >= state.ended.term.deadline:
        # The loss callbacks still run at the deadline. The lease runs out by itself, so it is not given back.
        ended = state.ended._replace(owes_release=False)
        return state._replace(ended=ended, unrecorded_end=(ended.term.token, ended.reason))
    return state


def _end(state: State, reason: Reason, *, owes_release: bool, next_at: float) -> State:
    assert state.term
    # A release writes the end to the history. Otherwise the next campaign does.
    unrecorded_end = state.unrecorded_end if owes_release else (state.term.token, reason)
    ended = Ended(state.term, reason, owes_release)
    return state._replace(term=None, ended=ended, unrecorded_end=unrecorded_end, next_at=next_at, leader="")


def _unannounced(term: Term) -> Ended:
    """Return the end of a grant of which the application was not told, and which is given back."""
    return Ended(term, "resigned", owes_release=True, delivered=True)


def _stop(state: State, now: float) -> State:
    if state.pending:
        return state._replace(pending=None, ended=_unannounced(state.pending))
    return _end(state, "resigned", owes_release=True, next_at=now) if state.term else state


def _resign(state: State, reason: Reason, now: float, timing: Timing) -> State:
    # A candidate that resigns does not campaign for a while, so that another can take over. The time is one retry
    # interval. It doubles with each further term in a row that a failed gain callback ended, up to 32 intervals.
    setbacks = state.setbacks + 1 if reason == "callback-failed" else 0
    until = now + timing.retry * 2 ** min(max(setbacks - 1, 0), 5)
    return _end(state._replace(setbacks=setbacks, not_before=until), reason, owes_release=True, next_at=until)


def _observe(state: State, asked_at: float, answer: Answer, now: float, pause: float) -> State:
    watch = state.watch.observe(asked_at, answer, now, pause)
    return state._replace(watch=watch, failures=0, unsure=False, highest_token=max(state.highest_token, answer.token))


def _leader_in(answer: Answer) -> str:
    """Return the holder while its lease counts by the server's clock; '' in a hold, or when the lease has ended."""
    return answer.holder if answer.remaining > 0 and not answer.version.startswith(DELAY) else ""


def _gap(state: State, timing: Timing) -> float:
    """Return the seconds from the last poll to this one, as they were planned."""
    observation = state.watch.observation
    return (
        max(timing.retry, state.next_at - observation.asked_at) if state.poll_suffices and observation else timing.retry
    )


def _campaigned(state: State, asked_at: float, answer: Answer, jitter: float, now: float, timing: Timing) -> State:
    gap = _gap(state, timing)
    state = _observe(state, asked_at, answer, now, gap + timing.operation)._replace(
        unrecorded_end=(0, ""), poll_suffices=False, candidates=answer.candidates
    )
    if state.term or state.ended or state.pending:
        return state
    if answer.verdict != "granted":
        # No proof applies here. A lock of another program runs out or is renewed. After 'late', of which nothing
        # remains, the next request is due at once.
        expires_at = now + answer.remaining if answer.verdict in ("foreign", "late") else state.watch.expires_at
        scatter = jitter * min(MAX_JITTER, JITTER_PER_CANDIDATE * answer.candidates)
        pause = pace.pause(answer, state.watch, gap, jitter, timing)
        next_at = min(asked_at + pause, max(expires_at, now) + EXPIRY_ROUNDING + scatter)
        return state._replace(leader=_leader_in(answer), next_at=next_at, poll_suffices=answer.verdict == "held")
    term = Term(answer.token, asked_at + timing.ttl - timing.margin, answer.began)
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
    if answer.verdict == "late":  # the clock of the server was set, or the request was slow; the answer has its time
        return state._replace(next_at=now)
    if answer.verdict == "renewed":
        if answer.token != term.token:
            return state
        deadline = max(term.deadline, asked_at + timing.ttl - timing.margin)
        lasts = state._replace(term=term._replace(deadline=deadline), next_at=asked_at + timing.heartbeat)
        return lasts._replace(pending=None, leader=answer.holder) if state.pending else lasts._replace(setbacks=0)
    if state.pending:
        return state._replace(pending=None, next_at=now)
    taken = answer.holder not in ("", state.leader)
    reason: Reason = "taken" if taken else "quarantined" if answer.verdict == "quarantined" else "data-lost"
    lost = _end(state, reason, owes_release=False, next_at=now + (timing.retry if taken else 0))
    return lost._replace(leader=_leader_in(answer))
