"""The election's operations at Redis: one method, one script, one round trip.

NOT guaranteed here: that an operation which raised was not executed. ``RedisUnavailable`` means that its outcome is
unknown, and the connection is closed by then. What the scripts guarantee stands at the top of each.

- Every reply repeats a number that its request carried. A reply to anything else is an error, not an answer.
- With ``MIN_REPLICAS``, a grant or a renewal that fewer replicas have is an error, too.
- The scripts say to Redis 7 that they may run when its memory is full: they rewrite a few keys of bounded size, and
  may well free some. Redis 6.2 does not know how to be told so.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from .channel import SERVER_TIMER, Channel, Connect, Waker
from .config import Config, Timing, inbox
from .exceptions import RedisUnavailable
from .records import NO_CLAIM, Answer, Claim, ElectionStatus, Event, LeaderInfo, instance_of, utc_now

_requests = itertools.count(10**11)  # so that each has as many digits as the next


class Script(NamedTuple):
    """A Lua script and the digest by which Redis knows it."""

    source: str
    sha: str


STATE_SCRIPTS = ("campaign", "reclaim", "release")
MAY_WRITE = (*STATE_SCRIPTS, "renew")
FLAGS = "#!lua flags=allow-oom\n"
NOT_UNDERSTOOD = "near '#'"
"""What every server that does not know ``FLAGS`` says of them."""


@cache
def script(name: str, flags: str = "") -> Script:
    """The script ``lua/<name>.lua``, behind the common beginning if it has one."""
    folder = Path(__file__).parent / "lua"
    names = ("state", name) if name in STATE_SCRIPTS else (name,)
    source = flags + "".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in names)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


ECHO, TIME = b"\0" * 12, b"\1" * 32
"""What stands in a prepared heartbeat for the number of the request and the time, which always have that length."""


class Beat(NamedTuple):
    """The heartbeats of one term. They are what an election does all day, so they are packed once."""

    token: int = 0
    start: bytes = b""
    """Up to the number of the request, ``middle`` up to the time, ``end`` from there on."""
    middle: bytes = b""
    end: bytes = b""
    span: float = 0.0
    """Seconds that a renewal lasts."""
    source: bytes = b""
    arguments: tuple[bytes, ...] = ()
    """Both for a server that does not know the script."""


class Lease:
    """Speaks to Redis about one election, on one connection, for one thread."""

    def __init__(self, connect: Connect, config: Config, waker: Waker | None = None) -> None:
        self._timing, self._keys = config.timing, config.keys
        self._flags, self._prepared = FLAGS, Beat()
        self.channel = Channel(connect, self._timing.operation, waker)

    def campaign(self, me: str, claim: Claim, info: LeaderInfo) -> Answer:
        """One attempt to lead, which publishes ``info`` with the time of now.

        One round trip, two with ``MIN_REPLICAS``. Raises ``RedisUnavailable``.
        """
        return self._step("campaign", campaign_arguments(self._timing, me, claim, info))

    def renew(self, me: str, token: int, info: LeaderInfo, *, latest: float = 0.0, confirm: bool = False) -> Answer:
        """The heartbeat of the term ``token``, or the confirmation of its grant. Cost and errors as above.

        It costs one round trip more when the state in Redis is not plainly the leader's own. ``latest``: seconds on
        the server's clock after which that state must not be changed any more; 0 when that is not known.
        """
        if self.channel.connected and not confirm and (answer := self._beat(me, token, info)):
            if self._timing.replicas:
                self._confirmed()
            return answer
        return self._step("reclaim", reclaim_arguments(self._timing, me, token, info, latest, confirm=confirm))

    def release(
        self, me: str, token: int, reason: str, claim: Claim = NO_CLAIM, *, leave: bool, hold: float = 0
    ) -> bool:
        """Gives the term ``token`` back, and with ``leave`` takes part no longer. One round trip.

        Of ``claim`` count the floor and the latest. ``hold``: seconds for which nobody may lead yet. Gives whether
        there was a lease of ours to give back. Raises ``RedisUnavailable``.
        """
        arguments = release_arguments(self._timing, me, token, reason, claim, leave=leave, hold=hold)
        return bool(self._run("release", self._keys, *arguments).endswith(b"released"))

    def status(self) -> ElectionStatus:
        """Who leads. One round trip. Raises ``RedisUnavailable``."""
        _, holder, left, info, token, candidates, kind = self._run("status", self._keys)
        leader = LeaderInfo.from_json(_decode(info), instance_of(_decode(holder))) if holder else None
        token = int(token) if token.isdigit() else 0
        return ElectionStatus(leader, left / 1000, token, candidates, kind == b"quarantine" and not leader and left > 0)

    def history(self, limit: int) -> list[Event]:
        """The newest ``limit`` changes, the newest first. One round trip. Raises ``RedisUnavailable``."""
        events = []
        for entry, flat in self.channel.call("XREVRANGE", self._keys.events, "+", "-", "COUNT", limit):
            values = dict(zip(map(_decode, flat[::2]), map(_decode, flat[1::2]), strict=False))
            at = datetime.fromtimestamp(int(entry.split(b"-")[0]) / 1000, timezone.utc)
            holder, token = values.get("holder", ""), values.get("token", "")
            number = int(token) if token.isdigit() else 0
            events.append(Event(at, values.get("kind", ""), instance_of(holder), number, values.get("reason", "")))
        return events

    def server(self) -> dict[str, str]:
        """How the server is configured, as far as it says so. Two round trips. Raises ``RedisUnavailable``."""
        sections = (self.channel.call("INFO", section) for section in ("memory", "replication"))
        lines = (line.partition(":") for text in sections for line in _decode(text).splitlines())
        return {name: value for name, _, value in lines}

    def post(self, to: str, message: dict[str, Any]) -> None:
        """Puts a message into the inbox of the candidacy ``to``. One round trip. Raises ``RedisUnavailable``."""
        lifetime = math.ceil(self._timing.ttl * 1000)
        self._run("post", (inbox(self._keys, to),), json.dumps(message), lifetime)

    def wait(self, me: str, *, wake: bool, until: float) -> dict[str, Any] | None:
        """Waits for a message to ``me``, and with ``wake`` for a wake-up, until the instant ``until``.

        Gives the message, ``{"wake": place}`` for a wake-up, or None when the wait ended otherwise. Raises
        ``RedisUnavailable``.
        """
        keys = [inbox(self._keys, me), self._keys.wake][: 1 + wake]
        element = self.channel.wait(keys, until)
        if element is None:
            return None
        key, value = element
        if key.decode() != keys[0]:
            return {"wake": int(value == b"1")}
        try:
            message = json.loads(value)
        except ValueError:
            message = None
        # Only the list of wake-ups says who is woken; an inbox that does is garbage.
        return {name: value for name, value in message.items() if name != "wake"} if isinstance(message, dict) else {}

    def _step(self, name: str, arguments: tuple[Any, ...]) -> Answer:
        answer = parse(self._run(name, self._keys, *arguments))
        if self._timing.replicas and answer.verdict in ("granted", "renewed"):
            self._confirmed()
        return answer

    def _confirmed(self) -> None:
        """Waits until enough replicas have what was just written. Raises ``RedisUnavailable`` when they do not."""
        # The server's timer may be late: what it has not said by then would end the connection.
        patience = max(1, math.floor((self._timing.operation - SERVER_TIMER) * 1000))
        have = self.channel.call("WAIT", self._timing.replicas, patience)
        if have < self._timing.replicas:
            raise RedisUnavailable(f"{have} of {self._timing.replicas} replicas (MIN_REPLICAS) have confirmed it")

    def _beat(self, me: str, token: int, info: LeaderInfo) -> Answer | None:
        """The lean renewal; None when it was unsure."""
        if self._prepared.token != token:
            self._prepared = self._prepare(me, token, info)
        beat = self._prepared
        echo, at = b"%d" % next(_requests), utc_now().isoformat(timespec="microseconds").encode()
        try:
            reply = self.channel.call_packed(beat.start + echo + beat.middle + at + beat.end)
        except NoScriptError:
            filled = (argument.replace(ECHO, echo).replace(TIME, at) for argument in beat.arguments)
            reply = self.channel.call(b"EVAL", beat.source, *filled)
        parts = reply.split(b" ") if isinstance(reply, bytes) else []
        if len(parts) != 4 or parts[0] != echo:
            raise self._not_ours("renew")
        _, verdict, now, version = parts
        if verdict != b"renewed":
            return None
        return Answer("renewed", token, me, beat.span, 0, "", int(now) / 1000, version.decode(), beat.span)

    def _prepare(self, me: str, token: int, info: LeaderInfo) -> Beat:
        code, ttl = script("renew", self._flags), math.floor(self._timing.ttl * 1000)
        text = replace(info, last_heartbeat=None, fencing_token=token).to_json().encode("utf-8", "replace")
        text = text.replace(b'"last_heartbeat": null', b'"last_heartbeat": "%s"' % TIME)
        keys = (key.encode() for key in self._keys[:3])
        arguments = (b"3", *keys, ECHO, me.encode(), b"%d" % token, b"%d" % ttl, text)
        start, rest = self.channel.pack(b"EVALSHA", code.sha, *arguments).split(ECHO)
        middle, end = rest.split(TIME)
        return Beat(token, start, middle, end, ttl / 1000, code.source.encode(), arguments)

    def _not_ours(self, name: str) -> RedisUnavailable:
        self.channel.drop()
        return RedisUnavailable(f"the reply to {name} does not belong to its request")

    def _run(self, name: str, keys: tuple[str, ...], *args: Any) -> Any:
        echo = b"%d" % next(_requests)
        flags = self._flags if name in MAY_WRITE else ""
        try:
            reply = self._evaluate(script(name, flags), len(keys), *keys, echo, *args)
        except RedisUnavailable as error:
            if not flags or NOT_UNDERSTOOD not in str(error):
                raise
            self._flags, self._prepared = "", Beat()
            reply = self._evaluate(script(name), len(keys), *keys, echo, *args)
        try:
            first = reply.partition(b"\n")[0] if isinstance(reply, bytes) else reply[0]
        except (TypeError, IndexError):
            first = None
        if first != echo:
            raise self._not_ours(name)
        return reply

    def _evaluate(self, code: Script, *tail: Any) -> Any:
        try:
            return self.channel.call("EVALSHA", code.sha, *tail)
        except NoScriptError:
            # Redis has not executed anything: it asks for the source.
            return self.channel.call("EVAL", code.source, *tail)


def campaign_arguments(timing: Timing, me: str, claim: Claim, info: LeaderInfo) -> tuple[Any, ...]:
    """What the script takes behind the echo. Local."""
    return (*_who(timing, me, claim.floor, claim.latest), *_what(timing, info), claim.version, *claim.lost)


def reclaim_arguments(
    timing: Timing, me: str, token: int, info: LeaderInfo, latest: float, *, confirm: bool
) -> tuple[Any, ...]:
    """What the script takes behind the echo. Local."""
    return (*_who(timing, me, token, latest), *_what(timing, info), int(confirm))


def release_arguments(
    timing: Timing, me: str, token: int, reason: str, claim: Claim, *, leave: bool, hold: float
) -> tuple[Any, ...]:
    """What the script takes behind the echo. Local."""
    return (*_who(timing, me, max(claim.floor, token), claim.latest), token, reason, int(leave), math.ceil(hold * 1000))


def parse(reply: bytes) -> Answer:
    """What a script answered to a campaign or a renewal. Local."""
    _, verdict, token, left, candidates, at, version, span, twin, holder = _decode(reply).split("\n", 9)
    return Answer(
        verdict, int(token), holder, int(left) / 1000, int(candidates), twin, int(at) / 1000, version, int(span) / 1000
    )


def _who(timing: Timing, me: str, floor: int, latest: float) -> tuple[Any, ...]:
    return me, floor, math.ceil(timing.quarantine * 1000), timing.replicas, math.floor(latest * 1000)


def _what(timing: Timing, info: LeaderInfo) -> tuple[Any, ...]:
    lifetime = math.ceil((timing.ttl + max(timing.retry, timing.heartbeat)) * 1000)
    described = replace(info, last_heartbeat=utc_now()).as_dict()
    described.pop("fencing_token")  # the script knows it, and adds it
    return math.floor(timing.ttl * 1000), lifetime, json.dumps(described, ensure_ascii=False)


def _decode(value: bytes) -> str:
    return value.decode("utf-8", "replace")
