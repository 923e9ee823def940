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

from . import clock, packed
from .channel import SERVER_TIMER, Channel, Connect, Waker, duration
from .config import Config, Timing, inbox, lifetime
from .exceptions import RedisUnavailable
from .packed import Packed
from .records import NO_CLAIM, Answer, Claim, ElectionStatus, Event, LeaderInfo, instance_of, utc_now

_requests = itertools.count(10**11)  # so that each has as many digits as the next


class Script(NamedTuple):
    """A Lua script and the digest by which Redis knows it."""

    source: str
    sha: str


STATE_SCRIPTS = ("campaign", "reclaim", "release")
MAY_WRITE = (*STATE_SCRIPTS, "renew", "look")
FLAGS = "#!lua flags=allow-oom\n"
NOT_UNDERSTOOD = "near '#'"
"""What every server that does not know ``FLAGS`` says of them."""
MOST_MESSAGES = 100
"""How many messages are collected at a time: more than anybody sends within a heartbeat."""


@cache
def script(name: str, flags: str = "") -> Script:
    """The script ``lua/<name>.lua``, behind the common beginning if it has one."""
    folder = Path(__file__).parent / "lua"
    names = ("state", name) if name in STATE_SCRIPTS else (name,)
    source = flags + "".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in names)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


class Lease:
    """Speaks to Redis about one election, on one connection, for one thread."""

    def __init__(self, connect: Connect, config: Config, waker: Waker | None = None, process: str = "") -> None:
        self._timing, self._keys, self._process = config.timing, config.keys, process
        self._flags = FLAGS
        self._beat: tuple[int, Packed] | None = None
        self._look: tuple[str, Packed] | None = None
        self._wait: tuple[tuple[str, bool], Packed] | None = None
        self.channel = Channel(connect, self._timing.operation, waker)

    def campaign(self, me: str, claim: Claim, info: LeaderInfo) -> Answer:
        """One attempt to lead, which publishes ``info`` with the time of now.

        One round trip, two with ``MIN_REPLICAS``. Raises ``RedisUnavailable``.
        """
        return self._step("campaign", campaign_arguments(self._timing, me, claim, info, self._process))

    def look(self, me: str, claim: Claim, info: LeaderInfo, until: float | None = None) -> Answer:
        """One look of a follower at a lease that another one holds. Errors as above.

        One round trip, in which a wait until the instant ``until`` can begin: see ``wait``. It becomes a campaign, for
        a round trip more, when the state in Redis is not plainly such a lease.
        """
        answer = self._glance(me, until) if self.channel.connected else None
        return answer if answer and answer.token >= claim.floor else self.campaign(me, claim, info)

    def renew(self, me: str, token: int, info: LeaderInfo, *, latest: float = 0.0, confirm: bool = False) -> Answer:
        """The heartbeat of the term ``token``, or the confirmation of its grant. Cost and errors as above.

        It costs one round trip more when the state in Redis is not plainly the leader's own. ``latest``: seconds on
        the server's clock after which that state must not be changed any more; 0 when that is not known.
        """
        if self.channel.connected and not confirm and (answer := self._renew(me, token, info)):
            if self._timing.replicas:
                self._confirmed()
            return answer
        arguments = reclaim_arguments(self._timing, me, token, info, latest, self._process, confirm=confirm)
        return self._step("reclaim", arguments)

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

    def collect(self, me: str) -> list[dict[str, Any]]:
        """The messages to ``me`` that are waiting. One round trip. Raises ``RedisUnavailable``."""
        return [_message(text) for text in self.channel.call("LPOP", inbox(self._keys, me), MOST_MESSAGES) or ()]

    def wait(self, me: str, *, wake: bool, until: float) -> dict[str, Any] | None:
        """Waits for a message to ``me``, and with ``wake`` for a wake-up, until the instant ``until``.

        Gives the message, ``{"wake": place}`` for a wake-up, or None when the wait ended otherwise. A wait that began
        with a look goes on. Raises ``RedisUnavailable``.
        """
        element = self.channel.wait(self._waiting(me, wake=wake), until)
        if element is None:
            return None
        key, value = element
        return {"wake": int(value == b"1")} if key.decode() == self._keys.wake else _message(value)

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

    def _renew(self, me: str, token: int, info: LeaderInfo) -> Answer | None:
        """The lean renewal; None when it was unsure."""
        if self._beat is None or self._beat[0] != token:
            sha = script("renew", self._flags).sha
            self._beat = token, packed.heartbeat(self.channel.pack, sha, self._keys, me, token, self._timing, info)
        echo, at = b"%d" % next(_requests), utc_now().isoformat(timespec="microseconds").encode()
        reply = self._send("renew", self._beat[1], echo, at)
        parts = reply.split(b" ") if isinstance(reply, bytes) else []
        if len(parts) != 5 or parts[0] != echo:
            raise self._not_ours("renew")
        _, verdict, now, version, mail = parts
        if verdict != b"renewed":
            return None
        ttl, at_server = math.floor(self._timing.ttl * 1000) / 1000, int(now) / 1000
        return Answer("renewed", token, me, ttl, 0, "", at_server, version.decode(), ttl, mail=mail == b"1")

    def _glance(self, me: str, until: float | None) -> Answer | None:
        """The lean look; None when it was unsure."""
        if self._look is None or self._look[0] != me:
            sha = script("look", self._flags).sha
            self._look = me, packed.look(self.channel.pack, sha, self._keys, me, self._timing)
        echo, waiting = b"%d" % next(_requests), b""
        if until is not None:
            waiting = self._waiting(me, wake=True).filled(duration(until - clock.now()))
        reply = self._send("look", self._look[1], echo, more=waiting, until=until)
        if not isinstance(reply, bytes) or not reply.startswith(echo + b"\n"):
            raise self._not_ours("look")
        return None if reply.endswith(b"\nunsure") else parse(reply)

    def _waiting(self, me: str, *, wake: bool) -> Packed:
        if self._wait is None or self._wait[0] != (me, wake):
            keys = [inbox(self._keys, me), self._keys.wake][: 1 + wake]
            self._wait = (me, wake), packed.wait(self.channel.pack, keys)
        return self._wait[1]

    def _send(self, name: str, request: Packed, *values: bytes, more: bytes = b"", until: float | None = None) -> Any:
        try:
            return self.channel.call_packed(request.filled(*values) + more, until=until)
        except NoScriptError:
            # Redis has not executed anything: it asks for the source.
            return self.channel.call("EVAL", script(name, self._flags).source, *request.words_filled(*values))

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
            self._flags, self._beat, self._look = "", None, None
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


