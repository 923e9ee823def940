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
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from .channel import SERVER_TIMER, Channel, Connect, Waker
from .config import Config, Timing, inbox
from .exceptions import RedisUnavailable
from .records import Answer, Claim, ElectionStatus, Event, LeaderInfo, instance_of

_requests = itertools.count(1)


class Script(NamedTuple):
    """A Lua script and the digest by which Redis knows it."""

    source: str
    sha: str


STATE_SCRIPTS = ("campaign", "renew", "release")
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


class Lease:
    """Speaks to Redis about one election, on one connection, for one thread."""

    def __init__(self, connect: Connect, config: Config, waker: Waker | None = None) -> None:
        self._timing, self._keys = config.timing, config.keys
        self._flags = FLAGS
        self.channel = Channel(connect, self._timing.operation, waker)

    def campaign(self, me: str, claim: Claim, info: LeaderInfo) -> Answer:
        """One attempt to lead. One round trip, two with ``MIN_REPLICAS``. Raises ``RedisUnavailable``."""
        return self._step("campaign", campaign_arguments(self._timing, me, claim, info))

    def renew(self, me: str, token: int, info: LeaderInfo, *, confirm: bool = False) -> Answer:
        """The heartbeat of the term ``token``, or the confirmation of its grant. Cost and errors as above."""
        return self._step("renew", renew_arguments(self._timing, me, token, info, confirm=confirm))

    def release(self, me: str, token: int, reason: str, *, floor: int = 0, leave: bool, hold: float = 0) -> bool:
        """Gives the term ``token`` back, and with ``leave`` takes part no longer. One round trip.

        ``hold``: seconds for which nobody may lead yet. Gives whether there was a lease of ours to give back.
        Raises ``RedisUnavailable``.
        """
        arguments = release_arguments(self._timing, me, token, reason, floor=max(floor, token), leave=leave, hold=hold)
        return bool(self._run("release", self._keys, *arguments)[1] == b"released")

    def status(self) -> ElectionStatus:
        """Who leads. One round trip. Raises ``RedisUnavailable``."""
        _, holder, left, info, token, candidates, kind = self._run("status", self._keys)
        leader = LeaderInfo.from_json(_decode(info), instance_of(_decode(holder))) if holder else None
        token = int(token) if token.isdigit() else 0
        return ElectionStatus(leader, left / 1000, token, candidates, kind == b"quarantine" and left > 0)

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
        return message if isinstance(message, dict) else {}

    def _step(self, name: str, arguments: tuple[Any, ...]) -> Answer:
        answer = parse(self._run(name, self._keys, *arguments))
        if self._timing.replicas and answer.verdict in ("granted", "renewed"):
            # The server's timer may be late: what it has not said by then would end the connection.
            patience = max(1, math.floor((self._timing.operation - SERVER_TIMER) * 1000))
            have = self.channel.call("WAIT", self._timing.replicas, patience)
            if have < self._timing.replicas:
                raise RedisUnavailable(f"{have} of {self._timing.replicas} replicas (MIN_REPLICAS) have confirmed it")
        return answer

    def _run(self, name: str, keys: tuple[str, ...], *args: Any) -> Any:
        echo = str(next(_requests)).encode()
        flags = self._flags if name in STATE_SCRIPTS else ""
        try:
            reply = self._evaluate(script(name, flags), len(keys), *keys, echo, *args)
        except RedisUnavailable as error:
            if not flags or NOT_UNDERSTOOD not in str(error):
                raise
            self._flags = ""
            reply = self._evaluate(script(name), len(keys), *keys, echo, *args)
        if not isinstance(reply, list) or not reply or reply[0] != echo:
            self.channel.drop()
            raise RedisUnavailable(f"the reply to {name} does not belong to its request")
        return reply

    def _evaluate(self, code: Script, *tail: Any) -> Any:
        try:
            return self.channel.call("EVALSHA", code.sha, *tail)
        except NoScriptError:
            # Redis has not executed anything: it asks for the source.
            return self.channel.call("EVAL", code.source, *tail)


def campaign_arguments(timing: Timing, me: str, claim: Claim, info: LeaderInfo) -> tuple[Any, ...]:
    """What the script takes behind the echo. Local."""
    latest, (token, reason) = math.floor(claim.latest * 1000), claim.lost
    return (*_who(timing, me, claim.floor), *_what(timing, info), claim.version, latest, token, reason)


def renew_arguments(timing: Timing, me: str, token: int, info: LeaderInfo, *, confirm: bool) -> tuple[Any, ...]:
    """What the script takes behind the echo. Local."""
    return (*_who(timing, me, token), *_what(timing, info), int(confirm))


def release_arguments(
    timing: Timing, me: str, token: int, reason: str, *, floor: int, leave: bool, hold: float
) -> tuple[Any, ...]:
    """What the script takes behind the echo. Local."""
    return (*_who(timing, me, floor), token, reason, int(leave), math.ceil(hold * 1000))


def parse(reply: list[Any]) -> Answer:
    """What a script answered to a campaign or a renewal. Local."""
    _, verdict, token, holder, left, candidates, twin, at, version, span = reply
    return Answer(
        _decode(verdict), int(token), _decode(holder), left / 1000, candidates,
        _decode(twin), at / 1000, _decode(version), span / 1000,
    )  # fmt: skip


def _who(timing: Timing, me: str, floor: int) -> tuple[Any, ...]:
    return me, floor, math.ceil(timing.quarantine * 1000), timing.replicas


def _what(timing: Timing, info: LeaderInfo) -> tuple[Any, ...]:
    lifetime = math.ceil((timing.ttl + max(timing.retry, timing.heartbeat)) * 1000)
    described = info.as_dict()
    described.pop("fencing_token")  # the script knows it, and adds it
    return math.floor(timing.ttl * 1000), lifetime, json.dumps(described, ensure_ascii=False)


def _decode(value: bytes) -> str:
    return value.decode("utf-8", "replace")
