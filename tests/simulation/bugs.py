"""Bugs that are planted, to see that the simulation finds them: each a changed part of the protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from django_leader.protocol import machine
from django_leader.protocol.config import Timing, margin_of
from django_leader.protocol.expiry import STATES, ExpiryProof, Observation
from django_leader.protocol.records import Answer
from django_leader.protocol.session import Leave, Send, Session, Wait
from django_leader.protocol.template import Request

from .protocol import Rules, sources

PLAN = machine.plan
LATE = "if tonumber(ARGV[6]) > 0 and now > tonumber(ARGV[6]) then return answer('late', '', 0) end"


def changed(name: str, before: str, after: str, without: str = "") -> dict[str, str]:
    """The scripts with a piece of one replaced; of several, whose names a space separates."""
    scripts = sources()
    for one in name.split():
        assert before in scripts[one], f"{one}.lua has changed: {before}"
        assert without in scripts[one], f"{one}.lua has changed: {without}"
        scripts[one] = scripts[one].replace(before, after).replace(without, "")
    return scripts


def _lua(name: str, before: str, after: str, without: str = "") -> Rules:
    return Rules(scripts=changed(name, before, after, without))


def _counted_from_the_reply(state: machine.State, event: machine.AnyEvent, now: float, timing: Timing) -> machine.State:
    if isinstance(event, machine.Campaigned | machine.Renewed):
        event = event._replace(asked_at=now)
    return machine.step(state, event, now, timing)


def _revived(state: machine.State, event: machine.AnyEvent, now: float, timing: Timing) -> machine.State:
    after = machine.step(state, event, now, timing)
    if (
        isinstance(event, machine.Renewed)
        and event.answer.verdict == "renewed"
        and after.ended
        and after.ended.reason == "expired"
        and after.ended.term.token == event.answer.token
    ):
        term = machine.Term(event.answer.token, event.asked_at + timing.ttl - timing.margin)
        return after._replace(ended=None, term=term, next_at=event.asked_at + timing.heartbeat)
    return after


def _forgets_the_delay(state: machine.State, event: machine.AnyEvent, now: float, timing: Timing) -> machine.State:
    return machine.step(state, event, now, timing)._replace(delay=0.0)


def _released_first(state: machine.State, now: float) -> machine.Plan:
    if state.ended and state.ended.owes_release:
        return machine.Plan("release")
    return PLAN(state, now)


class Unconfirmed(Session):
    """A session that waits for no replicas."""

    def _needs_replicas(self, answer: Answer) -> bool:
        return False


class Credulous(Session):
    """A session that does not ask how many replicas have confirmed a lease."""

    def _confirmed(self, replicas: int) -> None:
        super()._confirmed(self._timing.replicas)


class Trusting(Session):
    """A session that believes that replicas have a lease though their confirmation did not come."""

    def failed(self, request: Request | None, error: BaseException | str = "", **how: bool) -> None:
        event = self._unconfirmed
        super().failed(request, error, **how)
        if event and request and request.template.name == "WAIT":
            self._tell(event)


class CountsFromReply(Session):
    """A session that takes the instant of a request when its reply comes."""

    def reply(self, request: Request, reply: Any, now: float, connection: object) -> None:
        self._asked_at = now
        super().reply(request, reply, now, connection)


class CountsFromWait(Session):
    """A session that takes the instant of a request anew when it has replicas confirm the lease."""

    def next(self, now: float, connection: object) -> Send | Wait | Leave:
        todo = super().next(now, connection)
        if self._unconfirmed:
            self._unconfirmed = self._unconfirmed._replace(asked_at=now)
        return todo


class Sure(Session):
    """A session that takes a lean renewal of which the script was unsure for one that was made."""

    def _answered(self, name: str, answer: Answer | None) -> None:
        state = self._shared.state
        if name == "renew" and answer is None and state.term and (seen := state.watch.observation):
            ttl = self._timing.ttl
            token, version = state.term.token, state.watch.version
            answer = Answer("renewed", token, state.leader, ttl, 0, "", seen.server, version, ttl)
        super()._answered(name, answer)


class ForgetfulProof(NamedTuple):
    """A ``ExpiryProof`` that asks each poll anew whether the clock looks right, and forgets that it once did not."""

    observation: Observation | None = None
    version: str = ""
    expires_at: float = float("inf")
    steady: bool = False
    before: Observation | None = None

    def observe(self, asked_at: float, answer: Answer, now: float, pause: float) -> ForgetfulProof:
        seen = ExpiryProof.observe(ExpiryProof(*self[:4]), asked_at, answer, now, pause)
        assert seen.observation
        if answer.version == self.version:
            before, expires_at = self.before, self.expires_at
        else:
            before = self.observation if self.observation and now - self.observation.asked_at <= pause else None
            expires_at = now + answer.duration
        slack, set_at = margin_of(answer.duration) / 2, answer.at + answer.remaining - answer.duration
        steady = (
            before is not None
            and answer.verdict in STATES
            and set_at >= before.server
            and seen.observation.offset_max - before.offset_min <= slack
            and before.offset_max - seen.observation.offset_min <= slack
        )
        if steady and before:
            expires_at = min(expires_at, max(now + answer.remaining, before.asked_at + answer.duration))
        return ForgetfulProof(seen.observation, seen.version, expires_at, self.steady or steady, before)

    def expired_version(self, at: float) -> str:
        return ExpiryProof(*self[:4]).expired_version(at)

    def server_time(self, at: float, *, upper: bool) -> float:
        return ExpiryProof(*self[:4]).server_time(at, upper=upper)

    def reckoned(self, at: float) -> float:
        return ExpiryProof(*self[:4]).reckoned(at)


def forgetful(state: machine.State) -> machine.State:
    """The same, with such a watch."""
    watch: Any = state.watch if isinstance(state.watch, ForgetfulProof) else ForgetfulProof(*state.watch[:4])
    return state._replace(watch=watch)


def _forgets(state: machine.State, event: machine.AnyEvent, now: float, timing: Timing) -> machine.State:
    return machine.step(forgetful(state), event, now, timing)


DEAD = "local dead = kind == 'lease' and ARGV[14] == holder and ARGV[15] == int(token)"
CLAIMED = "local claimed = ARGV[11] == version()"
HELD = "if not (claimed or dead or own or kind == 'free') then"
TOKEN = "token = math.max(token + 1, clock)"

BUGS: dict[str, tuple[Callable[[], Rules], tuple[str, ...]]] = {
    # What is wrong, and the faults that show it.
    "the deadline is counted from the reply": (
        lambda: Rules(step=_counted_from_the_reply),
        ("link-slow", "link-cut"),
    ),
    "no quarantine": (
        lambda: Rules(config=lambda config: replace(config, quarantine=0.0)),
        ("flush", "restart-empty", "link-cut"),
    ),
    "the token is a counter in Redis": (
        lambda: _lua("campaign", TOKEN, "token = token + 1"),
        ("restart-empty", "flush", "crash"),
    ),
    "the token is only the time": (
        lambda: _lua("campaign", TOKEN, "token = clock"),
        ("clock-back", "crash"),
    ),
    "a release compares nothing": (
        lambda: _lua("release", "holder == candidate_id and token == tonumber(ARGV[7])", "tonumber(ARGV[7]) > 0", LATE),
        ("resign", "link-late"),
    ),
    "the release comes before the work has ended": (lambda: Rules(plan=_released_first), ("resign",)),
    "who finds itself in the lock believes that it leads": (
        lambda: _lua("campaign", HELD, f"if own then return answer('granted', candidate_id, until_ - now) end\n{HELD}"),
        ("link-mute", "link-lossy"),
    ),
    "a fork goes on with what its parent knew": (lambda: Rules(fork_guard=False), ("fork",)),
    "a late renewal revives a term": (lambda: Rules(step=_revived), ("pause", "link-slow")),
    "the server's clock is trusted blindly": (
        lambda: _lua("campaign", CLAIMED, "local claimed = until_ <= now"),
        ("clock-forth", "crash"),
    ),
    "what was proved of another version is claimed": (
        lambda: _lua("campaign", CLAIMED, "local claimed = ARGV[11] ~= ''"),
        ("link-slow", "link-cut", "pause"),
    ),
    "another server's state is trusted": (
        lambda: _lua("campaign", "elseif server_id ~= '' and server_id ~= found[7] then lost = 'another server'", ""),
        ("restart-old", "failover", "link-cut"),
    ),
    "a lock that is gone is free": (
        lambda: _lua("campaign", CLAIMED, f"{CLAIMED} or not lock"),
        ("lose-lock",),
    ),
    "replicas are not waited for": (lambda: Rules(session=Unconfirmed), ("split", "link-cut")),
    "it does not matter how many replicas have confirmed a lease": (
        lambda: Rules(session=Credulous),
        ("split", "link-cut", "lag"),
    ),
    "a lease counts though its confirmation did not come": (
        lambda: Rules(session=Trusting),
        ("split", "link-slow"),
    ),
    "the instant of a request is that of its reply": (
        lambda: Rules(session=CountsFromReply),
        ("link-slow", "link-cut"),
    ),
    "the instant of a request is that of its confirmation": (
        lambda: Rules(session=CountsFromWait),
        ("link-slow", "link-cut", "lag"),
    ),
    "a renewal that was unsure counts": (lambda: Rules(session=Sure), ("flush", "link-lossy", "lose-lock")),
    "whoever has seen a leader die claims any lease": (
        lambda: _lua("campaign", DEAD, "local dead = kind == 'lease' and ARGV[14] ~= ''"),
        ("crash-leader", "link-cut"),
    ),
    "a death says something in a quarantine": (
        lambda: _lua("campaign", DEAD, DEAD.replace("kind == 'lease'", "(kind == 'lease' or kind == 'quarantine')")),
        ("last-words", "restart-old"),
    ),
    "a death says something right after a reclaim": (
        lambda: _lua("campaign", DEAD, DEAD.replace("kind == 'lease'", "led")),
        ("last-words",),
    ),
    "a process that stands still is taken for dead": (
        lambda: Rules(dead=lambda process: process.dead or process.frozen),
        ("pause",),
    ),
    "a pid is taken for a process": (
        lambda: Rules(identity=lambda process: f"{process.host} {process.pid}"),
        ("crash-leader",),
    ),
    "a replica that joins is not noticed": (
        lambda: _lua("campaign reclaim release", "elseif joined then", "elseif false then"),
        ("split", "link-cut"),
    ),
    "a join is told by counters alone": (
        lambda: _lua("campaign reclaim release", "joined or known[address] < 0", "false"),
        ("split", "rejoin", "resetstat"),
    ),
    "a hold ends by the server's clock": (
        lambda: _lua(
            "campaign", HELD, HELD.replace("kind == 'free'", "kind == 'free' or kind == 'delay' and now >= until_")
        ),
        ("stop", "clock-forth"),
    ),
    "the delay of a release is forgotten": (lambda: Rules(step=_forgets_the_delay), ("stop",)),
    "that a clock was seen to be wrong is forgotten": (
        lambda: Rules(step=_forgets),
        ("clock-back", "cut-leader"),
    ),
    "a process that does not exist here is taken for dead": (lambda: Rules(seen=False), ("crash-leader",)),
}