def campaign_arguments(timing: Timing, me: str, claim: Claim, info: LeaderInfo, process: str = "") -> tuple[Any, ...]:
    """What the script takes behind the echo. Local."""
    who, what = _who(timing, me, claim.floor, claim.latest), _what(timing, info)
    return (*who, *what, process, claim.version, *claim.lost, *claim.dead)


def reclaim_arguments(
    timing: Timing, me: str, token: int, info: LeaderInfo, latest: float, process: str = "", *, confirm: bool
) -> tuple[Any, ...]:
    """What the script takes behind the echo. Local."""
    return (*_who(timing, me, token, latest), *_what(timing, info), process, int(confirm))


def release_arguments(
    timing: Timing, me: str, token: int, reason: str, claim: Claim, *, leave: bool, hold: float
) -> tuple[Any, ...]:
    """What the script takes behind the echo. Local."""
    return (*_who(timing, me, max(claim.floor, token), claim.latest), token, reason, int(leave), math.ceil(hold * 1000))


def parse(reply: bytes) -> Answer:
    """What a script answered to a campaign or a renewal. Local."""
    _, verdict, token, left, candidates, at, version, span, twin, process, holder = _decode(reply).split("\n", 10)
    seconds, server, lasts = int(left) / 1000, int(at) / 1000, int(span) / 1000
    return Answer(verdict, int(token), holder, seconds, int(candidates), twin, server, version, lasts, process)


def _who(timing: Timing, me: str, floor: int, latest: float) -> tuple[Any, ...]:
    return me, floor, math.ceil(timing.quarantine * 1000), timing.replicas, math.floor(latest * 1000)


def _what(timing: Timing, info: LeaderInfo) -> tuple[Any, ...]:
    described = replace(info, last_heartbeat=utc_now()).as_dict()
    described.pop("fencing_token")  # the script knows it, and adds it
    return math.floor(timing.ttl * 1000), lifetime(timing), json.dumps(described, ensure_ascii=False)


def _message(text: bytes) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except ValueError:
        message = None
    # Only the list of wake-ups says who is woken; an inbox that does is garbage.
    return {name: value for name, value in message.items() if name != "wake"} if isinstance(message, dict) else {}


def _decode(value: bytes) -> str:
    return value.decode("utf-8", "replace")
